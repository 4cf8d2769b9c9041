"""Contract: an image encoder is trained at its own learning rate, or not at all."""

from __future__ import annotations

import copy
from pathlib import Path

import pytest
import torch

from ram_ray.settings.models import TimmConfig
from ram_ray.settings.training import TrainConfig, TrainingConfig
from ram_ray.training.build import freeze_encoder
from ram_ray.training.step import TrainStep
from ram_ray.training.strategy import make_strategy, read_weights
from tests.tiny import tagger
from tests.training.test_strategy import CPU, _batches


@pytest.mark.usefixtures("process_group", "no_compiler")
@pytest.mark.parametrize("backbone_lr", [0.0, 1e-5])
@pytest.mark.parametrize(
    ("strategy", "optimizer"),
    [("ddp", "adamw"), ("ddp", "muon")],
)
def test_an_image_encoder_has_its_own_learning_rate(
    strategy: str | int, optimizer: str, backbone_lr: float, tmp_path: Path
) -> None:
    config = TrainConfig(batch_size=4, lr=1e-3, backbone_lr=backbone_lr, optimizer=optimizer, weight_decay=0.0)
    distribution = {"strategy": "ddp"} if strategy == "ddp" else {"strategy": "deepspeed", "zero_stage": strategy}
    training = TrainingConfig(precision="fp32", workers=1, use_gpu=False, **distribution)
    named = TimmConfig(name="test_resnet", weights="of a file")
    step = TrainStep(tagger(image_encoder=named, image_size=64).train(), teacher=None, caption_start=2)
    freeze_encoder(step.model.image_encoder, config)
    original = copy.deepcopy(step.model.state_dict())
    made = make_strategy(step, config=config, training=training, device=CPU)
    (batch,) = _batches(1)
    batch["pixels"] = torch.nn.functional.pad(batch["pixels"], (0, 0, 16, 16, 16, 16))
    made.step([batch], lr=1e-3)
    made.save(tmp_path)
    weights = {name: value.detach() for name, value in read_weights(tmp_path).items()}
    changes = {name: (value - original[name]).abs().max().item() for name, value in weights.items()}
    of_encoder = [change for name, change in changes.items() if name.startswith("image_encoder.")]
    assert max(of_encoder) == pytest.approx(backbone_lr, rel=0.02)
    assert changes["recognition.fc.weight"] == pytest.approx(1e-3, rel=0.02)
    assert {change for name, change in changes.items() if "running" in name} == {0.0}, "statistics of the file"
