"""How much frozen image features say about the classes of a set: a linear probe and k-NN, cross-fitted.

    images of the set -> features of the backbone (actor pool) -> one task: probes, their scores -> `score_files`

The images are cut into folds by a hash of their keys, and an image is scored by what was fitted on the other folds. So
all images of a set count, and none is scored by a probe that saw it.

The linear probe is a logistic regression for each class on standardised features. Its weight decay is the one of
`DECAYS` with the lowest loss on a part of the images that it is fitted on. k-NN votes with weights exp(cosine / 0.07)
of the 20 nearest images.

Letters: N images, F features, C classes.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Literal

import fsspec
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from ram_ray.evaluation.score_files import ScoreManifest, start_folder, write_scores
from ram_ray.evaluation.score_set import finish, set_images, target_rows
from ram_ray.evaluation.sets.prepare import ClassIndex, EvalSet
from ram_ray.evaluation.systems.system import Batch, Plan, PlannedClass
from ram_ray.runtime.actors import model_actors, predictor_options
from ram_ray.runtime.allocator import prepare_model_process
from ram_ray.runtime.key_hash import hash_key
from ram_ray.runtime.location import locate
from ram_ray.runtime.rows import write_rows
from ram_ray.runtime.storage import remove_folder
from ram_ray.runtime.tasks import Task
from ram_ray.settings.runtime import Execution

if TYPE_CHECKING:
    from torch import Tensor

Probe = Literal["linear", "knn"]
PROBES: tuple[Probe, ...] = ("linear", "knn")
FOLDS = 5
DECAYS = tuple(10.0**power for power in range(0, -6, -1))  # the strongest first: each fit starts from the one before
NEIGHBOURS, TEMPERATURE = 20, 0.07
_STEPS = 50  # of L-BFGS for each decay
_SCORES_A_PART = 20_000_000

FEATURES = pa.schema(
    [
        ("key", pa.string()),
        ("features", pa.list_(pa.float32())),
        *((name, pa.list_(pa.string())) for name in ("truth", "ignored", "absent")),
    ]
)


def probe_set(
    encoder: str, name: str, eval_set: EvalSet, folder: str, *, batch_size: int, execution: Execution
) -> dict[Probe, ScoreManifest]:
    """Score the classes of a set by probes on the features of an encoder.

    Args:
        encoder: path, URI or id of encoders, as `Teacher.from_pretrained` takes it.
        name: of the encoder, in tables.
        eval_set: the set, with images.
        folder: for the features and the scores, readable from every node; what is done is reused.
        batch_size: images of a batch.
        execution: how the images are read and models run.

    Returns:
        The manifests of the folders `linear` and `knn`.
    """
    from ram_ray.runtime.progress import progress

    identity = {"set": eval_set.identity, "encoder": encoder, "probe": [FOLDS, DECAYS, NEIGHBOURS, TEMPERATURE, _STEPS]}
    states = {probe: start_folder(f"{folder}/{probe}", {**identity, "kind": probe}) for probe in PROBES}
    done = {probe: manifest for probe, (_, manifest) in states.items() if manifest}
    if len(done) == len(PROBES):
        return done
    features = f"{folder}/features"
    remove_folder(*fsspec.url_to_fs(features))  # of a call that was killed
    size = Task(_image_size, num_cpus=execution.task_cpus).run(encoder)
    with progress(f"{eval_set.name}, features of {name}", total=eval_set.images) as add:
        images = set_images(eval_set, size=size, batch_size=batch_size, execution=execution)
        rows = images.map_batches(
            FeatureActor,
            fn_constructor_args=(encoder,),
            fn_constructor_kwargs={**predictor_options(execution), "add": add},
            batch_format="numpy",
            batch_size=batch_size,
            **model_actors(execution.resources),
        )
        write_rows(rows, features, execution=execution)
    digests = {probe: digest for probe, (digest, _) in states.items()}
    return Task(_fit_and_score, num_cpus=1).run(name, eval_set, folder, digests)


def _image_size(encoder: str) -> int:
    from ram_ray.models.teacher import Teacher

    return Teacher.from_pretrained(encoder).image_size


class FeatureActor:
    """An actor: holds the image encoder, and turns images with their truth into FEATURES rows.

    Args:
        encoder: as of `probe_set`.
        device: of the encoder.
        precision: on a GPU, as in `choose_precision`; else float32.
        threads: number of torch's threads; None: as many as it takes.
        add: called with the number of images after each batch.
    """

    def __init__(
        self,
        encoder: str,
        *,
        device: str = "cpu",
        precision: str = "fp32",
        threads: int | None = None,
        add: Callable[[int], None] | None = None,
    ) -> None:
        from ram_ray.models.number_format import choose_precision
        from ram_ray.models.teacher import Teacher

        prepare_model_process(device, threads=threads)
        self._teacher = Teacher.from_pretrained(encoder, device=device)
        self._is_half, self._add = device != "cpu" and choose_precision(precision, device) == "bf16", add

    def __call__(self, batch: Batch) -> pa.Table:
        """Compute the features of a batch.

        Args:
            batch: SET_ROW rows as numpy columns, with those of `data.pixels.add_pixels`.

        Returns:
            FEATURES rows of the images that could be read.
        """
        import torch

        rows = [row for row, reason in enumerate(batch["reason"]) if not isinstance(reason, str)]
        features = np.zeros((0, 0), np.float32)
        if rows:
            pixels = torch.from_numpy(np.stack([batch["pixels"][row] for row in rows])).to(self._teacher.device)
            with torch.autocast(pixels.device.type, torch.bfloat16, enabled=self._is_half):
                features = self._teacher.pooled(pixels).float().cpu().numpy()
        if self._add:
            self._add(len(rows))
        columns = {
            name: [None if isinstance(batch[name][row], float) else batch[name][row] for row in rows]
            for name in ("truth", "ignored", "absent")
        }
        keys = [str(batch["key"][row]) for row in rows]
        return pa.Table.from_pydict({"key": keys, "features": list(features), **columns}, schema=FEATURES)


def _fit_and_score(name: str, eval_set: EvalSet, folder: str, digests: dict[Probe, str]) -> dict[Probe, ScoreManifest]:
    """Read the features of the set, fit the probes, write their scores, in one task."""
    import time

    fs, path = locate(f"{folder}/features")
    table = pq.read_table(path, filesystem=fs, schema=FEATURES).sort_by("key")
    keys = table["key"].to_pylist()
    features = np.stack(table["features"].combine_chunks().to_numpy(zero_copy_only=False)).astype(np.float32)
    targets = target_rows(
        *(table[column].to_pylist() for column in ("truth", "ignored", "absent")),
        index=ClassIndex(eval_set.entries),
        num_classes=len(eval_set.classes),
    )
    folds = np.array([hash_key(key, purpose="probe fold") % FOLDS for key in keys])
    plan = Plan(tuple(PlannedClass(index, cls, "name", cls) for index, cls in enumerate(eval_set.classes)))
    manifests: dict[Probe, ScoreManifest] = {}
    for probe, digest in digests.items():
        started, scores = time.monotonic(), np.zeros(targets.shape, np.float32)
        for fold in range(FOLDS):
            fitted, scored = folds != fold, folds == fold
            if scored.any() and fitted.any():
                score = linear_scores if probe == "linear" else knn_scores
                scores[scored] = score(features[fitted], targets[fitted], features[scored])
        step = max(1, _SCORES_A_PART // max(1, targets.shape[1]))
        parts = (slice(start, start + step) for start in range(0, len(keys), step))
        where = f"{folder}/{probe}"
        num_images = write_scores(((keys[part], scores[part], targets[part]) for part in parts), where)
        manifests[probe] = finish(where, digest, name, eval_set, plan, num_images, seconds=time.monotonic() - started)
    return manifests


def linear_scores(features: np.ndarray, targets: np.ndarray, others: np.ndarray) -> np.ndarray:
    """Fit a logistic regression for each class, and score other images.

    Args:
        features: (N, F) float32 of the images that are fitted.
        targets: (N, C) int8: 1, 0, or -1 for what does not count.
        others: (M, F) float32 of the images that are scored.

    Returns:
        (M, C) float32 probabilities.
    """
    import torch

    mean, deviation = features.mean(0), features.std(0) + 1e-6
    x, others_x = (torch.from_numpy((values - mean) / deviation) for values in (features, others))
    y = torch.from_numpy(targets.astype(np.float32))
    held = torch.arange(len(x)) % FOLDS == 0  # rows are in the order of their keys, which says nothing about classes
    decays, losses = [], []
    for decay, weights in _fits(x[~held], y[~held], DECAYS):
        decays.append(decay)
        losses.append(float(_loss(weights, x[held], y[held])))
    best = decays[int(np.argmin(losses))]
    *_, (_, weights) = _fits(x, y, DECAYS[: DECAYS.index(best) + 1])
    return torch.sigmoid(others_x @ weights[:-1] + weights[-1]).numpy()


def _fits(x: Tensor, y: Tensor, decays: tuple[float, ...]) -> list[tuple[float, Tensor]]:
    """Weights (F + 1, C) for each decay, each fit from the one before."""
    import torch

    weights = torch.zeros(x.shape[1] + 1, y.shape[1], requires_grad=True)
    fits = []
    for decay in decays:
        optimizer = torch.optim.LBFGS([weights], max_iter=_STEPS, history_size=10, line_search_fn="strong_wolfe")

        def closure(decay: float = decay, optimizer: torch.optim.Optimizer = optimizer) -> Tensor:
            optimizer.zero_grad()
            loss = _loss(weights, x, y) + 0.5 * decay * weights[:-1].square().sum() / y.shape[1]
            loss.backward()
            return loss

        optimizer.step(closure)
        fits.append((decay, weights.detach().clone()))
    return fits


def _loss(weights: Tensor, x: Tensor, y: Tensor) -> Tensor:
    """Mean over classes of the mean cross-entropy of the targets that count."""
    import torch.nn.functional as F

    logits = x @ weights[:-1] + weights[-1]
    known = (y >= 0).float()
    losses = F.binary_cross_entropy_with_logits(logits, y.clamp(min=0), weight=known, reduction="none")
    return (losses.sum(0) / known.sum(0).clamp(min=1)).mean()


def knn_scores(features: np.ndarray, targets: np.ndarray, others: np.ndarray) -> np.ndarray:
    """Score images by the classes of their nearest images.

    Args:
        features: (N, F) float32 of the images that vote.
        targets: (N, C) int8: 1, 0, or -1 for what does not count.
        others: (M, F) float32 of the images that are scored.

    Returns:
        (M, C) float32: the share of the votes that count, 0 to 1.
    """
    import faiss

    norms = [np.linalg.norm(values, axis=1, keepdims=True).clip(1e-12) for values in (features, others)]
    unit, other_unit = features / norms[0], others / norms[1]
    index = faiss.IndexFlatIP(features.shape[1])
    index.add(np.ascontiguousarray(unit))
    cosines, nearest = index.search(np.ascontiguousarray(other_unit), min(NEIGHBOURS, len(features)))
    votes = np.exp((cosines - cosines.max(1, keepdims=True)) / TEMPERATURE)
    scores = np.zeros((len(others), targets.shape[1]), np.float32)
    for row, (weights, ids) in enumerate(zip(votes, nearest, strict=True)):
        known = targets[ids] >= 0
        total = weights @ known
        scores[row] = np.divide(weights @ (targets[ids] == 1), total, out=np.zeros_like(total), where=total > 0)
    return scores
