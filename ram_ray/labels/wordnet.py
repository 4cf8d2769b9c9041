"""Synonyms from WordNet where it is installed: two words are one label if they share their main sense.

Debian's wordnet-base and Princeton's own archive lay the files out alike: `index.noun`, `index.verb`, `index.adj`
list the senses of each word, the most frequent first, and `cntlist.rev` says how often each sense was met in tagged
text. The hard question is which sense a caption means. Taking any shared sense makes "bike" a motorcycle and "plane"
a tool; so a word speaks for its first sense alone, and only if it has no other or was mostly met in that one. Verbs
have many near senses ("draw" is "pull" before it is "sketch"), so they must be clearer. A word without such a sense
merges with nothing.

Sense numbers are enough: words of one synset have the same byte offset, so the large data files are never read.
"""

from __future__ import annotations

import hashlib
from pathlib import Path

from ram_ray.captions.lemmas import PART_OF_SPEECH
from ram_ray.runtime.storage import local_copy

INSTALLED = Path("/usr/share/wordnet")  # Debian's wordnet-base
_SENSE_TYPES = {"1": "noun", "2": "verb", "3": "adj", "5": "adj"}  # 5: a satellite of another adjective
# Share of its mentions in tagged text that a word's main sense must have.
_CLEAR = {"noun": 0.5, "adj": 0.5, "verb": 0.75}
_MAX_BYTES = 64_000_000  # of one file; the largest of WordNet 3.1 has 5 MB


class WordNet:
    """Main senses of words.

    Args:
        folder: where the index files lie.

    Raises:
        ValueError: if a file is missing, too large, or not one of WordNet's.
    """

    def __init__(self, folder: str | Path = INSTALLED) -> None:
        self.folder = local_copy(str(folder)) if "://" in str(folder) else Path(folder)
        self._bytes = hashlib.sha256()
        self._counts = self._read_counts()
        self._main = {part: self._read_index(part) for part in ("noun", "verb", "adj")}

    @property
    def digest(self) -> str:
        """Changes with the files' bytes."""
        return self._bytes.hexdigest()[:12]

    @classmethod
    def find(cls, setting: str) -> WordNet | None:
        """WordNet as `labels.wordnet` asks for it: "auto" (if installed), "none", or a folder that must be there."""
        if setting == "none" or (setting == "auto" and not (INSTALLED / "index.noun").is_file()):
            return None
        return cls(INSTALLED if setting == "auto" else setting)

    def sense(self, name: str, kind: str) -> str | None:
        """Key of the main sense of a name of one of `records.KINDS`; None if it has none, or none stands out."""
        part = PART_OF_SPEECH[kind]
        words = name.replace(" ", "_")
        for spelling in (words, words.replace("-", "_"), words.replace("_", "-"), words.replace("_", "")):
            if spelling in self._main[part]:
                return self._main[part][spelling]
        return None

    def _lines(self, name: str) -> list[str]:
        path = self.folder / name
        try:
            if path.stat().st_size > _MAX_BYTES:
                raise ValueError(f"{path} has more than {_MAX_BYTES:,} bytes and is not WordNet's (labels.wordnet)")
            data = path.read_bytes()
            self._bytes.update(data)
            return data.decode("utf-8").splitlines()
        except (OSError, UnicodeDecodeError) as error:
            raise ValueError(
                f"{path} cannot be read as a file of WordNet ({error.__class__.__name__}); install Debian's "
                "wordnet-base, name the folder of its index files, or set labels.wordnet=none"
            ) from None

    def _read_counts(self) -> dict[tuple[str, str], list[int]]:
        """(word, part) -> how often it was met in its first sense, and in all."""
        counts: dict[tuple[str, str], list[int]] = {}
        for line in self._lines("cntlist.rev"):
            try:
                key, number, count = line.split()
                times = int(count)
            except ValueError:
                raise ValueError(f"{self.folder}/cntlist.rev is not WordNet's count of senses: {line[:60]!r}") from None
            word, _, sense = key.partition("%")
            if part := _SENSE_TYPES.get(sense[:1]):
                met = counts.setdefault((word, part), [0, 0])
                met[0] += times if number == "1" else 0
                met[1] += times
        return counts

    def _read_index(self, part: str) -> dict[str, str]:
        """Word -> its main sense, words without one left out."""
        main: dict[str, str] = {}
        for line in self._lines(f"index.{part}"):
            if line.startswith(" "):  # the licence
                continue
            fields = line.split()
            try:  # word, part, number of senses, pointers ..., number of senses, number of those met, offsets ...
                word, num_senses = fields[0], int(fields[2])
                first = fields[-num_senses]
            except (IndexError, ValueError):
                raise ValueError(f"{self.folder}/index.{part} is not an index of WordNet: {line[:60]!r}") from None
            met = self._counts.get((word, part), [0, 0])
            if num_senses == 1 or (met[0] and met[0] >= _CLEAR[part] * met[1]):
                main[word] = f"{part}:{first}"
        return main
