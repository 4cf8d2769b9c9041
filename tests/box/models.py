"""Tiny models with random weights, of the classes of transformers and timm that the preset names, saved as they are.

A BERT vocabulary with the scenes' words where the special tokens have BERT's ids; a CLIP; a Grounding-DINO, whose code
asks for those very ids.
"""

from __future__ import annotations

import json
from pathlib import Path

from ram_ray.drawn_scenes import ACTIONS, BACKGROUNDS, COLOURS, OBJECTS

SPECIAL = {0: "[PAD]", 100: "[UNK]", 101: "[CLS]", 102: "[SEP]", 103: "[MASK]", 1012: ".", 1029: "?"}
WORDS = (
    "a",
    "an",
    "the",
    "picture",
    "of",
    "photo",
    "in",
    "on",
    "with",
    "and",
    "near",
    "next",
    "to",
    "beside",
    "is",
    "are",
    "there",
)
WORDS += ("something", "while", "at", "under")
VOCABULARY = 1040
WIDTH = 16  # of CLIP's common space


def write_models(folder: Path) -> None:
    """Write `folder/bert/vocab.txt`, `folder/clip/`, `folder/dino/` and `folder/encoder/`."""
    import torch

    torch.manual_seed(0)
    (folder / "bert").mkdir(parents=True)
    (folder / "bert" / "vocab.txt").write_text("\n".join(vocabulary()) + "\n")
    write_clip(folder / "clip")
    write_dino(folder / "dino", vocab=folder / "bert" / "vocab.txt")
    write_encoder(folder / "encoder")


def vocabulary() -> list[str]:
    """Words by id: BERT's special ids, the scenes' words and letters, and unused ones."""
    names = [*OBJECTS, *COLOURS, *ACTIONS, *BACKGROUNDS]
    letters = [chr(code) for code in range(ord("a"), ord("z") + 1)]
    words = [
        *WORDS,
        *(word for name in names for word in name.split()),
        *letters,
        *(f"##{letter}" for letter in letters),
    ]
    entries = [f"[unused{number}]" for number in range(VOCABULARY)]
    for index, word in enumerate(dict.fromkeys(words)):
        entries[200 + index] = word
    for index, word in SPECIAL.items():
        entries[index] = word
    return entries


def write_clip(folder: Path) -> None:
    """A CLIP of one layer of width 16 on each side, 32 px, with a byte-pair vocabulary of single letters."""
    from transformers import CLIPConfig, CLIPImageProcessor, CLIPModel, CLIPTokenizer

    folder.mkdir(parents=True)
    letters = [chr(code) for code in range(ord("a"), ord("z") + 1)]
    words = [*letters, *(letter + "</w>" for letter in letters), ".</w>", "<|startoftext|>", "<|endoftext|>"]
    files = folder.parent / "bpe"
    files.mkdir()
    (files / "vocab.json").write_text(json.dumps({word: index for index, word in enumerate(words)}))
    (files / "merges.txt").write_text("#version: 0.2\n")
    size = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}
    end = len(words) - 1
    text = {"vocab_size": len(words), "max_position_embeddings": 48, "projection_dim": WIDTH}
    text |= {"bos_token_id": end - 1, "eos_token_id": end, "pad_token_id": end}
    vision = {**size, "image_size": 32, "patch_size": 8, "projection_dim": WIDTH}
    CLIPModel(CLIPConfig(text_config={**size, **text}, vision_config=vision, projection_dim=WIDTH)).save_pretrained(
        folder
    )
    tokenizer = CLIPTokenizer(str(files / "vocab.json"), str(files / "merges.txt"), model_max_length=48)
    tokenizer.save_pretrained(folder)
    CLIPImageProcessor(size={"shortest_edge": 32}, crop_size={"height": 32, "width": 32}).save_pretrained(folder)


def write_dino(folder: Path, *, vocab: Path) -> None:
    """A Grounding-DINO of one encoder and two decoder layers on a Swin of width 8."""
    from transformers import (
        BertConfig,
        BertTokenizerFast,
        GroundingDinoConfig,
        GroundingDinoForObjectDetection,
        GroundingDinoImageProcessor,
        GroundingDinoProcessor,
        SwinConfig,
    )

    config = GroundingDinoConfig(
        backbone_config=SwinConfig(
            image_size=64,
            embed_dim=8,
            depths=[1, 1, 1, 1],
            num_heads=[1, 1, 2, 2],
            window_size=4,
            out_indices=[2, 3, 4],
        ),
        text_config=BertConfig(
            vocab_size=VOCABULARY,
            hidden_size=16,
            num_hidden_layers=1,
            num_attention_heads=2,
            intermediate_size=16,
            max_position_embeddings=64,
        ),
        d_model=32,
        encoder_layers=1,
        decoder_layers=2,
        encoder_attention_heads=2,
        decoder_attention_heads=2,
        encoder_ffn_dim=16,
        decoder_ffn_dim=16,
        num_queries=9,
        max_text_len=64,
        disable_custom_kernels=True,
    )
    GroundingDinoForObjectDetection(config).save_pretrained(folder)
    processor = GroundingDinoImageProcessor(size={"shortest_edge": 64, "longest_edge": 64})
    GroundingDinoProcessor(processor, BertTokenizerFast(vocab=str(vocab))).save_pretrained(folder)


def write_encoder(folder: Path) -> None:
    """timm's `test_vit` with its classifier, as on the hub."""
    import timm
    from safetensors.torch import save_file

    folder.mkdir(parents=True)
    model = timm.create_model("test_vit")
    save_file(model.state_dict(), folder / "model.safetensors")
    pretrained = {name: model.pretrained_cfg[name] for name in ("mean", "std", "input_size")}
    (folder / "config.json").write_text(json.dumps({"architecture": "test_vit", "pretrained_cfg": pretrained}))
