"""A bundle's tagger as ONNX, written only if it has the bundle's own logits.

The file takes `pixel_values` (batch, 3, S, S) of any number of images and `label_embed`, the text embeddings of any
number of tags: (tags, E), for RAM++ (tags, descriptions, E). So it also tags with a user's own labels. The model's own
embeddings are written beside it, with a JSON file of names, thresholds and normalisation. Tag2Text has a fixed set of
tags and takes pixels only.

Check: ONNX Runtime runs the file on the user's images or on drawn scenes, image by image and as a batch, with the
model's tags and with a subset in another order. If a logit differs by more than `TOLERANCE`, nothing is written.
"""

from __future__ import annotations

import json
import random
import shutil
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn

from ram_ray.data.preprocess import ImageLike, preprocess
from ram_ray.models.bundle import Bundle, load_bundle
from ram_ray.models.cpu_inference import bias_windows

if TYPE_CHECKING:
    from ram_ray.models.ram import RAM

TOLERANCE = 1e-4
_LARGEST_SINGLE_FILE = 1_500_000_000  # bytes; protobuf's limit is 2 GB, so larger weights go into a separate file
_NUM_SCENES = 4  # drawn scenes, where the user names no images


@dataclass(frozen=True)
class Exported:
    """Path of the file, number of compared images, and the largest difference of a logit."""

    file: Path
    num_images: int
    difference: float

    def __str__(self) -> str:
        return f"{self.file}: largest logit difference {self.difference:.1e} on {self.num_images} images"


def export_onnx(bundle: str, out: str, *, images: Sequence[ImageLike] = ()) -> Exported:
    """Write a bundle's tagger as ONNX.

    Args:
        bundle: folder, URI or Hugging Face id.
        out: a folder, or a file that ends in .onnx.
        images: for the comparison; without any, drawn scenes.

    Returns:
        Where the file is, and the result of the comparison.

    Raises:
        Reject: if an image cannot be used.
        ValueError: if `bundle` is not a bundle, `out` is there already, the extra `onnx` is not installed, or the
            file's logits differ from the bundle's.
    """
    _need_onnx()
    loaded = load_bundle(bundle)
    target = Path(out) if out.endswith(".onnx") else Path(out) / "model.onnx"
    for path in (target, target.with_suffix(".json"), target.with_suffix(".label_embed.npy")):
        if path.exists():
            raise ValueError(f"{path} is there already: name another folder or file")
    config = loaded.model.config
    pixels = preprocess(images or _scenes(config.image_size), config)
    logits, subset_logits = _expected(loaded.model, pixels)
    target.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=target.parent, prefix=".export_") as folder:
        temporary = Path(folder) / target.name
        _write(loaded.model, temporary)
        difference = _compare(temporary, loaded, pixels, logits=logits, subset_logits=subset_logits)
        _write_metadata(loaded, temporary)
        for file in sorted(Path(folder).iterdir(), key=lambda path: path.suffix == ".onnx"):  # the model last
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
    """Trace the model and write it, for any number of images and tags."""
    bias_windows(model)
    size = model.config.image_size
    arguments: tuple[Tensor, ...] = (torch.zeros(2, 3, size, size),)
    shapes: dict[str, dict] = {"pixel_values": {0: torch.export.Dim("batch", min=1, max=1 << 16)}}
    if _takes_labels(model):
        arguments += (model.label_embed.clone(),)
        shapes["label_embed"] = {0: torch.export.Dim("tags", min=1, max=1 << 22)}
        if model.reweighs:
            shapes["label_embed"][1] = torch.export.Dim("descriptions", min=1, max=1 << 12)
    large = sum(parameter.numel() * 4 for parameter in model.parameters()) > _LARGEST_SINGLE_FILE
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
    return model.config.scores_any_label


@torch.inference_mode()
def _expected(model: RAM, pixels: Tensor) -> tuple[Tensor, Tensor | None]:
    """The plain model's logits for its own tags, and for every second tag in reverse order."""
    tokens = torch.cat([model.encode(image[None]) for image in pixels])
    own = torch.cat([model.logits(image_tokens[None]) for image_tokens in tokens])
    if not _takes_labels(model):
        return own, None
    return own, torch.cat([model.logits(image_tokens[None], _subset(model)) for image_tokens in tokens])


def _subset(model: RAM) -> Tensor:
    return model.label_embed.flip(0)[::2].contiguous()


def _compare(file: Path, bundle: Bundle, pixels: Tensor, *, logits: Tensor, subset_logits: Tensor | None) -> float:
    """The largest difference between the file's logits and the bundle's.

    Raises:
        ValueError: if it is too large.
    """
    import onnxruntime

    session = onnxruntime.InferenceSession(str(file), providers=["CPUExecutionProvider"])
    cases: list[tuple[dict[str, Tensor], Tensor]] = [({}, logits)]
    if subset_logits is not None:
        cases = [
            ({"label_embed": bundle.model.label_embed}, logits),
            ({"label_embed": _subset(bundle.model)}, subset_logits),
        ]
    difference = 0.0
    for inputs, expected in cases:
        feed = {name: value.numpy() for name, value in inputs.items()}
        batch = session.run(["logits"], {"pixel_values": pixels.numpy(), **feed})[0]
        single = [session.run(["logits"], {"pixel_values": image[None].numpy(), **feed})[0] for image in pixels]
        for output in (batch, np.concatenate(single)):
            difference = max(difference, float(np.abs(output - expected.numpy()).max()))
    if not difference <= TOLERANCE:
        raise ValueError(
            f"a logit of the ONNX file differs by {difference:.1e}, more than {TOLERANCE}: the file is not written"
        )
    return difference


def _write_metadata(bundle: Bundle, file: Path) -> None:
    """Write the model's own embeddings, and a JSON file that describes inputs and outputs."""
    config = bundle.model.config
    if _takes_labels(bundle.model):
        np.save(file.with_suffix(".label_embed.npy"), bundle.model.label_embed.numpy())
    metadata = {
        "image_size": config.image_size,
        "mean": config.mean,
        "std": config.std,
        "tags": bundle.labels.names,
        "thresholds": bundle.labels.thresholds(config.threshold).tolist(),
        "muted": config.muted,
    }
    file.with_suffix(".json").write_text(json.dumps(metadata, ensure_ascii=False, indent=1))


def _scenes(size: int) -> list[Image.Image]:
    from ram_ray.drawn_scenes import draw, sample_scene

    return [
        draw(sample_scene(random.Random(seed)), size=max(64, size), level="hard", seed=seed)
        for seed in range(_NUM_SCENES)
    ]
