"""Requests and answers in the shape of Google Cloud Vision, over the same work as `POST /v1/tag`.

LABEL_DETECTION gives the tags over their threshold, OBJECT_LOCALIZATION those with a box; `maxResults` cuts each list.
What another feature asks for is an error of its image, beside the lists that were asked for too: a `google.rpc.Status`.
Enums come as names or, from Google's own client, as numbers, and fields in camel case or as protobuf names them.
"""

from __future__ import annotations

import asyncio
import json
from collections import defaultdict
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from enum import IntEnum
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field, ValidationError, WithJsonSchema, field_validator
from pydantic.alias_generators import to_camel

from ram_ray.records import Json
from ram_ray.serving.encodings import image_from_text
from ram_ray.serving.limits import ApiError
from ram_ray.serving.messages import ImageResult, Options, Problem, TagResult, describe

MAX_IMAGES = 16  # of Google; the server's own limit may be lower
DEFAULT_RESULTS = 10  # of Google
QUICK_CHARS = 200_000  # that are decoded on the event loop; more in a thread
MAX_ENTRIES = 1000  # of a list; more are not even read
_INVALID, _UNIMPLEMENTED = 3, 12  # of google.rpc.Code
_CODES = {"unknown_model": 5, "forbidden": 7, "internal": 13, "unavailable": 14}
_BUILT_IN = "builtin/"  # models of Google's own

Content = bytes | Problem
Fetch = Callable[[str], Awaitable[Content]]
Run = Callable[[list[Content], Options], Awaitable[list[bytes]]]


class FeatureType(IntEnum):
    """What can be asked for; the numbers are Google's."""

    TYPE_UNSPECIFIED = 0
    FACE_DETECTION = 1
    LANDMARK_DETECTION = 2
    LOGO_DETECTION = 3
    LABEL_DETECTION = 4
    TEXT_DETECTION = 5
    SAFE_SEARCH_DETECTION = 6
    IMAGE_PROPERTIES = 7
    CROP_HINTS = 9
    WEB_DETECTION = 10
    DOCUMENT_TEXT_DETECTION = 11
    PRODUCT_SEARCH = 12
    OBJECT_LOCALIZATION = 19


_OURS = (FeatureType.LABEL_DETECTION, FeatureType.OBJECT_LOCALIZATION)


class _Message(BaseModel):
    """As protobuf reads JSON: null is a field that is not set."""

    model_config = ConfigDict(extra="forbid", frozen=True, alias_generator=to_camel, populate_by_name=True)


class ImageSource(_Message):
    """Where an image is."""

    image_uri: str | None = Field(None, max_length=8000, description="URL; only of hosts that the server allows")
    gcs_image_uri: str | None = Field(None, max_length=8000, description="Refused")


class VisionImage(_Message):
    """An image; `content` goes before `source`."""

    content: str | None = Field(None, description="The image file, base64")
    source: ImageSource | None = None


class Feature(_Message):
    """What is asked of an image."""

    type: Annotated[FeatureType, WithJsonSchema({"enum": [*FeatureType.__members__, *map(int, FeatureType)]})] = Field(
        FeatureType.TYPE_UNSPECIFIED, description="LABEL_DETECTION or OBJECT_LOCALIZATION"
    )
    max_results: int | None = Field(None, ge=0, lt=2**31, description="Most results; 0 or not set: 10")
    model: str | None = Field(
        None, max_length=200, description="Name of a model of `GET /v1/models`; not set, or builtin/...: the default"
    )

    @field_validator("type", mode="before")
    @classmethod
    def _by_name(cls, value: object) -> object:
        if isinstance(value, str) and value in FeatureType.__members__:
            return FeatureType[value]
        if isinstance(value, bool) or not isinstance(value, int) or value not in list(FeatureType):
            raise ValueError("there is no such feature; use LABEL_DETECTION or OBJECT_LOCALIZATION")
        return value


class AnnotateImageRequest(_Message):
    """One image and what is asked of it."""

    image: VisionImage | None = None
    features: list[Feature] | None = Field(None, max_length=100)
    image_context: Json | None = Field(None, description="Not used")


class AnnotateRequest(_Message):
    """The body of `POST /v1/images:annotate`."""

    requests: list[AnnotateImageRequest] | None = Field(None, max_length=MAX_ENTRIES)
    parent: str | None = Field(None, description="Not used")
    labels: dict[str, str] | None = Field(None, description="Not used")


class Status(BaseModel):
    """A `google.rpc.Status`: why an image has no answer."""

    code: int = Field(description="Of google.rpc.Code")
    message: str


class AnnotateImageResponse(_Message):
    """The answer for one image."""

    label_annotations: list[Json] | None = Field(None, description="mid, description, score, topicality")
    localized_object_annotations: list[Json] | None = Field(
        None, description="mid, name, score, boundingPoly with four normalizedVertices"
    )
    error: Status | None = None


class AnnotateResponse(BaseModel):
    """The answer of `POST /v1/images:annotate`; `responses` are in the order of the requests."""

    responses: list[AnnotateImageResponse]


class GoogleError(BaseModel):
    """Why a request has no answer."""

    code: int = Field(description="The status of HTTP")
    message: str
    status: str = Field(description="Name of google.rpc.Code")
    details: list[Json] = Field(description="ErrorInfo, whose reason is our code, and RequestInfo")


class GoogleErrorResponse(BaseModel):
    """The body of every answer of this path that is not 2xx."""

    error: GoogleError


@dataclass(frozen=True)
class _Plan:
    """What is done for one image."""

    results: dict[FeatureType, int]  # most results of each list
    options: Options
    problem: tuple[int, str] | None  # code and message, beside the lists

    @property
    def is_tagged(self) -> bool:
        return bool(self.results)


def parse(body: bytes, *, max_images: int) -> list[AnnotateImageRequest]:
    """Read the body of `POST /v1/images:annotate`.

    Args:
        body: JSON.
        max_images: most images of a request.

    Returns:
        The images and what is asked of them.

    Raises:
        ApiError: 400, naming the wrong field.
    """
    try:
        requests = AnnotateRequest.model_validate_json(body).requests or []
    except ValidationError as error:
        raise ApiError(400, "bad_request", describe(error, unknown="no such field")) from None
    if len(requests) > max_images:
        message = f"requests: too many images in a request: {len(requests)}; at most {max_images}"
        raise ApiError(400, "too_many_images", message)
    return requests


async def annotate(requests: list[AnnotateImageRequest], *, fetch: Fetch, run: Run) -> bytes:
    """Answer a request.

    Args:
        requests: as `parse` gives them.
        fetch: gives the bytes of an `imageUri`, or a problem.
        run: tags images with the same options; an `ImageResult` as JSON for each.

    Returns:
        A `BatchAnnotateImagesResponse` as JSON.

    Raises:
        ApiError: of `run`, for the request as a whole.
    """
    plans = [_plan(request) for request in requests]
    answers: list[Json] = [{} for _ in requests]
    groups: dict[tuple[object, ...], list[int]] = defaultdict(list)
    for index, plan in enumerate(plans):
        if plan.is_tagged:
            groups[plan.options.model, plan.options.regions].append(index)
        elif plan.problem:
            answers[index] = _error(*plan.problem)
    for indices in groups.values():
        contents = await _all_contents([requests[index] for index in indices], fetch)
        for index, result in zip(indices, await _run(contents, plans[indices[0]].options, run), strict=True):
            answers[index] = _answer(result, plans[index])
    return json.dumps({"responses": answers}).encode()


def _plan(request: AnnotateImageRequest) -> _Plan:
    results: dict[FeatureType, int] = {}
    models: set[str] = set()
    others: list[str] = []
    for feature in request.features or []:
        if feature.type in _OURS:
            results[feature.type] = feature.max_results or DEFAULT_RESULTS
            if feature.model and not feature.model.startswith(_BUILT_IN):
                models.add(feature.model)
        elif feature.type.name not in others:
            others.append(feature.type.name)
    problem = None
    if len(models) > 1:
        results, problem = {}, (_INVALID, "features: an image is tagged by one model")
    elif others:
        problem = (_UNIMPLEMENTED, f"{', '.join(others)}: not offered; use LABEL_DETECTION or OBJECT_LOCALIZATION")
    elif not results:
        problem = (_INVALID, "features: name LABEL_DETECTION or OBJECT_LOCALIZATION")
    options = Options(model=next(iter(models), None), regions=FeatureType.OBJECT_LOCALIZATION in results)
    return _Plan(results, options, problem)


async def _all_contents(requests: list[AnnotateImageRequest], fetch: Fetch) -> list[Content]:
    try:
        async with asyncio.TaskGroup() as group:  # one that fails as a whole stops the others
            tasks = [group.create_task(_content(request, fetch)) for request in requests]
    except ExceptionGroup as errors:
        raise errors.exceptions[0] from None
    return [task.result() for task in tasks]


async def _content(request: AnnotateImageRequest, fetch: Fetch) -> Content:
    image = request.image or VisionImage()
    if image.content:
        quick = len(image.content) <= QUICK_CHARS
        return image_from_text(image.content) if quick else await asyncio.to_thread(image_from_text, image.content)
    source = image.source or ImageSource()
    uri = source.image_uri or source.gcs_image_uri
    if not uri:
        return Problem(code="undecodable", message="image: there is no content")
    if uri.startswith("gs://") or not source.image_uri:
        return Problem(code="forbidden", message="images of Cloud Storage are not fetched; send the content")
    return await fetch(uri)


async def _run(contents: list[Content], options: Options, run: Run) -> list[ImageResult]:
    try:
        return [ImageResult.model_validate_json(result) for result in await run(contents, options)]
    except ApiError as error:
        if error.code != "unknown_model":
            raise
        return [ImageResult(error=Problem(code=error.code, message=error.message))] * len(contents)


def _answer(result: ImageResult, plan: _Plan) -> Json:
    """An `AnnotateImageResponse`."""
    if result.error is not None:
        return _error(_CODES.get(result.error.code, _INVALID), result.error.message)
    answer: Json = {}
    if (most := plan.results.get(FeatureType.LABEL_DETECTION)) is not None:
        answer["labelAnnotations"] = [_label(tag) for tag in result.tags[:most]]
    if (most := plan.results.get(FeatureType.OBJECT_LOCALIZATION)) is not None:
        boxed = [(tag, tag.box) for tag in result.tags if tag.box is not None]
        answer["localizedObjectAnnotations"] = [_object(tag, box) for tag, box in boxed[:most]]
    return answer | (_error(*plan.problem) if plan.problem else {})


def _label(tag: TagResult) -> Json:
    return {"mid": _mid(tag), "description": tag.tag, "score": tag.score, "topicality": tag.score}


def _object(tag: TagResult, box: tuple[float, float, float, float]) -> Json:
    x0, y0, x1, y1 = box
    corners = [{"x": x, "y": y} for x, y in ((x0, y0), (x1, y0), (x1, y1), (x0, y1))]
    return {"mid": _mid(tag), "name": tag.tag, "score": tag.score, "boundingPoly": {"normalizedVertices": corners}}


def _mid(tag: TagResult) -> str:
    """An id of the label, as clients may tell labels apart by it."""
    return f"/ram_ray/{tag.id}"


def _error(code: int, message: str) -> Json:
    return {"error": {"code": code, "message": message}}
