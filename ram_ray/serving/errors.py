"""Errors as JSON: `{"error": {code, message, request_id}}`, and Google's shape on the path that has Google's shape."""

from __future__ import annotations

import json
import logging
import re
from collections.abc import Mapping

from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response

from ram_ray.serving.limits import ApiError

logger = logging.getLogger(__name__)

CODES = {400: "bad_request", 401: "unauthorized", 403: "forbidden", 404: "not_found", 405: "method_not_allowed"}
CODES |= {408: "timeout", 413: "too_large", 429: "busy", 503: "not_ready", 504: "timeout"}
VISION_PATH = "/v1/images:annotate"
_VISION_PATHS = re.compile(r"/v1/(projects/[^/]+/(locations/[^/]+/)?)?images:annotate")
_GOOGLE = {401: "UNAUTHENTICATED", 403: "PERMISSION_DENIED", 404: "NOT_FOUND", 408: "DEADLINE_EXCEEDED"}
_GOOGLE |= {429: "RESOURCE_EXHAUSTED", 500: "INTERNAL", 503: "UNAVAILABLE", 504: "DEADLINE_EXCEEDED"}
_TYPE = "type.googleapis.com/google.rpc."


def is_vision(path: str) -> bool:
    """Whether requests and answers of a path have the shape of Google Vision.

    Args:
        path: of a request.

    Returns:
        True for `POST /v1/images:annotate`, also below a project and a location.
    """
    return path.endswith("images:annotate") and _VISION_PATHS.fullmatch(path) is not None


def error_body(error: ApiError, *, path: str, request_id: str | None) -> bytes:
    """Write an error as JSON.

    Args:
        error: that ended the request.
        path: of the request.
        request_id: of the request.

    Returns:
        The body of the answer.
    """
    if not is_vision(path):
        problem = {"code": error.code, "message": error.message, "request_id": request_id}
        return json.dumps({"error": problem}).encode()
    details = [
        {"@type": f"{_TYPE}ErrorInfo", "reason": error.code, "domain": "ram_ray"},
        {"@type": f"{_TYPE}RequestInfo", "requestId": request_id},
    ]
    status = _GOOGLE.get(error.status, "INVALID_ARGUMENT")
    answer = {"code": error.status, "message": error.message, "status": status, "details": details}
    return json.dumps({"error": answer}).encode()


def read_error(body: bytes) -> tuple[str, str]:
    """Read an error that `error_body` has written.

    Args:
        body: of an answer.

    Returns:
        Code and message; empty if it is none of ours.
    """
    try:
        problem = json.loads(body)["error"]
        code = problem["details"][0]["reason"] if "details" in problem else problem["code"]
        return code, problem["message"]
    except (ValueError, KeyError, TypeError, IndexError):
        return "", ""


def error_response(request: Request, error: Exception) -> Response:
    """The answer of a request that failed.

    Args:
        request: that failed.
        error: any; what is not the client's mistake is logged.

    Returns:
        The error as JSON.
    """
    request_id = request.headers.get("x-request-id")
    headers: Mapping[str, str] | None = None
    if isinstance(error, ApiError):
        problem, headers = error, error.headers
    elif isinstance(error, HTTPException):
        status, message, headers = error.status_code, str(error.detail), error.headers
        code = CODES.get(status, "error")
        if message.startswith("Too many files"):
            status, code = 413, "too_many_images"
        problem = ApiError(status, code, message)
    else:
        logger.error("%s %s failed (request %s)", request.method, request.url.path, request_id, exc_info=error)
        problem = ApiError(500, "internal", "the server failed; its log says why")
    body = error_body(problem, path=request.url.path, request_id=request_id)
    return Response(body, problem.status, headers, media_type="application/json")
