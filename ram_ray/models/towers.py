"""Encoders of texts and of images, which `Teacher` wraps: two in one model, or each alone.

    OwnDualTower          the dual encoder that `represent` trained
    PublishedDualTower    CLIP or SigLIP of transformers
    TextTower             a text encoder in the layout of sentence-transformers
    ImageTower            a timm model; the feature of an image is its mean token

Letters: B batch, S pixels, E embedding width.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from ram_ray.models.dual_encoder import DualEncoder
from ram_ray.models.image_encoder import ImageEncoder, normalise
from ram_ray.models.pretrained import load_pretrained, own_normalisation
from ram_ray.models.sentence_files import MODULES_FILE, read_sentence_files
from ram_ray.models.timm_import import import_timm
from ram_ray.models.tokenizer import TextTokenizer
from ram_ray.settings.models import DualEncoderConfig, TimmConfig

IMAGE_ENCODER = "ram_ray.image_encoder"  # the "kind" of config.json of an `ImageTower`
PUBLISHED = ("clip", "siglip")  # model types of transformers
_WEIGHTS = "model.safetensors"
_POOLING = "1_Pooling"


class TextEncoder(Protocol):
    """Encodes texts; `embed_dim` is E."""

    embed_dim: int

    @property
    def model(self) -> nn.Module:
        """The weights."""
        ...

    def texts(self, texts: list[str]) -> Tensor:
        """Encode B texts as (B, E), not of unit norm."""
        ...

    def save(self, folder: Path) -> None:
        """Write all that is needed to load the encoder again."""
        ...


class PixelEncoder(Protocol):
    """Encodes images of `image_size` pixels a side."""

    image_size: int

    @property
    def model(self) -> nn.Module:
        """The weights."""
        ...

    def images(self, pixels: Tensor) -> Tensor:
        """Encode uint8 pixels (B, S, S, 3) as (B, E), not of unit norm."""
        ...

    def pooled(self, pixels: Tensor) -> Tensor:
        """Encode uint8 pixels (B, S, S, 3) as (B, C): the backbone's feature, before a projection to a joint space."""
        ...

    def save(self, folder: Path) -> None:
        """Write all that is needed to load the encoder again."""
        ...


class OwnDualTower:
    """The dual encoder of `represent`.

    Args:
        folder: local folder of `DualEncoder.save`.
        tree: its config.json without the kind.

    Raises:
        ValueError: if the weights do not fit the config.
    """

    def __init__(self, folder: Path, tree: dict) -> None:
        self.model = DualEncoder(DualEncoderConfig.model_validate(tree))
        _load(self.model, folder)
        self.tokenizer = TextTokenizer.load(str(folder))
        self.embed_dim, self.image_size = self.model.config.embed_dim, self.model.config.image_size

    def images(self, pixels: Tensor) -> Tensor:
        """See `PixelEncoder.images`."""
        return self.model.image_proj(self.pooled(pixels))

    def pooled(self, pixels: Tensor) -> Tensor:
        """See `PixelEncoder.pooled`."""
        config = self.model.config
        return self.model.pooled(normalise(pixels, config.mean, config.std))

    def texts(self, texts: list[str]) -> Tensor:
        """See `TextEncoder.texts`."""
        ids = self.tokenizer.encode(texts, first=self.tokenizer.enc, max_tokens=self.model.config.max_text_tokens)
        return self.model.text_features(torch.from_numpy(ids).to(self.model.text_proj.weight.device))

    def save(self, folder: Path) -> None:
        """See `TextEncoder.save`."""
        self.model.save(folder, self.tokenizer)


class PublishedDualTower:
    """CLIP or SigLIP of transformers.

    Args:
        folder: local folder of the model, its tokenizer and its image processor.
        kind: one of `PUBLISHED`.
    """

    def __init__(self, folder: Path, kind: str) -> None:
        from transformers import AutoImageProcessor, AutoTokenizer, CLIPModel, SiglipModel

        self._is_siglip = kind == "siglip"
        loader: Any = SiglipModel if self._is_siglip else CLIPModel
        with without_progress_bar():
            self.model = loader.from_pretrained(folder).eval().requires_grad_(False)
        self.tokenizer = AutoTokenizer.from_pretrained(folder)
        self.processor = AutoImageProcessor.from_pretrained(folder)
        self.mean, self.std = tuple(self.processor.image_mean), tuple(self.processor.image_std)
        config = self.model.config
        self.embed_dim = config.vision_config.hidden_size if self._is_siglip else config.projection_dim
        self.image_size = config.vision_config.image_size

    def images(self, pixels: Tensor) -> Tensor:
        """See `PixelEncoder.images`."""
        pooled = self.pooled(pixels)
        return pooled if self._is_siglip else self.model.visual_projection(pooled)

    def pooled(self, pixels: Tensor) -> Tensor:
        """See `PixelEncoder.pooled`."""
        return self.model.vision_model(pixel_values=normalise(pixels, self.mean, self.std)).pooler_output

    def texts(self, texts: list[str]) -> Tensor:
        """See `TextEncoder.texts`; SigLIP was trained with texts padded to the full length."""
        limit = self.model.config.text_config.max_position_embeddings
        padding = "max_length" if self._is_siglip else True
        inputs = self.tokenizer(texts, padding=padding, truncation=True, max_length=limit, return_tensors="pt")
        if self._is_siglip:
            return self.model.text_model(input_ids=inputs["input_ids"].to(self.model.device)).pooler_output
        return self.model.text_projection(self.model.text_model(**inputs.to(self.model.device)).pooler_output)

    def save(self, folder: Path) -> None:
        """See `TextEncoder.save`."""
        with without_progress_bar():
            for part in (self.model, self.tokenizer, self.processor):
                part.save_pretrained(folder)


class TextTower:
    """A text encoder of transformers with the pooling that its sentence-transformers files name.

    Not loaded by the package sentence-transformers, because a bundle's own tags must work without it.

    Args:
        folder: local folder of the model and its tokenizer.

    Raises:
        ValueError: if the files name parts other than a transformer, mean or first-token pooling, and a unit norm.
    """

    def __init__(self, folder: Path) -> None:
        from transformers import AutoModel, AutoTokenizer

        root, self._pooling, limit = read_sentence_files(folder)
        with without_progress_bar():
            self.model = AutoModel.from_pretrained(root).eval().requires_grad_(False)
        self.tokenizer = AutoTokenizer.from_pretrained(root)
        self._max_tokens = min(limit, self.tokenizer.model_max_length)
        self.embed_dim = self.texts(["a"]).shape[1]

    @torch.inference_mode()
    def texts(self, texts: list[str]) -> Tensor:
        """See `TextEncoder.texts`."""
        inputs = self.tokenizer(
            texts, padding=True, truncation=True, max_length=self._max_tokens, return_tensors="pt"
        ).to(self.model.device)
        hidden = self.model(**inputs).last_hidden_state
        if self._pooling == "cls":
            return hidden[:, 0]
        mask = inputs["attention_mask"].unsqueeze(-1).to(hidden.dtype)
        return (hidden * mask).sum(1) / mask.sum(1).clamp(min=1e-9)

    def save(self, folder: Path) -> None:
        """See `TextEncoder.save`."""
        with without_progress_bar():
            self.model.save_pretrained(folder)
        self.tokenizer.save_pretrained(folder)
        parts = [("0", "", "Transformer"), ("1", _POOLING, "Pooling")]
        modules = [
            {"idx": index, "name": name, "path": path, "type": f"sentence_transformers.models.{part}"}
            for index, (name, path, part) in enumerate(parts)
        ]
        (folder / MODULES_FILE).write_text(json.dumps(modules, indent=1))
        (folder / "sentence_bert_config.json").write_text(json.dumps({"max_seq_length": self._max_tokens}))
        (folder / _POOLING).mkdir(exist_ok=True)
        pooling = {
            "word_embedding_dimension": self.embed_dim,
            "pooling_mode_cls_token": self._pooling == "cls",
            "pooling_mode_mean_tokens": self._pooling == "mean",
        }
        (folder / _POOLING / "config.json").write_text(json.dumps(pooling, indent=1))


class ImageTower:
    """A timm model that embeds images.

    Args:
        config: of the model.
        image_size: S.
        mean: of each channel, 0 to 1.
        std: standard deviation of each channel.
    """

    def __init__(self, config: TimmConfig, *, image_size: int, mean: tuple[float, ...], std: tuple[float, ...]) -> None:
        self.model = ImageEncoder(config, image_size=image_size).eval()
        self.model.freeze()
        self.image_size, self.mean, self.std = image_size, mean, std

    @classmethod
    def pretrained(cls, config: TimmConfig, *, image_size: int | None) -> ImageTower:
        """Load a model with the weights and the normalisation that its config names.

        Args:
            config: of the model, with weights.
            image_size: S; None: the size that timm names for it.

        Returns:
            The tower.

        Raises:
            ValueError: if there are no such weights, or they do not fit.
        """
        import_timm()
        from timm.models import get_pretrained_cfg

        if image_size is None:
            known = get_pretrained_cfg(str(config.name))
            image_size = int(known.input_size[-1]) if known else 224
        mean, std = own_normalisation(config)
        tower = cls(config, image_size=image_size, mean=mean, std=std)
        load_pretrained(tower.model)
        return tower

    @classmethod
    def load(cls, folder: Path) -> ImageTower:
        """Load a tower of `save`.

        Args:
            folder: local folder.

        Returns:
            The tower.

        Raises:
            ValueError: if the weights do not fit the config.
        """
        tree = json.loads((folder / "config.json").read_text())
        tower = cls(
            TimmConfig.model_validate(tree["encoder"]),
            image_size=tree["image_size"],
            mean=tuple(tree["mean"]),
            std=tuple(tree["std"]),
        )
        _load(tower.model, folder)
        return tower

    def images(self, pixels: Tensor) -> Tensor:
        """See `PixelEncoder.images`."""
        return self.pooled(pixels)

    def pooled(self, pixels: Tensor) -> Tensor:
        """See `PixelEncoder.pooled`."""
        return self.model(normalise(pixels, self.mean, self.std))[:, 0]

    def save(self, folder: Path) -> None:
        """See `PixelEncoder.save`."""
        from safetensors.torch import save_file

        folder.mkdir(parents=True, exist_ok=True)
        save_file({name: value.contiguous() for name, value in self.model.state_dict().items()}, folder / _WEIGHTS)
        assert isinstance(self.model.config, TimmConfig)
        tree = {
            "kind": IMAGE_ENCODER,
            "encoder": self.model.config.model_dump(mode="json"),
            "image_size": self.image_size,
            "mean": self.mean,
            "std": self.std,
        }
        (folder / "config.json").write_text(json.dumps(tree, indent=1))


@contextmanager
def without_progress_bar() -> Iterator[None]:
    """Switch off the bars that transformers draws on standard error while it loads or writes weights."""
    from transformers.utils import logging

    enabled = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        if enabled:
            logging.enable_progress_bar()


def _load(model: nn.Module, folder: Path) -> None:
    """Load the weights of a folder, and freeze them."""
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        model.load_state_dict(load_file(folder / _WEIGHTS))
    except (OSError, SafetensorError) as error:
        reason = str(error).splitlines()[0]
        raise ValueError(f"{folder}: the weights cannot be read, copy {_WEIGHTS} again: {reason}") from None
    except RuntimeError as error:
        raise ValueError(f"{folder}: the weights do not fit config.json: {str(error).splitlines()[0]}") from None
    model.eval().requires_grad_(False)
