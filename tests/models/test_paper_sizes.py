"""Contract: the presets of the paper have as many weights as the official models."""

from __future__ import annotations

import pytest
import torch

from ram_ray.cli.options import PRESETS
from ram_ray.config import load
from ram_ray.models.ram import RAM


@pytest.mark.parametrize(("preset", "millions"), [("ram_4m", 358.1), ("ram_14m", 466.6)])
def test_a_preset_has_the_official_number_of_weights(preset: str, millions: float) -> None:
    config = load(PRESETS / f"{preset}.yaml").model
    with torch.device("meta"):
        model = RAM(config, torch.zeros(4585, config.label_width))
    assert round(sum(weight.numel() for weight in model.parameters()) / 1e6, 1) == millions
    layers = model.tag_encoder.layers
    assert len(layers) == 12 and [layer.ffn for layer in layers[:2]] == [
        layer.ffn for layer in model.recognition.layers
    ]
