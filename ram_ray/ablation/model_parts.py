"""Table 4, the parts of the model, with the preliminary model on parsed tags.

Tag2Text without and with captioning, then text queries, distillation, and a larger label system. mAP is over the tags
of the small system in all rows.
"""

from __future__ import annotations

import numpy as np

from ram_ray.ablation.rows import Measured
from ram_ray.ablation.trained import train_rows
from ram_ray.ablation.variants import Changes, Figures, vary
from ram_ray.config import RunConfig
from ram_ray.evaluation.stages import read_summary

TABLE_4 = ("Tag2Text without captioning", "+ captioning", "+ text queries", "+ distillation", "+ larger label system")
SMALL_SYSTEM = 3429 / 6449  # of the label system: Tag2Text's to RAM's before synonyms were merged


def measure_model(config: RunConfig, run_uri: str) -> Measured:
    """Table 4's rows for the configuration's seed.

    Args:
        config: of the run, with its seed.
        run_uri: its folder.

    Returns:
        Row -> figure -> number.
    """
    rows: dict[str, Figures] = {}
    common: set[tuple[str, str]] = set()
    for row in train_rows(model_variants(config), run_uri):
        lines = read_summary(row.score)["per_tag"]
        common = common or {(line["kind"], line["tag"]) for line in lines}  # the small system's, in the first row
        scored = [line["ap"] for line in lines if line["counted"] and (line["kind"], line["tag"]) in common]
        rows[row.name] = {
            "tags": row.annotations.tags,
            "labels": row.inputs.labels.labels,
            "steps": row.model.steps,
            "mAP": float(np.mean(scored)) if scored else None,
        }
    return rows


def model_variants(config: RunConfig) -> dict[str, RunConfig]:
    """Table 4's rows as configurations: each adds a part to the one before it.

    Args:
        config: with all parts.

    Returns:
        Configuration of each row, in their order.

    Raises:
        ValueError: naming the row that would not be a valid run.
    """
    width = config.model.recognition.width
    small = max(1, round(SMALL_SYSTEM * config.labels.max_labels))
    trained_queries = {"architecture": "tag2text", "label_width": width}
    without = {"distill_loss": False}
    first: Changes = {
        "model": trained_queries,
        "labels": {"max_labels": small},
        "pretrain": {"caption_loss": False, **without},
    }
    changes: list[Changes] = [
        {**first, "retrain": without, "finetune": without},  # these two are not run, but must not contradict the model
        {"pretrain": {"caption_loss": True}},
        {"model": {name: getattr(config.model, name) for name in trained_queries}},
        {"pretrain": {"distill_loss": True}},
        {"labels": {"max_labels": config.labels.max_labels}},
    ]
    variants: dict[str, RunConfig] = {}
    for name, change in zip(TABLE_4, changes, strict=True):
        config = variants[name] = vary(config, change, what=f"row {name!r}")
    return variants
