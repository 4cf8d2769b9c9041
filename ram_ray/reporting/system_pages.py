"""The pages of classes of each system of a benchmark, beside its tables: OUT/classes/SET/SYSTEM/."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial

from ram_ray.evaluation.benchmark import SetResult
from ram_ray.evaluation.class_details import write_details
from ram_ray.evaluation.set_stages import describe_measured
from ram_ray.evaluation.sets.prepare import EvalSet, RunTasks
from ram_ray.reporting.class_pages import BOUNDS, INDEX, Subject, write_class_pages
from ram_ray.reporting.thumbnails import cut_thumbnails, read_locations
from ram_ray.settings.runtime import Execution

Links = dict[str, dict[str, str]]  # set -> system -> path from the folder of the benchmark


def write_system_pages(results: Sequence[SetResult], out: str, *, run_tasks: RunTasks, execution: Execution) -> Links:
    """Write the pages of each system on each set; those of the same scores are not written again.

    Args:
        results: of the sets.
        out: folder of the benchmark.
        run_tasks: runs the work on blocks and parts of scores.
        execution: how images are read.

    Returns:
        Where the pages are.
    """
    links: Links = {}
    for result in results:
        eval_set = result.eval_set
        for name, measured in result.measured.items():
            manifest = measured.manifest
            place = f"classes/{eval_set.name}/{name}"
            details = f"{out}/{place}.parquet"
            write_details(describe_measured(result.folders[name], measured, run_tasks=run_tasks), details)
            subject = Subject(
                title=f"{name} on {eval_set.name}",
                subtitle=f"{manifest.images:,} images, {len(manifest.classes):,} classes",
                details=details,
                digest=f"{manifest.identity}-{measured.threshold:.6g}",
                back="../../../benchmark.html",
                back_text="benchmark",
            )
            cut = partial(_cut, eval_set=eval_set, execution=execution)
            write_class_pages(f"{out}/{place}", subject, cut=cut)
            links.setdefault(eval_set.name, {})[name] = f"{place}/{INDEX}"
    return links


def _cut(keys: Sequence[str], *, eval_set: EvalSet, execution: Execution) -> Mapping[str, bytes]:
    if not eval_set.has_images:
        return {}
    locations = read_locations(f"{eval_set.folder}/", execution=execution, partitioned=False)
    return cut_thumbnails(locations, keys, execution=execution, bounds=BOUNDS)
