"""`ram-ray plan`: what a run will cost before it starts, constants of this machine, a plan beside a finished run."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated

import typer

from ram_ray.cli.command import require
from ram_ray.cli.options import AsJson, ConfigFiles, Preset, Sets, absolute

if TYPE_CHECKING:
    from ram_ray.planning.cluster import Cluster
    from ram_ray.planning.constants import Constants

DEFAULT_FINETUNE = 113_000  # COCO's training images, which `finetune.shards` of the large presets selects
Nodes = Annotated[
    list[str] | None,
    typer.Option(
        "--nodes",
        metavar="KIND=COUNT[,FIELD=VALUE]...",
        help="Machines: p4de.24xlarge=1 c6i.16xlarge=8 head=1, or mine=2,cpus=32,memory=128 (default: this machine).",
    ),
]


def plan(
    preset: Preset = None,
    config: ConfigFiles = None,
    sets: Sets = None,
    images: Annotated[float | None, typer.Option("--images", metavar="N", help="Images to train on: 14e6.")] = None,
    shards: Annotated[int | None, typer.Option("--shards", metavar="N", help="Shards that they are in.")] = None,
    finetune_images: Annotated[
        float | None,
        typer.Option("--finetune-images", metavar="N", help="Images of finetune.shards (default: COCO's 113,000)."),
    ] = None,
    eval_images: Annotated[float, typer.Option("--eval-images", metavar="N", help="Held-out images.")] = 0,
    eval_shards: Annotated[int, typer.Option("--eval-shards", metavar="N", help="Held-out shards.")] = 1,
    nodes: Nodes = None,
    within: Annotated[
        float, typer.Option("--within", metavar="HOURS", min=0.01, help="A stage that takes longer is refused.")
    ] = 720.0,
    runs: Annotated[
        list[str] | None,
        typer.Option("--run", metavar="URI", help="An earlier run, whose seconds and contents are taken; repeatable."),
    ] = None,
    run_nodes: Annotated[
        list[str] | None,
        typer.Option("--run-nodes", metavar="KIND=COUNT...", help="Machines of --run or --compare (default: --nodes)."),
    ] = None,
    constants: Annotated[
        str | None, typer.Option("--constants", metavar="FILE", help="Constants that --measure has written.")
    ] = None,
    measure: Annotated[
        str | None, typer.Option("--measure", metavar="OUT", help="Measure constants on this machine, into a file.")
    ] = None,
    store: Annotated[
        str | None, typer.Option("--store", metavar="URI", help="With --measure: folder whose requests are timed.")
    ] = None,
    compare: Annotated[
        str | None, typer.Option("--compare", metavar="RUN", help="A plan beside the manifests of a run that was made.")
    ] = None,
    as_json: AsJson = False,
    markdown: Annotated[bool, typer.Option("--markdown", help="Write the table as Markdown.")] = False,
) -> int:
    """Tell what a run will cost, before it starts.

    For each stage: tasks, files, requests, memory, hours and dollars. A run that cannot end is refused: exit code 1,
    and one line with the first limit and the settings that avoid it. Nothing is started and no data is read.
    """
    require("ray", extra="train")
    values = _read_constants(constants)
    if measure is not None:
        return _measure(measure, preset, config or (), sets or (), store=store)
    if store is not None:
        raise ValueError("--store goes with --measure OUT")
    if run_nodes and not (runs or compare):
        raise ValueError("--run-nodes are the machines of --run or --compare")
    if as_json and markdown:
        raise ValueError("--json and --markdown are two forms; name one")
    from ram_ray.planning.cluster import read_cluster

    cluster = read_cluster(nodes or ())
    earlier_cluster = read_cluster(run_nodes) if run_nodes else cluster
    if compare is not None:
        return _compare(compare, earlier_cluster, values, as_json=as_json)
    if images is None or shards is None:
        raise ValueError("--images and --shards are needed, such as --images 14e6 --shards 1400")
    from ram_ray.cli.job import configure
    from ram_ray.planning.cost import make_plan
    from ram_ray.planning.limits import find_limits
    from ram_ray.planning.page import to_json, to_markdown, to_text
    from ram_ray.planning.plan import Workload
    from ram_ray.planning.recipe import plan_stages

    settings = configure(preset, files=config or (), sets=sets or ())
    selected = images if settings.finetune.shards == "*" else min(images, DEFAULT_FINETUNE)
    selected = selected if finetune_images is None else finetune_images
    if selected > images:
        raise ValueError(f"--finetune-images {selected:g}: there are {images:g} --images")
    workload = Workload(
        images=_whole("--images", images),
        shards=shards,
        finetune_images=_whole("--finetune-images", selected),
        held_out=_whole("--eval-images", eval_images, least=0),
        held_out_shards=eval_shards if eval_images else 0,
        labels=settings.labels.max_labels,
    )
    _check(workload.images, shards, "--shards")
    if eval_images:
        _check(workload.held_out, workload.held_out_shards, "--eval-shards")
    measured = None
    if runs:
        from ram_ray.planning.earlier_run import content_constants, measured_seconds, plan_run, read_run

        earlier = [read_run(absolute(uri)) for uri in runs]
        values = content_constants(max(earlier, key=lambda run: run.workload.images), values)
        measured = measured_seconds([(run, plan_run(run, earlier_cluster, values)) for run in earlier])
    stages = plan_stages(settings, workload, cluster, values)
    max_cpus = settings.resources.max_cpus
    made = make_plan(stages, workload, cluster, values, measured=measured, max_cpus=max_cpus)
    limits = find_limits(made, settings, within_hours=within)
    if as_json:
        print(json.dumps(to_json(made, limits), indent=1))
    else:
        print(to_markdown(made) if markdown else to_text(made, limits))
    refused = next((limit for limit in limits if limit.ends), None)
    if refused is None:
        return 0
    print(f"ram-ray plan: cannot end: {refused.line}", file=sys.stderr)
    return 1


def _read_constants(uri: str | None) -> Constants:
    from ram_ray.planning.constants import read_constants, shipped_constants

    return read_constants(absolute(uri)) if uri else shipped_constants()


def _compare(uri: str, cluster: Cluster, constants: Constants, *, as_json: bool) -> int:
    from ram_ray.planning.earlier_run import content_constants, plan_run, read_run
    from ram_ray.planning.page import compare, comparison_text

    run = read_run(absolute(uri))
    rows = compare(plan_run(run, cluster, content_constants(run, constants)), run)
    print(json.dumps(rows, indent=1) if as_json else comparison_text(rows))
    return 0


def _measure(out: str, preset: str | None, files: Sequence[str], sets: Sequence[str], *, store: str | None) -> int:
    from ram_ray.cli.job import configure
    from ram_ray.planning.constants import write_constants
    from ram_ray.planning.measure import measure_constants
    from ram_ray.runtime.storage import check_writable

    check_writable(os.path.dirname(absolute(out)) if "://" not in out else out.rpartition("/")[0])
    found = measure_constants(configure(preset, files=files, sets=sets), store=absolute(store) if store else None)
    write_constants(absolute(out), found.constants)
    for name, constant in found.constants.items():
        print(f"{name:24} {constant.value:12.4g} {constant.unit:24} {constant.origin}")
    for note in found.notes:
        print(note)
    print(f"written to {out}; plan with --constants {out}")
    return 0


def _whole(option: str, value: float, *, least: int = 1) -> int:
    if not least <= value <= 1e12 or value != int(value):
        raise ValueError(f"{option} {value:g}: write a whole number from {least} to 1e12, such as 14e6")
    return int(value)


def _check(images: int, shards: int, option: str) -> None:
    if not 1 <= shards <= images:
        raise ValueError(f"{option} {shards}: write a number from 1 to that of the images, {images:,}")
