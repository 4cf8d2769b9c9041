"""API keys: who sends a request, and how many images a minute it may send.

A key is 32 random bytes, so its plain SHA-256 cannot be turned back; the server is given the hash alone. The clocks are
those of one process: with several replicas of the Ingress a client may send so many times its rate.
"""

from __future__ import annotations

import hashlib
import secrets
import time
from collections.abc import Mapping

from ram_ray.serving.limits import ApiError
from ram_ray.settings.serving import ApiKey, ServeConfig

PREFIX = "rr_"


def make_key(name: str, *, images_per_minute: int | None = None) -> tuple[str, ApiKey]:
    """Make a key.

    Args:
        name: of the client.
        images_per_minute: most images a minute; None: no limit.

    Returns:
        The key, for the client, and its entry in `serve.api_keys`.
    """
    key = PREFIX + secrets.token_urlsafe(32)
    return key, ApiKey(name=name, sha256=hash_key(key), images_per_minute=images_per_minute)


def hash_key(key: str) -> str:
    """SHA-256 of a key.

    Args:
        key: as the client sends it.

    Returns:
        Hexadecimal digits.
    """
    return hashlib.sha256(key.encode("utf-8", "surrogateescape")).hexdigest()


class Keys:
    """The keys of a server; without any, each client is its address."""

    def __init__(self, config: ServeConfig) -> None:
        self._keys: Mapping[str, ApiKey] = {key.sha256: key for key in config.api_keys}
        self._images: dict[str, tuple[float, float]] = {}  # hash -> (time, images that may be sent)

    def client_of(self, headers: Mapping[str, str], address: str) -> str:
        """Find out who sends a request.

        Args:
            headers: of the request; the key is in `Authorization: Bearer`, `X-API-Key` or `X-Goog-Api-Key`.
            address: of the client.

        Returns:
            Name of the client, or its address where the server has no keys.

        Raises:
            ApiError: 401 without a key or with one that is unknown.
        """
        if not self._keys:
            return address
        return self._find(headers).name

    def count_images(self, headers: Mapping[str, str], num_images: int) -> None:
        """Count the images of a request against the limit of its key.

        Args:
            headers: of the request.
            num_images: that it has.

        Raises:
            ApiError: 429 if the key's images of this minute are used up.
        """
        if not self._keys:
            return
        key = self._find(headers)
        if key.images_per_minute is None:
            return
        now, most = time.monotonic(), float(key.images_per_minute)
        then, left = self._images.get(key.sha256, (now, most))
        left = min(most, left + (now - then) * most / 60)
        if num_images > left:
            self._images[key.sha256] = (now, left)
            wait = (num_images - left) * 60 / most
            message = f"the key {key.name!r} may send {key.images_per_minute} images a minute"
            raise ApiError(429, "rate_limited", message, retry_after_s=wait)
        self._images[key.sha256] = (now, left - num_images)

    def _find(self, headers: Mapping[str, str]) -> ApiKey:
        scheme, _, token = headers.get("authorization", "").partition(" ")
        sent = token.strip() if scheme.lower() == "bearer" else ""
        sent = sent or headers.get("x-api-key", "") or headers.get("x-goog-api-key", "")
        found = self._keys.get(hash_key(sent)) if sent else None
        if found is None:
            problem = "unknown API key" if sent else "send an API key: Authorization: Bearer KEY"
            raise ApiError(401, "unauthorized", problem)
        return found
