"""The stage `doubts`: the score of each label below which a mention is in doubt, so that a slow detector sees less.

Cleaning takes at most a small share of a label's mentions away, those that the tagger is least sure of. The region of
a mention that it is sure of changes little. So with `engine.clean.doubt_share` the detector sees only the images with a
mention in doubt, and the regions of others are found as `RegionEmbedder` says.

Mentions are counted in bins of the tagger's score on the whole image, on at most about `MAX_IMAGES` images: those of
some shards, if there are more. A mention that is not among the scores of its image has the lowest one.

Letters: T labels, B bins (`data_engine.calibrate`).
"""

from __future__ import annotations

import json
from collections import Counter

import fsspec
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from scipy.special import expit

from ram_ray.config import RunConfig
from ram_ray.data_engine.calibrate import BINS, bin_of, edge_of
from ram_ray.data_engine.crops import MENTIONED_ORIGINS
from ram_ray.data_engine.generate import decode_logits
from ram_ray.data_engine.ray_counts import sum_rows
from ram_ray.data_engine.stage_settings import DoubtSettings
from ram_ray.label_system import LabelSystem
from ram_ray.results import Annotations, Doubts, GeneratedAnnotations, LabelSystemResult
from ram_ray.runtime.artifacts import Run, write_text
from ram_ray.runtime.rows import COUNTED_ROWS, read_rows

MAX_IMAGES = 1_000_000
MIN_MENTIONS = 20  # of fewer, all are in doubt
MENTION_BINS = pa.schema([("cell", pa.int64()), ("mentions", pa.int64())])  # cell: label x B + bin


def find_doubts(
    run: Run, config: RunConfig, annotations: Annotations, labels: LabelSystemResult, *, round: int
) -> Doubts | None:
    """Find the score of each label below which `engine.clean.doubt_share` of its mentions are.

    Args:
        run: the run that gets the stage.
        config: of the run.
        annotations: what cleaning gets, of `generate`.
        labels: the label system.
        round: number of the round of the data engine, part of the stage's name.

    Returns:
        The scores; None if the detector sees all images.

    Raises:
        ValueError: if the annotations do not say where their scores are.
    """
    settings, execution = DoubtSettings.from_config(config), config.execution
    if settings.share is None:
        return None
    stage = run.stage(f"doubts_{round}", Doubts, settings=settings, inputs=[annotations, labels])
    if stage.result:
        return stage.result
    if not isinstance(annotations, GeneratedAnnotations) or annotations.scores is None:
        raise ValueError(
            f"engine.clean.doubt_share needs the scores of {annotations.stage}, and its manifest names none; delete "
            f"{annotations.path}.json and the folder {annotations.path}, and the stage runs again"
        )
    rows = read_rows(
        annotations.scores,
        execution=execution,
        columns=["tags", "tagger_ids", "tagger_logits", "reason"],
        rows_per_block=COUNTED_ROWS,
        share=min(1.0, MAX_IMAGES / max(1, annotations.rows_out)),
    )
    sums = sum_rows(rows, count_mentions, MENTION_BINS, execution=execution)
    mentions = np.zeros((len(LabelSystem.load(labels.uri)), BINS), np.int64)
    for table in sums:
        mentions.flat[table["cell"].to_numpy()] += table["mentions"].to_numpy()
    limits = doubt_limits(mentions, share=settings.share)
    write_text(f"{stage.path}/doubts.json", json.dumps(limits))
    return stage.finish(mentions=int(mentions.sum()), labels=sum(limit is not None for limit in limits))


def count_mentions(block: pa.Table) -> pa.Table:
    """Count the mentions of a block by label and score.

    Args:
        block: SCORES rows.

    Returns:
        MENTION_BINS rows.
    """
    cells: Counter[int] = Counter()
    for row in block.filter(pc.is_null(block["reason"])).to_pylist():
        bins = dict(zip(row["tagger_ids"] or (), bin_of(decode_logits(row["tagger_logits"])).tolist(), strict=True))
        for tag in row["tags"] or ():
            if tag["origin"] in MENTIONED_ORIGINS:
                cells[tag["id"] * BINS + bins.get(tag["id"], 0)] += 1
    return pa.table([list(cells), list(cells.values())], schema=MENTION_BINS)


def doubt_limits(mentions: np.ndarray, *, share: float) -> list[float | None]:
    """Find the score of each label below which a mention is in doubt.

    Args:
        mentions: (T, B) int, mentions by label and score.
        share: of a label's mentions that are in doubt, at least, 0 to 1.

    Returns:
        For each label a probability; None: all mentions are in doubt, for there are too few.
    """
    total = mentions.sum(axis=1)
    reached = mentions.cumsum(axis=1) >= share * total[:, None]
    limits = expit(edge_of(reached.argmax(axis=1) + 1))
    return [float(limit) if count >= MIN_MENTIONS else None for limit, count in zip(limits, total, strict=True)]


def read_doubts(uri: str) -> np.ndarray:
    """Read what `find_doubts` wrote.

    Args:
        uri: of the file.

    Returns:
        (T,) float64; infinite where all mentions are in doubt.
    """
    with fsspec.open(uri, "r") as file:
        return np.array([np.inf if limit is None else limit for limit in json.load(file)])
