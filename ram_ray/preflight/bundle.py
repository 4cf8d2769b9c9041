"""Preflight of a bundle that a training starts from, or that the data engine scores with; its weights are not read."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from ram_ray.config import RunConfig
from ram_ray.label_system import LabelSystem
from ram_ray.models.bundle_config import parse_config
from ram_ray.settings.training import TrainConfig
from ram_ray.training.tagger_stage import check_start


def check_bundle(
    folder: Path, names: list[str], *, sections: Mapping[str, TrainConfig], writes_captions: bool = False
) -> None:
    """Check that it is a bundle, and that it can do what the configuration asks of it.

    Args:
        folder: with the small files of the bundle.
        names: of all its files.
        sections: training sections that start from it, by name.
        writes_captions: whether it writes captions for the data engine.

    Raises:
        ValueError: with the first problem.
    """
    model = parse_config(folder, source="it")
    if "model.safetensors" not in names:
        raise ValueError("it has no model.safetensors")
    LabelSystem.from_json((folder / "label_system.json").read_text())
    if writes_captions and not model.captions:
        raise ValueError("it writes no captions: set engine.generate.captions to 0")
    for name, section in sections.items():
        check_start(model, section, section=name)


def sections_after(config: RunConfig, stages: Sequence[str]) -> dict[str, TrainConfig]:
    """List the trainings that start from the given model of the data engine, at once or after another.

    Args:
        config: of the run.
        stages: names of the stages that will run.

    Returns:
        Training sections by name.
    """
    sections = {}
    for name in ("retrain", "finetune"):
        section: TrainConfig = getattr(config, name)
        if name in stages and section.start != "previous":
            break
        if name in stages:
            sections[name] = section
    return sections
