"""The image encoder: a Swin by its sizes or a timm model by its name; its output is the mean token, then all tokens.

The tokens are the last feature map: of a convolutional network its positions, of a Swin the positions of its last
stage, of a ViT its patches without class and register tokens. Width and grid are the model's. Where a model normalises
only in its classifier head (ConvNeXt, a ViT with average pooling), that norm is applied to each token.

Letters: B batch, S pixels a side, L tokens, C their width.
"""

from __future__ import annotations

import contextlib
import copy
import functools
from typing import Any

import torch
from torch import Tensor, nn

from ram_ray.models.fused_norms import fuse_batch_norms
from ram_ray.models.timm_import import import_timm
from ram_ray.settings.models import SwinConfig, TimmConfig


class ImageEncoder(nn.Module):
    """A timm model without its classifier.

    A Swin is built with the window size of its config. At another `image_size`, timm pads images or shrinks windows;
    the weights fit any resolution with the same window. Other models are built for `image_size`.

    Args:
        config: sizes of a Swin, or the name of a timm model; weights are new (see `pretrained` for others).
        image_size: S.

    Raises:
        ValueError: if timm has no such model, or cannot build it for this image size.
    """

    backbone: Any  # a timm model, whose attributes nn.Module does not declare

    def __init__(self, config: SwinConfig | TimmConfig, *, image_size: int) -> None:
        super().__init__()
        self.config, self.image_size = config, image_size
        self.backbone = _swin(config, image_size) if isinstance(config, SwinConfig) else _timm(config, image_size)
        self._fused: list[Any] | None = None  # in a list, so that it is not a submodule: see `freeze`
        self.train()

    @property
    def width(self) -> int:
        """Width of the tokens, C."""
        return int(self.backbone.num_features)

    @property
    def first_stride(self) -> int:
        """Side in pixels of a position of the first stage."""
        if isinstance(self.config, SwinConfig):
            return self.config.patch_size
        return int(self.backbone.feature_info[0]["reduction"])

    @property
    def is_frozen(self) -> bool:
        """Whether it was frozen: it gives an image the same tokens at any time."""
        return self._fused is not None

    def forward(self, pixel_values: Tensor) -> Tensor:
        """Encode images.

        Args:
            pixel_values: (B, 3, S, S) float, normalised.

        Returns:
            Tokens (B, 1 + L, C); token 0 is the mean of the others.
        """
        if self._is_convolutional:  # twice as fast on a CPU; the weights stay, or DeepSpeed cannot send them
            pixel_values = pixel_values.contiguous(memory_format=torch.channels_last)
        features = self._running_backbone().forward_features(pixel_values)
        if features.ndim == 4:
            nhwc = getattr(self.backbone, "output_fmt", "NCHW") == "NHWC"
            tokens = features.flatten(1, 2) if nhwc else features.flatten(2).transpose(1, 2)
        else:
            tokens = features[:, getattr(self.backbone, "num_prefix_tokens", 0) :]
        tokens = self._apply_head_norm(tokens)
        return torch.cat([tokens.mean(1, keepdim=True), tokens], dim=1)

    def train(self, mode: bool = True) -> ImageEncoder:
        """Set the mode; BatchNorm keeps the statistics that came with pretrained weights.

        Batches of a training are too small to estimate them anew, and differ from worker to worker. A frozen encoder
        stays as it is at inference.

        Args:
            mode: True: training.

        Returns:
            The encoder.
        """
        super().train(mode and not self.is_frozen)
        if isinstance(self.config, TimmConfig) and self.config.weights:
            for module in self.backbone.modules():
                if isinstance(module, nn.modules.batchnorm._BatchNorm):
                    module.eval()
        return self

    def set_recompute(self, enabled: bool) -> None:
        """Set whether the backward pass computes the blocks again, where timm can and no BatchNorm counts images.

        Args:
            enabled: True: activations of the blocks are not kept.
        """
        norms = [module for module in self.modules() if isinstance(module, nn.modules.batchnorm._BatchNorm)]
        counts = not isinstance(self.config, SwinConfig) and any(norm.training for norm in norms)
        with contextlib.suppress(AssertionError):  # timm's way to say that a model cannot
            self.backbone.set_grad_checkpointing(enabled and not counts)

    def freeze(self) -> None:
        """Freeze all weights. From then on a convolutional encoder computes with a copy that has no batch norms.

        The copy is made of the weights at the first forward pass, on their device; it is in no state dict. Where ZeRO-3
        has spread the weights over workers there is none.
        """
        self.requires_grad_(False)
        self._fused = []
        self.eval()

    def _running_backbone(self) -> Any:
        if self._fused is None or not self._is_convolutional:
            return self.backbone
        if not self._fused:
            is_spread = not all(parameter.numel() for parameter in self.backbone.parameters())
            self._fused.append(self.backbone if is_spread else self._fuse())
        return self._fused[0]

    @torch.no_grad()
    def _fuse(self) -> Any:
        """A copy for inference; the order of its layers was guessed right if it gives the same features."""
        plain = copy.deepcopy(self.backbone).eval()
        fused = fuse_batch_norms(copy.deepcopy(plain))
        weight = next(self.backbone.parameters())
        generator = torch.Generator().manual_seed(0)  # its own: a resumed training draws the same numbers
        pixels = torch.rand(1, 3, self.image_size, self.image_size, generator=generator).to(weight)
        with torch.autocast(weight.device.type, enabled=False):
            expected, features = plain.forward_features(pixels).float(), fused.forward_features(pixels).float()
        is_same = (features - expected).abs().max() <= 0.01 * expected.abs().max()
        return fused if is_same else plain

    def freeze_unused(self) -> None:
        """Freeze the weights that no token depends on, such as attention pooling, because DDP waits for gradients."""
        if isinstance(self.config, SwinConfig):
            return
        with torch.device("meta"):
            on_meta = ImageEncoder(self.config, image_size=self.image_size)
            on_meta(torch.zeros(2, 3, self.image_size, self.image_size)).sum().backward()
        for parameter, shape_only in zip(self.parameters(), on_meta.parameters(), strict=True):
            if shape_only.grad is None:
                parameter.requires_grad_(False)

    @functools.cached_property
    def _is_convolutional(self) -> bool:
        """Whether the maps between the layers are (B, C, h, w)."""
        has_norms = any(isinstance(module, nn.modules.batchnorm._BatchNorm) for module in self.backbone.modules())
        return isinstance(self.config, TimmConfig) and has_norms

    def _apply_head_norm(self, tokens: Tensor) -> Tensor:
        """Apply the norm of a head that normalises after pooling, to each token (B, L, C)."""
        head = getattr(self.backbone, "head", None)
        norm = head.norm if isinstance(head, nn.Module) and hasattr(head, "norm") else None
        if isinstance(norm, nn.LayerNorm):  # timm's subclass takes maps (B, C, h, w), so it is not called
            return nn.functional.layer_norm(tokens, norm.normalized_shape, norm.weight, norm.bias, norm.eps)
        return (
            self.backbone.fc_norm(tokens) if isinstance(getattr(self.backbone, "fc_norm", None), nn.Module) else tokens
        )


def token_width(config: SwinConfig | TimmConfig) -> int:
    """Compute the width of an encoder's tokens without building its weights.

    Args:
        config: of the encoder.

    Returns:
        C.
    """
    return config.num_features if isinstance(config, SwinConfig) else _timm_width(str(config.name))


def check_encoder(config: TimmConfig, *, image_size: int) -> None:
    """Check that a timm model gives a square grid of tokens; nothing is computed, and no weights are needed.

    Args:
        config: of the encoder.
        image_size: S.

    Raises:
        ValueError: if there is no such model, or it takes no images of this size or has no grid of tokens.
    """
    try:
        num_tokens, width = count_tokens(config, image_size)
    except (RuntimeError, AssertionError, AttributeError, TypeError, IndexError) as error:
        reason = " ".join(str(error).split())[:200]
        raise ValueError(f"{config.name} takes no images of {image_size} px: {reason}") from None
    grid = num_tokens - 1  # without the mean
    if round(grid**0.5) ** 2 != grid or width != token_width(config):
        raise ValueError(f"{config.name} has no square grid of tokens at {image_size} px, but {grid} x {width}")


@functools.lru_cache(maxsize=32)
def count_tokens(config: SwinConfig | TimmConfig, image_size: int) -> tuple[int, int]:
    """Find the shape of an image's tokens; nothing is computed, and no weights are needed.

    Args:
        config: of the encoder.
        image_size: S.

    Returns:
        (1 + L, C).
    """
    with torch.device("meta"):
        encoder = ImageEncoder(config, image_size=image_size).eval()
        _, num_tokens, width = encoder(torch.zeros(1, 3, image_size, image_size)).shape
    return num_tokens, width


@functools.lru_cache(maxsize=32)
def _timm_width(name: str) -> int:
    with torch.device("meta"):
        return int(_create(name).num_features)


def _swin(config: SwinConfig, image_size: int) -> Any:
    import_timm()
    from timm.layers import PatchEmbed
    from timm.models.swin_transformer import SwinTransformer

    from ram_ray.models.stem import ConvolutionStem

    return SwinTransformer(
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


def _timm(config: TimmConfig, image_size: int) -> Any:
    name = str(config.name)
    options: dict = {"drop_path_rate": config.drop_path}
    try:
        known = import_timm().models.get_pretrained_cfg(name)
    except (RuntimeError, ValueError) as error:
        raise ValueError(_unknown(name, error)) from None
    if known is not None and known.fixed_input_size:
        options["img_size"] = image_size
    if is_timm_swin(name):
        options |= {"window_size": config.window_size, "strict_img_size": False}
    return _create(name, **options)


def _create(name: str, **options: Any) -> Any:
    timm = import_timm()
    if not timm.is_model(name):
        raise ValueError(_unknown(name, "no such name"))
    try:
        return timm.create_model(name, pretrained=False, num_classes=0, **options)
    except TypeError as error:
        if options.get("drop_path_rate") != 0.0 or "drop_path_rate" not in str(error):
            raise ValueError(_unknown(name, error)) from None
        del options["drop_path_rate"]  # the model has none
        return _create(name, **options)
    except (RuntimeError, ValueError, AssertionError) as error:
        raise ValueError(_unknown(name, error)) from None


def _unknown(name: str, error: object) -> str:
    return " ".join(f"image_encoder.name {name!r}: timm cannot make this model: {error}".split())[:300]


def is_timm_swin(name: str) -> bool:
    """Whether a name of timm is a Swin's, whose window size is free.

    Args:
        name: with or without a tag.

    Returns:
        Whether it is one.
    """
    models = import_timm().models
    return bool(models.is_model_in_modules(models.split_model_name_tag(name)[0], {"swin_transformer"}))


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
