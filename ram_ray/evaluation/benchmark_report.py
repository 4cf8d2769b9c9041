"""The tables of a benchmark as one tree, for JSON, Markdown and HTML: figures, what was left out, and quoted figures.

Of each system on each set: the figures over all classes that it supports, and `common`, over those that every system
supports; the difference of its mAP over the latter from the first system's, with a paired test.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from functools import cache
from importlib import resources

import numpy as np
import yaml

from ram_ray.evaluation.benchmark import SetResult, compare_pair, format_figure
from ram_ray.evaluation.measure_scores import Measuring
from ram_ray.evaluation.measures import FIGURES
from ram_ray.records import Json

FIRST_RATES = ("precision", "recall", "f1")


@cache
def quoted_figures() -> Json:
    """Read the papers' figures.

    Returns:
        The content of `quoted_figures.yaml`.
    """
    return yaml.safe_load((resources.files("ram_ray.evaluation") / "quoted_figures.yaml").read_text(encoding="utf-8"))


def build_tree(results: Sequence[SetResult], measuring: Measuring) -> Json:
    """Build the tree of a benchmark.

    Args:
        results: of the sets.
        measuring: how they were measured.

    Returns:
        `settings` and `sets`: name -> what the set is, `systems` (name -> figures), `skipped` and `quoted`.
    """
    quoted = quoted_figures()
    return {
        "settings": {
            "threshold": str(measuring.tuning),
            "min_positives": measuring.min_positives,
            "replicates": measuring.resampling.replicates,
            "seed": measuring.resampling.seed,
        },
        "quoted_from": quoted["source"],
        "sets": {result.eval_set.name: _set_tree(result, measuring, quoted) for result in results},
    }


def _set_tree(result: SetResult, measuring: Measuring, quoted: Json) -> Json:
    eval_set, common = result.eval_set, result.common_classes
    systems = {}
    first = next(iter(result.measured))
    for name, measured in result.measured.items():
        summary = measured.summary(min_positives=measuring.min_positives)
        shared = measured.summary(min_positives=measuring.min_positives, classes=common)
        difference = None
        if name != first:
            difference = compare_pair(result, first, name, min_positives=measuring.min_positives)["mAP"]
        manifest = measured.manifest
        systems[name] = {
            **summary,
            "common": {key: shared[key] for key in ("num_classes", *FIGURES)},
            "difference_of_mAP": difference,
            "supported": len(manifest.classes),
            "matched_by": dict(Counter(manifest.matched_by)),
            "by_class": dict(zip(manifest.classes, manifest.matched_by, strict=True)),
            "unsupported": manifest.unsupported,
            "notes": manifest.notes,
            "seconds": manifest.seconds,
        }
    return {
        "images": eval_set.images,
        "rejected": eval_set.rejected,
        "classes": len(eval_set.classes),
        "common_classes": len(common),
        "left_out": eval_set.left_out,
        "unknown_labels": eval_set.unknown,
        "skipped": result.skipped,
        "systems": systems,
        "benchmark": quoted["sets"].get(eval_set.name),
        "quoted": [figure for figure in quoted["figures"] if figure["set"] == eval_set.name],
    }


def to_markdown(tree: Json) -> str:
    """Write the tables of a benchmark as Markdown.

    Args:
        tree: as of `build_tree`.

    Returns:
        Markdown.
    """
    settings = tree["settings"]
    lines = [
        "# Benchmark",
        "",
        f"In percent, with intervals of 95% by a bootstrap over images ({settings['replicates']} replicates, seed "
        f"{settings['seed']}). Precision, recall and F1 are means over classes at one threshold a system, chosen on "
        f"the set itself by the rule `{settings['threshold']}`. Lines marked *quoted* are "
        f"those of {tree['quoted_from']}.",
    ]
    for name, part in tree["sets"].items():
        lines += ["", f"## {name}", "", *describe(part), ""]
        lines += ["| system | classes | mAP | mAP, common classes | precision | recall | F1 | mAP against the first |"]
        lines += ["|---|---|---|---|---|---|---|---|"]
        lines += ["| " + " | ".join(cells) + " |" for cells in table_rows(part)]
        notes = [f"- {system}: {note}" for system, row in part["systems"].items() for note in system_notes(row)]
        lines += ["", *notes] if notes else []
        lines += [f"- {system}: not scored, {why}" for system, why in part["skipped"].items()]
    return "\n".join(lines) + "\n"


def describe(part: Json) -> list[str]:
    """Describe a set and what was left out of it.

    Args:
        part: of the tree, of one set.

    Returns:
        Lines of text.
    """
    text = f"{part['images']:,} images, {part['classes']:,} classes, {part['common_classes']:,} of them common."
    if part["benchmark"]:
        text += f" The paper's: {part['benchmark']['images']:,} images, {part['benchmark']['classes']} classes."
    lines = [text]
    if part["left_out"]:
        lines.append("Left out: " + "; ".join(f"{name} ({why})" for name, why in part["left_out"].items()) + ".")
    if part["unknown_labels"]:
        names = ", ".join(list(part["unknown_labels"])[:20])
        lines.append(f"Labels of images that are no class: {len(part['unknown_labels']):,}, such as {names}.")
    return lines


def system_notes(row: Json) -> list[str]:
    """What a reader has to know of a system on a set.

    Args:
        row: of the tree.

    Returns:
        Lines of text.
    """
    counts = ", ".join(f"{count} by {kind}" for kind, count in row["matched_by"].items())
    notes = [f"classes answered: {counts}"]
    if row["unsupported"]:
        notes.append(f"not supported: {', '.join(row['unsupported'])}")
    if row["own"]:
        own = " ".join(f"{name} {format_figure(row['own'][f'macro_{name}'])}" for name in FIRST_RATES)
        notes.append(f"at its own thresholds: {own}")
    return [*notes, *row["notes"]]


def table_rows(part: Json) -> list[list[str]]:
    """Rows of the table of one set.

    Args:
        part: of the tree, of one set.

    Returns:
        Cells of each row, those of the papers last.
    """
    rows = []
    for system, row in part["systems"].items():
        cells = [system, f"{row['num_classes']}/{part['classes']}", format_figure(row["mAP"])]
        cells += [format_figure(row["common"]["mAP"]), *(format_figure(row[f"macro_{name}"]) for name in FIRST_RATES)]
        rows.append([*cells, format_difference(row["difference_of_mAP"])])
    for quoted in part["quoted"]:
        values = [f"{quoted[name]:.1f}" if name in quoted else "–" for name in ("mAP", "precision", "recall")]
        rows.append([f"{quoted['system']} *quoted*", "", values[0], "", values[1], values[2], "", ""])
    return rows


def format_difference(difference: Json | None) -> str:
    """Format a difference of two systems.

    Args:
        difference: as of `comparison.compare_figures`; None: there is none.

    Returns:
        Points, interval and p-value.
    """
    if difference is None or difference["difference"] is None:
        return ""
    low, high = difference["interval"] or (np.nan, np.nan)
    return (
        f"{100 * difference['difference']:+.1f} ({100 * low:+.1f} to {100 * high:+.1f}), p {difference['p_value']:.2g}"
    )
