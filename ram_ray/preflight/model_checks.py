"""What each kind of model must have: the right kind in its config, a tokenizer or a processor, and weights.

`CHECKS` has a function for each kind, `check_classifier` is for one of unsafe images.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from ram_ray.records import Json

_WEIGHTS = (".safetensors", ".bin", ".safetensors.index.json", ".bin.index.json")


def _check_tokenizer(folder: Path, names: list[str]) -> None:
    """A WordPiece vocabulary."""
    from ram_ray.models.tokenizer import TextTokenizer

    TextTokenizer.load(str(folder))


def _check_dual_encoder(folder: Path, names: list[str]) -> None:
    """A CLIP or SigLIP, or the dual encoder of a run."""
    _need_weights(names)
    tree = _read_config(folder)
    if tree.get("kind") == "ram_ray.dual_encoder":
        from ram_ray.models.tokenizer import TextTokenizer

        TextTokenizer.load(str(folder))
        return
    from ram_ray.models.towers import PUBLISHED

    if tree.get("model_type") not in PUBLISHED:
        raise ValueError(f"it is a {tree.get('model_type')!r} model, not a CLIP or SigLIP")
    from transformers import AutoConfig, AutoImageProcessor, AutoTokenizer

    AutoConfig.from_pretrained(folder)
    AutoTokenizer.from_pretrained(folder)
    AutoImageProcessor.from_pretrained(folder)


def _check_text_encoder(folder: Path, names: list[str]) -> None:
    """An encoder of sentences."""
    from transformers import AutoConfig, AutoTokenizer

    from ram_ray.models.sentence_files import read_sentence_files
    from ram_ray.models.towers import PUBLISHED

    _need_weights(names)
    root, _, _ = read_sentence_files(folder)
    kind = AutoConfig.from_pretrained(root).model_type
    if kind in PUBLISHED:
        raise ValueError(f"it is a {kind!r} model, a dual encoder: set represent.clip")
    AutoTokenizer.from_pretrained(root)


def _check_encoder_weights(folder: Path, names: list[str]) -> None:
    """Weights of a timm model."""
    if not any(name.endswith((*_WEIGHTS, ".pth")) for name in names):
        raise ValueError("it has no weights (.safetensors or .pth)")


def _check_detector(folder: Path, names: list[str]) -> None:
    """A detector that transformers asks with texts."""
    from transformers import AutoConfig, AutoProcessor

    from ram_ray.detectors.registry import detector_classes

    if not any(name.endswith((".safetensors", ".safetensors.index.json")) for name in names):
        raise ValueError("it has no weights as safetensors")
    kind = AutoConfig.from_pretrained(folder).model_type
    if kind not in detector_classes():
        raise ValueError(f"it is a {kind!r} model; use 'attention' or one of {', '.join(sorted(detector_classes()))}")
    AutoProcessor.from_pretrained(folder)


def check_classifier(folder: Path, names: list[str], *, unsafe: Sequence[str], source: str) -> None:
    """A transformers image classifier that has unsafe classes.

    Args:
        folder: with the model's small files.
        names: of all its files.
        unsafe: names of its unsafe classes; empty: the usual ones.
        source: path, URI or id of the model, for the error.

    Raises:
        ValueError: if it is none, or has none of the classes.
    """
    from transformers import AutoConfig, AutoImageProcessor

    from ram_ray.curation.score_settings import unsafe_classes

    _need_weights(names)
    config = AutoConfig.from_pretrained(folder)
    if not any("ForImageClassification" in name for name in config.architectures or ()):
        raise ValueError(f"it is a {config.model_type!r} model of {config.architectures}, not an image classifier")
    AutoImageProcessor.from_pretrained(folder)
    unsafe_classes(config.id2label, unsafe, source=source)


def _check_generator(folder: Path, names: list[str]) -> None:
    """A pipeline of diffusers."""
    import diffusers

    tree = json.loads((folder / "model_index.json").read_text())
    if not hasattr(diffusers, str(tree.get("_class_name"))):
        raise ValueError(f"diffusers has no class {tree.get('_class_name')!r}")
    _need_weights(names)


def _read_config(folder: Path) -> Json:
    try:
        tree = json.loads((folder / "config.json").read_text())
    except (OSError, ValueError) as error:
        raise ValueError(f"no config.json that can be read: {error}") from None
    if not isinstance(tree, dict):
        raise ValueError("config.json is not a mapping")
    return tree


def _need_weights(names: list[str]) -> None:
    if not any(name.endswith(_WEIGHTS) for name in names):
        raise ValueError("it has no weights (.safetensors)")


# For each kind of model a function of the folder with its small files and the names of all its files. It raises
# `ValueError`, or what the library raises that cannot load it.
CHECKS: Mapping[str, Callable[[Path, list[str]], None]] = {
    "tokenizer": _check_tokenizer,
    "dual encoder": _check_dual_encoder,
    "text encoder": _check_text_encoder,
    "encoder weights": _check_encoder_weights,
    "detector": _check_detector,
    "generator": _check_generator,
}
