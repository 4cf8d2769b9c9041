"""Settings of the stage `evaluate`."""

from __future__ import annotations

from pydantic import Field

from ram_ray.settings.section import HOW, Section


class EvaluateConfig(Section):
    """Scoring on labelled shards (or, where they carry no labels, the tags of their captions)."""

    min_positives: int = Field(1, ge=1)  # tags with fewer positives are left out of mAP
    threshold: float = Field(0.5, gt=0, lt=1)
    batch_size: int = Field(64, json_schema_extra=HOW)
