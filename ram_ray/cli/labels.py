"""`ram-ray labels ...`: build, show, compare, import and export label systems.

A label system is named by its file (JSON or CSV), by a list in one of the published forms, or by the folder of a run or
of its stage `label_system`.
"""

from __future__ import annotations

import json
import logging
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, get_args

import typer

from ram_ray.cli.command import Command, make_app, require
from ram_ray.cli.options import AsJson, ConfigFiles, Kind, Sets, absolute

if TYPE_CHECKING:
    from ram_ray.config import RunConfig
    from ram_ray.label_system import Label, LabelSystem
    from ram_ray.labels.report import BuildReport

logger = logging.getLogger(__name__)

app = make_app("Build, show, compare, import and export label systems.")

System = Annotated[str, typer.Argument(metavar="SYSTEM", help="File, list, or run folder.")]
KindFilter = Annotated[Kind | None, typer.Option("--kind", metavar="KIND", help=f"{', '.join(get_args(Kind))}.")]
Out = Annotated[str, typer.Argument(metavar="OUT", help="Label system: .json or .csv.")]


@app.command("build", cls=Command)
def build(
    captions: Annotated[
        list[str],
        typer.Argument(metavar="CAPTIONS", help="Text files, one caption a line (.txt, .gz), also globs."),
    ],
    run_uri: Annotated[str, typer.Option("--run", metavar="URI", help="The run's folder.")],
    config: ConfigFiles = None,
    sets: Sets = None,
) -> int:
    """Build a label system from captions in text files.

    Images are not needed. Finished stages are reused.
    """
    require("ray", extra="train")
    from ram_ray.config import load
    from ram_ray.data.caption_files import list_files
    from ram_ray.runtime import outcome

    # Report a mistake before Ray starts.
    settings = load(files=config or (), sets=sets or ())
    uris = [absolute(uri) for uri in captions]
    list_files(uris)
    folder = absolute(run_uri)

    def work() -> None:
        _build(uris, settings, folder, files=config or (), sets=sets or ())

    return outcome.run(work, name="labels", folder=folder)


def _build(uris: list[str], config: RunConfig, run_uri: str, *, files: Sequence[str], sets: Sequence[str]) -> None:
    import ray

    from ram_ray.config import load
    from ram_ray.data.caption_files import collect_captions
    from ram_ray.labels.parse_stage import parse
    from ram_ray.labels.stages import build_labels, label_captions
    from ram_ray.runtime import cluster
    from ram_ray.runtime.artifacts import Run

    cluster.start(num_cpus=config.resources.num_cpus, object_store_gb=config.resources.object_store_gb)
    cores = int(ray.cluster_resources().get("CPU", 1))
    config = load(files=files, sets=[*caption_stage_settings(cores), *sets])
    run = Run(run_uri)
    collected = collect_captions(run, config, uris)
    parsed = parse(run, config, collected)
    labels = build_labels(run, config, parsed)
    annotated = label_captions(run, config, parsed, labels)
    lines, usable, rejected = collected.rows_in, collected.rows_out, collected.rejected
    by_reason = ", ".join(f"{count:,} {reason}" for reason, count in parsed.rejected_captions.items())
    for line in (
        f"captions: {lines:,} lines, {usable:,} parsed, {rejected:,} rejected",
        f"of these rejected by the parser: {by_reason or 'none'}",
        f"tags: {annotated.tags:,}, of which {annotated.matched:,} by words alone",
        f"labels: {labels.labels:,} of {labels.names:,} names, version {labels.system_version}",
        f"page: {run.path('label_system.html')}",
    ):
        logger.info("%s", line)


def caption_stage_settings(cores: int) -> list[str]:
    """Make the settings for stages that read captions without images.

    Args:
        cores: number of CPU cores of the cluster.

    Returns:
        `section.field=value` pairs; they bound what Ray Data reads ahead of the parsers.
    """
    return [
        f"resources.shuffle_partitions={2 * max(1, cores)}",
        "resources.buffer_mb=128",
        "data.rows_per_block=4096",
    ]


@app.command("show", cls=Command)
def show(
    system: System,
    kind: KindFilter = None,
    find: Annotated[
        str | None, typer.Option("--find", metavar="TEXT", help="Labels with this in their name or a synonym.")
    ] = None,
    top: Annotated[int, typer.Option("--top", metavar="N", help="At most so many (0: all).")] = 50,
    html: Annotated[
        str | None,
        typer.Option("--html", metavar="OUT", help="Write the page with merges, examples and drops instead."),
    ] = None,
) -> int:
    """Show a label system as a table, or write its page."""
    loaded = load_system(system)
    if html:
        from ram_ray.labels.page import to_html

        _write(html, to_html(loaded, _load_report(system), title=Path(system).name or "labels"))
        print(html)
        return 0
    matching = [
        label
        for label in loaded.labels
        if (not kind or label.kind == kind)
        and (not find or any(find.lower() in name for name in (label.name, *label.synonyms)))
    ]
    shown = matching[:top] if top > 0 else matching
    print(table(shown, width=shutil.get_terminal_size((120, 24)).columns))
    kinds = ", ".join(f"{sum(label.kind == name for label in loaded.labels):,} {name}s" for name in get_args(Kind))
    print(f"\n{len(shown):,} of {len(matching):,} shown; {len(loaded):,} labels ({kinds}), version {loaded.version}")
    return 0


def table(labels: Sequence[Label], *, width: int) -> str:
    """Format labels as a table: id, name, kind, count, and synonyms as far as they fit.

    Args:
        labels: the rows.
        width: most characters of a line.

    Returns:
        Lines of text, the first with the column names.
    """
    name_width = max([len(label.name) for label in labels] + [4])
    count_width = max([len(f"{label.count:,}") for label in labels] + [5])
    lines = [f"{'id':>5}  {'name':<{name_width}}  {'kind':<9}  {'count':>{count_width}}  synonyms"]
    for label in labels:
        line = f"{label.id:>5}  {label.name:<{name_width}}  {label.kind:<9}  {label.count:>{count_width},}  "
        line += ", ".join(label.synonyms)
        lines.append((line if len(line) <= width else line[: width - 1] + "…").rstrip())
    return "\n".join(lines)


@app.command("coverage", cls=Command)
def coverage(
    system: System,
    lists: Annotated[
        list[str] | None, typer.Argument(metavar="LIST", help="Files, or coco80, coco133 (the default).")
    ] = None,
    wordnet: Annotated[
        str, typer.Option("--wordnet", metavar="DIR", help="auto, none, or the folder of its index files.")
    ] = "auto",
    as_json: AsJson = False,
) -> int:
    """Show which categories of lists a label system covers."""
    from ram_ray.captions.tables import load_lemmas
    from ram_ray.labels.coverage import CoverageFinder, coverages_to_dict, format_coverage
    from ram_ray.labels.lists import read_list
    from ram_ray.labels.synonyms import shipped_synonyms
    from ram_ray.labels.wordnet import WordNet

    covering = CoverageFinder(
        load_system(system), lemmas=load_lemmas(), tables=shipped_synonyms(), senses=WordNet.find(wordnet)
    )
    coverages = [covering(Path(name).name, read_list(name)) for name in lists or ["coco80", "coco133"]]
    print(
        json.dumps(coverages_to_dict(coverages), indent=1)
        if as_json
        else "\n\n".join(format_coverage(result) for result in coverages)
    )
    return 0


@app.command("diff", cls=Command)
def diff(
    old: Annotated[str, typer.Argument(metavar="OLD", help="File, list, or run folder.")],
    new: Annotated[str, typer.Argument(metavar="NEW", help="The same.")],
    as_json: AsJson = False,
) -> int:
    """Show what changed between two label systems.

    The exit code is 1 if they differ.
    """
    from ram_ray.labels import compare

    change = compare.diff(load_system(old), load_system(new))
    print(json.dumps(change.to_dict(), indent=1) if as_json else compare.format_diff(change))
    return 0 if change.empty else 1


@app.command("import", cls=Command)
def import_list(
    source: Annotated[str, typer.Argument(metavar="LIST", help="Tag list, COCO JSON, OpenImages or ADE20k CSV.")],
    out: Out,
    kind: Annotated[
        Kind | None,
        typer.Option("--kind", metavar="KIND", help="Of names whose list says none (default: by dictionary)."),
    ] = None,
) -> int:
    """Turn a published list into a label system.

    The ids stay the same.
    """
    return _export(source, out, kind=kind)


@app.command("export", cls=Command)
def export_system(system: System, out: Out) -> int:
    """Write a label system as CSV or JSON.

    The suffix of OUT names the format.
    """
    return _export(system, out, kind=None)


def _export(source: str, out: str, *, kind: str | None) -> int:
    from ram_ray.labels.lists import to_csv

    if not out.lower().endswith((".json", ".csv")):
        raise ValueError(f"{out}: end the name with .json or .csv")
    system = load_system(source, kind=kind)
    _write(out, to_csv(system) if out.lower().endswith(".csv") else system.to_json())
    print(f"{out}: {len(system):,} labels, version {system.version}")
    return 0


def _write(uri: str, text: str) -> None:
    import fsspec

    with fsspec.open(uri, "w", encoding="utf-8") as file:
        file.write(text)


def load_system(source: str, *, kind: str | None = None) -> LabelSystem:
    """Load a label system from a file, a list, or the folder of a run or a stage.

    Args:
        source: path, URI, or name of a shipped list.
        kind: of names whose list says none; None: by dictionary.

    Returns:
        The label system.

    Raises:
        ValueError: if there is none.
    """
    import fsspec

    from ram_ray.labels.listed import make_kind_guesser
    from ram_ray.labels.lists import read_system, shipped_lists

    def kind_of(name: str) -> str:
        from ram_ray.captions.tables import load_lemmas

        return kind or make_kind_guesser(load_lemmas())(name)

    if source in shipped_lists():
        return read_system(source, kind_of=kind_of)
    fs, path = fsspec.url_to_fs(source)
    if fs.isdir(path):
        source = f"{source.rstrip('/')}/label_system.json"
        if not fs.exists(f"{path}/label_system.json"):
            raise ValueError(f"{source} does not exist; the stage `labels` writes it")
    return read_system(source, kind_of=kind_of)


def _load_report(source: str) -> BuildReport | None:
    """Load the build's report from the folder of a label system; None if there is none."""
    import fsspec

    from ram_ray.labels.report import BuildReport

    fs, path = fsspec.url_to_fs(source)
    folder = path if fs.isdir(path) else fs._parent(path)
    report = f"{folder}/label_report.json"
    if not fs.exists(report):
        print(f"{report} does not exist: the page has labels only, without merges and drops", file=sys.stderr)
        return None
    with fs.open(report, "r", encoding="utf-8") as file:
        return BuildReport.from_json(file.read())
