"""The reference's outputs in shared/fixtures, and the tolerance: ten times the float32 noise."""

from __future__ import annotations

import json
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import torch

from ram_ray.interop.checkpoint import load_checkpoint
from ram_ray.models.ram import RAM
from ram_ray.models.tokenizer import TextTokenizer
from ram_ray.settings.models import Decoding

MODELS = ("tiny-ram", "tiny-ram-plus", "tiny-tag2text")
PROMPT = "a picture of "


@dataclass(frozen=True)
class Reference:
    """The folder of a model: inputs, expected outputs, and our model with its weights."""

    folder: Path

    @cached_property
    def config(self) -> dict:
        return json.loads((self.folder / "config.json").read_text())

    @cached_property
    def inputs(self) -> dict[str, np.ndarray]:
        return dict(np.load(self.folder / "inputs.npz"))

    @cached_property
    def expected(self) -> dict[str, np.ndarray]:
        return dict(np.load(self.folder / "expected.npz"))

    @cached_property
    def model(self) -> RAM:
        return self.load()

    @cached_property
    def tokenizer(self) -> TextTokenizer:
        return TextTokenizer.load(str(self.folder / "tokenizer"))

    def load(self) -> RAM:
        num_tags = self.config["num_class"]
        return load_checkpoint(self.folder / "checkpoint.pth", configs=self.folder / "configs", num_tags=num_tags)

    @cached_property
    def tokens(self) -> torch.Tensor:
        with torch.no_grad():
            return self.model.encode(self.input("images"))

    def input(self, name: str) -> torch.Tensor:
        return torch.from_numpy(self.inputs[name])

    def check(self, name: str, value: torch.Tensor, *, noise: float | None = None) -> None:
        """Assert that `value` equals the expected array `name` within ten times its noise floor."""
        expected = self.expected[name]
        floor = self.config["float32_vs_float64_max_abs"].get(name, noise)
        assert floor is not None, f"{name} has no noise floor: give one"
        assert tuple(value.shape) == expected.shape
        np.testing.assert_allclose(value.detach().numpy(), expected, atol=10 * floor, rtol=0, err_msg=name)

    def tag_ids(self, tags: list[str] | None = None) -> torch.Tensor:
        texts = self.inputs["tag_input_strings"].tolist() if tags is None else tags
        return torch.from_numpy(self.tokenizer.encode_tags([text.split(" | ") for text in texts], max_tokens=40))

    def caption_ids(self) -> torch.Tensor:
        captions = self.inputs["captions"].tolist()
        ids = self.tokenizer.encode(captions, first=self.tokenizer.dec, max_tokens=40)
        return torch.from_numpy(ids[:, : (ids != 0).sum(1).max()])

    def prompt(self) -> torch.Tensor:
        ids = self.tokenizer.encode_captions([""], prompt=PROMPT, max_tokens=40)[0]
        return torch.from_numpy(ids[: self.tokenizer.prompt_length(PROMPT)])

    def captions(self, tags: list[str] | None, *, tokens: torch.Tensor | None = None, **decoding) -> torch.Tensor:
        """Token ids after the prompt."""
        return self.model.generate(
            self.tokens if tokens is None else tokens,
            self.tag_ids(tags),
            self.prompt(),
            end=self.tokenizer.sep,
            decoding=Decoding(**decoding),
        )

    def batch(self) -> dict:
        """Inputs of a training step."""
        batch: dict = {"pixel_values": self.input("images")}
        batch["targets"] = self.input("tag" if "tag" in self.inputs else "image_tag").float()
        if "tag_input_strings" in self.inputs:
            batch |= {"caption_ids": self.caption_ids(), "tag_ids": self.tag_ids(), "caption_start": 4}
        if "clip_feature" in self.inputs:
            batch["teacher"] = self.input("clip_feature")
        if "batch_text_embed" in self.inputs:
            batch["text_embed"] = self.input("batch_text_embed")
        return batch


def caption_tokens(ids: np.ndarray | torch.Tensor, *, start: int, end: int) -> list[list[int]]:
    """Rows of token ids without the first `start`, the end token and padding."""
    return [[token for token in row[start:] if token not in (0, end)] for row in np.asarray(ids).tolist()]
