"""The one join from what the parser read to the label system: a caption's names, and their ids."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

from ram_ray.label_system import LabelSystem
from ram_ray.labels.names import Key


class ParsedCaption(NamedTuple):
    """A caption, as the parser left it."""

    text: str
    names: list[Key]  # (name, kind) of each tag that the parse gives, in its order
    unread: bool  # the parser turned it away: not English, so its words mean something else


def parsed_captions(row: Mapping[str, Any]) -> list[ParsedCaption]:
    """The captions of a `records.PARSED` row, in its order."""
    names: list[list[Key]] = [[] for _ in row["captions"]]
    for tag in row["parsed"]:
        names[tag["caption"]].append((tag["name"], tag["kind"]))
    unread = {one["caption"] for one in row["unread"] or ()}
    return [ParsedCaption(text, names[index], unread=index in unread) for index, text in enumerate(row["captions"])]


def label_ids(names: Iterable[Key], labels: LabelSystem) -> list[int]:
    """Ids of the labels that names mean, each once, in the order of the names; names of no label are left out."""
    ids = (labels.find(name, kind) for name, kind in names)
    return list(dict.fromkeys(id for id in ids if id is not None))
