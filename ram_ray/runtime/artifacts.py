"""A run's folder: the output of each stage, and the manifest that marks it as done.

    RUN/annotations/<stage>/<digest>/   rows, Parquet, partitioned by shard; <digest>.json is the manifest
    RUN/models/<stage>/<digest>/        a model bundle
    RUN/rejected/<stage>/*.parquet      rejected rows, with reasons
    RUN/evaluation/                     report.json, report.html
    RUN/config.yaml                     the whole configuration
    RUN/work/                           checkpoints of unfinished stages; empty when all are done

A stage's folder is named by a digest of its settings (`settings.section.StageSettings`) and of its inputs' digests, so
a change anywhere upstream gives a new name, and nothing stale is read. A stage returns a `StageResult`, and the
manifest is the same result as a file: flat JSON with the fields of its class. It is written last, by one rename:
without it the stage is not done, and Ray resumes it (Ray Data's checkpoint of keys, Ray Train's checkpoints).
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import json
import os
import re
import tempfile
import time
import uuid
from collections.abc import Callable, Iterator, Sequence
from typing import IO, ClassVar, Generic, Literal, TypeVar

import fsspec
import pyarrow as pa
import pyarrow.parquet as pq
from pydantic import BaseModel, ConfigDict, ValidationError

import ram_ray
from ram_ray.runtime import usage
from ram_ray.runtime.location import locate_path
from ram_ray.runtime.metrics import Labels, count_request
from ram_ray.runtime.storage import is_local, make_folder, remove_folder
from ram_ray.runtime.usage import Used
from ram_ray.settings.section import StageSettings

Folder = Literal["annotations", "models", "evaluation"]  # of a run, with the folders of its stages


class StopRun(Exception):
    """The last stage that was asked for is done; who started the run catches it."""


class StageResult(BaseModel):
    """What a finished stage left; subclasses (`ram_ray.results`) add its counts and paths as fields."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    folder: ClassVar[Folder] = "annotations"

    stage: str  # name
    digest: str  # of settings and inputs
    path: str  # URI of the stage's folder
    seconds: float
    used: Used | None = None  # of the cluster; None: not known
    version: str = ram_ray.__version__


R = TypeVar("R", bound=StageResult)


class Run:
    """The folder of one run, at any fsspec URI.

    Args:
        uri: folder or URI of the run.
        on_result: called with each result, and whether an earlier call left it (True) or this one made it (False).
        on_note: called with each note, see `note`.
        last: name of the stage after which `stop_after` ends the run; None: no stage ends it.
    """

    def __init__(
        self,
        uri: str,
        *,
        on_result: Callable[[StageResult, bool], None] | None = None,
        on_note: Callable[[str], None] | None = None,
        last: str | None = None,
    ) -> None:
        self.fs, self.root = fsspec.url_to_fs(uri)
        self.uri = self.fs.unstrip_protocol(self.root) if "://" in uri else self.root
        self.current: str | None = None  # the stage that was started last: an error is reported with it
        self._on_result, self._on_note, self._last = on_result, on_note, last

    @property
    def label(self) -> str:
        """The name of the run in metrics: the last part of its path."""
        return self.uri.rstrip("/").rpartition("/")[2]

    def path(self, *parts: str) -> str:
        """A URI inside the run, usable by fsspec, pyarrow and Ray."""
        return "/".join([self.uri.rstrip("/"), *parts])

    def stage(
        self, name: str, result_type: type[R], *, settings: StageSettings, inputs: Sequence[StageResult]
    ) -> Stage[R]:
        """The stage `name` with these settings over these inputs.

        Args:
            name: name of the stage.
            result_type: class of its result.
            settings: all settings that the result depends on.
            inputs: results of the stages that it reads.

        Returns:
            The stage; its `result` is set if it is done. The same digest means the same result.

        Raises:
            ValueError: if the manifest cannot be read.
        """
        identity = {"stage": name, "settings": settings.identity(), "inputs": [result.digest for result in inputs]}
        digest = hashlib.sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest()[:12]
        self.current = name
        stage = Stage(self, name, result_type, digest=digest)
        if stage.result:
            self.notify(stage.result, is_reused=True)
        return stage

    def notify(self, result: StageResult, *, is_reused: bool) -> None:
        """Pass a result to the listener of the run.

        Args:
            result: of a finished stage.
            is_reused: whether an earlier call left it.
        """
        if self._on_result:
            self._on_result(result, is_reused)

    def note(self, text: str) -> None:
        """Pass a line of text to the listener of the run.

        Args:
            text: the line.
        """
        if self._on_note:
            self._on_note(text)

    def stop_after(self, name: str) -> None:
        """End the run here if this was the last stage that was asked for.

        Args:
            name: of the stage that has just ended.

        Raises:
            StopRun: if it was the last.
        """
        if name == self._last:
            raise StopRun

    def write_text(self, relative: str, text: str) -> None:
        """Write a file of the run in one step, see the function `write_text`.

        Args:
            relative: path inside the run.
            text: the whole content.
        """
        write_text(self.path(relative), text)


class Stage(Generic[R]):
    """One stage of a run: its folder, and its result once it is done.

    Args:
        run: run that the stage belongs to.
        name: name of the stage.
        result_type: class of the result.
        digest: digest of its settings and inputs, see `Run.stage`.
    """

    def __init__(self, run: Run, name: str, result_type: type[R], *, digest: str) -> None:
        self.run, self.name, self.digest = run, name, digest
        self.labels = Labels(run.label, name)  # of its metrics
        self._result_type, self._place = result_type, f"{result_type.folder}/{name}/{digest}"
        self.path = run.path(self._place)
        self.manifest_path = f"{self.path}.json"
        self.work = run.path("work", name, digest)  # checkpoints, until the stage is done
        self.started = time.monotonic()
        self.result = self._read()
        if self.result is None:
            usage.open_stage(self.labels)

    def finish(self, *steps: StageResult, **fields: object) -> R:
        """Write the manifest: from now on the stage is done.

        Args:
            *steps: results of stages that are steps of this stage; their seconds, and what they used, are added to its
                own.
            **fields: fields of the result's class.

        Returns:
            The result.
        """
        seconds = round(time.monotonic() - self.started + sum(step.seconds for step in steps), 1)
        used = usage.close_stage(self.labels)
        for step in steps:
            used = used + step.used if used and step.used else None
        values = {"stage": self.name, "digest": self.digest, "path": self.path, "seconds": seconds, "used": used}
        values |= fields
        result = self._result_type.model_validate(values)
        write_text(self.manifest_path, result.model_dump_json(indent=1))
        self.result = result
        remove_folder(*fsspec.url_to_fs(self.work))
        self.run.notify(result, is_reused=False)
        return result

    def _read(self) -> R | None:
        try:
            with fsspec.open(self.manifest_path, "r") as file:
                text = file.read()
        except FileNotFoundError:
            return None
        try:
            values = json.loads(text)
            old_run = values["path"].removesuffix(self._place)
            values = {name: self._move(value, old_run) for name, value in values.items()}
            return self._result_type.model_validate({**values, "path": self.path})
        except (ValueError, TypeError, KeyError, AttributeError) as error:
            # Not "not done": a stage that is run again appends rows to the folder that it has.
            raise ValueError(
                f"{self.manifest_path} cannot be read ({_first_problem(error)}); delete it and the folder "
                f"{self.path}, and the stage runs again"
            ) from None

    def _move(self, value: object, old_run: str) -> object:
        """A URI inside the run, where the run is now; other values as they are."""
        if isinstance(value, str) and value.startswith(old_run):
            return self.run.path(value.removeprefix(old_run))
        return value


def write_text(uri: str, text: str) -> None:
    """Write `text` to `uri` in one step: a reader sees the old file or the new file, never a part.

    Args:
        uri: a path or URI; its folder is made.
        text: the whole content; written as UTF-8.

    Raises:
        OSError: if it cannot be written; for a full disk the error names the path.
    """
    write_bytes(uri, text.encode())


def exists(uri: str) -> bool:
    """Whether a file exists."""
    fs, path = fsspec.url_to_fs(uri)
    return fs.exists(path)


def whole_file_of(path: str) -> str | None:
    """The file that a killed `write_text` was about to write.

    Args:
        path: path or URI of a file.

    Returns:
        Its path or URI; None if the name is not that of a file that `write_text` renames.
    """
    match = re.fullmatch(r"(.+)\.[0-9a-f]{32}\.part", path, re.DOTALL)
    return match[1] if match else None


def write_bytes(uri: str, data: bytes) -> None:
    """Write `data` to `uri` in one step, as `write_text` does.

    Args:
        uri: a path or URI; its folder is made.
        data: the whole content.

    Raises:
        OSError: if it cannot be written; for a full disk the error names the path.
    """
    fs, path = locate_path(uri)
    make_folder(fs, fs._parent(path))
    count_request("write", num_bytes=len(data))
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


@contextlib.contextmanager
def open_replacing(uri: str) -> Iterator[IO[str]]:
    """Write a text of any length to `uri` in one step, as `write_text` does with one that is in memory.

    Args:
        uri: a path or URI; its folder is made.

    Yields:
        A file open for writing UTF-8. With an error inside, `uri` keeps what it had.

    Raises:
        OSError: if it cannot be written.
    """
    fs, path = fsspec.url_to_fs(uri)
    make_folder(fs, fs._parent(path))
    name = f"{uuid.uuid4().hex}.part"
    part = f"{path}.{name}" if is_local(fs) else f"{tempfile.gettempdir()}/ram_ray-{name}"
    try:
        with open(part, "w", encoding="utf-8", newline="") as file:
            yield file
        if is_local(fs):
            os.replace(part, path)
        else:
            count_request("write", num_bytes=os.path.getsize(part))
            fs.put_file(part, path)
    finally:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(part)


def write_table(table: pa.Table, uri: str) -> None:
    """Write `table` to `uri` as Parquet in one step, as `write_text` does.

    Args:
        table: the whole content; it is held in memory.
        uri: a path or URI; its folder is made.

    Raises:
        OSError: if it cannot be written; for a full disk the error names the path.
    """
    buffer = pa.BufferOutputStream()
    pq.write_table(table, buffer)
    write_bytes(uri, buffer.getvalue().to_pybytes())


def _first_problem(error: Exception) -> str:
    if isinstance(error, ValidationError):
        problem = error.errors()[0]
        return f"{'.'.join(map(str, problem['loc']))}: {problem['msg']}"
    return " ".join(str(error).split()) or type(error).__name__
