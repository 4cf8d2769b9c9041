"""A model bundle: a folder that works by itself.

    config.json         sizes, normalisation, default threshold
    model.safetensors   weights and label embeddings
    label_system.json   what the outputs mean
    tokenizer.json      words of tag lists and captions, where the model writes captions
    text_encoder/       makes label queries of a user's own tags; an imported model may have none
    README.md           model card

Weights are read with safetensors, so nothing in a bundle can run code.

Loading makes no weights to throw away: the model is built without memory and takes the file's tensors, which are
read a piece at a time, so that never more than one copy of them is there. On a CPU the captioner's stay in the file,
mapped, until a caption is asked for.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import torch

from ram_ray.label_system import LabelSystem
from ram_ray.models.bundle_config import KIND, parse_config
from ram_ray.models.dual_encoder import Teacher
from ram_ray.models.ram import RAM
from ram_ray.models.tokenizer import TextTokenizer
from ram_ray.runtime.storage import local_copy

_PIECE = 1 << 26  # bytes of weights read at a time
_CAPTIONER = ("tag_encoder.", "caption_decoder.")


@dataclass
class Bundle:
    """What a bundle holds, loaded. `folder` is local."""

    model: RAM
    labels: LabelSystem
    tokenizer: TextTokenizer | None  # None: the model writes no captions
    folder: Path

    def teacher(self) -> Teacher:
        """The text encoder that the label embeddings came from (and its image side).

        Raises:
            ValueError: if the bundle has none.
        """
        if not (self.folder / "text_encoder").is_dir():
            raise ValueError(
                f"{self.folder} has no text encoder for your own tags; import the checkpoint with --text-encoder "
                "(RAM and RAM++: the CLIP ViT-B/16 that made their label embeddings), or give the embeddings yourself"
            )
        return Teacher.from_pretrained(str(self.folder / "text_encoder"))


def save_bundle(
    folder: str | Path,
    model: RAM,
    *,
    labels: LabelSystem,
    tokenizer: TextTokenizer | None,
    teacher: Teacher | None,
    card: dict[str, object] | None = None,
) -> None:
    """Write a bundle to a local folder.

    Args:
        folder: made if it is not there.
        model: its config, weights and label embeddings are written.
        labels: as many as the model has label embeddings.
        tokenizer: of captions and tags; None: the model writes no captions.
        teacher: the text encoder for a user's own tags; None: the bundle has none.
        card: further facts for its README.md, by name.

    Raises:
        ValueError: if labels and label embeddings are not equally many.
    """
    from safetensors.torch import save_model

    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    if len(labels) != len(model.label_embed):
        raise ValueError(f"{len(labels)} labels but {len(model.label_embed)} label embeddings")
    save_model(model, str(folder / "model.safetensors"))
    config = {"kind": KIND, **model.config.model_dump(mode="json")}
    (folder / "config.json").write_text(json.dumps(config, indent=1))
    (folder / "label_system.json").write_text(labels.to_json())
    if tokenizer is not None:
        tokenizer.save(folder)
    if teacher is not None:
        teacher.save(folder / "text_encoder")
    (folder / "README.md").write_text(_card(model, labels, card or {}))


def load_bundle(path_or_id: str, *, revision: str | None = None, device: str | torch.device | None = None) -> Bundle:
    """Load a bundle from a local folder, an fsspec URI or a Hugging Face id.

    Args:
        path_or_id: where the bundle is.
        revision: commit, branch or tag of a Hugging Face id.
        device: of the model; None: the CPU.

    Raises:
        ValueError: if it is not a bundle, or its parts do not fit together.
    """
    folder = local_copy(path_or_id, revision=revision)
    config = parse_config(folder, source=path_or_id)
    try:
        labels = LabelSystem.from_json((folder / "label_system.json").read_text())
    except (OSError, ValueError) as error:
        raise ValueError(f"{path_or_id} is not a model bundle: {error}") from None
    shape = (config.descriptions, config.label_width) if config.architecture == "ram_plus" else (config.label_width,)
    with torch.device("meta"):
        model = RAM(config, torch.empty(len(labels), *shape))
    _load_weights(model, folder / "model.safetensors", source=path_or_id, device=torch.device(device or "cpu"))
    model.image_encoder.fill_buffers()
    model.eval().requires_grad_(False)
    tokenizer = TextTokenizer.load(str(folder)) if config.captions else None
    return Bundle(model.to(device or "cpu"), labels, tokenizer, folder)


def _load_weights(model: RAM, file: Path, *, source: str, device: torch.device) -> None:
    """Give a model without memory the file's tensors. Names that share a tensor stand in the file once."""
    from safetensors import SafetensorError

    wanted = model.state_dict(keep_vars=True)
    found: dict[int, torch.Tensor] = {}
    unexpected = []
    try:
        for name, value in _read(file, device):
            if name not in wanted:
                unexpected.append(name)
            elif value.shape != wanted[name].shape:
                raise ValueError(f"{name} has shape {tuple(value.shape)}, not {tuple(wanted[name].shape)}")
            else:
                found[id(wanted[name])] = value
    except (OSError, SafetensorError, ValueError, RuntimeError) as error:
        raise ValueError(f"{source}: the weights do not fit config.json: {str(error).splitlines()[0]}") from None
    missing = [name for name, one in wanted.items() if id(one) not in found]
    if missing or unexpected:
        raise ValueError(f"{source}: weights missing {sorted(missing)[:3]}, unknown {sorted(unexpected)[:3]}")
    model.load_state_dict({name: found[id(one)] for name, one in wanted.items()}, assign=True)


def _read(file: Path, device: torch.device) -> Iterator[tuple[str, torch.Tensor]]:
    """The file's names and tensors: copies, or, of the captioner on a CPU, views of the mapped file.

    For copies the file is mapped anew after every `_PIECE`, so that its pages do not stay in memory beside them.
    """
    from safetensors import safe_open

    with safe_open(file, framework="pt") as opened:
        names = list(opened.keys())
        lazy = [one for one in names if one.startswith(_CAPTIONER)] if device.type == "cpu" else []
        for name in lazy:
            yield name, opened.get_tensor(name)
    names = [one for one in names if one not in set(lazy)]
    while names:
        nbytes = 0
        with safe_open(file, framework="pt") as opened:
            while names and nbytes < _PIECE:
                name = names.pop()
                value = opened.get_tensor(name)
                nbytes += value.numel() * value.element_size()
                yield name, value.clone() if device.type == "cpu" else value.to(device)
                del value


def _card(model: RAM, labels: LabelSystem, facts: dict[str, object]) -> str:
    lines = [f"| {name} | {value} |" for name, value in facts.items()]
    return "\n".join(
        [
            "# An image tagger made with ram_ray",
            "",
            f"{len(labels)} tags, {sum(p.numel() for p in model.parameters()) / 1e6:.1f}M parameters, "
            f"{model.config.image_size} px. Label system {labels.version}.",
            "",
            "```python",
            "from ram_ray.inference.predictor import Predictor",
            "Predictor.from_pretrained(FOLDER).tag([image])",
            "```",
            "",
            "| | |",
            "|---|---|",
            *lines,
            "",
        ]
    )
