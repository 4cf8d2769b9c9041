"""The files in which sentence-transformers describes a text encoder, read without that package."""

from __future__ import annotations

import json
from pathlib import Path

MODULES_FILE = "modules.json"  # list of a model's parts
_MAX_TOKENS = 512


def read_sentence_files(folder: Path) -> tuple[Path, str, int]:
    """Read sentence-transformers' files; a folder without them has mean pooling, as there.

    Args:
        folder: of the model.

    Returns:
        Folder of the transformer, pooling ("mean" or "cls"), and the most tokens of a text.

    Raises:
        ValueError: if the model has parts that are not supported.
    """
    root, pooling, limit = folder, "mean", _MAX_TOKENS
    if (folder / MODULES_FILE).is_file():
        for module in json.loads((folder / MODULES_FILE).read_text()):
            path, part = folder / module["path"], str(module["type"]).rpartition(".")[2]
            if part == "Transformer":
                root = path
            elif part == "Pooling":
                pooling = _read_pooling(path / "config.json")
            elif part != "Normalize":
                raise ValueError(f"the text encoder has a part {part!r}; a transformer with pooling is supported")
    settings = root / "sentence_bert_config.json"
    if settings.is_file():
        limit = json.loads(settings.read_text()).get("max_seq_length") or limit
    return root, pooling, int(limit)


def _read_pooling(file: Path) -> str:
    tree = json.loads(file.read_text())
    prefix = "pooling_mode_"
    modes = [name.removeprefix(prefix) for name, used in tree.items() if name.startswith(prefix) and used is True]
    modes = modes or [str(tree.get("pooling_mode", ""))]
    known = {"mean_tokens": "mean", "cls_token": "cls", "mean": "mean", "cls": "cls"}
    if len(modes) != 1 or modes[0] not in known:
        raise ValueError(f"the text encoder pools by {', '.join(modes)}; mean and first token are supported")
    return known[modes[0]]
