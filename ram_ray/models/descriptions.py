"""Texts that describe a label, and their embeddings: one embedding of a label for RAM, several for RAM++.

RAM++ (arXiv 2310.15200) has 51 descriptions of each label, written by a language model. A file has them; a label that
it does not have is described by the model's templates. They are repeated to the number that the model has: equal
descriptions of a label share their weight.

Letters: M labels, K descriptions of a label, E width of text embeddings.
"""

from __future__ import annotations

import json
from collections.abc import Mapping

import fsspec
import torch
from torch import Tensor

from ram_ray.models.teacher import Teacher
from ram_ray.settings.models import ModelConfig
from ram_ray.settings.prompts import fill

MAX_FILE_BYTES = 512_000_000
Descriptions = Mapping[str, list[str]]  # texts by name of a label, in lower case


def read_descriptions(uri: str, *, setting: str = "labels.descriptions") -> Descriptions:
    """Read a file of descriptions.

    Args:
        uri: JSON at any fsspec URI: texts by name, or a list of such mappings as RAM++'s authors write them.
        setting: that names the file, for errors.

    Returns:
        Texts by name.

    Raises:
        ValueError: if it cannot be read, or is something else.
    """
    try:
        with fsspec.open(uri, "rb") as file:
            data = file.read(MAX_FILE_BYTES + 1)
        if len(data) > MAX_FILE_BYTES:
            raise ValueError(f"more than {MAX_FILE_BYTES:,} bytes")
        tree = json.loads(data)
        parts = tree if isinstance(tree, list) else [tree]
        texts = {str(name).strip().lower(): list(values) for part in parts for name, values in part.items()}
    except (OSError, ValueError, AttributeError, TypeError, ImportError) as error:
        reason = " ".join(str(error).split())[:200]
        raise ValueError(f"{setting}: {uri} is no JSON of texts by name: {reason}") from None
    for name, values in texts.items():
        if not values or not all(isinstance(text, str) and text.strip() for text in values):
            raise ValueError(f"{setting}: {uri}: the descriptions of {name!r} are not a list of texts")
    return texts


def embed_labels(
    config: ModelConfig, names: list[str], teacher: Teacher, *, descriptions: Descriptions | None = None
) -> Tensor:
    """Embed labels as a model needs them.

    Args:
        config: of RAM or RAM++.
        names: names of M labels.
        teacher: the text encoder.
        descriptions: texts by name, for RAM++; None: the templates.

    Returns:
        (M, E) on the CPU; RAM++: (M, K, E).
    """
    if config.architecture != "ram_plus":
        return teacher.label_embeddings(names, list(config.templates)).cpu()
    known = descriptions or {}
    texts = [text for name in names for text in describe(name, config=config, texts=known.get(name.lower()))]
    unique = list(dict.fromkeys(texts))
    vectors = teacher.label_embeddings(unique, ["{}"]).cpu()
    rows = {text: row for row, text in enumerate(unique)}
    return vectors[torch.tensor([rows[text] for text in texts])].unflatten(0, (len(names), config.descriptions))


def describe(name: str, *, config: ModelConfig, texts: list[str] | None) -> list[str]:
    """Describe a label.

    Args:
        name: of the label.
        config: of RAM++.
        texts: its descriptions; None: the templates.

    Returns:
        K texts.
    """
    texts = texts or [fill(template, name) for template in config.templates]
    return [texts[index % len(texts)] for index in range(config.descriptions)]
