"""A client of the HTTP API, in the standard library alone.

    from ram_ray.serving.client import Client

    client = Client("http://127.0.0.1:8000")
    for answer in client.tag(["a.jpg", "b.jpg"], top_k=5):
        print(answer["error"] or [tag["tag"] for tag in answer["tags"]])

Any number of images goes in requests of what the server takes. A server that is busy or being restarted is asked again,
after the time that it names in Retry-After.
"""

from __future__ import annotations

import base64
import contextlib
import email.utils
import http.client
import json
import random
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ram_ray.records import Json

IMAGES_PER_REQUEST = 16
BYTES_PER_REQUEST = 20_000_000  # base64 adds a third
RETRIED = (429, 502, 503, 504)  # 502 is that of a gateway before the server
MAX_WAIT_S = 60.0  # between two tries, whatever Retry-After says
ImageFile = str | Path | bytes


class ServerError(Exception):
    """The server refused a request, or could not be reached in all tries.

    Args:
        message: of the server.
        status: of HTTP; 0: no answer.
        code: for programs, as `docs/http.md` lists them.
        request_id: of the request, as in the server's log.
    """

    def __init__(self, message: str, *, status: int = 0, code: str = "", request_id: str | None = None) -> None:
        super().__init__(message)
        self.status, self.code, self.request_id = status, code, request_id


class Client:
    """A server of the HTTP API.

    Args:
        url: of the server.
        api_key: where the server has keys.
        timeout_s: seconds until a request without an answer counts as failed.
        attempts: most tries of a request.
    """

    def __init__(self, url: str, *, api_key: str | None = None, timeout_s: float = 60.0, attempts: int = 6) -> None:
        self.url, self.timeout_s, self.attempts = url.rstrip("/"), timeout_s, attempts
        self._headers = {"Authorization": f"Bearer {api_key}"} if api_key else {}

    def tag(self, images: ImageFile | Sequence[ImageFile], **options: object) -> list[Json]:
        """Tag images.

        Args:
            images: paths or bytes of image files, or one of them.
            **options: fields of `POST /v1/tag`, such as top_k, threshold, tags, caption, regions, model.

        Returns:
            An `ImageResult` for each image, in order: `tags`, `caption`, and `error`, which is None if it was tagged.

        Raises:
            ServerError: if a request is refused, or no try of it succeeds.
            OSError: if a file cannot be read.
        """
        several = [images] if isinstance(images, (str, Path, bytes)) else images
        return [answer for batch in _batches(several) for answer in self._tag(batch, options)]

    def labels(self, model: str | None = None) -> Json:
        """Ask for the labels of a model.

        Args:
            model: its name; None: the default.

        Returns:
            The answer of `GET /v1/tags`.

        Raises:
            ServerError: as of `tag`.
        """
        return self._ask("/v1/tags" + (f"?model={urllib.parse.quote(model, safe='')}" if model else ""))

    def _tag(self, images: list[bytes], options: dict[str, object]) -> list[Json]:
        sent = [{"content": base64.b64encode(image).decode()} for image in images]
        try:
            return self._ask("/v1/tag", json.dumps({"images": sent, **options}).encode())["images"]
        except ServerError as error:
            if error.status != 413 or len(images) == 1:
                raise
        half = len(images) // 2  # the server takes less than it does by default
        return self._tag(images[:half], options) + self._tag(images[half:], options)

    def _ask(self, path: str, body: bytes | None = None) -> Json:
        headers = self._headers | ({"Content-Type": "application/json"} if body else {})
        request = urllib.request.Request(self.url + path, data=body, headers=headers)
        for attempt in range(1, self.attempts + 1):
            try:
                with urllib.request.urlopen(request, timeout=self.timeout_s) as answer:
                    return json.load(answer)
            except urllib.error.HTTPError as error:
                failure, retry_after = _read_error(error), error.headers.get("Retry-After")
                if error.code not in RETRIED:
                    raise failure from None
            except (OSError, http.client.HTTPException) as error:
                reason = getattr(error, "reason", error)
                failure, retry_after = ServerError(f"{self.url} does not answer: {reason}"), None
            if attempt < self.attempts:
                time.sleep(_wait_s(retry_after, attempt))
        raise failure


def _batches(images: Sequence[ImageFile]) -> Iterator[list[bytes]]:
    """The bytes of the images, as many together as a request may have; a file is read when it is its turn."""
    batch: list[bytes] = []
    num_bytes = 0
    for image in images:
        data = image if isinstance(image, bytes) else Path(image).read_bytes()
        if batch and (len(batch) == IMAGES_PER_REQUEST or num_bytes + len(data) > BYTES_PER_REQUEST):
            yield batch
            batch, num_bytes = [], 0
        batch.append(data)
        num_bytes += len(data)
    if batch:
        yield batch


def _read_error(error: urllib.error.HTTPError) -> ServerError:
    try:
        problem = json.load(error)["error"]
        message, code, request_id = problem["message"], problem["code"], problem.get("request_id")
    except (ValueError, KeyError, TypeError, OSError):  # of something before the server
        message, code, request_id = f"{error.code} {error.reason}", "", None
    return ServerError(message, status=error.code, code=code, request_id=request_id)


def _wait_s(retry_after: str | None, attempt: int) -> float:
    """Seconds until the next try, somewhat different for each client."""
    wait = 0.5 * 2 ** (attempt - 1)
    if retry_after is not None and retry_after.isdecimal():
        wait = float(retry_after)
    elif retry_after is not None:
        with contextlib.suppress(ValueError, TypeError):  # an HTTP date, or nonsense
            wait = (email.utils.parsedate_to_datetime(retry_after) - datetime.now(UTC)).total_seconds()
    return min(max(wait, 0), MAX_WAIT_S) * random.uniform(1, 1.25)
