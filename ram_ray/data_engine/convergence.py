"""When the data engine's rounds end before their number: a round changed too little."""

from __future__ import annotations

from ram_ray.results import Annotations, CleanedAnnotations, GeneratedAnnotations
from ram_ray.runtime.artifacts import Run


def has_converged(
    run: Run,
    before: Annotations,
    generated: GeneratedAnnotations,
    cleaned: CleanedAnnotations,
    *,
    min_change: float,
    round: int,
) -> bool:
    """Whether a round changed so few tags that neither training on them nor another round is worth it.

    Args:
        run: gets a note if it is so.
        before: annotations that the round began with.
        generated: with its additions.
        cleaned: without what it removed.
        min_change: `engine.min_change`, the least share of tags.
        round: number of the round.

    Returns:
        Whether the share of added and removed tags is below `engine.min_change`.
    """
    added, removed = generated.added, generated.tags - cleaned.tags
    change = (added + removed) / max(1, before.tags)
    if change >= min_change:
        return False
    run.note(
        f"stopped in round {round}: it added {added:,} tags and removed {removed:,}, {change:.2%} of those that it "
        f"began with, and engine.min_change is {min_change:.2%}"
    )
    return True
