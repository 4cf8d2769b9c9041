"""Images of the web, fetched for a client: only from hosts that the server's settings name.

The client chooses the URL and the server is inside a network, so each step is bounded. The host must be on the list;
its addresses are looked up once and must be public, or in a network that the settings name; the connection goes to the
addresses that were checked, so that a name cannot mean another one a moment later. Redirects are followed by the same
rules. Bytes, seconds and the fetches at a time have limits.
"""

from __future__ import annotations

import asyncio
import ipaddress
import logging
import socket
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import aiohttp
from aiohttp.abc import AbstractResolver, ResolveResult
from yarl import URL

from ram_ray.serving.messages import Problem
from ram_ray.settings.serving import HOST_ENTRY, ServeConfig

logger = logging.getLogger(__name__)

FETCH_S = 10.0
MAX_HOPS = 4  # a fetch and its redirects
MAX_FETCHES = 32  # at a time
CHUNK = 64 * 1024
DNS_THREADS = 4  # of our own: a slow name server must not hold up what else runs in threads
_PORTS = {"http": 80, "https": 443}
_REDIRECTS = (301, 302, 303, 307, 308)
# Addresses that carry another one, which would have to be checked.
_CARRIERS = [ipaddress.ip_network(text) for text in ("2002::/16", "2001::/32", "64:ff9b::/96", "64:ff9b:1::/48")]
Address = ipaddress.IPv4Address | ipaddress.IPv6Address


class FetchError(Exception):
    """Why an image is not fetched.

    Args:
        code: for programs: `forbidden`, `unavailable` or `too_large`.
        message: for people.
    """

    def __init__(self, code: str, message: str) -> None:
        super().__init__(message)
        self.problem = Problem(code=code, message=message)


class WebImages:
    """Fetches images by their URL.

    Args:
        config: section `serve`: `image_hosts`, `image_networks`, `max_image_bytes`.
    """

    def __init__(self, config: ServeConfig) -> None:
        self._hosts = tuple(host.lower() for host in config.image_hosts)
        self._networks = [ipaddress.ip_network(network, strict=False) for network in config.image_networks]
        self._max_bytes = config.max_image_bytes
        self._fetches = asyncio.Semaphore(MAX_FETCHES)
        self._dns = ThreadPoolExecutor(DNS_THREADS, thread_name_prefix="dns")

    async def fetch(self, uri: str, *, add: Callable[[int], None]) -> bytes | Problem:
        """Fetch an image.

        Args:
            uri: as the client gave it.
            add: counts bytes, as `ByteBudget.hold` gives it.

        Returns:
            Its bytes; a problem that says why not.

        Raises:
            ApiError: of `add`.
        """
        try:
            async with self._fetches, asyncio.timeout(FETCH_S):
                return await self._fetch(URL(uri), add)
        except FetchError as error:
            return error.problem
        except TimeoutError:
            return Problem(code="unavailable", message=f"imageUri: no image came within {FETCH_S:g} s")
        except (aiohttp.ClientError, OSError) as error:
            logger.info("an image was not fetched: %s", error)
            return Problem(code="unavailable", message="imageUri: its server cannot be reached; send the content")
        except (ValueError, UnicodeError):  # of the URL, or of one in a redirect
            return Problem(code="forbidden", message="imageUri: this is not a URL")

    async def _fetch(self, url: URL, add: Callable[[int], None]) -> bytes:
        for _ in range(MAX_HOPS):
            self._check(url)
            connector = aiohttp.TCPConnector(resolver=_Known(await self._resolve(url)), force_close=True)
            async with (
                aiohttp.ClientSession(
                    connector=connector,
                    cookie_jar=aiohttp.DummyCookieJar(),
                    auto_decompress=False,
                    headers={"Accept": "image/*", "Accept-Encoding": "identity", "User-Agent": "ram_ray"},
                ) as session,
                session.get(url, allow_redirects=False) as answer,
            ):
                if answer.status in _REDIRECTS and "Location" in answer.headers:
                    url = url.join(URL(answer.headers["Location"]))
                    continue
                if answer.status != 200:
                    raise FetchError("unavailable", f"imageUri: its server answered with status {answer.status}")
                return await self._read(answer, add)
        raise FetchError("unavailable", f"imageUri: over {MAX_HOPS - 1} redirects")

    async def _read(self, answer: aiohttp.ClientResponse, add: Callable[[int], None]) -> bytes:
        chunks: list[bytes] = []
        num_bytes = 0
        async for chunk in answer.content.iter_chunked(CHUNK):
            num_bytes += len(chunk)
            if num_bytes > self._max_bytes:
                raise FetchError("too_large", f"imageUri: an image may have at most {self._max_bytes:,} bytes")
            add(len(chunk))
            chunks.append(chunk)
        return b"".join(chunks)

    def _check(self, url: URL) -> None:
        """Check what can be checked of a URL without looking up its host."""
        if url.scheme not in _PORTS or not url.raw_host:
            raise FetchError("forbidden", "imageUri: use a URL of http or https")
        if url.raw_user is not None or url.raw_password is not None:
            raise FetchError("forbidden", "imageUri: a URL with a user is not fetched")
        host = url.raw_host.lower().rstrip(".")
        if not any(_allows(entry, host, url.port, _PORTS[url.scheme]) for entry in self._hosts):
            message = f"imageUri: {host[:100]}:{url.port} is not among the server's image_hosts; send the content"
            raise FetchError("forbidden", message)

    async def _resolve(self, url: URL) -> list[ResolveResult]:
        """Look up a host: its addresses that may be asked."""
        assert url.raw_host is not None and url.port is not None
        loop = asyncio.get_running_loop()
        found = await loop.run_in_executor(
            self._dns, lambda: socket.getaddrinfo(url.raw_host, url.port, type=socket.SOCK_STREAM)
        )
        results: list[ResolveResult] = []
        for family, _, proto, _, address in found:
            if not self._may_ask(ipaddress.ip_address(str(address[0]).partition("%")[0])):
                continue
            results.append(
                ResolveResult(
                    hostname=url.raw_host,
                    host=str(address[0]),
                    port=url.port,
                    family=family,
                    proto=proto,
                    flags=socket.AI_NUMERICHOST,
                )
            )
        if not results:
            raise FetchError("forbidden", "imageUri: its host has no public address")
        return results

    def _may_ask(self, address: Address) -> bool:
        if isinstance(address, ipaddress.IPv6Address) and address.ipv4_mapped is not None:
            address = address.ipv4_mapped
        if any(address in network for network in self._networks):
            return True
        return address.is_global and not address.is_multicast and not any(address in net for net in _CARRIERS)


class _Known(AbstractResolver):
    """A resolver that gives the addresses that were checked."""

    def __init__(self, results: list[ResolveResult]) -> None:
        self._results = results

    async def resolve(self, host: str, port: int = 0, family: int = socket.AF_INET) -> list[ResolveResult]:
        """See `AbstractResolver`."""
        return self._results

    async def close(self) -> None:
        """See `AbstractResolver`."""


def _allows(entry: str, host: str, port: int | None, default_port: int) -> bool:
    """Whether an entry of `image_hosts` is for a host and a port."""
    match = HOST_ENTRY.fullmatch(entry)
    assert match is not None, "the settings have checked it"
    name = match[1].strip("[]")
    if port != int(match[2] or default_port):
        return False
    return name == "*" or host == name or (name.startswith("*.") and host.endswith(name[1:]))
