"""The tagger on this machine: GFLOP/s of its forward pass and of a training step, or shares of the peak of a GPU."""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Callable
from typing import Any

from ram_ray.config import RunConfig
from ram_ray.planning.arithmetic import count_weights, forward_gflop, training_gflop
from ram_ray.planning.timing import Measured, time_calls

MODEL_COPIES = 3  # of the weights while a training step is measured: weights, gradients, and what is between


def measure_models(found: Measured, config: RunConfig, *, seconds: float) -> None:
    """Measure the tagger's forward pass and a training step at the shapes of the pretraining, with random weights.

    Args:
        found: gets the constants, or a note where the model does not fit into memory.
        config: of the run.
        seconds: of each part.
    """
    import torch

    from ram_ray.models.number_format import choose_precision

    on_gpu = torch.cuda.is_available()
    free = torch.cuda.mem_get_info()[0] if on_gpu else os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_AVPHYS_PAGES")
    needed = count_weights(config) * 4 * MODEL_COPIES
    if needed > 0.8 * free:
        found.notes.append(
            f"models were not measured: {needed / 1e9:.1f} GB of weights and gradients, {free / 1e9:.1f} GB are free"
        )
        return
    model, batch = _make_model(config, device="cuda" if on_gpu else "cpu")
    train = config.pretrain
    sizes = {"image_size": train.image_size, "window_size": train.window_size}
    parts = forward_gflop(config, **sizes, num_labels=config.labels.max_labels)
    forward = parts["encoder"] + parts["head"]
    both = training_gflop(config, train, num_labels=config.labels.max_labels, teacher=0.0)
    images = len(batch["pixel_values"])
    clock = _gpu_clock if on_gpu else time.process_time

    def run() -> None:
        with torch.no_grad(), _precision(config, on_gpu):
            model.logits(model.encode(batch["pixel_values"]))

    def step() -> None:
        model.zero_grad()
        with _precision(config, on_gpu):
            losses = model(batch)
        sum(losses.values()).backward()

    def rate(gflop: float, call: Callable[[], None]) -> float:
        return gflop * images / time_calls(call, seconds=seconds, clock=clock)

    what = f"{images} images of {train.image_size} pixels, {config.labels.max_labels:,} labels"
    model.eval()
    passed = rate(forward, run)
    model.train()
    stepped = rate(both, step)
    if not on_gpu:
        found.add(f"cpu_gflops_{choose_precision(config.training.precision, 'cpu')}", passed, f"forward pass, {what}")
        found.add("cpu_gflops_training", stepped, f"forward and backward pass, {what}")
        found.notes.append("there is no GPU here, so the constants of GPUs are those of the package")
        return
    peak = _gpu_peak(seconds)
    found.add("gpu_share_forward", passed / peak, f"forward pass, {what}, of {peak / 1000:.0f} TFLOP/s")
    for name in ("gpu_share_training", "gpu_share_training_head"):
        found.add(name, stepped / peak, f"forward and backward pass, {what}, of {peak / 1000:.0f} TFLOP/s")
    found.notes.append(
        f"a large product reaches {peak / 1000:.0f} TFLOP/s: add gpu_tflops={peak / 1000:.0f} to --nodes"
    )


def _make_model(config: RunConfig, *, device: str) -> tuple[Any, dict[str, Any]]:
    """The tagger with random weights at the size of its pretraining, and a batch."""
    import torch

    from ram_ray.models.pretrained import training_fields
    from ram_ray.models.ram import RAM

    train, labels = config.pretrain, config.labels.max_labels
    fields = training_fields(config.model, image_size=train.image_size, window_size=train.window_size)
    sizes = config.model.model_copy(update=fields)
    torch.manual_seed(0)
    images = min(2 if device == "cpu" else 16, train.micro_batch_size or train.batch_size)
    model = RAM(sizes, torch.randn(labels, sizes.label_width)).to(device)
    model.set_recompute(config.training.recompute)
    targets = torch.zeros(images, labels, device=device)
    targets[:, : min(8, labels)] = 1
    batch = {
        "pixel_values": torch.randn(images, 3, train.image_size, train.image_size, device=device),
        "targets": targets,
    }
    if train.caption_loss and sizes.captions:
        words = min(1000, sizes.vocab_size)
        batch |= {
            "caption_ids": torch.randint(5, words, (images, min(20, sizes.max_caption_tokens)), device=device),
            "tag_ids": torch.randint(5, words, (images, min(20, sizes.max_tag_tokens)), device=device),
            "caption_start": torch.tensor(4),
        }
    return model, batch


def _precision(config: RunConfig, on_gpu: bool) -> Any:
    import torch

    from ram_ray.models.number_format import choose_precision

    device = "cuda" if on_gpu else "cpu"
    if choose_precision(config.training.precision, device) == "bf16":
        return torch.autocast(device, torch.bfloat16)
    return contextlib.nullcontext()


def _gpu_clock() -> float:
    import torch

    torch.cuda.synchronize()
    return time.monotonic()


def _gpu_peak(seconds: float) -> float:
    """GFLOP/s of a large product of matrices in bf16."""
    import torch

    size = 8192
    left, right = (torch.randn(size, size, device="cuda", dtype=torch.bfloat16) for _ in range(2))
    return 2 * size**3 / 1e9 / time_calls(lambda: left @ right, seconds=seconds, clock=_gpu_clock)
