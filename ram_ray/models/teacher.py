"""The frozen encoders of texts and images that a training uses: they embed labels and crops, and teach the tagger.

`Teacher` is the interface. A dual encoder (that of `represent`, a CLIP, a SigLIP) embeds both in one space, so its
image feature can be distilled. Or a text encoder embeds labels, and an image encoder embeds crops: then nothing is
distilled.

Letters: B batch, S pixels, E embedding width, N labels.
"""

from __future__ import annotations

import errno
import json
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from ram_ray.models.dual_encoder import DUAL_ENCODER
from ram_ray.models.towers import (
    PUBLISHED,
    ImageTower,
    OwnDualTower,
    PixelEncoder,
    PublishedDualTower,
    TextEncoder,
    TextTower,
)
from ram_ray.runtime.storage import local_copy
from ram_ray.settings.models import TimmConfig
from ram_ray.settings.prompts import fill

APART = "ram_ray.encoders"  # the "kind" of config.json of encoders apart
_TEXT, _IMAGE = "text", "image"  # their folders


class Teacher:
    """Frozen encoders of texts and, except in a bundle's text encoder, of images.

    Args:
        text: encoder of texts.
        image: encoder of images: the same object for a dual encoder; None: there is none.
        source: path, URI or id of the encoders.
        revision: commit of an id.
    """

    def __init__(
        self, text: TextEncoder, image: PixelEncoder | None, *, source: str, revision: str | None = None
    ) -> None:
        self.text, self.image = text, image
        self.source, self.revision = source, revision
        self.embed_dim = text.embed_dim

    @classmethod
    def from_pretrained(
        cls, path_or_id: str, *, revision: str | None = None, device: str | torch.device | None = None
    ) -> Teacher:
        """Load a dual encoder, encoders of `save`, or a text encoder alone.

        Args:
            path_or_id: local folder, URI or Hugging Face id.
            revision: commit of a Hugging Face id; pin it.
            device: device of the encoders; None: the CPU.

        Returns:
            The teacher.

        Raises:
            ValueError: if there is no model that can be loaded.
            OSError: if the disk is full.
        """
        try:
            text, image = _load_towers(local_copy(path_or_id, revision=revision))
        except (OSError, ValueError, KeyError, TypeError, AttributeError, RuntimeError) as error:
            if isinstance(error, OSError) and error.errno == errno.ENOSPC:
                raise
            raise ValueError(
                f"the encoder {path_or_id!r} cannot be loaded as a CLIP, a SigLIP or a text encoder; give a folder, a "
                f"URI or a Hugging Face id with its revision: {(str(error).splitlines() or [''])[0]}"
            ) from error
        return cls(text, image, source=path_or_id, revision=revision).to(device)

    @classmethod
    def apart(
        cls, text: str, *, revision: str | None = None, image: TimmConfig | None, image_size: int | None = None
    ) -> Teacher:
        """Load a text encoder and a timm model.

        Args:
            text: local folder, URI or Hugging Face id of the text encoder.
            revision: commit of a Hugging Face id; pin it.
            image: the timm model with its weights; None: no image encoder.
            image_size: S; None: the size that timm names for the model.

        Returns:
            The teacher, on the CPU.

        Raises:
            ValueError: if one of them cannot be loaded, or the text encoder is a dual encoder.
        """
        teacher = cls.from_pretrained(text, revision=revision)
        if teacher.is_dual:
            raise ValueError(f"represent.text_encoder {text!r} is a dual encoder: set represent.clip")
        teacher.image = None if image is None else ImageTower.pretrained(image, image_size=image_size)
        return teacher

    @property
    def is_dual(self) -> bool:
        """Whether texts and images have a shared space, so that image features can be distilled."""
        return self.image is self.text

    @property
    def image_size(self) -> int:
        """S of the image encoder."""
        return self._pixel_encoder().image_size

    @property
    def device(self) -> torch.device:
        """Device of the encoders."""
        return next(self.text.model.parameters()).device

    def to(self, device: str | torch.device | None) -> Teacher:
        """Move the encoders.

        Args:
            device: None: they stay where they are.

        Returns:
            The teacher.
        """
        for tower in (self.text, self.image):
            if device is not None and tower is not None:
                tower.model.to(device)
        return self

    @torch.inference_mode()
    def features(self, pixels: Tensor) -> Tensor:
        """Compute the raw features of crops; a student is trained to match those of a dual encoder.

        Args:
            pixels: (B, S, S, 3) uint8, of any S.

        Returns:
            (B, E), not of unit norm.

        Raises:
            ValueError: if there is no image encoder.
        """
        encoder = self._pixel_encoder()
        return encoder.images(resize_crops(pixels, encoder.image_size))

    @torch.inference_mode()
    def pooled(self, pixels: Tensor) -> Tensor:
        """Compute the backbone's features of crops, which a probe is trained on.

        Args:
            pixels: (B, S, S, 3) uint8, of any S.

        Returns:
            (B, C), not of unit norm; C is the width of the backbone.

        Raises:
            ValueError: if there is no image encoder.
        """
        encoder = self._pixel_encoder()
        return encoder.pooled(resize_crops(pixels, encoder.image_size))

    def encode_images(self, images: np.ndarray | list) -> np.ndarray:
        """Compute unit vectors of images.

        Args:
            images: uint8 (B, S, S, 3), of any S, or a list of RGB PIL images.

        Returns:
            (B, E) float32.
        """
        if isinstance(images, list):
            images = np.stack([np.asarray(image.resize((self.image_size, self.image_size))) for image in images])
        pixels = torch.from_numpy(np.require(images, requirements=["C", "W"])).to(self.device)
        return F.normalize(self.features(pixels).float(), dim=-1).cpu().numpy()

    @torch.inference_mode()
    def encode_texts(self, texts: list[str]) -> np.ndarray:
        """Compute unit vectors of texts.

        Args:
            texts: B texts.

        Returns:
            (B, E) float32.
        """
        return F.normalize(self.text.texts(texts).float(), dim=-1).cpu().numpy()

    def label_embeddings(self, names: list[str], templates: list[str], *, batch: int = 256) -> Tensor:
        """Compute label embeddings: the normalised mean of the text vectors over prompt templates.

        Args:
            names: names of N labels.
            templates: prompts with "{}" for the name, see `prompts.fill`.
            batch: number of names that are encoded at once.

        Returns:
            (N, E) float32 unit vectors.
        """
        rows = []
        for start in range(0, len(names), batch):
            part = names[start : start + batch]
            embeddings = [self.encode_texts([fill(template, name) for name in part]) for template in templates]
            mean = np.mean(embeddings, axis=0)
            rows.append(mean / np.linalg.norm(mean, axis=-1, keepdims=True))
        return torch.from_numpy(np.concatenate(rows)).float()

    def backbone(self) -> dict[str, Tensor] | None:
        """Return the weights `image_encoder.*` that a tagger can start from.

        Returns:
            Name -> tensor; None if `represent` did not train the encoders.
        """
        if not isinstance(self.text, OwnDualTower):
            return None
        state = self.text.model.state_dict()
        return {name: value for name, value in state.items() if name.startswith("image_encoder.")}

    def save(self, folder: Path) -> None:
        """Write a self-contained copy of the encoders.

        Args:
            folder: local folder; made if it does not exist.
        """
        folder.mkdir(parents=True, exist_ok=True)
        if self.is_dual or self.image is None:
            self.text.save(folder)
            return
        for name, tower in ((_TEXT, self.text), (_IMAGE, self.image)):
            (folder / name).mkdir(exist_ok=True)
            tower.save(folder / name)
        (folder / "config.json").write_text(json.dumps({"kind": APART}))

    def save_text(self, folder: Path) -> None:
        """Write a self-contained copy of what embeds texts, so that a bundle embeds tags without a download.

        Args:
            folder: local folder; made if it does not exist.
        """
        folder.mkdir(parents=True, exist_ok=True)
        self.text.save(folder)

    def _pixel_encoder(self) -> PixelEncoder:
        if self.image is None:
            raise ValueError(f"the text encoder {self.source!r} embeds no images: a run needs an image encoder too")
        return self.image


def resize_crops(pixels: Tensor, size: int) -> Tensor:
    """Resize crops to the input of another model.

    Args:
        pixels: (B, S, S, 3) uint8.
        size: S of the result.

    Returns:
        (B, S, S, 3) of whole numbers 0 to 255; the same tensor if it has this size.
    """
    if pixels.shape[1] == size:
        return pixels
    scaled = F.interpolate(pixels.permute(0, 3, 1, 2).float(), size=(size, size), mode="bilinear", antialias=True)
    return scaled.round().clamp(0, 255).permute(0, 2, 3, 1)


def _load_towers(folder: Path) -> tuple[TextEncoder, PixelEncoder | None]:
    config = folder / "config.json"
    tree = json.loads(config.read_text()) if config.is_file() else {}
    kind = tree.pop("kind", None)
    if kind == APART:
        return TextTower(folder / _TEXT), ImageTower.load(folder / _IMAGE)
    if kind == DUAL_ENCODER or tree.get("model_type") in PUBLISHED:
        dual = OwnDualTower(folder, tree) if kind == DUAL_ENCODER else PublishedDualTower(folder, tree["model_type"])
        return dual, dual
    return TextTower(folder), None
