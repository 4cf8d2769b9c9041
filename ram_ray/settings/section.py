"""The base class of all settings: one class for each section of the configuration, frozen, and checked when made."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict
from pydantic.config import JsonDict

RUNTIME_ONLY: JsonDict = {"digest": False}  # extra of a field that does not change the output of a stage


class Section(BaseModel):
    """A part of a configuration: unknown fields and wrong types are errors when it is made."""

    model_config = ConfigDict(extra="forbid", validate_assignment=True, frozen=True, validate_default=True)
