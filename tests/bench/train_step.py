"""Rate of a training step that skips pairs without a gradient (`models.active_rows`), against one that computes all.

    python tests/bench/train_step.py [--preset ram_4m] [--batch 2] [--labels 4585] [--rounds 3] [--mean -3]
                                     [--skipped 1e-6]

One model with random weights, float32, on all cores; both steps take turns, forward and backward pass without the
optimizer, and a figure is the best round's. The logits have a mean of -3, or `--mean`, and the spread of the random
weights, or one of 1, to which the classifier is scaled. The largest difference of a gradient is relative to the largest
gradient of the same weight. Biases of keys are left out: a softmax does not depend on them, so their gradients are
noise. `--skipped` is the setting `skipped_gradient` of a training.
"""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path

import torch
from torch import Tensor

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))

from ram_ray.config import load  # noqa: E402
from ram_ray.models import active_rows  # noqa: E402
from ram_ray.models.pretrained import training_fields  # noqa: E402
from ram_ray.models.ram import RAM  # noqa: E402
from ram_ray.models.recognition import RecognitionDecoder  # noqa: E402

CAPTION_TOKENS, TAG_TOKENS, NUM_POSITIVES = 20, 20, 8


def main() -> None:
    """A line for each spread of the logits."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--preset", default="ram_4m")
    parser.add_argument("--batch", type=int, default=2)
    parser.add_argument("--labels", type=int, default=4585)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--mean", type=float, default=-3.0, help="of the logits")
    parser.add_argument("--skipped", type=float, default=active_rows.EXACT)
    options = parser.parse_args()
    model, batch = make(options.preset, num_images=options.batch, num_labels=options.labels)
    assert isinstance(model.recognition, RecognitionDecoder)
    model.recognition.skipped_gradient = options.skipped
    for spread in (0.0, 1.0):
        share = set_logits(model, batch, mean=options.mean, spread=spread)
        seconds = {True: float("inf"), False: float("inf")}
        gradients: dict[bool, dict[str, Tensor]] = {}
        for _ in range(options.rounds):
            for skip in seconds:
                taken, gradients[skip] = step(model, batch, skip=skip)
                seconds[skip] = min(seconds[skip], taken)
        difference = max(
            float((gradients[True][name] - grad).abs().max() / grad.abs().max().clamp(min=1e-30))
            for name, grad in gradients[False].items()
            if not name.endswith("key.bias")
        )
        times = seconds[False] / seconds[True]
        print(
            f"{options.preset}, batch {options.batch}, {options.labels:,} labels, mean logit {options.mean:g}, "
            f"{f'spread {spread:g}' if spread else 'spread as initialised'}, {share:.1%} of the pairs above the clip: "
            f"all {seconds[False]:.2f} s, skipping {seconds[True]:.2f} s, {times:.2f} times; "
            f"largest difference of a gradient {difference:.1e}",
            flush=True,
        )


def make(preset: str, *, num_images: int, num_labels: int) -> tuple[RAM, dict[str, Tensor]]:
    """The preset's model at the size of its pretraining, and a batch with captions."""
    config = load(ROOT / "ram_ray" / "presets" / f"{preset}.yaml")
    train = config.pretrain
    torch.manual_seed(0)
    fields = training_fields(config.model, image_size=train.image_size, window_size=train.window_size)
    model = RAM(config.model.model_copy(update=fields), torch.randn(num_labels, config.model.label_width)).train()
    targets = torch.zeros(num_images, num_labels)
    targets[:, :NUM_POSITIVES] = 1
    batch = {
        "pixel_values": torch.randn(num_images, 3, train.image_size, train.image_size),
        "targets": targets,
        "caption_ids": torch.randint(5, 1000, (num_images, CAPTION_TOKENS)),
        "tag_ids": torch.randint(5, 1000, (num_images, TAG_TOKENS)),
        "caption_start": torch.tensor(4),
    }
    return model, batch


@torch.no_grad()
def set_logits(model: RAM, batch: dict[str, Tensor], *, mean: float, spread: float) -> float:
    """Move the logits to a mean and, if it is not 0, to a spread; the share of the pairs above `clip`."""
    fc = model.recognition.fc
    assert isinstance(fc, torch.nn.Linear)
    if spread:
        fc.weight.mul_(spread / float(model.logits(model.encode(batch["pixel_values"])).std()))
    fc.bias.add_(mean - float(model.logits(model.encode(batch["pixel_values"])).mean()))
    moved = model.logits(model.encode(batch["pixel_values"]))
    return float((moved.sigmoid() > 0.05).float().mean())


def step(model: RAM, batch: dict[str, Tensor], *, skip: bool) -> tuple[float, dict[str, Tensor]]:
    """Seconds of forward and backward pass, and the gradients."""
    most, active_rows.MAX_SHARE = active_rows.MAX_SHARE, active_rows.MAX_SHARE if skip else -1.0
    model.zero_grad()
    torch.manual_seed(1)  # the same dropout
    start = time.perf_counter()
    sum(model(batch).values()).backward()
    seconds = time.perf_counter() - start
    active_rows.MAX_SHARE = most
    return seconds, {name: weight.grad for name, weight in model.named_parameters() if weight.grad is not None}


if __name__ == "__main__":
    main()
