"""The label system as a page for people: labels by kind and frequency, examples, merges, what was dropped and why.

One file with its own style and a few lines of script (to search and to choose a kind): it opens from a bucket, from a
mail, and in ten years. Labels are drawn by the script from the data in the page, some at a time, since thousands of
rows at once make a browser slow; without a script the page still has the tables of merges and drops.
"""

from __future__ import annotations

import json
from collections import Counter
from html import escape
from importlib import resources

from ram_ray.label_system import LabelSystem
from ram_ray.labels.report import HOW, REASONS, BuildReport
from ram_ray.records import KINDS

MAX_MERGES = 200  # rows of the table of merges


def to_html(system: LabelSystem, report: BuildReport | None, *, title: str) -> str:
    """The page, self-contained; without a report it has the labels alone."""
    report = report or BuildReport(labels=[{} for _ in system.labels])
    folder = resources.files("ram_ray.labels")
    style, script = ((folder / name).read_text(encoding="utf-8") for name in ("page.css", "page.js"))
    parts = [
        _header(system, report, title),
        _kinds(system),
        _browser(),
        _merges(report),
        _drops(report),
        _notes(report),
    ]
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{escape(title)}: label system</title><style>{style}</style></head>\n<body><main>\n"
        + "\n".join(part for part in parts if part)
        + f'\n</main><script type="application/json" id="labels">{_data(system, report)}</script>'
        + f"<script>{script}</script></body></html>\n"
    )


def _header(system: LabelSystem, report: BuildReport, title: str) -> str:
    captions = sum(report.captions.values())
    cards = [
        ("labels", f"{len(system):,}", "version " + system.version),
        ("names counted", f"{report.num_names:,}", "different names, by kind"),
        ("merged", f"{sum(report.merges.values()):,}", "names that became synonyms"),
        ("dropped", f"{sum(report.num_dropped.values()):,}", "names that are no label"),
        ("captions", f"{captions:,}", _sources(report)),
    ]
    if not report.num_names:
        cards = cards[:1]
    elif not captions:
        cards = cards[:-1]
    blocks = "".join(
        f'<div class="card"><div class="name">{name}</div><div class="value">{value}</div>'
        f'<div class="note">{escape(note)}</div></div>'
        for name, value, note in cards
    )
    links = [("all", "Labels")]
    links += [("merged", "Merged")] if report.merges else []
    links += [("dropped", "Dropped")] if report.num_dropped else []
    nav = "".join(f"<a href='#{where}'>{name}</a>" for where, name in links)
    return (
        f"<h1>{escape(title)}</h1><p class='sub'>Label system</p><nav aria-label='Parts of the page'>{nav}</nav>"
        f"<div class='cards'>{blocks}</div>"
    )


def _sources(report: BuildReport) -> str:
    names = [f"{name} {count:,}" for name, count in report.captions.items()]
    return ", ".join(names[:4]) + (f" and {len(names) - 4} more sources" if len(names) > 4 else "")


def _kinds(system: LabelSystem) -> str:
    """A bar a kind: its labels, and the most frequent ones in words."""
    counts = Counter(label.kind for label in system.labels)
    most = max(counts.values(), default=1)
    rows = []
    for kind in KINDS:
        first = ", ".join(label.name for label in system.labels if label.kind == kind)
        first = first[:140].rpartition(", ")[0] + ", …" if len(first) > 140 else first
        rows.append(
            f"<tr><th scope='row'><span class='dot {kind}'></span>{kind}</th><td class='n'>{counts[kind]:,}</td>"
            f"<td class='bar'><div class='{kind}' style='width:{100 * counts[kind] / most:.1f}%'></div></td>"
            f"<td class='words'>{escape(first)}</td></tr>"
        )
    return (
        "<h2>Kinds</h2><div class='wide'><table><thead><tr><th scope='col' class='left'>kind</th>"
        f"<th scope='col'>labels</th><th></th><th scope='col' class='left'>most frequent</th></tr></thead>"
        f"<tbody>{''.join(rows)}</tbody></table></div>"
    )


def _browser() -> str:
    """Where the script draws the labels."""
    buttons = "".join(f"<button data-kind='{kind}'>{kind}</button>" for kind in ("all", *KINDS))
    return (
        "<h2 id='all'>Labels</h2><p class='sub'>By rank: captions that name it, times how evenly the sources do. "
        "Click a label for its synonyms, examples and sources.</p>"
        f"<div class='tools'><input id='search' type='search' placeholder='Search names and synonyms' "
        f"aria-label='Search names and synonyms'><span id='kinds'>{buttons}</span><span id='shown' class='note'></span>"
        "</div><div class='wide'><table id='table'><thead><tr><th scope='col'>id</th><th scope='col' class='left'>label"
        "</th><th scope='col' class='left'>kind</th><th scope='col'>captions</th><th class='bar'></th>"
        "<th scope='col' class='left'>synonyms</th></tr></thead><tbody></tbody></table></div>"
        "<p><button id='more'>Show more</button></p><noscript>The list of labels needs JavaScript; "
        "`ram-ray labels show` prints it too.</noscript>"
    )


def _merges(report: BuildReport) -> str:
    merges = [
        (one["count"], one["name"], one["with"], one["how"], label)
        for label in report.labels
        for one in label.get("merged", ())
        if one["count"]  # the others are synonyms that no caption has used yet
    ]
    if not merges:
        return ""
    merges.sort(key=lambda one: (-one[0], one[1], one[4]["kind"]))
    hows = ", ".join(f"{count:,} by {HOW[how]}" for how, count in report.merges.most_common())
    rows = "".join(
        f"<tr><td class='left'>{escape(name)}</td><td class='n'>{count:,}</td>"
        f"<td class='left'><b>{escape(label['name'])}</b>"
        f"{'' if near == label['name'] else f' (as {escape(near)})'}</td>"
        f"<td class='left'>{escape(label['kind'])}</td><td class='left soft'>{escape(HOW[how])}</td></tr>"
        for count, name, near, how, label in merges[:MAX_MERGES]
    )
    more = f" The {MAX_MERGES} most frequent are listed." if len(merges) > MAX_MERGES else ""
    return (
        f"<h2 id='merged'>Merged</h2><p class='sub'>{escape(hows)}.{more} Wrong? Write "
        "<code>apart: [[name, name]]</code> into label_edits.yaml and build again.</p>"
        "<details class='wide' open><summary>Names that became synonyms</summary>"
        "<table class='dense'><thead><tr><th scope='col' class='left'>name</th><th scope='col'>captions</th>"
        "<th scope='col' class='left'>is now</th><th scope='col' class='left'>kind</th><th scope='col' class='left'>why"
        f"</th></tr></thead><tbody>{rows}</tbody></table></details>"
    )


def _drops(report: BuildReport) -> str:
    if not report.num_dropped:
        return ""
    parts = []
    for reason, count in sorted(report.num_dropped.items(), key=lambda one: -one[1]):
        listed = [one for one in report.dropped if one["reason"] == reason]
        names = " ".join(
            f"<span class='chip {one['kind']}' title='{one['kind']}'>{escape(one['name'])} "
            f"<i>{one['count']:,}</i></span>"
            for one in listed
        )
        rest = f"<p class='note'>and {count - len(listed):,} less frequent ones</p>" if count > len(listed) else ""
        parts.append(
            f"<details class='wide'><summary><b>{count:,}</b> {escape(REASONS[reason])}</summary>"
            f"<div class='chips'>{names}{rest}</div></details>"
        )
    return (
        "<h2 id='dropped'>Dropped</h2><p class='sub'>Names that captions use and that became neither label nor "
        f"synonym, with the captions that name them; the most frequent of each reason.</p>{''.join(parts)}"
    )


def _notes(report: BuildReport) -> str:
    notes = "".join(f"<li>{escape(note)}</li>" for note in report.notes)
    return f"<h2>Notes</h2><ul>{notes}</ul>" if notes else ""


def _data(system: LabelSystem, report: BuildReport) -> str:
    """Labels as JSON that may stand inside a script element."""
    rows = []
    for label, told in zip(system.labels, report.labels, strict=True):
        rows.append(
            {
                "name": label.name,
                "kind": label.kind,
                "count": label.count,
                "synonyms": list(label.synonyms),
                "sources": told.get("sources", {}),
                "examples": told.get("examples", []),
                "words": told.get("words", {}),
                "ambiguous": list(label.ambiguous),
            }
        )
    return json.dumps(rows, ensure_ascii=False, separators=(",", ":")).replace("<", "\\u003c")
