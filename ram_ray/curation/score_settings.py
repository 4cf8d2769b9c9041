"""What the step `image_scores` reads out of the configuration, and which classes of a classifier are unsafe.

It is read before a run too (`preflight.models`), so it does not import torch.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping

from ram_ray.config import RunConfig
from ram_ray.settings.curation import CurationEncoderConfig, FiltersConfig
from ram_ray.settings.section import StageSettings

# Names of unsafe classes, in lower case, that published classifiers use.
UNSAFE = frozenset(("nsfw", "unsafe", "porn", "hentai", "sexy", "explicit", "nudity", "nude", "gore", "violence"))


class ImageScoreSettings(StageSettings):
    """All that the scores depend on."""

    encoder: CurationEncoderConfig | None  # None: images are not embedded
    embedding: bool
    of_similarity: bool
    min_similarity: float | None
    unsafe_model: str | None
    unsafe_revision: str | None
    unsafe_labels: tuple[str, ...]
    max_unsafe: float

    @classmethod
    def from_config(cls, config: RunConfig, *, held_out: bool) -> ImageScoreSettings:
        """Take the settings out of the configuration of the run.

        Args:
            config: of the run.
            held_out: whether the images are not trained on: then they are not filtered.

        Returns:
            The settings.

        Raises:
            ValueError: if no encoder is configured, or one that embeds no captions where they are compared.
        """
        filters = FiltersConfig() if held_out else config.data.filters
        embedding = config.data.duplicates.embedding is not None
        return cls(
            encoder=_find_encoder(config, texts=filters.of_similarity) if embedding or filters.of_similarity else None,
            embedding=embedding,
            of_similarity=filters.of_similarity,
            min_similarity=filters.min_similarity,
            unsafe_model=filters.unsafe_model,
            unsafe_revision=filters.unsafe_revision if filters.unsafe_model else None,
            unsafe_labels=tuple(sorted(filters.unsafe_labels)) if filters.unsafe_model else (),
            max_unsafe=filters.max_unsafe if filters.unsafe_model else FiltersConfig().max_unsafe,
        )

    @property
    def needs_model(self) -> bool:
        """Whether there is anything to do."""
        return self.encoder is not None or self.unsafe_model is not None


class SimilaritySettings(StageSettings):
    """The quantile of the step `similarity`."""

    similarity_quantile: float | None

    @classmethod
    def from_config(cls, config: RunConfig, *, held_out: bool) -> SimilaritySettings:
        """Take the quantile out of the configuration; held-out images are not filtered.

        Args:
            config: of the run.
            held_out: whether the images are not trained on.

        Returns:
            The settings.
        """
        return cls(similarity_quantile=None if held_out else config.data.filters.similarity_quantile)


def _find_encoder(config: RunConfig, *, texts: bool) -> CurationEncoderConfig:
    """The encoder of `data.encoder`, or else the published one of `represent`."""
    encoder, represent = config.data.encoder, config.represent
    if not encoder.is_set:
        timm = represent.image_encoder if represent.text_encoder else encoder.image_encoder
        size = represent.image_size if timm.name else None
        found = {"clip": represent.clip, "revision": represent.revision if represent.clip else None}
        encoder = encoder.model_copy(update={**found, "image_encoder": timm, "image_size": size})
    if not encoder.is_set:
        raise ValueError(
            "data.filters.min_similarity, similarity_quantile and data.duplicates.embedding need a published encoder: "
            "set data.encoder.clip (with its revision), or data.encoder.image_encoder for duplicates alone"
        )
    if texts and not encoder.clip:
        raise ValueError("data.filters: a timm model embeds no captions; set data.encoder.clip to compare with them")
    return encoder


def unsafe_classes(classes: Mapping[int, str], unsafe: Collection[str], *, source: str) -> list[int]:
    """Find the unsafe classes of a classifier.

    Args:
        classes: name of each class (`id2label` of its config).
        unsafe: names of the unsafe classes; empty: those of `UNSAFE` that it has.
        source: the classifier, for the error.

    Returns:
        Their numbers, ascending.

    Raises:
        ValueError: if it has none of them, or not all that are named.
    """
    numbers = {name.lower(): number for number, name in classes.items()}
    wanted = {name.lower() for name in unsafe} or UNSAFE & numbers.keys()
    if not wanted or not wanted <= numbers.keys():
        raise ValueError(
            f"data.filters.unsafe_labels: the classifier {source!r} has the classes {sorted(numbers)}; name those that "
            "are unsafe"
        )
    return sorted(numbers[name] for name in wanted)
