"""Label sets for a user's own tags: names, or names with descriptions. The last label sets are cached.

Letters: N tags, K descriptions a tag, E width of text embeddings.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping, Sequence
from threading import Lock

import numpy as np
import torch
from torch import Tensor

from ram_ray.inference.backends.backend import LabelSet, make_label_set
from ram_ray.models.bundle import Bundle
from ram_ray.models.ram import require_any_label
from ram_ray.models.teacher import Teacher
from ram_ray.settings.prompts import fill

MAX_LABEL_SETS = 32  # in the cache of a model
MAX_EMBEDDINGS = 20_000  # of single names


class CustomTags:
    """Makes and caches the label sets of one model. Safe to call from several threads.

    Args:
        bundle: the model, and the text encoder that embeds tags.
    """

    def __init__(self, bundle: Bundle) -> None:
        self._bundle, self._model = bundle, bundle.model
        self._teacher: Teacher | None = None
        self._cache: OrderedDict[tuple, LabelSet] = OrderedDict()
        self._embeddings: OrderedDict[str, Tensor] = OrderedDict()  # of each name, (E,), RAM++: (K, E)
        self._lock = Lock()

    def __len__(self) -> int:
        return len(self._cache)

    def __call__(self, tags: list[str] | Mapping[str, list[str]], *, embeddings: Tensor | None = None) -> LabelSet:
        """Make the label set of `tags`, with the user's `embeddings` or with those of the bundle's text encoder.

        Args:
            tags: names, or name -> texts that describe it: RAM takes their mean, RAM++ weights them for each image and
                takes equally many for each name.
            embeddings: float (N, E), RAM++: (N, K, E) or (N K, E), in place of those of the text encoder.

        Returns:
            The label set, on the model's device.

        Raises:
            ValueError: if the model takes no other tags, or descriptions or embeddings do not fit.
        """
        if embeddings is not None:
            return self.from_embeddings(embeddings, num_tags=len(tags))
        key = tuple((name, *tags[name]) if isinstance(tags, Mapping) else name for name in tags)
        with self._lock:
            if key not in self._cache:
                self._cache[key] = self.from_embeddings(self._embed(tags), num_tags=len(tags))
                if len(self._cache) > MAX_LABEL_SETS:
                    self._cache.popitem(last=False)
            self._cache.move_to_end(key)
            return self._cache[key]

    def from_embeddings(self, embeddings: Tensor, *, num_tags: int | None = None) -> LabelSet:
        """Make a label set of embeddings.

        Args:
            embeddings: float (N, E), RAM++: (N, K, E), or (N K, E) where the number of tags is known.
            num_tags: N; None: the first dimension of `embeddings`.

        Returns:
            The label set, on the model's device.

        Raises:
            ValueError: if the model takes no other tags, or the shape does not fit.
        """
        require_any_label(self._model.config)
        width, reweighs = self._model.config.label_width, self._model.reweighs
        if reweighs and embeddings.ndim == 2 and num_tags and len(embeddings) % num_tags == 0:
            embeddings = embeddings.view(num_tags, -1, embeddings.shape[-1])
        has_shape = embeddings.ndim == (3 if reweighs else 2) and embeddings.shape[-1] == width
        if not has_shape or num_tags not in (None, len(embeddings)):
            names = "tags, descriptions" if reweighs else "tags"
            raise ValueError(f"embeddings have shape {tuple(embeddings.shape)}; expected ({names}, {width})")
        return make_label_set(self._model, embeddings)

    def _embed(self, tags: list[str] | Mapping[str, list[str]]) -> Tensor:
        """Text embeddings of the tags: (N, E), RAM++: (N, K, E)."""
        require_any_label(self._model.config)
        if self._teacher is None:
            self._teacher = self._bundle.teacher()
        if not isinstance(tags, Mapping):
            return self._embed_names(self._teacher, list(tags))
        texts = [list(tags[name]) for name in tags]
        return self._embed_texts(self._teacher, texts) if self._model.reweighs else mean_texts(self._teacher, texts)

    def _embed_names(self, teacher: Teacher, names: list[str]) -> Tensor:
        """Text embeddings of names, each computed once: (N, E), RAM++: (N, K, E)."""
        new = [name for name in dict.fromkeys(names) if name not in self._embeddings]
        templates = list(self._model.config.templates)
        if new and self._model.reweighs:
            computed = self._embed_texts(teacher, [[fill(template, name) for template in templates] for name in new])
        elif new:
            computed = teacher.label_embeddings(new, templates)
        if new:
            self._embeddings.update(zip(new, computed.cpu().clone(), strict=True))
        embeddings = torch.stack([self._embeddings[name] for name in names])
        for name in names:
            self._embeddings.move_to_end(name)
        while len(self._embeddings) > MAX_EMBEDDINGS:
            self._embeddings.popitem(last=False)
        return embeddings

    def _embed_texts(self, teacher: Teacher, texts: list[list[str]]) -> Tensor:
        """Text embeddings of descriptions (N, K, E)."""
        if len({len(descriptions) for descriptions in texts}) > 1 or not texts[0]:
            raise ValueError("every tag needs equally many descriptions, at least one")
        flat = torch.from_numpy(teacher.encode_texts([text for descriptions in texts for text in descriptions]))
        return flat.view(len(texts), len(texts[0]), -1)


def mean_texts(teacher: Teacher, texts: Sequence[Sequence[str]]) -> Tensor:
    """Embed tags by their texts: the normalised mean, as of the templates of a name.

    Args:
        teacher: the text encoder.
        texts: of each of N tags.

    Returns:
        (N, E) float32 unit vectors.

    Raises:
        ValueError: if a tag has no text.
    """
    if not texts or not all(texts):
        raise ValueError("every tag needs at least one description")
    rows = iter(teacher.encode_texts([text for descriptions in texts for text in descriptions]))
    means = np.stack([np.mean([next(rows) for _ in descriptions], axis=0) for descriptions in texts])
    return torch.from_numpy(means / np.linalg.norm(means, axis=-1, keepdims=True)).float()
