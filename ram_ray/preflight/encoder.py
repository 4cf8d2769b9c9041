"""Preflight of a timm image encoder: timm has the name, and takes the image sizes that the stages train at.

The encoder is built and run without values, so a check takes a second and needs no weights.
"""

from __future__ import annotations

from collections.abc import Sequence

from ram_ray.config import RunConfig
from ram_ray.preflight.bundle import sections_after


def find_encoder_problems(config: RunConfig, *, stages: Sequence[str]) -> list[str]:
    """Find the problems of an image encoder that is named.

    Args:
        config: configuration of the run.
        stages: names of the stages that will run.

    Returns:
        A line for each problem.
    """
    encoder, sizes = config.model.image_encoder, training_sizes(config, stages=stages)
    if not encoder.name or not sizes:
        return []
    from ram_ray.models.image_encoder import check_encoder, token_width

    try:
        token_width(encoder)
    except ValueError as error:
        return [f"model.{error}; set model.image_encoder.name"]
    problems = []
    for section, (image_size, window_size) in sizes.items():
        try:
            check_encoder(encoder.model_copy(update={"window_size": window_size}), image_size=image_size)
        except ValueError as error:
            problems.append(f"{section}.image_size: {error}; set {section}.image_size")
    return problems


def training_sizes(config: RunConfig, *, stages: Sequence[str]) -> dict[str, tuple[int, int]]:
    """List the sizes at which these stages train an image encoder.

    Args:
        config: configuration of the run.
        stages: names of the stages that will run.

    Returns:
        Image size and window size by the name of the training section.
    """
    sections = {"pretrain": config.pretrain, "retrain": config.retrain, "finetune": config.finetune}
    given = sections_after(config, stages) if config.engine.model else {}
    sections = {
        name: section
        for name, section in sections.items()
        if name in stages and not section.bundle and name not in given  # these have the encoder of a bundle
    }
    if "represent" in stages and config.represent.is_trained:
        sections["represent.train"] = config.represent.train
    return {name: (section.image_size, section.window_size) for name, section in sections.items()}
