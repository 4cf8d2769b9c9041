"""Word lists in text files: a line `[section]` begins a section, `#` a comment; the rest are words."""

from __future__ import annotations


def read_sections(text: str) -> dict[str, frozenset[str]]:
    """Read a word list.

    Args:
        text: of the file.

    Returns:
        Section -> its words; an underscore in the file is the space of a phrase.
    """
    sections: dict[str, set[str]] = {}
    words: set[str] = set()
    for line in text.splitlines():
        line = line.partition("#")[0].strip()
        if line.startswith("["):
            words = sections.setdefault(line[1:].partition("]")[0], set())
        else:
            words.update(word.replace("_", " ") for word in line.split())
    return {section: frozenset(words) for section, words in sections.items()}
