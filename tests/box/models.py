"""Tiny models with random weights, of the classes of transformers and timm that the preset names, saved as they are.

A BERT vocabulary with the scenes' words; a CLIP; a Grounding-DINO (`tests/tiny_grounding_dino.py`).
"""

from __future__ import annotations

import json
from pathlib import Path

from ram_ray.drawn_scenes import ACTIONS, BACKGROUNDS, COLOURS, OBJECTS
from tests.tiny_grounding_dino import bert_vocabulary, save_grounding_dino

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
WIDTH = 16  # of CLIP's common space


def write_models(folder: Path) -> None:
    """Write `folder/bert/vocab.txt`, `folder/clip/`, `folder/dino/` and `folder/encoder/`."""
    import torch

    torch.manual_seed(0)
    (folder / "bert").mkdir(parents=True)
    (folder / "bert" / "vocab.txt").write_text("\n".join(bert_vocabulary(words())) + "\n")
    write_clip(folder / "clip")
    (folder / "dino").mkdir()
    save_grounding_dino(folder / "dino", words=words(), side=64, max_tokens=64)
    write_encoder(folder / "encoder")


def words() -> list[str]:
    """The words of the scenes and their captions, and letters, which make up all others."""
    names = [*OBJECTS, *COLOURS, *ACTIONS, *BACKGROUNDS]
    letters = [chr(code) for code in range(ord("a"), ord("z") + 1)]
    return [
        *WORDS,
        *(word for name in names for word in name.split()),
        *letters,
        *(f"##{letter}" for letter in letters),
    ]


def write_clip(folder: Path) -> None:
    """A CLIP of one layer of width 16 on each side, 32 px, with a byte-pair vocabulary of single letters."""
    from transformers import CLIPConfig, CLIPImageProcessor, CLIPModel, CLIPTokenizer

    folder.mkdir(parents=True)
    letters = [chr(code) for code in range(ord("a"), ord("z") + 1)]
    pieces = [*letters, *(letter + "</w>" for letter in letters), ".</w>", "<|startoftext|>", "<|endoftext|>"]
    files = folder.parent / "bpe"
    files.mkdir()
    (files / "vocab.json").write_text(json.dumps({word: index for index, word in enumerate(pieces)}))
    (files / "merges.txt").write_text("#version: 0.2\n")
    size = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}
    end = len(pieces) - 1
    text = {"vocab_size": len(pieces), "max_position_embeddings": 48, "projection_dim": WIDTH}
    text |= {"bos_token_id": end - 1, "eos_token_id": end, "pad_token_id": end}
    vision = {**size, "image_size": 32, "patch_size": 8, "projection_dim": WIDTH}
    CLIPModel(CLIPConfig(text_config={**size, **text}, vision_config=vision, projection_dim=WIDTH)).save_pretrained(
        folder
    )
    tokenizer = CLIPTokenizer(str(files / "vocab.json"), str(files / "merges.txt"), model_max_length=48)
    tokenizer.save_pretrained(folder)
    CLIPImageProcessor(size={"shortest_edge": 32}, crop_size={"height": 32, "width": 32}).save_pretrained(folder)


def write_encoder(folder: Path) -> None:
    """timm's `test_vit` with its classifier, as on the hub."""
    import timm
    from safetensors.torch import save_file

    folder.mkdir(parents=True)
    model = timm.create_model("test_vit")
    save_file(model.state_dict(), folder / "model.safetensors")
    pretrained = {name: model.pretrained_cfg[name] for name in ("mean", "std", "input_size")}
    (folder / "config.json").write_text(json.dumps({"architecture": "test_vit", "pretrained_cfg": pretrained}))
