"""The image encoder: a timm Swin; its output is the mean token, followed by the tokens of the last stage.

Letters: B batch, S pixels a side, L tokens of the last stage, C their width.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from ram_ray.settings.models import SwinConfig


class ImageEncoder(nn.Module):
    """Swin without its classifier.

    The config sets `window_size`. At another `image_size`, timm pads images or shrinks windows; the weights fit any
    resolution with the same window.

    Args:
        config: sizes of the Swin.
        image_size: S.
    """

    def __init__(self, config: SwinConfig, *, image_size: int) -> None:
        super().__init__()
        from timm.layers import PatchEmbed
        from timm.models.swin_transformer import SwinTransformer

        from ram_ray.models.stem import ConvolutionStem

        self.swin = SwinTransformer(
            img_size=image_size,
            patch_size=config.patch_size,
            num_classes=0,
            embed_dim=config.embed_dim,
            depths=config.depths,
            num_heads=config.num_heads,
            window_size=config.window_size,
            drop_path_rate=config.drop_path,
            strict_img_size=False,
            embed_layer=ConvolutionStem if config.stem == "convolutions" else PatchEmbed,
        )

    def forward(self, pixel_values: Tensor) -> Tensor:
        """Encode images.

        Args:
            pixel_values: (B, 3, S, S) float, normalised.

        Returns:
            Tokens (B, 1 + L, C); token 0 is the mean of the others.
        """
        tokens = self.swin.forward_features(pixel_values).flatten(1, 2)
        return torch.cat([tokens.mean(1, keepdim=True), tokens], dim=1)

    def fill_buffers(self) -> None:
        """Compute the buffers that a state dict does not have, for an encoder that was built on the meta device."""
        from timm.models.swin_transformer import WindowAttention, get_relative_position_index

        for module in self.modules():
            if isinstance(module, WindowAttention):
                module.register_buffer(
                    "relative_position_index", get_relative_position_index(*module.window_size), persistent=False
                )


def normalise(pixels: Tensor, mean: tuple[float, ...], std: tuple[float, ...]) -> Tensor:
    """Normalise pixels for the encoder.

    Args:
        pixels: (B, S, S, 3) uint8.
        mean: mean of each channel, 0 to 1.
        std: standard deviation of each channel.

    Returns:
        (B, 3, S, S) float32, on the device of `pixels`.
    """
    scale = torch.tensor(std, device=pixels.device)[:, None, None]
    shift = torch.tensor(mean, device=pixels.device)[:, None, None]
    pixels = pixels.permute(0, 3, 1, 2).contiguous().float()
    return pixels.div_(255).sub_(shift).div_(scale)  # torchvision's order of operations, for bit-equal results
