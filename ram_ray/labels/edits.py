"""Edits of a label system by a user: a small YAML file that every build applies.

    drop: [thing, "action:seem"]              # neither a label nor a synonym
    kind: {sunset: scene}                     # count it as this kind; overrides the parser
    merge: {motorcycle: [motorbike, moped]}   # the key is the label's name
    apart: [[bike, motorcycle]]               # no other source merges these
    rename: {donut: doughnut}                 # the label's name; the old one becomes a synonym
    add: ["object:fire extinguisher"]         # a label even if no caption mentions it

A name applies to every kind, "kind:name" to that kind only. An edit without effect is not an error, because other
captions may contain its name; the report lists such edits.
"""

from __future__ import annotations

import yaml
from pydantic import ValidationError, field_validator

from ram_ray.label_system import normalize_name, split_kind
from ram_ray.labels.names import MAX_NAME, keys_of, read_text
from ram_ray.records import KINDS
from ram_ray.settings.section import Section

_MAX_BYTES = 1_000_000


class Edits(Section):
    """The content of an edits file; the module's docstring describes the format."""

    drop: list[str] = []
    kind: dict[str, str] = {}
    merge: dict[str, list[str]] = {}
    apart: list[list[str]] = []
    rename: dict[str, str] = {}
    add: list[str] = []

    @field_validator("drop", "add")
    @classmethod
    def _names(cls, names: list[str]) -> list[str]:
        return [_check_name(name) for name in names]

    @field_validator("kind")
    @classmethod
    def _kinds(cls, kinds: dict[str, str]) -> dict[str, str]:
        if unknown := sorted(set(kinds.values()) - set(KINDS)):
            raise ValueError(f"unknown kinds {unknown}; use one of {', '.join(KINDS)}")
        return {_check_name(name): kind for name, kind in kinds.items()}

    @field_validator("merge")
    @classmethod
    def _groups(cls, groups: dict[str, list[str]]) -> dict[str, list[str]]:
        return {_check_name(name): [_check_name(synonym) for synonym in synonyms] for name, synonyms in groups.items()}

    @field_validator("apart")
    @classmethod
    def _pairs(cls, pairs: list[list[str]]) -> list[list[str]]:
        if any(len(pair) < 2 for pair in pairs):
            raise ValueError("each entry names at least two labels, for example [bike, motorcycle]")
        return [[_check_name(name) for name in pair] for pair in pairs]

    @field_validator("rename")
    @classmethod
    def _renames(cls, renames: dict[str, str]) -> dict[str, str]:
        return {_check_name(old): normalize_name(_check_name(new)) for old, new in renames.items()}

    @field_validator("add")
    @classmethod
    def _with_kind(cls, names: list[str]) -> list[str]:
        for name in names:
            if split_kind(name)[0] is None:
                raise ValueError(f"{name!r} needs its kind, for example 'object:{name}'")
        return names


def read_edits(uri: str) -> Edits:
    """Read an edits file.

    Args:
        uri: any fsspec URI.

    Returns:
        The edits.

    Raises:
        ValueError: if the file cannot be read or has an unknown field or a wrong value.
    """
    text = read_text(uri, setting="labels.edits", max_bytes=_MAX_BYTES)
    try:
        tree = yaml.safe_load(text)
    except (yaml.YAMLError, RecursionError) as error:
        raise ValueError(f"{uri}: cannot be read as YAML: {' '.join(str(error).split())[:200]}") from None
    try:
        return Edits.model_validate(tree or {})
    except ValidationError as error:
        mistakes = [
            f"{'.'.join(str(part) for part in mistake['loc']) or 'the file'}: {mistake['msg']}"
            for mistake in error.errors()
        ]
        raise ValueError(f"{uri}: {'; '.join(mistakes)[:500]}; fields: {', '.join(Edits.model_fields)}") from None


def _check_name(name: str) -> str:
    if not keys_of(name)[0][0] or len(name) > MAX_NAME:
        raise ValueError(f"{name[:40]!r} is not a name of 1 to {MAX_NAME} characters")
    return name
