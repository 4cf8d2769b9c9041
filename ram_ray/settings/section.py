"""The base classes of all settings: frozen, and checked when made.

A `Section` is a part of the configuration of a run. A `StageSettings` is what the result of one stage depends on: the
stage takes it out of the configuration, and its digest is the digest of all its fields. So a setting that a stage reads
cannot be missing in its digest. A field that does not change the result is marked with `RUNTIME_ONLY`.
"""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict
from pydantic.config import JsonDict

RUNTIME_ONLY: JsonDict = {"digest": False}  # extra of a field that does not change the output of a stage


class Section(BaseModel):
    """A part of a configuration: unknown fields and wrong types are errors when it is made."""

    model_config = ConfigDict(extra="forbid", validate_assignment=True, frozen=True, validate_default=True)


class StageSettings(Section):
    """All settings that a stage reads; a subclass is defined beside its stage and has `from_config`.

    A stage without settings has this class itself.
    """

    def identity(self) -> dict[str, object]:
        """The fields that are part of the digest of the stage, as JSON values by name.

        Returns:
            The fields without those marked `RUNTIME_ONLY`, also inside sections.
        """
        return _identity_of(self)


def _identity_of(section: Section) -> dict[str, object]:
    fields = type(section).model_fields.items()
    return {name: _to_json(getattr(section, name)) for name, field in fields if field.json_schema_extra != RUNTIME_ONLY}


def _to_json(value: object) -> object:
    if isinstance(value, Section):
        return _identity_of(value)
    if isinstance(value, dict):
        return {key: _to_json(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_to_json(item) for item in value]
    return value
