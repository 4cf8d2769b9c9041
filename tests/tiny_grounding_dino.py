"""A tiny Grounding-DINO of transformers' own classes, with random weights, saved as a downloaded one is.

Nothing of transformers is imported before it is needed: `tests/gpu/check_gpu.py` runs without the tests' dependencies.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

VOCABULARY_SIZE = 1040
FIRST_WORD = 200  # id of the first word
# Grounding-DINO's code asks for BERT's own ids of these.
SPECIAL = {0: "[PAD]", 100: "[UNK]", 101: "[CLS]", 102: "[SEP]", 103: "[MASK]", 1012: ".", 1029: "?"}


def bert_vocabulary(words: Iterable[str]) -> list[str]:
    """The words by id: BERT's special tokens at their ids, the words from `FIRST_WORD` on, and unused ones."""
    entries = [f"[unused{number}]" for number in range(VOCABULARY_SIZE)]
    for index, word in enumerate(dict.fromkeys(words)):
        entries[FIRST_WORD + index] = word
    for index, token in SPECIAL.items():
        entries[index] = token
    return entries


def save_grounding_dino(folder: Path, *, words: Iterable[str], side: int = 128, max_tokens: int = 12) -> None:
    """Save a Grounding-DINO of one encoder and two decoder layers on a Swin of width 8; torch's seed gives its weights.

    Args:
        folder: exists; it gets model, processor and tokenizer.
        words: that the tokenizer knows.
        side: longer and shorter side, in pixels, that images are resized to.
        max_tokens: most tokens of a prompt.
    """
    from transformers import (
        BertConfig,
        BertTokenizerFast,
        GroundingDinoConfig,
        GroundingDinoForObjectDetection,
        GroundingDinoImageProcessor,
        GroundingDinoProcessor,
        SwinConfig,
    )

    swin = SwinConfig(
        image_size=64, embed_dim=8, depths=[1, 1, 1, 1], num_heads=[1, 1, 2, 2], window_size=4, out_indices=[2, 3, 4]
    )
    bert = BertConfig(
        vocab_size=VOCABULARY_SIZE,
        hidden_size=16,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=16,
        max_position_embeddings=max_tokens,
    )
    config = GroundingDinoConfig(
        backbone_config=swin,
        text_config=bert,
        d_model=32,
        encoder_layers=1,
        decoder_layers=2,
        encoder_attention_heads=2,
        decoder_attention_heads=2,
        encoder_ffn_dim=16,
        decoder_ffn_dim=16,
        num_queries=9,
        max_text_len=max_tokens,
        disable_custom_kernels=True,
    )
    GroundingDinoForObjectDetection(config).save_pretrained(folder)
    vocabulary = folder / "vocab.txt"
    vocabulary.write_text("\n".join(bert_vocabulary(words)) + "\n")
    processor = GroundingDinoImageProcessor(size={"shortest_edge": side, "longest_edge": side})
    GroundingDinoProcessor(processor, BertTokenizerFast(vocab=str(vocabulary))).save_pretrained(folder)
