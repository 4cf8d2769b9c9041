"""A tiny CLIP of transformers' own classes, with random weights, saved as a downloaded one is."""

from __future__ import annotations

import json
from pathlib import Path


def save_clip(folder: Path) -> None:
    """A CLIP of 64 px with a vocabulary of letters."""
    import torch
    from transformers import CLIPConfig, CLIPImageProcessor, CLIPModel, CLIPTokenizer

    letters = [chr(code) for code in range(ord("a"), ord("z") + 1)]
    words = [*letters, *(f"{letter}</w>" for letter in letters), "<|startoftext|>", "<|endoftext|>"]
    size = {"hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2, "num_attention_heads": 4}
    end = len(words) - 1
    text = {"vocab_size": len(words), "bos_token_id": end - 1, "eos_token_id": end, "pad_token_id": end}
    torch.manual_seed(0)
    config = CLIPConfig(
        text_config={**size, **text, "projection_dim": 32},
        vision_config={**size, "image_size": 64, "patch_size": 8, "projection_dim": 32},
        projection_dim=32,
    )
    (folder / "vocab.json").write_text(json.dumps({word: number for number, word in enumerate(words)}))
    (folder / "merges.txt").write_text("#version: 0.2\n")
    vocabulary = CLIPTokenizer(str(folder / "vocab.json"), str(folder / "merges.txt"), model_max_length=24)
    square = CLIPImageProcessor(size={"shortest_edge": 64}, crop_size={"height": 64, "width": 64})
    for part in (CLIPModel(config), vocabulary, square):
        part.save_pretrained(folder)
