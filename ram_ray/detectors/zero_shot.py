"""Grounding-DINO and OWLv2 as region detectors, by transformers.

The post-processing of transformers returns phrases of the prompt (Grounding-DINO) or a single class for each box
(OWLv2), so a tag can lose its box to another tag of the image. This module reads each tag's best box from the logits:
the score of a tag on a box is the model's probability for the tag's tokens or query. The tags of an image are packed
into prompts, and (image, prompt) pairs are batched, of images of one size. The processor brings images to the model's
own size. Weights are read as safetensors only.

Letters: B pairs, Q boxes of the model, P tags of a prompt.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

import numpy as np

from ram_ray.detectors.regions import Region

if TYPE_CHECKING:
    from PIL.Image import Image
    from torch import Tensor

    from ram_ray.detectors.regions import Images

Pair = tuple[int, list[int]]  # index of the image, indices of the prompt's tags in the image's list


class ZeroShotDetector(ABC):
    """Base of the transformers detectors: loading, batches of (image, prompt) pairs, the best box of each tag.

    Args:
        folder: path of the transformers model.
        device: torch device; None: the GPU if there is one.
        precision: "fp32", "fp16" or "bf16"; None: fp16 on a GPU, else fp32.
        threshold: lowest score of a box.
        batch_size: (image, prompt) pairs of a forward pass.

    Raises:
        ValueError: if the precision is unknown.
    """

    takes_tokens = False
    query_template = "{}"

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

        from ram_ray.models.towers import without_progress_bar

        self.device = torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
        dtypes = {"fp32": None, "fp16": torch.float16, "bf16": torch.bfloat16}
        precision = precision or ("fp16" if self.device.type == "cuda" else "fp32")
        if precision not in dtypes:
            raise ValueError(f"precision {precision!r} is not one of {', '.join(dtypes)}")
        self.dtype = dtypes[precision]
        self.threshold, self.batch_size = threshold, batch_size
        self.processor = AutoProcessor.from_pretrained(folder)
        with without_progress_bar():
            model = AutoModelForZeroShotObjectDetection.from_pretrained(folder, use_safetensors=True)
        self.model = model.to(self.device).eval()

    def detect(
        self, images: Images, *, tags: Sequence[Sequence[str]], tag_ids: Sequence[Sequence[int]]
    ) -> list[list[Region]]:
        """Find the best box of each tag; a tag whose best box scores under `threshold` has no region.

        Args:
            images: uint8 (B, S, S, 3), or B PIL images of any size.
            tags: names of each image's tags.
            tag_ids: ids of these tags, in the same order.

        Returns:
            The regions of each image, in the order of its tags.
        """
        from PIL import Image

        rgb = [Image.fromarray(image) if isinstance(image, np.ndarray) else image.convert("RGB") for image in images]
        pairs: list[Pair] = []
        for row, names in enumerate(tags):
            queries = [self.query_template.format(name) for name in names]
            pairs += [(row, indices) for indices in self.pack(queries)]
        regions: list[list[Region]] = [[] for _ in rgb]
        for batch in self._batches(pairs, sizes=[image.size for image in rgb]):
            prompts = [[self.query_template.format(tags[row][index]) for index in indices] for row, indices in batch]
            best_boxes = self._best_boxes([rgb[row] for row, _ in batch], prompts)
            for (row, indices), boxes in zip(batch, best_boxes, strict=True):
                for index, (score, box) in zip(indices, boxes, strict=True):
                    if score >= self.threshold and _has_area(box):
                        x0, y0, x1, y1 = (float(side) for side in box)
                        regions[row].append(Region(int(tag_ids[row][index]), (x0, y0, x1, y1), float(score)))
        return regions

    def _batches(self, pairs: list[Pair], *, sizes: Sequence[tuple[int, int]]) -> Iterator[list[Pair]]:
        """Batches of images of one size: images of other sizes would be padded, which changes their scores."""
        of_size: dict[tuple[int, int], list[Pair]] = {}
        for pair in pairs:
            of_size.setdefault(sizes[pair[0]], []).append(pair)
        for group in of_size.values():
            for start in range(0, len(group), self.batch_size):
                yield group[start : start + self.batch_size]

    @abstractmethod
    def pack(self, queries: Sequence[str]) -> list[list[int]]:
        """Pack an image's queries into prompts.

        Args:
            queries: text of each tag.

        Returns:
            For each prompt the indices of its queries, each index in one prompt.
        """

    @abstractmethod
    def _forward(self, images: list[Image], prompts: list[list[str]]) -> tuple[Tensor, Tensor]:
        """Scores (B, Q, P), P being that of the longest prompt, and boxes (B, Q, 4) as centre, width, height."""

    def _to_image(self, box: np.ndarray, size: tuple[int, int]) -> np.ndarray:
        """Convert boxes (..., 4) from shares of the model's input to shares of the image of this (width, height)."""
        return box

    def _best_boxes(self, images: list[Image], prompts: list[list[str]]) -> list[list[tuple[float, np.ndarray]]]:
        """Score and x0, y0, x1, y1 of the best box of each query of each prompt, as shares of the image.

        A box beside the image, where the model's input is padded, is none: another may be the best on the image.
        """
        import torch

        with torch.inference_mode(), torch.autocast(self.device.type, self.dtype, enabled=self.dtype is not None):
            tensors = self._forward(images, prompts)
        scores, boxes = (tensor.float().cpu().numpy() for tensor in tensors)
        corners = np.concatenate([boxes[..., :2] - boxes[..., 2:] / 2, boxes[..., :2] + boxes[..., 2:] / 2], axis=-1)
        best_boxes = []
        for row, queries in enumerate(prompts):
            on_image = np.clip(self._to_image(corners[row], images[row].size), 0.0, 1.0)  # (Q, 4)
            best = np.where(_has_area(on_image)[:, None], scores[row], -np.inf).argmax(axis=0)  # (P,)
            best_boxes.append(
                [(float(scores[row, best[tag], tag]), on_image[best[tag]]) for tag in range(len(queries))]
            )
        return best_boxes


class GroundingDinoDetector(ZeroShotDetector):
    """Grounding-DINO: prompts "dog. red car. ..."; a tag's score on a box is the mean over the tag's own tokens."""

    def pack(self, queries: Sequence[str]) -> list[list[int]]:
        """Pack queries into prompts that fit into the token limit with [CLS], [SEP] and a dot after each query.

        Args:
            queries: text of each tag.

        Returns:
            For each prompt the indices of its queries.
        """
        prompts: list[list[int]] = []
        free_tokens = 0
        for index, ids in enumerate(self._tokenize(queries)):
            if not prompts or len(ids) + 1 > free_tokens:
                prompts.append([])
                free_tokens = self._max_tokens - 2
            prompts[-1].append(index)
            free_tokens -= len(ids) + 1
        return prompts

    @property
    def _max_tokens(self) -> int:
        config = self.model.config
        return min(config.max_text_len, config.text_config.max_position_embeddings)

    def _tokenize(self, queries: Sequence[str]) -> list[list[int]]:
        if not queries:
            return []
        ids = self.processor.tokenizer([query.lower() for query in queries], add_special_tokens=False)["input_ids"]
        return [query_ids[: self._max_tokens - 3] for query_ids in ids]

    def _forward(self, images: list[Image], prompts: list[list[str]]) -> tuple[Tensor, Tensor]:
        import torch

        tokenizer = self.processor.tokenizer
        dot = tokenizer.convert_tokens_to_ids(".")
        rows, spans = [], []
        for queries in prompts:
            row: list[int] = [tokenizer.cls_token_id]
            query_spans: list[tuple[int, int]] = []
            for ids in self._tokenize(queries):
                query_spans.append((len(row), len(row) + len(ids)))
                row += [*ids, dot]
            rows.append([*row, tokenizer.sep_token_id])
            spans.append(query_spans)
        longest = max(len(row) for row in rows)
        input_ids = torch.tensor([row + [tokenizer.pad_token_id] * (longest - len(row)) for row in rows])
        mask = torch.tensor([[1] * len(row) + [0] * (longest - len(row)) for row in rows])
        inputs = self.processor.image_processor(images=images, return_tensors="pt").to(self.device)
        output = self.model(
            pixel_values=inputs["pixel_values"],
            pixel_mask=inputs.get("pixel_mask"),
            input_ids=input_ids.to(self.device),
            token_type_ids=torch.zeros_like(input_ids).to(self.device),
            attention_mask=mask.to(self.device),
        )
        probabilities = output.logits.float().sigmoid()  # (B, Q, max_text_len)
        scores = torch.zeros(*probabilities.shape[:2], max(len(query_spans) for query_spans in spans))
        for image, query_spans in enumerate(spans):
            for tag, (start, end) in enumerate(query_spans):
                scores[image, :, tag] = probabilities[image, :, start:end].mean(dim=-1)
        return scores, output.pred_boxes


class Owlv2Detector(ZeroShotDetector):
    """OWLv2 and OWL-ViT: every tag is a text query, "a photo of a dog"."""

    query_template = "a photo of a {}"
    max_queries = 64

    def pack(self, queries: Sequence[str]) -> list[list[int]]:
        """Pack queries into prompts of at most `max_queries`; the text encoder encodes each query alone.

        Args:
            queries: text of each tag.

        Returns:
            For each prompt the indices of its queries.
        """
        indices = list(range(len(queries)))
        return [indices[start : start + self.max_queries] for start in range(0, len(indices), self.max_queries)]

    def _forward(self, images: list[Image], prompts: list[list[str]]) -> tuple[Tensor, Tensor]:
        num_queries = max(len(queries) for queries in prompts)
        texts = [query for queries in prompts for query in [*queries, *[" "] * (num_queries - len(queries))]]
        length = self.model.config.text_config.max_position_embeddings
        text = self.processor.tokenizer(
            texts, padding="max_length", truncation=True, max_length=length, return_tensors="pt"
        )
        inputs = self.processor.image_processor(images=images, return_tensors="pt")
        output = self.model(
            pixel_values=inputs["pixel_values"].to(self.device),
            input_ids=text["input_ids"].to(self.device),
            attention_mask=text["attention_mask"].to(self.device),
        )
        return output.logits.float().sigmoid(), output.pred_boxes

    def _to_image(self, box: np.ndarray, size: tuple[int, int]) -> np.ndarray:
        """OWLv2's input is padded to a square at the right and the bottom; OWL-ViT's is stretched."""
        if self.model.config.model_type != "owlv2":
            return box
        width, height = size
        return box * max(size) / np.array([width, height, width, height])


def _has_area(boxes: np.ndarray) -> np.ndarray:
    """Whether boxes (..., 4) have an area."""
    return np.asarray((boxes[..., 2:] > boxes[..., :2]).all(axis=-1))
