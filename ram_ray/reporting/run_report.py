"""The results of a run: a table for the terminal, report.json for programs, report.html for a browser.

The page is one file with its own style and drawings: it opens from a bucket and from a mail. report.json has the keys
of the evaluation's `summarise` and the list of stages. A value that a stage did not measure is null in the JSON and
"–" in the table and on the page, never 0.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from html import escape
from typing import Any

from ram_ray.runtime.artifacts import write_text


@dataclass(frozen=True)
class StageLine:
    """One stage in the closing table and in the report; None: not measured."""

    stage: str
    images: int | None = None
    tags: int | None = None
    seconds: float | None = None
    precision: float | None = None  # of the stage's tags against the truth
    recall: float | None = None
    mAP: float | None = None  # noqa: N815 (the usual name), of the stage's model
    rejected: int | None = None
    reused: bool = False  # done by an earlier run

    @property
    def tags_per_image(self) -> float | None:
        """Mean number of tags."""
        return self.tags / self.images if self.tags is not None and self.images else None

    @property
    def images_per_second(self) -> float | None:
        """Throughput of the whole stage, start-up included."""
        return self.images / self.seconds if self.images is not None and self.seconds else None

    def to_dict(self) -> dict[str, Any]:
        """The stage as in report.json: the fields and the two rates."""
        return {
            **asdict(self),
            "tags_per_image": self.tags_per_image,
            "images_per_second": self.images_per_second,
        }


def build_report(
    summary: Mapping[str, Any], stages: Sequence[StageLine], *, run: str = "", evaluated: str = "", images: int = 0
) -> dict[str, Any]:
    """Join the evaluation's summary and the stages.

    Args:
        summary: as returned by `metrics.summarise`.
        stages: lines of the table of stages.
        run: the run's name.
        evaluated: model and data set, as text.
        images: number of images that were scored.

    Returns:
        report.json as a dict.
    """
    return {
        **summary,
        "run": run,
        "evaluated": evaluated,
        "images": images,
        "stages": [stage.to_dict() for stage in stages],
    }


def write_report(folder: str, report: Mapping[str, Any]) -> None:
    """Write report.json and report.html.

    Args:
        folder: path or URI that fsspec can write to.
        report: as returned by `build_report`.
    """
    write_text(f"{folder.rstrip('/')}/report.json", json.dumps(_finite(report), indent=1, allow_nan=False) + "\n")
    write_text(f"{folder.rstrip('/')}/report.html", to_html(report))


def closing_table(stages: Sequence[StageLine]) -> str:
    """The table that is printed at the end of a run.

    Args:
        stages: a line each, in the order of the run.

    Returns:
        Lines of equal width.
    """
    header = ["stage", *(title for title, _ in _COLUMNS)]
    rows = [[stage.stage + (" (reused)" if stage.reused else ""), *_cells(stage.to_dict())] for stage in stages]
    widths = [max(len(row[column]) for row in [header, *rows]) for column in range(len(header))]

    def line(cells: Sequence[str]) -> str:
        return "  ".join([cells[0].ljust(widths[0]), *(c.rjust(w) for c, w in zip(cells[1:], widths[1:], strict=True))])

    rule = "-" * (sum(widths) + 2 * (len(widths) - 1))
    return "\n".join([line(header), rule, *(line(row) for row in rows)])


def to_html(report: Mapping[str, Any]) -> str:
    """The page as HTML.

    Args:
        report: as returned by `build_report`; all texts are escaped here.

    Returns:
        A whole document, which loads nothing.
    """
    title = escape(f"{report.get('run') or 'run'}: evaluation")
    parts = [_header(report), _stage_section(report), _step_section(report), _tag_section(report)]
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{title}</title><style>{_STYLE}</style></head>\n<body><main>\n"
        + "\n".join(parts)
        + "\n</main></body></html>\n"
    )


_COLUMNS = [
    ("images", "images"),
    ("tags", "tags"),
    ("tags/image", "tags_per_image"),
    ("seconds", "seconds"),
    ("images/s", "images_per_second"),
    ("precision", "precision"),
    ("recall", "recall"),
    ("mAP", "mAP"),
]
_DIGITS = {"tags_per_image": 2, "seconds": 1, "images_per_second": 1, "precision": 3, "recall": 3, "mAP": 3}


def _cells(stage: Mapping[str, Any]) -> list[str]:
    return [_number(stage.get(name), _DIGITS.get(name, 0)) for _, name in _COLUMNS]


def _number(value: float | None, digits: int) -> str:
    if value is None or not math.isfinite(value):
        return "–"
    return f"{value:,.{digits}f}"


def _header(report: Mapping[str, Any]) -> str:
    mean, floor = report.get("mAP"), report.get("mean_prevalence")
    times = f"{mean / floor:.1f} times chance" if mean is not None and floor else "chance is not known"
    cards = [
        ("mAP", _number(mean, 3), times),
        ("mean prevalence", _number(floor, 3), "the mAP of random scores"),
        ("precision", _number(report.get("precision"), 3), "mean over tags, at each tag's threshold"),
        ("recall", _number(report.get("recall"), 3), "mean over tags, at each tag's threshold"),
        ("tags", _number(report.get("num_tags"), 0), f"of {len(report.get('per_tag', []))} in the label system"),
    ]
    blocks = "".join(
        f'<div class="card"><div class="name">{name}</div><div class="value">{value}</div>'
        f'<div class="note">{escape(note)}</div></div>'
        for name, value, note in cards
    )
    images = f"{report['images']:,} images" if report.get("images") else ""
    subtitle = " · ".join(escape(part) for part in (report.get("evaluated", ""), images) if part)
    return (
        f"<h1>{escape(report.get('run') or 'run')}</h1><p class='sub'>{subtitle}</p><div class='cards'>{blocks}</div>"
    )


def _stage_section(report: Mapping[str, Any]) -> str:
    rows = []
    for stage in report.get("stages", []):
        cells = "".join(f"<td>{cell}</td>" for cell in _cells(stage))
        reused = ' <span class="note">reused</span>' if stage.get("reused") else ""
        rows.append(f"<tr><th scope='row'>{escape(stage['stage'])}{reused}</th>{cells}</tr>")
    head = "".join(f"<th scope='col'>{title}</th>" for title, _ in _COLUMNS)
    return (
        "<h2>Stages</h2><p class='sub'>Precision and recall are those of the stage's tags against the truth; "
        "mAP is that of the stage's model on held-out images.</p>"
        f"<div class='wide'><table><thead><tr><th scope='col'>stage</th>{head}</tr></thead>"
        f"<tbody>{''.join(rows)}</tbody></table></div>"
    )


def _step_section(report: Mapping[str, Any]) -> str:
    stages = report.get("stages", [])
    tags = [stage for stage in stages if stage.get("precision") is not None and stage.get("recall") is not None]
    models = [stage for stage in stages if stage.get("mAP") is not None]
    charts = []
    if tags:
        series = [("precision", "var(--a)"), ("recall", "var(--b)")]
        charts.append(_bars("What each step did to the tags", tags, series))
    if models:
        charts.append(_bars("What each step did to the model", models, [("mAP", "var(--c)")]))
    return f"<h2>Steps</h2><div class='charts'>{''.join(charts)}</div>" if charts else ""


def _bars(title: str, stages: Sequence[Mapping[str, Any]], series: Sequence[tuple[str, str]]) -> str:
    """Horizontal bars, one group a stage, on an axis from 0 to 1."""
    left, width, bar, gap = 110, 300, 14, 14
    group = bar * len(series) + gap
    height = group * len(stages) + 24
    marks = []
    for tick in (0, 0.25, 0.5, 0.75, 1):
        x = left + width * tick
        marks.append(f'<line class="grid" x1="{x}" y1="0" x2="{x}" y2="{height - 20}"/>')
        marks.append(f'<text class="tick" x="{x}" y="{height - 5}" text-anchor="middle">{tick:g}</text>')
    for index, stage in enumerate(stages):
        top = index * group + gap / 2
        middle = top + bar * len(series) / 2 + 4
        marks.append(f'<text x="{left - 8}" y="{middle}" text-anchor="end">{escape(stage["stage"])}</text>')
        for row, (name, colour) in enumerate(series):
            value = min(max(float(stage[name]), 0.0), 1.0)
            y = top + row * bar
            marks.append(f'<rect x="{left}" y="{y}" width="{width * value:.1f}" height="{bar - 2}" fill="{colour}"/>')
            marks.append(f'<text class="tick" x="{left + width * value + 5:.1f}" y="{y + 10}">{value:.3f}</text>')
    key = "".join(f'<span><i style="background:{colour}"></i>{name}</span>' for name, colour in series)
    return (
        f"<figure><figcaption>{escape(title)}<span class='key'>{key}</span></figcaption>"
        f'<svg viewBox="0 0 {left + width + 50} {height}" role="img" aria-label="{escape(title)}">'
        f"{''.join(marks)}</svg></figure>"
    )


def _tag_section(report: Mapping[str, Any]) -> str:
    lines = [line for line in report.get("per_tag", []) if line.get("ap") is not None]
    lines.sort(key=lambda line: (not line["counted"], -line["ap"]))
    rows = "".join(_tag_row(line) for line in lines)
    missing = len(report.get("per_tag", [])) - len(lines)
    rare = sum(not line["counted"] for line in lines)
    notes = [f"Not listed, since no image has them: {missing}."] if missing else []
    notes += [f"Pale, since too rare to be averaged: {rare}."] if rare else []
    return (
        f"<h2>Tags</h2><p class='sub'>Best first; the dark mark on a bar is chance. {' '.join(notes)}</p>"
        "<div class='wide'><table class='tags'><thead><tr><th scope='col'>tag</th><th scope='col'>kind</th>"
        "<th scope='col' class='bar'>AP</th><th></th><th scope='col'>positives</th><th scope='col'>predicted</th>"
        "<th scope='col'>precision</th><th scope='col'>recall</th><th scope='col'>threshold</th></tr></thead>"
        f"<tbody>{rows}</tbody></table></div>"
    )


def _tag_row(line: Mapping[str, Any]) -> str:
    pale = "" if line["counted"] else " class='pale'"
    chance = min(line["prevalence"], 1.0)
    bar = (
        '<svg class="ap" viewBox="0 0 100 10" preserveAspectRatio="none" aria-hidden="true">'
        '<rect class="rail" width="100" height="10"/>'
        f'<rect width="{100 * line["ap"]:.1f}" height="10" fill="var(--c)"/>'
        f'<rect class="chance" x="{max(0.0, 100 * chance - 0.4):.1f}" width="0.8" height="10"/></svg>'
    )
    precision = _number(line["precision"] if line["predicted"] else None, 2)
    return (
        f"<tr{pale}><th scope='row'>{escape(line['tag'])}</th><td class='kind'>{escape(line['kind'])}</td>"
        f"<td class='bar'>{bar}</td><td>{line['ap']:.3f}</td><td>{line['num_positives']:,}</td>"
        f"<td>{line['predicted']:,}</td><td>{precision}</td><td>{line['recall']:.2f}</td>"
        f"<td>{line['threshold']:.2f}</td></tr>"
    )


def _finite(value: Any) -> Any:
    """The same tree with None for NaN and infinity, which JSON cannot hold."""
    if isinstance(value, Mapping):
        return {name: _finite(child) for name, child in value.items()}
    if isinstance(value, (list, tuple)):
        return [_finite(child) for child in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


_STYLE = """
:root{--ink:#1c2430;--soft:#5d6878;--line:#e3e7ec;--paper:#fff;--page:#f5f6f8;--a:#2f6fb3;--b:#d98a2b;--c:#2c8c73;
color-scheme:light dark}
@media (prefers-color-scheme:dark){:root{--ink:#e8ecf1;--soft:#9aa5b4;--line:#2c3440;--paper:#1a2029;--page:#12161c;
--a:#6aa5e0;--b:#e8aa58;--c:#57b89d}}
*{box-sizing:border-box}body{margin:0;background:var(--page);color:var(--ink);
font:15px/1.5 system-ui,-apple-system,"Segoe UI",Roboto,"DejaVu Sans",sans-serif}
main{max-width:1060px;margin:0 auto;padding:32px 20px 64px}
h1{font-size:28px;margin:0}h2{font-size:19px;margin:36px 0 4px}.sub,.note{color:var(--soft)}.sub{margin:2px 0 14px}
.note{font-size:12px;font-weight:400}
.cards{display:grid;grid-template-columns:repeat(auto-fit,minmax(170px,1fr));gap:12px}
.card,figure,.wide{background:var(--paper);border:1px solid var(--line);border-radius:8px}
.card{padding:12px 16px}.card .name{color:var(--soft);font-size:13px}.card .value{font-size:28px;font-weight:600;
font-variant-numeric:tabular-nums;line-height:1.25}
.wide{overflow-x:auto}table{border-collapse:collapse;width:100%;font-variant-numeric:tabular-nums}
th,td{padding:6px 12px;text-align:right;border-bottom:1px solid var(--line);white-space:nowrap}
tbody tr:last-child>*{border-bottom:0}thead th{color:var(--soft);font-size:13px;font-weight:500}
th:first-child{text-align:left}tbody th{font-weight:600}td.kind{text-align:left;color:var(--soft)}
.tags th:nth-child(2){text-align:left}.tags td,.tags th{padding:3px 12px}
td.bar,th.bar{text-align:left;width:34%;min-width:160px}
svg.ap{width:100%;height:10px;display:block;border-radius:2px}.rail{fill:var(--line)}.chance{fill:var(--ink)}
.pale{opacity:.5}.charts{display:grid;grid-template-columns:repeat(auto-fit,minmax(360px,1fr));gap:12px;margin-top:12px}
figure{margin:0;padding:14px 16px}figcaption{font-weight:600;margin-bottom:10px}
.key{float:right;font-weight:400;font-size:13px;color:var(--soft)}.key span{margin-left:12px}
.key i{display:inline-block;width:10px;height:10px;border-radius:2px;margin-right:5px}
figure svg{width:100%;height:auto;display:block}figure text{font-size:12px;fill:var(--ink)}
figure .tick{font-size:10.5px;fill:var(--soft)}.grid{stroke:var(--line)}
"""
