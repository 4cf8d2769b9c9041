"""Memory of a training step of the large presets, by the tensors that autograd saves for the backward pass.

    python tests/bench/memory.py [--presets ram_4m ram_14m] [--labels 4585]

The model runs on fake tensors (shapes and dtypes without data) in bf16 autocast, at the micro batch of the preset, so
nothing is computed and no GPU is needed. Saved tensors are counted once for each storage, and weights apart: 4 bytes
each for the weight and its gradient, and AdamW's 12 (with the float32 copy) over the workers with ZeRO stage 1. With
`training.recompute` the largest layer is added, which is whole while its backward pass runs. The CPU's attention with
dropout saves its probabilities, which a GPU's kernels do not, so the figures are upper bounds of what autograd holds.
On top come DeepSpeed's buckets (2 GiB each), gradients of activations, kernels' workspaces, and the allocator's waste.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))

from ram_ray.config import RunConfig, load  # noqa: E402
from ram_ray.models.pretrained import training_fields  # noqa: E402
from ram_ray.models.ram import RAM  # noqa: E402
from ram_ray.settings.training import TrainConfig  # noqa: E402

GIB = 2**30
TEACHER_PARAMETERS = 150_000_000  # CLIP ViT-B/16, both encoders, float32


class SavedTensors:
    """Bytes of the tensors that autograd saved, without weights.

    Args:
        model: its weights are not counted.
    """

    def __init__(self, model: nn.Module) -> None:
        self._weights = {tensor.untyped_storage()._cdata for tensor in [*model.parameters(), *model.buffers()]}
        self._storages: dict[int, torch.UntypedStorage] = {}  # kept, so that no address is used again

    def add(self, tensor: Tensor) -> Tensor:
        """Count a tensor that is saved.

        Args:
            tensor: as autograd packs it.

        Returns:
            The tensor.
        """
        storage = tensor.untyped_storage()
        if storage._cdata not in self._weights:
            self._storages[storage._cdata] = storage
        return tensor

    @property
    def num_bytes(self) -> int:
        """Bytes of all storages so far."""
        return sum(storage.nbytes() for storage in self._storages.values())


@contextmanager
def count_saved(model: nn.Module) -> Iterator[SavedTensors]:
    """Count the tensors that autograd saves in a block of code.

    Args:
        model: its weights are not counted.

    Yields:
        The count.
    """
    saved = SavedTensors(model)
    with torch.autograd.graph.saved_tensors_hooks(saved.add, lambda tensor: tensor):
        yield saved


def layers_of(model: RAM) -> list[nn.Module]:
    """List the layers that `training.recompute` computes again.

    Args:
        model: the tagger.

    Returns:
        Blocks of the Swin, the recognition decoder, the tag encoder and the caption decoder.
    """
    stages = [block for stage in model.image_encoder.backbone.layers for block in stage.blocks]
    return [*stages, *model.recognition.layers, *model.tag_encoder.layers, *model.caption_decoder.layers]


def fill_with_fakes(model: nn.Module) -> None:
    """Replace weights of the meta device by those of the fake mode that is on; shared modules stay shared.

    Args:
        model: changed in place.
    """
    for module in model.modules():
        for name, weight in module.named_parameters(recurse=False):
            module.register_parameter(name, nn.Parameter(torch.empty(weight.shape, dtype=weight.dtype)))
        for name, buffer in module.named_buffers(recurse=False):
            module.register_buffer(name, torch.zeros(buffer.shape, dtype=buffer.dtype))


def measure(config: RunConfig, train: TrainConfig, *, num_labels: int, recompute: bool) -> tuple[int, int, int]:
    """Run a forward pass on fake tensors.

    Args:
        config: of the run.
        train: section of the training.
        num_labels: size of the label system.
        recompute: as `training.recompute`.

    Returns:
        Number of weights, bytes that are saved, and bytes of the layer that saves most.
    """
    size, batch = train.image_size, train.micro_batch_size or train.batch_size
    fields = training_fields(config.model, image_size=size, window_size=train.window_size)
    sizes = config.model.model_copy(update=fields)
    with torch.device("meta"):
        model = RAM(sizes, torch.zeros(num_labels, sizes.label_width)).train()
    with FakeTensorMode():
        fill_with_fakes(model)
        model.set_recompute(recompute)
        inputs = {
            "pixel_values": torch.zeros(batch, 3, size, size),
            "targets": torch.zeros(batch, num_labels),
            "caption_ids": torch.ones(batch, sizes.max_caption_tokens, dtype=torch.int64),
            "tag_ids": torch.ones(batch, sizes.max_tag_tokens, dtype=torch.int64),
            "caption_start": 4,
            "teacher": torch.zeros(batch, sizes.image_proj),
        }
        largest = 0
        with count_saved(model) as saved, torch.autocast("cpu", torch.bfloat16):
            before: list[int] = []

            def leave(*_: object) -> None:
                nonlocal largest
                largest = max(largest, saved.num_bytes - before.pop())

            for layer in layers_of(model):
                layer.register_forward_pre_hook(lambda *_: before.append(saved.num_bytes))
                layer.register_forward_hook(leave)
            model(inputs)
        return sum(weight.numel() for weight in model.parameters()), saved.num_bytes, largest


def main() -> None:
    """Print a row for each training of each preset."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--presets", nargs="+", default=["ram_4m", "ram_14m"])
    parser.add_argument("--labels", type=int, default=4585)
    options = parser.parse_args()
    print("preset    training    images  weights GiB  saved GiB  total GiB  recompute: saved  + layer  total")
    for preset in options.presets:
        config = load(ROOT / "ram_ray" / "presets" / f"{preset}.yaml")
        for name in ("pretrain", "finetune"):
            train: TrainConfig = getattr(config, name)
            num_weights, plain, largest = measure(config, train, num_labels=options.labels, recompute=False)
            _, saved, _ = measure(config, train, num_labels=options.labels, recompute=True)
            state = num_weights * (8 + 12 / config.training.max_workers) + 4 * TEACHER_PARAMETERS
            kept = saved + largest
            print(
                f"{preset:9} {name:9} {train.micro_batch_size or train.batch_size:8} {state / GIB:12.1f} "
                f"{plain / GIB:10.1f} {(state + plain) / GIB:10.1f} {saved / GIB:17.1f} {largest / GIB:8.1f} "
                f"{(state + kept) / GIB:6.1f}"
            )


if __name__ == "__main__":
    main()
