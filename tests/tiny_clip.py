"""A tiny CLIP and a tiny image classifier of transformers' own classes, with random weights."""

from __future__ import annotations

import json
from pathlib import Path

import torch


def save_clip(folder: Path) -> str:
    """Save a CLIP with a byte-pair vocabulary of letters and images of 32 px; returns its folder."""
    from transformers import CLIPConfig, CLIPImageProcessor, CLIPModel, CLIPTokenizer

    torch.manual_seed(0)
    letters = [chr(code) for code in range(ord("a"), ord("z") + 1)]
    tokens = [*letters, *(letter + "</w>" for letter in letters), "<|startoftext|>", "<|endoftext|>"]
    (folder / "vocab.json").write_text(json.dumps({token: index for index, token in enumerate(tokens)}))
    (folder / "merges.txt").write_text("#version: 0.2\n")
    size = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2}
    end = len(tokens) - 1
    text = {"vocab_size": len(tokens), "max_position_embeddings": 24, "projection_dim": 12}
    text |= {"bos_token_id": end - 1, "eos_token_id": end, "pad_token_id": end}
    config = CLIPConfig(
        text_config={**size, **text},
        vision_config={**size, "image_size": 32, "patch_size": 8, "projection_dim": 12},
        projection_dim=12,
    )
    CLIPModel(config).save_pretrained(folder / "model")
    vocabulary = CLIPTokenizer(str(folder / "vocab.json"), str(folder / "merges.txt"), model_max_length=24)
    vocabulary.save_pretrained(folder / "model")
    square = {"height": 32, "width": 32}
    CLIPImageProcessor(size={"shortest_edge": 32}, crop_size=square, image_std=[0.2, 0.3, 0.4]).save_pretrained(
        folder / "model"
    )
    return str(folder / "model")


def save_classifier(folder: Path, labels: tuple[str, ...] = ("normal", "nsfw")) -> str:
    """Save a ViT of 32 px that says the last class of bright images and the first of dark ones; returns its folder."""
    from transformers import ViTConfig, ViTForImageClassification, ViTImageProcessor

    torch.manual_seed(0)
    config = ViTConfig(
        **{"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 32},
        **{"image_size": 32, "patch_size": 8, "id2label": dict(enumerate(labels))},
        label2id={name: index for index, name in enumerate(labels)},
    )
    model = ViTForImageClassification(config).eval()
    levels = torch.linspace(-1, 1, 9)[:, None, None, None].expand(9, 3, 32, 32)
    with torch.no_grad():  # the last layer is fitted to brightness
        features = model.vit(levels).last_hidden_state[:, 0]
        target = torch.zeros(9, len(labels))
        target[:, 0], target[:, -1] = -5 * levels[:, 0, 0, 0], 5 * levels[:, 0, 0, 0]
        solution = torch.linalg.lstsq(torch.cat([features, torch.ones(9, 1)], 1), target).solution
        model.classifier.weight.copy_(solution[:-1].T)
        model.classifier.bias.copy_(solution[-1])
    model.save_pretrained(folder)
    ViTImageProcessor(size={"height": 32, "width": 32}).save_pretrained(folder)
    return str(folder)
