"""How often captions write a name with a capital inside a sentence: "Titan" is a name, "watch" is not.

Only captions whose capitals tell something are counted (`captions.names.sentence_words`): not titles, and not captions
without capitals. So a name of lower-case captions is found where other captions mention it in a sentence.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping

import pyarrow as pa

from ram_ray.captions.names import is_kept, sentence_words
from ram_ray.data.sources import source_of
from ram_ray.labels.names import Key
from ram_ray.labels.parsed_rows import parsed_captions

CAPITALS = pa.schema(
    [
        ("name", pa.string()),
        ("kind", pa.string()),
        ("source", pa.string()),
        ("capital", pa.int64()),  # captions that write it with a capital inside a sentence
        ("inside", pa.int64()),  # captions that mention it inside a sentence
    ]
)
MIN_MENTIONS = 5  # inside sentences; a name with fewer is no name of persons, brands or places
_ENDINGS = ("", "s", "es")  # plurals of a lemma


def count_capitals(block: pa.Table) -> pa.Table:
    """Count the captions that mention each name inside a sentence, and those that write it with a capital.

    Args:
        block: `records.PARSED` rows with "captions", "parsed", "rejected_captions", "reason" and "shard".

    Returns:
        A table with the schema CAPITALS.
    """
    counts: dict[tuple[Key, str], list[int]] = defaultdict(lambda: [0, 0])
    for row in block.to_pylist():
        if row["reason"] is not None:
            continue
        source = source_of(row["shard"])
        for caption in parsed_captions(row):
            names = [key for key in caption.names if key[1] != "action"]
            words = sentence_words(caption.text) if names else {}
            for key in set(names):
                head = key[0].rpartition(" ")[2]
                written = next((words[head + ending] for ending in _ENDINGS if head + ending in words), None)
                if written is not None and not is_kept(head):
                    counts[key, source][0] += written
                    counts[key, source][1] += 1
    rows = [
        {"name": name, "kind": kind, "source": source, "capital": capital, "inside": inside}
        for ((name, kind), source), (capital, inside) in counts.items()
    ]
    return pa.Table.from_pylist(rows, schema=CAPITALS)


def capital_shares(counts: Mapping[Key, tuple[int, int]]) -> dict[Key, float]:
    """Share of captions that write a name with a capital.

    Args:
        counts: (name, kind) -> captions with a capital inside a sentence, and captions inside a sentence.

    Returns:
        (name, kind) -> share, 0 to 1, of the names that `MIN_MENTIONS` captions mention inside a sentence.
    """
    return {key: capital / inside for key, (capital, inside) in counts.items() if inside >= MIN_MENTIONS}
