"""A tiny SigLIP of transformers' own classes, with random weights, saved as a downloaded one is."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

MAX_TOKENS = 9  # of a text, which is always padded to it


def save_siglip(folder: Path, *, words: Iterable[str]) -> None:
    """Save a SigLIP of 32 px with two layers on each side.

    Args:
        folder: exists; it gets model, image processor and tokenizer.
        words: that the tokenizer knows.
    """
    import torch
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast, SiglipConfig, SiglipImageProcessor, SiglipModel

    torch.manual_seed(0)
    ids = {word: index for index, word in enumerate(["<pad>", "<unk>", *sorted(set(words))])}
    made = Tokenizer(models.WordLevel(ids, unk_token="<unk>"))
    made.pre_tokenizer = pre_tokenizers.Whitespace()
    PreTrainedTokenizerFast(tokenizer_object=made, pad_token="<pad>", unk_token="<unk>").save_pretrained(folder)
    size = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2}
    text = {**size, "vocab_size": len(ids), "max_position_embeddings": MAX_TOKENS, "projection_size": 16}
    config = SiglipConfig(text_config=text, vision_config={**size, "image_size": 32, "patch_size": 8})
    SiglipModel(config).save_pretrained(folder)
    SiglipImageProcessor(size={"height": 32, "width": 32}).save_pretrained(folder)
