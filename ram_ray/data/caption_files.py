"""Captions without images: text files, one caption a line, as rows of the first stage.

A label system needs no images, and captions are often available before them. Each line becomes a row of
`records.SAMPLE` (its key is the file and the line, `offset` is the line number), so that parsing and counting run as
they do on shards; a line without a caption is a rejected row. A file may hold all captions of a run, and a compressed
file can only be read from its start: so each file is read by one task, which writes `ROWS_A_FILE` lines at a time, and
later stages read small files.
"""

from __future__ import annotations

import posixpath
import re
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from itertools import count, islice

import fsspec

from ram_ray.config import RunConfig
from ram_ray.records import SAMPLE, Row, to_table
from ram_ray.results import Samples
from ram_ray.runtime.annotate import reject_counted
from ram_ray.runtime.artifacts import Run, write_table
from ram_ray.runtime.progress import progress
from ram_ray.runtime.rows import count_reasons
from ram_ray.runtime.tasks import Task, wait_for
from ram_ray.settings.section import Section, StageSettings

MAX_LINE = 1_000_000  # bytes
ROWS_A_FILE = 16_384
_ENDINGS = re.compile(r"(\.txt|\.captions)?(\.gz|\.bz2|\.xz|\.zst)?$")


class CaptionFile(Section):
    """A text file, and what identifies its content."""

    name: str  # of its shard
    uri: str
    size: int | None  # bytes


class CaptionFileSettings(StageSettings):
    """All that the rows of text files depend on."""

    files: tuple[CaptionFile, ...]

    @classmethod
    def of_files(cls, uris: Mapping[str, str]) -> CaptionFileSettings:
        """Look up the sizes of text files.

        Args:
            uris: name of each shard -> URI of its file, as `list_files` returns it.

        Returns:
            The settings.
        """
        return cls(files=tuple(CaptionFile(name=name, uri=uri, size=_size(uri)) for name, uri in uris.items()))


def collect_captions(run: Run, config: RunConfig, uris: list[str], *, name: str = "captions") -> Samples:
    """Write a `records.SAMPLE` row for every line of the text files at `uris` (paths, URIs, globs; also .gz).

    Args:
        run: the run that gets the stage's folder.
        config: configuration of the run.
        uris: paths, URIs or globs of text files.
        name: name of the stage.

    Returns:
        The result of the stage.

    Raises:
        ValueError: if a name matches nothing, two files have the same name, or no line is a caption.
    """
    settings, execution = CaptionFileSettings.of_files(list_files(uris)), config.execution
    stage = run.stage(name, Samples, settings=settings, inputs=[])
    if stage.result:
        return stage.result
    with progress(stage.name, total=0) as add:
        # A task that runs again after a kill writes the same files.
        task = Task(_write_rows, num_cpus=execution.task_cpus)
        counts = Counter[str]()
        for of_file in wait_for(
            [task.start(file.name, file.uri, f"{stage.path}/shard={file.name}", add) for file in settings.files]
        ):
            counts.update(of_file)
    rows, rejected = reject_counted(stage, counts, execution=execution)
    if rows == rejected:
        raise ValueError(f"{name}: none of the {rows} lines of {', '.join(uris)} is a caption")
    return stage.finish(shards=len(settings.files), rows_in=rows, rows_out=rows - rejected, rejected=rejected)


def _write_rows(shard: str, uri: str, folder: str, add: Callable[[int], None]) -> Counter[str]:
    """Write the rows of one text file as Parquet in `folder`, in order; return their counts by reason."""
    rows, counts = read_lines(shard, uri), Counter[str]()
    for number in count():
        part = list(islice(rows, ROWS_A_FILE))
        if number and not part:
            break
        table = to_table(part, SAMPLE)
        write_table(table.drop_columns(["shard"]), f"{folder}/{number:06d}.parquet")
        counts.update(count_reasons(table))
        add(len(part))
    return counts


def list_files(uris: list[str]) -> dict[str, str]:
    """Find the text files.

    Args:
        uris: paths, URIs or globs of text files.

    Returns:
        Name of each text file -> its URI, sorted by name.

    Raises:
        ValueError: if a name matches nothing, or two files have the same name.
    """
    uri_of_shard: dict[str, str] = {}
    for pattern in uris:
        fs, path = fsspec.url_to_fs(pattern)
        matches = [name for name in fs.glob(path) if fs.isfile(name)] if "*" in path or "?" in path else [path]
        if not matches or not fs.isfile(matches[0]):
            raise ValueError(f"{pattern}: no text file is there; give files with one caption a line, also as .gz")
        for match in matches:
            uri = fs.unstrip_protocol(match) if "://" in pattern else match
            shard = re.sub(r"[^A-Za-z0-9._-]", "_", _ENDINGS.sub("", posixpath.basename(match))) or "captions"
            if uri_of_shard.setdefault(shard, uri) != uri:
                raise ValueError(
                    f"{uri_of_shard[shard]} and {uri} have one name; rename one: sources are told apart by their names"
                )
    return dict(sorted(uri_of_shard.items()))


def read_lines(shard: str, uri: str) -> Iterator[Row]:
    """Read every line of a text file as a row, in bounded memory.

    Args:
        shard: name of the shard that the rows belong to.
        uri: URI of the file.

    Yields:
        Columns of `records.SAMPLE` by name; a line that cannot be used has a reason.
    """
    with fsspec.open(uri, "rb", compression="infer") as file:
        number = 0
        while line := file.readline(MAX_LINE):
            number += 1
            row: Row = {"key": f"{shard}/{number}", "shard": shard, "uri": uri, "offset": number}
            cut = len(line) == MAX_LINE and not line.endswith(b"\n")
            while cut and (more := file.readline(MAX_LINE)) and not more.endswith(b"\n"):
                pass
            row |= {"nbytes": len(line), "captions": []}
            try:
                text = line.decode("utf-8").strip()
            except UnicodeDecodeError as error:
                yield row | {"reason": "bad_metadata", "detail": f"byte {error.start} of the line is not UTF-8"}
                continue
            if cut:
                yield row | {"reason": "bad_metadata", "detail": f"a line of more than {MAX_LINE:,} bytes"}
            elif not text:
                yield row | {"reason": "no_caption", "detail": "an empty line"}
            else:
                yield row | {"captions": [text]}


def _size(uri: str) -> int | None:
    fs, path = fsspec.url_to_fs(uri)
    return fs.info(path).get("size")
