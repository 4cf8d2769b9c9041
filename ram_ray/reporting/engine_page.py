"""The HTML page of the data engine: what each step did to the counts of tags, and to which images.

The page is one file with its own style, its images embedded, and no script: it opens from a bucket, from a mail, on a
phone. Where the truth is known, each image says whether its tag is right; where it is not known, no image does.
"""

from __future__ import annotations

import base64
import math
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from html import escape
from importlib import resources
from typing import Any

from ram_ray.reporting.engine_curve import Curve, to_svg

NUM_OPEN = 3  # labels that are unfolded at first
UNSCORED = ("parsed", "matched", "generated_caption")  # origins that have no score of their own


@dataclass(frozen=True)
class Step:
    """The tags after one step; None: not measured."""

    stage: str
    tags: int
    images: int
    precision: float | None = None
    recall: float | None = None


@dataclass(frozen=True)
class LabelChanges:
    """What happened to the tags of one label over all images, and a sample of these images."""

    id: int
    name: str
    kind: str
    kept: int = 0  # mentioned by captions, and still there
    removed: int = 0  # mentioned or added
    added: int = 0  # and still there
    right: Mapping[str, float | None] = field(default_factory=dict)  # share of each of these three that is true
    unmentioned: int | None = None  # images of which it is true and no caption mentions it; None: not known
    sample_images: Sequence[Mapping[str, Any]] = ()  # `engine_pictures.SAMPLE_IMAGE` rows


@dataclass(frozen=True)
class View:
    """Everything that the page shows."""

    run: str
    steps: Sequence[Step]
    figures: Mapping[str, float | None]  # of `statistics.figures`
    reasons: Sequence[Mapping[str, Any]]  # reason, images, judged, right
    labels: Sequence[LabelChanges]  # most changes first
    curve: Curve | None = None


def to_html(view: View) -> str:
    """The page as HTML.

    Args:
        view: everything that the page shows; all texts are escaped here.

    Returns:
        A whole document, which loads nothing.
    """
    style = (resources.files("ram_ray.reporting") / "engine_page.css").read_text(encoding="utf-8")
    title = escape(f"{view.run}: data engine")
    parts = [_header(view), _steps(view), _curve(view), _reasons(view), _labels(view), _table(view)]
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{title}</title><style>{style}</style></head>\n<body><main>\n"
        + "\n".join(part for part in parts if part)
        + "\n</main></body></html>\n"
    )


def _header(view: View) -> str:
    first, last = view.steps[0], view.steps[-1]
    cards = [("tags", f"{last.tags:,}", f"{first.tags:,} before, in {last.images:,} images")]
    if last.precision is not None and last.recall is not None:
        cards += [
            ("precision", _share(last.precision), f"{_share(first.precision)} before"),
            ("recall", _share(last.recall), f"{_share(first.recall)} before"),
        ]
    titles = {
        "added_precision": ("added tags that are right", "of those still there at the end"),
        "recovered": ("unmentioned tags recovered", "of what is true and no caption mentions"),
        "said_false_removed": ("false mentions removed", "of what captions mention and is not there"),
        "false_removed": ("false tags removed", "of all that were ever there"),
        "true_removed": ("true tags removed", "of all that were ever there: errors"),
    }
    cards += [
        (title, f"{100 * value:.1f}%", note)
        for name, (title, note) in titles.items()
        if (value := view.figures.get(name)) is not None
    ]
    blocks = "".join(
        f'<div class="card"><div class="name">{escape(name)}</div><div class="value">{value}</div>'
        f'<div class="note">{escape(note)}</div></div>'
        for name, value, note in cards
    )
    return f"<h1>{escape(view.run)}</h1><p class='sub'>What the data engine did</p><div class='cards'>{blocks}</div>"


def _steps(view: View) -> str:
    most = max(step.tags for step in view.steps) or 1
    rows = []
    previous: int | None = None
    for step in view.steps:
        change = "" if previous is None else f"{step.tags - previous:+,}"
        rows.append(
            f"<tr><th scope='row'>{escape(step.stage)}</th><td>{step.tags:,}</td><td>{change}</td>"
            f"<td class='bar'><div style='width:{100 * step.tags / most:.1f}%'></div></td>"
            f"<td>{step.tags / max(1, step.images):.2f}</td><td>{_share(step.precision)}</td>"
            f"<td>{_share(step.recall)}</td></tr>"
        )
        previous = step.tags
    return (
        "<h2>Steps</h2><div class='wide'><table><thead><tr><th scope='col'>after</th><th scope='col'>tags</th>"
        "<th scope='col'>change</th><th class='bar'></th><th scope='col'>per image</th><th scope='col'>precision</th>"
        f"<th scope='col'>recall</th></tr></thead><tbody>{''.join(rows)}</tbody></table></div>"
    )


def _curve(view: View) -> str:
    if view.curve is None:
        return ""
    return (
        "<h2>What could be added</h2><p class='sub'>Tags that no caption mentions, in the order of confidence: the "
        "precision of the tags added so far, against the recall of all tags.</p>"
        f"<figure>{to_svg(view.curve)}</figure>"
    )


def _reasons(view: View) -> str:
    if not view.reasons:
        return ""
    rows = "".join(
        f"<tr><th scope='row'>{escape(row['reason'])}</th><td>{row['images']:,}</td>"
        f"<td>{_percent(row['judged'] - row['right'], row['judged'])}</td></tr>"
        for row in view.reasons
    )
    return (
        "<h2>Why tags went</h2><div class='wide'><table><thead><tr><th scope='col'>reason</th>"
        "<th scope='col'>tags</th><th scope='col'>of these, false</th></tr></thead>"
        f"<tbody>{rows}</tbody></table></div>"
    )


def _labels(view: View) -> str:
    shown = [label for label in view.labels if label.sample_images]
    if not shown:
        return ""
    known = any(image["true"] is not None for label in shown for image in label.sample_images)
    key = (
        " <span class='key true'>✓ the tag is true of the image</span> <span class='key false'>✗ it is not</span>"
        if known
        else " Whether a tag is right is not known for these images."
    )
    blocks = "".join(_label(label, unfolded=index < NUM_OPEN) for index, label in enumerate(shown))
    more = len(view.labels) - len(shown)
    rest = f" The other {more:,} are in the table below." if more else ""
    return (
        f"<h2>Labels</h2><p class='sub'>The {len(shown):,} with the most changes, each with images drawn at "
        "random: the region that cleaning scored, or the whole image. A number is the tagger's score of an added tag, "
        f"and cleaning's score of a removed or kept tag.{rest}{key}</p>{blocks}"
    )


def _label(label: LabelChanges, *, unfolded: bool) -> str:
    counts = f"{label.kept:,} kept · {label.removed:,} removed · {label.added:,} added"
    strips = [_strip(label, outcome) for outcome in ("removed", "added", "kept")]
    return (
        f"<details{' open' if unfolded else ''}><summary><b>{escape(label.name)}</b> "
        f"<span class='note'>{escape(label.kind)}</span><span class='counts'>{counts}</span></summary>"
        f"{''.join(strips)}</details>"
    )


def _strip(label: LabelChanges, outcome: str) -> str:
    images = [image for image in label.sample_images if image["what"] == outcome]
    if not images:
        return ""
    total = {"kept": label.kept, "removed": label.removed, "added": label.added}[outcome]
    share = label.right.get(outcome)
    truth = "" if share is None else f", {100 * share:.0f}% true"
    clusters: dict[int | None, list[Mapping[str, Any]]] = defaultdict(list)
    for image in images:
        clusters[image["cluster"]].append(image)
    groups = []
    for cluster in sorted(clusters, key=lambda cluster: -1 if cluster is None else cluster):
        title = "" if cluster is None else f"<span class='cluster'>cluster {cluster}</span>"
        figures = "".join(_figure(label.name, image) for image in clusters[cluster])
        groups.append(f"<div class='group'>{title}{figures}</div>")
    return (
        f"<h3>{outcome.capitalize()} <span class='note'>{len(images)} of {total:,}{truth}</span></h3>"
        f"<div class='strip'>{''.join(groups)}</div>"
    )


def _figure(name: str, image: Mapping[str, Any]) -> str:
    truth, sign = {True: ("true", "✓ "), False: ("false", "✗ ")}.get(image["true"], ("", ""))
    title = escape(image["caption"] or image["key"], quote=True)
    if image["jpeg"] is None:
        content = "<div class='gone'>cannot be read</div>"
    else:
        data = base64.b64encode(image["jpeg"]).decode("ascii")
        alt = escape(f"{name}: {image['key']}", quote=True)
        content = f'<img loading="lazy" src="data:image/jpeg;base64,{data}" alt="{alt}">'
    score, reason = image["score"], image["reason"]
    scored = score is not None and math.isfinite(score) and reason not in UNSCORED
    number = f" {score:.2f}" if scored else ""
    words = escape(str(reason or "").replace("_", " "))
    return (
        f'<figure class="shot {truth}" title="{title}">{content}<figcaption>{sign}{words}{number}</figcaption></figure>'
    )


def _table(view: View) -> str:
    known = any(label.unmentioned is not None for label in view.labels)
    rows = []
    for label in view.labels:
        cells = [f"<td>{count:,}</td>" for count in (label.kept, label.removed, label.added)]
        if known:
            shares = [label.right.get(outcome) for outcome in ("kept", "removed", "added")]
            cells += [f"<td>{'' if share is None else f'{100 * share:.0f}%'}</td>" for share in shares]
            cells.append(f"<td>{'' if label.unmentioned is None else f'{label.unmentioned:,}'}</td>")
        rows.append(
            f"<tr><th scope='row'>{escape(label.name)} <span class='note'>{escape(label.kind)}</span></th>"
            f"{''.join(cells)}</tr>"
        )
    titles = ["kept", "removed", "added"]
    titles += ["kept, true", "removed, true", "added, true", "true, unmentioned"] if known else []
    head = "".join(f"<th scope='col'>{title}</th>" for title in titles)
    return (
        "<h2>All labels</h2><p class='sub'>Numbers of images. Kept: a caption mentions it and it is still there.</p>"
        f"<div class='wide'><table class='dense'><thead><tr><th scope='col'>label</th>{head}</tr></thead>"
        f"<tbody>{''.join(rows)}</tbody></table></div>"
    )


def _share(value: float | None) -> str:
    return "–" if value is None else f"{value:.3f}"


def _percent(part: int, whole: int) -> str:
    return f"{100 * part / whole:.0f}%" if whole else "–"
