"""Tiny real parts that several tests are made of: sizes, a tagger, its batch, a vocabulary, photos."""

from __future__ import annotations

import io
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

import numpy as np
import torch
from PIL import Image, ImageDraw

from ram_ray.models.ram import RAM
from ram_ray.models.tokenizer import TextTokenizer
from ram_ray.settings.models import ModelConfig, SwinConfig, TransformerConfig

if TYPE_CHECKING:
    from ram_ray.inference.predictor import Predictor

NAMES = ("dog", "beach", "red", "run", "traffic light", "person")
SWIN = SwinConfig(patch_size=4, window_size=4, embed_dim=8, depths=(2, 2), num_heads=(1, 2), drop_path=0.0)
STACK = TransformerConfig(width=16, layers=2, heads=2, ffn=32, dropout=0.0)


def tokenizer() -> TextTokenizer:
    """A WordPiece vocabulary of the tags' words."""
    texts = [f"a picture of a {name} and a {name} | {name}" for name in NAMES]
    return TextTokenizer.train(texts * 3, vocab_size=200)


def config(**changes) -> ModelConfig:
    """32 px; the tag encoder has more heads and layers than the recognition decoder whose weights it shares."""
    sizes = {
        "image_size": 32,
        "swin": SWIN,
        "image_proj": 12,
        "label_width": 10,
        "recognition": STACK,
        "tag_encoder": STACK.model_copy(update={"heads": 4, "layers": 3}),
        "caption_decoder": STACK,
        "vocab_size": 50,
        "max_positions": 24,
    }
    return ModelConfig(**{**sizes, **changes})


def tagger(*, seed: int = 0, spread: float = 1.0, **changes) -> RAM:
    """A tagger with random weights, in eval mode; with `spread` they are larger, so that outputs differ more."""
    torch.manual_seed(seed)
    made = config(**changes)
    model = RAM(made, torch.randn(len(NAMES), made.label_width)).eval()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if parameter.ndim > 1 and not name.startswith("image_encoder"):
                parameter.mul_(spread)
    return model


def batch(size: int = 3, *, seed: int = 0, vocab_size: int = 50, start: int = 3) -> dict:
    """Inputs of `RAM.forward` with everything in them; captions of different lengths."""
    torch.manual_seed(seed)
    ids = torch.randint(5, vocab_size, (size, 9))
    tags = torch.randint(5, vocab_size, (size, 6))
    for row in range(size):
        ids[row, 9 - row % 3 :] = 0
        tags[row, 6 - row % 2 :] = 0
    return {
        "pixel_values": torch.randn(size, 3, 32, 32),
        "targets": (torch.rand(size, len(NAMES)) < 0.4).float(),
        "caption_ids": ids,
        "tag_ids": tags,
        "caption_start": start,
        "teacher": torch.randn(size, 12),
    }


def photo(seed: int = 0, *, size: tuple[int, int] = (48, 40)) -> Image.Image:
    """An RGB image with a gradient and a few coloured shapes."""
    rng = np.random.default_rng(seed)
    ramp = np.linspace(0, 255, size[0], dtype=np.uint8)
    image = Image.fromarray(np.stack([np.tile(ramp, (size[1], 1))] * 3, axis=-1))
    draw = ImageDraw.Draw(image)
    for _ in range(4):
        x, y, w, h = rng.integers(0, [size[0], size[1], size[0], size[1]])
        draw.ellipse(
            (x - w / 3, y - h / 3, x + w / 3, y + h / 3), fill=tuple(int(value) for value in rng.integers(0, 256, 3))
        )
    return image


def jpeg(seed: int = 0, *, size: tuple[int, int] = (48, 40)) -> bytes:
    """The same image as JPEG bytes."""
    data = io.BytesIO()
    photo(seed, size=size).save(data, "JPEG", quality=90)
    return data.getvalue()


@contextmanager
def count_encodings(predictor: Predictor) -> Iterator[list[int]]:
    """The number of images of each call of the image encoder, as they come."""
    counted: list[int] = []
    encode = predictor._backend.encode

    def count(pixel_values: torch.Tensor) -> torch.Tensor:
        counted.append(len(pixel_values))
        return encode(pixel_values)

    predictor._backend.encode = count  # type: ignore[method-assign]
    try:
        yield counted
    finally:
        predictor._backend.encode = encode  # type: ignore[method-assign]
