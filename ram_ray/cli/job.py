"""Runs of the recipe, whole or up to a stage, and ablations: from their options to an exit code."""

from __future__ import annotations

import logging
import time
from collections.abc import Collection, Sequence
from typing import TYPE_CHECKING

from ram_ray.cli.given_bundle import with_absolute_bundles
from ram_ray.cli.options import PRESET_NAMES, PRESETS, absolute
from ram_ray.config import RunConfig, load
from ram_ray.evaluation.sets.spec import SetSpec, is_named
from ram_ray.labels.lists import shipped_lists
from ram_ray.runtime import outcome
from ram_ray.runtime.screen import log_path, shown

if TYPE_CHECKING:
    from ram_ray.ablation.runs import Table
    from ram_ray.pipeline import FinalModel
    from ram_ray.runtime.artifacts import Run

logger = logging.getLogger(__name__)


def configure(
    preset: str | None,
    *,
    files: Sequence[str] = (),
    sets: Sequence[str] = (),
    train: Sequence[str] | None = None,
    held_out: Sequence[str] | None = None,
) -> RunConfig:
    """Make the configuration that the options ask for.

    Args:
        preset: name of a preset, or a YAML file; None: the defaults.
        files: YAML files whose settings win over the preset's.
        sets: `section.field=value` pairs, which win over the files.
        train: paths, globs or URIs of training shards; None: those of the settings.
        held_out: paths, globs or URIs of held-out shards, and named sets (`NAME=FILE[,option=value...]`); None: those
            of the settings.

    Returns:
        The configuration; its data and bundles are absolute paths, URIs, or Hugging Face ids.

    Raises:
        ValueError: for an unknown preset, an unknown field or a wrong value.
    """
    path = preset
    if preset and not preset.endswith((".yaml", ".yml")):
        if preset not in PRESET_NAMES:
            names = ", ".join(PRESET_NAMES)
            raise ValueError(f"--preset {preset}: no such preset; use one of {names}, or a YAML file")
        path = str(PRESETS / f"{preset}.yaml")
    config = load(path, files=files, sets=sets)
    named = [text for text in held_out or () if is_named(text)]
    plain = [text for text in held_out or () if text not in named]
    uris = {"train": train or config.data.train, "eval": plain or config.data.eval}
    data = {name: [absolute(uri) for uri in values] for name, values in uris.items()}
    shipped = shipped_lists()
    scored = {
        "sets": [
            SetSpec.parse(text).with_paths(absolute, shipped=shipped).to_text()
            for text in named or config.evaluate.sets
        ],
        "descriptions": config.evaluate.descriptions and absolute(config.evaluate.descriptions),
    }
    sections = {
        "data": config.data.model_copy(update=data),
        "evaluate": config.evaluate.model_copy(update=scored),
    }
    return with_absolute_bundles(config.model_copy(update=sections))


def execute(
    config: RunConfig,
    run: str | None,
    *,
    last: str,
    check: bool = False,
    keep_serving: bool = False,
    num_try_images: int = 0,
) -> int:
    """Check the configuration, join or start Ray, run the recipe, print the summary table.

    Args:
        config: of the run.
        run: path or URI of the run's folder; None: `runs/NAME`.
        last: name of the last stage.
        check: only report what would make the run fail.
        keep_serving: deploy the model at the end and serve it until Ctrl-C.
        num_try_images: number of held-out images to tag over HTTP at the end; 0: none.

    Returns:
        The exit code.
    """
    run_uri = absolute(run or f"runs/{config.name}")
    with shown():
        if problems := _find_problems(config, run_uri, last=last):
            for problem in problems:
                logger.error("%s", problem)
            return 2
        if check:
            logger.info("nothing is wrong: run %s at %s can start", config.name, run_uri)
            return 0
    runs: list[Run] = []  # none until Ray has started

    def work() -> None:
        from ram_ray.pipeline import run_recipe
        from ram_ray.reporting.run_log import RunLog
        from ram_ray.runtime import cluster
        from ram_ray.runtime.progress import worker_lines

        start = time.monotonic()
        cluster.start(num_cpus=config.resources.num_cpus, object_store_gb=config.resources.object_store_gb)
        log = RunLog()
        opened = log.open(run_uri, last=last)
        runs.append(opened)
        logger.info("run %s at %s, log %s", config.name, run_uri, log_path())
        with worker_lines():
            final = run_recipe(opened, config, log)
            logger.info("\n%s\n\n%.0f s in all, in %s", log.table(), time.monotonic() - start, run_uri)
            if final and (keep_serving or num_try_images):
                serve(opened, config, final, num_images=num_try_images or 3, keep_serving=keep_serving)

    def current_stage() -> str | None:
        return runs[0].current if runs else None

    return outcome.run(work, name=config.name, folder=run_uri, stage=current_stage)


def ablate(
    config: RunConfig, out: str, *, table: Table, num_seeds: int, rounds: int = 2, only: Collection[str] = ()
) -> int:
    """Join or start Ray, run an ablation, print its table.

    Args:
        config: of every run; the seeds begin with its own.
        out: path or URI of the folder for the results and for a run of each seed.
        table: as of `run_ablation`.
        num_seeds: number of seeds.
        rounds: as of `run_ablation`.
        only: as of `run_ablation`.

    Returns:
        The exit code, 1 if a seed failed.

    Raises:
        ValueError: if the configuration or the number of seeds does not fit the table.
    """
    from ram_ray.ablation.runs import check_config, format_result, run_ablation

    if num_seeds < 1:
        raise ValueError(f"--seeds {num_seeds}: at least one is needed")
    check_config(config, table=table, rounds=rounds, only=only)  # reports a mistake before Ray starts
    out_uri = absolute(out).rstrip("/")

    def work() -> int:
        from ram_ray.runtime import cluster
        from ram_ray.runtime.progress import worker_lines

        cluster.start(num_cpus=config.resources.num_cpus, object_store_gb=config.resources.object_store_gb)
        seeds = list(range(config.seed, config.seed + num_seeds))
        with worker_lines():
            result = run_ablation(config, out_uri, table=table, seeds=seeds, rounds=rounds, only=only)
        logger.info("\n%s\nin %s", format_result(result), out_uri)
        return 1 if result["failed"] else 0

    return outcome.run(work, name="ablation", folder=out_uri)


def serve(run: Run, config: RunConfig, final: FinalModel, *, num_images: int, keep_serving: bool) -> None:
    """Deploy the final model, tag held-out images over HTTP, and shut Serve down.

    Args:
        run: gets the tagged images.
        config: of the run.
        final: model of the run, and its held-out shards.
        num_images: number of held-out images to tag.
        keep_serving: serve until Ctrl-C before the shutdown.

    Raises:
        ValueError: if the port is taken, or Serve already runs on another port.
    """
    import ray.serve

    from ram_ray.data.shards import list_shards
    from ram_ray.serving.app import deploy
    from ram_ray.serving.examples import tag_examples

    url = deploy(final.model.path, config.serve)
    try:
        logger.info("the tagger answers at %s (page: %s/, API: %s/docs)", url, url, url)
        if final.held_out:
            layout = config.data.layout
            shard = list_shards(final.held_out[:1], images=config.data.images, layout=layout)[0]
            tag_examples(url, shard, folder=run.path("evaluation", "tried"), num_images=num_images, layout=layout)
        while keep_serving:
            time.sleep(3600)
    except KeyboardInterrupt:
        logger.info("stopping")
    finally:
        ray.serve.shutdown()


def _find_problems(config: RunConfig, run_uri: str, *, last: str) -> list[str]:
    from ram_ray.preflight.run import find_problems
    from ram_ray.runtime import cluster
    from ram_ray.runtime.capacity import cluster_capacity, machine_capacity

    if cluster.joins_cluster():
        cluster.start()
        capacity = cluster_capacity()
    else:
        capacity = machine_capacity(num_cpus=cluster.private_cluster_cpus(config.resources.num_cpus))
    return find_problems(config, run_uri, last=last, capacity=capacity)
