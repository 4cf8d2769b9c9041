"""The data engine as a page for people.

What each step did to the counts, and to which pictures, for one's own eyes. One file with its own style, its pictures
inside it and no script: it opens from a bucket, from a mail, on a phone. Where the truth is known every picture says
whether its tag was right; where not, nobody is told that it was.
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

OPEN = 3  # categories that are unfolded at first
CERTAIN = ("parsed", "matched", "generated_caption")  # origins that have no score of their own


@dataclass(frozen=True)
class Step:
    """The tags after one step; None: not measured."""

    stage: str
    tags: int
    images: int
    precision: float | None = None
    recall: float | None = None


@dataclass(frozen=True)
class Category:
    """What happened to one tag over all images, and the pictures of it."""

    id: int
    name: str
    kind: str
    kept: int = 0  # said by captions, and still there
    removed: int = 0  # whether said or added
    added: int = 0  # and still there
    right: Mapping[str, float | None] = field(default_factory=dict)  # share of each of these three that is true
    unsaid: int | None = None  # images of which it is true and no caption says so; None: not known
    pictures: Sequence[Mapping[str, Any]] = ()  # `engine_pictures.SHOWN` rows


@dataclass(frozen=True)
class View:
    """Everything that the page shows."""

    run: str
    steps: Sequence[Step]
    figures: Mapping[str, float | None]  # of `statistics.figures`
    reasons: Sequence[Mapping[str, Any]]  # reason, images, judged, right
    categories: Sequence[Category]  # most happened first
    curve: Curve | None = None


def to_html(view: View) -> str:
    """The page, self-contained."""
    style = (resources.files("ram_ray.reporting") / "engine_page.css").read_text(encoding="utf-8")
    title = escape(f"{view.run}: data engine")
    parts = [_header(view), _steps(view), _curve(view), _reasons(view), _categories(view), _table(view)]
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{title}</title><style>{style}</style></head>\n<body><main>\n"
        + "\n".join(part for part in parts if part)
        + "\n</main></body></html>\n"
    )


def _header(view: View) -> str:
    first, last = view.steps[0], view.steps[-1]
    cards = [("tags", f"{last.tags:,}", f"{first.tags:,} before, in {last.images:,} pictures")]
    if last.precision is not None and last.recall is not None:
        cards += [
            ("precision", _share(last.precision), f"{_share(first.precision)} before"),
            ("recall", _share(last.recall), f"{_share(first.recall)} before"),
        ]
    words = {
        "added_precision": ("added tags that are right", "of those still there at the end"),
        "recovered": ("unsaid tags recovered", "of what is true and no caption says"),
        "said_false_removed": ("false mentions removed", "of what captions say and is not there"),
        "false_removed": ("false tags removed", "of all that were ever there"),
        "true_removed": ("true tags removed", "of all that were ever there: the price"),
    }
    cards += [
        (title, f"{100 * value:.1f}%", note)
        for name, (title, note) in words.items()
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
    before: int | None = None
    for step in view.steps:
        change = "" if before is None else f"{step.tags - before:+,}"
        rows.append(
            f"<tr><th scope='row'>{escape(step.stage)}</th><td>{step.tags:,}</td><td>{change}</td>"
            f"<td class='bar'><div style='width:{100 * step.tags / most:.1f}%'></div></td>"
            f"<td>{step.tags / max(1, step.images):.2f}</td><td>{_share(step.precision)}</td>"
            f"<td>{_share(step.recall)}</td></tr>"
        )
        before = step.tags
    return (
        "<h2>Steps</h2><div class='wide'><table><thead><tr><th scope='col'>after</th><th scope='col'>tags</th>"
        "<th scope='col'>change</th><th class='bar'></th><th scope='col'>a picture</th><th scope='col'>precision</th>"
        f"<th scope='col'>recall</th></tr></thead><tbody>{''.join(rows)}</tbody></table></div>"
    )


def _curve(view: View) -> str:
    if view.curve is None:
        return ""
    return (
        "<h2>What could be added</h2><p class='sub'>Tags that no caption says, the surest first: how many of those "
        "added so far are right, and what the tags are then worth.</p>"
        f"<figure>{to_svg(view.curve)}</figure>"
    )


def _reasons(view: View) -> str:
    if not view.reasons:
        return ""
    rows = "".join(
        f"<tr><th scope='row'>{escape(one['reason'])}</th><td>{one['images']:,}</td>"
        f"<td>{_percent(one['judged'] - one['right'], one['judged'])}</td></tr>"
        for one in view.reasons
    )
    return (
        "<h2>Why tags went</h2><div class='wide'><table><thead><tr><th scope='col'>reason</th>"
        "<th scope='col'>tags</th><th scope='col'>of these, false</th></tr></thead>"
        f"<tbody>{rows}</tbody></table></div>"
    )


def _categories(view: View) -> str:
    shown = [one for one in view.categories if one.pictures]
    if not shown:
        return ""
    known = any(picture["true"] is not None for one in shown for picture in one.pictures)
    key = (
        " <span class='key true'>✓ the tag is true of the picture</span> <span class='key false'>✗ it is not</span>"
        if known
        else " Whether a tag is right is not known for these pictures."
    )
    blocks = "".join(_category(one, unfolded=place < OPEN) for place, one in enumerate(shown))
    more = len(view.categories) - len(shown)
    rest = f" The other {more:,} are in the table below." if more else ""
    return (
        f"<h2>Categories</h2><p class='sub'>The {len(shown):,} in which most happened, each with pictures drawn at "
        "random: the part of the picture that was judged, or all of it. A number is the tagger's score of what was "
        f"added, and cleaning's of what was removed or kept.{rest}{key}</p>{blocks}"
    )


def _category(one: Category, *, unfolded: bool) -> str:
    counts = f"{one.kept:,} kept · {one.removed:,} removed · {one.added:,} added"
    strips = [_strip(one, what) for what in ("removed", "added", "kept")]
    return (
        f"<details{' open' if unfolded else ''}><summary><b>{escape(one.name)}</b> "
        f"<span class='note'>{escape(one.kind)}</span><span class='counts'>{counts}</span></summary>"
        f"{''.join(strips)}</details>"
    )


def _strip(one: Category, what: str) -> str:
    pictures = [picture for picture in one.pictures if picture["what"] == what]
    if not pictures:
        return ""
    total = {"kept": one.kept, "removed": one.removed, "added": one.added}[what]
    right = one.right.get(what)
    told = "" if right is None else f", {100 * right:.0f}% true"
    clusters: dict[int | None, list[Mapping[str, Any]]] = defaultdict(list)
    for picture in pictures:
        clusters[picture["cluster"]].append(picture)
    groups = []
    for cluster in sorted(clusters, key=lambda place: -1 if place is None else place):
        label = "" if cluster is None else f"<span class='cluster'>cluster {cluster}</span>"
        shots = "".join(_picture(one.name, picture) for picture in clusters[cluster])
        groups.append(f"<div class='group'>{label}{shots}</div>")
    return (
        f"<h3>{what.capitalize()} <span class='note'>{len(pictures)} of {total:,}{told}</span></h3>"
        f"<div class='strip'>{''.join(groups)}</div>"
    )


def _picture(name: str, picture: Mapping[str, Any]) -> str:
    truth, sign = {True: ("true", "✓ "), False: ("false", "✗ ")}.get(picture["true"], ("", ""))
    said = escape(picture["caption"] or picture["key"], quote=True)
    if picture["jpeg"] is None:
        image = "<div class='gone'>cannot be read</div>"
    else:
        data = base64.b64encode(picture["jpeg"]).decode("ascii")
        alt = escape(f"{name}: {picture['key']}", quote=True)
        image = f'<img loading="lazy" src="data:image/jpeg;base64,{data}" alt="{alt}">'
    score, reason = picture["score"], picture["reason"]
    unsure = score is not None and math.isfinite(score) and reason not in CERTAIN
    number = f" {score:.2f}" if unsure else ""
    words = escape(str(reason or "").replace("_", " "))
    return f'<figure class="shot {truth}" title="{said}">{image}<figcaption>{sign}{words}{number}</figcaption></figure>'


def _table(view: View) -> str:
    known = any(one.unsaid is not None for one in view.categories)
    rows = []
    for one in view.categories:
        cells = [f"<td>{value:,}</td>" for value in (one.kept, one.removed, one.added)]
        if known:
            right = [one.right.get(what) for what in ("kept", "removed", "added")]
            cells += [f"<td>{'' if value is None else f'{100 * value:.0f}%'}</td>" for value in right]
            cells.append(f"<td>{'' if one.unsaid is None else f'{one.unsaid:,}'}</td>")
        rows.append(
            f"<tr><th scope='row'>{escape(one.name)} <span class='note'>{escape(one.kind)}</span></th>"
            f"{''.join(cells)}</tr>"
        )
    titles = ["kept", "removed", "added"]
    titles += ["kept, true", "removed, true", "added, true", "true, unsaid"] if known else []
    head = "".join(f"<th scope='col'>{title}</th>" for title in titles)
    return (
        "<h2>All categories</h2><p class='sub'>Pictures. Kept: a caption says it and it is still there.</p>"
        f"<div class='wide'><table class='dense'><thead><tr><th scope='col'>tag</th>{head}</tr></thead>"
        f"<tbody>{''.join(rows)}</tbody></table></div>"
    )


def _share(value: float | None) -> str:
    return "–" if value is None else f"{value:.3f}"


def _percent(part: int, whole: int) -> str:
    return f"{100 * part / whole:.0f}%" if whole else "–"
