"""Human labels as tags: what the labels of a set of shards teach (`data.human_labels`).

A person who lists "dog" says that the image shows a dog. What the list says of a label that is not on it depends on how
the set was made:

    kind      a label that is not listed
    positive  as on an image without human labels: negative, unless a caption mentions it
    partial   unknown (no loss), unless a caption mentions it
    complete  negative, if the set uses it anywhere; another one is as its captions say, and unknown without captions

A set annotates its own vocabulary, not the whole label system, so `complete` is about the labels that its shards list
anywhere. Names in `negative_labels` are negative in each kind. What a person excludes is no tag of the image, though a
caption may mention it.
"""

from __future__ import annotations

import json
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import pyarrow as pa

from ram_ray.data.ground_truth import resolve_labels
from ram_ray.data.shards import shard_matches
from ram_ray.data.sources import source_of
from ram_ray.label_system import LabelSystem, split_kind
from ram_ray.labels.names import Key
from ram_ray.records import HUMAN, Row
from ram_ray.runtime.rows import sum_blocks
from ram_ray.settings.data import LabelSet
from ram_ray.settings.runtime import Execution

COLUMNS = ["shard", "labels", "negative_labels", "reason"]


class LabelMention(NamedTuple):
    """A human label as a set of shards writes it."""

    set_index: int
    source: str  # of the shard, see `source_of`
    label: str  # a name, or "kind:name"
    positive: bool


def find_set(shard: str, sets: Sequence[LabelSet]) -> int | None:
    """Find the set of a shard.

    Args:
        shard: name of the shard.
        sets: sets in the order of `data.human_labels`.

    Returns:
        Index of the first set whose glob matches; None if there is none, or its labels are for scoring alone.
    """
    index = next((index for index, label_set in enumerate(sets) if shard_matches(shard, label_set.shards)), None)
    return None if index is None or sets[index].kind == "none" else index


def count_labels(block: pa.Table, sets: Sequence[LabelSet]) -> Counter[LabelMention]:
    """Count the images of each human label that is trained on; rejected rows are skipped.

    Args:
        block: `records.PARSED` rows, with at least `COLUMNS`.
        sets: sets in the order of `data.human_labels`.

    Returns:
        The number of images of each label.
    """
    counts: Counter[LabelMention] = Counter()
    for row in block.select(COLUMNS).to_pylist():
        index = find_set(row["shard"], sets)
        if row["reason"] is not None or index is None:
            continue
        for positive, labels in ((True, row["labels"]), (False, row["negative_labels"])):
            source = source_of(row["shard"])
            counts.update(LabelMention(index, source, label, positive) for label in set(labels or ()))
    return counts


def read_label_counts(path: str, *, sets: Sequence[LabelSet], execution: Execution) -> Counter[LabelMention]:
    """Count the images of each human label, on Ray Data; the result grows with the vocabulary.

    Args:
        path: folder of PARSED rows.
        sets: sets in the order of `data.human_labels`; without any, nothing is read.
        execution: how the stages of the run are executed.

    Returns:
        The number of images of each label.
    """
    if not sets:
        return Counter()
    sums = sum_blocks(
        path,
        lambda block: {json.dumps(mention): count for mention, count in count_labels(block, sets).items()},
        columns=COLUMNS,
        execution=execution,
    )
    return Counter({LabelMention(*json.loads(name)): int(count) for name, count in sums.items()})


def label_names(mentions: Iterable[LabelMention]) -> frozenset[str]:
    """The names of the positive labels, without their kinds; they count with the captions, however few mention them."""
    return frozenset(split_kind(mention.label)[1] for mention in mentions if mention.positive)


def name_counts(mentions: Mapping[LabelMention, int], *, kind_of: Callable[[str], str]) -> dict[Key, dict[str, int]]:
    """The positive labels by name, for the label system.

    Args:
        mentions: images of each label.
        kind_of: returns the kind of a name whose label has none.

    Returns:
        (name, kind) -> source -> images.
    """
    counts: dict[Key, dict[str, int]] = defaultdict(lambda: defaultdict(int))
    for mention, count in sorted(mentions.items()):
        kind, name = split_kind(mention.label)
        if mention.positive and name:
            counts[name, kind or kind_of(name)][mention.source] += count
    return {key: dict(sources) for key, sources in counts.items()}


def vocabularies(
    mentions: Mapping[LabelMention, int], *, sets: Sequence[LabelSet], system: LabelSystem
) -> tuple[frozenset[int], ...]:
    """The labels that each complete set uses.

    Args:
        mentions: images of each label.
        sets: sets in the order of `data.human_labels`.
        system: the label system of the ids.

    Returns:
        Label ids for each set; none for a set of another kind.
    """
    labels: list[set[str]] = [set() for _ in sets]
    for mention in mentions:
        if sets[mention.set_index].kind == "complete":
            labels[mention.set_index].add(mention.label)
    return tuple(frozenset(resolve_labels(sorted(names), system)[0] or ()) for names in labels)


@dataclass(frozen=True)
class HumanLabels:
    """The sets of a run whose human labels are trained on."""

    sets: tuple[LabelSet, ...] = ()
    vocabularies: tuple[frozenset[int], ...] = ()  # of each set; empty if it is not complete

    def __post_init__(self) -> None:
        assert len(self.vocabularies) == len(self.sets)

    def apply(self, row: Row, annotation: Row, system: LabelSystem, *, has_captions: bool) -> None:
        """Add the human labels of an image to its annotation, as tags or as truth.

        Args:
            row: a PARSED row.
            annotation: an ANNOTATION row with the tags of captions and of the data; changed in place.
            system: the label system of the ids.
            has_captions: whether a caption of the image was read.
        """
        truth, unknown = resolve_labels(row["labels"], system)
        excluded, unknown_negative = resolve_labels(row["negative_labels"], system)
        index = find_set(row["shard"], self.sets)
        annotation |= {"absent": [], "partial": False, "truth": truth, "unknown_labels": unknown + unknown_negative}
        if index is None or (truth is None and excluded is None):
            return
        kind = self.sets[index].kind
        positive, absent = dict.fromkeys(truth or ()), set(excluded or ())
        if truth is not None:
            absent |= self.vocabularies[index]
        absent -= positive.keys()
        others = [tag for tag in annotation["tags"] if tag["id"] not in positive and tag["id"] not in absent]
        annotation |= {
            "tags": [{"id": id, "origin": HUMAN, "score": 1.0} for id in positive] + others,
            "absent": sorted(absent),
            "partial": kind == "partial" or (kind == "complete" and not has_captions),
            "truth": None,
        }
