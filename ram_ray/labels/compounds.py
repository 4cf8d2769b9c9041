"""Pairs of an attribute and a noun ("red umbrella") that are true of an image: no label has the pair, its parts are.

A pair is true of an image if one of its captions describes the noun so, or a human label has its name; where a caption
only omits it, the image counts as without. Parts are written as the labels that have them.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from ram_ray.captions.parser import process_parser
from ram_ray.label_system import LabelSystem, normalize_name
from ram_ray.records import Row

NOUNS = ("object", "scene")  # kinds of the second part
Pair = tuple[int, int]  # ids of the two labels


def find_pair(name: str, system: LabelSystem) -> Pair | None:
    """Find the two labels of a pair.

    Args:
        name: of the pair, such as "red umbrella".
        system: the label system.

    Returns:
        Ids of the attribute and the noun; None if no two labels make the name.
    """
    words = normalize_name(name).split()
    for end in range(1, len(words)):
        pair = _find(" ".join(words[:end]), " ".join(words[end:]), system)
        if pair:
            return pair
    return None


def pair_name(pair: Pair, system: LabelSystem) -> str:
    """Write a pair.

    Args:
        pair: ids of the two labels.
        system: the label system.

    Returns:
        Its name.
    """
    return " ".join(system[id].name for id in pair)


class CompoundReader:
    """Reads the pairs of images from their captions and human labels.

    Args:
        system: with the labels of both parts.
        parser: of captions, as `labels.parser`.
        max_chars: most characters of a caption that are read.
    """

    def __init__(self, system: LabelSystem, *, parser: str, max_chars: int) -> None:
        self._system, self._parser = system, process_parser(parser, max_chars=max_chars)

    def __call__(self, rows: Sequence[Row]) -> list[set[str]]:
        """Read the pairs of images.

        Args:
            rows: ANNOTATION rows with `captions` and `unknown_labels`.

        Returns:
            Names of the pairs of each image that are no label of the system.
        """
        texts = [
            [caption["text"] for caption in row["captions"] or () if caption["origin"] == "original"] for row in rows
        ]
        read = iter(self._parser.read([text for of_row in texts for text in of_row]))
        found = []
        for row, of_row in zip(rows, texts, strict=True):
            described = [pair for _ in of_row for pair in next(read).described]
            pairs = {_find(attribute, noun, self._system) for attribute, noun in described}
            pairs |= {find_pair(name, self._system) for name in row["unknown_labels"] or ()}
            found.append(self._names(pairs))
        return found

    def _names(self, pairs: Iterable[Pair | None]) -> set[str]:
        names = {pair_name(pair, self._system) for pair in pairs if pair}
        return {name for name in names if self._system.find(name) is None}


def _find(attribute: str, noun: str, system: LabelSystem) -> Pair | None:
    if not attribute or not noun:
        return None
    first = system.find(attribute, "attribute")
    second = next((id for id in (system.find(noun, kind) for kind in NOUNS) if id is not None), None)
    return None if first is None or second is None else (first, second)
