"""Grounding-DINO and OWLv2 as region detectors, by transformers.

Its own post-processing answers with phrases cut from the prompt (Grounding-DINO) or with one class a box (OWLv2),
and then two tags of one picture can lose their box to each other. So each tag's best box is read from the logits
here: a tag's score on a box is the model's probability for that tag's own tokens or query. Prompts are packed a
picture at a time, and (picture, prompt) pairs are batched. Weights are read as safetensors only.

Letters: B pairs, Q boxes of the model, P prompts of a picture.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from ram_ray.detectors.regions import Box, Region

if TYPE_CHECKING:
    from PIL.Image import Image


class ZeroShotDetector(ABC):
    """What the transformers detectors share: loading, batches of (image, prompt) pairs, the best box a tag.

    Args:
        folder: of the transformers model.
        device: of torch; None: the GPU if there is one.
        precision: "fp32", "fp16" or "bf16"; None: fp16 on a GPU, else fp32.
        threshold: least score of a box.
        batch_size: (image, prompt) pairs of a forward.

    Raises:
        ValueError: if the precision is unknown.
    """

    takes_tokens = False
    prompt_shape = "{}"

    def __init__(
        self,
        folder: str,
        *,
        device: str | None = None,
        precision: str | None = None,
        threshold: float = 0.1,
        batch_size: int = 16,
    ) -> None:
        import torch
        from transformers import AutoModelForZeroShotObjectDetection, AutoProcessor

        self.device = torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
        dtypes = {"fp32": None, "fp16": torch.float16, "bf16": torch.bfloat16}
        precision = precision or ("fp16" if self.device.type == "cuda" else "fp32")
        if precision not in dtypes:
            raise ValueError(f"precision {precision!r} is not one of {', '.join(dtypes)}")
        self.dtype = dtypes[precision]
        self.threshold, self.batch_size = threshold, batch_size
        self.processor = AutoProcessor.from_pretrained(folder)
        model = AutoModelForZeroShotObjectDetection.from_pretrained(folder, use_safetensors=True)
        self.model = model.to(self.device).eval()

    def detect(
        self, images: Any, *, tags: Sequence[Sequence[str]], tag_ids: Sequence[Sequence[int]]
    ) -> list[list[Region]]:
        """See `RegionDetector.detect`; a tag whose best box scores under `threshold` has no region."""
        from PIL import Image

        pictures = [Image.fromarray(one) if isinstance(one, np.ndarray) else one.convert("RGB") for one in images]
        work = []  # (image, places of the tags in the image's list): one prompt each
        for image, names in enumerate(tags):
            work += [(image, places) for places in self.pack([self.prompt_shape.format(one) for one in names])]
        found: list[list[Region]] = [[] for _ in pictures]
        for start in range(0, len(work), self.batch_size):
            part = work[start : start + self.batch_size]
            prompts = [[self.prompt_shape.format(tags[image][place]) for place in places] for image, places in part]
            answers = self._best([pictures[image] for image, _ in part], prompts)
            for (image, places), best in zip(part, answers, strict=True):
                for place, (score, box) in zip(places, best, strict=True):
                    clipped = _clip(self._of_picture(box, pictures[image].size))
                    if score >= self.threshold and clipped[2] > clipped[0] and clipped[3] > clipped[1]:
                        found[image].append(Region(int(tag_ids[image][place]), clipped, float(score)))
        return found

    @abstractmethod
    def pack(self, prompts: Sequence[str]) -> list[list[int]]:
        """Places of an image's prompts, cut into the parts that go through the model together."""

    @abstractmethod
    def _forward(self, pictures: list[Image], prompts: list[list[str]]) -> tuple[Any, Any]:
        """Scores (B, Q, P), P being the most prompts of a picture, and boxes (B, Q, 4) as centre, width, height."""

    def _of_picture(self, box: np.ndarray, size: tuple[int, int]) -> np.ndarray:
        """A box in shares of what the model saw, as shares of the picture of this (width, height)."""
        return box

    def _best(self, pictures: list[Image], prompts: list[list[str]]) -> list[list[tuple[float, np.ndarray]]]:
        import torch

        with torch.inference_mode(), torch.autocast(self.device.type, self.dtype, enabled=self.dtype is not None):
            scores, boxes = self._forward(pictures, prompts)
        scores, boxes = scores.float().cpu().numpy(), boxes.float().cpu().numpy()
        corners = np.concatenate([boxes[..., :2] - boxes[..., 2:] / 2, boxes[..., :2] + boxes[..., 2:] / 2], axis=-1)
        best = scores.argmax(axis=1)  # (B, P)
        return [
            [(float(scores[row, best[row, one], one]), corners[row, best[row, one]]) for one in range(len(of_picture))]
            for row, of_picture in enumerate(prompts)
        ]


class GroundingDinoDetector(ZeroShotDetector):
    """Grounding-DINO: prompts "dog. red car. ..."; a tag's score on a box is the mean over the tag's own tokens."""

    def pack(self, prompts: Sequence[str]) -> list[list[int]]:
        """Parts that fit into the text limit with [CLS], [SEP] and a dot after each tag."""
        parts: list[list[int]] = []
        room = 0
        for place, ids in enumerate(self._tokens(prompts)):
            if not parts or len(ids) + 1 > room:
                parts.append([])
                room = self._limit - 2
            parts[-1].append(place)
            room -= len(ids) + 1
        return parts

    @property
    def _limit(self) -> int:
        config = self.model.config
        return min(config.max_text_len, config.text_config.max_position_embeddings)

    def _tokens(self, prompts: Sequence[str]) -> list[list[int]]:
        if not prompts:
            return []
        ids = self.processor.tokenizer([one.lower() for one in prompts], add_special_tokens=False)["input_ids"]
        return [one[: self._limit - 3] for one in ids]

    def _forward(self, pictures: list[Image], prompts: list[list[str]]) -> tuple[Any, Any]:
        import torch

        tokenizer = self.processor.tokenizer
        dot = tokenizer.convert_tokens_to_ids(".")
        rows, spans = [], []
        for of_picture in prompts:
            row: list[int] = [tokenizer.cls_token_id]
            span: list[tuple[int, int]] = []
            for ids in self._tokens(of_picture):
                span.append((len(row), len(row) + len(ids)))
                row += [*ids, dot]
            rows.append([*row, tokenizer.sep_token_id])
            spans.append(span)
        longest = max(len(row) for row in rows)
        input_ids = torch.tensor([row + [tokenizer.pad_token_id] * (longest - len(row)) for row in rows])
        mask = torch.tensor([[1] * len(row) + [0] * (longest - len(row)) for row in rows])
        seen = self.processor.image_processor(images=pictures, return_tensors="pt").to(self.device)
        output = self.model(
            pixel_values=seen["pixel_values"],
            pixel_mask=seen.get("pixel_mask"),
            input_ids=input_ids.to(self.device),
            token_type_ids=torch.zeros_like(input_ids).to(self.device),
            attention_mask=mask.to(self.device),
        )
        probabilities = output.logits.float().sigmoid()  # (B, Q, max_text_len)
        scores = torch.zeros(*probabilities.shape[:2], max(len(span) for span in spans))
        for picture, places in enumerate(spans):
            for place, (start, end) in enumerate(places):
                scores[picture, :, place] = probabilities[picture, :, start:end].mean(dim=-1)
        return scores, output.pred_boxes


class Owlv2Detector(ZeroShotDetector):
    """OWLv2 and OWL-ViT: every tag is a text query of its own, "a photo of a dog"."""

    prompt_shape = "a photo of a {}"
    max_queries = 64

    def pack(self, prompts: Sequence[str]) -> list[list[int]]:
        """Parts of at most `max_queries` queries; the text encoder takes each query by itself."""
        places = list(range(len(prompts)))
        return [places[start : start + self.max_queries] for start in range(0, len(places), self.max_queries)]

    def _forward(self, pictures: list[Image], prompts: list[list[str]]) -> tuple[Any, Any]:
        most = max(len(one) for one in prompts)
        texts = [query for one in prompts for query in [*one, *[" "] * (most - len(one))]]
        length = self.model.config.text_config.max_position_embeddings
        text = self.processor.tokenizer(
            texts, padding="max_length", truncation=True, max_length=length, return_tensors="pt"
        )
        seen = self.processor.image_processor(images=pictures, return_tensors="pt")
        output = self.model(
            pixel_values=seen["pixel_values"].to(self.device),
            input_ids=text["input_ids"].to(self.device),
            attention_mask=text["attention_mask"].to(self.device),
        )
        return output.logits.float().sigmoid(), output.pred_boxes

    def _of_picture(self, box: np.ndarray, size: tuple[int, int]) -> np.ndarray:
        """OWLv2 sees the picture padded to a square at the right and the bottom; OWL-ViT sees it stretched."""
        if self.model.config.model_type != "owlv2":
            return box
        width, height = size
        return box * max(size) / np.array([width, height, width, height])


def _clip(box: np.ndarray) -> Box:
    x0, y0, x1, y1 = (float(one) for one in np.clip(box, 0.0, 1.0))
    return x0, y0, x1, y1
