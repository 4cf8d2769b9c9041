"""`ram-ray evaluate --compare A B`: what got better and what got worse between two systems."""

from __future__ import annotations

import json
import logging
from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from ram_ray.cli.options import absolute

if TYPE_CHECKING:
    from ram_ray.config import RunConfig
    from ram_ray.evaluation.sets.spec import SetSpec
    from ram_ray.evaluation.systems.registry import SystemSpec
    from ram_ray.records import Json

logger = logging.getLogger(__name__)

SHOWN = 20  # classes of a list in the terminal


def compare_systems(
    systems: Sequence[str],
    eval_sets: Sequence[str],
    out: str,
    *,
    replicates: int,
    files: Sequence[str] = (),
    sets: Sequence[str] = (),
) -> int:
    """Join or start Ray, score two systems on evaluation sets, and say what differs.

    Args:
        systems: two, as `SystemSpec.parse` reads them.
        eval_sets: as `SetSpec.parse` reads them, or plain paths of labelled shards.
        out: folder or URI for scores, compare.json and compare.html.
        replicates: of the bootstrap.
        files: YAML files of settings.
        sets: `section.field=value` pairs.

    Returns:
        The exit code.

    Raises:
        ValueError: if a system or a set is wrong.
    """
    from ram_ray.evaluation.benchmark import compare_pair, run_benchmark
    from ram_ray.evaluation.bootstrap import Resampling
    from ram_ray.evaluation.measure_scores import Measuring
    from ram_ray.evaluation.systems.registry import make_system
    from ram_ray.reporting.compare_page import compare_page
    from ram_ray.runtime import cluster, outcome
    from ram_ray.runtime.artifacts import write_text
    from ram_ray.runtime.storage import check_writable

    if len(systems) != 2:
        raise ValueError(f"--compare takes two systems, the old and the new; {len(systems)} are given")
    specs, sources = parse_sets(eval_sets), parse_systems(systems)
    made = [make_system(source) for source in sources]
    config, folder = load_config(files, sets), absolute(out).rstrip("/")
    check_writable(folder)
    measuring = Measuring(resampling=Resampling(replicates), min_positives=config.evaluate.min_positives)

    def work() -> None:
        resources = config.resources
        cluster.start(num_cpus=resources.num_cpus, object_store_gb=resources.object_store_gb, dashboard=False)
        results = run_benchmark(made, specs, folder, config=config, measuring=measuring)
        names = [system.name for system in made]
        for result in results:
            for name, why in result.skipped.items():
                raise ValueError(f"{name} cannot be compared on {result.eval_set.name}: {why}")
        comparisons = [compare_pair(result, *names, min_positives=measuring.min_positives) for result in results]
        tree = {result.eval_set.name: comparison for result, comparison in zip(results, comparisons, strict=True)}
        write_text(f"{folder}/compare.json", json.dumps(tree, indent=1, ensure_ascii=False))
        write_text(f"{folder}/compare.html", compare_page(results, comparisons, execution=config.execution))
        for name, comparison in tree.items():
            for line in format_comparison(name, comparison):
                logger.info("%s", line)
        logger.info("written: %s/compare.html, compare.json", folder)

    return outcome.run(work, name="compare", folder=None)


def format_comparison(set_name: str, comparison: Json) -> list[str]:
    """Format a comparison for a terminal.

    Args:
        set_name: name of the set.
        comparison: as of `benchmark.compare_pair`.

    Returns:
        Lines of text.
    """
    mean = comparison["mAP"]
    lines = []
    if mean["difference"] is not None:
        low, high = (100 * bound for bound in mean["interval"] or (float("nan"), float("nan")))
        lines.append(
            f"{set_name}: mAP {100 * mean['first']:.1f} of {comparison['first']}, {100 * mean['second']:.1f} of "
            f"{comparison['second']}: {100 * mean['difference']:+.1f} ({low:+.1f} to {high:+.1f}), "
            f"p {mean['p_value']:.2g}"
        )
    by_class = {line["class"]: line for line in comparison["per_class"]}
    for what in ("worse", "better"):
        names = comparison[what]
        shown = ", ".join(f"{name} {100 * by_class[name]['difference']:+.1f}" for name in names[:SHOWN])
        more = f", and {len(names) - SHOWN} more" if len(names) > SHOWN else ""
        counts = f"{len(names)} of {comparison['num_classes']} classes"
        lines.append(f"{set_name}: {what}: {counts}{': ' if names else ''}{shown}{more}")
    for what in ("only_first", "only_second"):
        if comparison[what]:
            which = comparison[what.removeprefix("only_")]
            lines.append(f"{set_name}: only {which} scores {', '.join(comparison[what][:SHOWN])}")
    return lines


def parse_systems(texts: Sequence[str]) -> list[SystemSpec]:
    """Read systems; two without a name of their own that would have the same get numbers.

    Args:
        texts: as `SystemSpec.parse` reads them.

    Returns:
        The systems, with absolute paths.
    """
    import os

    from ram_ray.evaluation.systems.registry import SystemSpec

    specs = [SystemSpec.parse(text) for text in texts]
    names = [spec.name for spec in specs]
    if len(set(names)) < len(names):
        specs = [
            replace(spec, name=f"{spec.name}-{number}") if names.count(spec.name) > 1 else spec
            for number, spec in enumerate(specs, 1)
        ]
    return [
        replace(
            spec,
            source=absolute(spec.source) if os.path.exists(spec.source) else spec.source,
            vocabulary=_absolute(spec.vocabulary),
            descriptions=_absolute(spec.descriptions),
        )
        for spec in specs
    ]


def parse_sets(texts: Sequence[str]) -> list[SetSpec]:
    """Read evaluation sets; plain paths are labelled shards, all in one set.

    Args:
        texts: as `SetSpec.parse` reads them, or paths.

    Returns:
        The sets, with absolute paths.

    Raises:
        ValueError: if there are none.
    """
    from ram_ray.evaluation.sets.spec import SetSpec, is_named
    from ram_ray.labels.lists import shipped_lists

    if not texts:
        raise ValueError("name labelled images with --eval: shards, or NAME=FILE")
    plain = [text for text in texts if not is_named(text)]
    specs = [SetSpec.parse(text) for text in texts if text not in plain]
    if plain:
        specs.append(SetSpec("eval", plain[0], "shards", more=tuple(plain[1:])))
    return [spec.with_paths(absolute, shipped=shipped_lists()) for spec in specs]


def _absolute(path: str | None) -> str | None:
    return None if path is None else absolute(path)


def load_config(files: Sequence[str], sets: Sequence[str]) -> RunConfig:
    """Load settings, with resources for this machine unless a cluster is joined.

    Args:
        files: YAML files of settings.
        sets: `section.field=value` pairs.

    Returns:
        The configuration.
    """
    from ram_ray.config import load
    from ram_ray.runtime import cluster

    config = load(files=files, sets=sets)
    if not cluster.joins_cluster():
        cpus = min(cluster.machine_cpus(), config.resources.num_cpus or cluster.machine_cpus())
        config = config.model_copy(update={"resources": cluster.resources_for_machine(config.resources, cpus=cpus)})
    return config
