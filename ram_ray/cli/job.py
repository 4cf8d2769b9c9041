"""The command line that every job of the recipe shares: a preset, some settings, and how far to go."""

from __future__ import annotations

import argparse
import os
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from ram_ray.config import RunConfig, load
from ram_ray.runtime import outcome
from ram_ray.runtime.screen import log_path, print_error, print_line

if TYPE_CHECKING:
    from ram_ray.pipeline import Pipeline

PRESETS = Path(__file__).resolve().parents[1] / "presets"


def main(last: str, *, sets: Sequence[str] = (), description: str = "") -> None:
    """Run the recipe up to the stage `last`, with the options of `sys.argv`, and exit as `outcome` says."""
    raise SystemExit(execute(parser(description).parse_args(), last=last, sets=sets))


def parser(description: str, *, run: bool = True) -> argparse.ArgumentParser:
    """The options of every job; without `run` those of one that makes several runs."""
    names = sorted(path.stem for path in PRESETS.glob("*.yaml"))
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--preset", help=f"a whole run: {', '.join(names)}, or a YAML file")
    parser.add_argument("--config", action="append", default=[], metavar="YAML", help="settings over the preset's")
    parser.add_argument("--set", action="append", default=[], metavar="SECTION.FIELD=VALUE", help="one setting")
    parser.add_argument("--data", nargs="+", metavar="GLOB", help="training shards: tar, Parquet, or folders")
    parser.add_argument("--eval", nargs="+", metavar="GLOB", help="held-out shards to score on")
    if run:
        parser.add_argument("--run", metavar="URI", help="the run's folder (default: runs/NAME)")
        parser.add_argument("--check", action="store_true", help="say what would end the run before its end, and stop")
    return parser


def configure(options: argparse.Namespace, *, sets: Sequence[str] = ()) -> RunConfig:
    """The configuration that the options ask for.

    Raises:
        ValueError: for an unknown preset, an unknown field or a wrong value.
    """
    preset = options.preset
    if preset and not preset.endswith((".yaml", ".yml")):
        preset = PRESETS / f"{preset}.yaml"
        if not preset.is_file():
            names = ", ".join(sorted(path.stem for path in PRESETS.glob("*.yaml")))
            raise ValueError(f"--preset {options.preset}: no such preset; use one of {names}, or a YAML file")
    config = load(preset, files=options.config, sets=[*sets, *options.set])
    data = {name: [_absolute(uri) for uri in uris] for name, uris in _uris(options, config).items()}
    return config.model_copy(update={"data": config.data.model_copy(update=data)})


def execute(options: argparse.Namespace, *, last: str, sets: Sequence[str] = ()) -> int:
    """Configure, join or start Ray, run the recipe, print the closing table; returns the exit code."""
    try:
        config = configure(options, sets=sets)
    except ValueError as error:
        print_error(f"error: {error}")
        return 2
    run_uri = _absolute(options.run or f"runs/{config.name}")
    if problems := _find_problems(config, run_uri, last=last):
        for problem in problems:
            print_error(f"error: {problem}")
        return 2
    if options.check:
        print_line(f"nothing is wrong: run {config.name} at {run_uri} can start")
        return 0
    running: list[Pipeline] = []

    def work() -> None:
        from ram_ray.pipeline import Pipeline
        from ram_ray.runtime import cluster
        from ram_ray.runtime.progress import worker_lines

        start = time.monotonic()
        cluster.start(num_cpus=config.resources.num_cpus, object_store_gb=config.resources.object_store_gb)
        pipeline = Pipeline(config, run_uri, last=last)
        running.append(pipeline)
        print_line(f"run {config.name} at {run_uri}, log {log_path()}")
        with worker_lines():
            pipeline()
            print_line(f"\n{pipeline.table()}\n\n{time.monotonic() - start:.0f} s in all, in {run_uri}")
            if getattr(options, "serve", False) or getattr(options, "try_out", 0):
                serve(pipeline, tried=options.try_out or 3, stay=options.serve)

    def stage() -> str | None:
        return running[0].run.current if running else None

    return outcome.run(work, name=config.name, folder=run_uri, stage=stage)


def ablate(options: argparse.Namespace) -> int:
    """Configure, join or start Ray, run an ablation, print its table; returns the exit code, 1 if a seed failed."""
    from ram_ray.ablation.runs import closing_words, prepare, run_ablation

    try:
        if options.seeds < 1:
            raise ValueError(f"--seeds {options.seeds}: at least one is needed")
        config = configure(options)
        prepare(config, table=options.table)  # a mistake is told before Ray starts
    except ValueError as error:
        print_error(f"error: {error}")
        return 2
    out_uri = _absolute(options.out).rstrip("/")

    def work() -> int:
        from ram_ray.runtime import cluster
        from ram_ray.runtime.progress import worker_lines

        cluster.start(num_cpus=config.resources.num_cpus, object_store_gb=config.resources.object_store_gb)
        seeds = list(range(config.seed, config.seed + options.seeds))
        with worker_lines():
            result = run_ablation(config, out_uri, table=options.table, seeds=seeds)
        print_line(f"\n{closing_words(result)}\nin {out_uri}")
        return 1 if result["failed"] else 0

    return outcome.run(work, name="ablation", folder=out_uri)


def serve(pipeline: Pipeline, *, tried: int, stay: bool) -> None:
    """Deploy the newest model; tag `tried` held-out pictures over HTTP; stay, or take it down again."""
    from ram_ray.serving.app import deploy
    from ram_ray.serving.client import try_out

    assert pipeline.model is not None
    import ray.serve

    url = deploy(pipeline.model.path, pipeline.config.serve)
    try:
        print_line(f"the tagger answers at {url} (page: {url}/, API: {url}/docs)")
        if pipeline.scenes:
            try_out(url, pipeline.scenes[0], folder=pipeline.run.path("evaluation", "tried"), count=tried)
        while stay:
            time.sleep(3600)
    except KeyboardInterrupt:
        print_line("stopping")
    finally:
        ray.serve.shutdown()


def _find_problems(config: RunConfig, run_uri: str, *, last: str) -> list[str]:
    from ram_ray.preflight.run import find_problems
    from ram_ray.runtime import cluster
    from ram_ray.runtime.capacity import cluster_capacity, machine_capacity

    if cluster.joins():
        cluster.start()
        capacity = cluster_capacity()
    else:
        capacity = machine_capacity(num_cpus=cluster.own_cpus(config.resources.num_cpus))
    return find_problems(config, run_uri, last=last, capacity=capacity)


def _uris(options: argparse.Namespace, config: RunConfig) -> dict[str, list[str]]:
    return {"train": options.data or config.data.train, "eval": options.eval or config.data.eval}


def _absolute(uri: str) -> str:
    return uri if "://" in uri else os.path.abspath(uri)
