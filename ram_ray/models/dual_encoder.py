"""Image and text encoders with a shared embedding space: they embed labels, and their image features are distilled.

`Teacher` is the interface. It wraps either the dual encoder that `represent` trained, or a Hugging Face CLIP. The image
encoder of the former is the same model as the tagger's, so the tagger can start from its weights.

Letters: B batch, S pixels, T text tokens, C backbone width, E embedding width, N labels.
"""

from __future__ import annotations

import errno
import json
from functools import partial
from pathlib import Path
from typing import Protocol

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ram_ray.models.blocks import Block, TokenEmbedding, initialise
from ram_ray.models.image_encoder import ImageEncoder, normalise, token_width
from ram_ray.models.tokenizer import TextTokenizer
from ram_ray.runtime.storage import local_copy
from ram_ray.settings.models import DualEncoderConfig


class DualEncoder(nn.Module):
    """An image encoder and a small text transformer, each with a projection to the shared space.

    Args:
        config: sizes of the encoders.
    """

    def __init__(self, config: DualEncoderConfig) -> None:
        super().__init__()
        self.config = config
        text = config.text
        self.embedding = TokenEmbedding(
            config.vocab_size, text.width, max_positions=config.max_text_tokens, dropout=text.dropout
        )
        self.layers = nn.ModuleList(
            Block(text.width, heads=text.heads, ffn=text.ffn, dropout=text.dropout) for _ in range(text.layers)
        )
        self.text_proj = nn.Linear(text.width, config.embed_dim)
        self.image_proj = nn.Linear(token_width(config.encoder), config.embed_dim)
        self.logit_scale = nn.Parameter(torch.tensor([1 / 0.07]).log())  # as CLIP; (1,) for DeepSpeed
        self.apply(partial(initialise, std=config.init_std))
        self.image_encoder = ImageEncoder(config.encoder, image_size=config.image_size)

    def pooled(self, pixel_values: Tensor) -> Tensor:
        """Compute the mean token of images, before the projection.

        Args:
            pixel_values: (B, 3, S, S) float, normalised.

        Returns:
            (B, C).
        """
        return self.image_encoder(pixel_values)[:, 0]

    def image_features(self, pixel_values: Tensor) -> Tensor:
        """Compute the features of images.

        Args:
            pixel_values: (B, 3, S, S) float, normalised.

        Returns:
            (B, E), not of unit norm.
        """
        return self.image_proj(self.pooled(pixel_values))

    def text_features(self, ids: Tensor) -> Tensor:
        """Compute the features of texts: the projected mean over tokens.

        Args:
            ids: (B, T) int, 0 is padding.

        Returns:
            (B, E), not of unit norm.
        """
        mask = ids != 0
        x = self.embedding(ids)
        for layer in self.layers:
            x = layer(x, mask=mask[:, None, None, :])
        return self.text_proj((x * mask.unsqueeze(-1)).sum(1) / mask.sum(1, keepdim=True))

    def save(self, folder: Path, tokenizer: TextTokenizer) -> None:
        """Write weights, sizes and vocabulary for `Teacher.from_pretrained(folder)`.

        Args:
            folder: local folder; made if it does not exist.
            tokenizer: tokenizer of the texts.
        """
        from safetensors.torch import save_file

        folder.mkdir(parents=True, exist_ok=True)
        save_file({name: value.contiguous() for name, value in self.state_dict().items()}, folder / "model.safetensors")
        tree = {"kind": "ram_ray.dual_encoder", **self.config.model_dump(mode="json")}
        (folder / "config.json").write_text(json.dumps(tree, indent=1))
        tokenizer.save(folder)


class _Tower(Protocol):
    embed_dim: int
    image_size: int

    @property
    def model(self) -> nn.Module: ...

    def images(self, pixels: Tensor) -> Tensor: ...

    def texts(self, texts: list[str]) -> Tensor: ...

    def save(self, folder: Path) -> None: ...


class _DualEncoderTower:
    def __init__(self, folder: Path, tree: dict) -> None:
        from safetensors import SafetensorError
        from safetensors.torch import load_file

        self.model = DualEncoder(DualEncoderConfig.model_validate(tree))
        try:
            self.model.load_state_dict(load_file(folder / "model.safetensors"))
        except (OSError, SafetensorError, RuntimeError) as error:
            reason = str(error).splitlines()[0]
            raise ValueError(f"{folder}: the weights do not fit config.json: {reason}") from None
        self.model.eval().requires_grad_(False)
        self.tokenizer = TextTokenizer.load(str(folder))
        self.embed_dim, self.image_size = self.model.config.embed_dim, self.model.config.image_size

    def images(self, pixels: Tensor) -> Tensor:
        config = self.model.config
        return self.model.image_features(normalise(pixels, config.mean, config.std))

    def texts(self, texts: list[str]) -> Tensor:
        ids = self.tokenizer.encode(texts, first=self.tokenizer.enc, max_tokens=self.model.config.max_text_tokens)
        return self.model.text_features(torch.from_numpy(ids).to(self.model.text_proj.weight.device))

    def save(self, folder: Path) -> None:
        self.model.save(folder, self.tokenizer)


class _ClipTower:
    def __init__(self, folder: str) -> None:
        from transformers import AutoImageProcessor, AutoTokenizer, CLIPModel

        self.model = CLIPModel.from_pretrained(folder).eval().requires_grad_(False)
        self.tokenizer = AutoTokenizer.from_pretrained(folder)
        self.processor = AutoImageProcessor.from_pretrained(folder)
        self.mean, self.std = tuple(self.processor.image_mean), tuple(self.processor.image_std)
        self.embed_dim = self.model.config.projection_dim
        self.image_size = self.model.config.vision_config.image_size

    def images(self, pixels: Tensor) -> Tensor:
        pooled = self.model.vision_model(pixel_values=normalise(pixels, self.mean, self.std)).pooler_output
        return self.model.visual_projection(pooled)

    def texts(self, texts: list[str]) -> Tensor:
        limit = self.model.config.text_config.max_position_embeddings
        inputs = self.tokenizer(texts, padding=True, truncation=True, max_length=limit, return_tensors="pt")
        pooled = self.model.text_model(**inputs.to(self.model.device)).pooler_output
        return self.model.text_projection(pooled)

    def save(self, folder: Path) -> None:
        for part in (self.model, self.tokenizer, self.processor):
            part.save_pretrained(folder)


class Teacher:
    """A frozen dual encoder of images and texts.

    Args:
        tower: the encoders, see `from_pretrained`.
        source: path, URI or id of the encoders.
        revision: commit of an id.
    """

    def __init__(self, tower: _Tower, *, source: str, revision: str | None = None) -> None:
        self._tower = tower
        self.source, self.revision = source, revision
        self.embed_dim, self.image_size = tower.embed_dim, tower.image_size

    @classmethod
    def from_pretrained(
        cls, path_or_id: str, *, revision: str | None = None, device: str | torch.device | None = None
    ) -> Teacher:
        """Load a dual encoder of `represent`, or a CLIP.

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
            folder = local_copy(path_or_id, revision=revision)
            config = folder / "config.json"
            tree = json.loads(config.read_text()) if config.is_file() else {}
            is_dual_encoder = tree.pop("kind", None) == "ram_ray.dual_encoder"
            tower: _Tower = _DualEncoderTower(folder, tree) if is_dual_encoder else _ClipTower(str(folder))
        except (OSError, ValueError) as error:
            if isinstance(error, OSError) and error.errno == errno.ENOSPC:
                raise
            raise ValueError(
                f"represent.clip {path_or_id!r} cannot be loaded as a CLIP model; give a folder, a URI or a "
                f"Hugging Face id with its revision: {str(error).splitlines()[0]}"
            ) from error
        if device is not None:
            tower.model.to(device)
        return cls(tower, source=path_or_id, revision=revision)

    @property
    def device(self) -> torch.device:
        """Device of the encoders."""
        return next(self._tower.model.parameters()).device

    @torch.inference_mode()
    def features(self, pixels: Tensor) -> Tensor:
        """Compute the raw features of crops, which the student is trained to match.

        Args:
            pixels: (B, S, S, 3) uint8, of any S.

        Returns:
            (B, E), not of unit norm.
        """
        size = self.image_size
        if pixels.shape[1] != size:
            scaled = F.interpolate(
                pixels.permute(0, 3, 1, 2).float(), size=(size, size), mode="bilinear", antialias=True
            )
            pixels = scaled.round().clamp(0, 255).permute(0, 2, 3, 1)
        return self._tower.images(pixels)

    def encode_images(self, images: np.ndarray | list) -> np.ndarray:
        """Compute unit vectors of images.

        Args:
            images: uint8 (B, S, S, 3), of any S, or a list of RGB PIL images.

        Returns:
            (B, E) float32.
        """
        if isinstance(images, list):
            images = np.stack([np.asarray(image.resize((self.image_size, self.image_size))) for image in images])
        pixels = torch.from_numpy(np.ascontiguousarray(images)).to(self.device)
        return F.normalize(self.features(pixels).float(), dim=-1).cpu().numpy()

    @torch.inference_mode()
    def encode_texts(self, texts: list[str]) -> np.ndarray:
        """Compute unit vectors of texts.

        Args:
            texts: B texts.

        Returns:
            (B, E) float32.
        """
        return F.normalize(self._tower.texts(texts).float(), dim=-1).cpu().numpy()

    def label_embeddings(self, names: list[str], templates: list[str], *, batch: int = 256) -> Tensor:
        """Compute label embeddings: the normalised mean of the text vectors over prompt templates.

        Args:
            names: names of N labels.
            templates: prompts with "{}" for the name.
            batch: number of names that are encoded at once.

        Returns:
            (N, E) float32 unit vectors.
        """
        rows = []
        for start in range(0, len(names), batch):
            part = names[start : start + batch]
            embeddings = [self.encode_texts([template.format(name) for name in part]) for template in templates]
            mean = np.mean(embeddings, axis=0)
            rows.append(mean / np.linalg.norm(mean, axis=-1, keepdims=True))
        return torch.from_numpy(np.concatenate(rows)).float()

    def backbone(self) -> dict[str, Tensor] | None:
        """Return the weights `image_encoder.*` that a tagger can start from.

        Returns:
            Name -> tensor; None for a CLIP, which has another image encoder.
        """
        if not isinstance(self._tower, _DualEncoderTower):
            return None
        state = self._tower.model.state_dict()
        return {name: value for name, value in state.items() if name.startswith("image_encoder.")}

    def save(self, folder: Path) -> None:
        """Write a self-contained copy, so that a model bundle can encode custom tags without a download.

        Args:
            folder: local folder; made if it does not exist.
        """
        self._tower.save(folder)
