"""An evaluation set made ready: its rows as Parquet, its classes, and what was left out and why.

Every system is scored on the same rows. Where no list names the classes, they are those of the file, or all labels that
its images have.
"""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import islice
from typing import Any, TypeVar

import fsspec
import pyarrow as pa
from pydantic import BaseModel

from ram_ray.config import RunConfig
from ram_ray.data.shards import Shard, list_shards, scan_shard
from ram_ray.evaluation.class_mapping import ambiguous_classes, without_shared_names
from ram_ray.evaluation.sets.readers import read_truth
from ram_ray.evaluation.sets.rows import SET_ROW, SetRow, to_set_table
from ram_ray.evaluation.sets.spec import SetSpec
from ram_ray.label_system import normalize_name, split_kind
from ram_ray.labels.lists import Entry, read_list
from ram_ray.labels.names import read_names
from ram_ray.runtime.artifacts import write_bytes, write_table, write_text
from ram_ray.runtime.location import locate
from ram_ray.runtime.storage import remove_folder
from ram_ray.settings.data import LayoutConfig, Limits
from ram_ray.settings.section import Section

ROWS_PER_FILE = 10_000
MANIFEST = "manifest.json"
Item = TypeVar("Item")
Value = TypeVar("Value")
RunTasks = Callable[[Callable[[Any], Any], Sequence[Any]], Iterable[Any]]  # function and items -> results in order


class EvalSet(BaseModel, extra="forbid"):
    """A set that is ready; it is also the content of its manifest."""

    name: str
    folder: str
    identity: str  # digest of the rows, the classes and the rules
    images: int  # rows that can be used
    rejected: int  # images that cannot be used
    has_images: bool
    classes: list[str]
    synonyms: list[list[str]]  # of each class
    left_out: dict[str, str] = {}  # class -> why
    unknown: dict[str, int] = {}  # label that no class has -> images
    map: str | None = None  # mapping file
    exact: bool = False  # a class is answered by a label of its very name, or open-set

    @property
    def entries(self) -> list[Entry]:
        """The classes with their synonyms."""
        return [Entry(name, tuple(names)) for name, names in zip(self.classes, self.synonyms, strict=True)]


class SetReading(Section):
    """How shards of evaluation sets are read."""

    shard_folders: int
    layout: LayoutConfig
    max_pixels: int
    max_bytes: int

    @classmethod
    def from_config(cls, config: RunConfig) -> SetReading:
        """Take the settings out of the configuration of the run."""
        data = config.data
        return cls(
            shard_folders=data.shard_folders, layout=data.layout, max_pixels=data.max_pixels, max_bytes=data.max_bytes
        )

    @property
    def limits(self) -> Limits:
        """Limits of a usable image."""
        return Limits(1, self.max_pixels, self.max_bytes)


def in_this_process(function: Callable[[Item], Value], items: Sequence[Item]) -> Iterator[Value]:
    """Run a function on each item: `RunTasks` without a cluster.

    Args:
        function: of an item.
        items: in order.

    Yields:
        The results.
    """
    for item in items:
        yield function(item)


@dataclass(frozen=True)
class _ShardReader:
    """Writes the rows of one labelled shard; returns how many, and the images of each label."""

    folder: str
    reading: SetReading
    unverified: str

    def __call__(self, shard: Shard) -> tuple[int, int, Counter[str], str]:
        limits, layout = self.reading.limits, self.reading.layout
        rows, labels = [], Counter[str]()
        for sample in scan_shard(shard, limits=limits, check="header", layout=layout):
            is_labelled = sample["labels"] is not None or sample["negative_labels"] is not None
            if not is_labelled and sample["reason"] in (None, "no_caption"):
                continue  # without human labels there is no truth
            truth = [split_kind(name)[1] for name in sample["labels"] or ()]
            absent = sample["negative_labels"] if self.unverified == "unknown" else None
            columns = {name: sample[name] for name in ("key", "uri", "offset", "nbytes", "reason", "detail")}
            rows.append({**columns, "truth": truth, "ignored": [], "absent": absent})
            labels.update(set(truth))
        table = pa.Table.from_pylist(rows, schema=SET_ROW)
        return *write_set_rows(table, self.folder), labels, _digest(table)


def prepare_set(spec: SetSpec, folder: str, *, reading: SetReading, run_tasks: RunTasks = in_this_process) -> EvalSet:
    """Read a set, and write its rows.

    Args:
        spec: the set, with absolute paths.
        folder: for the rows; what an earlier call left is replaced.
        reading: how shards are read.
        run_tasks: runs the reading of shards.

    Returns:
        The set.

    Raises:
        ValueError: if a file is wrong, an image has two rows, or no image has a class.
    """
    remove_folder(*fsspec.url_to_fs(folder))
    if spec.format == "prepared":
        return _copy_prepared(spec, folder)
    given = _unique(read_list(spec.classes)) if spec.classes else None
    labels, usable, rejected, digest = Counter[str](), 0, 0, hashlib.sha256()
    listed: list[str] | None = None
    if spec.format == "shards":
        shards = list_shards(
            [spec.truth, *spec.more], folders=reading.shard_folders, images=spec.images, layout=reading.layout
        )
        for written, bad, found, part in run_tasks(_ShardReader(folder, reading, spec.unverified), shards):
            usable, rejected, labels = usable + written, rejected + bad, labels + found
            digest.update(part.encode())
    else:
        rows, listed = read_truth(spec, [entry.name for entry in given] if given else None)
        keys: set[str] = set()
        for part_rows in _parts(rows):
            for row in part_rows:
                if row.key in keys:
                    raise ValueError(f"{spec.truth}: the image {row.key!r} is listed twice")
                keys.add(row.key)
                labels.update(set(row.truth))
            table = to_set_table(part_rows, images=spec.images)
            written, bad = write_set_rows(table, folder)
            usable, rejected = usable + written, rejected + bad
            digest.update(_digest(table).encode())
    if not usable:
        raise ValueError(f"--eval {spec.name}: no image of {spec.truth} has labels")
    entries = given or _unique([Entry(normalize_name(name)) for name in dict.fromkeys(listed or sorted(labels))])
    left_out = _left_out(spec, entries)
    kept = [entry for entry in without_shared_names(entries) if entry.name not in left_out]
    index = ClassIndex(kept)
    others = ClassIndex([entry for entry in entries if entry.name in left_out])
    names = (name for name, _ in labels.most_common())
    unknown = {name: labels[name] for name in names if index.find(name) is None and others.find(name) is None}
    if not kept or len(unknown) == len(labels):
        raise ValueError(
            f"--eval {spec.name}: no label of {spec.truth} is a class of {spec.classes or 'its list'}; "
            f"its labels are {', '.join(list(labels)[:5]) or 'none'}"
        )
    for entry in kept:
        digest.update(json.dumps([entry.name, entry.synonyms]).encode())
    result = EvalSet(
        name=spec.name,
        folder=folder,
        identity=digest.hexdigest()[:16],
        images=usable,
        rejected=rejected,
        has_images=spec.format == "shards" or spec.images is not None,
        classes=[entry.name for entry in kept],
        synonyms=[list(entry.synonyms) for entry in kept],
        left_out=left_out,
        unknown=unknown,
        map=spec.map,
    )
    write_text(f"{folder}/{MANIFEST}", result.model_dump_json(indent=1))
    return result


def read_prepared(folder: str, *, name: str | None = None) -> EvalSet:
    """Read a set that is prepared: of a run, or of a benchmark's folder.

    Args:
        folder: path or URI, with its manifest.
        name: of the set; None: its own.

    Returns:
        The set.

    Raises:
        ValueError: if the folder holds none.
    """
    folder = folder.rstrip("/")
    fs, path = locate(f"{folder}/{MANIFEST}")
    try:
        eval_set = EvalSet.model_validate_json(fs.cat_file(path))
    except (OSError, ValueError) as error:
        problem = type(error).__name__
        raise ValueError(f"{folder}: holds no prepared evaluation set ({MANIFEST}: {problem})") from None
    return eval_set.model_copy(update={"folder": folder, "name": name or eval_set.name})


def _copy_prepared(spec: SetSpec, folder: str) -> EvalSet:
    eval_set = read_prepared(spec.truth, name=spec.name)
    fs, path = locate(eval_set.folder)
    for file in sorted(fs.glob(f"{path}/rows-*.parquet")):
        write_bytes(f"{folder}/{file.rpartition('/')[2]}", fs.cat_file(file))
    eval_set = eval_set.model_copy(update={"folder": folder})
    write_text(f"{folder}/{MANIFEST}", eval_set.model_dump_json(indent=1))
    return eval_set


class ClassIndex:
    """Finds the class of a label in the truth or in a prediction, by name or synonym.

    Args:
        entries: the classes, without shared names.
    """

    def __init__(self, entries: Sequence[Entry]) -> None:
        self._index: dict[str, int] = {}
        for names in ([entry.name for entry in entries], None):
            for index, entry in enumerate(entries):
                for name in entry.synonyms if names is None else (entry.name,):
                    self._index.setdefault(normalize_name(name), index)

    def find(self, name: str) -> int | None:
        """Find a class.

        Args:
            name: in any case.

        Returns:
            Its index; None: no class has the name.
        """
        return self._index.get(normalize_name(name))


def _left_out(spec: SetSpec, entries: Sequence[Entry]) -> dict[str, str]:
    left_out = {}
    if spec.ambiguous == "leave_out":
        left_out = {name: f"ambiguous: also a name of {other!r}" for name, other in ambiguous_classes(entries).items()}
    if spec.leave_out:
        index = ClassIndex(entries)
        for name in read_names(spec.leave_out, setting=f"leave_out of --eval {spec.name}"):
            found = index.find(name)
            if found is None:
                raise ValueError(f"{spec.leave_out}: {name!r} is no class of {spec.name}")
            left_out[entries[found].name] = "left out by the list"
    return left_out


def _unique(entries: Sequence[Entry]) -> list[Entry]:
    """The classes with different names: the second "crane" is "crane (2)", as in label systems."""
    used: Counter[str] = Counter()
    unique = []
    for entry in entries:
        used[entry.name] += 1
        name = entry.name if used[entry.name] == 1 else f"{entry.name} ({used[entry.name]})"
        unique.append(replace(entry, name=name))
    return unique


def _parts(rows: Iterator[SetRow]) -> Iterator[list[SetRow]]:
    while part := list(islice(rows, ROWS_PER_FILE)):
        yield part


def write_set_rows(table: pa.Table, folder: str) -> tuple[int, int]:
    """Write rows of a set as a file that is named by their content.

    Args:
        table: SET_ROW rows.
        folder: path or URI of the set.

    Returns:
        The number of rows that can be used, and of those that cannot.
    """
    if len(table):
        write_table(table, f"{folder}/rows-{_digest(table)}.parquet")
    rejected = len(table) - table["reason"].null_count
    return len(table) - rejected, rejected


def _digest(table: pa.Table) -> str:
    return hashlib.sha256(json.dumps(table.to_pylist(), sort_keys=True).encode()).hexdigest()[:16]
