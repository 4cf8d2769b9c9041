"""Tables of synonyms: the shipped table (`synonyms.txt`) and a user's file in the same format.

word: gray, grey            spellings of a word, at any position in a name ("grey-haired", "tennis racquet")
object: couch, sofa         synonyms of one kind
barbecue, bbq               synonyms of any kind
apart: bike, motorcycle     names that no other source merges (WordNet, embeddings)
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field
from functools import cached_property
from importlib import resources

from ram_ray.label_system import normalize_name
from ram_ray.labels.names import MAX_NAME, Key, read_text
from ram_ray.records import KINDS


@dataclass(frozen=True)
class Synonyms:
    """The content of a synonym file.

    Attributes:
        words: spelling of a word -> its standard spelling.
        groups: names of the same label, with their kind.
        apart: names that are never the same label, with their kind.
    """

    words: dict[str, str] = field(default_factory=dict)
    groups: list[list[Key]] = field(default_factory=list)
    apart: list[list[Key]] = field(default_factory=list)

    @cached_property
    def digest(self) -> str:
        """Digest of the content."""
        return hashlib.sha256(repr((sorted(self.words.items()), self.groups, self.apart)).encode()).hexdigest()[:12]

    def spelling(self, name: str) -> str:
        """Write each word of a name in its standard spelling.

        Args:
            name: words separated by spaces or hyphens.

        Returns:
            The name.
        """
        return " ".join(
            self.words.get(word) or "-".join(self.words.get(part, part) for part in word.split("-"))
            for word in name.split()
        )


def read_synonyms(uri: str) -> Synonyms:
    """Read a user's synonym file.

    Args:
        uri: any fsspec URI.

    Returns:
        The synonyms.

    Raises:
        ValueError: if the file cannot be read, or a line has none of the four forms.
    """
    return _parse(read_text(uri, setting="labels.synonyms"), source=uri)


def shipped_synonyms() -> Synonyms:
    """Read the table of the package.

    Returns:
        The synonyms.
    """
    text = (resources.files("ram_ray.labels") / "synonyms.txt").read_text(encoding="utf-8")
    return _parse(text, source="synonyms.txt")


def _parse(text: str, *, source: str) -> Synonyms:
    synonyms = Synonyms()
    for number, line in enumerate(text.splitlines(), 1):
        line = line.partition("#")[0].strip()
        if not line:
            continue
        head, colon, rest = line.partition(":")
        form = head.strip().lower() if colon else "any"
        names = list(dict.fromkeys(normalize_name(name) for name in (rest if colon else line).split(",")))
        if form not in ("word", "apart", "any", *KINDS):
            raise ValueError(
                f"{source}, line {number}: {form!r} is none of word, apart, any, {', '.join(KINDS)}; "
                "write for example 'object: couch, sofa'"
            )
        if len(names) < 2 or not all(0 < len(name) <= MAX_NAME for name in names):
            raise ValueError(f"{source}, line {number}: give at least two names, separated by commas: {line[:60]!r}")
        if form == "word":
            synonyms.words.update({name: names[0] for name in names[1:]})
        else:
            kinds = KINDS if form in ("apart", "any") else (form,)
            groups = synonyms.apart if form == "apart" else synonyms.groups
            groups.extend([(name, kind) for name in names] for kind in kinds)
    return synonyms
