"""Predictor: a model bundle, images in, tags and captions out. The engine, evaluation and serving all use it.

What does not depend on the image is computed once a label set: the label queries, for the bundle's own tags
and, in a small cache (`custom_tags.py`), for tags that a user brings. What computes is a backend (`backends`).

An image is encoded once, whatever is asked of it: every method that takes images also takes the image tokens that
`encode` made of them. Images are prepared by `ram_ray.data.preprocess`, tags chosen by `label_system.is_present`.

Letters: B batch, S pixels, L image tokens, C their width, N tags, K descriptions a tag, E width of text embeddings.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from ram_ray.data.preprocess import Images, preprocess
from ram_ray.inference.backends.backend import LabelSet, label_set
from ram_ray.inference.backends.make import make_backend
from ram_ray.inference.custom_tags import OwnTags
from ram_ray.label_system import is_present
from ram_ray.models.bundle import Bundle, load_bundle
from ram_ray.settings.models import Decoding, ModelConfig


@dataclass(frozen=True)
class TagScore:
    """One tag of one picture. `id` is None for a tag that the user brought."""

    tag: str
    id: int | None
    score: float
    threshold: float
    chinese: str | None = None  # the tag's Chinese name, where the model's list has it


class Predictor:
    """A loaded bundle on one device; options are those of `from_pretrained`. Safe to call from several threads."""

    def __init__(
        self,
        bundle: Bundle,
        *,
        precision: str = "fp32",
        backend: str = "torch",
        threads: int | None = None,
        exif: bool = True,
    ) -> None:
        self.model, self.labels, self.tokenizer = bundle.model, bundle.labels, bundle.tokenizer
        self.config: ModelConfig = bundle.model.config
        self.image_size = self.config.image_size
        self.device = bundle.model.label_embed.device
        self.thresholds = self.labels.thresholds(self.config.threshold)
        self.exif = exif
        self._own = OwnTags(bundle)
        self._labels = label_set(self.model, self.model.label_embed)  # before the backend takes the weights over
        self._backend = make_backend(backend, self.model, precision=precision, threads=threads)
        self._half = precision == "bf16"
        self._seen = np.ones(len(self.labels), dtype=bool)
        self._seen[list(self.config.muted)] = False

    @classmethod
    def from_pretrained(
        cls,
        path_or_id: str,
        *,
        device: str | None = None,
        precision: str = "fp32",
        backend: str = "torch",
        threads: int | None = None,
        revision: str | None = None,
        exif: bool = True,
    ) -> Predictor:
        """Load a bundle from a folder, a URI or a Hugging Face id.

        Args:
            path_or_id: where the bundle is.
            device: of torch; None: the GPU if there is one and the backend is "torch", else the CPU.
            precision: "fp32", exact, or "bf16", about twice as quick where the processor knows it.
            backend: "torch", or "openvino", quicker on a CPU (the extra `openvino`).
            threads: of torch for the whole process, and of the backend.
            revision: commit, branch or tag of a Hugging Face id.
            exif: take images as people see them: upright by EXIF, transparent parts on white. False: take them as
                they are stored, as the released models' own code does (`as_stored` of `ram_ray.data.preprocess`).

        Raises:
            ValueError: if it is not a bundle, or an option is unknown.
        """
        if threads is not None:
            torch.set_num_threads(threads)
        device = device or ("cuda" if torch.cuda.is_available() and backend == "torch" else "cpu")
        bundle = load_bundle(path_or_id, revision=revision, device=device)
        return cls(bundle, precision=precision, backend=backend, threads=threads, exif=exif)

    def preprocess(self, images: Images) -> Tensor:
        """Images to normalised pixels.

        Args:
            images: one or several paths, URIs, bytes, PIL images, uint8 arrays (H, W, 3); or one uint8 (B, S, S, 3).

        Returns:
            (B, 3, S, S) float32, on the model's device.

        Raises:
            Reject: if a file or bytes are no usable image.
            ValueError: if a path cannot be read, or a shape or type is wrong.
        """
        return preprocess(images, self.config, device=self.device, as_stored=not self.exif)

    def logits(self, pixel_values: Tensor, *, embeddings: Tensor | None = None) -> Tensor:
        """Score labels on normalised pixels.

        Args:
            pixel_values: (B, 3, S, S) float32, as `preprocess` gives them.
            embeddings: of other labels, as in `tag`; None: the model's own labels.

        Returns:
            (B, N) float32, on the model's device.

        Raises:
            ValueError: if the model takes no other tags, or the embeddings' shape does not fit.
        """
        labels = self._labels if embeddings is None else self._own.from_embeddings(embeddings)
        return self._logits(self._encode(pixel_values), labels)

    def probabilities(self, images: Images | Tensor) -> np.ndarray:
        """Probability of each of the model's tags.

        Args:
            images: as of `preprocess`, or image tokens (B, 1 + L, C) from `encode`.

        Returns:
            (B, N) float32, 0 to 1.
        """
        return self.token_probabilities(self._tokens(images))

    def tag(
        self,
        images: Images | Tensor,
        *,
        top_k: int | None = None,
        threshold: float | None = None,
        tags: list[str] | Mapping[str, list[str]] | None = None,
        embeddings: Tensor | None = None,
    ) -> list[list[TagScore]]:
        """Tags of each image, highest score first.

        Args:
            images: as in `preprocess`, or the image tokens of `encode`.
            top_k: at most so many an image. Without a `threshold` these are the k best, whatever their score.
            threshold: one probability in place of each tag's own.
            tags: the user's own tags, scored in place of the label system; for RAM++ best as a mapping of each tag
                to texts that describe it, equally many a tag.
            embeddings: of `tags`, where the user has them: (N, E), RAM++: (N, K, E) or (N K, E).

        Raises:
            ValueError: if `top_k` is under 1, `tags` is not a list of at least one tag, or the model takes no others.
        """
        if top_k is not None and top_k < 1:
            raise ValueError(f"top_k is {top_k}; use 1 or more, or None for all tags from their threshold on")
        if tags is not None and (isinstance(tags, str) or not tags):
            raise ValueError(f"tags is {tags!r}; give a list of at least one tag, or None for the bundle's own")
        if embeddings is not None and tags is None:
            raise ValueError("embeddings need tags: the names that they stand for")
        labels = self._labels if tags is None else self._own(tags, embeddings=embeddings)
        tokens = self._tokens(images)
        if not len(tokens):
            return []
        scores = self._logits(tokens, labels).sigmoid().cpu().numpy()
        return self._choose(scores, None if tags is None else list(tags), top_k=top_k, threshold=threshold)

    def _choose(
        self, scores: np.ndarray, own: list[str] | None, *, top_k: int | None, threshold: float | None
    ) -> list[list[TagScore]]:
        """Scores (B, N) to the tags that are given."""
        config, num_tags = self.config, scores.shape[1]
        if threshold is None and own is None:
            limits = self.thresholds
        else:
            usual = config.threshold if config.own_threshold is None else config.own_threshold
            limits = np.full(num_tags, usual if threshold is None else threshold, dtype=np.float32)
        everything = top_k is not None and threshold is None
        result = []
        for row in scores:
            keep = np.ones(num_tags, dtype=bool) if everything else is_present(row, limits)
            if own is None:
                keep = keep & self._seen
            order = np.argsort(-row, kind="stable")
            kept = [int(i) for i in order[keep[order]]][:top_k]
            result.append([self._score(i, own, float(row[i]), float(limits[i])) for i in kept])
        return result

    def _score(self, id: int, own: list[str] | None, score: float, limit: float) -> TagScore:
        if own is not None:
            return TagScore(own[id], None, score, limit)
        return TagScore(self.labels[id].name, id, score, limit, self.labels[id].chinese)

    def present_names(self, scores: np.ndarray, *, threshold: float | None = None) -> list[list[str]]:
        """The names of the tags that are there, one list an image: what guides its caption.

        Args:
            scores: (B, N) float, probabilities of the bundle's own tags.
            threshold: one probability in place of each tag's own.
        """
        there = is_present(scores, self.thresholds if threshold is None else threshold) & self._seen
        return [[self.labels[id].name for id in np.flatnonzero(row).tolist()] for row in there]

    def caption(
        self,
        images: Images | Tensor,
        *,
        max_tokens: int | None = None,
        tags: list[list[str]] | None = None,
        decoding: Decoding | None = None,
        seed: int | None = None,
    ) -> list[str]:
        """One caption an image, guided by the image's own tags, or by `tags`, one list an image.

        Args:
            images: as in `preprocess`, or the image tokens of `encode`.
            max_tokens: bound on the words after the prompt.
            tags: tags in place of those that the model sees.
            decoding: how words are chosen: greedily, by beams or by draws; None: as the bundle says.
            seed: fixes the draws.

        Raises:
            ValueError: if the model writes no captions, or `tags` does not have one list an image.
        """
        tokens = self._tokens(images)
        if not len(tokens):
            return []
        if tags is None:
            tags = self.present_names(self.token_probabilities(tokens))
        elif isinstance(tags, str) or len(tags) != len(tokens) or any(isinstance(one, str) for one in tags):
            raise ValueError(f"tags must be {len(tokens)} lists of tags, one a picture")
        return self.caption_tokens(tokens, tags, max_tokens=max_tokens, decoding=decoding, seed=seed)

    def caption_tokens(
        self,
        tokens: Tensor,
        tags: list[list[str]],
        *,
        max_tokens: int | None = None,
        decoding: Decoding | None = None,
        seed: int | list[int] | None = None,
    ) -> list[str]:
        """Captions of encoded pictures (B, 1 + L, C), guided by the given tags; a list has one seed a picture.

        Args:
            tokens: (B, 1 + L, C), from `encode`.
            tags: of each picture, which the caption shall name.
            max_tokens: most tokens after the prompt; None: the decoding's.
            decoding: beams, lengths, penalty or draws; None: the model's.
            seed: of draws, one for the batch, or a list with one a picture.

        Returns:
            A text for each picture, without the prompt.

        Raises:
            ValueError: if this model writes no captions.
        """
        config = self.config
        if self.tokenizer is None:
            raise ValueError("this model writes no captions (RAM++, or imported without its --tokenizer)")
        tag_ids = self.tokenizer.encode_tags(tags, max_tokens=config.max_tag_tokens)
        prompt = self.tokenizer.encode_captions([""], prompt=config.prompt, max_tokens=config.max_caption_tokens)
        prompt = prompt[0, : self.tokenizer.prompt_length(config.prompt)]
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self._half):
            ids = self.model.generate(
                tokens,
                torch.from_numpy(tag_ids).to(self.device),
                torch.from_numpy(prompt).to(self.device),
                end=self.tokenizer.sep,
                max_tokens=max_tokens,
                decoding=decoding,
                generator=self._generators(seed),
            )
        return [
            self.tokenizer.decode_caption([one for one in row if one], prompt=config.prompt) for row in ids.tolist()
        ]

    def _generators(self, seed: int | list[int] | None) -> torch.Generator | list[torch.Generator] | None:
        if isinstance(seed, list):
            return [torch.Generator(self.device).manual_seed(one) for one in seed]
        return None if seed is None else torch.Generator(self.device).manual_seed(seed)

    @torch.inference_mode()
    def attention(self, images: Images | Tensor, tag_ids: list[list[int]]) -> list[np.ndarray]:
        """Where each asked tag's query looks.

        Args:
            images: as of `preprocess`, or image tokens (B, 1 + L, C) from `encode`.
            tag_ids: ids of the tags asked for, of each image.

        Returns:
            One (T, h, w) float32 array an image, T its tags, each map summing to one.
        """
        tokens = self._tokens(images)
        wanted = sorted({id for row in tag_ids for id in row})
        if not wanted:
            return [np.zeros((0, 1, 1), dtype=np.float32) for _ in tag_ids]
        queries = self._labels.queries
        if queries is None:
            queries = self.model.queries(self.model.label_embed, tokens)
        weights = self.model.recognition.attention(queries[:, wanted], tokens).float().cpu().numpy()
        side = int(weights.shape[-1] ** 0.5)
        place = {id: i for i, id in enumerate(wanted)}
        return [
            weights[row, [place[id] for id in ids]].reshape(len(ids), side, side) for row, ids in enumerate(tag_ids)
        ]

    @torch.inference_mode()
    def encode(self, images: Images) -> Tensor:
        """Encode images: tags, captions and boxes can be asked of the tokens without encoding again.

        Args:
            images: as of `preprocess`.

        Returns:
            Image tokens (B, 1 + L, C) float32, on the model's device.
        """
        return self._encode(self.preprocess(images))

    def token_probabilities(self, tokens: Tensor) -> np.ndarray:
        """As `probabilities`, of image tokens (B, 1 + L, C): (B, N) float32."""
        return self._logits(tokens, self._labels).sigmoid().cpu().numpy()

    def _tokens(self, images: Images | Tensor) -> Tensor:
        """Image tokens (B, 1 + L, C) of images, or those that are given."""
        if not isinstance(images, Tensor):
            return self.encode(images)
        if images.ndim != 3:
            raise ValueError(f"image tokens have shape {tuple(images.shape)}; expected (B, 1 + L, C), from `encode`")
        return images

    def _encode(self, pixel_values: Tensor) -> Tensor:
        shape = (3, self.image_size, self.image_size)
        if pixel_values.ndim != 4 or pixel_values.shape[1:] != shape:
            raise ValueError(f"pixel_values have shape {tuple(pixel_values.shape)}; expected (B, {shape})")
        if not len(pixel_values):
            return torch.zeros(0, 1, self.config.context_width, device=self.device)
        return self._backend.encode(pixel_values.to(self.device))

    def _logits(self, tokens: Tensor, labels: LabelSet) -> Tensor:
        return self._backend.logits(tokens, labels)
