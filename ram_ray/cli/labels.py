"""`ram-ray labels ...`: make, look at, compare and exchange label systems.

A label system is named by its file (JSON or CSV), by a list in one of the published forms, or by the folder of a run or
of its stage `label_system`.
"""

from __future__ import annotations

import argparse
import json
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import fsspec

from ram_ray.records import KINDS
from ram_ray.runtime.screen import print_line

if TYPE_CHECKING:
    from ram_ray.config import RunConfig
    from ram_ray.label_system import LabelSystem


def add_labels(commands: Any) -> None:
    """`ram-ray labels build|show|coverage|diff|import|export|annotations`."""
    parser = commands.add_parser("labels", help="make, look at, compare and exchange label systems")
    actions = parser.add_subparsers(dest="action", required=True, metavar="ACTION")
    _add_build(actions)

    show = actions.add_parser("show", help="a table in the terminal, or a page")
    show.add_argument("system", help="file, list, or run folder")
    show.add_argument("--kind", choices=KINDS)
    show.add_argument("--find", metavar="TEXT", help="labels with this in their name or a synonym")
    show.add_argument("--top", type=int, default=50, metavar="N", help="at most so many (0: all)")
    show.add_argument("--html", metavar="OUT", help="write the page with merges, examples and drops instead")
    show.set_defaults(run=run_show)

    coverage = actions.add_parser("coverage", help="which categories of lists are covered, and by what")
    coverage.add_argument("system", help="file, list, or run folder")
    coverage.add_argument("lists", nargs="*", metavar="LIST", help="files, or coco80, coco133 (the default)")
    coverage.add_argument("--wordnet", default="auto", help="auto, none, or the folder of its index files")
    coverage.add_argument("--json", action="store_true", help="one JSON object")
    coverage.set_defaults(run=run_coverage)

    diff = actions.add_parser("diff", help="what changed between two systems")
    diff.add_argument("old")
    diff.add_argument("new")
    diff.add_argument("--json", action="store_true", help="one JSON object")
    diff.set_defaults(run=run_diff)

    change = actions.add_parser("import", help="a published list to a label system with the same ids")
    change.add_argument("list", help="tag list, COCO JSON, OpenImages or ADE20k CSV")
    change.add_argument("out", help="label system: .json or .csv")
    change.add_argument("--kind", choices=KINDS, help="of names whose list says none (default: by dictionary)")
    change.set_defaults(run=run_export)

    export = actions.add_parser("export", help="a label system as CSV or JSON, by the ending of OUT")
    export.add_argument("list", metavar="system", help="file, list, or run folder")
    export.add_argument("out", help=".json or .csv")
    export.set_defaults(run=run_export, kind=None)

    released = actions.add_parser("annotations", help="the released RAM annotations (JSON) as annotations of a run")
    released.add_argument("json", help="list of {image_path, caption, union_label_id, parse_label_id}")
    released.add_argument("system", help="the label system that its ids are of, for example ram_tag_list.txt")
    released.add_argument("out", help="folder for the annotations")
    released.add_argument("--images", default="", metavar="URI", help="the folder that image_path starts from")
    released.set_defaults(run=run_annotations)


def _add_build(actions: Any) -> None:
    build = actions.add_parser("build", help="captions in text files to a label system, without pictures")
    build.add_argument("captions", nargs="+", help="text files, one caption a line (.txt, .gz), also globs")
    build.add_argument("--run", dest="run_uri", required=True, metavar="URI", help="the run's folder")
    build.add_argument("--config", action="append", default=[], metavar="YAML", help="settings, as for the jobs")
    build.add_argument("--set", action="append", default=[], metavar="SECTION.FIELD=VALUE", help="one setting")
    build.set_defaults(run=run_build)


def run_build(options: argparse.Namespace) -> int:
    """Parse captions and build the label system on Ray; what is done already is not done again."""
    from ram_ray.config import load
    from ram_ray.runtime import outcome

    config = load(files=options.config, sets=options.set)  # a mistake is told before Ray starts
    run_uri = options.run_uri if "://" in options.run_uri else str(Path(options.run_uri).absolute())
    return outcome.run(lambda: _build(options, config, run_uri), name="labels", folder=run_uri)


def _build(options: argparse.Namespace, config: RunConfig, run_uri: str) -> None:
    import ray

    from ram_ray.config import load
    from ram_ray.data.caption_files import collect_captions
    from ram_ray.labels.stages import build_labels, label, parse
    from ram_ray.runtime import cluster
    from ram_ray.runtime.artifacts import Run

    cluster.start(num_cpus=config.resources.num_cpus, object_store_gb=config.resources.object_store_gb)
    cores = int(ray.cluster_resources().get("CPU", 1))
    config = load(files=options.config, sets=[*resources_of(cores), *options.set])
    run = Run(run_uri)
    uris = [one if "://" in one else str(Path(one).absolute()) for one in options.captions]
    captions = collect_captions(run, config, uris)
    parsed = parse(run, config, captions)
    labels = build_labels(run, config, parsed)
    annotated = label(run, config, parsed, labels)
    counts = captions.counts
    print_line(f"captions: {counts['rows_in']:,} lines, {counts['rows_out']:,} parsed, {counts['rejected']:,} rejected")
    unread = ", ".join(f"{count:,} {reason}" for reason, count in parsed.counts["unread"].items())
    print_line(f"of these turned away by the parser: {unread or 'none'}")
    print_line(f"tags: {annotated.counts['tags']:,}, of which {annotated.counts['matched']:,} by words alone")
    print_line(
        f"labels: {labels.counts['labels']:,} of {labels.counts['names']:,} names, version {labels.counts['version']}"
    )
    print_line(f"page: {run.path('label_system.html')}")


def resources_of(cores: int) -> list[str]:
    """Settings for stages over captions alone on so many cores; what is read ahead of the parsers has a limit."""
    return [
        f"resources.shuffle_partitions={2 * max(1, cores)}",
        "resources.buffer_mb=128",
        "data.rows_per_block=4096",
    ]


def run_show(options: argparse.Namespace) -> int:
    """Print a table, or write the page."""
    system = load_system(options.system)
    if options.html:
        from ram_ray.labels.page import to_html

        page = to_html(system, _report(options.system), title=Path(options.system).name or "labels")
        with fsspec.open(options.html, "w", encoding="utf-8") as file:
            file.write(page)
        print(options.html)
        return 0
    chosen = [
        one
        for one in system.labels
        if (not options.kind or one.kind == options.kind)
        and (not options.find or any(options.find.lower() in name for name in (one.name, *one.synonyms)))
    ]
    shown = chosen[: options.top] if options.top > 0 else chosen
    print(table(shown, width=shutil.get_terminal_size((120, 24)).columns))
    kinds = ", ".join(f"{sum(one.kind == kind for one in system.labels):,} {kind}s" for kind in KINDS)
    print(f"\n{len(shown):,} of {len(chosen):,} shown; {len(system):,} labels ({kinds}), version {system.version}")
    return 0


def table(labels: Sequence[Any], *, width: int) -> str:
    """Labels as text of fixed width: id, name, kind, count, synonyms as far as they fit."""
    names = max([len(one.name) for one in labels] + [4])
    counts = max([len(f"{one.count:,}") for one in labels] + [5])
    lines = [f"{'id':>5}  {'name':<{names}}  {'kind':<9}  {'count':>{counts}}  synonyms"]
    for one in labels:
        line = f"{one.id:>5}  {one.name:<{names}}  {one.kind:<9}  {one.count:>{counts},}  {', '.join(one.synonyms)}"
        lines.append((line if len(line) <= width else line[: width - 1] + "…").rstrip())
    return "\n".join(lines)


def run_coverage(options: argparse.Namespace) -> int:
    """Say for each list which categories the system covers, and which not."""
    from ram_ray.captions.tables import load_lemmas
    from ram_ray.labels.coverage import Covering, say, total
    from ram_ray.labels.lists import read_list
    from ram_ray.labels.synonyms import shipped_synonyms
    from ram_ray.labels.wordnet import WordNet

    covering = Covering(
        load_system(options.system),
        lemmas=load_lemmas(),
        tables=shipped_synonyms(),
        senses=WordNet.find(options.wordnet),
    )
    lists = options.lists or ["coco80", "coco133"]
    coverages = [covering(Path(one).name, read_list(one)) for one in lists]
    print(json.dumps(total(coverages), indent=1) if options.json else "\n\n".join(say(one) for one in coverages))
    return 0


def run_diff(options: argparse.Namespace) -> int:
    """Say what changed; exit code 1 if anything did, as diff does."""
    from ram_ray.labels.compare import diff, say

    change = diff(load_system(options.old), load_system(options.new))
    print(json.dumps(change.to_dict(), indent=1) if options.json else say(change))
    return 0 if change.empty else 1


def run_export(options: argparse.Namespace) -> int:
    """Write a system, or a list with its ids, as JSON or CSV."""
    from ram_ray.labels.lists import to_csv

    if not options.out.lower().endswith((".json", ".csv")):
        raise ValueError(f"{options.out}: end the name with .json or .csv")
    system = load_system(options.list, kind=options.kind)
    text = to_csv(system) if options.out.lower().endswith(".csv") else system.to_json()
    with fsspec.open(options.out, "w", encoding="utf-8") as file:
        file.write(text)
    print(f"{options.out}: {len(system):,} labels, version {system.version}")
    return 0


def run_annotations(options: argparse.Namespace) -> int:
    """Turn the released annotations into a folder of `records.ANNOTATION` rows."""
    from ram_ray.interop.annotations import import_annotations

    counts = import_annotations(options.json, load_system(options.system), options.out, images=options.images)
    print(", ".join(f"{value:,} {name}" for name, value in counts.items()))
    return 0


def load_system(source: str, *, kind: str | None = None) -> LabelSystem:
    """The label system that a file, a list, or the folder of a run or a stage holds.

    Raises:
        ValueError: if there is none.
    """
    from ram_ray.labels.lists import read_system, shipped_lists
    from ram_ray.labels.ready import kind_guess

    def guess(name: str) -> str:
        from ram_ray.captions.tables import load_lemmas

        return kind or kind_guess(load_lemmas())(name)

    if source in shipped_lists():
        return read_system(source, kind_of=guess)
    fs, path = fsspec.url_to_fs(source)
    if fs.isdir(path):
        source = f"{source.rstrip('/')}/label_system.json"
        if not fs.exists(f"{path}/label_system.json"):
            raise ValueError(f"{source} is not there; the stage `labels` writes it")
    return read_system(source, kind_of=guess)


def _report(source: str) -> Any:
    """The build's report beside a system, or None."""
    from ram_ray.labels.report import BuildReport

    fs, path = fsspec.url_to_fs(source)
    folder = path if fs.isdir(path) else fs._parent(path)
    report = f"{folder}/label_report.json"
    if not fs.exists(report):
        print(f"{report} is not there: the page has labels alone, without merges and drops", file=sys.stderr)
        return None
    with fs.open(report, "r", encoding="utf-8") as file:
        return BuildReport.from_json(file.read())
