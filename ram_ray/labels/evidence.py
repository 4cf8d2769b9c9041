"""What captions say of labels: those with the words of a label, those where the parse agrees, a few examples.

The rows of a label meet in one task; what comes to the driver grows with the label system and not with the corpus.
"""

from __future__ import annotations

from collections import defaultdict
from typing import NamedTuple

import pyarrow as pa
import pyarrow.compute as pc

from ram_ray.captions.tables import load_lemmas
from ram_ray.label_system import LabelSystem
from ram_ray.labels.match import Matcher
from ram_ray.labels.parsed_rows import label_ids, parsed_captions
from ram_ray.runtime.annotate import caption_rows_per_block
from ram_ray.runtime.key_hash import hash_key
from ram_ray.runtime.per_process import PerProcess
from ram_ray.runtime.rows import read_rows
from ram_ray.settings.runtime import Execution

EVIDENCE = pa.schema(
    [
        ("id", pa.int32()),
        ("name", pa.string()),  # the label's name or a synonym, as captions write it; null on rows with an example
        ("matched", pa.int64()),  # captions that contain its words
        ("agreed", pa.int64()),  # of these, captions where the parse has the label
        ("example", pa.string()),  # a caption
        ("order", pa.int64()),  # hash of the example: the examples with the smallest hashes are selected
    ]
)
MIN_EVIDENCE = 5  # captions; a word in fewer captions is never marked as ambiguous
NUM_EXAMPLES = 3
MAX_ROWS = 2_000_000  # of which captions are compared; of more rows, those of some shards are read
MAX_EXAMPLE = 160  # characters


class Evidence(NamedTuple):
    """Counts and examples of a label in captions."""

    names: dict[str, tuple[int, int]]  # name or synonym -> captions with its words, and those where the parse agrees
    examples: list[str]


def find_evidence(block: pa.Table, system: LabelSystem, matcher: Matcher) -> pa.Table:
    """Compare the words of captions with their parse.

    Args:
        block: `records.PARSED` rows.
        system: the label system of the ids.
        matcher: finds names in the text.

    Returns:
        A table with the schema EVIDENCE: a row for each name in the captions, and `NUM_EXAMPLES` rows with examples
        for each label at most.
    """
    names: dict[tuple[int, str], list[int]] = defaultdict(lambda: [0, 0])
    examples: dict[int, dict[str, int]] = defaultdict(dict)
    for row in block.to_pylist():
        if row["reason"] is not None:
            continue
        for caption in parsed_captions(row):
            if caption.rejected:
                continue
            ids = label_ids(caption.names, system)
            for match in matcher.find(caption.text, caption.names):
                counts = names[match.id, match.name]
                counts[0] += 1
                counts[1] += match.id in ids
            for id in ids:
                _add_example(examples[id], caption.text[:MAX_EXAMPLE], id)
    rows = [
        {"id": id, "name": name, "matched": matched, "agreed": agreed}
        for (id, name), (matched, agreed) in names.items()
    ]
    rows += [
        {"id": id, "example": text, "order": order} for id, texts in examples.items() for text, order in texts.items()
    ]
    return pa.Table.from_pylist(rows, schema=EVIDENCE)


def add_evidence(rows: pa.Table) -> pa.Table:
    """Sum the EVIDENCE rows of a label over blocks.

    Args:
        rows: EVIDENCE rows of a single label.

    Returns:
        A table with the schema EVIDENCE, as `find_evidence` of all blocks together.
    """
    names = rows.filter(pc.is_valid(rows["name"]))
    names = names.group_by(["id", "name"]).aggregate([("matched", "sum"), ("agreed", "sum")])
    names = names.rename_columns({"matched_sum": "matched", "agreed_sum": "agreed"})
    texts = rows.filter(pc.is_valid(rows["example"]))
    orders = dict(zip(texts["example"].to_pylist(), texts["order"].to_pylist(), strict=True))
    id = rows["id"][0].as_py()
    smallest = sorted(orders.items(), key=lambda item: (item[1], item[0]))[:NUM_EXAMPLES]
    examples = [{"id": id, "example": text, "order": order} for text, order in smallest]
    return pa.Table.from_pylist([*names.to_pylist(), *examples], schema=EVIDENCE)


class EvidenceFinder:
    """PARSED rows to EVIDENCE rows, with a matcher for the life of a process."""

    def __init__(self, system: LabelSystem, *, max_chars: int) -> None:
        self._system = system
        self._matcher = Matcher(system, load_lemmas(), max_chars=max_chars, include_ambiguous=True)

    def __call__(self, block: pa.Table) -> pa.Table:
        """Compare the words of a block's captions with their parse.

        Args:
            block: PARSED rows.

        Returns:
            A table with the schema EVIDENCE.
        """
        return find_evidence(block, self._system, self._matcher)


def read_evidence(
    path: str, *, num_rows: int, execution: Execution, system: LabelSystem, max_caption_chars: int
) -> dict[int, Evidence]:
    """Compare the words of captions with their parse, on Ray Data.

    Args:
        path: folder of PARSED rows.
        num_rows: of them; the more, the larger the blocks, and of more than `MAX_ROWS` some shards are read.
        execution: how the stages of the run are executed.
        system: the label system of the ids.
        max_caption_chars: most characters of a caption that are read.

    Returns:
        Label id -> evidence; ids without evidence are omitted.
    """
    finder = PerProcess(EvidenceFinder, system, max_chars=max_caption_chars)
    share = evidence_share(num_rows)
    rows = (
        read_rows(
            path,
            execution=execution,
            columns=["captions", "parsed", "rejected_captions", "reason"],
            rows_per_block=caption_rows_per_block(round(share * num_rows), execution=execution),
            share=share,
        )
        .map_batches(finder, batch_format="pyarrow", batch_size=execution.rows_per_block, num_cpus=execution.task_cpus)
        .groupby("id", num_partitions=execution.resources.shuffle_partitions)
        .map_groups(add_evidence, batch_format="pyarrow", num_cpus=execution.task_cpus)
    )
    evidence: dict[int, Evidence] = {}
    for row in rows.iter_rows():
        label_evidence = evidence.setdefault(row["id"], Evidence({}, []))
        if row["name"] is not None:
            label_evidence.names[row["name"]] = (int(row["matched"]), int(row["agreed"]))
        else:
            label_evidence.examples.append(row["example"])
    return dict(sorted(evidence.items()))


def evidence_share(num_rows: int) -> float:
    """The share of the shards whose captions are compared.

    Args:
        num_rows: rows of all shards.

    Returns:
        Above 0, at most 1.
    """
    return min(1.0, MAX_ROWS / max(1, num_rows))


def _add_example(orders: dict[str, int], text: str, id: int) -> None:
    """Add a caption, and remove the largest hash: the result does not depend on how rows are divided into blocks."""
    orders[text] = hash_key(text, seed=id) >> 1
    if len(orders) > NUM_EXAMPLES:
        del orders[max(orders, key=lambda example: (orders[example], example))]


def ambiguous_names(evidence: Evidence, kind: str, *, agreement: float) -> tuple[str, ...]:
    """Names of a label whose words captions mostly use in another meaning.

    A single noun nearly always means its object; adjectives and verbs have more other uses ("a large group", "get
    hit"), so their share of captions without agreement must be half as large. Names of several words are not ambiguous,
    except for verbs.

    Args:
        evidence: of the label.
        kind: of the label.
        agreement: least share, 0 to 1: captions whose parse has the label, of the captions with the word.

    Returns:
        The ambiguous names, sorted.
    """
    min_agreement = agreement if kind in ("object", "scene") else (1 + agreement) / 2
    return tuple(
        sorted(
            name
            for name, (matched, agreed) in evidence.names.items()
            if matched >= MIN_EVIDENCE
            and agreed < min_agreement * matched
            and (kind == "action" or not (" " in name or "-" in name))
        )
    )
