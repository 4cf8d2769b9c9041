"""Models of transformers' own classes, tiny and with random weights, saved as they would be downloaded."""

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


def save_dino(folder: Path) -> None:
    """A Grounding-DINO of 128 px that knows two words; BERT's special ids stand where the real one has them."""
    import torch
    from transformers import (
        BertConfig,
        BertTokenizerFast,
        GroundingDinoConfig,
        GroundingDinoForObjectDetection,
        GroundingDinoImageProcessor,
        GroundingDinoProcessor,
        SwinConfig,
    )

    vocabulary = [f"[unused{number}]" for number in range(1040)]
    special = {0: "[PAD]", 100: "[UNK]", 101: "[CLS]", 102: "[SEP]", 103: "[MASK]", 1012: ".", 1029: "?"}
    for number, token in {**special, 200: "dog", 201: "beach"}.items():
        vocabulary[number] = token
    torch.manual_seed(0)
    backbone = SwinConfig(
        image_size=64, embed_dim=8, depths=[1, 1, 1, 1], num_heads=[1, 1, 2, 2], window_size=4, out_indices=[2, 3, 4]
    )
    small = {"num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16}
    text = BertConfig(vocab_size=1040, hidden_size=16, max_position_embeddings=12, **small)
    layers = {"encoder_layers": 1, "decoder_layers": 2, "encoder_ffn_dim": 16, "decoder_ffn_dim": 16}
    heads = {"encoder_attention_heads": 2, "decoder_attention_heads": 2}
    config = GroundingDinoConfig(
        backbone_config=backbone,
        text_config=text,
        d_model=32,
        num_queries=9,
        max_text_len=12,
        disable_custom_kernels=True,
        **layers,
        **heads,
    )
    (folder / "vocab.txt").write_text("\n".join(vocabulary))
    square = GroundingDinoImageProcessor(size={"shortest_edge": 128, "longest_edge": 128})
    GroundingDinoForObjectDetection(config).save_pretrained(folder)
    tokens = BertTokenizerFast(vocab=str(folder / "vocab.txt"))
    GroundingDinoProcessor(square, tokens).save_pretrained(folder)
