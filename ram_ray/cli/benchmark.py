"""`python jobs/benchmark.py`: systems on evaluation sets, with the figures of papers beside."""

from __future__ import annotations

import json
import logging
from typing import Annotated

import typer

from ram_ray.cli.command import require
from ram_ray.cli.options import ConfigFiles, Sets

logger = logging.getLogger(__name__)


def benchmark(
    eval_sets: Annotated[
        list[str],
        typer.Option("--sets", metavar="NAME=FILE...", help="Evaluation sets; options follow after commas."),
    ],
    out: Annotated[str, typer.Option("--out", metavar="DIR", help="Folder or URI for scores and tables.")],
    model: Annotated[
        str | None, typer.Option("--model", metavar="BUNDLE", help="Your model: the system `ours`, a bundle or a run.")
    ] = None,
    systems: Annotated[
        list[str] | None,
        typer.Option("--systems", metavar="NAME=SOURCE...", help="Others: bundles, other models, predictions."),
    ] = None,
    descriptions: Annotated[
        str | None,
        typer.Option(
            "--descriptions",
            metavar="JSON",
            help="Texts by class: --model is scored twice, asked for other classes by its templates and by these.",
        ),
    ] = None,
    tune: Annotated[
        str, typer.Option("--tune", metavar="RULE", help="Threshold of a system: f1, balanced or precision=0.8.")
    ] = "f1",
    replicates: Annotated[
        int, typer.Option("--replicates", metavar="N", min=0, help="Of the bootstrap over images.")
    ] = 1000,
    config: ConfigFiles = None,
    sets: Sets = None,
) -> int:
    """Score systems on evaluation sets: benchmark.json, benchmark.md and benchmark.html.

    The first system is the one that the others are compared with. Scores that are there already are reused.
    """
    require("ray", extra="serve")
    from ram_ray.cli.compare import load_config, parse_sets, parse_systems
    from ram_ray.cli.options import absolute
    from ram_ray.evaluation.benchmark import run_benchmark
    from ram_ray.evaluation.benchmark_report import build_tree, to_markdown
    from ram_ray.evaluation.bootstrap import Resampling
    from ram_ray.evaluation.measure_scores import Measuring, on_cluster
    from ram_ray.evaluation.measures import Tuning
    from ram_ray.evaluation.systems.registry import make_system
    from ram_ray.reporting.benchmark_page import benchmark_page
    from ram_ray.reporting.system_pages import write_system_pages
    from ram_ray.runtime import cluster, outcome
    from ram_ray.runtime.artifacts import write_text

    if descriptions and not model:
        raise ValueError("--descriptions goes with --model; of other systems write NAME=SOURCE,descriptions=FILE")
    if not model and not systems:
        raise ValueError("name your model with --model, or systems with --systems NAME=SOURCE")
    settings, folder, tuning = load_config(config or (), sets or ()), absolute(out).rstrip("/"), Tuning.parse(tune)
    specs = parse_sets(eval_sets)
    ours = [f"ours={model}"] if model else []
    ours += [f"ours_described={model},descriptions={descriptions}"] if descriptions else []
    made = [make_system(spec) for spec in parse_systems([*ours, *(systems or ())])]
    measuring = Measuring(tuning, Resampling(replicates), settings.evaluate.min_positives)

    def work() -> None:
        resources = settings.resources
        cluster.start(num_cpus=resources.num_cpus, object_store_gb=resources.object_store_gb, dashboard=False)
        results = run_benchmark(made, specs, folder, config=settings, measuring=measuring)
        tree, run_tasks = build_tree(results, measuring), on_cluster(settings.execution.task_cpus)
        links = write_system_pages(results, folder, run_tasks=run_tasks, execution=settings.execution)
        write_text(f"{folder}/benchmark.json", json.dumps(tree, indent=1, ensure_ascii=False))
        write_text(f"{folder}/benchmark.md", to_markdown(tree))
        write_text(f"{folder}/benchmark.html", benchmark_page(tree, links))
        logger.info("written: %s/benchmark.html, benchmark.md, benchmark.json, classes/", folder)

    return outcome.run(work, name="benchmark", folder=None)
