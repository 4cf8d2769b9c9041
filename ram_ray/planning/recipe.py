"""Every stage of a run, in the order of `pipeline.recipe`, counted."""

from __future__ import annotations

from ram_ray.config import RunConfig
from ram_ray.planning.cluster import Cluster
from ram_ray.planning.constants import Constants
from ram_ray.planning.data_stages import add_data_stages
from ram_ray.planning.engine_stages import add_round
from ram_ray.planning.plan import Stage, Workload
from ram_ray.planning.rows_stage import Planning, Table
from ram_ray.planning.training_stages import add_copies, add_evaluation, add_training
from ram_ray.settings.training import TrainConfig


def plan_stages(config: RunConfig, workload: Workload, cluster: Cluster, constants: Constants) -> list[Stage]:
    """Count every stage of a run.

    Args:
        config: of the run.
        workload: its data.
        cluster: its machines.
        constants: of the plan.

    Returns:
        The stages in their order; those about named evaluation sets and held-out labels are not among them.

    Raises:
        ValueError: if the operations of the image encoder are not known.
    """
    planning = Planning(config, workload, cluster, constants)
    parsed, held_out = add_data_stages(planning)
    annotations, engine = parsed, config.engine
    copied: set[tuple[int, str]] = set()  # side and shards of the copies that there are
    if engine.model is None:
        _add_model(planning, "pretrain", config.pretrain, annotations, held_out, copied=copied)
        _add_folds(planning, "pretrain", config.pretrain, annotations)
    train = config.pretrain
    for number in range(1, engine.rounds + 1):
        annotations = add_round(planning, annotations, train, round=number)
        train = config.retrain
        _add_model(planning, f"retrain_{number}", train, annotations, held_out, copied=copied)
        if number < engine.rounds:
            _add_folds(planning, f"retrain_{number}", train, annotations)
    if config.finetune.annotations == "parsed":
        annotations = parsed
    rows = workload.finetune_images if config.finetune.shards != "*" else annotations.rows
    _add_model(planning, "finetune", config.finetune, annotations, held_out, copied=copied, rows=rows)
    return planning.stages


def _add_model(
    planning: Planning,
    name: str,
    train: TrainConfig,
    annotations: Table,
    held_out: Table | None,
    *,
    copied: set[tuple[int, str]],
    rows: int | None = None,
) -> None:
    if train.copy_side and (train.copy_side, train.shards) not in copied:
        add_copies(planning, train, annotations, rows=rows)
        copied.add((train.copy_side, train.shards))
    add_training(planning, name, train, annotations, rows=rows)
    if held_out:
        add_evaluation(planning, name, train, held_out)


def _add_folds(planning: Planning, name: str, train: TrainConfig, annotations: Table) -> None:
    folds = planning.config.engine.folds
    if folds == 1 or not planning.config.engine.rounds:
        return
    for fold in range(folds):
        rows = annotations.rows * (folds - 1) // folds
        add_training(planning, f"{name}_fold_{fold}", train, annotations, rows=rows)
