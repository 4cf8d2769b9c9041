"""Counts on Ray Data: captions that mention a name, and captions where the words of a label agree with the parse.

Two aggregations, each a pass over the rows, whose results grow with the vocabulary and not with the corpus:

    read_name_counts  parsed rows -> (name, kind, source) -> captions       input of the label system, how many captions
                                                                            a source has, and capitals
    read_evidence     parsed rows + the system -> evidence of each label    captions with its words, captions where
                                                                            the parse agrees, a few examples

Each block is counted with Arrow and gives at most a row for each name; Ray Data sums the blocks.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from functools import partial
from typing import NamedTuple

import pyarrow as pa
import pyarrow.compute as pc

from ram_ray.captions.tables import load_lemmas
from ram_ray.data.sources import source_of
from ram_ray.label_system import LabelSystem
from ram_ray.labels.capitals import CAPITALS, capital_shares, count_capitals
from ram_ray.labels.match import Matcher
from ram_ray.labels.names import Key
from ram_ray.labels.parsed_rows import label_ids, parsed_captions
from ram_ray.runtime.annotate import caption_rows_per_block
from ram_ray.runtime.key_hash import hash_key
from ram_ray.runtime.per_process import PerProcess
from ram_ray.runtime.rows import COUNTED_ROWS, read_rows
from ram_ray.settings.runtime import Execution

NAME_COUNTS = pa.schema([("name", pa.string()), ("kind", pa.string()), ("source", pa.string()), ("count", pa.int64())])
NUMBERS = ("count", "capital", "inside")
NAMED_NUMBERS = pa.schema([*NAME_COUNTS, *(CAPITALS.field(name) for name in NUMBERS[1:])])
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
ANY_NAME: Key = ("", "")  # name and kind of the NAME_COUNTS rows that count all captions of a source
MIN_EVIDENCE = 5  # captions; a word in fewer captions is never marked as ambiguous
NUM_EXAMPLES = 3
MAX_EXAMPLE = 160  # characters


def count_names(block: pa.Table) -> pa.Table:
    """Count the captions that mention each name; rejected rows are skipped.

    Args:
        block: `records.PARSED` rows.

    Returns:
        A table with the schema NAME_COUNTS.
    """
    block = block.filter(pc.is_null(block["reason"])).combine_chunks()
    if not len(block):
        return NAME_COUNTS.empty_table()
    sources = [source_of(shard) for shard in block["shard"].to_pylist()]
    tags = pc.list_flatten(block["parsed"])
    rows = pc.list_parent_indices(block["parsed"])
    mentions = pa.table(
        {
            "name": pc.struct_field(tags, "name"),
            "kind": pc.struct_field(tags, "kind"),
            "source": pc.take(pa.array(sources, pa.string()), rows),
            "row": rows,
            "caption": pc.struct_field(tags, "caption"),
        }
    )
    # A caption that repeats a name counts once.
    captions = mentions.group_by(["name", "kind", "source", "row", "caption"]).aggregate([])
    counts = captions.group_by(["name", "kind", "source"]).aggregate([([], "count_all")])
    return counts.rename_columns({"count_all": "count"}).select(NAME_COUNTS.names).cast(NAME_COUNTS)


class NameCounts(NamedTuple):
    """What the captions of a run say of names."""

    names: dict[Key, dict[str, int]]  # (name, kind) -> source -> captions that mention the name
    captions: dict[str, int]  # source -> captions
    capitals: dict[Key, float]  # (name, kind) -> share of captions that write it with a capital, see `capitals`


def count_block(block: pa.Table, *, with_capitals: bool) -> pa.Table:
    """Count the names, captions and capitals of a block.

    Args:
        block: `records.PARSED` rows.
        with_capitals: whether capitals are counted.

    Returns:
        A table with the columns of NAME_COUNTS and CAPITALS; a row has the numbers of one of them, and 0.
    """
    tables = [count_names(block), count_captions(block), *([count_capitals(block)] if with_capitals else [])]
    columns = [field.name for field in NAMED_NUMBERS]
    table = pa.concat_tables([*tables, NAMED_NUMBERS.empty_table()], promote_options="default").select(columns)
    for name in NUMBERS:
        index = table.schema.get_field_index(name)
        table = table.set_column(index, NAMED_NUMBERS.field(name), pc.fill_null(table[name], 0))
    return table


def read_name_counts(path: str, *, with_capitals: bool, execution: Execution, min_count: int = 1) -> NameCounts:
    """Count the captions that mention each name, and all captions, on Ray Data; only sums come to the driver.

    Args:
        path: folder of PARSED rows.
        with_capitals: whether capitals are counted; they need the words of captions.
        execution: how the stages of the run are executed.
        min_count: captions of a source that must mention a name; lower counts stay on the cluster.

    Returns:
        The counts.
    """
    columns = ["captions", "parsed", "reason", "shard", *(["rejected_captions"] if with_capitals else [])]
    rows = (
        read_rows(path, execution=execution, columns=columns, rows_per_block=COUNTED_ROWS)
        .map_batches(
            partial(count_block, with_capitals=with_capitals),
            batch_format="pyarrow",
            batch_size=None,
            num_cpus=execution.task_cpus,
        )
        .groupby(["name", "kind", "source"], num_partitions=execution.resources.shuffle_partitions)
        .sum(list(NUMBERS))
        .map_batches(
            partial(drop_rare, min_count=min_count),
            batch_format="pyarrow",
            batch_size=None,
            num_cpus=execution.task_cpus,
        )
    )
    counts: dict[Key, dict[str, int]] = defaultdict(dict)  # size of the vocabulary
    written: dict[Key, tuple[int, int]] = {}
    for row in rows.iter_rows():
        key = row["name"], row["kind"]
        count, capital, inside = (int(row[f"sum({name})"]) for name in NUMBERS)
        counts[key][row["source"]] = count
        if inside:
            before = written.get(key, (0, 0))
            written[key] = before[0] + capital, before[1] + inside
    captions = counts.pop(ANY_NAME, {})
    return NameCounts(dict(counts), dict(sorted(captions.items())), capital_shares(written))


def drop_rare(sums: pa.Table, *, min_count: int) -> pa.Table:
    """Leave out the names that few captions of a source mention.

    Args:
        sums: a row for each name, kind and source, with "name" and "sum(count)".
        min_count: least count that stays; those of `ANY_NAME` always do.

    Returns:
        The rows that stay.
    """
    return sums.filter(pc.or_(pc.greater_equal(sums["sum(count)"], min_count), pc.equal(sums["name"], ANY_NAME[0])))


def count_captions(block: pa.Table) -> pa.Table:
    """Count the captions of each source; rejected rows are skipped.

    Args:
        block: `records.PARSED` rows.

    Returns:
        A table with the schema NAME_COUNTS, whose name and kind are those of `ANY_NAME`.
    """
    block = block.filter(pc.is_null(block["reason"]))
    counts: Counter[str] = Counter()
    lengths = pc.list_value_length(block["captions"]).to_pylist()
    for shard, captions in zip(block["shard"].to_pylist(), lengths, strict=True):
        counts[source_of(shard)] += captions or 0
    name, kind = ANY_NAME
    rows = [{"name": name, "kind": kind, "source": source, "count": count} for source, count in counts.items()]
    return pa.Table.from_pylist(rows, schema=NAME_COUNTS)


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
        num_rows: of them; the more, the larger the blocks.
        execution: how the stages of the run are executed.
        system: the label system of the ids.
        max_caption_chars: most characters of a caption that are read.

    Returns:
        Label id -> evidence; ids without evidence are omitted.
    """
    finder = PerProcess(EvidenceFinder, system, max_chars=max_caption_chars)
    rows = (
        read_rows(
            path,
            execution=execution,
            columns=["captions", "parsed", "rejected_captions", "reason"],
            rows_per_block=caption_rows_per_block(num_rows, execution=execution),
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
