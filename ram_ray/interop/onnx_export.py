"""A bundle's tagger as ONNX, kept only if it gives the bundle's own numbers.

The file takes `pixel_values` (batch, 3, S, S), any number of pictures, and `label_embed`, the text embeddings of the
tags that are asked for, any number of them: (tags, E), for RAM++ (tags, descriptions, E). So it tags with a user's
own words as well. The model's own embeddings are written beside it, with a JSON file that has names, thresholds and
the normalisation. Tag2Text, which knows its own tags alone, takes pixels only.

The gate: the file is run by ONNX Runtime on photos (the user's, or drawn scenes), one at a time and together, with
the model's tags and with others. If a logit is off by more than `TOLERANCE`, nothing is written.
"""

from __future__ import annotations

import json
import random
import shutil
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn

from ram_ray.data.preprocess import ImageLike, preprocess
from ram_ray.models.bundle import Bundle, load_bundle
from ram_ray.models.fast import bias_windows

if TYPE_CHECKING:
    from ram_ray.models.ram import RAM

TOLERANCE = 1e-4
_LARGEST_SINGLE_FILE = 1_500_000_000  # bytes; protobuf ends at 2 GB, so larger weights go into a file of their own
_DRAWN = 4  # scenes, where the user gives no photos


@dataclass(frozen=True)
class Exported:
    """Where the file is, and how near it comes."""

    file: Path
    pictures: int
    difference: float

    def __str__(self) -> str:
        return f"{self.file}: largest logit difference {self.difference:.1e} on {self.pictures} pictures"


def export_onnx(bundle: str, out: str, *, images: Sequence[ImageLike] = ()) -> Exported:
    """Write a bundle's tagger as ONNX.

    Args:
        bundle: folder, URI or Hugging Face id.
        out: a folder, or a file that ends in .onnx.
        images: to compare on; without any, drawn scenes.

    Raises:
        Reject: if an image is no usable image.
        ValueError: if `bundle` is none, `out` is there already, the extra `onnx` is not installed, or the file gives
            other numbers than the bundle.
    """
    _need_onnx()
    loaded = load_bundle(bundle)
    target = Path(out) if out.endswith(".onnx") else Path(out) / "model.onnx"
    beside = [target, target.with_suffix(".json"), target.with_suffix(".label_embed.npy")]
    for one in beside:
        if one.exists():
            raise ValueError(f"{one} is there already: name another place")
    config = loaded.model.config
    pixels = preprocess(images or _scenes(config.image_size), config)
    wanted, others = _expected(loaded.model, pixels)
    target.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=target.parent, prefix=".export_") as folder:
        made = Path(folder) / target.name
        _write(loaded.model, made)
        difference = _compare(made, loaded, pixels, wanted=wanted, others=others)
        _write_beside(loaded, made)
        for file in sorted(Path(folder).iterdir(), key=lambda one: one.suffix == ".onnx"):  # the model last
            shutil.move(file, target.parent / file.name)
    return Exported(target, len(pixels), difference)


class _Tagger(nn.Module):
    def __init__(self, model: RAM) -> None:
        super().__init__()
        self.model = model

    def forward(self, pixel_values: Tensor, label_embed: Tensor | None = None) -> Tensor:
        return self.model.logits(self.model.encode(pixel_values), label_embed)


def _need_onnx() -> None:
    try:
        import onnx  # noqa: F401
        import onnxruntime  # noqa: F401
        import onnxscript  # noqa: F401
    except ImportError as error:
        raise ValueError(f"export needs {error.name}: install ram_ray with the extra 'onnx'") from None


def _write(model: RAM, file: Path) -> None:
    """Trace the model and write it, for any number of pictures and tags."""
    bias_windows(model)
    size = model.config.image_size
    arguments: tuple[Tensor, ...] = (torch.zeros(2, 3, size, size),)
    shapes: dict[str, dict] = {"pixel_values": {0: torch.export.Dim("batch", min=1, max=1 << 16)}}
    if _takes_labels(model):
        arguments += (model.label_embed.clone(),)
        shapes["label_embed"] = {0: torch.export.Dim("tags", min=1, max=1 << 22)}
        if model.reweighs:
            shapes["label_embed"][1] = torch.export.Dim("descriptions", min=1, max=1 << 12)
    large = sum(one.numel() * 4 for one in model.parameters()) > _LARGEST_SINGLE_FILE
    torch.onnx.export(
        _Tagger(model).eval(),
        arguments,
        file,
        input_names=list(shapes),
        output_names=["logits"],
        dynamic_shapes=shapes,
        dynamo=True,
        external_data=large,
        verbose=False,
    )


def _takes_labels(model: RAM) -> bool:
    return model.config.architecture != "tag2text"


@torch.inference_mode()
def _expected(model: RAM, pixels: Tensor) -> tuple[Tensor, Tensor | None]:
    """The plain model's logits for its own tags, and for every second of them in reverse."""
    tokens = torch.cat([model.encode(one[None]) for one in pixels])
    own = torch.cat([model.logits(one[None]) for one in tokens])
    if not _takes_labels(model):
        return own, None
    return own, torch.cat([model.logits(one[None], _others(model)) for one in tokens])


def _others(model: RAM) -> Tensor:
    return model.label_embed.flip(0)[::2].contiguous()


def _compare(file: Path, bundle: Bundle, pixels: Tensor, *, wanted: Tensor, others: Tensor | None) -> float:
    """The largest difference between the file's logits and the bundle's.

    Raises:
        ValueError: if it is too large.
    """
    import onnxruntime

    session = onnxruntime.InferenceSession(str(file), providers=["CPUExecutionProvider"])
    sets = [({}, wanted)] if others is None else [({"label_embed": bundle.model.label_embed}, wanted)]
    if others is not None:
        sets.append(({"label_embed": _others(bundle.model)}, others))
    difference = 0.0
    for labels, right in sets:
        feed = {name: value.numpy() for name, value in labels.items()}
        together = session.run(["logits"], {"pixel_values": pixels.numpy(), **feed})[0]
        alone = [session.run(["logits"], {"pixel_values": one[None].numpy(), **feed})[0] for one in pixels]
        for made in (together, np.concatenate(alone)):
            difference = max(difference, float(np.abs(made - right.numpy()).max()))
    if not difference <= TOLERANCE:
        raise ValueError(f"the ONNX file is off by {difference:.1e} in a logit, more than {TOLERANCE}: not kept")
    return difference


def _write_beside(bundle: Bundle, file: Path) -> None:
    """The model's own embeddings, and what its inputs and outputs mean."""
    config = bundle.model.config
    if _takes_labels(bundle.model):
        np.save(file.with_suffix(".label_embed.npy"), bundle.model.label_embed.numpy())
    facts: dict[str, Any] = {
        "image_size": config.image_size,
        "mean": config.mean,
        "std": config.std,
        "tags": bundle.labels.names,
        "thresholds": bundle.labels.thresholds(config.threshold).tolist(),
        "muted": config.muted,
    }
    file.with_suffix(".json").write_text(json.dumps(facts, ensure_ascii=False, indent=1))


def _scenes(size: int) -> list[Image.Image]:
    from ram_ray.drawn_scenes import draw, sample_scene

    return [
        draw(sample_scene(random.Random(seed)), size=max(64, size), level="hard", seed=seed) for seed in range(_DRAWN)
    ]
