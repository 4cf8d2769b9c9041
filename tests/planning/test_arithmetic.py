"""Contract: operations and weights of the large presets are those that were counted on the models themselves."""

from __future__ import annotations

import pytest

from ram_ray.config import RunConfig, load
from ram_ray.planning.arithmetic import count_weights, encoder_gflop, forward_gflop, training_gflop


def preset(name: str, *sets: str) -> RunConfig:
    return load(f"ram_ray/presets/{name}.yaml", sets=sets)


@pytest.mark.parametrize(
    ("name", "size", "window", "encoder", "head"),
    [("ram_4m", 224, 7, 30.9, 107.0), ("ram_14m", 224, 7, 69.0, 107.0), ("ram_14m", 384, 12, 208.1, 110.0)],
)
def test_forward_pass(name: str, size: int, window: int, encoder: float, head: float) -> None:
    parts = forward_gflop(preset(name), image_size=size, window_size=window, num_labels=4585)
    assert parts["encoder"] == pytest.approx(encoder, rel=0.01) and parts["head"] == pytest.approx(head, rel=0.04)


@pytest.mark.parametrize(("name", "layers", "millions"), [("ram_14m", 12, 466.6), ("ram_14m", 2, 376.0)])
def test_weights(name: str, layers: int, millions: float) -> None:
    config = preset(name, f"model.tag_encoder.layers={layers}")
    assert count_weights(config) / 1e6 == pytest.approx(millions, rel=0.08)


def test_a_frozen_encoder_with_stored_views_costs_nothing_in_a_step() -> None:
    config = preset("photos")
    train = config.pretrain
    assert train.views
    read = training_gflop(config, train, num_labels=100, teacher=0.0)
    drawn = training_gflop(config, train.model_copy(update={"views": None}), num_labels=100, teacher=0.0)
    encoder, _, _ = encoder_gflop(config, image_size=train.image_size, window_size=train.window_size)
    assert drawn - read == pytest.approx(encoder)


def test_an_unknown_encoder_is_one_line() -> None:
    config = preset("ram_14m", "model.image_encoder.name=vit_giant")
    with pytest.raises(ValueError, match="image_encoder.name: the operations of vit_giant are not known .*--run"):
        encoder_gflop(config, image_size=224, window_size=7)
