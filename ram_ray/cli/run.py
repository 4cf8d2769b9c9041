"""`ram-ray run` and `ram-ray evaluate`, and the programs of `jobs/` that run the recipe or a part of it.

The programs declare the same options and call the same functions (`ram_ray.cli.job`), which are imported when a command
runs: the help of `ram-ray` is quick.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Literal, NoReturn, get_args

import typer

from ram_ray.cli.command import require, run_job
from ram_ray.cli.options import (
    AddLabels,
    Check,
    ConfigFiles,
    GivenModel,
    GivenRevision,
    HeldOut,
    Preset,
    RunUri,
    Serve,
    Sets,
    Train,
    TryOut,
)

Stage = Literal[
    "shards", "represent", "parse", "labels", "pretrain", "generate", "clean", "retrain", "finetune", "evaluate"
]
STAGE_NAMES = ", ".join(get_args(Stage))


def run(
    preset: Preset = None,
    until: Annotated[Stage, typer.Option(metavar="STAGE", help=f"The last stage: {STAGE_NAMES}.")] = "evaluate",
    config: ConfigFiles = None,
    sets: Sets = None,
    train: Train = None,
    held_out: HeldOut = None,
    run_uri: RunUri = None,
    check: Check = False,
    serve: Serve = False,
    try_out: TryOut = 0,
) -> int:
    """Run the recipe, whole or up to a stage.

    Shards in, an evaluated tagger out. Finished stages are reused. Without --data the training shards are drawn scenes.
    """
    require("ray", extra="train")
    if serve or try_out:
        require("fastapi", extra="serve")
    from ram_ray.cli import job

    if until != "evaluate" and (serve or try_out):
        raise ValueError(f"--serve and --try need the finetuned model; leave out --until {until}")
    settings = job.configure(preset, files=config or (), sets=sets or (), train=train, held_out=held_out)
    return job.execute(settings, run_uri, last=until, check=check, keep_serving=serve, num_try_images=try_out)


def evaluate(
    preset: Preset = None,
    config: ConfigFiles = None,
    sets: Sets = None,
    train: Train = None,
    held_out: HeldOut = None,
    run_uri: RunUri = None,
    check: Check = False,
    model: Annotated[
        str | None, typer.Option("--model", metavar="BUNDLE", help="With --calibrate: the bundle, which is changed.")
    ] = None,
    calibrate: Annotated[
        str | None,
        typer.Option(
            "--calibrate",
            metavar="GOAL",
            help="Set the thresholds of --model by the labels of --eval: precision=0.9, recall=0.8 or f1.",
        ),
    ] = None,
    compare: Annotated[
        list[str] | None,
        typer.Option(
            "--compare", metavar="OLD NEW", help="Which labels got better or worse: bundles, runs, predictions."
        ),
    ] = None,
    out: Annotated[
        str | None,
        typer.Option("--out", metavar="DIR", help="With --compare: for scores and pages (default: compare)."),
    ] = None,
    replicates: Annotated[
        int | None,
        typer.Option(
            "--replicates", metavar="N", min=20, help="With --compare: of the bootstrap over images (default: 1000)."
        ),
    ] = None,
) -> int:
    """Score the finetuned model, compare two, or calibrate one.

    It is scored on held-out shards; unfinished stages before it run first. --compare OLD NEW scores two models on
    --eval and names the labels that differ. --calibrate sets the thresholds of a bundle.
    """
    if compare is not None:
        require("ray", extra="serve")
        from ram_ray.cli.compare import compare_systems

        if preset or train or run_uri or check or model or calibrate:
            raise ValueError("--compare goes with --eval, --out, --replicates, --config and --set alone")
        return compare_systems(
            compare,
            held_out or (),
            out or "compare",
            replicates=replicates or 1000,
            files=config or (),
            sets=sets or (),
        )
    if out or replicates:
        raise ValueError("--out and --replicates go with --compare")
    if calibrate is None and model is None:
        return run(preset, "evaluate", config, sets, train, held_out, run_uri, check)
    require("ray", extra="serve")
    from ram_ray.cli.calibrate import calibrate_bundle

    if not (calibrate and model and held_out) or preset or train or run_uri or check:
        raise ValueError("--calibrate needs --model BUNDLE and --eval LABELLED, and goes with --config and --set alone")
    return calibrate_bundle(model, held_out, goal=calibrate, files=config or (), sets=sets or ())


def finetune(
    model: GivenModel = None,
    revision: GivenRevision = None,
    add_labels: AddLabels = None,
    preset: Preset = None,
    config: ConfigFiles = None,
    sets: Sets = None,
    train: Train = None,
    held_out: HeldOut = None,
    run_uri: RunUri = None,
    check: Check = False,
) -> int:
    """Run the recipe up to the stage finetune; with --model, finetune a given bundle.

    With --add-labels the bundle gets more labels, and those that it has stay as good as they are. The settings that
    --model makes win over the preset and the files, and --set over them.
    """
    from ram_ray.cli.given_bundle import finetune_sets

    if model is None and (add_labels or revision):
        raise ValueError("--add-labels and --revision need the bundle that they are about: give --model BUNDLE")
    fixed_sets = finetune_sets(model, revision=revision, add_labels=add_labels) if model else []
    return run(preset, "finetune", config, [*fixed_sets, *(sets or ())], train, held_out, run_uri, check)


def full_pipeline(
    preset: Preset = None,
    config: ConfigFiles = None,
    sets: Sets = None,
    train: Train = None,
    held_out: HeldOut = None,
    run_uri: RunUri = None,
    check: Check = False,
    serve: Serve = False,
    try_out: TryOut = 0,
) -> int:
    """Run the whole recipe: shards in, an evaluated tagger out, served over HTTP if asked."""
    return run(preset, "evaluate", config, sets, train, held_out, run_uri, check, serve, try_out)


def run_stage(last: Stage, *, fixed_sets: Sequence[str] = (), description: str | None = None) -> NoReturn:
    """Run the recipe up to a stage with the options of `sys.argv`, and exit.

    Args:
        last: name of the last stage.
        fixed_sets: `section.field=value` pairs that `--set` may override.
        description: shown by `--help`.

    Raises:
        SystemExit: always, with the exit code.
    """

    def up_to_stage(
        preset: Preset = None,
        config: ConfigFiles = None,
        sets: Sets = None,
        train: Train = None,
        held_out: HeldOut = None,
        run_uri: RunUri = None,
        check: Check = False,
    ) -> int:
        return run(preset, last, config, [*fixed_sets, *(sets or ())], train, held_out, run_uri, check)

    up_to_stage.__doc__ = description
    raise SystemExit(run_job(up_to_stage))


Seeds = Annotated[int, typer.Option("--seeds", metavar="N", help="Number of seeds, from the configuration's own on.")]


def ablation(
    out: Annotated[
        str,
        typer.Option(
            "--out", metavar="URI", help="Folder for ablation.json (ablation_4.json), and a run for each seed."
        ),
    ],
    preset: Preset = None,
    config: ConfigFiles = None,
    sets: Sets = None,
    train: Train = None,
    held_out: HeldOut = None,
    seeds: Seeds = 3,
    table: Annotated[
        str, typer.Option("--table", metavar="4|5|heads", help="The paper's table, or heads beside ours.")
    ] = "5",
    rounds: Annotated[int, typer.Option("--rounds", metavar="1|2", help="Rounds of the data engine in table 5.")] = 2,
) -> int:
    """Run an ablation over seeds: table 5 (the data engine), table 4 (the model's parts), or heads beside ours.

    heads trains ML-Decoder and MKT on the same images as our head.
    """
    require("ray", extra="train")
    from ram_ray.cli import job

    tables: dict[str, Literal[4, 5, "heads"]] = {"4": 4, "5": 5, "heads": "heads"}
    if table not in tables:
        raise ValueError(f"--table {table}: use {', '.join(tables)}")
    settings = job.configure(preset, files=config or (), sets=sets or (), train=train, held_out=held_out)
    return job.ablate(settings, out, table=tables[table], num_seeds=seeds, rounds=rounds)


def stablerep(
    out: Annotated[
        str,
        typer.Option("--out", metavar="URI", help="Folder for ablation_stablerep.json, and a run for each seed."),
    ],
    preset: Preset = None,
    config: ConfigFiles = None,
    sets: Sets = None,
    train: Train = None,
    held_out: HeldOut = None,
    seeds: Seeds = 3,
    rows: Annotated[
        list[str] | None, typer.Option("--row", metavar="NAME", help="Only this row; may be repeated.")
    ] = None,
) -> int:
    """Compare SimCLR, CLIP, StableRep and StableRep+ on the same captions, by a linear probe and k-NN, over seeds.

    With --row the table has these rows alone, and gains are over the first of them. Give it an --out of its own.
    """
    require("ray", extra="train")
    from ram_ray.cli import job

    settings = job.configure(preset, files=config or (), sets=sets or (), train=train, held_out=held_out)
    return job.ablate(settings, out, table="stablerep", num_seeds=seeds, only=rows or ())
