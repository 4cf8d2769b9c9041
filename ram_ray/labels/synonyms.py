"""Tables of names with one meaning: the shipped one (`synonyms.txt`) and a user's file in the same form.

word: gray, grey            two spellings of a word, wherever it stands in a name ("grey-haired", "tennis racquet")
object: couch, sofa         names of one kind
barbecue, bbq               names of whatever kind they were found with
apart: bike, motorcycle     names that no other source may merge (WordNet, embeddings)
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field
from functools import cached_property
from importlib import resources

from ram_ray.labels.names import MAX_NAME, Key, plain, read_text
from ram_ray.records import KINDS


@dataclass(frozen=True)
class Synonyms:
    """A synonym file, read.

    Attributes:
        words: spelling of a word -> the one that stands for it.
        groups: names that mean one label, with their kind.
        apart: names that never mean one label.
    """

    words: dict[str, str] = field(default_factory=dict)
    groups: list[list[Key]] = field(default_factory=list)
    apart: list[list[Key]] = field(default_factory=list)

    @cached_property
    def digest(self) -> str:
        """Changes with what the table says."""
        return hashlib.sha256(repr((sorted(self.words.items()), self.groups, self.apart)).encode()).hexdigest()[:12]

    def spelling(self, name: str) -> str:
        """The name with each word in its standing spelling."""
        return " ".join(
            self.words.get(word) or "-".join(self.words.get(part, part) for part in word.split("-"))
            for word in name.split()
        )


def read_synonyms(uri: str) -> Synonyms:
    """Read a user's file at any fsspec URI.

    Raises:
        ValueError: for a file that cannot be read, or a line that is not one of the four forms.
    """
    return _read(read_text(uri, what="labels.synonyms"), source=uri)


def shipped_synonyms() -> Synonyms:
    """The table that comes with the package."""
    text = (resources.files("ram_ray.labels") / "synonyms.txt").read_text(encoding="utf-8")
    return _read(text, source="synonyms.txt")


def _read(text: str, *, source: str) -> Synonyms:
    read = Synonyms()
    for number, line in enumerate(text.splitlines(), 1):
        line = line.partition("#")[0].strip()
        if not line:
            continue
        head, colon, rest = line.partition(":")
        form = head.strip().lower() if colon else "any"
        names = list(dict.fromkeys(plain(name) for name in (rest if colon else line).split(",")))
        if form not in ("word", "apart", "any", *KINDS):
            raise ValueError(
                f"{source}, line {number}: {form!r} is none of word, apart, any, {', '.join(KINDS)}; "
                "write for example 'object: couch, sofa'"
            )
        if len(names) < 2 or not all(0 < len(name) <= MAX_NAME for name in names):
            raise ValueError(f"{source}, line {number}: give at least two names, separated by commas: {line[:60]!r}")
        if form == "word":
            read.words.update({name: names[0] for name in names[1:]})
        else:
            kinds = KINDS if form in ("apart", "any") else (form,)
            (read.apart if form == "apart" else read.groups).extend([(name, kind) for name in names] for kind in kinds)
    return read
