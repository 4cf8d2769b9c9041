"""Text to token ids: BERT's WordPiece plus [DEC] (starts a caption) and [ENC] (starts a list of tags).

At scale the vocabulary is BERT's own (`bert-base-uncased`); offline a small one is trained on the run's
captions. Both are the same class of the `tokenizers` library, saved as `tokenizer.json` in the bundle.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from tokenizers import Tokenizer

SPECIAL = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")
DEC, ENC, SEP, PAD = "[DEC]", "[ENC]", "[SEP]", "[PAD]"


class TextTokenizer:
    """Fixed-length id arrays for captions and tag lists."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._tokenizer = tokenizer
        tokenizer.no_padding()
        tokenizer.no_truncation()
        tokenizer.add_special_tokens([DEC, ENC])
        self.dec, self.enc, self.sep, self.pad = (tokenizer.token_to_id(one) for one in (DEC, ENC, SEP, PAD))
        if None in (self.sep, self.pad):
            raise ValueError("the tokenizer has no [SEP] or [PAD]; use a BERT-style WordPiece vocabulary")

    @classmethod
    def train(cls, texts: Iterable[str], *, vocab_size: int) -> TextTokenizer:
        """Train WordPiece on `texts` (lower-cased, accents stripped)."""
        from tokenizers import BertWordPieceTokenizer

        tokenizer = BertWordPieceTokenizer(lowercase=True)
        tokenizer.train_from_iterator(
            texts, vocab_size=vocab_size - 2, min_frequency=2, special_tokens=list(SPECIAL), show_progress=False
        )
        return cls(tokenizer._tokenizer)

    @classmethod
    def load(cls, path_or_id: str, *, revision: str | None = None) -> TextTokenizer:
        """Load `tokenizer.json` (a file, a folder that holds it), or a Hugging Face id at a revision."""
        from tokenizers import Tokenizer

        path = Path(path_or_id)
        if path.is_dir():
            path = path / "tokenizer.json"
        if path.is_file():
            return cls(Tokenizer.from_file(str(path)))
        try:
            return cls(Tokenizer.from_pretrained(path_or_id, revision=revision or "main"))
        except Exception as error:  # the library raises bare Exception for a missing file and a failed download
            raise ValueError(f"tokenizer {path_or_id!r}: no tokenizer.json there, and not to be had: {error}") from None

    def save(self, folder: str | Path) -> None:
        """Write `tokenizer.json` into `folder`."""
        self._tokenizer.save(str(Path(folder) / "tokenizer.json"))

    def __len__(self) -> int:
        return self._tokenizer.get_vocab_size()

    def encode(self, texts: list[str], *, first: int, max_tokens: int) -> np.ndarray:
        """Ids (B, max_tokens) int64: `first`, the words, [SEP], then padding. Longer texts are cut."""
        ids = np.full((len(texts), max_tokens), self.pad, dtype=np.int64)
        for row, encoding in enumerate(self._tokenizer.encode_batch(texts, add_special_tokens=False)):
            words = [first, *encoding.ids[: max_tokens - 2], self.sep]
            ids[row, : len(words)] = words
        return ids

    def encode_captions(self, captions: list[str], *, prompt: str, max_tokens: int) -> np.ndarray:
        """Captions behind the prompt, as the caption decoder reads them: (B, max_tokens)."""
        return self.encode([prompt + one for one in captions], first=self.dec, max_tokens=max_tokens)

    def encode_tags(self, tags: list[list[str]], *, max_tokens: int) -> np.ndarray:
        """Tag lists as "a | b | c", as the tag encoder reads them: (B, max_tokens)."""
        return self.encode([" | ".join(one) for one in tags], first=self.enc, max_tokens=max_tokens)

    def prompt_length(self, prompt: str) -> int:
        """Tokens of [DEC] and the prompt: where a caption's own words begin."""
        return 1 + len(self._tokenizer.encode(prompt, add_special_tokens=False).ids)

    def decode(self, ids: list[int]) -> str:
        """Words of `ids`, special tokens left out."""
        return self._tokenizer.decode(ids, skip_special_tokens=True)
