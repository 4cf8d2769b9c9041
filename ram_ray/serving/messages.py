"""The requests and responses of the HTTP API, with their limits.

An unknown field, a wrong type or a number out of range is an error that names the field; no field is ignored. Form
fields are strings and are read by the same models, so that forms and JSON follow the same rules.
"""

from __future__ import annotations

import unicodedata
from typing import Annotated, Any

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

MAX_TOP_K = 1000
MAX_OWN_TAGS = 200
MAX_TAG_CHARS = 64
MAX_ENTRIES = 1000  # of `images`; the server's own limit is lower, but more are not even read


def _check_text(tag: str) -> str:
    tag = " ".join(tag.split())
    if not tag:
        raise ValueError("a tag needs at least one letter")
    if any(unicodedata.category(char).startswith("C") for char in tag):
        raise ValueError("a tag is plain text without control characters")
    return tag


OwnTag = Annotated[str, Field(min_length=1, max_length=MAX_TAG_CHARS), AfterValidator(_check_text)]


class Message(BaseModel):
    """A part of a request: unknown fields and wrong types are errors."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)


class Options(Message):
    """How the images of one request are tagged."""

    top_k: int | None = Field(None, ge=1, le=MAX_TOP_K, description="Give the best k tags of each image")
    threshold: float | None = Field(
        None, ge=0, le=1, allow_inf_nan=False, description="Probability over which a tag is given; default: its own"
    )
    tags: tuple[OwnTag, ...] | None = Field(
        None,
        min_length=1,
        max_length=MAX_OWN_TAGS,
        description="Your own tags, any words, scored instead of the model's list",
    )
    caption: bool = Field(False, description="Also write a caption of each image")
    model: str | None = Field(
        None, max_length=200, description="Name of a model of `GET /v1/models`; default: the first"
    )
    regions: bool = Field(
        False, description="Also give each tag a box: x0, y0, x1, y1 as fractions of width and height"
    )

    @field_validator("tags", mode="before")
    @classmethod
    def _list_as_tuple(cls, tags: object) -> object:
        return tuple(tags) if isinstance(tags, list) else tags

    def options(self) -> Options:
        """The options of a request, without its images.

        Returns:
            The fields of `Options`.
        """
        return Options.model_construct(**{name: getattr(self, name) for name in Options.model_fields})

    def key(self) -> tuple[object, ...]:
        """What images must have in common to share a forward pass.

        Returns:
            The options, hashable.
        """
        return (self.top_k, self.threshold, self.tags, self.caption, self.regions)

    @field_validator("tags")
    @classmethod
    def _check_unique(cls, tags: tuple[str, ...] | None) -> tuple[str, ...] | None:
        if tags and len(set(tags)) < len(tags):
            raise ValueError(f"{next(tag for tag in tags if tags.count(tag) > 1)!r} appears twice")
        return tags

    @model_validator(mode="after")
    def _check_regions(self) -> Options:
        if self.regions and self.tags:
            raise ValueError("regions: only for the model's own tags; leave out 'tags' or 'regions'")
        return self


class ImageContent(Message):
    """One image in a JSON request."""

    content: str = Field(
        description="The image file (JPEG, PNG, WebP, GIF, BMP, TIFF, HEIC, AVIF), base64 or a data: URL of it"
    )

    @model_validator(mode="before")
    @classmethod
    def _text_as_content(cls, value: object) -> object:
        return {"content": value} if isinstance(value, str) else value


class TagRequest(Options):
    """The body of `POST /v1/tag` as JSON."""

    images: list[ImageContent] = Field(min_length=1, max_length=MAX_ENTRIES)


class _PlainImage(Message):
    model_config = ConfigDict(val_json_bytes="base64")

    content: bytes = Field(min_length=1)


class _PlainRequest(Options):
    """A `TagRequest` whose images are plain base64, as nearly all are.

    They are decoded while the JSON is read, in a seventh of the time. What it does not take is read as a `TagRequest`.
    """

    images: list[_PlainImage] = Field(min_length=1, max_length=MAX_ENTRIES)


class Problem(BaseModel):
    """What went wrong: a code for programs, a message for people."""

    code: str
    message: str
    request_id: str | None = Field(None, description="Of the header X-Request-ID, in the answer of a request")


class ErrorResponse(BaseModel):
    """The body of every answer that is not 2xx."""

    error: Problem


class TagResult(BaseModel):
    """One tag of one image."""

    tag: str
    id: int | None = Field(description="Index in the model's label list; null for your own tags")
    score: float = Field(description="Probability, 0 to 1")
    threshold: float = Field(description="Probability over which the tag counts as present")
    box: tuple[float, float, float, float] | None = Field(None, description="Only with 'regions'")


class ImageResult(BaseModel):
    """The result of one image: tags, or an error."""

    tags: list[TagResult] = []
    caption: str | None = None
    error: Problem | None = None


class TagResponse(BaseModel):
    """The answer of `POST /v1/tag`; `images` are in the order they were sent."""

    model: str
    digest: str = Field(description="Digest of the model's bundle")
    images: list[ImageResult]


class ModelEntry(BaseModel):
    """One model of the server."""

    name: str
    digest: str = Field(description="Digest of the bundle")
    version: str = Field(description="Digest of the label list")
    image_size: int
    num_tags: int
    default: bool = Field(description="Whether it answers requests that name no model")


class ModelList(BaseModel):
    """The answer of `GET /v1/models`."""

    models: list[ModelEntry]


class ServerLimits(BaseModel):
    """The answer of `GET /v1/limits`: what a request may have."""

    formats: list[str] = Field(description="Image formats that are read")
    max_images: int
    max_request_bytes: int
    max_image_bytes: int
    max_pixels: int = Field(description="Of an image; a JPEG may have 8 times as many")
    max_top_k: int
    max_own_tags: int
    max_tag_chars: int
    timeout_s: float


class LabelInfo(BaseModel):
    """One label of the model."""

    id: int
    name: str
    kind: str
    synonyms: list[str]
    threshold: float | None


class ModelInfo(BaseModel):
    """The answer of `GET /v1/tags`: the loaded model and its labels."""

    model: str
    digest: str = Field(description="Digest of the bundle")
    version: str = Field(description="Digest of the label list")
    image_size: int
    tags: list[LabelInfo]


def options_from_form(fields: list[tuple[str, str]]) -> Options:
    """Read options sent as form fields.

    Args:
        fields: (name, value) pairs; `tags` may be repeated or separated by commas, other names appear once.

    Returns:
        The checked options.

    Raises:
        ValueError: for an unknown, repeated or wrong field; names it.
    """
    options: dict[str, Any] = {}
    for name, value in fields:
        if name == "tags":
            options.setdefault("tags", []).extend(part for part in value.split(",") if part.strip())
        elif name in options:
            raise ValueError(f"{name}: sent more than once")
        elif value.strip():
            options[name] = value.strip()
        elif name not in Options.model_fields:
            raise ValueError(_unknown(name))
    if not options.get("tags", True):  # an empty form field is a field that is not set
        del options["tags"]
    try:
        return Options.model_validate(options, strict=False)  # form values are text
    except ValidationError as error:
        raise ValueError(describe(error)) from None


def images_from_json(body: bytes) -> tuple[list[bytes], Options] | None:
    """Read the JSON body of `POST /v1/tag` if its images are plain base64.

    Args:
        body: bytes of the request.

    Returns:
        The images and the options; None: `request_from_json` has to read it.
    """
    try:
        request = _PlainRequest.model_validate_json(body)
    except ValidationError:
        return None
    return [image.content for image in request.images], request.options()


def request_from_json(body: bytes) -> TagRequest:
    """Read the JSON body of `POST /v1/tag`.

    Args:
        body: bytes of the request.

    Returns:
        The checked request.

    Raises:
        ValueError: for a wrong or unknown field, which it names, or for invalid JSON, with its line and column.
    """
    try:
        return TagRequest.model_validate_json(body)
    except ValidationError as error:
        raise ValueError(describe(error)) from None


def describe(error: ValidationError, *, unknown: str | None = None) -> str:
    """Describe a validation error in one line.

    Args:
        error: of pydantic.
        unknown: said of an unknown field; None: the fields of `POST /v1/tag`.

    Returns:
        Up to five fields, each with its problem; never the values that were sent.
    """
    lines = []
    for problem in error.errors(include_url=False, include_input=False, include_context=False)[:5]:
        field = ".".join(str(part) for part in problem["loc"])
        if problem["type"] == "extra_forbidden":
            lines.append(f"{field[:100]}: {unknown}" if unknown else _unknown(field))
        else:
            text = problem["msg"].removeprefix("Value error, ")
            lines.append(f"{field}: {text}" if field else text)
    return "; ".join(lines)


def _unknown(field: str) -> str:
    if "." in field:
        return f"{field[:100]}: no such field"
    return f"{field[:100]}: no such field; use images, {', '.join(Options.model_fields)}"
