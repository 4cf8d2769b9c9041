"""Cleaning: remove tags that do not look like their label, or that the model does not see (paper, section 3.3).

`engine.clean.rule` says which (`data_engine.cleaning_rules`). By either rule:

    never    human labels (`data.human_labels`), tags that a human label for scoring confirms (`protect_labels`), tags
             in `protected`, and labels of fewer than `min_images` images
    reason   "outlier": the tag is unlike its label; "disagreement": the model does not see it

`decide_removals` reads the rows of a label in chunks, several times, so memory is about 150 bytes a crop and the
embeddings of `FIT_POINTS` crops.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from ram_ray.data_engine.cleaning_rules import RULES, Ruling
from ram_ray.data_engine.co_occurrence import TagCounts
from ram_ray.data_engine.measured_crops import count_crops, key_hashes
from ram_ray.data_engine.regions_by_label import Chunks, in_memory
from ram_ray.data_engine.wrong_tags import SIGNALS
from ram_ray.records import ANNOTATION, Row, to_table
from ram_ray.settings.data_engine import CleanConfig

REMOVALS = pa.schema(
    [
        ("key", pa.string()),
        ("shard", pa.string()),
        ("tag", pa.int32()),
        ("reason", pa.string()),  # outlier | disagreement
        ("score", pa.float32()),  # of the rule: a higher score is more evidence that the tag is wrong
    ]
)
# A row for each label, for the report.
CLEANED_LABELS = pa.schema(
    [
        ("tag", pa.int32()),
        ("crops", pa.int64()),
        ("negatives", pa.int64()),  # regions of images without the tag, which the crops were compared with
        ("clusters", pa.int32()),  # prototypes; 0 if the label was not decided
        # Of the rule `probability`; null by the other, and if the label was not decided.
        ("wrong_share", pa.float32()),  # estimated share of wrong tags
        *[(f"weight_{name}", pa.float32()) for name in SIGNALS],  # of each signal in the decision
        ("outliers", pa.int64()),  # removed for this reason
        ("disagreements", pa.int64()),
        ("protected", pa.int64()),  # would have been removed if not protected
    ]
)
# At most 2 x SAMPLES rows of a label, for the report.
SAMPLES = 12
SAMPLE_ROWS = pa.schema(
    [
        ("key", pa.string()),
        ("shard", pa.string()),
        ("tag", pa.int32()),
        ("removed", pa.bool_()),
        ("reason", pa.string()),  # null if not removed
        ("score", pa.float32()),  # as in REMOVALS
        ("cluster", pa.int32()),
        ("distance", pa.float32()),
        ("image_score", pa.float32()),
        ("region_score", pa.float32()),
        ("co_occurrence", pa.float32()),  # co-occurrence with the image's other tags, nats
        ("box", pa.list_(pa.float32())),
    ]
)


@dataclass(frozen=True)
class Decision:
    """The decision on a label."""

    removals: pa.Table  # REMOVALS
    samples: pa.Table  # SAMPLE_ROWS
    label_row: Row  # a row of CLEANED_LABELS


def decide_removals(
    rows: pa.Table | Chunks,
    *,
    tag: int,
    config: CleanConfig,
    counts: TagCounts,
    seed: int = 0,
    protected: Collection[int] = (),
) -> Decision:
    """Decide which images lose a tag.

    Args:
        rows: REGIONS rows of the tag in any order, as a table or as a function that reads them in chunks.
        tag: id of the tag.
        config: section `engine.clean`.
        counts: number of images that mention each tag.
        seed: of clustering and samples; the tag's id is added.
        protected: tags that no image loses.

    Returns:
        The removals, samples for the report, and the counts of the tag.

    Raises:
        ValueError: if an embedding is not finite, or embeddings have different lengths.
    """
    chunks = in_memory(rows) if isinstance(rows, pa.Table) else rows
    crops, num_negatives = count_crops(chunks)
    label_row: Row = {"tag": tag, "crops": crops, "negatives": num_negatives, "clusters": 0}
    label_row |= {"outliers": 0, "disagreements": 0, "protected": 0}
    if crops < config.min_images:
        return Decision(REMOVALS.empty_table(), SAMPLE_ROWS.empty_table(), label_row)
    seed += tag
    ruling = RULES[config.rule](chunks, crops=crops, config=config, counts=counts, seed=seed)
    confirmed = ruling.positives["confirmed"].to_numpy() & config.protect_labels
    safe = confirmed | ruling.positives["human"].to_numpy() | (tag in protected)
    label_row |= {"clusters": ruling.clusters, "protected": int((ruling.removable & safe).sum()), **ruling.figures}
    decided = _decided_rows(ruling, tag, removed=ruling.removable & ~safe)
    reasons = decided["reason"].to_pylist()
    label_row |= {"outliers": reasons.count("outlier"), "disagreements": reasons.count("disagreement")}
    removals = decided.filter(decided["removed"]).select(REMOVALS.names).cast(REMOVALS)
    return Decision(removals, _sample_rows(decided, seed=seed), label_row)


def _decided_rows(ruling: Ruling, tag: int, *, removed: np.ndarray) -> pa.Table:
    """The positives with the decision, as SAMPLE_ROWS."""
    positives = ruling.positives
    columns = {
        **{name: positives[name] for name in positives.column_names},
        "tag": pa.array(np.full(len(positives), tag)),
        "removed": pa.array(removed),
        "reason": pa.array(ruling.reasons.astype(object), pa.string(), mask=~removed),
        "score": pa.array(ruling.scores),
    }
    return pa.table({name: columns[name] for name in SAMPLE_ROWS.names}).cast(SAMPLE_ROWS)


def _sample_rows(decided: pa.Table, *, seed: int) -> pa.Table:
    """Some removed and some other rows of a label, drawn by the hash of their keys."""
    removed = decided["removed"].to_numpy()
    hashes = key_hashes(decided, seed)
    order = np.argsort(hashes, kind="stable")
    indices = np.concatenate([order[removed[order] == value][:SAMPLES] for value in (False, True)])
    return decided.take(np.sort(indices))


def apply_removals(annotations: pa.Table, removals: pa.Table, *, round: int) -> pa.Table:
    """Remove tags from annotations; each removal is added to the row's `removed`.

    The tags of each caption stay, since they are what the caption mentions; training uses `tags`. Removals of tags that
    a row does not have are ignored, so the same removals can be applied twice.

    Args:
        annotations: ANNOTATION rows.
        removals: REMOVALS rows, of these images or of others too.
        round: number of the round, written with each removal.

    Returns:
        ANNOTATION rows, in the same order.
    """
    by_key: dict[str, dict[int, Row]] = {}
    for removal in removals.select(REMOVALS.names).to_pylist():
        by_key.setdefault(removal["key"], {})[removal["tag"]] = removal
    rows = annotations.select(ANNOTATION.names).to_pylist()
    for row in rows:
        by_tag = by_key.get(row["key"])
        if not by_tag or not row["tags"]:
            continue
        row["removed"] = list(row["removed"] or [])
        for tag in row["tags"]:
            if removal := by_tag.get(tag["id"]):
                detail = {"reason": removal["reason"], "score": removal["score"], "round": round}
                row["removed"].append({"id": tag["id"], **detail})
        row["tags"] = [tag for tag in row["tags"] if tag["id"] not in by_tag]
    return to_table(rows, ANNOTATION)
