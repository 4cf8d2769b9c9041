"""The config.json of a model bundle, read without its weights and without torch."""

from __future__ import annotations

import json
from pathlib import Path

from pydantic import ValidationError

from ram_ray.runtime.storage import local_copy
from ram_ray.settings.models import ModelConfig

KIND = "ram_ray.bundle"
# All that a bundle's outputs depend on; a bundle has at least the first.
BUNDLE_FILES = ("config.json", "model.safetensors", "label_system.json", "tokenizer.json", "text_encoder/*")


def read_config(path_or_id: str, *, revision: str | None = None) -> ModelConfig:
    """Read the config of a bundle; only config.json is downloaded.

    Args:
        path_or_id: local folder, fsspec URI or Hugging Face id of the bundle.
        revision: commit of an id.

    Returns:
        The model's config.

    Raises:
        ValueError: if it is not a bundle.
    """
    try:
        folder = local_copy(path_or_id, revision=revision, files=("config.json",))
    except (OSError, ValueError) as error:
        raise ValueError(f"{path_or_id} is not a model bundle: {error}") from None
    return parse_config(folder, source=path_or_id)


def parse_config(folder: Path, *, source: str) -> ModelConfig:
    """Read the config of a bundle in a local folder.

    Args:
        folder: local folder of the bundle.
        source: path or id of the bundle, named in errors.

    Returns:
        The model's config.

    Raises:
        ValueError: if it is not a bundle.
    """
    try:
        tree = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ValueError(f"{source} is not a model bundle: {error}") from None
    if not isinstance(tree, dict) or tree.pop("kind", None) != KIND:
        raise ValueError(f"{source}/config.json is not a model bundle's (its 'kind' is not {KIND!r})")
    try:
        return ModelConfig.model_validate(tree)
    except ValidationError as error:
        problems = "; ".join(f"{'.'.join(map(str, problem['loc']))}: {problem['msg']}" for problem in error.errors())
        raise ValueError(f"{source}/config.json does not describe a model bundle: {problems}") from None
