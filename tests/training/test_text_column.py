"""Contract: captions travel as numbers and come back as they were, at most `MAX_BYTES` of them."""

from __future__ import annotations

import torch

from ram_ray.training.text_column import MAX_BYTES, read_texts, write_texts


def test_texts_come_back() -> None:
    texts = ["a red dog", "", "ein Bär \N{SNOWMAN}", "nul\0here"]
    assert read_texts(torch.from_numpy(write_texts(texts))) == [*texts[:3], "nul here"]


def test_a_long_text_is_cut_at_a_whole_letter() -> None:
    (text,) = read_texts(torch.from_numpy(write_texts(["a" + "ü" * 1000])))
    assert set(text[1:]) == {"ü"} and MAX_BYTES - 2 < len(text.encode()) <= MAX_BYTES
