"""Where the checks of a GPU run, and the models that they measure; nothing is imported before it is needed."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

PEAKS = {"H100": 989.0, "H200": 989.0, "A100": 312.0, "L40S": 362.0, "L4": 121.0, "A10": 125.0}  # dense bf16, TFLOP/s


@dataclass(frozen=True)
class Machine:
    """Where the checks run, and whether in small."""

    device: str
    small: bool

    @property
    def peak(self) -> float | None:
        """TFLOP/s of bf16 products, as the maker gives them; None for a card that is not in the table."""
        import torch

        name = torch.cuda.get_device_name() if self.device == "cuda" else ""
        return next((peak for card, peak in PEAKS.items() if card in name), None)

    def seconds(self, run: Callable[[], Any], *, rounds: int = 5) -> float:
        """The best of some rounds, after two that do not count."""
        import torch

        times = []
        for number in range(3 if self.small else rounds + 2):
            start = time.perf_counter()
            run()
            if self.device == "cuda":
                torch.cuda.synchronize()
            if number >= 2:
                times.append(time.perf_counter() - start)
        return min(times)

    def share(self, flops: float, seconds: float) -> float | None:
        """Operations a second as a share of the card's peak."""
        return round(flops / seconds / self.peak / 1e12, 3) if self.peak else None


def tagger(machine: Machine, *, side: int, window: int, captions: bool) -> Any:
    """RAM with Swin-L and 4,585 labels at random weights, on the device."""
    import torch

    from ram_ray.models.ram import RAM
    from ram_ray.settings.models import ModelConfig, SwinConfig, TransformerConfig

    torch.manual_seed(0)
    swin = SwinConfig(window_size=window, embed_dim=192, depths=(2, 2, 18, 2), num_heads=(6, 12, 24, 48))
    labels, sizes = 4585, {"tag_encoder": TransformerConfig(layers=2, heads=12)}
    if machine.small:
        swin = SwinConfig(window_size=window, embed_dim=16, depths=(1, 1, 1, 1), num_heads=(1, 1, 1, 1))
        tiny = TransformerConfig(width=32, layers=2, heads=2, ffn=64)
        labels, sizes = 20, dict.fromkeys(("recognition", "tag_encoder", "caption_decoder"), tiny)
    config = ModelConfig(image_size=side, swin=swin, captions=captions, **sizes)  # type: ignore[arg-type]
    embeddings = torch.nn.functional.normalize(torch.randn(labels, config.label_width), dim=-1)
    return RAM(config, embeddings).to(machine.device)


def batch_of(machine: Machine, model: Any, *, images: int) -> dict:
    """A training batch as the feed gives it, of random images and words."""
    import torch

    side, words = model.config.image_size, model.config.vocab_size
    batch = {
        "pixels": torch.randint(0, 256, (images, 1, side, side, 3), dtype=torch.uint8),
        "targets": (torch.rand(images, len(model.label_embed)) < 0.002).to(torch.uint8),
        "caption_ids": torch.randint(1, words, (images, 24), dtype=torch.int32),
        "tag_ids": torch.randint(1, words, (images, 16), dtype=torch.int32),
        "weight": torch.ones(images),
    }
    return {name: value.to(machine.device) for name, value in batch.items()}


def strategy(machine: Machine, step: Any, *, kind: str, precision: str, images: int) -> Any:
    """The trainer's own strategy around a step."""
    import torch

    from ram_ray.settings.training import TrainConfig, TrainingConfig
    from ram_ray.training.strategy import make_strategy

    training = TrainingConfig(strategy=kind, precision=precision, zero_stage=1, use_gpu=machine.device == "cuda")
    config = TrainConfig(batch_size=images)
    return make_strategy(step, config=config, training=training, device=torch.device(machine.device))


def train_step(machine: Machine, *, side: int, window: int) -> Any:
    """A step of pretraining with all losses but distillation."""
    from ram_ray.training.step import TrainStep

    return TrainStep(tagger(machine, side=side, window=window, captions=True), teacher=None, caption_start=3)
