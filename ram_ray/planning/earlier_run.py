"""What earlier runs say: its data, constants of its content, and the seconds of its stages.

The manifests of a run (`runtime.artifacts`) have seconds and rows; the folders of its stages have files and bytes. The
run is planned as if it were to come, with its own configuration and data; the plan beside the manifests is the
comparison, and its ratio gives the seconds of a row for another plan.
"""

from __future__ import annotations

import json
from collections.abc import Container, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import fsspec
import numpy as np

from ram_ray.config import RunConfig, load
from ram_ray.planning.cluster import Cluster
from ram_ray.planning.constants import Constant, Constants
from ram_ray.planning.cost import Pace, make_plan, stage_key
from ram_ray.planning.plan import Plan, Workload
from ram_ray.planning.recipe import plan_stages
from ram_ray.training.copies import copies_name

FOLDERS = ("annotations", "models", "evaluation")
# Stages whose seconds contain those of other stages, for they begin before them or add them up.
CONTAINS = {"generate": ("scores", "score_weights", "thresholds"), "clean": ("doubts", "regions", "removals")}


@dataclass(frozen=True)
class Figures:
    """What a stage of a run left."""

    stage: str
    seconds: float  # its own
    rows_in: int | None
    rows_out: int | None
    files: int
    nbytes: int
    manifest: Mapping[str, Any]


@dataclass(frozen=True)
class EarlierRun:
    """A run that was made: its configuration, and its stages by name."""

    uri: str
    config: RunConfig
    stages: Mapping[str, Figures]

    @property
    def workload(self) -> Workload:
        """Its data."""
        held_out = self.stages.get("shards_eval")
        shards = self.stages["shards"].manifest
        labels = self.stages.get("label_system")
        finetune = self.stages.get("finetune")
        return Workload(
            images=int(shards["rows_in"]),
            shards=int(shards["shards"]),
            finetune_images=int(finetune.manifest["rows_in"]) if finetune else int(shards["rows_in"]),
            held_out=int(held_out.manifest["rows_in"]) if held_out else 0,
            held_out_shards=int(held_out.manifest["shards"]) if held_out else 0,
            labels=int(labels.manifest["labels"]) if labels else self.config.labels.max_labels,
        )


def read_run(uri: str) -> EarlierRun:
    """Read the manifests of a run.

    Args:
        uri: folder or URI of the run.

    Returns:
        The run; of several results of a stage the newest.

    Raises:
        ValueError: if it is no run, or has not ended its stage `shards`.
    """
    fs, root = fsspec.url_to_fs(uri)
    path = f"{root.rstrip('/')}/config.yaml"
    if not fs.exists(path):
        raise ValueError(f"{uri}: no config.yaml, so it is no folder of a run; give the one that --run named")
    config = load(fs.unstrip_protocol(path) if "://" in uri else path)
    newest: dict[str, tuple[float, dict[str, Any]]] = {}
    for time, manifest in _manifests(fs, root):
        if manifest["stage"] not in newest or time >= newest[manifest["stage"]][0]:
            newest[manifest["stage"]] = time, manifest
    if "shards" not in newest:
        raise ValueError(f"{uri}: the stage shards has not ended, so nothing is known of its data")
    manifests = {name: manifest for name, (_, manifest) in newest.items()}
    contained = {**{name: _parts_of_round(name) for name in manifests}, **_parts_of_trainings(config, manifests)}
    figures = {name: _to_figures(fs, manifests, name, contained=contained[name]) for name in manifests}
    return EarlierRun(uri, config, figures)


def content_constants(run: EarlierRun, constants: Constants) -> Constants:
    """Replace the constants of what images hold, and of bytes of a row, by those of a run.

    Args:
        run: the earlier run.
        constants: of the plan.

    Returns:
        New constants, whose origin is the run.
    """
    stages = run.stages

    def share(top: float | None, bottom: float | None) -> float | None:
        return top / bottom if top and bottom else None

    def field(stage: str, name: str) -> float | None:
        return float(stages[stage].manifest[name]) if stage in stages and stages[stage].manifest.get(name) else None

    captions = field("parse", "captions")
    exponent = constants["names_exponent"]
    rows, one_an_image = field("shards", "rows_out"), field("parse", "rows_in")
    tags, removed = field("generate_1", "tags"), field("clean_1", "tags")
    values = {
        "captions_an_image": share(captions, field("parse", "rows_out")),
        "tags_a_caption": share(field("labels", "tags"), captions),
        "tag_growth": share(tags, field("labels", "tags")),
        "removed_share": share(tags - removed, tags) if tags and removed and tags > removed else None,
        "names_at_100k": share(field("label_system", "names"), (captions / 1e5) ** exponent if captions else None),
        "duplicate_share": max(0.0, 1 - one_an_image / rows) if rows and one_an_image else None,
    }
    tables = {"sample": "shards", "fingerprint": "fingerprints", "parsed": "parse", "score": "scores_1"}
    for name, stage in tables.items():
        rows = field(stage, "rows_in")
        values[f"{name}_bytes"] = share(stages[stage].nbytes, rows) if stage in stages else None
    changes = {
        name: Constant(value, constants.origins[name].unit, "measured", f"manifests of {run.uri}")
        for name, value in values.items()
        if value is not None
    }
    return constants.with_values(changes)


def plan_run(run: EarlierRun, cluster: Cluster, constants: Constants, *, workload: Workload | None = None) -> Plan:
    """Plan an earlier run as if it were to come.

    Args:
        run: the run.
        cluster: its machines.
        constants: of the plan.
        workload: its data; None: as its manifests have it, in shards of as many rows each.

    Returns:
        The plan.
    """
    load = workload or run.workload
    stages = plan_stages(run.config, load, cluster, constants)
    return make_plan(stages, load, cluster, constants, max_cpus=run.config.resources.max_cpus)


def measured_seconds(runs: Sequence[tuple[EarlierRun, Plan]]) -> dict[str, Pace]:
    """Seconds of the stages of earlier runs: of a CPU or a GPU for a row, and of starts.

    Of runs with different numbers of rows both are fitted to the seconds of the stage, to least relative squares. Of a
    single run the seconds of starts are those of the plan.

    Args:
        runs: earlier runs, each with its `plan_run`, whose stages have the number of their rows and what can run at
            once.

    Returns:
        `cost.stage_key` -> the seconds.
    """
    points: dict[str, list[tuple[float, float]]] = {}  # rows of each CPU or GPU, and seconds
    starts: dict[str, float] = {}
    for run, plan in runs:
        for cost in plan.costs:
            stage = cost.stage
            figures = run.stages.get(stage.name)
            if figures is None or not stage.unit_rows:
                continue
            gpus = min(plan.cluster.gpus, stage.width or plan.cluster.gpus)
            cpus = min(plan.cluster.stage_cpus, stage.width or plan.cluster.stage_cpus)
            units = gpus if stage.runs_on == "gpu" else cpus
            points.setdefault(stage_key(stage), []).append((stage.unit_rows / units, figures.seconds))
            starts[stage_key(stage)] = stage.starts
    return {name: _fit_pace(measured, starts=starts[name]) for name, measured in points.items()}


def _fit_pace(points: Sequence[tuple[float, float]], *, starts: float) -> Pace:
    """The pace of a stage: `points` are rows of a unit and seconds."""
    if len({rows for rows, _ in points}) < 2:
        return Pace(sum(max(0.0, seconds - starts) / rows for rows, seconds in points) / len(points))
    from scipy.optimize import nnls

    rows, seconds = np.array(points).T
    weights = 1 / np.maximum(seconds, 0.1)  # manifests have tenths of a second
    (row, fitted), _ = nnls(np.stack([rows, np.ones_like(rows)], axis=1) * weights[:, None], seconds * weights)
    return Pace(float(row), float(fitted))


def _manifests(fs: fsspec.AbstractFileSystem, root: str) -> Iterator[tuple[float, dict[str, Any]]]:
    for folder in FOLDERS:
        for path, info in fs.glob(f"{root.rstrip('/')}/{folder}/*/*.json", detail=True).items():
            try:
                manifest = json.loads(fs.cat_file(path))
            except ValueError:
                continue
            if not isinstance(manifest, dict) or not {"stage", "digest", "path", "seconds"} <= manifest.keys():
                continue
            changed = info.get("mtime") or info.get("LastModified") or info.get("updated") or 0.0
            time = changed.timestamp() if hasattr(changed, "timestamp") else changed
            yield float(time) if isinstance(time, (int, float)) else 0.0, {**manifest, "manifest": path}


def _to_figures(
    fs: fsspec.AbstractFileSystem, manifests: Mapping[str, dict[str, Any]], name: str, *, contained: Sequence[str]
) -> Figures:
    manifest = manifests[name]
    folder = manifest["manifest"].removesuffix(".json")  # beside the manifest, also where the run was moved
    sizes = [info["size"] for info in fs.find(folder, detail=True).values()] if fs.exists(folder) else []
    seconds = float(manifest["seconds"]) - sum(
        float(manifests[part]["seconds"]) for part in contained if part in manifests
    )
    rows_in = manifest.get("rows_in")
    rows_out = manifest.get("rows_out", manifest.get("images"))
    return Figures(name, max(0.0, seconds), rows_in, rows_out, len(sizes), sum(sizes), manifest)


def _parts_of_round(name: str) -> list[str]:
    base, _, number = name.rpartition("_")
    return [f"{part}_{number}" for part in CONTAINS.get(base, ())]


def _parts_of_trainings(config: RunConfig, names: Container[str]) -> dict[str, list[str]]:
    """Stage of a training that ran -> the stages that it ran for itself and for those after it."""
    parts: dict[str, list[str]] = {}
    begun: set[str] = set()
    for name, train in (("pretrain", config.pretrain), ("retrain_1", config.retrain), ("finetune", config.finetune)):
        if name not in names:
            continue
        needed = [*(["encode"] if train.views else []), *([copies_name(train.copy_side)] if train.copy_side else [])]
        parts[name] = [part for part in needed if part not in begun]
        begun.update(needed)
    return parts
