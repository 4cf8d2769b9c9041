"""A client of Google Cloud Vision's `images:annotate`: of Google with the user's own key, or of our server.

Transport, waiting and trying again are those of `client.Client`. Google takes the key in a header, so that it
is in no URL, which logs keep.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Sequence
from typing import TYPE_CHECKING

from ram_ray.serving.client import Client

if TYPE_CHECKING:
    from ram_ray.records import Json

GOOGLE = "https://vision.googleapis.com"
PATH = "/v1/images:annotate"
MAX_IMAGES = 16  # of a request, by Google's limits; this and the next
MAX_BYTES = 7_000_000  # of the images of a request: its JSON may have 10 MB, and base64 adds a third


class VisionClient(Client):
    """A service of this shape.

    Args:
        url: of the service.
        api_key: the user's key.
        timeout_s: seconds until a request without an answer counts as failed.
        attempts: most tries of a request.
    """

    def __init__(
        self, url: str = GOOGLE, *, api_key: str | None = None, timeout_s: float = 60.0, attempts: int = 6
    ) -> None:
        super().__init__(url, timeout_s=timeout_s, attempts=attempts)
        self._headers = {"X-Goog-Api-Key": api_key} if api_key else {}

    def annotate(self, images: Sequence[bytes], *, max_results: int) -> list[Json]:
        """Ask for the labels of images, in one request.

        Args:
            images: image files, as many as a request may have.
            max_results: most labels of an image.

        Returns:
            For each image `tags` and `scores`, each name once in lower case; or `error`, a text.

        Raises:
            ServerError: if the request is refused, or no try succeeds.
        """
        features = [{"type": "LABEL_DETECTION", "maxResults": max_results}]
        requests = [{"image": {"content": base64.b64encode(image).decode()}, "features": features} for image in images]
        responses = self._ask(PATH, json.dumps({"requests": requests}).encode())["responses"]
        return [to_prediction(response) for response in responses]


def to_prediction(response: Json) -> Json:
    """Turn the answer for an image into the fields of a line of a predictions file.

    Args:
        response: an `AnnotateImageResponse`.

    Returns:
        `tags` and `scores`, and `error` where the service could not tag the image.
    """
    scores: dict[str, float] = {}
    for label in response.get("labelAnnotations") or ():
        name = " ".join(str(label.get("description", "")).lower().split())
        if name:
            scores[name] = max(scores.get(name, 0.0), float(label.get("score", 0.0)))
    prediction: Json = {"tags": list(scores), "scores": list(scores.values())}
    problem = response.get("error")
    if problem and not scores:
        prediction["error"] = str(problem.get("message") or problem.get("code") or "no answer")
    return prediction
