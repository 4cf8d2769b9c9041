"""Samples that wait for the rest of their files, any distance apart, in bounded memory.

An archive may hold all images first and all texts after. What has waited longest goes to an SQLite file in the folder
for temporary files, and comes back when one of its other files is read.
"""

from __future__ import annotations

import json
import os
import sqlite3
import tempfile
from collections.abc import Iterator
from typing import Generic, Protocol, Self, TypeVar

from ram_ray.records import Json

MAX_HELD = 20_000  # samples in memory
MAX_HELD_BYTES = 32 << 20  # of their texts


class Storable(Protocol):
    """A value that can be written as JSON and read again."""

    def to_json(self) -> Json:
        """The value as a JSON object."""
        ...

    @property
    def num_chars(self) -> int:
        """Characters of its texts."""
        ...

    @classmethod
    def from_json(cls, tree: Json) -> Self:
        """The value of a JSON object that `to_json` made."""
        ...


T = TypeVar("T", bound=Storable)


class Waiting(Generic[T]):
    """Values by key, in the order in which they came.

    Args:
        kind: class of the values.
    """

    def __init__(self, kind: type[T]) -> None:
        self._kind = kind
        self._held: dict[str, T] = {}
        self._chars = 0
        self._database: sqlite3.Connection | None = None
        self._path = ""

    def put(self, key: str, value: T) -> None:
        """Add a value.

        Args:
            key: that no waiting value has.
            value: to keep.
        """
        self._held[key] = value
        self._chars += value.num_chars
        if len(self._held) > MAX_HELD or self._chars > MAX_HELD_BYTES:
            self._write()

    def pop(self, key: str) -> T | None:
        """Take a value out.

        Args:
            key: of the value.

        Returns:
            The value, None if none waits under the key.
        """
        value = self._held.pop(key, None)
        if value is not None:
            self._chars -= value.num_chars
            return value
        if self._database is None:
            return None
        row = self._database.execute("DELETE FROM waiting WHERE key = ? RETURNING value", [key]).fetchone()
        return None if row is None else self._kind.from_json(json.loads(row[0]))

    def drain(self) -> Iterator[T]:
        """Take all values out, in the order in which they came.

        Yields:
            Each value.
        """
        if self._database is not None:
            for (value,) in self._database.execute("SELECT value FROM waiting ORDER BY number"):
                yield self._kind.from_json(json.loads(value))
        yield from self._held.values()
        self._held, self._chars = {}, 0

    def close(self) -> None:
        """Remove the file."""
        if self._database is not None:
            self._database.close()
            os.unlink(self._path)
            self._database = None

    def _write(self) -> None:
        """Write what is held to the file."""
        if self._database is None:
            handle, self._path = tempfile.mkstemp(prefix="ram_ray-", suffix=".sqlite")
            os.close(handle)
            self._database = sqlite3.connect(self._path, isolation_level=None)
            self._database.execute("PRAGMA journal_mode = OFF")  # a file that no other process reads, and no run again
            self._database.execute("PRAGMA synchronous = OFF")
            self._database.execute("CREATE TABLE waiting (number INTEGER PRIMARY KEY, key TEXT UNIQUE, value TEXT)")
        self._database.execute("BEGIN")
        self._database.executemany(
            "INSERT INTO waiting (key, value) VALUES (?, ?)",
            ((key, json.dumps(value.to_json())) for key, value in self._held.items()),
        )
        self._database.execute("COMMIT")
        self._held, self._chars = {}, 0
