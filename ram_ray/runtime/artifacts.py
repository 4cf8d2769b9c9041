"""A run's folder: where each stage leaves what it made, and how it is known to be done.

    RUN/annotations/<stage>/<digest>/   rows, Parquet, partitioned by shard; <digest>.json is the manifest
    RUN/models/<stage>/<digest>/        a model bundle
    RUN/rejected/<stage>/*.parquet      what was left out, and why
    RUN/evaluation/                     report.json, report.html
    RUN/config.yaml                     the whole configuration
    RUN/work/                           what unfinished stages need; empty when all are done

The question is how a run that was killed goes on. A stage's folder is named by a digest of its configuration
and of the digests of what it takes, so a change anywhere upstream gives a new name and nothing stale is ever
read; fields that say how a stage runs, and not what it leaves (`settings.section.HOW`), are no part of it. Its manifest
is written last, by one rename: no manifest, not done. Inside a stage that is not done, Ray goes on where it was (Ray
Data's checkpoint of keys, Ray Train's checkpoints).
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import json
import os
import time
import uuid
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

import fsspec
import pyarrow as pa
import pyarrow.parquet as pq
from pydantic import BaseModel

import ram_ray
from ram_ray.runtime.storage import is_local, make_folder, remove_folder
from ram_ray.settings.section import HOW

Kind = Literal["annotations", "models", "evaluation"]


@dataclass(frozen=True)
class Manifest:
    """What a finished stage says of itself."""

    stage: str
    digest: str
    path: str  # URI of the stage's folder
    seconds: float
    counts: dict[str, Any] = field(default_factory=dict)  # rows_in, rows_out, rejected, tags, ...
    version: str = ram_ray.__version__


class Run:
    """The folder of one run, at any fsspec URI."""

    def __init__(self, uri: str) -> None:
        self.fs, self.root = fsspec.url_to_fs(uri)
        self.uri = self.fs.unstrip_protocol(self.root) if "://" in uri else self.root
        self.reused: list[Manifest] = []  # stages that an earlier call had done
        self.current: str | None = None  # the stage that was asked for last: where an error happens

    def path(self, *parts: str) -> str:
        """A URI inside the run, usable by fsspec, pyarrow and Ray."""
        return "/".join([self.uri.rstrip("/"), *parts])

    def stage(self, name: str, *, kind: Kind, config: Any, inputs: list[Manifest]) -> Stage:
        """The stage `name` with this configuration over these inputs; `Stage.manifest` is set if it is done.

        Args:
            name: of the stage.
            kind: folder of the run that holds it.
            config: what the result depends on; JSON values or settings.
            inputs: stages that it reads.

        Returns:
            The stage; the same digest stands for the same result.
        """
        identity = {"stage": name, "config": _plain(config), "inputs": [one.digest for one in inputs]}
        digest = hashlib.sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest()[:12]
        self.current = name
        return Stage(self, name, kind=kind, digest=digest)

    def write_text(self, relative: str, text: str) -> None:
        """Write a file of the run whole or not at all."""
        write_text(self.path(relative), text)


class Stage:
    """One stage of a run: its folder, and its manifest once it is done.

    Args:
        run: whose stage it is.
        name: of the stage.
        kind: folder of the run that holds it.
        digest: of its configuration and inputs, see `Run.stage`.
    """

    def __init__(self, run: Run, name: str, *, kind: Kind, digest: str) -> None:
        self.run, self.name, self.digest = run, name, digest
        self.path = run.path(kind, name, digest)
        self.manifest_path = f"{self.path}.json"
        self.work = run.path("work", name, digest)  # what only an unfinished stage needs
        self.started = time.monotonic()
        self.manifest = self._read()
        if self.manifest:
            run.reused.append(self.manifest)

    def finish(self, *before: Manifest, **counts: Any) -> Manifest:
        """Write the manifest: from now on the stage is done.

        Args:
            before: stages that were steps towards this one; their seconds are part of its own.
            **counts: what the stage did, for the manifest; JSON values.
        """
        seconds = time.monotonic() - self.started + sum(one.seconds for one in before)
        manifest = Manifest(self.name, self.digest, self.path, round(seconds, 1), counts)
        write_text(self.manifest_path, json.dumps(asdict(manifest), indent=1))
        self.manifest = manifest
        remove_folder(*fsspec.url_to_fs(self.work))
        return manifest

    def _read(self) -> Manifest | None:
        try:
            with fsspec.open(self.manifest_path, "r") as file:
                return Manifest(**{**json.load(file), "path": self.path})
        except FileNotFoundError:
            return None


def write_text(uri: str, text: str) -> None:
    """Write `text` to `uri` in one step: a reader sees the old file or the new one, never a part."""
    write_bytes(uri, text.encode())


def write_bytes(uri: str, data: bytes) -> None:
    """Write `data` to `uri` in one step, as `write_text` does.

    Args:
        uri: a path or URI; its folder is made.
        data: the whole content.

    Raises:
        OSError: if it cannot be written; without space it says where.
    """
    fs, path = fsspec.url_to_fs(uri)
    make_folder(fs, fs._parent(path))
    if not is_local(fs):  # object stores publish an object whole
        fs.pipe_file(path, data)
        return
    part = f"{path}.{uuid.uuid4().hex}.part"  # a task that Ray runs again may still be writing
    try:
        fs.pipe_file(part, data)
        fs.mv(part, path)
    except BaseException as error:
        with contextlib.suppress(FileNotFoundError):
            fs.rm_file(part)
        if isinstance(error, OSError) and error.errno == errno.ENOSPC:  # which says nothing of where
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), path) from None
        raise


def write_table(table: pa.Table, uri: str) -> None:
    """Write `table` to `uri` as Parquet in one step, as `write_text` does."""
    buffer = pa.BufferOutputStream()
    pq.write_table(table, buffer)
    write_bytes(uri, buffer.getvalue().to_pybytes())


def _plain(value: Any) -> Any:
    if isinstance(value, BaseModel):
        fields = type(value).model_fields.items()
        return {name: _plain(getattr(value, name)) for name, field in fields if field.json_schema_extra != HOW}
    if isinstance(value, dict):
        return {key: _plain(one) for key, one in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(one) for one in value]
    return value
