"""Batched tagging of images from many requests, and the tagger that runs in this process.

Images with equal options share a forward pass. An image is one unit of work whatever its request, so a request of
sixteen images spreads over replicas, and sixteen requests of one image fill one batch. A group of images that fails
does not fail the other groups.
"""

from __future__ import annotations

import asyncio
import logging
from typing import TYPE_CHECKING, Protocol

import numpy as np

from ram_ray.serving.messages import ImageResult, LabelInfo, ModelInfo, Options, Problem, TagResult

if TYPE_CHECKING:
    from torch import Tensor

    from ram_ray.detectors.regions import Box
    from ram_ray.inference.predictor import Predictor
    from ram_ray.inference.tag_score import TagScore

logger = logging.getLogger(__name__)

Job = tuple[np.ndarray, Options]  # an image, uint8 (H, W, 3), and the options of its request


class Tagger(Protocol):
    """What the HTTP API needs of a model: its labels, and the result of one image."""

    async def info(self) -> ModelInfo:
        """Wait until the model is loaded.

        Returns:
            The model and its labels.
        """
        ...

    async def tag(self, image: np.ndarray, options: Options) -> ImageResult:
        """Tag one image.

        Args:
            image: (H, W, 3) uint8, RGB.
            options: of the request.

        Returns:
            Tags, or an error.
        """
        ...


class LocalTagger:
    """A `Tagger` in this process, without Ray: for tests and for a machine with one user."""

    def __init__(self, predictor: Predictor, *, model: str) -> None:
        self._predictor, self._model = predictor, model
        self._lock = asyncio.Lock()

    async def info(self) -> ModelInfo:
        """See `Tagger.info`."""
        return model_info(self._predictor, model=self._model)

    async def tag(self, image: np.ndarray, options: Options) -> ImageResult:
        """See `Tagger.tag`."""
        async with self._lock:
            return (await asyncio.to_thread(tag_batch, self._predictor, [(image, options)]))[0]


def model_info(predictor: Predictor, *, model: str) -> ModelInfo:
    """Describe a loaded model.

    Args:
        predictor: the model.
        model: its name in answers.

    Returns:
        The answer of `GET /v1/tags`.
    """
    labels = predictor.labels
    return ModelInfo(
        model=model,
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


def tag_batch(predictor: Predictor, jobs: list[Job]) -> list[ImageResult]:
    """Tag images that may come from different requests, with one forward pass for each set of options.

    Args:
        predictor: the model.
        jobs: pairs of an image, uint8 (H, W, 3), and its options.

    Returns:
        A result for each job, in order. Each image of a group that fails gets an error.
    """
    groups: dict[tuple[object, ...], list[int]] = {}
    for index, (_, options) in enumerate(jobs):
        key = (options.top_k, options.threshold, options.tags, options.caption, options.regions)
        groups.setdefault(key, []).append(index)
    results: list[ImageResult] = [ImageResult()] * len(jobs)
    for indices in groups.values():
        images = [jobs[index][0] for index in indices]
        for index, result in zip(indices, _tag_group(predictor, images, jobs[indices[0]][1]), strict=True):
            results[index] = result
    return results


def _tag_group(predictor: Predictor, images: list[np.ndarray], options: Options) -> list[ImageResult]:
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


def _tag_tokens(predictor: Predictor, tokens: Tensor, options: Options) -> list[ImageResult]:
    """Results of encoded images (B, 1 + L, C)."""
    own_tags = list(options.tags) if options.tags else None
    scores = predictor.tag(tokens, top_k=options.top_k, threshold=options.threshold, tags=own_tags)
    captions: list[str | None] = [*predictor.caption(tokens)] if options.caption else [None] * len(tokens)
    boxes: list[list[Box | None]] = [[None] * len(image_scores) for image_scores in scores]
    if options.regions:
        boxes = _detect_boxes(predictor, tokens, scores)
    return [
        ImageResult(tags=[_tag_result(*pair) for pair in zip(image_scores, image_boxes, strict=True)], caption=caption)
        for image_scores, image_boxes, caption in zip(scores, boxes, captions, strict=True)
    ]


def _detect_boxes(predictor: Predictor, tokens: Tensor, scores: list[list[TagScore]]) -> list[list[Box | None]]:
    """Box of each tag of each image, None where the detector gives none."""
    from ram_ray.detectors.attention import AttentionDetector

    ids = [[score.id for score in image_scores if score.id is not None] for image_scores in scores]
    names = [[score.tag for score in image_scores] for image_scores in scores]
    regions = AttentionDetector(predictor).detect(tokens, tags=names, tag_ids=ids)
    boxes = [{region.tag_id: region.box for region in image_regions} for image_regions in regions]
    return [[box_of.get(id) for id in image_ids] for box_of, image_ids in zip(boxes, ids, strict=True)]


def _tag_result(score: TagScore, box: Box | None) -> TagResult:
    return TagResult(
        tag=score.tag,
        id=score.id,
        score=round(float(score.score), 5),
        threshold=round(float(score.threshold), 5),
        box=box,
    )
