"""Which labels are more general than others, by WordNet: animal is broader than dog.

The main sense of a label's name (`wordnet.WordNet.sense`) is followed through the hypernyms of the data files, which
are up to 19 steps. A name without a main sense has no relations: "bat" must not hide "animal" where it is a club.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from ram_ray.label_system import LabelSystem
from ram_ray.labels.wordnet import WordNet

_POINTERS = ("@", "@i")  # to a hypernym, of a class and of an instance
_MAX_BYTES = 64_000_000  # of a file


def find_broader(labels: LabelSystem, wordnet: WordNet) -> dict[str, tuple[str, ...]]:
    """Find the labels that are more general than each label.

    Args:
        labels: the label system.
        wordnet: senses of names.

    Returns:
        Name of a label -> names of all labels that are more general; labels without any are left out.

    Raises:
        ValueError: if WordNet's data files cannot be read.
    """
    names_of: dict[str, set[str]] = {}  # sense -> names of labels
    for label in labels.labels:
        if sense := wordnet.sense(label.name, label.kind):
            names_of.setdefault(sense, set()).add(label.name)
    hypernyms = {
        part: _read_hypernyms(wordnet.folder, part) for part in {sense.partition(":")[0] for sense in names_of}
    }
    broader: dict[str, set[str]] = {}
    for sense, names in names_of.items():
        part, _, offset = sense.partition(":")
        above = _reach(int(offset), hypernyms[part])
        general = {name for synset in above for name in names_of.get(f"{part}:{synset:08d}", ())}
        for name in names:
            broader.setdefault(name, set()).update(general - {name})
    return {name: tuple(sorted(general)) for name, general in broader.items() if general}


def _reach(start: int, hypernyms: dict[int, tuple[int, ...]]) -> set[int]:
    reached: set[int] = set()
    waiting: list[int] = [start]
    while waiting:
        new = set(hypernyms.get(waiting.pop(), ())) - reached
        reached |= new
        waiting += new
    return reached - {start}


def _read_hypernyms(folder: Path, part: str) -> dict[int, tuple[int, ...]]:
    """Offset of a synset -> offsets of its hypernyms."""
    path = folder / f"data.{part}"
    try:
        if path.stat().st_size > _MAX_BYTES:
            raise ValueError(f"{path} has more than {_MAX_BYTES:,} bytes and is not a file of WordNet")
        lines = path.read_text(encoding="utf-8").splitlines()
        return dict(_parse(line.split()) for line in lines if not line.startswith(" "))  # the licence is indented
    except (OSError, UnicodeDecodeError, IndexError) as error:
        raise ValueError(
            f"{path} cannot be read as a file of WordNet ({error.__class__.__name__}); install Debian's wordnet-base"
        ) from None


def _parse(fields: list[str]) -> tuple[int, tuple[int, ...]]:
    """One line: offset, file, type, number of words (hexadecimal), words, number of pointers, pointers."""
    first = 4 + 2 * int(fields[3], 16)
    pointers: Iterable[int] = range(first + 1, first + 1 + 4 * int(fields[first]), 4)
    return int(fields[0]), tuple(int(fields[index + 1]) for index in pointers if fields[index] in _POINTERS)
