"""What all settings are made of: one class a section of the configuration, frozen, and checked when it is made."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict
from pydantic.config import JsonDict

HOW: JsonDict = {"digest": False}  # extra of a field that says how a stage runs, and not what it leaves


class Section(BaseModel):
    """A part of a configuration: unknown fields and wrong types are errors when it is made."""

    model_config = ConfigDict(extra="forbid", validate_assignment=True, frozen=True, validate_default=True)
