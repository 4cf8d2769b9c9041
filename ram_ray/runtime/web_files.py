"""Large files of a web server, kept on this machine: resumed when cut, checked, whole or not there.

    FOLDER/NAME        the whole file
    FOLDER/NAME.part   the bytes that have arrived so far
    FOLDER/NAME.lock   a flock of the process that fetches the file

The hard question is a broken line: a checkpoint has gigabytes. So bytes are appended to NAME.part, and a request asks
for the rest alone, in the same process or in the next one. huggingface_hub removes what has arrived when its process
ends, and `local_copy` (`storage`) keeps a copy as long as a process lives; so this is plain HTTP of the standard
library, which asks no more of a mirror than to send a file.

Nothing of the server is trusted: not the size, if it is known here, and not the content, if its sha256 is.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import hashlib
import logging
import shutil
import time
from collections.abc import Iterator
from dataclasses import dataclass
from http.client import HTTPException, HTTPResponse
from pathlib import Path
from urllib.error import HTTPError, URLError
from urllib.request import Request, urlopen

logger = logging.getLogger(__name__)

MAX_BYTES = 1 << 34  # of a file whose size is not known
TIMEOUT_SECONDS = 60.0  # without a byte
WAIT_SECONDS = (1.0, 2.0, 4.0, 8.0)  # before each further try, since the last one that brought new bytes
PROGRESS_SECONDS = 10.0
_CHUNK_BYTES = 1 << 18
_TRANSIENT = frozenset({408, 429, 500, 502, 503, 504})  # HTTP codes
_RANGE_NOT_SATISFIABLE = 416


@dataclass(frozen=True)
class WebFile:
    """A file of a web server.

    Args:
        url: http or https.
        sha256: of its bytes, hexadecimal; None: not known.
        num_bytes: its size; None: not known.
    """

    url: str
    sha256: str | None = None
    num_bytes: int | None = None


class _InterruptedError(Exception):
    """A request failed in a way that another try may not."""


def fetch(file: WebFile, target: Path, *, advice: str) -> str:
    """Fetch a file, or what is missing of it, unless it is there.

    Args:
        file: what to fetch. Without its sha256, the URL must always mean the same content.
        target: path of the file on this machine.
        advice: what the user can do if the server does not give the file, for the error.

    Returns:
        The file's sha256, hexadecimal.

    Raises:
        ValueError: if the server does not give the file, gives another one, or it cannot be written here.
    """
    if not file.url.startswith(("http://", "https://")):
        raise ValueError(f"{file.url}: not a URL of http or https; {advice}")
    part = target.with_name(f"{target.name}.part")
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with _locked(target.with_name(f"{target.name}.lock")):
            if target.is_file():
                digest = _sha256(target)
                if file.sha256 in (None, digest):
                    return digest
                logger.warning("%s was changed since it was fetched; it is fetched again", target)
            _fetch_rest(file, part, advice)
            digest = _sha256(part)
            if file.sha256 not in (None, digest):
                part.unlink()
                raise ValueError(f"{file.url}: its sha256 is {digest}, not {file.sha256}; nothing is kept; {advice}")
            part.replace(target)
            return digest
    except OSError as error:
        reason = error.strerror or str(error)
        raise ValueError(f"{target} cannot be written: {reason}; free some space, or choose another folder") from None


def _fetch_rest(file: WebFile, part: Path, advice: str) -> None:
    """Append to `part` until it is whole. Only a try that brings new bytes makes further tries free."""
    waits, most = iter(WAIT_SECONDS), _size(part)
    while True:
        try:
            _request_rest(file, part, advice)
            return
        except _InterruptedError as error:
            if _size(part) > most:
                waits, most = iter(WAIT_SECONDS), _size(part)
            wait = next(waits, None)
            if wait is None:
                kept = f"{_size(part):,} bytes are kept, and the same command goes on from there; " * bool(_size(part))
                raise ValueError(f"{file.url} cannot be fetched: {error}; {kept}{advice}") from None
            logger.info("%s: %s; trying again", part.stem, error)
            time.sleep(wait)


def _request_rest(file: WebFile, part: Path, advice: str) -> None:
    offset = _size(part)
    if offset and offset == file.num_bytes:
        return
    if offset > (file.num_bytes or MAX_BYTES):
        part.unlink()
        offset = 0
    with _open(file, part, offset, advice) as response:
        if response.status != 206:  # the whole file, also if the server ignores ranges
            offset = 0
        elif not response.headers.get("Content-Range", "").startswith(f"bytes {offset}-"):
            part.unlink()
            raise _InterruptedError("the server sent another range than the one asked for")
        length = response.headers.get("Content-Length", "")
        total = offset + int(length) if length.isdecimal() else file.num_bytes
        _check_size(file, total, advice)
        if total is not None and shutil.disk_usage(part.parent).free < total - offset:
            raise OSError(errno.ENOSPC, f"no space for {total - offset:,} bytes")
        size = _append(response, part, offset, total=total, file=file, advice=advice)
    if total is not None and size < total:
        raise _InterruptedError(f"cut after {size:,} of {total:,} bytes")


def _open(file: WebFile, part: Path, offset: int, advice: str) -> HTTPResponse:
    headers = {"User-Agent": "ram_ray", "Accept-Encoding": "identity"}
    if offset:
        headers["Range"] = f"bytes={offset}-"
    try:
        return urlopen(Request(file.url, headers=headers), timeout=TIMEOUT_SECONDS)
    except HTTPError as error:
        error.close()
        if error.code == _RANGE_NOT_SATISFIABLE and offset:
            part.unlink()  # it is longer than the server's file
        elif error.code not in _TRANSIENT:
            raise ValueError(f"{file.url}: HTTP {error.code} {error.reason}; {advice}") from None
        raise _InterruptedError(f"HTTP {error.code} {error.reason}") from None
    except (OSError, HTTPException) as error:
        raise _InterruptedError(_reason(error)) from None


def _append(response: HTTPResponse, part: Path, size: int, *, total: int | None, file: WebFile, advice: str) -> int:
    """Append the response to the first `size` bytes of `part`; the new size."""
    shown = time.monotonic()
    with part.open("ab" if size else "wb") as stream:
        while True:
            try:
                chunk = response.read1(_CHUNK_BYTES)
            except (OSError, HTTPException) as error:
                raise _InterruptedError(f"cut after {size:,} bytes: {_reason(error)}") from None
            if not chunk:
                return size
            size += len(chunk)
            if size > (total or MAX_BYTES):
                _check_size(file, size, advice)
            stream.write(chunk)
            if time.monotonic() - shown > PROGRESS_SECONDS:
                shown = time.monotonic()
                of_all = f" of {total / 1e6:,.0f}" if total else ""
                logger.info("%s: %s%s MB", part.stem, f"{size / 1e6:,.0f}", of_all)


def _check_size(file: WebFile, num_bytes: int | None, advice: str) -> None:
    """Raise if the server's file, or what it has sent, has another size than the file that is wanted."""
    if num_bytes is None:
        return
    if file.num_bytes is not None and num_bytes != file.num_bytes:
        raise ValueError(f"{file.url}: the server's file has {num_bytes:,} bytes, not {file.num_bytes:,}; {advice}")
    if num_bytes > MAX_BYTES:
        raise ValueError(f"{file.url}: more than {MAX_BYTES:,} bytes; {advice}")


@contextlib.contextmanager
def _locked(path: Path) -> Iterator[None]:
    """Hold a lock that the kernel frees when this process ends."""
    with path.open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def _sha256(path: Path) -> str:
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def _size(path: Path) -> int:
    return path.stat().st_size if path.is_file() else 0


def _reason(error: BaseException) -> str:
    """An error of the network in a few words."""
    cause = error.reason if isinstance(error, URLError) else error
    return " ".join(str(cause).split())[:200] or type(error).__name__
