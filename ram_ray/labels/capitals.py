"""How often captions write a name with a capital inside a sentence: "Titan" is a name, "watch" is not.

Only captions whose capitals tell something are counted (`captions.names.sentence_words`): not titles, and not captions
without capitals. So a name of lower-case captions is found where other captions mention it in a sentence.
"""

from __future__ import annotations

from collections import defaultdict

import pyarrow as pa

from ram_ray.captions.names import is_kept, sentence_words
from ram_ray.labels.names import Key
from ram_ray.labels.parsed_rows import parsed_captions
from ram_ray.runtime.rows import COUNTED_ROWS, read_rows
from ram_ray.settings.runtime import Execution

CAPITALS = pa.schema([("name", pa.string()), ("kind", pa.string()), ("capital", pa.int64()), ("inside", pa.int64())])
MIN_MENTIONS = 5  # inside sentences; a name with fewer is no name of persons, brands or places
_ENDINGS = ("", "s", "es")  # plurals of a lemma


def count_capitals(block: pa.Table) -> pa.Table:
    """Count the captions that mention each name inside a sentence, and those that write it with a capital.

    Args:
        block: `records.PARSED` rows with "captions", "parsed", "rejected_captions" and "reason".

    Returns:
        A table with the schema CAPITALS.
    """
    counts: dict[Key, list[int]] = defaultdict(lambda: [0, 0])
    for row in block.to_pylist():
        if row["reason"] is not None:
            continue
        for caption in parsed_captions(row):
            names = [key for key in caption.names if key[1] != "action"]
            words = sentence_words(caption.text) if names else {}
            for key in set(names):
                head = key[0].rpartition(" ")[2]
                written = next((words[head + ending] for ending in _ENDINGS if head + ending in words), None)
                if written is not None and not is_kept(head):
                    counts[key][0] += written
                    counts[key][1] += 1
    rows = [{"name": key[0], "kind": key[1], "capital": pair[0], "inside": pair[1]} for key, pair in counts.items()]
    return pa.Table.from_pylist(rows, schema=CAPITALS)


def read_capitals(path: str, *, execution: Execution) -> dict[Key, float]:
    """Share of captions that write a name with a capital, on Ray Data; only sums come to the driver.

    Args:
        path: folder of PARSED rows.
        execution: how the stages of the run are executed.

    Returns:
        (name, kind) -> share, 0 to 1, of the names that `MIN_MENTIONS` captions mention inside a sentence.
    """
    rows = (
        read_rows(
            path,
            execution=execution,
            columns=["captions", "parsed", "rejected_captions", "reason"],
            rows_per_block=COUNTED_ROWS,
        )
        .map_batches(count_capitals, batch_format="pyarrow", batch_size=None, num_cpus=execution.task_cpus)
        .groupby(["name", "kind"], num_partitions=execution.resources.shuffle_partitions)
        .sum(["capital", "inside"])
    )
    return {
        (row["name"], row["kind"]): row["sum(capital)"] / row["sum(inside)"]
        for row in rows.iter_rows()
        if row["sum(inside)"] >= MIN_MENTIONS
    }
