"""Hand edits of a label system: a small YAML file that is applied anew at every build, so a rebuild keeps them.

    drop: [thing, "action:seem"]              # never a label, never a synonym
    kind: {sunset: scene}                     # count it as this kind, whatever the parser said
    merge: {motorcycle: [motorbike, moped]}   # the first is the label's name
    apart: [[bike, motorcycle]]               # no other source may merge these
    rename: {donut: doughnut}                 # the label's name; the old one becomes a synonym
    add: ["object:fire extinguisher"]         # a label even if no caption names it

A name means itself in every kind, "kind:name" in that kind alone. An edit that finds nothing to change is no
mistake, since the next captions may have it; the report lists such edits.
"""

from __future__ import annotations

from typing import Any

import yaml
from pydantic import ValidationError, field_validator

from ram_ray.labels.names import MAX_NAME, keys_of, plain, read_text, split_kind
from ram_ray.records import KINDS
from ram_ray.settings.section import Section

_MAX_BYTES = 1_000_000


class Edits(Section):
    """What a user decided by hand; see the module's docstring for the form."""

    drop: list[str] = []
    kind: dict[str, str] = {}
    merge: dict[str, list[str]] = {}
    apart: list[list[str]] = []
    rename: dict[str, str] = {}
    add: list[str] = []

    @field_validator("drop", "add")
    @classmethod
    def _names(cls, names: list[str]) -> list[str]:
        return [_checked(name) for name in names]

    @field_validator("kind")
    @classmethod
    def _kinds(cls, kinds: dict[str, str]) -> dict[str, str]:
        if unknown := sorted(set(kinds.values()) - set(KINDS)):
            raise ValueError(f"unknown kinds {unknown}; use one of {', '.join(KINDS)}")
        return {_checked(name): kind for name, kind in kinds.items()}

    @field_validator("merge")
    @classmethod
    def _groups(cls, groups: dict[str, list[str]]) -> dict[str, list[str]]:
        return {_checked(name): [_checked(one) for one in others] for name, others in groups.items()}

    @field_validator("apart")
    @classmethod
    def _pairs(cls, pairs: list[list[str]]) -> list[list[str]]:
        if any(len(pair) < 2 for pair in pairs):
            raise ValueError("each entry names at least two labels, for example [bike, motorcycle]")
        return [[_checked(name) for name in pair] for pair in pairs]

    @field_validator("rename")
    @classmethod
    def _renames(cls, renames: dict[str, str]) -> dict[str, str]:
        return {_checked(old): plain(_checked(new)) for old, new in renames.items()}

    @field_validator("add")
    @classmethod
    def _with_kind(cls, names: list[str]) -> list[str]:
        for name in names:
            if split_kind(name)[0] is None:
                raise ValueError(f"{name!r} needs its kind, for example 'object:{name}'")
        return names


def read_edits(uri: str) -> Edits:
    """Read an edits file at any fsspec URI.

    Raises:
        ValueError: for a file that cannot be read, an unknown field or a wrong value; one line a mistake.
    """
    text = read_text(uri, what="labels.edits", max_bytes=_MAX_BYTES)
    try:
        tree: Any = yaml.safe_load(text)
    except (yaml.YAMLError, RecursionError) as error:
        raise ValueError(f"{uri}: cannot be read as YAML: {' '.join(str(error).split())[:200]}") from None
    try:
        return Edits.model_validate(tree or {})
    except ValidationError as error:
        problems = [f"{'.'.join(str(one) for one in e['loc']) or 'the file'}: {e['msg']}" for e in error.errors()]
        raise ValueError(f"{uri}: {'; '.join(problems)[:500]}; fields: {', '.join(Edits.model_fields)}") from None


def _checked(name: str) -> str:
    if not keys_of(name)[0][0] or len(name) > MAX_NAME:
        raise ValueError(f"{name[:40]!r} is not a name of 1 to {MAX_NAME} characters")
    return name
