"""What a client may send and what it gets back: the native API's messages, strict, with their limits.

An unknown field, a wrong type or a number out of range is an error that names the field; nothing is guessed
or quietly ignored. Form fields are strings and are read by the same models, so that both ways of sending
pictures have one set of rules.
"""

from __future__ import annotations

import unicodedata
from typing import Annotated, Any

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

MAX_TOP_K = 1000
MAX_OWN_TAGS = 200
MAX_TAG_CHARS = 64


def _plain_text(tag: str) -> str:
    tag = " ".join(tag.split())
    if not tag:
        raise ValueError("a tag needs at least one letter")
    if any(unicodedata.category(char).startswith("C") for char in tag):
        raise ValueError("a tag is plain text without control characters")
    return tag


OwnTag = Annotated[str, Field(min_length=1, max_length=MAX_TAG_CHARS), AfterValidator(_plain_text)]


class Message(BaseModel):
    """A part of a request: unknown fields and wrong types are errors."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)


class Options(Message):
    """How the pictures of one request are tagged."""

    top_k: int | None = Field(None, ge=1, le=MAX_TOP_K, description="Give the best k tags of each picture")
    threshold: float | None = Field(
        None, ge=0, le=1, allow_inf_nan=False, description="Probability over which a tag is given; default: its own"
    )
    tags: tuple[OwnTag, ...] | None = Field(
        None,
        min_length=1,
        max_length=MAX_OWN_TAGS,
        description="Your own tags, any words, scored instead of the model's list",
    )
    caption: bool = Field(False, description="Also write a caption of each picture")
    regions: bool = Field(False, description="Also give each tag a box: x0, y0, x1, y1 as shares of width and height")

    @field_validator("tags", mode="before")
    @classmethod
    def _list_as_tuple(cls, tags: Any) -> Any:
        return tuple(tags) if isinstance(tags, list) else tags

    @field_validator("tags")
    @classmethod
    def _each_once(cls, tags: tuple[str, ...] | None) -> tuple[str, ...] | None:
        if tags and len(set(tags)) < len(tags):
            raise ValueError(f"{next(tag for tag in tags if tags.count(tag) > 1)!r} is there twice")
        return tags

    @model_validator(mode="after")
    def _regions_need_labels(self) -> Options:
        if self.regions and self.tags:
            raise ValueError("regions: only for the model's own tags; leave out 'tags' or 'regions'")
        return self


class ImageContent(Message):
    """One picture in a JSON request."""

    content: str = Field(description="The picture's file (JPEG, PNG, WebP, GIF, BMP), base64")


class TagRequest(Options):
    """The body of `POST /v1/tag` as JSON."""

    images: list[ImageContent] = Field(min_length=1)

    def options(self) -> Options:
        """The request without its pictures."""
        return Options.model_construct(**{name: getattr(self, name) for name in Options.model_fields})


class Problem(BaseModel):
    """What went wrong: a word for programs, a sentence for people."""

    code: str
    message: str


class ErrorResponse(BaseModel):
    """The body of every answer that is not 2xx."""

    error: Problem


class TagResult(BaseModel):
    """One tag of one picture."""

    tag: str
    id: int | None = Field(description="Place in the model's label list; null for your own tags")
    score: float = Field(description="Probability, 0 to 1")
    threshold: float = Field(description="Probability over which the tag counts as present")
    box: tuple[float, float, float, float] | None = Field(None, description="Only with 'regions'")


class ImageResult(BaseModel):
    """One picture's answer: tags, or an error of its own."""

    tags: list[TagResult] = []
    caption: str | None = None
    error: Problem | None = None


class TagResponse(BaseModel):
    """The answer of `POST /v1/tag`; `images` are in the order they were sent."""

    model: str
    images: list[ImageResult]


class LabelInfo(BaseModel):
    """One label of the model."""

    id: int
    name: str
    kind: str
    synonyms: list[str]
    threshold: float | None


class ModelInfo(BaseModel):
    """The answer of `GET /v1/tags`: what the loaded model knows."""

    model: str
    version: str = Field(description="Digest of the label list")
    image_size: int
    tags: list[LabelInfo]


def options_from_form(fields: list[tuple[str, str]]) -> Options:
    """Read options sent as form fields: `tags` may be repeated or separated by commas, the rest stand once.

    Raises:
        ValueError: for an unknown, repeated or wrong field; names it.
    """
    tree: dict[str, Any] = {}
    for name, value in fields:
        if name == "tags":
            tree.setdefault("tags", []).extend(part for part in value.split(",") if part.strip())
        elif name in tree:
            raise ValueError(f"{name}: sent more than once")
        elif value.strip():
            tree[name] = value.strip()
        elif name not in Options.model_fields:
            raise ValueError(_unknown(name))
    if not tree.get("tags", True):  # an empty form field means: no tags of my own
        del tree["tags"]
    try:
        return Options.model_validate(tree, strict=False)  # form values are text
    except ValidationError as error:
        raise ValueError(describe(error)) from None


def request_from_json(body: bytes) -> TagRequest:
    """Read the JSON body of `POST /v1/tag`.

    Raises:
        ValueError: for a wrong or unknown field; names it. (`json_invalid` problems say where the JSON breaks.)
    """
    try:
        return TagRequest.model_validate_json(body)
    except ValidationError as error:
        raise ValueError(describe(error)) from None


def describe(error: ValidationError) -> str:
    """One line for a validation error: each field and what is wrong with it, without what was sent."""
    lines = []
    for problem in error.errors(include_url=False, include_input=False, include_context=False)[:5]:
        field = ".".join(str(part) for part in problem["loc"])
        if problem["type"] == "extra_forbidden":
            lines.append(_unknown(field))
        else:
            text = problem["msg"].removeprefix("Value error, ")
            lines.append(f"{field}: {text}" if field else text)
    return "; ".join(lines)


def _unknown(field: str) -> str:
    if "." in field:
        return f"{field[:100]}: no such field"
    return f"{field[:100]}: no such field; use images, {', '.join(Options.model_fields)}"
