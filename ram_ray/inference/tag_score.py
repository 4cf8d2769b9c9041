"""The result of tagging: a tag with its score."""

from __future__ import annotations

from dataclasses import dataclass

from ram_ray.label_system import Label


@dataclass(frozen=True)
class TagScore:
    """One tag of one image."""

    tag: str  # name that is shown
    id: int | None  # of the model's label; None for a user's own tag
    score: float  # probability, 0 to 1
    threshold: float  # probability from which on the tag counts as present
    chinese: str | None = None  # name of the tag, if the model's list has it

    @classmethod
    def of(cls, label: Label | str, score: float, threshold: float, *, name: str | None = None) -> TagScore:
        """Make the score of a label or of a user's own tag.

        Args:
            label: of the model's list, or the name of a user's own tag.
            score: probability, 0 to 1.
            threshold: probability from which on the tag counts as present.
            name: that is shown; None: the label's own.

        Returns:
            The tag with its score.
        """
        if isinstance(label, str):
            return cls(name or label, None, score, threshold)
        return cls(name or label.name, label.id, score, threshold, label.chinese)
