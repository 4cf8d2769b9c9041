"""Writes the HTML page of a label system: labels by kind and frequency, examples, merges, and dropped names.

The page is a single file without external resources. Its script renders the labels from JSON in the page, a part at a
time, because thousands of rows make a browser slow. Without a script the page still has the tables of merges and
dropped names.
"""

from __future__ import annotations

import json
from collections import Counter
from html import escape
from importlib import resources

from ram_ray.label_system import LabelSystem
from ram_ray.labels.report import DROP_REASONS, MERGE_REASONS, BuildReport
from ram_ray.records import KINDS

MAX_MERGES = 200  # rows of the table of merges


def to_html(system: LabelSystem, report: BuildReport | None, *, title: str) -> str:
    """Write the page of a label system.

    Args:
        system: the label system.
        report: of its build; None: the page has the labels only.
        title: of the page.

    Returns:
        HTML without external resources.
    """
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
        ("names counted", f"{report.num_names:,}", "different names and kinds"),
        ("merged", f"{sum(report.merges.values()):,}", "names that became synonyms"),
        ("dropped", f"{sum(report.num_dropped.values()):,}", "names that are neither label nor synonym"),
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
    nav = "".join(f"<a href='#{anchor}'>{name}</a>" for anchor, name in links)
    return (
        f"<h1>{escape(title)}</h1><p class='sub'>Label system</p><nav aria-label='Parts of the page'>{nav}</nav>"
        f"<div class='cards'>{blocks}</div>"
    )


def _sources(report: BuildReport) -> str:
    names = [f"{name} {count:,}" for name, count in report.captions.items()]
    return ", ".join(names[:4]) + (f" and {len(names) - 4} more sources" if len(names) > 4 else "")


def _kinds(system: LabelSystem) -> str:
    """A table with a bar for each kind: number of labels, and the most frequent labels."""
    counts = Counter(label.kind for label in system.labels)
    max_count = max(counts.values(), default=1)
    rows = []
    for kind in KINDS:
        names = ", ".join(label.name for label in system.labels if label.kind == kind)
        names = names[:140].rpartition(", ")[0] + ", …" if len(names) > 140 else names
        rows.append(
            f"<tr><th scope='row'><span class='dot {kind}'></span>{kind}</th><td class='n'>{counts[kind]:,}</td>"
            f"<td class='bar'><div class='{kind}' style='width:{100 * counts[kind] / max_count:.1f}%'></div></td>"
            f"<td class='words'>{escape(names)}</td></tr>"
        )
    return (
        "<h2>Kinds</h2><div class='wide'><table><thead><tr><th scope='col' class='left'>kind</th>"
        f"<th scope='col'>labels</th><th></th><th scope='col' class='left'>most frequent</th></tr></thead>"
        f"<tbody>{''.join(rows)}</tbody></table></div>"
    )


def _browser() -> str:
    """The empty table that the script fills, with its search field and buttons."""
    buttons = "".join(f"<button data-kind='{kind}'>{kind}</button>" for kind in ("all", *KINDS))
    return (
        "<h2 id='all'>Labels</h2><p class='sub'>By rank: captions that mention the label, weighted by its spread "
        "over the sources. Click a label for its synonyms, examples and sources.</p>"
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
        (merge["count"], merge["name"], merge["with"], merge["how"], label)
        for label in report.labels
        for merge in label.get("merged", ())
        if merge["count"]  # the others are synonyms that no caption contains
    ]
    if not merges:
        return ""
    merges.sort(key=lambda merge: (-merge[0], merge[1], merge[4]["kind"]))
    totals = ", ".join(f"{count:,} by {MERGE_REASONS[reason]}" for reason, count in report.merges.most_common())
    rows = "".join(
        f"<tr><td class='left'>{escape(name)}</td><td class='n'>{count:,}</td>"
        f"<td class='left'><b>{escape(label['name'])}</b>"
        f"{'' if other == label['name'] else f' (as {escape(other)})'}</td>"
        f"<td class='left'>{escape(label['kind'])}</td><td class='left soft'>{escape(MERGE_REASONS[reason])}</td></tr>"
        for count, name, other, reason, label in merges[:MAX_MERGES]
    )
    note = f" The {MAX_MERGES} most frequent are listed." if len(merges) > MAX_MERGES else ""
    return (
        f"<h2 id='merged'>Merged</h2><p class='sub'>{escape(totals)}.{note} To undo a merge, write "
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
    for reason, count in sorted(report.num_dropped.items(), key=lambda item: -item[1]):
        listed = [name for name in report.dropped if name["reason"] == reason]
        names = " ".join(
            f"<span class='chip {name['kind']}' title='{name['kind']}'>{escape(name['name'])} "
            f"<i>{name['count']:,}</i></span>"
            for name in listed
        )
        rest = f"<p class='note'>and {count - len(listed):,} less frequent names</p>" if count > len(listed) else ""
        parts.append(
            f"<details class='wide'><summary><b>{count:,}</b> {escape(DROP_REASONS[reason])}</summary>"
            f"<div class='chips'>{names}{rest}</div></details>"
        )
    return (
        "<h2 id='dropped'>Dropped</h2><p class='sub'>Names that captions mention and that became neither label nor "
        f"synonym, with their number of captions; the most frequent names of each reason.</p>{''.join(parts)}"
    )


def _notes(report: BuildReport) -> str:
    notes = "".join(f"<li>{escape(note)}</li>" for note in report.notes)
    return f"<h2>Notes</h2><ul>{notes}</ul>" if notes else ""


def _data(system: LabelSystem, report: BuildReport) -> str:
    """Labels as JSON, escaped for a script element."""
    rows = []
    for label, label_report in zip(system.labels, report.labels, strict=True):
        rows.append(
            {
                "name": label.name,
                "kind": label.kind,
                "count": label.count,
                "synonyms": list(label.synonyms),
                "sources": label_report.get("sources", {}),
                "examples": label_report.get("examples", []),
                "words": label_report.get("words", {}),
                "ambiguous": list(label.ambiguous),
            }
        )
    return json.dumps(rows, ensure_ascii=False, separators=(",", ":")).replace("<", "\\u003c")
