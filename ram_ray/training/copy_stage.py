"""The stage `copies_SIDE`: smaller copies of all images, in the order of training, for trainings with `copy_side`.

Without it a training reads images where they are: near neighbours in a file of the data by one request, and pixels that
no crop needs. With it the data is read once; then a bucket's images are a file, of a few MB, whatever files they came
from. Trainings with the same `copy_side` and `shards` share the stage.

    SAMPLE rows -> table of their places, in buckets -> one task for each bucket -> COPIES rows and images (`copies`)

The buckets are those of a training table with the same seed and number of rows, so a training finds the copies of a
bucket under its number.
"""

from __future__ import annotations

import pyarrow as pa
import pyarrow.compute as pc
import ray.data

from ram_ray.config import RunConfig
from ram_ray.results import CopiedImages, Samples
from ram_ray.runtime.annotate import reject_counted
from ram_ray.runtime.artifacts import Run, exists
from ram_ray.runtime.cluster import configure_data
from ram_ray.runtime.progress import progress
from ram_ray.runtime.rows import add_up, count_reasons, set_limits, to_pairs
from ram_ray.runtime.worker_log import send_to_driver
from ram_ray.settings.section import StageSettings
from ram_ray.settings.training import TrainConfig
from ram_ray.training.copies import copies_name, copy_bucket, index_uri, read_copies
from ram_ray.training.rows import located_rows
from ram_ray.training.table import RowSelection, make_table


class CopySettings(StageSettings):
    """All that the copies depend on, beside the images."""

    side: int
    shards: str
    seed: int

    @classmethod
    def from_config(cls, config: RunConfig, train: TrainConfig) -> CopySettings:
        """Take the settings out of the configuration of the run.

        Args:
            config: of the run.
            train: section of a training with `copy_side`.

        Returns:
            The settings.
        """
        assert train.copy_side
        return cls(side=train.copy_side, shards=train.shards, seed=config.seed)


def copy_images(run: Run, config: RunConfig, train: TrainConfig, samples: Samples) -> CopiedImages:
    """Run the stage `copies` for a training; a bucket that a killed call finished is not copied again.

    Args:
        run: gets the stage's folder.
        config: of the run.
        train: section of a training with `copy_side`.
        samples: the images.

    Returns:
        The copies.
    """
    settings, execution = CopySettings.from_config(config, train), config.execution
    stage = run.stage(copies_name(settings.side), CopiedImages, settings=settings, inputs=[samples])
    if stage.result:
        return stage.result
    table = make_table(
        f"{stage.work}/table",
        {samples.path: located_rows},
        selection=RowSelection(settings.shards),
        num_rows=samples.rows_out,
        seed=settings.seed,
        execution=execution,
    )
    configure_data()
    with progress(stage.name, total=table.num_rows) as add:

        def copy(block: pa.Table) -> pa.Table:
            send_to_driver()
            (bucket,) = block["bucket"].to_pylist()
            if exists(index_uri(stage.path, bucket)):
                copies = read_copies(stage.path, bucket)
            else:
                rows = table.read(bucket)
                copies = copy_bucket(rows, stage.path, bucket, side=settings.side, limits=execution.limits)
            add(len(copies))
            return to_pairs({**count_reasons(copies), "nbytes": pc.sum(copies["nbytes"]).as_py() or 0})

        buckets = [{"bucket": bucket} for bucket, num_rows in enumerate(table.buckets) if num_rows]
        dataset = ray.data.from_items(buckets, override_num_blocks=min(len(buckets), 1000))
        set_limits(dataset, execution=execution)
        counts = add_up(dataset.map_batches(copy, batch_format="pyarrow", batch_size=1, num_cpus=execution.task_cpus))
    rows, rejected = reject_counted(stage, counts, execution=execution, partitioned=False)
    expected = samples.rows_out if settings.shards == "*" else table.num_rows
    assert rows == expected, f"copies: {expected} rows in, {rows} out"
    return stage.finish(
        rows_in=rows,
        rows_out=rows - rejected,
        rejected=rejected,
        nbytes=int(counts["nbytes"]),
        buckets=len(table.buckets),
    )
