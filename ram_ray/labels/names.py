"""Reads names as users write them in lists, edits and synonym files, and text files with a size limit."""

from __future__ import annotations

import fsspec

from ram_ray.label_system import split_kind
from ram_ray.records import KINDS
from ram_ray.runtime.storage import is_storage_error

Key = tuple[str, str]  # (name, kind): the unit of counts and merges

MAX_NAME = 100  # characters


def keys_of(text: str) -> list[Key]:
    """List the keys of a name in an edit.

    Args:
        text: as for `split_kind`.

    Returns:
        The name with its kind; without a kind, the name with each kind.
    """
    kind, name = split_kind(text)
    return [(name, kind)] if kind else [(name, known_kind) for known_kind in KINDS]


def read_text(uri: str, *, setting: str | None = None, max_bytes: int = 16_000_000) -> str:
    """Read a UTF-8 text file.

    Args:
        uri: any fsspec URI.
        setting: for error messages: the setting that contains the URI; None: the user wrote the URI itself.
        max_bytes: largest size of the file.

    Returns:
        The text, without a byte order mark.

    Raises:
        ValueError: if the file is missing, too large, or not UTF-8.
    """
    named = f"; {setting} names it" if setting else ""
    try:
        with fsspec.open(uri, "rb") as file:
            data = file.read(max_bytes + 1)
    except Exception as error:
        if not (isinstance(error, (ValueError, ImportError)) or is_storage_error(error)):
            raise
        raise ValueError(f"{uri}: cannot be read ({error.__class__.__name__}){named}") from None
    if len(data) > max_bytes:
        raise ValueError(f"{uri}: more than {max_bytes:,} bytes{named}")
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise ValueError(f"{uri}: byte {error.start} is not UTF-8{named}") from None


def read_names(uri: str, *, setting: str) -> list[str]:
    """Read a file with a name on each line.

    Args:
        uri: any fsspec URI.
        setting: for error messages: the setting that contains the URI; None: the user wrote the URI itself.

    Returns:
        The names; empty lines and comments (from # to the end of a line) are omitted.

    Raises:
        ValueError: as `read_text`, or if a name is longer than `MAX_NAME` characters.
    """
    lines = [line.partition("#")[0].strip() for line in read_text(uri, setting=setting).splitlines()]
    for number, line in enumerate(lines, 1):
        if len(line) > MAX_NAME:
            raise ValueError(f"{uri}, line {number}: a name of {len(line)} characters; at most {MAX_NAME} ({setting})")
    return [line for line in lines if line]
