"""Results of stages that did not run: what a stage takes, with the counts that it does not read at 0."""

from __future__ import annotations

from ram_ray.results import Annotations, LabelSystemResult, Samples, TrainedModel


def label_system_counts(num_labels: int) -> dict[str, int | str]:
    """The fields of a `LabelSystemResult` beside those that every result has."""
    return {"labels": num_labels, "system_version": "0", "names": num_labels, "merged": 0, "dropped": 0}


def label_system_result(path: str, *, num_labels: int) -> LabelSystemResult:
    """The result of a stage `label_system` whose folder is `path`."""
    stage = {"stage": "label_system", "digest": "3", "path": path, "seconds": 0.0}
    return LabelSystemResult.model_validate({**stage, **label_system_counts(num_labels)})


def annotations_result(path: str, *, num_rows: int) -> Annotations:
    """The result of a stage of annotations whose folder is `path`; its images have no truth."""
    stage = {"stage": "input", "digest": "0", "path": path, "seconds": 0.0}
    zero = dict.fromkeys(("rejected", "tags", "matched", "labelled", "tp", "fp", "fn", "unknown"), 0)
    rows = dict.fromkeys(("rows_in", "rows_out", "images"), num_rows)
    return Annotations.model_validate({**stage, **zero, **rows})


def trained_model(path: str, *, image_size: int) -> TrainedModel:
    """The result of a stage `pretrain` whose bundle is at `path`."""
    stage = {"stage": "pretrain", "digest": "1", "path": path, "seconds": 0.0}
    zero = dict.fromkeys(("rows_in", "rejected", "steps", "images_seen"), 0)
    return TrainedModel.model_validate({**stage, **zero, "image_size": image_size, "strategy": "ddp"})


def samples_result(path: str, *, num_rows: int) -> Samples:
    """The result of a stage `shards` whose folder is `path`."""
    rows = {"rows_in": num_rows, "rows_out": num_rows, "rejected": 0}
    return Samples(stage="input", digest="0", path=path, seconds=0.0, shards=1, images=num_rows, **rows)
