"""Floating point operations of the tagger for one image, from the sizes in the configuration.

A product of matrices counts two operations a weight and token; norms, softmax and activations are left out. The
backward pass costs twice the forward pass, and `training.recompute` one more forward pass.

Letters: L tokens of a Swin's stage, C its width, M side of a window, T image tokens of the head, N labels.
"""

from __future__ import annotations

from ram_ray.config import RunConfig
from ram_ray.settings.models import SwinConfig
from ram_ray.settings.training import TrainConfig

GIGA = 1e9
MLP_RATIO = 4
# timm's Swins by the second word of their names: width of the first stage, blocks of each stage.
TIMM_SWINS = {
    "tiny": (96, (2, 2, 6, 2)),
    "small": (96, (2, 2, 18, 2)),
    "base": (128, (2, 2, 18, 2)),
    "large": (192, (2, 2, 18, 2)),
}
# GFLOP of other encoders at 224 pixels, as their papers count them (two operations a multiply-add).
OTHER_ENCODERS = {"tf_efficientnet_lite0": 0.8, "convnext_tiny": 9.0, "convnext_base": 30.8, "resnet50": 8.2}


def forward_gflop(config: RunConfig, *, image_size: int, window_size: int, num_labels: int) -> dict[str, float]:
    """Count the forward pass of the tagger.

    Args:
        config: of the run.
        image_size: side of the input in pixels.
        window_size: side of the Swin's attention window in patches.
        num_labels: N.

    Returns:
        GFLOP an image: "encoder", "head", and "captions" (tag encoder and caption decoder).

    Raises:
        ValueError: if the image encoder's operations are not known.
    """
    encoder, tokens, width = encoder_gflop(config, image_size=image_size, window_size=window_size)
    context = config.model.image_proj or width
    return {
        "encoder": encoder,
        "head": head_gflop(config, num_tokens=tokens + 1, context=context, num_labels=num_labels),
        "captions": captions_gflop(config, num_tokens=tokens + 1, context=context) if config.model.captions else 0.0,
    }


def training_gflop(config: RunConfig, train: TrainConfig, *, num_labels: int, teacher: float) -> float:
    """Count a training step for one image.

    Args:
        config: of the run.
        train: section of the training.
        num_labels: N.
        teacher: GFLOP of the teacher's image encoder, which is run forward where its feature is distilled.

    Returns:
        GFLOP an image, forward and backward, with what is computed again.
    """
    parts = forward_gflop(config, image_size=train.image_size, window_size=train.window_size, num_labels=num_labels)
    if not train.caption_loss:
        parts["captions"] = 0.0
    passes = 4 if config.training.recompute else 3
    frozen = train.backbone_lr == 0
    encoder = 0.0 if frozen and train.views else parts["encoder"] * (1 if frozen else passes)
    distilled = teacher if train.distill_loss and config.represent.text_encoder is None else 0.0
    return encoder + passes * (parts["head"] + parts["captions"]) + distilled


def encoder_gflop(config: RunConfig, *, image_size: int, window_size: int) -> tuple[float, int, int]:
    """Count the image encoder.

    Args:
        config: of the run.
        image_size: side of the input in pixels.
        window_size: M, of a Swin.

    Returns:
        GFLOP an image, and number and width of its tokens.

    Raises:
        ValueError: if the operations of the encoder are not known.
    """
    name = config.model.image_encoder.name
    if name is None:
        return swin_gflop(config.model.swin, image_size=image_size, window_size=window_size)
    base = name.split(".")[0]
    if base.startswith("swin_") and base.split("_")[1] in TIMM_SWINS:
        width, depths = TIMM_SWINS[base.split("_")[1]]
        sizes = SwinConfig(embed_dim=width, depths=depths, num_heads=(1,) * len(depths))
        return swin_gflop(sizes, image_size=image_size, window_size=window_size)
    if base not in OTHER_ENCODERS:
        known = ", ".join([*(f"swin_{size}_*" for size in TIMM_SWINS), *sorted(OTHER_ENCODERS)])
        raise ValueError(
            f"model.image_encoder.name: the operations of {base} are not known here (known: {known}); plan from a run "
            "with it (--run), or set a known encoder of its size"
        )
    return OTHER_ENCODERS[base] * (image_size / 224) ** 2, (image_size // 32) ** 2, 1280


def swin_gflop(swin: SwinConfig, *, image_size: int, window_size: int) -> tuple[float, int, int]:
    """Count a Swin (arXiv 2103.14030, equations 1 and 2).

    Args:
        swin: its sizes.
        image_size: side of the input in pixels.
        window_size: M.

    Returns:
        GFLOP an image, and number and width of its tokens.
    """
    side, width = image_size // swin.patch_size, swin.embed_dim
    macs = float(side**2 * 3 * swin.patch_size**2 * width)
    for stage, blocks in enumerate(swin.depths):
        if stage:
            macs += (side // 2) ** 2 * 4 * width * 2 * width
            side, width = side // 2, 2 * width
        window = min(window_size, side)
        macs += blocks * side**2 * ((4 + 2 * MLP_RATIO) * width**2 + 2 * window**2 * width)
    return 2 * macs / GIGA, side**2, width


def count_weights(config: RunConfig) -> float:
    """Count the weights of the tagger: matrices alone, and layers that two parts share once.

    Args:
        config: of the run.

    Returns:
        Number of weights.
    """
    model = config.model
    name = (model.image_encoder.name or "").split(".")[0].split("_")
    sizes = (model.swin.embed_dim, model.swin.depths)
    if model.image_encoder.name:
        sizes = TIMM_SWINS.get(name[1] if len(name) > 1 else "", (96, (2, 2, 6, 2)))
    width, total = sizes[0], 0.0
    for stage, blocks in enumerate(sizes[1]):
        total += blocks * (4 + 2 * MLP_RATIO) * width**2 + (8 * width**2 if stage + 1 < len(sizes[1]) else 0)
        width = 2 * width
    context, shared = model.image_proj or width // 2, model.recognition
    total += model.label_width * shared.width + shared.layers * _layer_weights(shared.width, shared.ffn, context)
    if model.captions:
        for part, seen in ((model.tag_encoder, context), (model.caption_decoder, model.tag_encoder.width)):
            own = part.layers * 4 * part.width**2
            crossed = part.layers - (shared.layers if part is model.tag_encoder else 0)
            total += own + max(0, crossed) * _layer_weights(part.width, part.ffn, seen)
        total += (model.vocab_size + model.max_positions) * model.caption_decoder.width
    return total


def _layer_weights(width: int, ffn: int, context: int) -> float:
    """Weights of cross-attention and feed-forward of a layer."""
    return 2 * width**2 + 2 * context * width + 2 * width * ffn


def head_gflop(config: RunConfig, *, num_tokens: int, context: int, num_labels: int) -> float:
    """Count the head that scores labels.

    Args:
        config: of the run.
        num_tokens: T.
        context: width of the image tokens.
        num_labels: N.

    Returns:
        GFLOP an image. Of MKT and of pooled scores, whose products are few, those of the scores alone.
    """
    model = config.model
    if model.head == "mkt":
        return 2 * num_tokens * num_labels * model.label_width / GIGA
    sizes = model.recognition if model.head == "recognition" else model.ml_decoder
    queries = num_labels if model.head == "recognition" or model.ml_decoder.text_queries else model.ml_decoder.groups
    width = sizes.width
    projections = 2 * queries * width**2 + 2 * num_tokens * context * width
    layer = projections + 2 * queries * num_tokens * width + 2 * queries * width * sizes.ffn
    return 2 * sizes.layers * layer / GIGA  # labels are projected once a batch


def captions_gflop(config: RunConfig, *, num_tokens: int, context: int) -> float:
    """Count the tag encoder and the caption decoder, each over a text of its full length.

    Args:
        config: of the run.
        num_tokens: T.
        context: width of the image tokens.

    Returns:
        GFLOP an image.
    """
    model, macs = config.model, 0.0
    for sizes, seen, seen_width in (
        (model.tag_encoder, num_tokens, context),
        (model.caption_decoder, model.max_tag_tokens, model.tag_encoder.width),
    ):
        texts = float(model.max_tag_tokens if sizes is model.tag_encoder else model.max_caption_tokens)
        width = sizes.width
        own = 4 * texts * width**2 + 2 * texts**2 * width
        cross = 2 * texts * width**2 + 2 * seen * seen_width * width + 2 * texts * seen * width
        macs += sizes.layers * (own + cross + 2 * texts * width * sizes.ffn)
    macs += model.max_caption_tokens * model.caption_decoder.width * model.vocab_size
    return 2 * macs / GIGA
