"""Text to token ids: BERT's WordPiece plus [DEC] (starts a caption) and [ENC] (starts a list of tags).

At scale the vocabulary is BERT's own (`bert-base-uncased`); offline a small one is trained on the run's
captions. Both are the same class of the `tokenizers` library, saved as `tokenizer.json` in the bundle.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from ram_ray.runtime.storage import local_copy

if TYPE_CHECKING:
    from tokenizers import Tokenizer

SPECIAL = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")
FILES = ("tokenizer.json", "vocab.txt")  # the first that is there is read
CASE_FILE = "tokenizer_config.json"  # says whether a vocabulary is cased
DEC, ENC, SEP, PAD = "[DEC]", "[ENC]", "[SEP]", "[PAD]"


class TextTokenizer:
    """Fixed-length id arrays for captions and tag lists."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._tokenizer = tokenizer
        tokenizer.no_padding()
        tokenizer.no_truncation()
        tokenizer.add_special_tokens([DEC, ENC])
        ids = [tokenizer.token_to_id(one) for one in (DEC, ENC, SEP, PAD)]
        self.dec, self.enc, self.sep, self.pad = (-1 if one is None else one for one in ids)
        if None in ids:
            raise ValueError("the tokenizer has no [SEP] or [PAD]; use a BERT-style WordPiece vocabulary")
        if self.pad != 0:  # the models take 0 for padding
            raise ValueError(f"the tokenizer's [PAD] has id {self.pad}; use a vocabulary where it is 0, as in BERT's")

    @classmethod
    def train(cls, texts: Iterable[str], *, vocab_size: int) -> TextTokenizer:
        """Train WordPiece on `texts` (lower-cased, accents stripped); the same texts give the same ids."""
        from tokenizers import BertWordPieceTokenizer

        texts = list(texts)
        tokenizer = BertWordPieceTokenizer(lowercase=True)
        # The library numbers the letters inside words as they come out of a hash table, and breaks ties by number:
        # named beforehand they have a fixed order. The second tokenizer knows them as plain words again.
        normalise, split = tokenizer.normalizer.normalize_str, tokenizer.pre_tokenizer.pre_tokenize_str
        letters = {letter for text in texts for word, _ in split(normalise(text)) for letter in word[1:]}
        tokenizer.train_from_iterator(
            texts,
            vocab_size=vocab_size - 2,
            min_frequency=2,
            special_tokens=[*SPECIAL, *(f"##{letter}" for letter in sorted(letters))],
            show_progress=False,
        )
        return cls(BertWordPieceTokenizer(vocab=tokenizer.get_vocab(), lowercase=True)._tokenizer)

    @classmethod
    def load(cls, path_or_id: str, *, revision: str | None = None) -> TextTokenizer:
        """Load a folder with `tokenizer.json` or BERT's `vocab.txt`, or such a file, from where `local_copy` finds it.

        Args:
            path_or_id: a path, a URI, or a Hugging Face id.
            revision: of an id.

        Raises:
            ValueError: if there is none that can be read, or it is not a BERT-style vocabulary.
        """
        from tokenizers import Tokenizer

        try:
            path = _local_file(path_or_id, revision)
        except ValueError as error:
            raise ValueError(f"tokenizer {error}") from None
        if path.suffix == ".txt" and path.is_file():
            return cls(_from_vocabulary(path))
        try:
            tokenizer = Tokenizer.from_file(str(path))
        except Exception as error:  # the library raises just that for a file it cannot read
            raise ValueError(
                f"tokenizer {path_or_id!r}: no tokenizer.json or vocab.txt there that can be read: {error}"
            ) from None
        return cls(tokenizer)

    def save(self, folder: str | Path) -> None:
        """Write `tokenizer.json` into `folder`."""
        self._tokenizer.save(str(Path(folder) / "tokenizer.json"))

    def __len__(self) -> int:
        return self._tokenizer.get_vocab_size()

    def encode(self, texts: list[str], *, first: int, max_tokens: int) -> np.ndarray:
        """Ids of texts: `first`, the words, [SEP], then padding. Longer texts are cut.

        Args:
            texts: B of them.
            first: id of the first token.
            max_tokens: T, with the first token and [SEP].

        Returns:
            (B, T) int64.
        """
        ids = np.full((len(texts), max_tokens), self.pad, dtype=np.int64)
        for row, encoding in enumerate(self._tokenizer.encode_batch(texts, add_special_tokens=False)):
            words = [first, *encoding.ids[: max_tokens - 2], self.sep]
            ids[row, : len(words)] = words
        return ids

    def encode_captions(self, captions: list[str], *, prompt: str, max_tokens: int) -> np.ndarray:
        """Captions behind the prompt, as the caption decoder reads them.

        Args:
            captions: B of them.
            prompt: the text before each.
            max_tokens: T, with the prompt.

        Returns:
            (B, T) int64.
        """
        return self.encode([prompt + one for one in captions], first=self.dec, max_tokens=max_tokens)

    def encode_tags(self, tags: list[list[str]], *, max_tokens: int) -> np.ndarray:
        """Tag lists as "a | b | c", as the tag encoder reads them.

        Args:
            tags: of each image.
            max_tokens: T.

        Returns:
            (B, T) int64.
        """
        return self.encode([" | ".join(one) for one in tags], first=self.enc, max_tokens=max_tokens)

    def prompt_length(self, prompt: str) -> int:
        """Tokens of [DEC] and the prompt: where a caption's own words begin."""
        return 1 + len(self._tokenizer.encode(prompt, add_special_tokens=False).ids)

    def decode(self, ids: list[int]) -> str:
        """Words of `ids`, special tokens left out."""
        return self._tokenizer.decode(ids, skip_special_tokens=True)

    def decode_caption(self, ids: list[int], *, prompt: str) -> str:
        """The caption behind the prompt, of ids (prompt's own left out, no padding).

        As the reference does, the whole text is written out and as many letters as the prompt has are cut: what the
        first word adds to the prompt's last one goes too.

        Args:
            ids: the words after the prompt.
            prompt: the text before them.
        """
        first = [self.dec, *self._tokenizer.encode(prompt, add_special_tokens=False).ids]
        if self.decode(first) + " " != prompt:  # the vocabulary cannot spell the prompt
            return self.decode(ids)
        return self.decode(first + ids)[len(prompt) :]


def _local_file(path_or_id: str, revision: str | None) -> Path:
    """The file that `path_or_id` names or holds. A vocabulary comes with what may say that it is cased."""
    folder, slash, name = path_or_id.rpartition("/")
    if "://" in folder and slash and name.endswith(".txt"):
        return local_copy(folder, files=(name, CASE_FILE)) / name
    path = local_copy(path_or_id, revision=revision, files=(*FILES, CASE_FILE))
    if path.is_dir():
        return path / next((one for one in FILES if (path / one).is_file()), FILES[0])
    return path


def _from_vocabulary(path: Path) -> Tokenizer:
    """BERT's tokenizer from `vocab.txt`, one word a line; lower-cased unless tokenizer_config.json denies it."""
    from tokenizers import BertWordPieceTokenizer

    settings: dict = {}
    try:
        words = path.read_text(encoding="utf-8").split("\n")
        beside = path.parent / CASE_FILE
        if beside.is_file():
            settings = json.loads(beside.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ValueError(f"tokenizer {path}: {error}") from None
    if words[-1] == "":
        words.pop()
    vocabulary = {word.rstrip("\r"): place for place, word in enumerate(words)}
    lower = bool(settings.get("do_lower_case", True)) if isinstance(settings, dict) else True
    missing = [one for one in SPECIAL if one not in vocabulary]
    if missing:
        raise ValueError(f"tokenizer {path} has no {', '.join(missing)}; use a BERT-style vocabulary")
    return BertWordPieceTokenizer(vocab=vocabulary, lowercase=lower)._tokenizer
