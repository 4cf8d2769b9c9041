"""The dual encoder that `represent` trains: an image and a text encoder with a shared embedding space.

Its image encoder is the same model as the tagger's, so the tagger can start from its weights.

Letters: B batch, S pixels, T text tokens, C backbone width, E embedding width, N labels.
"""

from __future__ import annotations

import json
from functools import partial
from pathlib import Path

import torch
from torch import Tensor, nn

from ram_ray.models.blocks import Block, TokenEmbedding, initialise
from ram_ray.models.image_encoder import ImageEncoder, token_width
from ram_ray.models.tokenizer import TextTokenizer
from ram_ray.settings.models import DualEncoderConfig

DUAL_ENCODER = "ram_ray.dual_encoder"  # the "kind" of its config.json


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
        tree = {"kind": DUAL_ENCODER, **self.config.model_dump(mode="json")}
        (folder / "config.json").write_text(json.dumps(tree, indent=1))
        tokenizer.save(folder)
