"""Predictor: images in, tags and captions out, with a model bundle. The data engine, evaluation and serving use it.

The label queries do not depend on the image, so they are computed once a label set: for the bundle's own tags, and in a
small cache (`custom_tags.py`) for a user's own tags. A backend (`backends`) computes the forward pass.
An image is encoded once: every method that takes images also takes the image tokens of `encode`.

Letters: B batch, S pixels, L image tokens, C their width, N tags, K descriptions a tag, E width of text embeddings.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ram_ray.data.preprocess import Images, preprocess
from ram_ray.inference.backends.backend import make_label_set
from ram_ray.inference.backends.registry import make_backend
from ram_ray.inference.custom_tags import CustomTags
from ram_ray.inference.tag_rules import TagRules, check_query
from ram_ray.inference.tag_score import TagScore
from ram_ray.inference.tag_selection import TagSelector
from ram_ray.label_system import is_present
from ram_ray.models.bundle import Bundle, load_bundle
from ram_ray.models.number_format import choose_precision
from ram_ray.runtime.allocator import prepare_model_process
from ram_ray.settings.models import Decoding, ModelConfig


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
        self._custom_tags = CustomTags(bundle)
        self._labels = make_label_set(self.model, self.model.label_embed)  # before the backend changes the weights
        precision = choose_precision(precision, self.device)
        self._backend = make_backend(backend, self.model, precision=precision, threads=threads)
        self._bf16 = precision == "bf16"
        self._unmuted = np.ones(len(self.labels), dtype=bool)
        self._unmuted[list(self.config.muted)] = False
        self._selector = TagSelector(None, self.labels)

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
            path_or_id: folder, URI or Hugging Face id of the bundle.
            device: of torch; None: the GPU if there is one and the backend is "torch", else the CPU.
            precision: "fp32", exact; "bf16", faster where the hardware has it; or "auto": bf16 there, else fp32.
            backend: "torch", or "openvino", faster on a CPU (the extra `openvino`).
            threads: of the backend, and of torch for the whole process, which on a CPU then keeps memory that it frees.
            revision: commit, branch or tag of a Hugging Face id.
            exif: apply EXIF orientation, and put transparent parts on white. False: use images as they are stored, as
                the released models' own code does (`as_stored` of `ram_ray.data.preprocess`).

        Returns:
            A predictor.

        Raises:
            ValueError: if it is not a bundle, or an option is unknown.
        """
        device = device or ("cuda" if torch.cuda.is_available() and backend == "torch" else "cpu")
        prepare_model_process(device, threads=threads)
        bundle = load_bundle(path_or_id, revision=revision, device=device)
        return cls(bundle, precision=precision, backend=backend, threads=threads, exif=exif)

    def preprocess(self, images: Images) -> Tensor:
        """Prepare images for the model.

        Args:
            images: one or several paths, URIs, bytes, PIL images, uint8 arrays (H, W, 3); or one uint8 (B, S, S, 3).

        Returns:
            (B, 3, S, S) float32, normalised, on the model's device.

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
        labels = self._labels if embeddings is None else self._custom_tags.from_embeddings(embeddings)
        return self._backend.logits(self._encode(pixel_values), labels)

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
        rules: TagRules | None = None,
    ) -> list[list[TagScore]]:
        """Tags of each image, highest score first; a name once, with its highest score.

        Args:
            images: as in `preprocess`, or the image tokens of `encode`.
            top_k: most tags of an image. Without a `threshold` these are the k best tags, whatever their score.
            threshold: one probability in place of each tag's own.
            tags: the user's own tags, scored in place of the label system; also a mapping of each tag to texts that
                describe it, for RAM++ equally many a tag. Without `top_k` and `threshold` the best are given
                (`tag_rules.best_own_tags`).
            embeddings: of `tags`, where the user has them: (N, E), RAM++: (N, K, E) or (N K, E).
            rules: which tags are shown, and by what names.

        Returns:
            A list of tags for each image.

        Raises:
            ValueError: if `top_k` is under 1, `threshold` is no probability, `tags` is not a list of at least one tag,
                or the model takes no others.
        """
        check_query(top_k=top_k, threshold=threshold, tags=tags, embeddings=embeddings)
        labels = self._labels if tags is None else self._custom_tags(tags, embeddings=embeddings)
        tokens = self._tokens(images)
        if not len(tokens):
            return []
        scores = self._backend.logits(tokens, labels).sigmoid().cpu().numpy()
        own = None if tags is None else list(tags)
        return self._select_tags(scores, own, top_k=top_k, threshold=threshold, rules=rules)

    def _select_tags(self, scores: np.ndarray, own: list[str] | None, **query: Any) -> list[list[TagScore]]:
        """Select the tags of each image from scores (B, N); `query` as `TagSelector.select_all` has it."""
        rules = query.pop("rules", None)
        if own is not None:
            return TagSelector(rules, own).select_all(scores, self.config, **query)
        selector = self._selector
        if selector.rules is not rules:  # whoever has rules has the same for all images
            selector = self._selector = TagSelector(rules, self.labels)
        return selector.select_all(scores, self.config, unmuted=self._unmuted, **query)

    def present_names(self, scores: np.ndarray, *, threshold: float | None = None) -> list[list[str]]:
        """Names of the tags at or above their threshold, which guide the caption of an image.

        Args:
            scores: (B, N) float, probabilities of the bundle's own tags.
            threshold: one probability in place of each tag's own.

        Returns:
            A list of names for each image, in the order of their ids.
        """
        present = is_present(scores, self.thresholds if threshold is None else threshold) & self._unmuted
        return [[self.labels[id].name for id in np.flatnonzero(row).tolist()] for row in present]

    def caption(
        self,
        images: Images | Tensor,
        *,
        max_tokens: int | None = None,
        tags: list[list[str]] | None = None,
        decoding: Decoding | None = None,
        seed: int | None = None,
    ) -> list[str]:
        """Write a caption of each image, guided by its tags.

        Args:
            images: as in `preprocess`, or the image tokens of `encode`.
            max_tokens: most tokens after the prompt; None: the decoding's.
            tags: a list for each image, in place of the tags that the model finds.
            decoding: greedy, beam search or sampling; None: the bundle's.
            seed: of sampling.

        Returns:
            A text for each image, without the prompt.

        Raises:
            ValueError: if the model writes no captions, or `tags` does not have one list an image.
        """
        tokens = self._tokens(images)
        if not len(tokens):
            return []
        if tags is None:
            tags = self.present_names(self.token_probabilities(tokens))
        elif isinstance(tags, str) or len(tags) != len(tokens) or any(isinstance(names, str) for names in tags):
            raise ValueError(f"tags must be {len(tokens)} lists of tags, one an image")
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
        """Write a caption of each encoded image, guided by the given tags.

        Args:
            tokens: (B, 1 + L, C), from `encode`.
            tags: a list for each image, which the caption shall name.
            max_tokens: most tokens after the prompt; None: the decoding's.
            decoding: beams, lengths, penalty or sampling; None: the model's.
            seed: of sampling: an integer for the batch, or a list with a seed for each image.

        Returns:
            A text for each image, without the prompt.

        Raises:
            ValueError: if this model writes no captions.
        """
        config = self.config
        if self.tokenizer is None:
            raise ValueError("this model writes no captions (RAM++, or imported without its --tokenizer)")
        tag_ids = self.tokenizer.encode_tags(tags, max_tokens=config.max_tag_tokens)
        prompt = self.tokenizer.encode_captions([""], prompt=config.prompt, max_tokens=config.max_caption_tokens)
        prompt = prompt[0, : self.tokenizer.prompt_length(config.prompt)]
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self._bf16):
            ids = self.model.generate(
                tokens,
                torch.from_numpy(tag_ids).to(self.device),
                torch.from_numpy(prompt).to(self.device),
                end=self.tokenizer.sep,
                max_tokens=max_tokens,
                decoding=decoding,
                generator=self._generators(seed),
            )
        return [self.tokenizer.decode_caption([id for id in row if id], prompt=config.prompt) for row in ids.tolist()]

    def _generators(self, seed: int | list[int] | None) -> torch.Generator | list[torch.Generator] | None:
        if isinstance(seed, list):
            return [torch.Generator(self.device).manual_seed(image_seed) for image_seed in seed]
        return None if seed is None else torch.Generator(self.device).manual_seed(seed)

    @torch.inference_mode()
    def attention(self, images: Images | Tensor, tag_ids: list[list[int]]) -> list[np.ndarray]:
        """Attention maps of the tags' queries over the image, from the recognition decoder.

        Args:
            images: as of `preprocess`, or image tokens (B, 1 + L, C) from `encode`.
            tag_ids: ids of the tags of each image.

        Returns:
            A (T, h, w) float32 array for each image, T its number of tags; each map sums to 1.
        """
        tokens = self._tokens(images)
        all_ids = sorted({id for row in tag_ids for id in row})
        if not all_ids:
            return [np.zeros((0, 1, 1), dtype=np.float32) for _ in tag_ids]
        queries = self._labels.queries
        if queries is None:
            queries = self.model.queries(self.model.label_embed, tokens)
        weights = self.model.recognition.attention(queries[:, all_ids], tokens).float().cpu().numpy()
        side = int(weights.shape[-1] ** 0.5)
        maps = weights.reshape(*weights.shape[:2], side, side)
        index_of = {id: index for index, id in enumerate(all_ids)}
        return [maps[row, [index_of[id] for id in ids]] for row, ids in enumerate(tag_ids)]

    @torch.inference_mode()
    def encode(self, images: Images) -> Tensor:
        """Encode images. Tags, captions and boxes can be computed from the tokens without encoding again.

        Args:
            images: as of `preprocess`.

        Returns:
            Image tokens (B, 1 + L, C) float32, on the model's device.
        """
        return self._encode(self.preprocess(images))

    def token_probabilities(
        self,
        tokens: Tensor,
        *,
        tags: list[str] | Mapping[str, list[str]] | None = None,
        ids: Sequence[int] | None = None,
    ) -> np.ndarray:
        """Probability of each of the model's tags, of some of them, or of others, from image tokens.

        Args:
            tokens: (B, 1 + L, C), from `encode`.
            tags: the user's own tags, as in `tag`; None: the model's.
            ids: of the model's tags that are asked for, the only ones computed if tags are independent; None: all.

        Returns:
            (B, N) float32, 0 to 1, in the order of `ids`.
        """
        labels = self._labels if tags is None else self._custom_tags(tags)
        selects = ids is not None and tags is None and self.config.scores_any_label
        scores = self._backend.logits(tokens, labels.select(ids or ()) if selects else labels).sigmoid().cpu().numpy()
        return scores if ids is None or selects else scores[:, list(ids)]

    def _tokens(self, images: Images | Tensor) -> Tensor:
        """Image tokens (B, 1 + L, C): encode images, or return tokens unchanged."""
        if not isinstance(images, Tensor):
            return self.encode(images)
        if images.ndim != 3:
            raise ValueError(f"image tokens have shape {tuple(images.shape)}; expected (B, 1 + L, C), from `encode`")
        return images

    def _encode(self, pixel_values: Tensor) -> Tensor:
        side = self.image_size
        if pixel_values.ndim != 4 or pixel_values.shape[1:] != (3, side, side):
            raise ValueError(f"pixel_values have shape {tuple(pixel_values.shape)}; expected (B, 3, {side}, {side})")
        if not len(pixel_values):
            return torch.zeros(0, 1, self.model.context_width, device=self.device)
        return self._backend.encode(pixel_values.to(self.device))
