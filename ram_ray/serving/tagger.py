"""Pictures of many requests, one forward: how a batch is cut by options, and the tagger that runs in process.

Pictures whose options agree share a forward. A picture is one unit of work whatever request it came in, so a
request of sixteen pictures spreads over replicas and sixteen requests of one picture fill one batch. A group
that fails takes only its own pictures along.
"""

from __future__ import annotations

import asyncio
import logging
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from ram_ray.serving.messages import ImageResult, LabelInfo, ModelInfo, Options, Problem, TagResult

if TYPE_CHECKING:
    from torch import Tensor

    from ram_ray.inference.predictor import Predictor, TagScore

log = logging.getLogger(__name__)

Job = tuple[np.ndarray, Options]  # a picture, uint8 (H, W, 3), and what is asked of it


class Tagger(Protocol):
    """What the HTTP side needs: the model's labels, and one picture's answer."""

    async def info(self) -> ModelInfo:
        """What the loaded model knows; returns only when it is loaded."""
        ...

    async def tag(self, image: np.ndarray, options: Options) -> ImageResult:
        """Tag one picture.

        Args:
            image: (H, W, 3) uint8, RGB.
            options: of the request.
        """
        ...


class LocalTagger:
    """A `Tagger` in this process, without Ray: for tests and for a machine with one user."""

    def __init__(self, predictor: Predictor, *, model: str) -> None:
        self._predictor, self._model = predictor, model
        self._one_at_a_time = asyncio.Lock()

    async def info(self) -> ModelInfo:
        """See `Tagger.info`."""
        return model_info(self._predictor, model=self._model)

    async def tag(self, image: np.ndarray, options: Options) -> ImageResult:
        """See `Tagger.tag`."""
        async with self._one_at_a_time:
            return (await asyncio.to_thread(tag_batch, self._predictor, [(image, options)]))[0]


def model_info(predictor: Predictor, *, model: str) -> ModelInfo:
    """The labels of a loaded model as a message.

    Args:
        predictor: the model.
        model: its name in answers.
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
    """How a model is called in answers: a hub id, or the last two parts of a path; never a server's whole path."""
    return "/".join(uri.rstrip("/").split("/")[-2:])


def tag_batch(predictor: Predictor, jobs: list[Job]) -> list[ImageResult]:
    """Tag pictures that may come from different requests, in as few forwards as their options allow.

    Returns one result a job, in order. A group that fails gives each of its pictures an error.

    Args:
        predictor: the model.
        jobs: a picture uint8 (H, W, 3) and its options each.
    """
    groups: dict[tuple[Any, ...], list[int]] = {}
    for place, (_, options) in enumerate(jobs):
        key = (options.top_k, options.threshold, options.tags, options.caption, options.regions)
        groups.setdefault(key, []).append(place)
    results: list[ImageResult] = [ImageResult()] * len(jobs)
    for places in groups.values():
        images = [jobs[place][0] for place in places]
        for place, result in zip(places, _tag_group(predictor, images, jobs[places[0]][1]), strict=True):
            results[place] = result
    return results


def _tag_group(predictor: Predictor, arrays: list[np.ndarray], options: Options) -> list[ImageResult]:
    try:
        tokens = predictor.encode(arrays)  # once, whatever is asked
        try:
            return _answer(predictor, tokens, options)
        except ValueError as error:  # a tag that the text encoder cannot read, and the like: the client's to mend
            problem = Problem(code="invalid_field", message=str(error)[:500])
    except Exception:
        log.exception("tagging %d pictures with %s failed", len(arrays), options)
        problem = Problem(code="internal", message="the model failed on this picture; the server's log says why")
    return [ImageResult(error=problem) for _ in arrays]


def _answer(predictor: Predictor, tokens: Tensor, options: Options) -> list[ImageResult]:
    """What is asked of encoded images (B, 1 + L, C)."""
    own = list(options.tags) if options.tags else None
    scores = predictor.tag(tokens, top_k=options.top_k, threshold=options.threshold, tags=own)
    captions: list[str | None] = [*predictor.caption(tokens)] if options.caption else [None] * len(tokens)
    boxes: list[list[Any]] = [[None] * len(found) for found in scores]
    if options.regions:
        boxes = _boxes(predictor, tokens, scores)
    return [
        ImageResult(tags=[_result(*pair) for pair in zip(found, where, strict=True)], caption=caption)
        for found, where, caption in zip(scores, boxes, captions, strict=True)
    ]


def _boxes(predictor: Predictor, tokens: Tensor, scores: list[list[TagScore]]) -> list[list[Any]]:
    from ram_ray.detectors.attention import AttentionDetector

    ids = [[one.id for one in found if one.id is not None] for found in scores]
    names = [[one.tag for one in found] for found in scores]
    found = AttentionDetector(predictor).detect(tokens, tags=names, tag_ids=ids)
    places = [{region.tag_id: region.box for region in regions} for regions in found]
    return [[where.get(id) for id in row] for where, row in zip(places, ids, strict=True)]


def _result(score: TagScore, box: Any) -> TagResult:
    return TagResult(
        tag=score.tag,
        id=score.id,
        score=round(float(score.score), 5),
        threshold=round(float(score.threshold), 5),
        box=box,
    )
