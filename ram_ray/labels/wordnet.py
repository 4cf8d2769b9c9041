"""Reads synonyms from WordNet where it is installed: words with the same main sense are synonyms.

Debian's wordnet-base and Princeton's archive have the same files: `index.noun`, `index.verb` and `index.adj` list the
senses of each word, the most frequent first; `cntlist.rev` has the count of each sense in sense-tagged text. The sense
of a word in a caption is unknown, and merging by any shared sense would merge "bike" with "motorcycle". So only the
main sense counts: the first sense, if it is the only sense or has a large share of the counts. Verbs have many similar
senses ("draw" is "pull" before it is "sketch"), so their share must be larger.

The words of a synset have the same byte offset, which identifies the sense; the data files are not read.
"""

from __future__ import annotations

import hashlib
from pathlib import Path

from ram_ray.captions.lemmas import PART_OF_SPEECH
from ram_ray.runtime.storage import local_copy

INSTALLED = Path("/usr/share/wordnet")  # Debian's wordnet-base
_SENSE_TYPES = {"1": "noun", "2": "verb", "3": "adj", "5": "adj"}  # 5: satellite adjective
# Least share of a main sense in the counts of its word.
_MIN_SHARE = {"noun": 0.5, "adj": 0.5, "verb": 0.75}
_MAX_BYTES = 64_000_000  # of a file; the largest file of WordNet 3.1 has 5 MB


class WordNet:
    """Main senses of words.

    Args:
        folder: of the index files; a path or URI.

    Raises:
        ValueError: if a file is missing, too large, or not a file of WordNet.
    """

    def __init__(self, folder: str | Path = INSTALLED) -> None:
        self.folder = local_copy(str(folder)) if "://" in str(folder) else Path(folder)
        self._sha256 = hashlib.sha256()
        self._counts = self._read_counts()
        self._main_senses = {part: self._read_index(part) for part in ("noun", "verb", "adj")}

    @property
    def digest(self) -> str:
        """Digest of the files' bytes."""
        return self._sha256.hexdigest()[:12]

    @classmethod
    def find(cls, setting: str) -> WordNet | None:
        """Load WordNet as `labels.wordnet` is set.

        Args:
            setting: "auto" (if it is installed), "none", or a folder.

        Returns:
            WordNet; None for "none", and for "auto" if it is not installed.

        Raises:
            ValueError: if the folder does not contain WordNet.
        """
        if setting == "none" or (setting == "auto" and not (INSTALLED / "index.noun").is_file()):
            return None
        return cls(INSTALLED if setting == "auto" else setting)

    def sense(self, name: str, kind: str) -> str | None:
        """Look up the main sense of a name.

        Args:
            name: in lower case.
            kind: one of `records.KINDS`.

        Returns:
            Key of the sense; None if the name is unknown or has no main sense.
        """
        part = PART_OF_SPEECH[kind]
        words = name.replace(" ", "_")
        for spelling in (words, words.replace("-", "_"), words.replace("_", "-"), words.replace("_", "")):
            if spelling in self._main_senses[part]:
                return self._main_senses[part][spelling]
        return None

    def _read_lines(self, name: str) -> list[str]:
        path = self.folder / name
        try:
            if path.stat().st_size > _MAX_BYTES:
                raise ValueError(
                    f"{path} has more than {_MAX_BYTES:,} bytes and is not a file of WordNet (labels.wordnet)"
                )
            data = path.read_bytes()
            self._sha256.update(data)
            return data.decode("utf-8").splitlines()
        except (OSError, UnicodeDecodeError) as error:
            raise ValueError(
                f"{path} cannot be read as a file of WordNet ({error.__class__.__name__}); install Debian's "
                "wordnet-base, name the folder of its index files, or set labels.wordnet=none"
            ) from None

    def _read_counts(self) -> dict[tuple[str, str], list[int]]:
        """(word, part of speech) -> [count of the first sense, count of all senses]."""
        counts: dict[tuple[str, str], list[int]] = {}
        for line in self._read_lines("cntlist.rev"):
            try:
                key, number, count_text = line.split()
                count = int(count_text)
            except ValueError:
                raise ValueError(f"{self.folder}/cntlist.rev is not WordNet's count of senses: {line[:60]!r}") from None
            word, _, sense = key.partition("%")
            if part := _SENSE_TYPES.get(sense[:1]):
                word_counts = counts.setdefault((word, part), [0, 0])
                word_counts[0] += count if number == "1" else 0
                word_counts[1] += count
        return counts

    def _read_index(self, part: str) -> dict[str, str]:
        """Word -> main sense; words without a main sense are omitted."""
        main_senses: dict[str, str] = {}
        for line in self._read_lines(f"index.{part}"):
            if line.startswith(" "):  # the licence
                continue
            fields = line.split()
            try:  # word, part, number of senses, pointers ..., number of senses, number of counted senses, offsets ...
                word, num_senses = fields[0], int(fields[2])
                offset = fields[-num_senses]
            except (IndexError, ValueError):
                raise ValueError(f"{self.folder}/index.{part} is not an index of WordNet: {line[:60]!r}") from None
            first_count, total = self._counts.get((word, part), [0, 0])
            if num_senses == 1 or (first_count and first_count >= _MIN_SHARE[part] * total):
                main_senses[word] = f"{part}:{offset}"
        return main_senses
