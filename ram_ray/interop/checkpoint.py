"""Released checkpoints of RAM, RAM++ and Tag2Text as models of this package: the same weights under other names.

A checkpoint is `{"model": state_dict}` or the state dict itself, written by torch.save. The file is not trusted: it is
opened with `weights_only`, so no code in it runs; its tensors must be dense, no larger than the file, and finite. What
it holds besides the model (an optimizer's state) is mapped and never read.

The Swin's names: the reference has `downsample` at the end of stage S, timm at the start of stage S + 1. Where the
reference ties two tensors and a file holds both, the tensor that the reference loads last is used.
"""

from __future__ import annotations

import pickle
import re
from pathlib import Path

import torch
from torch import Tensor

from ram_ray.interop.reference_config import Architecture, State, reference_config
from ram_ray.models.no_initial_weights import NoInitialWeights
from ram_ray.models.position_bias import resize_position_bias
from ram_ray.models.ram import RAM
from ram_ray.settings.models import ModelConfig

_BERT = (
    (r"embeddings\.word_embeddings\.", "embedding.word."),
    (r"embeddings\.position_embeddings\.", "embedding.position."),
    (r"embeddings\.LayerNorm\.", "embedding.norm."),
    (r"encoder\.layer\.", "layers."),
    (r"(cross)?attention\.self\.", r"\1attention."),
    (r"(cross)?attention\.output\.dense\.", r"\1attention.out."),
    (r"(cross)?attention\.output\.LayerNorm\.", r"\1attention.norm."),
    (r"crossattention\.", "cross."),
    (r"intermediate\.dense\.", "ffn.up."),
    (r"(\.\d+\.)output\.dense\.", r"\1ffn.down."),
    (r"(\.\d+\.)output\.LayerNorm\.", r"\1ffn.norm."),
)
# A name or a prefix (with a dot at the end) of the reference, and ours; in the order in which the reference loads them.
_PREFIXES = (
    ("visual_encoder.", "image_encoder.backbone."),
    ("tag_encoder.", "tag_encoder."),
    ("text_decoder.bert.", "caption_decoder."),
    ("text_decoder.cls.predictions.transform.dense.", "caption_decoder.transform."),
    ("text_decoder.cls.predictions.transform.LayerNorm.", "caption_decoder.norm."),
    ("text_decoder.cls.predictions.bias", "caption_decoder.bias"),
    ("text_decoder.cls.predictions.decoder.weight", "caption_decoder.embedding.word.weight"),
    ("text_decoder.cls.predictions.decoder.bias", "caption_decoder.bias"),
    ("tagging_head.", "recognition."),
    ("label_embed.weight", "label_embed"),
    ("label_embed", "label_embed"),
    ("wordvec_proj.", "recognition.label_proj."),
    ("fc.W", "recognition.fc.weight"),
    ("fc.b", "recognition.fc.bias"),
    ("fc.", "recognition.fc."),
    ("image_proj.", "image_proj."),
    ("reweight_scale", "reweight_scale"),
)
_DERIVED = ("relative_position_index", "attn_mask", "position_ids")  # computed from the sizes


def load_checkpoint(
    file: str | Path, *, configs: str | Path | None = None, num_tags: int | None = None, image_size: int | None = None
) -> RAM:
    """Load a released checkpoint.

    Args:
        file: the `.pth` file.
        configs: folder with the reference's JSON files; None: the released models' sizes.
        num_tags: length of the tag list, where there is a tag list.
        image_size: height and width in pixels, where `configs` describes several Swins.

    Returns:
        The model in eval mode, float32, without gradients.

    Raises:
        ValueError: if the file is not a checkpoint of these models, is incomplete, or does not fit the JSON files.
    """
    file = Path(file)
    state = read_state(file)
    architecture = recognise(state, source=str(file))
    try:
        config = reference_config(
            state,
            architecture=architecture,
            folder=None if configs is None else _config_folder(Path(configs)),
            num_tags=num_tags,
            image_size=image_size,
        )
        return _build(config, state)
    except ValueError as error:
        raise ValueError(f"{file}: {error}") from None


def read_state(file: Path) -> State:
    """Read the tensors of a checkpoint file, memory-mapped where the format allows it.

    Args:
        file: written by torch.save.

    Returns:
        Tensors by the reference's names.

    Raises:
        ValueError: if the file cannot be read, or holds anything but tensors.
    """
    if not file.is_file():
        raise ValueError(f"{file}: no such file")
    try:
        try:
            tree = torch.load(file, map_location="cpu", weights_only=True, mmap=True)
        except RuntimeError:  # the format before zip cannot be mapped
            tree = torch.load(file, map_location="cpu", weights_only=True)
    except (OSError, EOFError, RuntimeError, ValueError, TypeError, KeyError, AttributeError, IndexError) as error:
        raise ValueError(f"{file} is not a whole checkpoint written by torch.save: {_line(error)}") from None
    except pickle.UnpicklingError:  # its text advises to load it all the same
        raise ValueError(f"{file} holds more than tensors, or is no checkpoint; it was not loaded") from None
    except (RecursionError, MemoryError) as error:
        raise ValueError(f"{file} holds more than tensors, or is damaged; it was not loaded: {_line(error)}") from None
    for wrapper in ("model", "state_dict"):
        if isinstance(tree, dict) and isinstance(tree.get(wrapper), dict):
            tree = tree[wrapper]
    if not isinstance(tree, dict) or not tree:
        raise ValueError(f"{file} holds no state dict")
    size = file.stat().st_size
    return {_plain(name): _checked(name, value, file, size) for name, value in tree.items()}


def recognise(state: State, *, source: str) -> Architecture:
    """Recognise the model by the names of its tensors.

    Args:
        state: the checkpoint's tensors by name.
        source: path or URI of the file, for the error.

    Returns:
        Name of the architecture.

    Raises:
        ValueError: if it is another model.
    """
    if "visual_encoder.patch_embed.proj.weight" in state:
        if "fc.W" in state and "label_embed.weight" in state:
            return "tag2text"
        if "label_embed" in state and "image_proj.weight" in state:
            return "ram_plus" if "reweight_scale" in state else "ram"
    raise ValueError(
        f"{source} is none of RAM, RAM++ and Tag2Text with a Swin: its first names are {', '.join(list(state)[:3])}"
    )


def rename(name: str) -> str | None:
    """Translate the name of a tensor.

    Args:
        name: of the reference's tensor.

    Returns:
        Our name; None if the model has no such tensor.
    """
    if name.endswith(_DERIVED):
        return None
    for source, target in _PREFIXES:
        if _matches(name, source):
            return _rename_suffix(source, target, name.removeprefix(source))
    return None


def _matches(name: str, source: str) -> bool:
    return name.startswith(source) if source.endswith(".") else name == source


def _rename_suffix(source: str, target: str, suffix: str) -> str:
    if source == "visual_encoder.":
        match = re.fullmatch(r"layers\.(\d+)\.downsample\.(.+)", suffix)
        return f"{target}layers.{int(match[1]) + 1}.downsample.{match[2]}" if match else target + suffix
    if target in ("tag_encoder.", "caption_decoder.", "recognition."):
        for pattern, replacement in _BERT:
            suffix = re.sub(pattern, replacement, suffix)
    return target + suffix


def _build(config: ModelConfig, state: State) -> RAM:
    num_rows = len(state["label_embed.weight" if config.architecture == "tag2text" else "label_embed"])
    shape: tuple[int, ...] = (num_rows, config.label_width)
    if config.architecture == "ram_plus":
        shape = (num_rows // config.descriptions, config.descriptions, config.label_width)
    with NoInitialWeights():
        model = RAM(config, torch.empty(shape, device="meta"))
    parameters = model.state_dict(keep_vars=True)
    tensors: State = {}
    for source in sorted(state, key=_load_order):
        name = rename(source)
        if name is not None and name in parameters:
            tensors[name] = _fit(name, state[source], parameters[name])
    # Names that share a parameter: the last of `_PREFIXES` is used.
    by_parameter: dict[int, Tensor] = {}
    for name in sorted(tensors, key=lambda name: name.startswith("recognition.")):
        by_parameter[id(parameters[name])] = tensors[name]
    missing = [name for name, parameter in parameters.items() if id(parameter) not in by_parameter]
    if missing:
        raise ValueError(f"{len(missing)} tensors are missing, among them {', '.join(missing[:3])}")
    model.load_state_dict({name: by_parameter[id(value)] for name, value in parameters.items()}, assign=True)
    return model.eval().requires_grad_(False)


def _load_order(name: str) -> int:
    return next((i for i, (source, _) in enumerate(_PREFIXES) if _matches(name, source)), len(_PREFIXES))


def _fit(name: str, value: Tensor, parameter: Tensor) -> Tensor:
    """The tensor as float32 in the model's shape."""
    if name.endswith("relative_position_bias_table") and value.shape != parameter.shape and value.ndim == 2:
        value = resize_position_bias(value, (round(len(parameter) ** 0.5) + 1) // 2)
    reshapes = value.numel() == parameter.numel() and name.startswith(("label_embed", "recog"))
    if value.shape != parameter.shape and reshapes:
        value = value.reshape(parameter.shape)  # RAM++'s rows are tag x descriptions; Tag2Text's fc.W has a leading 1
    if value.shape != parameter.shape:
        raise ValueError(f"{name} has shape {tuple(value.shape)}, the configuration needs {tuple(parameter.shape)}")
    value = value.float().contiguous()
    if not bool(value.isfinite().all()):
        raise ValueError(f"{name} has values that are not finite")
    return value


def _config_folder(folder: Path) -> Path:
    """`folder` itself, or its `configs`, as in the reference's package."""
    return folder if (folder / "q2l_config.json").is_file() or not (folder / "configs").is_dir() else folder / "configs"


def _plain(name: object) -> str:
    """A tensor's name without the prefix of a wrapper and with the current name of the tagging head."""
    return str(name).removeprefix("module.").replace("vision_multi", "tagging_head")


def _checked(name: object, value: object, file: Path, file_size: int) -> Tensor:
    if not isinstance(value, Tensor) or value.layout != torch.strided or value.is_meta:
        raise ValueError(f"{file}: {name!r} is not a plain tensor")
    if value.numel() * value.element_size() > file_size:
        raise ValueError(f"{file}: {name!r} claims shape {tuple(value.shape)}, more than the file can hold")
    return value


def _line(error: BaseException) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:200]
