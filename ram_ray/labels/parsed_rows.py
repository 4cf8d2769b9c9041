"""Joins the parser's output with the label system: a caption's names, and their label ids."""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

from ram_ray.label_system import LabelSystem
from ram_ray.labels.names import Key
from ram_ray.records import Row


class ParsedCaption(NamedTuple):
    """A caption with the parser's output."""

    text: str
    names: list[Key]  # (name, kind) of each parsed tag, in the parser's order
    rejected: bool  # True if the parser rejected it: it is not English, so its words have other meanings


def parsed_captions(row: Row) -> list[ParsedCaption]:
    """Collect the captions of a row with their names.

    Args:
        row: a `records.PARSED` row.

    Returns:
        The row's captions, in its order.
    """
    names: list[list[Key]] = [[] for _ in row["captions"]]
    for tag in row["parsed"]:
        names[tag["caption"]].append((tag["name"], tag["kind"]))
    rejected = {rejection["caption"] for rejection in row["rejected_captions"] or ()}
    return [ParsedCaption(text, names[index], rejected=index in rejected) for index, text in enumerate(row["captions"])]


def label_ids(names: Iterable[Key], labels: LabelSystem) -> list[int]:
    """Look up names in a label system.

    Args:
        names: (name, kind) of each tag.
        labels: the label system.

    Returns:
        Ids without repetition, in the order of the names; names that no label has are omitted.
    """
    ids = (labels.find(name, kind) for name, kind in names)
    return list(dict.fromkeys(id for id in ids if id is not None))
