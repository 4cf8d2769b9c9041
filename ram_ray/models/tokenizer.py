"""Text to token ids: BERT's WordPiece with [DEC] (first token of a caption) and [ENC] (first token of a list of tags).

The vocabulary is BERT's (`bert-base-uncased`), or a small vocabulary trained on the run's captions. Both are the same
class of the `tokenizers` library, saved as `tokenizer.json` in the bundle.

Letters: B texts, T tokens.
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
FILES = ("tokenizer.json", "vocab.txt")  # the first file that exists is read
CASE_FILE = "tokenizer_config.json"  # says whether a vocabulary is cased
DEC, ENC, SEP, PAD = "[DEC]", "[ENC]", "[SEP]", "[PAD]"


class TextTokenizer:
    """Encodes captions and tag lists as id arrays of fixed length.

    Args:
        tokenizer: a BERT-style tokenizer; changed in place.

    Raises:
        ValueError: if the vocabulary has no [SEP], or [PAD] is not 0.
    """

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._tokenizer = tokenizer
        tokenizer.no_padding()
        tokenizer.no_truncation()
        tokenizer.add_special_tokens([DEC, ENC])
        ids = [tokenizer.token_to_id(token) for token in (DEC, ENC, SEP, PAD)]
        self.dec, self.enc, self.sep, self.pad = (-1 if id is None else id for id in ids)
        if None in ids:
            raise ValueError("the tokenizer has no [SEP] or [PAD]; use a BERT-style WordPiece vocabulary")
        if self.pad != 0:  # the models use 0 as padding
            raise ValueError(f"the tokenizer's [PAD] has id {self.pad}; use a vocabulary where it is 0, as in BERT's")

    @classmethod
    def train(cls, texts: Iterable[str], *, vocab_size: int) -> TextTokenizer:
        """Train a WordPiece vocabulary (lower case, without accents); the same texts give the same ids.

        Args:
            texts: training texts.
            vocab_size: maximum number of tokens.

        Returns:
            The tokenizer.
        """
        from tokenizers import BertWordPieceTokenizer

        texts = list(texts)
        tokenizer = BertWordPieceTokenizer(lowercase=True)
        # The library numbers the letters inside words in the order of a hash table, and breaks ties by number.
        # Passed as special tokens they have a fixed order. In the second tokenizer they are ordinary tokens again.
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
        """Load `tokenizer.json` or BERT's `vocab.txt`.

        Args:
            path_or_id: folder or file, URI, or Hugging Face id.
            revision: commit of an id.

        Returns:
            The tokenizer.

        Raises:
            ValueError: if no such file can be read, or the vocabulary is not BERT-style.
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
        except Exception as error:  # the library raises no other type for an unreadable file
            raise ValueError(
                f"tokenizer {path_or_id!r}: no tokenizer.json or vocab.txt there that can be read: {error}"
            ) from None
        return cls(tokenizer)

    def save(self, folder: str | Path) -> None:
        """Write `tokenizer.json`.

        Args:
            folder: local folder.
        """
        self._tokenizer.save(str(Path(folder) / "tokenizer.json"))

    def __len__(self) -> int:
        return self._tokenizer.get_vocab_size()

    def encode(self, texts: list[str], *, first: int, max_tokens: int) -> np.ndarray:
        """Encode texts: `first`, the tokens of the text, [SEP], then padding. Longer texts are truncated.

        Args:
            texts: B texts.
            first: id of the first token.
            max_tokens: T, including the first token and [SEP].

        Returns:
            (B, T) int64.
        """
        ids = np.full((len(texts), max_tokens), self.pad, dtype=np.int64)
        for row, encoding in enumerate(self._tokenizer.encode_batch(texts, add_special_tokens=False)):
            tokens = [first, *encoding.ids[: max_tokens - 2], self.sep]
            ids[row, : len(tokens)] = tokens
        return ids

    def encode_captions(self, captions: list[str], *, prompt: str, max_tokens: int) -> np.ndarray:
        """Encode captions after the prompt, for the caption decoder.

        Args:
            captions: B captions.
            prompt: text before each caption.
            max_tokens: T, including the prompt.

        Returns:
            (B, T) int64.
        """
        return self.encode([prompt + caption for caption in captions], first=self.dec, max_tokens=max_tokens)

    def encode_tags(self, tags: list[list[str]], *, max_tokens: int) -> np.ndarray:
        """Encode tag lists as "a | b | c", for the tag encoder.

        Args:
            tags: B lists of tag names.
            max_tokens: T.

        Returns:
            (B, T) int64.
        """
        return self.encode([" | ".join(names) for names in tags], first=self.enc, max_tokens=max_tokens)

    def prompt_length(self, prompt: str) -> int:
        """Count the tokens of [DEC] and the prompt: the index of a caption's first token.

        Args:
            prompt: text before each caption.

        Returns:
            The number of tokens.
        """
        return 1 + len(self._tokenizer.encode(prompt, add_special_tokens=False).ids)

    def decode(self, ids: list[int]) -> str:
        """Decode ids to text, without special tokens.

        Args:
            ids: token ids.

        Returns:
            The text.
        """
        return self._tokenizer.decode(ids, skip_special_tokens=True)

    def decode_caption(self, ids: list[int], *, prompt: str) -> str:
        """Decode a caption.

        As in the reference, prompt and caption are decoded together, and as many characters as the prompt has are
        removed. So a first token that continues the last word of the prompt is removed too.

        Args:
            ids: token ids after the prompt, without padding.
            prompt: text before the caption.

        Returns:
            The caption.
        """
        prompt_ids = [self.dec, *self._tokenizer.encode(prompt, add_special_tokens=False).ids]
        if self.decode(prompt_ids) + " " != prompt:  # the vocabulary cannot spell the prompt
            return self.decode(ids)
        return self.decode(prompt_ids + ids)[len(prompt) :]


def _local_file(path_or_id: str, revision: str | None) -> Path:
    """Find the tokenizer file of `path_or_id`, and download it with `CASE_FILE` if remote."""
    folder, slash, name = path_or_id.rpartition("/")
    if "://" in folder and slash and name.endswith(".txt"):
        return local_copy(folder, files=(name, CASE_FILE)) / name
    path = local_copy(path_or_id, revision=revision, files=(*FILES, CASE_FILE))
    if path.is_dir():
        return path / next((file for file in FILES if (path / file).is_file()), FILES[0])
    return path


def _from_vocabulary(path: Path) -> Tokenizer:
    """Make BERT's tokenizer of `vocab.txt` (a token in each line); `CASE_FILE` may say that it is cased."""
    from tokenizers import BertWordPieceTokenizer

    settings: dict = {}
    try:
        tokens = path.read_text(encoding="utf-8").split("\n")
        case_file = path.parent / CASE_FILE
        if case_file.is_file():
            settings = json.loads(case_file.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ValueError(f"tokenizer {path}: {error}") from None
    if tokens[-1] == "":
        tokens.pop()
    vocabulary = {token.rstrip("\r"): id for id, token in enumerate(tokens)}
    lower = bool(settings.get("do_lower_case", True)) if isinstance(settings, dict) else True
    missing = [token for token in SPECIAL if token not in vocabulary]
    if missing:
        raise ValueError(f"tokenizer {path} has no {', '.join(missing)}; use a BERT-style vocabulary")
    return BertWordPieceTokenizer(vocab=vocabulary, lowercase=lower)._tokenizer
