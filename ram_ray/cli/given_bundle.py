"""Bundles that a run is given: their paths made absolute, and the settings that add labels to one."""

from __future__ import annotations

import json
import os
from pathlib import Path

from ram_ray.cli.options import absolute
from ram_ray.config import RunConfig


def with_absolute_bundles(config: RunConfig) -> RunConfig:
    """Make the paths of bundles absolute, because workers have another working directory.

    Args:
        config: of the run.

    Returns:
        The configuration; URIs and Hugging Face ids are unchanged.
    """
    sections = {name: getattr(config, name) for name in ("pretrain", "retrain", "finetune")}
    changes = {
        name: section.model_copy(update={"start": _absolute(section.bundle)})
        for name, section in sections.items()
        if section.bundle
    }
    if config.engine.model:
        changes["engine"] = config.engine.model_copy(update={"model": _absolute(config.engine.model)})
    return config.model_copy(update=changes)


def finetune_sets(source: str, *, revision: str | None = None, add_labels: str | None = None) -> list[str]:
    """Make the settings that finetune a given bundle, with its sizes and its labels.

    The data engine has no round, so nothing comes between the bundle and `finetune`. With `add_labels` the labels that
    the bundle has are taught by its own scores. Its text encoder, if it has one, is the run's; it is not trained anew.

    Args:
        source: path, URI or Hugging Face id of the bundle.
        revision: commit of an id.
        add_labels: path or URI of a list of labels; None: the bundle's labels alone.

    Returns:
        `section.field=value` pairs.

    Raises:
        ValueError: if it is no bundle.
    """
    from ram_ray.models.bundle_config import read_config
    from ram_ray.runtime.storage import local_copy

    source = _absolute(source)
    model = read_config(source, revision=revision)
    is_id = "://" not in source and not Path(source).exists()
    root = str(local_copy(source, revision=revision)) if is_id else source.rstrip("/")
    values: dict[str, object] = {
        "engine.model": source,
        "engine.revision": revision,
        "engine.rounds": 0,
        "labels.system": f"{root}/label_system.json",
        "finetune.start": "previous",
        "finetune.image_size": model.image_size,
        "finetune.window_size": model.image_encoder.window_size or model.swin.window_size,
        "finetune.caption_loss": model.captions,
        "finetune.distill_loss": False,
        **{f"{section}.views": None for section in ("pretrain", "retrain", "finetune")},
    }
    if add_labels:
        values |= {"labels.add": absolute(add_labels), "finetune.old_labels": "keep"}
    if (encoder := find_text_encoder(root)) is not None:
        fields = ("clip", "revision", "text_encoder", "text_revision", "image_encoder.name", "image_encoder.weights")
        values |= {f"represent.{field}": None for field in fields} | {encoder: f"{root}/text_encoder"}
    return [f"{name}={json.dumps(value)}" for name, value in values.items()]


def find_text_encoder(root: str) -> str | None:
    """Find the setting of `represent` for the text encoder of a bundle.

    Args:
        root: folder or URI of the bundle.

    Returns:
        `represent.clip` for a dual encoder, `represent.text_encoder` for another; None: the bundle has none.
    """
    import fsspec

    from ram_ray.models.dual_encoder import DUAL_ENCODER
    from ram_ray.models.towers import PUBLISHED

    try:
        with fsspec.open(f"{root}/text_encoder/config.json", "rb") as file:
            tree = json.loads(file.read())
    except FileNotFoundError:
        return None
    is_dual = tree.get("kind") == DUAL_ENCODER or tree.get("model_type") in PUBLISHED
    return "represent.clip" if is_dual else "represent.text_encoder"


def _absolute(source: str) -> str:
    return absolute(os.path.expanduser(source)) if Path(source).expanduser().exists() else source
