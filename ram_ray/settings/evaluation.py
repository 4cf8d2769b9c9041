"""Settings of the stage `evaluate`."""

from __future__ import annotations

from pydantic import Field

from ram_ray.settings.section import RUNTIME_ONLY, Section


class EvaluateConfig(Section):
    """Scoring on labelled shards (or, if they have no labels, against the tags of their captions).

    Precision and recall are counted at the thresholds that the model is served with: each label's own, else
    `model.threshold`.
    """

    min_positives: int = Field(1, ge=1, description="Tags with fewer positives are not part of mAP.")
    batch_size: int = Field(64, json_schema_extra=RUNTIME_ONLY, description="Images of one batch.")
