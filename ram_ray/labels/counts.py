"""Counting on Ray Data: how often captions name a tag, and how far its words can be trusted.

Two aggregations, each bounded by the vocabulary and not by the corpus:

    read_counts    parsed rows -> (name, kind, source) -> captions          what the label system is made of
    read_evidence  parsed rows + the system -> a row a label                how often its words stand in captions, how
                                                                            often the parse agrees, a few examples

Blocks count in Arrow's own code; what leaves a block has at most a row a name, and Ray Data adds the blocks up.
"""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from typing import NamedTuple

import pyarrow as pa
import pyarrow.compute as pc

from ram_ray.captions.tables import load_lemmas
from ram_ray.config import RunConfig
from ram_ray.label_system import LabelSystem
from ram_ray.labels.match import Matcher
from ram_ray.labels.names import Key
from ram_ray.labels.parsed import label_ids, parsed_captions
from ram_ray.runtime.annotate import read_rows
from ram_ray.runtime.key_hash import hash_key
from ram_ray.runtime.per_process import PerProcess

NAME_COUNTS = pa.schema([("name", pa.string()), ("kind", pa.string()), ("source", pa.string()), ("count", pa.int64())])
EVIDENCE = pa.schema(
    [
        ("id", pa.int32()),
        ("name", pa.string()),  # of the label or a synonym, as it stood in captions; null on rows with an example
        ("matched", pa.int64()),  # captions where its words stand
        ("agreed", pa.int64()),  # of these, captions where the parse gives the label
        ("example", pa.string()),  # a caption
        ("order", pa.int64()),  # hash of the example: the smallest are kept
    ]
)
MIN_EVIDENCE = 5  # captions: with fewer, a word keeps the benefit of the doubt
NUM_EXAMPLES = 3
MAX_EXAMPLE = 160  # characters
_NUMBER = re.compile(r"(^|[-_.])\d+$")  # of a folder: "part-00003", not "coco2017"
_STEM_NUMBER = re.compile(r"[-_.]?\d+$")


def source_of(shard: str) -> str:
    """The set of captions that a shard belongs to, its name without numbers: "cc3m" for "cc3m/00003"."""
    *folders, stem = shard.split("/")
    parts = [*(_NUMBER.sub("", one) for one in folders), _STEM_NUMBER.sub("", stem)]
    return "/".join(one for one in parts if one) or shard


def count_names(block: pa.Table) -> pa.Table:
    """`records.PARSED` rows to NAME_COUNTS: captions that name each tag; rejected rows are passed over."""
    block = block.filter(pc.is_null(block["reason"])).combine_chunks()
    if not len(block):
        return NAME_COUNTS.empty_table()
    places = [source_of(shard) for shard in block["shard"].to_pylist()]
    tags = pc.list_flatten(block["parsed"])
    rows = pc.list_parent_indices(block["parsed"])
    flat = pa.table(
        {
            "name": pc.struct_field(tags, "name"),
            "kind": pc.struct_field(tags, "kind"),
            "source": pc.take(pa.array(places, pa.string()), rows),
            "row": rows,
            "caption": pc.struct_field(tags, "caption"),
        }
    )
    captions = flat.group_by(["name", "kind", "source", "row", "caption"]).aggregate([])  # once a caption
    counts = captions.group_by(["name", "kind", "source"]).aggregate([([], "count_all")])
    return counts.rename_columns({"count_all": "count"}).select(NAME_COUNTS.names).cast(NAME_COUNTS)


def read_counts(path: str, *, run: RunConfig) -> dict[Key, dict[str, int]]:
    """(name, kind) -> source -> captions, over the parsed rows at `path`.

    Args:
        path: folder of PARSED rows.
        run: its configuration.
    """
    columns = ["parsed", "reason", "shard"]
    rows = (
        read_rows(path, run=run, columns=columns)
        .map_batches(count_names, batch_format="pyarrow", batch_size=None, num_cpus=run.resources.task_cpus)
        .groupby(["name", "kind", "source"], num_partitions=run.resources.shuffle_partitions)
        .sum("count")
    )
    counts: dict[Key, dict[str, int]] = defaultdict(dict)  # the vocabulary
    for row in rows.iter_rows():
        counts[row["name"], row["kind"]][row["source"]] = int(row["sum(count)"])
    return dict(counts)


def read_captions(path: str, *, run: RunConfig) -> dict[str, int]:
    """Source -> captions, over the parsed rows at `path`.

    Args:
        path: folder of PARSED rows.
        run: its configuration.
    """
    columns = ["captions", "shard", "reason"]
    rows = read_rows(path, run=run, columns=columns).map_batches(
        count_captions, batch_format="pyarrow", batch_size=None, num_cpus=run.resources.task_cpus
    )
    counts: Counter[str] = Counter()
    for row in rows.iter_rows():  # one a block and source
        counts[row["source"]] += int(row["count"])
    return dict(sorted(counts.items()))


def read_unread(path: str, *, run: RunConfig) -> dict[str, int]:
    """Reason -> captions that the parser turned away, over the parsed rows at `path`.

    Args:
        path: folder of PARSED rows.
        run: its configuration.
    """

    def count(block: pa.Table) -> pa.Table:
        reasons = Counter(one["reason"] for row in block["unread"].to_pylist() for one in row or ())
        return pa.table({"reason": pa.array(list(reasons), pa.string()), "count": list(reasons.values())})

    rows = read_rows(path, run=run, columns=["unread"]).map_batches(
        count, batch_format="pyarrow", batch_size=None, num_cpus=run.resources.task_cpus
    )
    counts: Counter[str] = Counter()
    for row in rows.iter_rows():  # one a block and reason
        counts[row["reason"]] += int(row["count"])
    return dict(sorted(counts.items()))


def count_captions(block: pa.Table) -> pa.Table:
    """Captions of each source in a block of `records.PARSED` rows; rejected rows are passed over."""
    block = block.filter(pc.is_null(block["reason"]))
    counts: Counter[str] = Counter()
    lengths = pc.list_value_length(block["captions"]).to_pylist()
    for shard, captions in zip(block["shard"].to_pylist(), lengths, strict=True):
        counts[source_of(shard)] += captions or 0
    return pa.table(
        {"source": pa.array(list(counts), pa.string()), "count": pa.array(list(counts.values()), pa.int64())}
    )


class Evidence(NamedTuple):
    """What captions say of one label."""

    names: dict[str, tuple[int, int]]  # name or synonym -> captions where its words stand, and where the parse agrees
    examples: list[str]


def find_evidence(block: pa.Table, system: LabelSystem, matcher: Matcher) -> pa.Table:
    """`records.PARSED` rows to EVIDENCE: a row a name that stands in captions, and a few rows with examples.

    Args:
        block: PARSED rows.
        system: the label system that ids are of.
        matcher: finds names in the text.
    """
    names: dict[tuple[int, str], list[int]] = defaultdict(lambda: [0, 0])
    examples: dict[int, dict[str, int]] = defaultdict(dict)
    for row in block.to_pylist():
        if row["reason"] is not None:
            continue
        for caption in parsed_captions(row):
            if caption.unread:
                continue
            ids = label_ids(caption.names, system)
            for match in matcher.find(caption.text, caption.names):
                counts = names[match.id, match.name]
                counts[0] += 1
                counts[1] += match.id in ids
            for id in ids:
                _keep_smallest(examples[id], caption.text[:MAX_EXAMPLE], id)
    rows = [
        {"id": id, "name": name, "matched": matched, "agreed": agreed}
        for (id, name), (matched, agreed) in names.items()
    ]
    rows += [
        {"id": id, "example": text, "order": order} for id, kept in examples.items() for text, order in kept.items()
    ]
    return pa.Table.from_pylist(rows, schema=EVIDENCE)


def add_evidence(rows: pa.Table) -> pa.Table:
    """EVIDENCE rows of one label from many blocks to as few as one block leaves."""
    names = rows.filter(pc.is_valid(rows["name"]))
    names = names.group_by(["id", "name"]).aggregate([("matched", "sum"), ("agreed", "sum")])
    names = names.rename_columns({"matched_sum": "matched", "agreed_sum": "agreed"})
    kept: dict[str, int] = {}
    texts = rows.filter(pc.is_valid(rows["example"]))
    for text, order in zip(texts["example"].to_pylist(), texts["order"].to_pylist(), strict=True):
        kept[text] = order
    id = rows["id"][0].as_py()
    best = sorted(kept.items(), key=lambda one: (one[1], one[0]))[:NUM_EXAMPLES]
    examples = [{"id": id, "example": text, "order": order} for text, order in best]
    return pa.Table.from_pylist([*names.to_pylist(), *examples], schema=EVIDENCE)


class EvidenceFinder:
    """PARSED rows to EVIDENCE rows; holds the matcher."""

    def __init__(self, system: LabelSystem, *, max_chars: int) -> None:
        self._system = system
        self._matcher = Matcher(system, load_lemmas(), max_chars=max_chars, trusting=True)

    def __call__(self, block: pa.Table) -> pa.Table:
        """What the captions of a block of PARSED rows say of each label."""
        return find_evidence(block, self._system, self._matcher)


def read_evidence(path: str, *, run: RunConfig, system: LabelSystem) -> dict[int, Evidence]:
    """What the captions of the parsed rows say of each label.

    Args:
        path: folder of PARSED rows.
        run: its configuration.
        system: the label system that ids are of.

    Returns:
        Label id -> evidence; ids without any are left out.
    """
    resources = run.resources
    finder = PerProcess(EvidenceFinder, system, max_chars=run.labels.max_caption_chars)
    rows = (
        read_rows(path, run=run, columns=["captions", "parsed", "unread", "reason"])
        .map_batches(finder, batch_format="pyarrow", batch_size=run.data.rows_per_block, num_cpus=resources.task_cpus)
        .groupby("id", num_partitions=resources.shuffle_partitions)
        .map_groups(add_evidence, batch_format="pyarrow", num_cpus=resources.task_cpus)
    )
    found: dict[int, Evidence] = {}
    for row in rows.iter_rows():
        one = found.setdefault(row["id"], Evidence({}, []))
        if row["name"] is not None:
            one.names[row["name"]] = (int(row["matched"]), int(row["agreed"]))
        else:
            one.examples.append(row["example"])
    return dict(sorted(found.items()))


def _keep_smallest(kept: dict[str, int], text: str, id: int) -> None:
    """Keep the captions with the smallest hashes: the same ones however the rows are cut into blocks."""
    order = hash_key(text, seed=id) >> 1
    kept[text] = order
    if len(kept) > NUM_EXAMPLES:
        del kept[max(kept, key=lambda one: (kept[one], one))]


def ambiguous_names(evidence: Evidence, kind: str, *, agreement: float) -> tuple[str, ...]:
    """The names of a label of this kind whose words captions mostly use for something else.

    A noun alone nearly always names its thing; an adjective or a verb has more other uses ("a large group", "get
    hit"), so its share of captions without agreement must be half as large. Names of several words are clear by
    themselves, except for verbs.

    Args:
        evidence: of the label.
        kind: of the label.
        agreement: least share of the captions with the word whose parse names the label, 0 to 1.
    """
    least = agreement if kind in ("object", "scene") else (1 + agreement) / 2
    return tuple(
        sorted(
            name
            for name, (matched, agreed) in evidence.names.items()
            if matched >= MIN_EVIDENCE
            and agreed < least * matched
            and (kind == "action" or not (" " in name or "-" in name))
        )
    )
