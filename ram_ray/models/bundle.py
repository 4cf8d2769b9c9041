"""A model bundle: a self-contained folder of a model.

    config.json         sizes, normalisation, default threshold
    model.safetensors   weights and label embeddings
    label_system.json   labels of the outputs
    tokenizer.json      tokenizer of captions and tag lists, if the model writes captions
    text_encoder/       encoder of custom tags; an imported model may have none
    README.md           model card

Weights are read with safetensors, so a bundle cannot run code.

Loading allocates the weights once: the model is built on the meta device and takes the file's tensors, which are read
in chunks. On a CPU the captioner's weights stay memory-mapped until a caption is generated.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import torch

from ram_ray.label_system import LabelSystem
from ram_ray.models.bundle_config import KIND, parse_config
from ram_ray.models.no_initial_weights import NoInitialWeights
from ram_ray.models.ram import RAM
from ram_ray.models.teacher import Teacher
from ram_ray.models.tokenizer import TextTokenizer
from ram_ray.runtime.storage import local_copy

TEXT_ENCODER = "text_encoder"  # folder of a bundle
_CHUNK_BYTES = 1 << 26  # bytes of weights read at once
_CAPTIONER = ("tag_encoder.", "caption_decoder.")


@dataclass
class Bundle:
    """A loaded bundle; `folder` is its local folder."""

    model: RAM
    labels: LabelSystem
    tokenizer: TextTokenizer | None  # None: the model writes no captions
    folder: Path

    @property
    def has_text_encoder(self) -> bool:
        """Whether it has the text encoder that made the label embeddings."""
        return (self.folder / TEXT_ENCODER).is_dir()

    def teacher(self) -> Teacher:
        """Load the text encoder that made the label embeddings; of a dual encoder, both encoders.

        Returns:
            The teacher, on the CPU.

        Raises:
            ValueError: if the bundle has no text encoder.
        """
        if not self.has_text_encoder:
            raise ValueError(
                f"{self.folder} has no text encoder for your own tags; import the checkpoint with --text-encoder "
                "(RAM and RAM++: the CLIP ViT-B/16 that made their label embeddings), or give the embeddings yourself"
            )
        return Teacher.from_pretrained(str(self.folder / TEXT_ENCODER))


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
        folder: local folder; made if it does not exist.
        model: its config, weights and label embeddings are written.
        labels: label system with a label for each label embedding of the model.
        tokenizer: tokenizer of captions and tags; None: the model writes no captions.
        teacher: text encoder of custom tags; None: the bundle gets none.
        card: further facts for README.md, by name.

    Raises:
        ValueError: if the numbers of labels and label embeddings differ.
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
        teacher.save_text(folder / TEXT_ENCODER)
    (folder / "README.md").write_text(_card(model, labels, card or {}))


def load_bundle(path_or_id: str, *, revision: str | None = None, device: str | torch.device | None = None) -> Bundle:
    """Load a bundle from a local folder, an fsspec URI or a Hugging Face id.

    Args:
        path_or_id: folder, URI or id of the bundle.
        revision: commit, branch or tag of a Hugging Face id.
        device: device of the model; None: the CPU.

    Returns:
        The bundle, its model in eval mode without gradients.

    Raises:
        ValueError: if it is not a bundle, or if weights, labels and config do not match.
    """
    folder = local_copy(path_or_id, revision=revision)
    config = parse_config(folder, source=path_or_id)
    try:
        labels = LabelSystem.from_json((folder / "label_system.json").read_text())
    except (OSError, ValueError) as error:
        raise ValueError(f"{path_or_id} is not a model bundle: {error}") from None
    shape = (config.descriptions, config.label_width) if config.architecture == "ram_plus" else (config.label_width,)
    with NoInitialWeights():
        model = RAM(config, torch.empty(len(labels), *shape, device="meta"))
    _load_weights(model, folder / "model.safetensors", source=path_or_id, device=torch.device(device or "cpu"))
    model.eval().requires_grad_(False)
    tokenizer = TextTokenizer.load(str(folder)) if config.captions else None
    return Bundle(model.to(device or "cpu"), labels, tokenizer, folder)


def bundle_digest(folder: Path) -> str:
    """Digest of what a bundle answers with: all its files but the model card.

    Args:
        folder: local folder of the bundle.

    Returns:
        SHA-256 over names and contents, 16 hexadecimal digits.
    """
    total = hashlib.sha256()
    for path in sorted(path for path in folder.rglob("*") if path.is_file() and path.name != "README.md"):
        with open(path, "rb") as file:
            content = hashlib.file_digest(file, "sha256").hexdigest()
        total.update(f"{path.relative_to(folder).as_posix()} {content}\n".encode())
    return total.hexdigest()[:16]


def _load_weights(model: RAM, file: Path, *, source: str, device: torch.device) -> None:
    """Assign the file's tensors to a model without weights. The file has a shared tensor only once."""
    from safetensors import SafetensorError

    parameters = model.state_dict(keep_vars=True)
    loaded: dict[int, torch.Tensor] = {}  # by id of the parameter, because names may share it
    unexpected = []
    try:
        for name, value in _read_tensors(file, device):
            if name not in parameters:
                unexpected.append(name)
            elif value.shape != parameters[name].shape:
                raise ValueError(f"{name} has shape {tuple(value.shape)}, not {tuple(parameters[name].shape)}")
            else:
                loaded[id(parameters[name])] = value
    except (OSError, SafetensorError) as error:
        reason = str(error).splitlines()[0]
        raise ValueError(f"{source}: the weights cannot be read, copy {file.name} again: {reason}") from None
    except (ValueError, RuntimeError) as error:
        raise ValueError(f"{source}: the weights do not fit config.json: {str(error).splitlines()[0]}") from None
    missing = [name for name, parameter in parameters.items() if id(parameter) not in loaded]
    if missing or unexpected:
        raise ValueError(f"{source}: weights missing {sorted(missing)[:3]}, unknown {sorted(unexpected)[:3]}")
    model.load_state_dict({name: loaded[id(parameter)] for name, parameter in parameters.items()}, assign=True)


def _read_tensors(file: Path, device: torch.device) -> Iterator[tuple[str, torch.Tensor]]:
    """Yield the file's names and tensors: copies, or views of the mapped file for the captioner on a CPU.

    The file is mapped again after every `_CHUNK_BYTES`, so that its pages do not stay in memory beside the copies.
    """
    from safetensors import safe_open

    with safe_open(file, framework="pt") as opened:
        names = list(opened.keys())
        mapped = [name for name in names if name.startswith(_CAPTIONER)] if device.type == "cpu" else []
        for name in mapped:
            yield name, opened.get_tensor(name)
    names = [name for name in names if name not in set(mapped)]
    while names:
        nbytes = 0
        with safe_open(file, framework="pt") as opened:
            while names and nbytes < _CHUNK_BYTES:
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
