"""Tagging of a batch of images, and the tagger that runs in this process.

The images of a batch have the same options, whatever their requests. An answer is JSON from here on: it is made where
the model runs, and the Ingress only puts the answers of a request together.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Sequence
from typing import TYPE_CHECKING, Protocol

import numpy as np

from ram_ray.serving.messages import ImageResult, LabelInfo, ModelInfo, Options, Problem, TagResult

if TYPE_CHECKING:
    from torch import Tensor

    from ram_ray.detectors.regions import Box
    from ram_ray.inference.predictor import Predictor
    from ram_ray.inference.tag_score import TagScore

logger = logging.getLogger(__name__)

MAX_LOCAL_BATCH = 16
QUICK_S = 0.012  # a batch that takes no longer is in nobody's way


class ReplicaLost(Exception):
    """The replica that had a batch is gone, or has another bundle than the batch is for."""


class Tagger(Protocol):
    """What the HTTP API needs of a model: its labels, and the results of a batch."""

    async def facts(self) -> tuple[ModelInfo, int]:
        """Wait until the model is loaded.

        Returns:
            The model and its labels, and the most images of a batch.
        """
        ...

    async def tag(self, images: np.ndarray, options: Options) -> list[bytes]:
        """Tag a batch.

        Args:
            images: (B, S, S, 3) uint8, RGB, of the model's size.
            options: of all of them.

        Returns:
            An `ImageResult` as JSON for each image.

        Raises:
            ReplicaLost: if the batch must be sent again.
        """
        ...


class LocalTagger:
    """A `Tagger` in this process, without Ray: for tests and for a machine with one user."""

    def __init__(self, predictor: Predictor, *, model: str) -> None:
        self._predictor, self._model = predictor, model
        self._lock = asyncio.Lock()

    async def facts(self) -> tuple[ModelInfo, int]:
        """See `Tagger.facts`."""
        return model_info(self._predictor, model=self._model), MAX_LOCAL_BATCH

    async def tag(self, images: np.ndarray, options: Options) -> list[bytes]:
        """See `Tagger.tag`."""
        async with self._lock:
            results = await asyncio.to_thread(tag_batch, self._predictor, images, options)
        return [result.model_dump_json().encode() for result in results]


def model_info(predictor: Predictor, *, model: str, digest: str = "") -> ModelInfo:
    """Describe a loaded model.

    Args:
        predictor: the model.
        model: its name in answers.
        digest: of its bundle.

    Returns:
        The answer of `GET /v1/tags`.
    """
    labels = predictor.labels
    return ModelInfo(
        model=model,
        digest=digest,
        version=labels.version,
        image_size=predictor.image_size,
        tags=[
            LabelInfo(
                id=label.id,
                name=label.name,
                kind=label.kind,
                synonyms=list(label.synonyms),
                threshold=label.threshold,
            )
            for label in labels.labels
        ],
    )


def model_name(uri: str) -> str:
    """Name of a model in answers, which never shows a whole path of the server.

    Args:
        uri: path, URI or Hugging Face id of the bundle.

    Returns:
        The last two parts of the path, or the id.
    """
    return "/".join(uri.rstrip("/").split("/")[-2:])


def tag_batch(predictor: Predictor, images: Sequence[np.ndarray] | np.ndarray, options: Options) -> list[ImageResult]:
    """Tag images, which may come from different requests, in one forward pass.

    Args:
        predictor: the model.
        images: (B, S, S, 3) uint8 of the model's size, or a list of images (H, W, 3) of any size.
        options: of all of them.

    Returns:
        A result for each image, in order; an error for each of them if the batch fails.
    """
    try:
        tokens = predictor.encode(images)  # once for tags, caption and regions
        try:
            return _tag_tokens(predictor, tokens, options)
        except ValueError as error:  # a mistake of the client, such as a tag that the text encoder cannot read
            problem = Problem(code="invalid_field", message=str(error)[:500])
    except Exception:
        logger.exception("tagging %d images with %s failed", len(images), options)
        problem = Problem(code="internal", message="the model failed on this image; the server's log says why")
    return [ImageResult(error=problem) for _ in images]


def measure_batch_size(predictor: Predictor, *, most: int, cpu_threads: int | None = None) -> int:
    """Measure how many images a batch should have, and so try the model.

    A batch may take half as long again as one image, or `QUICK_S`. On a GPU that is a large batch. On a CPU a larger
    batch is hardly faster per image, and an image that is in a hurry would wait for all of it.

    Args:
        predictor: the model.
        most: most images of a batch.
        cpu_threads: of a model on a CPU, whose own time is then taken, as the machine may be busy; None: the clock's.

    Returns:
        Images of a batch, from 1 to `most`.

    Raises:
        ValueError: if the model gives scores that are no numbers.
    """
    size = predictor.image_size
    image = np.random.default_rng(0).integers(0, 255, (1, size, size, 3), np.uint8)
    clock = time.perf_counter if cpu_threads is None else time.process_time
    seconds = {}
    for num_images in (1, most):
        batch = np.repeat(image, num_images, 0)
        best = float("inf")
        for _ in range(3):
            started = clock()
            scores = predictor.probabilities(batch)
            best = min(best, (clock() - started) / (cpu_threads or 1))
        if not np.isfinite(scores).all():
            raise ValueError("the model gives scores that are no numbers")
        seconds[num_images] = best
    if most == 1:
        return 1
    more = max((seconds[most] - seconds[1]) / (most - 1), 1e-9)  # seconds of each further image
    allowed = max(1.5 * seconds[1], QUICK_S)
    return int(min(most, max(1, 1 + (allowed - seconds[1]) / more)))


def _tag_tokens(predictor: Predictor, tokens: Tensor, options: Options) -> list[ImageResult]:
    """Results of encoded images (B, 1 + L, C)."""
    own_tags = list(options.tags) if options.tags else None
    scores = predictor.tag(tokens, top_k=options.top_k, threshold=options.threshold, tags=own_tags)
    captions: list[str | None] = [*predictor.caption(tokens)] if options.caption else [None] * len(tokens)
    boxes: list[list[Box | None]] = [[None] * len(image_scores) for image_scores in scores]
    if options.regions:
        from ram_ray.detectors.tag_boxes import TagBoxes

        boxes = TagBoxes(predictor)(tokens, scores)
    return [
        ImageResult(tags=[_tag_result(*pair) for pair in zip(image_scores, image_boxes, strict=True)], caption=caption)
        for image_scores, image_boxes, caption in zip(scores, boxes, captions, strict=True)
    ]


def _tag_result(score: TagScore, box: Box | None) -> TagResult:
    return TagResult(
        tag=score.tag,
        id=score.id,
        score=round(float(score.score), 5),
        threshold=round(float(score.threshold), 5),
        box=box,
    )
