"""Counts on Ray Data: captions that mention each name, which the label system is built of.

A block is counted with Arrow and gives a row for each name, kind and source, and another where capitals are counted.
The rows of a name meet in one task, which sums them and leaves out rare names (`labels.min_name_count`), whatever the
kind that they are read as. So only names that can matter come to the driver.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Collection
from functools import partial
from typing import NamedTuple

import pyarrow as pa
import pyarrow.compute as pc

from ram_ray.data.sources import source_of
from ram_ray.labels.capitals import CAPITALS, capital_shares, count_capitals
from ram_ray.labels.names import Key
from ram_ray.runtime.key_hash import hash_key
from ram_ray.runtime.rows import COUNTED_ROWS, read_rows
from ram_ray.settings.runtime import Execution

NAME_COUNTS = pa.schema([("name", pa.string()), ("kind", pa.string()), ("source", pa.string()), ("count", pa.int64())])
PARTS_A_TASK = 16  # of names: Ray spreads parts over tasks by a hash, so many are spread more evenly
NUMBERS = ("count", "capital", "inside")
NAMED_NUMBERS = pa.schema([*NAME_COUNTS, *(CAPITALS.field(name) for name in NUMBERS[1:])])
ANY_NAME: Key = ("", "")  # name and kind of the NAME_COUNTS rows that count all captions of a source
RARE: Key = ("", "rare")  # ... that count the mentions, and as `inside` the number, of the names that are left out


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
    rare: dict[str, int]  # source -> mentions of the names that are left out
    num_rare: int  # number of these names, each once for each kind


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


def read_name_counts(
    path: str, *, with_capitals: bool, min_count: int, kept: Collection[str] = (), execution: Execution
) -> NameCounts:
    """Count the captions that mention each name, and all captions, on Ray Data.

    Args:
        path: folder of PARSED rows.
        with_capitals: whether capitals are counted; they need the words of captions.
        min_count: captions that must mention a name; rarer names stay on the cluster.
        kept: names that are never rare.
        execution: how the stages of the run are executed.

    Returns:
        The counts.
    """
    columns = ["captions", "parsed", "reason", "shard", *(["rejected_captions"] if with_capitals else [])]
    partitions = execution.resources.shuffle_partitions

    def count(block: pa.Table) -> pa.Table:
        return add_part(count_block(block, with_capitals=with_capitals), parts=PARTS_A_TASK * partitions)

    rows = (
        read_rows(path, execution=execution, columns=columns, rows_per_block=COUNTED_ROWS)
        .map_batches(count, batch_format="pyarrow", batch_size=None, num_cpus=execution.task_cpus)
        .groupby("part", num_partitions=partitions)
        .map_groups(
            partial(sum_names, min_count=min_count, kept=frozenset(kept)),
            batch_format="pyarrow",
            num_cpus=execution.task_cpus,
        )
    )
    counts: dict[Key, dict[str, int]] = defaultdict(dict)  # size of the vocabulary
    written: dict[Key, tuple[int, int]] = {}
    rare: Counter[str] = Counter()
    num_rare = 0
    for row in rows.iter_rows():
        key, source = (row["name"], row["kind"]), row["source"]
        if key == RARE:
            rare[source] += row["count"]
            num_rare += row["inside"]
            continue
        counts[key][source] = row["count"]
        if row["inside"]:
            before = written.get(key, (0, 0))
            written[key] = before[0] + row["capital"], before[1] + row["inside"]
    captions = counts.pop(ANY_NAME, {})
    capitals = capital_shares(written)
    return NameCounts(dict(counts), dict(sorted(captions.items())), capitals, dict(sorted(rare.items())), num_rare)


def add_part(counts: pa.Table, *, parts: int) -> pa.Table:
    """Say in which part of the names the rows of a name meet.

    Args:
        counts: rows with "name".
        parts: number of parts.

    Returns:
        The rows with a column "part", int32, 0 to `parts` - 1.
    """
    names = counts["name"].combine_chunks().dictionary_encode()
    numbers = [hash_key(name, purpose="names") % parts for name in names.dictionary.to_pylist()]
    return counts.append_column("part", pa.array(numbers, pa.int32()).take(names.indices))


def sum_names(rows: pa.Table, *, min_count: int, kept: Collection[str] = ()) -> pa.Table:
    """Sum the counts of names over blocks, and leave out rare names.

    Args:
        rows: all rows of some names, as `count_block` makes them.
        min_count: captions of all sources and kinds that must mention a name.
        kept: names that are never rare.

    Returns:
        A row for each name, kind and source, with the columns of NAMED_NUMBERS; and for each source a row `RARE`, if
        names were left out.
    """
    sums = rows.group_by(["name", "kind", "source"]).aggregate([(name, "sum") for name in NUMBERS])
    sums = sums.rename_columns({f"{name}_sum": name for name in NUMBERS}).select(NAMED_NUMBERS.names)
    totals = sums.group_by("name").aggregate([("count", "sum")])
    counted = pc.is_in(totals["name"], value_set=pa.array([ANY_NAME[0], *kept], pa.string()))
    names = totals.filter(pc.and_not(pc.less(totals["count_sum"], min_count), counted)).select(["name"])
    if not len(names):
        return sums
    remaining, left_out = (
        sums.join(names, "name", join_type=kind, use_threads=False) for kind in ("left anti", "left semi")
    )
    name, kind = RARE
    rare = [
        {"name": name, "kind": kind, "source": row["source"], "count": row["count_sum"], "capital": 0, "inside": 0}
        for row in left_out.group_by("source").aggregate([("count", "sum")]).to_pylist()
    ]
    rare[0]["inside"] = len(left_out.group_by(["name", "kind"]).aggregate([]))
    return pa.concat_tables([remaining.cast(NAMED_NUMBERS), pa.Table.from_pylist(rare, schema=NAMED_NUMBERS)])


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
