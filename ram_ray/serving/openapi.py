"""Parts of openapi.json: the API reads bodies itself, so FastAPI does not know their forms."""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel

from ram_ray.records import Json
from ram_ray.serving import vision
from ram_ray.serving.messages import Options, TagRequest

ERRORS: dict[int | str, Json] = {
    status: {
        "description": meaning,
        "content": {"application/json": {"schema": {"$ref": "#/components/schemas/ErrorResponse"}}},
    }
    for status, meaning in {
        400: "The body cannot be read",
        401: "No API key, or one that is unknown",
        404: "There is no model of this name",
        408: "The body came too slowly",
        413: "Too many bytes or images",
        415: "Neither an image, multipart/form-data nor application/json, or an encoding that is not gzip",
        422: "A field is unknown or wrong; the message names it",
        429: "Too many images are waiting, or the key's images of this minute are used up; see Retry-After",
        503: "No model is ready, or it is too busy; see Retry-After",
        504: "Not finished within the server's time limit",
    }.items()
}
_IMAGE = {"type": "string", "format": "binary"}


def tag_body(*, max_images: int) -> Json:
    """The forms of the body of `POST /v1/tag`.

    Args:
        max_images: most images of a request.

    Returns:
        `requestBody` of the operation.
    """
    form, sent = Options.model_json_schema(), schema_of(TagRequest)
    for field in form["properties"].values():  # a form has no null: a field that is not set is left out
        field["anyOf"] = [kind for kind in field.get("anyOf", []) if kind != {"type": "null"}]
        if not field["anyOf"]:
            del field["anyOf"]
    form["properties"]["images"] = {"type": "array", "items": _IMAGE, "minItems": 1, "maxItems": max_images}
    form["required"] = ["images"]
    images = sent["properties"]["images"]
    text = {"type": "string", "description": "The same as {content: ...}"}
    images |= {"items": {"anyOf": [images["items"], text]}, "maxItems": max_images}
    return _body({"multipart/form-data": form, "application/json": sent, "image/*": _IMAGE})


def vision_operation(*, max_images: int) -> Json:
    """The body of `POST /v1/images:annotate`, and its errors, which are Google's.

    Args:
        max_images: most images of a request.

    Returns:
        `requestBody` and `responses` of the operation.
    """
    sent, problem = schema_of(vision.AnnotateRequest), schema_of(vision.GoogleErrorResponse)
    sent["properties"]["requests"]["anyOf"][0]["maxItems"] = max_images
    content = {"application/json": {"schema": problem}}
    errors = {str(status): ERRORS[status] | {"content": content} for status in ERRORS if status not in (404, 422)}
    answer = {"application/json": {"schema": schema_of(vision.AnnotateResponse)}}
    responses = {"200": {"description": "An answer for each image", "content": answer}, **errors}
    return _body({"application/json": sent}) | {"responses": responses}


def schema_of(message: type[BaseModel]) -> Json:
    """The schema of a message, without references.

    Args:
        message: its class; no message has itself as a part.

    Returns:
        JSON Schema with every definition put where it is used.
    """
    schema = message.model_json_schema()
    definitions = schema.pop("$defs", {})

    def inline(value: Any) -> Any:
        if isinstance(value, list):
            return [inline(each) for each in value]
        if not isinstance(value, dict):
            return value
        if "$ref" in value:
            rest = {name: each for name, each in value.items() if name != "$ref"}
            return inline(definitions[value["$ref"].rpartition("/")[2]]) | rest
        return {name: inline(each) for name, each in value.items()}

    return inline(schema)


def _body(schemas: dict[str, Json]) -> Json:
    content = {kind: {"schema": schema} for kind, schema in schemas.items()}
    return {"requestBody": {"required": True, "content": content}}
