"""Contract: the columns of the engine and of evaluation survive Ray Data: rows are the same after a numpy batch, and
blocks of tags are gathered over blocks of rows."""

import numpy as np
import pyarrow as pa

from ram_ray.data_engine.generate import to_rows
from ram_ray.evaluation.metrics import block_arrays, per_tag, to_tag_blocks
from ram_ray.records import ANNOTATION, to_table
from tests.data_engine.test_generate import annotation


def test_annotations_come_back_from_a_numpy_batch_of_ray(ray_cluster):
    import ray.data

    rows = [
        annotation("s/1", removed=[{"id": 1, "reason": "outlier", "score": 0.5, "round": 1}], truth=[0]),
        annotation("s/2", captions=[], tags=[], truth=[]),
        annotation("s/3", captions=None, tags=None, removed=None, reason="truncated", detail="cut"),
    ]
    for part in (rows, rows[1:2], rows[2:]):
        dataset = ray.data.from_arrow(to_table(part, ANNOTATION)).map_batches(
            lambda batch: to_table(to_rows(batch), ANNOTATION), batch_format="numpy"
        )
        assert sorted(dataset.take(9), key=lambda row: row["key"]) == part


def test_blocks_of_tags_are_gathered_over_blocks_of_rows(ray_cluster):
    import ray.data

    rng = np.random.default_rng(1)
    scores, targets = rng.random((90, 11)).astype(np.float32), rng.random((90, 11)) < 0.3
    thresholds = np.full(11, 0.5)
    parts = [to_tag_blocks(scores[i : i + 30], targets[i : i + 30], tags_per_block=4) for i in (0, 30, 60)]

    def reduce(group: pa.Table) -> pa.Table:
        of_block, of_targets, first = block_arrays(group, num_tags=11, tags_per_block=4)
        return pa.Table.from_pylist(per_tag(of_block, of_targets, thresholds=thresholds, first=first))

    groups = ray.data.from_arrow(parts).groupby("block", num_partitions=2)
    reduced = groups.map_groups(reduce, batch_format="pyarrow")
    rows = sorted(reduced.take(50), key=lambda row: row["tag"])
    assert [row["ap"] for row in rows] == [row["ap"] for row in per_tag(scores, targets, thresholds=thresholds)]
