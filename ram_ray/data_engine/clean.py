"""Wrong tags: what does not look like its category, or is not seen in the picture, goes (paper, section 3.3).

The paper has two tests one after the other, the 10% farthest from their cluster's centre and then what the model does
not predict on the region, and each alone removes right and wrong tags alike: the first where the teacher is weak, the
second where the tagger's probability means another thing for each tag. Here both are signals of one decision
(`data_engine.doubt`), which weighs them by how well each tells the tag's own images from others:

    which    a tag goes if it is wrong with a probability of at least `wrong`
    most     of a category at most the share `most` goes, the least probable first
    never    tags that a human label confirms (`protect_labels`), tags listed in `protected`, and categories of fewer
             than `min_images` images, where neither "far from the rest" nor a comparison means much
    why      "outlier" where what speaks most against the tag is that it is unlike its category, by its looks or by the
             tags around it; "disagreement" where it is that the tagger does not see it. The score is the probability
             to be wrong

`decide` takes the rows of one category in chunks that it reads several times, so that the largest category takes no
more memory than its numbers, about 150 bytes a crop, and the points that the looks are fitted on.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from ram_ray.data_engine.categories import Chunks, in_memory
from ram_ray.data_engine.clustering import FIT_POINTS, Looks, find_looks, normalised, num_clusters
from ram_ray.data_engine.company import TagCounts, company
from ram_ray.data_engine.crops import embeddings_of, hash_of
from ram_ray.data_engine.doubt import SIGNALS, Evidence, judge
from ram_ray.records import ANNOTATION, to_table
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
# One row a category: what was found, for the report.
CATEGORIES = pa.schema(
    [
        ("tag", pa.int32()),
        ("crops", pa.int64()),
        ("absent", pa.int64()),  # rows that they were compared with
        ("clusters", pa.int32()),  # looks that count; 0 where the category was left alone
        ("wrong", pa.float32()),  # estimated share of wrong tags; null where left alone
        *[(f"weight_{name}", pa.float32()) for name in SIGNALS],  # of each signal in the decision
        ("outliers", pa.int64()),  # removed for this reason
        ("disagreements", pa.int64()),
        ("protected", pa.int64()),  # would have been removed
    ]
)
# At most 2 x SAMPLES rows a category, to be looked at.
SAMPLES = 12
SAMPLE_ROWS = pa.schema(
    [
        ("key", pa.string()),
        ("shard", pa.string()),
        ("tag", pa.int32()),
        ("removed", pa.bool_()),
        ("reason", pa.string()),  # null where kept
        ("score", pa.float32()),  # probability that the tag is wrong
        ("cluster", pa.int32()),
        ("distance", pa.float32()),
        ("whole", pa.float32()),
        ("agreement", pa.float32()),
        ("company", pa.float32()),  # nats, over 0 where the image's other tags are those that often stand beside it
        ("box", pa.list_(pa.float32())),
    ]
)
_NUMBERS = ("key", "shard", "carried", "said", "labelled", "box", "score", "whole", "agreement", "others")
_UNLIKE = [SIGNALS.index(name) for name in ("near", "company")]


@dataclass(frozen=True)
class Decision:
    """What cleaning decides of one category."""

    removals: pa.Table  # REMOVALS
    samples: pa.Table  # SAMPLE_ROWS
    category: dict[str, Any]  # a row of CATEGORIES


def decide(
    rows: pa.Table | Chunks,
    *,
    tag: int,
    config: CleanConfig,
    counts: TagCounts,
    seed: int = 0,
    protected: Collection[int] = (),
) -> Decision:
    """Decide which images lose `tag`, whose REGIONS rows are given, in whatever order.

    Args:
        rows: a table, or what reads the rows in chunks, each time that it is called.
        tag: id of the tag.
        config: section `engine.clean`.
        counts: of all tags, over all images.
        seed: of clustering and samples; the tag's id is added.
        protected: tags that no image loses.

    Returns:
        The removals, samples for the report, and counts of the tag.

    Raises:
        ValueError: if an embedding is not finite, or embeddings have different lengths.
    """
    chunks = in_memory(rows) if isinstance(rows, pa.Table) else rows
    crops, absent = _count(chunks)
    category: dict[str, Any] = {"tag": tag, "crops": crops, "absent": absent, "clusters": 0}
    category |= {"outliers": 0, "disagreements": 0, "protected": 0}
    if crops < config.min_images:
        return Decision(REMOVALS.empty_table(), SAMPLE_ROWS.empty_table(), category)
    seed += tag
    looks = _looks(chunks, crops=crops, config=config, seed=seed)
    measured = _measure(chunks, looks, counts=counts, seed=seed)
    signals, carried = signals_of(measured), measured["carried"].to_numpy()
    mine = measured.filter(pa.array(carried))
    evidence = judge(signals[carried], signals[~carried], said=mine["said"].to_numpy(), expected=config.outliers)
    going = _going(mine, evidence, config=config)
    safe = (mine["labelled"].to_numpy() & config.protect_labels) | (tag in protected)
    category["clusters"] = sum(int(one.counting.sum()) for one in looks)
    category |= {"wrong": evidence.share, "protected": int((going & safe).sum())}
    category |= {f"weight_{name}": float(one) for name, one in zip(SIGNALS, evidence.weights, strict=True)}
    judged = _judged(mine, tag, going=going & ~safe, evidence=evidence)
    reasons = judged["reason"].to_pylist()
    category |= {"outliers": reasons.count("outlier"), "disagreements": reasons.count("disagreement")}
    removals = judged.filter(judged["removed"]).select(REMOVALS.names).cast(REMOVALS)
    return Decision(removals, _samples(judged, seed=seed), category)


def _count(chunks: Chunks) -> tuple[int, int]:
    """Rows that carry the tag, and rows that do not."""
    carried = absent = 0
    for one in chunks(["carried"]):
        here = pc.sum(one["carried"]).as_py() or 0
        carried, absent = carried + here, absent + len(one) - here
    return carried, absent


def signals_of(measured: pa.Table) -> np.ndarray:
    """SIGNALS of measured rows, in their order.

    Args:
        measured: rows with the columns whole, agreement, distance, score and company.

    Returns:
        (N, F) float64; a larger value speaks for the tag.
    """
    names = ("whole", "agreement", "distance", "score", "company")
    columns = {name: measured[name].to_numpy().astype(np.float64) for name in names}
    columns |= {"near": -columns["distance"], "found": columns["score"]}
    return np.stack([columns[name] for name in SIGNALS], axis=1)


def _looks(chunks: Chunks, *, crops: int, config: CleanConfig, seed: int) -> tuple[Looks, Looks]:
    """The looks of each half of the carried crops, which the other half is measured to.

    More than FIT_POINTS crops are sampled by the hash of their keys. Their order is that of their keys.
    """
    keys: list[str] = []
    points = []
    limit = None
    if crops > FIT_POINTS:
        hashes = [_hashes(one.filter(one["carried"]), seed) for one in chunks(["key", "carried"])]
        limit = np.partition(np.concatenate(hashes), FIT_POINTS - 1)[FIT_POINTS - 1]
    for one in chunks(["key", "carried", "embedding"]):
        one = one.filter(one["carried"])
        if limit is not None:
            one = one.filter(pa.array(_hashes(one, seed) <= limit))
        keys += one["key"].to_pylist()
        points.append(embeddings_of(one["embedding"].to_pylist()))
    order = np.argsort(np.array(keys), kind="stable")
    fitted = unit(np.concatenate([one for one in points if len(one)])[order])
    half = _halves([keys[place] for place in order], seed)
    if half.all() or not half.any():  # nothing to be measured to: the hash of two or three keys
        half = np.arange(len(half)) % 2 == 0
    k = num_clusters(crops // 2, images_per_cluster=config.images_per_cluster, max_clusters=config.max_clusters)
    return find_looks(fitted[~half], clusters=k, seed=seed), find_looks(fitted[half], clusters=k, seed=seed)


def _halves(keys: list[str], seed: int) -> np.ndarray:
    """Which half each key belongs to, (N,) bool."""
    return np.array([hash_of(key, seed) & 1 for key in keys], bool)


def _hashes(rows: pa.Table, seed: int) -> np.ndarray:
    return np.array([hash_of(key, seed) for key in rows["key"].to_pylist()], np.uint64)


def unit(embeddings: np.ndarray) -> np.ndarray:
    """Embeddings as unit vectors.

    Args:
        embeddings: (N, D) float.

    Returns:
        (N, D) float32.

    Raises:
        ValueError: if one is not finite.
    """
    if bad := int((~np.isfinite(embeddings).all(axis=1)).sum()):
        raise ValueError(f"{bad} of {len(embeddings)} embeddings are not finite; check the teacher's precision")
    return normalised(embeddings)


def _measure(chunks: Chunks, looks: tuple[Looks, Looks], *, counts: TagCounts, seed: int) -> pa.Table:
    """The rows without their embeddings, with `cluster`, `distance` and `company`, in the order of keys.

    A row of one half is measured to the looks of the other; the clusters of the second are numbered after the first's.
    """
    parts = []
    for one in chunks([*_NUMBERS, "embedding"]):
        points = unit(embeddings_of(one["embedding"].to_pylist()))
        half = _halves(one["key"].to_pylist(), seed)
        first, second = (each.measure(points) for each in looks)
        cluster = np.where(half, first[0], second[0] + np.int32(len(looks[0].sizes)))
        numbers = one.select(_NUMBERS).append_column("cluster", pa.array(cluster))
        parts.append(numbers.append_column("distance", pa.array(np.where(half, first[1], second[1]))))
    rows = pa.concat_tables(parts).combine_chunks().sort_by("key")
    hashes = _hashes(rows, seed + 1)  # not those of the halves
    beside = company(rows["others"], said=rows["said"].to_numpy(), hashes=hashes, counts=counts)
    return rows.drop_columns("others").append_column("company", pa.array(beside))


def _going(mine: pa.Table, evidence: Evidence, *, config: CleanConfig) -> np.ndarray:
    """Which of a category's rows (N,) go: probably wrong, and not more than may; ties go to the lower key."""
    worst = np.argsort(-np.round(evidence.wrong, 6), kind="stable")[: int(config.most * len(mine) + 1e-9)]
    going = np.zeros(len(mine), bool)
    going[worst] = True
    return going & (evidence.wrong >= config.wrong)


def _judged(mine: pa.Table, tag: int, *, going: np.ndarray, evidence: Evidence) -> pa.Table:
    """The carried rows with what was decided, as SAMPLE_ROWS."""
    unlike = evidence.parts[:, _UNLIKE].sum(axis=1)
    reasons = np.where(2 * unlike < evidence.parts.sum(axis=1), "outlier", "disagreement")
    columns = {
        **{name: mine[name] for name in mine.column_names},
        "tag": pa.array(np.full(len(mine), tag)),
        "removed": pa.array(going),
        "reason": pa.array(reasons.astype(object), pa.string(), mask=~going),
        "score": pa.array(evidence.wrong),
    }
    return pa.table({name: columns[name] for name in SAMPLE_ROWS.names}).cast(SAMPLE_ROWS)


def _samples(mine: pa.Table, *, seed: int) -> pa.Table:
    """Some removed and some kept rows of a category, by the hash of their keys."""
    removed = mine["removed"].to_numpy()
    hashes = _hashes(mine, seed)
    order = np.argsort(hashes, kind="stable")
    places = np.concatenate([order[removed[order] == which][:SAMPLES] for which in (False, True)])
    return mine.take(np.sort(places))


def apply_removals(annotations: pa.Table, removals: pa.Table, *, round: int) -> pa.Table:
    """ANNOTATION rows without the tags that the REMOVALS rows name; each is added to the row's `removed`.

    The tags listed under each caption stay as they were: they say what the caption says, and what is trained on is
    `tags`. A removal of a tag that a row does not carry changes nothing, so applying the same removals twice is safe.

    Args:
        annotations: ANNOTATION rows.
        removals: REMOVALS rows, of these images or of others too.
        round: number of the round, noted with each removal.
    """
    of_key: dict[str, dict[int, dict[str, Any]]] = {}
    for one in removals.select(REMOVALS.names).to_pylist():
        of_key.setdefault(one["key"], {})[one["tag"]] = one
    rows = annotations.select(ANNOTATION.names).to_pylist()
    for row in rows:
        going = of_key.get(row["key"])
        if not going or not row["tags"]:
            continue
        gone = [going[tag["id"]] for tag in row["tags"] if tag["id"] in going]
        row["tags"] = [tag for tag in row["tags"] if tag["id"] not in going]
        row["removed"] = list(row["removed"] or [])
        for one in gone:
            row["removed"].append({"id": one["tag"], "reason": one["reason"], "score": one["score"], "round": round})
    return to_table(rows, ANNOTATION)
