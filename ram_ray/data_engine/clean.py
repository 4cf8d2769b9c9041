"""Cleaning: remove tags that do not look like their label, or that the model does not see (paper, section 3.3).

The paper applies two tests in turn, the 10% farthest from their cluster's centre, then the model's prediction on the
region. Here both are signals of a single decision (`data_engine.wrong_tags`):

    removed  tags that are wrong with a probability of at least `min_wrong_probability`, the most probable first, and of
             each label at most the share `max_removed_share`
    never    human labels (`data.human_labels`), tags that a human label for scoring confirms (`protect_labels`), tags
             in `protected`, and labels of fewer than `min_images` images
    reason   "outlier" if the evidence against the tag is mostly that it is unlike its label, by embedding or by
             co-occurrence, else "disagreement". The score is the probability to be wrong

`decide_removals` reads the rows of a label in chunks, several times, so memory is about 150 bytes a crop and the
embeddings of `FIT_POINTS` crops.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from ram_ray.data_engine.clustering import FIT_POINTS, Prototypes, find_prototypes, normalised, num_clusters
from ram_ray.data_engine.co_occurrence import TagCounts, co_occurrence
from ram_ray.data_engine.crops import embeddings_of, seeded_hash
from ram_ray.data_engine.regions_by_label import Chunks, in_memory
from ram_ray.data_engine.wrong_tags import SIGNALS, Evidence, estimate_wrong
from ram_ray.records import ANNOTATION, Row, to_table
from ram_ray.settings.data_engine import CleanConfig

REMOVALS = pa.schema(
    [
        ("key", pa.string()),
        ("shard", pa.string()),
        ("tag", pa.int32()),
        ("reason", pa.string()),  # outlier | disagreement
        ("score", pa.float32()),  # probability that the tag is wrong
    ]
)
# A row for each label, for the report.
CLEANED_LABELS = pa.schema(
    [
        ("tag", pa.int32()),
        ("crops", pa.int64()),
        ("negatives", pa.int64()),  # regions of images without the tag, which the crops were compared with
        ("clusters", pa.int32()),  # prototypes; 0 if the label was not decided
        ("wrong_share", pa.float32()),  # estimated share of wrong tags; null if not decided
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
        ("score", pa.float32()),  # probability that the tag is wrong
        ("cluster", pa.int32()),
        ("distance", pa.float32()),
        ("image_score", pa.float32()),
        ("region_score", pa.float32()),
        ("co_occurrence", pa.float32()),  # co-occurrence with the image's other tags, nats
        ("box", pa.list_(pa.float32())),
    ]
)
_COLUMNS = (
    *("key", "shard", "positive", "mentioned", "confirmed", "human", "box"),
    *("detector_score", "image_score", "region_score", "other_mentions"),
)
_OUTLIER_SIGNALS = [SIGNALS.index(name) for name in ("prototype_similarity", "co_occurrence")]


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
    crops, num_negatives = _count(chunks)
    label_row: Row = {"tag": tag, "crops": crops, "negatives": num_negatives, "clusters": 0}
    label_row |= {"outliers": 0, "disagreements": 0, "protected": 0}
    if crops < config.min_images:
        return Decision(REMOVALS.empty_table(), SAMPLE_ROWS.empty_table(), label_row)
    seed += tag
    halves = _fit_halves(chunks, crops=crops, config=config, seed=seed)
    measured = _measure(chunks, halves, counts=counts, seed=seed)
    signals, positive = signals_of(measured), measured["positive"].to_numpy()
    positives = measured.filter(pa.array(positive))
    mentioned = positives["mentioned"].to_numpy()
    evidence = estimate_wrong(
        signals[positive], signals[~positive], mentioned=mentioned, expected=config.expected_wrong_share
    )
    removable = _select_removals(evidence, config=config)
    confirmed = positives["confirmed"].to_numpy() & config.protect_labels
    safe = confirmed | positives["human"].to_numpy() | (tag in protected)
    label_row["clusters"] = sum(int(prototypes.valid.sum()) for prototypes in halves)
    label_row |= {"wrong_share": evidence.share, "protected": int((removable & safe).sum())}
    label_row |= {f"weight_{name}": float(weight) for name, weight in zip(SIGNALS, evidence.weights, strict=True)}
    decided = _decided_rows(positives, tag, removed=removable & ~safe, evidence=evidence)
    reasons = decided["reason"].to_pylist()
    label_row |= {"outliers": reasons.count("outlier"), "disagreements": reasons.count("disagreement")}
    removals = decided.filter(decided["removed"]).select(REMOVALS.names).cast(REMOVALS)
    return Decision(removals, _sample_rows(decided, seed=seed), label_row)


def _count(chunks: Chunks) -> tuple[int, int]:
    """Numbers of positives and of negatives."""
    num_positives = num_negatives = 0
    for rows in chunks(["positive"]):
        count = pc.sum(rows["positive"]).as_py() or 0
        num_positives, num_negatives = num_positives + count, num_negatives + len(rows) - count
    return num_positives, num_negatives


def signals_of(measured: pa.Table) -> np.ndarray:
    """The signals of measured rows, in the order of `SIGNALS`.

    Args:
        measured: rows with the columns of `SIGNALS` but the similarity, and with distance.

    Returns:
        (N, F) float64; a larger value is evidence for the tag.
    """
    names = ("image_score", "region_score", "detector_score", "co_occurrence")
    columns = {name: measured[name].to_numpy().astype(np.float64) for name in names}
    columns["prototype_similarity"] = -measured["distance"].to_numpy().astype(np.float64)
    return np.stack([columns[name] for name in SIGNALS], axis=1)


def _fit_halves(chunks: Chunks, *, crops: int, config: CleanConfig, seed: int) -> tuple[Prototypes, Prototypes]:
    """The prototypes for each half of the positives, fitted on the other half.

    More than FIT_POINTS crops are sampled by the hash of their keys. Points are in the order of their keys.
    """
    keys: list[str] = []
    points = []
    limit = None
    if crops > FIT_POINTS:
        hashes = [_hashes(rows.filter(rows["positive"]), seed) for rows in chunks(["key", "positive"])]
        limit = np.partition(np.concatenate(hashes), FIT_POINTS - 1)[FIT_POINTS - 1]
    for rows in chunks(["key", "positive", "embedding"]):
        rows = rows.filter(rows["positive"])
        if limit is not None:
            rows = rows.filter(pa.array(_hashes(rows, seed) <= limit))
        keys += rows["key"].to_pylist()
        points.append(embeddings_of(rows["embedding"].to_pylist()))
    order = np.argsort(np.array(keys), kind="stable")
    fitted = unit(np.concatenate([embeddings for embeddings in points if len(embeddings)])[order])
    half = _halves([keys[index] for index in order], seed)
    if half.all() or not half.any():  # a few keys may all have the same hash bit
        half = np.arange(len(half)) % 2 == 0
    k = num_clusters(crops // 2, images_per_cluster=config.images_per_cluster, max_clusters=config.max_clusters)
    return find_prototypes(fitted[~half], clusters=k, seed=seed), find_prototypes(fitted[half], clusters=k, seed=seed)


def _halves(keys: list[str], seed: int) -> np.ndarray:
    """Which half each key belongs to, (N,) bool."""
    return np.array([seeded_hash(key, seed) & 1 for key in keys], bool)


def _hashes(rows: pa.Table, seed: int) -> np.ndarray:
    return np.array([seeded_hash(key, seed) for key in rows["key"].to_pylist()], np.uint64)


def unit(embeddings: np.ndarray) -> np.ndarray:
    """Scale embeddings to unit vectors.

    Args:
        embeddings: (N, D) float.

    Returns:
        (N, D) float32.

    Raises:
        ValueError: if an embedding is not finite.
    """
    if num_bad := int((~np.isfinite(embeddings).all(axis=1)).sum()):
        raise ValueError(f"{num_bad} of {len(embeddings)} embeddings are not finite; check the teacher's precision")
    return normalised(embeddings)


def _measure(chunks: Chunks, halves: tuple[Prototypes, Prototypes], *, counts: TagCounts, seed: int) -> pa.Table:
    """The rows without embeddings, with `cluster`, `distance` and `co_occurrence`, in the order of keys.

    A row is measured to the prototypes of the other half; cluster numbers of the second start after those of the first.
    """
    parts = []
    for rows in chunks([*_COLUMNS, "embedding"]):
        points = unit(embeddings_of(rows["embedding"].to_pylist()))
        half = _halves(rows["key"].to_pylist(), seed)
        first, second = (prototypes.measure(points) for prototypes in halves)
        cluster = np.where(half, first[0], second[0] + np.int32(len(halves[0].sizes)))
        measured = rows.select(_COLUMNS).append_column("cluster", pa.array(cluster))
        parts.append(measured.append_column("distance", pa.array(np.where(half, first[1], second[1]))))
    table = pa.concat_tables(parts).combine_chunks().sort_by("key")
    hashes = _hashes(table, seed + 1)  # independent of the halves
    mentioned = table["mentioned"].to_numpy()
    scores = co_occurrence(table["other_mentions"], mentioned=mentioned, hashes=hashes, counts=counts)
    return table.drop_columns("other_mentions").append_column("co_occurrence", pa.array(scores))


def _select_removals(evidence: Evidence, *, config: CleanConfig) -> np.ndarray:
    """Which of a label's rows to remove, (N,) bool: at most `max_removed_share`; of equal ones the lower keys."""
    num_rows = len(evidence.wrong)
    worst = np.argsort(-np.round(evidence.wrong, 6), kind="stable")[: int(config.max_removed_share * num_rows + 1e-9)]
    removed = np.zeros(num_rows, bool)
    removed[worst] = True
    return removed & (evidence.wrong >= config.min_wrong_probability)


def _decided_rows(positives: pa.Table, tag: int, *, removed: np.ndarray, evidence: Evidence) -> pa.Table:
    """The positives with the decision, as SAMPLE_ROWS."""
    outlier = evidence.contributions[:, _OUTLIER_SIGNALS].sum(axis=1)
    reasons = np.where(2 * outlier < evidence.contributions.sum(axis=1), "outlier", "disagreement")
    columns = {
        **{name: positives[name] for name in positives.column_names},
        "tag": pa.array(np.full(len(positives), tag)),
        "removed": pa.array(removed),
        "reason": pa.array(reasons.astype(object), pa.string(), mask=~removed),
        "score": pa.array(evidence.wrong),
    }
    return pa.table({name: columns[name] for name in SAMPLE_ROWS.names}).cast(SAMPLE_ROWS)


def _sample_rows(decided: pa.Table, *, seed: int) -> pa.Table:
    """Some removed and some other rows of a label, drawn by the hash of their keys."""
    removed = decided["removed"].to_numpy()
    hashes = _hashes(decided, seed)
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
