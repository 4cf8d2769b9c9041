"""Sizes of a released checkpoint, from its tensors and from the reference's own JSON files.

The tensors give widths, depths, the Swin's heads and windows, and the number of tags. The files `med_config.json`,
`q2l_config.json` and `swin/*.json` give the rest: heads of the BERT-like stacks, the image size, LayerNorm's epsilon.
Without those files the released models' values are used, and only for the released models' width. A value that is in
both must be equal.
"""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Literal, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError
from torch import Tensor

from ram_ray.settings.models import Decoding, ModelConfig, SwinConfig, TransformerConfig

IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)  # the reference's inference statistics
RELEASED_WIDTH, RELEASED_HEADS = 768, {"med_config.json": 12, "q2l_config.json": 4}
TAG2TEXT_MUTED = (127, 2961, 3351, 3265, 3338, 3355, 3359)  # quarter, back, two, three, four, five, one
DESCRIPTIONS = 51  # texts for each tag in the released RAM++
MAX_JSON_BYTES = 1 << 20

State = dict[str, Tensor]
Architecture = Literal["ram", "ram_plus", "tag2text"]
_Json = TypeVar("_Json", bound=BaseModel)


class _Bert(BaseModel):
    """The fields of med_config.json and q2l_config.json that a model is built from."""

    model_config = ConfigDict(extra="ignore", frozen=True)
    hidden_size: int = Field(ge=1, le=1 << 14)
    num_hidden_layers: int = Field(ge=1, le=256)
    num_attention_heads: int = Field(ge=1, le=1 << 10)
    intermediate_size: int = Field(ge=1, le=1 << 16)
    vocab_size: int = Field(30524, ge=1, le=1 << 24)
    max_position_embeddings: int = Field(512, ge=1, le=1 << 20)
    layer_norm_eps: float = Field(1e-12, gt=0, lt=1)
    hidden_dropout_prob: float = Field(0.1, ge=0, lt=1)
    hidden_act: Literal["gelu"] = "gelu"


class _Swin(BaseModel):
    """The fields of swin/*.json."""

    model_config = ConfigDict(extra="ignore", frozen=True)
    image_res: int = Field(ge=1, le=4096)
    window_size: int = Field(ge=1, le=256)
    embed_dim: int = Field(ge=1, le=1 << 14)
    depths: tuple[int, ...] = Field(min_length=1, max_length=8)
    num_heads: tuple[int, ...] = Field(min_length=1, max_length=8)
    vision_width: int | None = None


def reference_config(
    state: State, *, architecture: Architecture, folder: Path | None, num_tags: int | None, image_size: int | None
) -> ModelConfig:
    """Find the configuration of a checkpoint's tensors and check it against the JSON files.

    Args:
        state: the checkpoint's tensors by name.
        architecture: which of the released models it is.
        folder: with med_config.json, q2l_config.json and swin/*.json; None: the released models.
        num_tags: length of the tag list, where there is a tag list; gives the number of descriptions in RAM++.
        image_size: height and width in pixels, to select one of several swin/*.json.

    Returns:
        The configuration of a `RAM` with these tensors.

    Raises:
        ValueError: if a file is missing or cannot be read, or disagrees with the tensors.
    """
    if folder is not None and not folder.is_dir():
        raise ValueError(f"--config {folder}: no such folder")
    swin = _swin(state, folder, image_size)
    recognition = _stack(state, "tagging_head", "q2l_config.json", folder)
    sizes: dict = {
        "architecture": architecture,
        "swin": swin[0],
        "image_size": swin[1],
        "recognition": recognition,
        "mean": IMAGENET_MEAN,
        "std": IMAGENET_STD,
        "captions": architecture != "ram_plus" and "text_decoder.cls.predictions.bias" in state,
        "mask_tag_padding": False,
        "own_threshold": 0.5,
        "label_proj": "wordvec_proj.weight" in state,
    }
    if architecture == "tag2text":
        sizes["label_width"] = recognition.width
        sizes["muted"] = tuple(id for id in TAG2TEXT_MUTED if id < len(state["label_embed.weight"]))
    else:
        sizes["label_width"] = state["label_embed"].shape[-1]
        sizes["image_proj"] = len(state["image_proj.weight"])
        if architecture == "ram_plus":
            sizes["descriptions"] = _descriptions(len(state["label_embed"]), num_tags)
    if sizes["captions"]:
        sizes |= _captioner(state, folder)
    try:
        return ModelConfig(**sizes)
    except ValidationError as error:
        raise ValueError(f"the checkpoint's sizes do not fit together: {_first(error)}") from None


def depth(state: State, prefix: str) -> int:
    """Number of layers `<prefix>.<number>.`.

    Args:
        state: the checkpoint's tensors by name.
        prefix: of the layers' names.

    Returns:
        The highest number plus 1; 0 without layers.
    """
    pattern = re.compile(re.escape(prefix) + r"\.(\d+)\.")
    return 1 + max((int(match[1]) for name in state if (match := pattern.match(name))), default=-1)


def _captioner(state: State, folder: Path | None) -> dict:
    vocabulary = state["text_decoder.bert.embeddings.word_embeddings.weight"]
    positions = state["text_decoder.bert.embeddings.position_embeddings.weight"]
    if folder is not None:
        config = _read(folder / "med_config.json", _Bert)
        sizes = {"vocab_size": len(vocabulary), "max_position_embeddings": len(positions)}
        _check_equal("med_config.json", sizes, config)
    limit = min(40, len(positions))
    return {
        "tag_encoder": _stack(state, "tag_encoder", "med_config.json", folder),
        "caption_decoder": _stack(state, "text_decoder.bert", "med_config.json", folder),
        "vocab_size": len(vocabulary),
        "max_positions": len(positions),
        "max_tag_tokens": limit,
        "max_caption_tokens": limit,
        "decoding": Decoding(num_beams=3, max_length=min(30, len(positions)), min_length=10),
    }


def _stack(state: State, part: str, file: str, folder: Path | None) -> TransformerConfig:
    """The BERT-like stack of `part`: sizes from its tensors, the other values from `file`."""
    name = f"{part}.encoder.layer.0.intermediate.dense.weight"
    if name not in state:
        raise ValueError(f"the checkpoint has no {name}")
    ffn, width = state[name].shape
    sizes = {
        "hidden_size": width,
        "intermediate_size": ffn,
        "num_hidden_layers": depth(state, f"{part}.encoder.layer"),
    }
    if folder is None:
        if width != RELEASED_WIDTH:
            raise ValueError(
                f"{part} is {width} wide, not {RELEASED_WIDTH} as in the released models: give --config, the folder "
                "with the reference's med_config.json, q2l_config.json and swin/*.json"
            )
        config = _Bert(**sizes, num_attention_heads=RELEASED_HEADS[file])
    else:
        config = _read(folder / file, _Bert)
        _check_equal(file, sizes, config)
    try:
        return TransformerConfig(
            width=width,
            layers=config.num_hidden_layers,
            heads=config.num_attention_heads,
            ffn=ffn,
            dropout=config.hidden_dropout_prob,
            norm_eps=config.layer_norm_eps,
        )
    except ValidationError as error:
        raise ValueError(f"{file}: {_first(error)}") from None


def _swin(state: State, folder: Path | None, image_size: int | None) -> tuple[SwinConfig, int]:
    """The Swin and the image size in pixels."""
    name = "visual_encoder.patch_embed.proj.weight"
    if name not in state:
        raise ValueError(f"the checkpoint has no {name}: only Swin models can be imported")
    embed_dim, _, patch, _ = state[name].shape
    stages = depth(state, "visual_encoder.layers")
    tables = [
        state.get(f"visual_encoder.layers.{stage}.blocks.0.attn.relative_position_bias_table")
        for stage in range(stages)
    ]
    if not tables or any(table is None or table.ndim != 2 for table in tables):
        raise ValueError("the checkpoint's Swin has stages without position biases")
    sizes = {
        "embed_dim": embed_dim,
        "depths": tuple(depth(state, f"visual_encoder.layers.{stage}.blocks") for stage in range(stages)),
        "num_heads": tuple(table.shape[1] for table in tables if table is not None),
    }
    # Later stages may have smaller windows: a window is never larger than its stage.
    window = max((round(len(table) ** 0.5) + 1) // 2 for table in tables if table is not None)
    trained = _trained_size(state, window, patch)
    if folder is None:
        size = image_size or trained or {7: 224, 12: 384}.get(window)
        if size is None:
            raise ValueError(f"the Swin has windows of {window}: give --config, or --image-size")
    else:
        config = _select_swin(folder, sizes, window=window, image_size=image_size or None, trained=trained)
        window, size = config.window_size, config.image_res
    return SwinConfig(patch_size=patch, window_size=window, **sizes), size


def _trained_size(state: State, window: int, patch: int) -> int | None:
    """Image size in pixels of the shifted windows' mask; None without a mask of this window."""
    mask = state.get("visual_encoder.layers.0.blocks.1.attn_mask")
    if mask is None or mask.ndim != 3 or mask.shape[1] != window**2:
        return None
    return round(len(mask) ** 0.5) * window * patch


def _select_swin(folder: Path, sizes: dict, *, window: int, image_size: int | None, trained: int | None) -> _Swin:
    """The file of swin/*.json that describes the tensors."""
    files = sorted((folder / "swin").glob("*.json"))
    if not files:
        raise ValueError(f"{folder}/swin has no *.json; copy the reference's whole configs folder")
    configs = {file.name: _read(file, _Swin) for file in files}
    matches = [swin for swin in configs.values() if all(getattr(swin, key) == sizes[key] for key in sizes)]
    if image_size is not None:
        matches = [swin for swin in matches if swin.image_res == image_size]
    if not matches:
        expected = ", ".join(f"{key} {value}" for key, value in sizes.items())
        size = f" at {image_size} px" if image_size else ""
        raise ValueError(f"none of {', '.join(configs)} describes the checkpoint's Swin: {expected}{size}")
    # Of several: the resolution that it was trained at, then the same windows, then the largest resolution.
    return max(matches, key=lambda swin: (swin.image_res == trained, swin.window_size == window, swin.image_res))


def _descriptions(rows: int, num_tags: int | None) -> int:
    if num_tags is None:
        if rows % DESCRIPTIONS:
            raise ValueError(f"{rows} label embeddings are no multiple of {DESCRIPTIONS}: give --tag-list")
        return DESCRIPTIONS
    if num_tags == 0 or rows % num_tags:
        raise ValueError(f"the tag list has {num_tags} names, which does not divide the {rows} label embeddings")
    return rows // num_tags


def _read(file: Path, kind: type[_Json]) -> _Json:
    try:
        if file.stat().st_size > MAX_JSON_BYTES:
            raise ValueError(f"more than {MAX_JSON_BYTES} bytes")
        return kind.model_validate(json.loads(file.read_text(encoding="utf-8")))
    except ValidationError as error:
        raise ValueError(f"{file}: {_first(error)}") from None
    except (OSError, ValueError, RecursionError) as error:
        raise ValueError(f"{file} cannot be read: {error}") from None


def _check_equal(file: str, sizes: dict, config: _Bert) -> None:
    for name, value in sizes.items():
        if getattr(config, name) != value:
            raise ValueError(f"{file} has {name} {getattr(config, name)}, but the checkpoint has {value}")


def _first(error: ValidationError) -> str:
    details = error.errors()[0]
    return f"{'.'.join(map(str, details['loc']))} {details['msg']}".strip()
