"""Rows of an ablation as configurations: a run's configuration with a few fields changed, checked as a whole."""

from __future__ import annotations

from pydantic import ValidationError

from ram_ray.config import RunConfig
from ram_ray.records import Json

Figures = dict[str, float | None]  # of a row
Changes = dict[str, Json]  # section of the configuration -> field -> value


def vary(config: RunConfig, changes: Changes, *, what: str) -> RunConfig:
    """Change fields of a configuration.

    Args:
        config: of a run.
        changes: of its sections.
        what: for the error: what asks for them.

    Returns:
        Another configuration, checked.

    Raises:
        ValueError: as of `validate`.
    """
    sections = {part: getattr(config, part).model_copy(update=values) for part, values in changes.items()}
    return validate(config.model_copy(update=sections), what=what)


def validate(config: RunConfig, *, what: str) -> RunConfig:
    """The configuration, checked as a whole: a copy with changes has not been.

    Args:
        config: with changes.
        what: for the error: what asked for them.

    Returns:
        The same configuration.

    Raises:
        ValueError: with `what` and the fields that are wrong, in one line.
    """
    try:
        return RunConfig.model_validate(config.model_dump())
    except ValidationError as error:
        problems = [
            (".".join(map(str, problem["loc"])), problem["msg"].removeprefix("Value error, "))
            for problem in error.errors()
        ]
        lines = "; ".join(f"{field}: {message}" if field else message for field, message in problems)
        raise ValueError(f"{what}: {lines}") from None
