"""Weights for an image encoder: from the hub, a folder, a file or an installed package, at another resolution too.

    source -> state dict -> timm's names -> resized to the encoder's grid and window -> image encoder

Files are read with safetensors, or as `.pth` without running code. What the tokens depend on must be in the file, in
the same shapes; the classifier may be there and is not used. A file with other names than timm's is taken in its order,
if it has as many tensors with the same shapes.

Relative position biases are resized as the reference resizes those of a Swin (`position_bias`), other position
embeddings as timm does.
"""

from __future__ import annotations

import json
import pickle
import sys
from pathlib import Path

import torch
from torch import Tensor, nn

from ram_ray.models.image_encoder import ImageEncoder
from ram_ray.models.position_bias import resize_position_bias
from ram_ray.models.timm_import import import_timm
from ram_ray.runtime.storage import local_copy
from ram_ray.settings.models import DualEncoderConfig, ModelConfig, TimmConfig

WEIGHT_FILES = ("model.safetensors", "pytorch_model.bin", "*.safetensors", "*.pth")  # of a folder, the first is read
CONFIG_FILE = "config.json"  # timm's, beside the weights
_BIAS = "relative_position_bias_table"
_COUNTER = "num_batches_tracked"  # of BatchNorm, which inference does not need

State = dict[str, Tensor]


def training_fields(model: ModelConfig | DualEncoderConfig, *, image_size: int, window_size: int) -> dict:
    """Compute the fields of a model's config that depend on its training or on its image encoder.

    Args:
        model: config as the user wrote it.
        image_size: S of the training.
        window_size: window of a Swin.

    Returns:
        Values by field: image_size, swin, image_encoder, mean and std.

    Raises:
        ValueError: if timm has no such model, or its source cannot be read.
    """
    named, swin = model.image_encoder, model.swin
    own = named.name is not None and named.own_normalisation
    mean, std = own_normalisation(named) if own else (model.mean, model.std)
    return {
        "image_size": image_size,
        "swin": swin.model_copy(update={"window_size": window_size}),
        "image_encoder": named.model_copy(update={"window_size": window_size}) if named.name else named,
        "mean": mean,
        "std": std,
    }


def own_normalisation(config: TimmConfig) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Find the normalisation that a timm model was trained with: of the config beside its weights, else of its name.

    Args:
        config: of the encoder.

    Returns:
        Mean and standard deviation of each channel, 0 to 1.

    Raises:
        ValueError: if the source of the weights cannot be read.
    """
    import_timm()
    from timm.models import get_pretrained_cfg

    if config.weights and not _is_file_name(config.weights):
        folder = local_copy(config.weights, revision=config.revision)
        if (folder / CONFIG_FILE).is_file():
            tree = json.loads((folder / CONFIG_FILE).read_text(encoding="utf-8"))
            tree = tree.get("pretrained_cfg", tree)
            if "mean" in tree and "std" in tree:
                return tuple(tree["mean"]), tuple(tree["std"])
    known = get_pretrained_cfg(str(config.name))
    if known is None:
        raise ValueError(f"{config.name} has no normalisation of its own; set image_encoder.own_normalisation to false")
    return tuple(known.mean), tuple(known.std)


def load_pretrained(encoder: ImageEncoder) -> None:
    """Load the weights that the encoder's config names.

    Args:
        encoder: changed in place.

    Raises:
        ValueError: if there are no such weights, or they do not fit the model.
    """
    config = encoder.config
    assert isinstance(config, TimmConfig) and config.weights
    path = local_copy(config.weights, revision=config.revision)
    try:
        file = find_weights(path)
        state = fit_weights(encoder, read_weights(file), ordered=file.suffix == ".pth")  # safetensors sorts names
        encoder.backbone.load_state_dict(state, strict=False)
    except (ValueError, RuntimeError) as error:
        reason = " ".join(str(error).split())[:300]
        raise ValueError(f"image_encoder.weights {config.weights!r} do not fit {config.name}: {reason}") from None


def find_weights(path: Path) -> Path:
    """Find the file with weights.

    Args:
        path: a file, or a folder with one of `WEIGHT_FILES`.

    Returns:
        The file.

    Raises:
        ValueError: if there is none.
    """
    files = [path] if path.is_file() else [file for pattern in WEIGHT_FILES for file in sorted(path.glob(pattern))]
    if not files:
        raise ValueError(f"{path}: there is no {', '.join(WEIGHT_FILES)}")
    return files[0]


def read_weights(file: Path) -> State:
    """Read a file of weights; nothing in it is run.

    Args:
        file: `.safetensors` or a file of `torch.save`.

    Returns:
        Name -> tensor, without the wrappers that training scripts add.

    Raises:
        ValueError: if it cannot be read, or has something else than tensors.
    """
    from timm.models import load_state_dict

    try:
        state = load_state_dict(str(file), weights_only=True)
    except (OSError, RuntimeError, ValueError, EOFError, KeyError, pickle.UnpicklingError) as error:
        raise ValueError(f"{file.name} cannot be read as weights: {str(error).splitlines()[0]}") from None
    except Exception as error:  # safetensors has an error of its own
        raise ValueError(f"{file.name} cannot be read as weights: {error}") from None
    return {name: value for name, value in state.items() if isinstance(value, Tensor)}


def fit_weights(encoder: ImageEncoder, state: State, *, ordered: bool = False) -> State:
    """Bring weights to the names and shapes of an encoder.

    Args:
        encoder: that will load them.
        state: of the same model, perhaps of another resolution or with a classifier.
        ordered: whether the order of `state` is the model's, for a file with other names.

    Returns:
        The weights of `encoder.backbone`, all of them but BatchNorm's counters.

    Raises:
        ValueError: if a weight is missing, or belongs to another model.
    """
    target = encoder.backbone.state_dict()
    if isinstance(encoder.config, TimmConfig):
        whole = _whole_model(encoder.config)
        if ordered and not set(state) & set(target):
            state = _rename_in_order(state, whole)
        state = resize_biases(state, target)
        if any(name not in state or state[name].shape != value.shape for name, value in target.items()):
            state = _with_timm_names(encoder, state)
    else:
        whole, state = target, resize_biases(state, target)
    missing = [name for name in target if name not in state and not name.endswith(_COUNTER)]
    unknown = [name for name in state if name not in whole and name not in target]
    shapes = [name for name in target if name in state and state[name].shape != target[name].shape]
    for what, names in (("missing", missing), ("unknown", unknown), ("of another shape", shapes)):
        if names:
            raise ValueError(f"{what}: {', '.join(names[:3])}{' ...' if len(names) > 3 else ''}")
    return {name: value for name, value in state.items() if name in target}


def resize_biases(state: State, target: State) -> State:
    """Resize the relative position biases of square windows.

    Args:
        state: weights of another window.
        target: tensors of the encoder, by name.

    Returns:
        The weights, with the target's sizes of the biases.
    """
    resized = dict(state)
    for name, value in state.items():
        wanted = target.get(name)
        if name.endswith(_BIAS) and wanted is not None and len(value) != len(wanted):
            sides = [round(len(table) ** 0.5) for table in (value, wanted)]
            if all(side**2 == len(table) and side % 2 for side, table in zip(sides, (value, wanted), strict=True)):
                resized[name] = resize_position_bias(value.cpu(), (sides[1] + 1) // 2)
    return resized


def _with_timm_names(encoder: ImageEncoder, state: State) -> State:
    """Apply the function of the model's family in timm, which renames original checkpoints and resizes embeddings."""
    from timm.models import model_entrypoint

    assert isinstance(encoder.config, TimmConfig)
    family = sys.modules[model_entrypoint(str(encoder.config.name)).__module__]
    convert = getattr(family, "checkpoint_filter_fn", None) or getattr(family, "_filter_fn", None)
    return state if convert is None else convert(state, encoder.backbone)


def _whole_model(config: TimmConfig) -> State:
    """Tensors without values of the model with its classifier, in its order."""
    import timm

    with torch.device("meta"):
        model: nn.Module = timm.create_model(str(config.name), pretrained=False)
    return model.state_dict()


def _rename_in_order(state: State, whole: State) -> State:
    values = [value for name, value in state.items() if not name.endswith(_COUNTER)]
    names = [name for name in whole if not name.endswith(_COUNTER)]
    if len(values) != len(names):
        raise ValueError(f"other names than timm's, and {len(values)} tensors where the model has {len(names)}")
    for name, value in zip(names, values, strict=True):
        if value.shape != whole[name].shape:
            raise ValueError(f"other names than timm's, and another shape where the model has {name}")
    return dict(zip(names, values, strict=True))


def _is_file_name(source: str) -> bool:
    return source.endswith((".safetensors", ".pth", ".bin", ".pt"))
