"""Predictor: a model bundle, pictures in, tags and captions out. The engine, evaluation and serving all use it.

What does not depend on the picture is computed once a label set: the label queries, for the bundle's own tags
and, in a small cache, for tags that a user brings.

Letters: B batch, S pixels, N tags.
"""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass
from threading import Lock

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from ram_ray.models.bundle import Bundle, load_bundle
from ram_ray.models.config import ModelConfig
from ram_ray.models.dual_encoder import Teacher
from ram_ray.models.image_encoder import normalise

OWN_TAG_SETS = 32  # label sets of users that are kept


@dataclass(frozen=True)
class TagScore:
    """One tag of one picture. `id` is None for a tag that the user brought."""

    tag: str
    id: int | None
    score: float
    threshold: float


class Predictor:
    """A loaded bundle on one device. Safe to call from several threads."""

    def __init__(self, bundle: Bundle, *, precision: str = "fp32") -> None:
        if precision not in ("fp32", "bf16"):
            raise ValueError(f"precision {precision!r}: use 'fp32' or 'bf16'")
        self.model, self.labels, self.tokenizer = bundle.model, bundle.labels, bundle.tokenizer
        self.config: ModelConfig = bundle.model.config
        self.image_size = self.config.image_size
        self.device = bundle.model.label_embed.device
        self.thresholds = np.array(
            [one.threshold if one.threshold is not None else self.config.threshold for one in self.labels.labels],
            dtype=np.float32,
        )
        self._bundle = bundle
        self._autocast = precision == "bf16"
        self._teacher: Teacher | None = None
        self._own_queries: OrderedDict[tuple[str, ...], Tensor] = OrderedDict()
        self._lock = Lock()
        with torch.inference_mode():
            self._queries = self.model.recognition.queries(self.model.label_embed)

    @classmethod
    def from_pretrained(
        cls,
        path_or_id: str,
        *,
        device: str | None = None,
        precision: str = "fp32",
        threads: int | None = None,
        revision: str | None = None,
    ) -> Predictor:
        """Load a bundle from a folder, a URI or a Hugging Face id; `device` None: the GPU if there is one.

        `threads` sets torch's threads for the whole process.

        Raises:
            ValueError: if it is not a bundle.
        """
        if threads is not None:
            torch.set_num_threads(threads)
        device = device or ("cuda" if torch.cuda.is_available() else "cpu")
        return cls(load_bundle(path_or_id, revision=revision, device=device), precision=precision)

    def preprocess(self, images: list[Image.Image] | np.ndarray) -> Tensor:
        """Pictures, or uint8 (B, S, S, 3) already of the model's size, to normalised pixels (B, 3, S, S)."""
        if isinstance(images, list):
            size = (self.image_size, self.image_size)
            images = np.stack(
                [np.asarray(one.convert("RGB").resize(size, Image.Resampling.BILINEAR)) for one in images]
            )
        if images.dtype != np.uint8 or images.shape[1:] != (self.image_size, self.image_size, 3):
            raise ValueError(
                f"images have shape {images.shape} and type {images.dtype}; "
                f"expected uint8 (B, {self.image_size}, {self.image_size}, 3), or a list of pictures"
            )
        pixels = torch.from_numpy(np.ascontiguousarray(images)).to(self.device)
        return normalise(pixels, self.config.mean, self.config.std)

    def logits(self, pixel_values: Tensor) -> Tensor:
        """Normalised pixels (B, 3, S, S) to logits (B, N) float32."""
        return self._logits(self._encode(pixel_values), self._queries)

    def probabilities(self, images: list[Image.Image] | np.ndarray) -> np.ndarray:
        """Probability of each tag, (B, N) float32."""
        return self.logits(self.preprocess(images)).sigmoid().cpu().numpy()

    def tag(
        self,
        images: list[Image.Image],
        *,
        top_k: int | None = None,
        threshold: float | None = None,
        tags: list[str] | None = None,
    ) -> list[list[TagScore]]:
        """Tags of each picture, highest score first.

        Args:
            images: RGB pictures of any size.
            top_k: at most so many a picture. Without a `threshold` these are the k best, whatever their score.
            threshold: one probability in place of each tag's own.
            tags: the user's own tags, scored in place of the label system.

        Raises:
            ValueError: if `top_k` is under 1, or `tags` is not a list of at least one tag.
        """
        if top_k is not None and top_k < 1:
            raise ValueError(f"top_k is {top_k}; use 1 or more, or None for all tags over their threshold")
        if tags is not None and (isinstance(tags, str) or not tags):
            raise ValueError(f"tags is {tags!r}; give a list of at least one tag, or None for the bundle's own")
        if not images:
            return []
        queries = self._queries if tags is None else self._queries_of(tuple(tags))
        scores = self._logits(self._encode(self.preprocess(images)), queries).sigmoid().cpu().numpy()
        names = self.labels.names if tags is None else tags
        if threshold is not None:
            limits = np.full(len(names), threshold, dtype=np.float32)
        else:
            limits = self.thresholds if tags is None else np.full(len(names), self.config.threshold, np.float32)
        everything = top_k is not None and threshold is None
        result = []
        for row in scores:
            order = np.argsort(-row, kind="stable")
            kept = [int(i) for i in order if everything or row[i] > limits[i]][:top_k]
            result.append(
                [TagScore(names[i], i if tags is None else None, float(row[i]), float(limits[i])) for i in kept]
            )
        return result

    def caption(self, images: list[Image.Image] | np.ndarray, *, max_tokens: int | None = None) -> list[str]:
        """One caption a picture, guided by the picture's own tags (greedy)."""
        if len(images) == 0:
            return []
        tokens = self._encode(self.preprocess(images))
        probabilities = self._logits(tokens, self._queries).sigmoid().cpu().numpy()
        tags = [[self.labels[int(i)].name for i in np.flatnonzero(row > self.thresholds)] for row in probabilities]
        return self.caption_tokens(tokens, tags, max_tokens=max_tokens)

    def caption_tokens(self, tokens: Tensor, tags: list[list[str]], *, max_tokens: int | None = None) -> list[str]:
        """Captions of encoded pictures (B, 1 + L, C), guided by the given tags."""
        config = self.config
        tag_ids = self.tokenizer.encode_tags(tags, max_tokens=config.max_tag_tokens)
        prompt = self.tokenizer.encode_captions([""], prompt=config.prompt, max_tokens=config.max_caption_tokens)
        prompt = prompt[0, : self.tokenizer.prompt_length(config.prompt)]
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self._autocast):
            ids = self.model.generate(
                tokens,
                torch.from_numpy(tag_ids).to(self.device),
                torch.from_numpy(prompt).to(self.device),
                max_tokens=max_tokens or config.max_caption_tokens - len(prompt),
                end=self.tokenizer.sep,
            )
        return [self.tokenizer.decode([one for one in row if one]) for row in ids.tolist()]

    @torch.inference_mode()
    def attention(self, images: list[Image.Image] | np.ndarray, tag_ids: list[list[int]]) -> list[np.ndarray]:
        """Where each asked tag's query looks: one (T, h, w) float32 array a picture, each map summing to one."""
        tokens = self._encode(self.preprocess(images))
        wanted = sorted({id for row in tag_ids for id in row})
        if not wanted:
            return [np.zeros((0, 1, 1), dtype=np.float32) for _ in tag_ids]
        weights = self.model.recognition.attention(self._queries[:, wanted], tokens).float().cpu().numpy()
        side = int(weights.shape[-1] ** 0.5)
        place = {id: i for i, id in enumerate(wanted)}
        return [
            weights[row, [place[id] for id in ids]].reshape(len(ids), side, side) for row, ids in enumerate(tag_ids)
        ]

    @torch.inference_mode()
    def encode(self, images: list[Image.Image] | np.ndarray) -> Tensor:
        """Image tokens (B, 1 + L, C), to be used for tags and captions without encoding twice."""
        return self._encode(self.preprocess(images))

    def token_probabilities(self, tokens: Tensor) -> np.ndarray:
        """Probability of each tag of encoded pictures: (B, N) float32."""
        return self._logits(tokens, self._queries).sigmoid().cpu().numpy()

    @torch.inference_mode()
    def _encode(self, pixel_values: Tensor) -> Tensor:
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self._autocast):
            return self.model.encode(pixel_values.to(self.device)).float()

    @torch.inference_mode()
    def _logits(self, tokens: Tensor, queries: Tensor) -> Tensor:
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self._autocast):
            return self.model.recognition(queries, tokens).float()

    def _queries_of(self, tags: tuple[str, ...]) -> Tensor:
        with self._lock:
            if tags not in self._own_queries:
                if self._teacher is None:
                    self._teacher = self._bundle.teacher()
                embed = self._teacher.label_embeddings(list(tags), list(self.config.templates))
                with torch.inference_mode():
                    self._own_queries[tags] = self.model.recognition.queries(embed.to(self.device))
                if len(self._own_queries) > OWN_TAG_SETS:
                    self._own_queries.popitem(last=False)
            self._own_queries.move_to_end(tags)
            return self._own_queries[tags]
