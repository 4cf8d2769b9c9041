"""Names as people write them in lists, edits and synonym files, and files of names, read with bounds."""

from __future__ import annotations

import hashlib
import re

import fsspec

from ram_ray.records import KINDS

Key = tuple[str, str]  # (name, kind): what is counted and merged

MAX_NAME = 100  # characters
_SPACES = re.compile(r"[\s_]+")


def plain(name: str) -> str:
    """A name in lower case, its words joined by one space (underscores are spaces)."""
    return _SPACES.sub(" ", name).strip().lower()


def split_kind(text: str) -> tuple[str | None, str]:
    """Split "action:train" into ("action", "train"); without one of `records.KINDS` before a colon the kind is None."""
    kind, colon, name = text.partition(":")
    kind = kind.strip().lower()
    return (kind, plain(name)) if colon and kind in KINDS else (None, plain(text))


def keys_of(text: str) -> list[Key]:
    """What a name in an edit may mean: itself under its kind, or under each kind."""
    kind, name = split_kind(text)
    return [(name, one) for one in ([kind] if kind else KINDS)]


def read_text(uri: str, *, what: str, max_bytes: int = 16_000_000) -> str:
    """A UTF-8 text file at any fsspec URI.

    Args:
        uri: of the file.
        what: for the error: the setting or option that names the file.
        max_bytes: a longer file is refused.

    Raises:
        ValueError: if it is not there, too large, or not UTF-8.
    """
    try:
        with fsspec.open(uri, "rb") as file:
            data = file.read(max_bytes + 1)
    except (OSError, ValueError, ImportError) as error:
        raise ValueError(f"{uri}: cannot be read ({error.__class__.__name__}); {what} names it") from None
    if len(data) > max_bytes:
        raise ValueError(f"{uri}: more than {max_bytes:,} bytes; {what} names it")
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise ValueError(f"{uri}: byte {error.start} is not UTF-8; {what} names it") from None


def read_names(uri: str, *, what: str) -> list[str]:
    """Lines of a file of names; empty lines and what follows a # are left out.

    Raises:
        ValueError: as `read_text`, or if a name is longer than `MAX_NAME` characters.
    """
    lines = [line.partition("#")[0].strip() for line in read_text(uri, what=what).splitlines()]
    for number, line in enumerate(lines, 1):
        if len(line) > MAX_NAME:
            raise ValueError(f"{uri}, line {number}: a name of {len(line)} characters; at most {MAX_NAME} ({what})")
    return [line for line in lines if line]


def digest(uri: str | None) -> str | None:
    """Digest of a file's bytes, for a stage's identity; None stays None.

    Raises:
        ValueError: if it cannot be read.
    """
    if uri is None:
        return None
    total = hashlib.sha256()
    try:
        with fsspec.open(uri, "rb") as file:
            while chunk := file.read(1 << 20):
                total.update(chunk)
    except (OSError, ValueError, ImportError) as error:
        raise ValueError(f"{uri}: cannot be read ({error.__class__.__name__}); the section labels names it") from None
    return total.hexdigest()[:12]
