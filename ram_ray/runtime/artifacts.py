"""A run's folder: the output of each stage, and the manifest that marks it as done.

    RUN/annotations/<stage>/<digest>/   rows, Parquet, partitioned by shard; <digest>.json is the manifest
    RUN/models/<stage>/<digest>/        a model bundle
    RUN/rejected/<stage>/*.parquet      rejected rows, with reasons
    RUN/evaluation/                     report.json, report.html
    RUN/config.yaml                     the whole configuration
    RUN/work/                           checkpoints of unfinished stages; empty when all are done

A stage's folder is named by a digest of its configuration and of its inputs' digests, so a change anywhere upstream
gives a new name, and nothing stale is read. Fields that do not change the output (`settings.section.RUNTIME_ONLY`) are
not in the digest. The manifest is written last, by one rename: without it the stage is not done, and Ray resumes it
(Ray Data's checkpoint of keys, Ray Train's checkpoints).
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
from ram_ray.settings.section import RUNTIME_ONLY

Kind = Literal["annotations", "models", "evaluation"]


@dataclass(frozen=True)
class Manifest:
    """The record of a finished stage."""

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
        self.reused: list[Manifest] = []  # stages that were done already
        self.current: str | None = None  # the stage that was started last: an error is reported with it

    def path(self, *parts: str) -> str:
        """A URI inside the run, usable by fsspec, pyarrow and Ray."""
        return "/".join([self.uri.rstrip("/"), *parts])

    def stage(self, name: str, *, kind: Kind, config: Any, inputs: list[Manifest]) -> Stage:
        """The stage `name` with this configuration over these inputs.

        Args:
            name: name of the stage.
            kind: folder of the run that holds it.
            config: all that the result depends on; JSON values or settings.
            inputs: manifests of the stages that it reads.

        Returns:
            The stage; its `manifest` is set if it is done. The same digest means the same result.
        """
        identity = {"stage": name, "config": _plain(config), "inputs": [manifest.digest for manifest in inputs]}
        digest = hashlib.sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest()[:12]
        self.current = name
        return Stage(self, name, kind=kind, digest=digest)

    def write_text(self, relative: str, text: str) -> None:
        """Write a file of the run in one step."""
        write_text(self.path(relative), text)


class Stage:
    """One stage of a run: its folder, and its manifest once it is done.

    Args:
        run: run that the stage belongs to.
        name: name of the stage.
        kind: folder of the run that holds it.
        digest: digest of its configuration and inputs, see `Run.stage`.
    """

    def __init__(self, run: Run, name: str, *, kind: Kind, digest: str) -> None:
        self.run, self.name, self.digest = run, name, digest
        self.path = run.path(kind, name, digest)
        self.manifest_path = f"{self.path}.json"
        self.work = run.path("work", name, digest)  # checkpoints, until the stage is done
        self.started = time.monotonic()
        self.manifest = self._read()
        if self.manifest:
            run.reused.append(self.manifest)

    def finish(self, *substages: Manifest, **counts: Any) -> Manifest:
        """Write the manifest: from now on the stage is done.

        Args:
            *substages: manifests of stages that are steps of this stage; their seconds are added to its own.
            **counts: counts of the stage, for the manifest; JSON values.

        Returns:
            The manifest.
        """
        seconds = time.monotonic() - self.started + sum(substage.seconds for substage in substages)
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
    """Write `text` to `uri` in one step: a reader sees the old file or the new file, never a part."""
    write_bytes(uri, text.encode())


def write_bytes(uri: str, data: bytes) -> None:
    """Write `data` to `uri` in one step, as `write_text` does.

    Args:
        uri: a path or URI; its folder is made.
        data: the whole content.

    Raises:
        OSError: if it cannot be written; for a full disk the error names the path.
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
        if isinstance(error, OSError) and error.errno == errno.ENOSPC:  # this error does not name the path
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
        return {name: _plain(getattr(value, name)) for name, field in fields if field.json_schema_extra != RUNTIME_ONLY}
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in value]
    return value
