"""A JSON file of any size, read value by value, in bounded memory.

Python's `json` reads a file whole: the annotations of COCO's instances would be gigabytes of objects.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from contextlib import AbstractContextManager
from typing import IO

import fsspec

from ram_ray.runtime.location import locate

MAX_ENTRY = 1_000_000  # characters of one entry
_READ = 1 << 20  # characters of one read
_AFTER_VALUE = frozenset(",]}: \t\r\n")
_SPACES = re.compile(r"[ \t\r\n]*")


def open_json(uri: str) -> AbstractContextManager[IO[str]]:
    """Open a JSON file.

    Args:
        uri: the file, at any fsspec URI, also compressed.

    Returns:
        The file as text.

    Raises:
        ValueError: if there is none.
    """
    fs, path = locate(uri)
    if not fs.isfile(path):
        raise ValueError(f"{uri}: there is no such file")
    return fsspec.core.OpenFile(
        fs, path, "r", encoding="utf-8", errors="replace", compression=fsspec.core.get_compression(path, "infer")
    )


class JsonStream:
    """Reads the values of a JSON file in order.

    Args:
        file: open as text.
        uri: of the file, for errors.
    """

    def __init__(self, file: IO[str], uri: str) -> None:
        self._file, self._uri = file, uri
        self._text, self._position = "", 0
        self._decoder = json.JSONDecoder()

    def peek(self) -> str:
        """The next character that is no white space; "" at the end."""
        while True:
            self._position = _SPACES.match(self._text, self._position).end()  # type: ignore[union-attr]
            if self._position < len(self._text):
                return self._text[self._position]
            if not self._read_more():
                return ""

    def take(self, characters: str) -> str:
        """Take the next character, which must be one of some.

        Args:
            characters: the ones that may come.

        Returns:
            The character.

        Raises:
            ValueError: if another one comes, or the end.
        """
        character = self.peek()
        if not character or character not in characters:
            raise ValueError(f"{self._uri} ends early or is not JSON at {self._start()!r}")
        self._position += 1
        return character

    def value(self) -> object:
        """Read a whole value.

        Returns:
            The value.

        Raises:
            ValueError: if it is none, or longer than `MAX_ENTRY`.
        """
        self.peek()
        while True:
            try:
                value, end = self._decoder.raw_decode(self._text, self._position)
                if self._text[end : end + 1] in _AFTER_VALUE:  # "3." may continue in the next read
                    self._position = end
                    return value
                if len(self._text) - self._position > MAX_ENTRY or not self._read_more():
                    raise json.JSONDecodeError("not the end of the value", self._text, 0)
            except (json.JSONDecodeError, RecursionError) as error:
                if len(self._text) - self._position > MAX_ENTRY or isinstance(error, RecursionError):
                    raise ValueError(f"{self._uri}: an entry cannot be read as JSON: {self._start()!r}") from None
                if not self._read_more():
                    raise ValueError(f"{self._uri} ends early or is not JSON at {self._start()!r}") from None

    def items(self) -> Iterator[object]:
        """Read the values of a list one by one.

        Yields:
            Each value.

        Raises:
            ValueError: if it is no list, or one that ends early.
        """
        self.take("[")
        if self.peek() == "]":
            self.take("]")
            return
        while True:
            yield self.value()
            if self.take(",]") == "]":
                return

    def fields(self) -> Iterator[tuple[str, object]]:
        """Read the fields of an object; a list is read value by value.

        Yields:
            (name, value), and (name, value of the list) for each value of a list.

        Raises:
            ValueError: if it is no object, or one that ends early.
        """
        self.take("{")
        if self.peek() == "}":
            return
        while True:
            name = self.value()
            if not isinstance(name, str):
                raise ValueError(f"{self._uri} is not JSON: a field is called {str(name)[:60]!r}")
            self.take(":")
            if self.peek() == "[":
                yield from ((name, item) for item in self.items())
            else:
                yield name, self.value()
            if self.take(",}") == "}":
                return

    def _read_more(self) -> bool:
        more = self._file.read(_READ)
        self._text, self._position = self._text[self._position :] + more, 0
        return bool(more)

    def _start(self) -> str:
        return self._text[self._position : self._position + 60]
