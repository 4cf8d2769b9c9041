"""The output of batch tagging: parts of rows, and what they say is done.

    OUT/tagging.json            model and query of all rows
    OUT/part-<hash>.parquet     rows; a part is there if this file is
    OUT/part-<hash>.jsonl       the same rows for other programs

The parts are their own record of what is done: a row names its file and that file's version, so no second list can
disagree with them. A file is known by its path, size and time of change (of an object store: its tag), as rsync and
make know it. A hash of the content would find a file that changed under an old time, but every run would read the whole
archive to find nothing new.

Each file is written in one step, the JSONL before the Parquet: after a kill at any moment every Parquet is whole and
has its JSONL. A JSONL without a Parquet is the rest of a kill, and `prepare_output` removes it.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import fsspec
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from ram_ray.records import Json
from ram_ray.runtime.artifacts import write_bytes, write_table, write_text
from ram_ray.runtime.key_hash import hash_key

MANIFEST = "tagging.json"
Groups = Counter[tuple[str, str]]  # (folder, extension) -> number

_RESULT = [
    ("key", pa.string()),
    ("tags", pa.list_(pa.string())),  # highest score first
    ("scores", pa.list_(pa.float32())),
    ("error", pa.string()),  # null if the image was tagged
]
EXTRAS = {  # columns of which each is there if it is asked for; null where the image was not tagged
    "caption": pa.string(),
    "boxes": pa.list_(pa.list_(pa.float32())),  # of each tag: x0, y0, x1, y1 as shares of width and height; or null
    "embedding": pa.list_(pa.float32()),  # of unit length
}
_SOURCE = [  # of the image; not in the JSONL
    ("uri", pa.string()),  # of the image's file, or of its shard
    ("member", pa.string()),  # key of an image of a shard; "" for a file
    ("version", pa.string()),  # of the file: size and time of change
    ("width", pa.int32()),  # as seen, in pixels; null where the image was not tagged
    ("height", pa.int32()),
]
_SOURCE_NAMES = frozenset(name for name, _ in _SOURCE)


def tagged_schema(extras: Sequence[str] = ()) -> pa.Schema:
    """Schema of the rows.

    Args:
        extras: names of `EXTRAS`.

    Returns:
        The schema: key, tags, scores, error, the extras, and where the image is.
    """
    return pa.schema([*_RESULT, *((name, EXTRAS[name]) for name in EXTRAS if name in extras), *_SOURCE])


@dataclass(frozen=True)
class Done:
    """What the parts hold, as hashes of 64 bits, sorted by `ids`: 28 bytes a row."""

    ids: np.ndarray  # uint64, of file and member
    versions: np.ndarray  # uint64
    keys: np.ndarray  # uint64
    parts: np.ndarray  # int32, index in `names`
    names: tuple[str, ...]  # paths of the parts' Parquet files

    def find(self, ids: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Look up images.

        Args:
            ids: uint64 (n,).

        Returns:
            Which of them have a row, bool (n,); and its index here, (n,), without meaning where there is no row.
        """
        if not len(self.ids):
            return np.zeros(len(ids), bool), np.zeros(len(ids), np.int64)
        index = np.minimum(np.searchsorted(self.ids, ids), len(self.ids) - 1)
        return self.ids[index] == ids, index


def image_ids(table: pa.Table) -> np.ndarray:
    """Hashes of what identifies images: their file, and their member of a shard.

    Args:
        table: n rows with `uri` and `member`.

    Returns:
        uint64 (n,).
    """
    places = zip(table["uri"].to_pylist(), table["member"].to_pylist(), strict=True)
    return hashes([f"{uri}\0{member}" for uri, member in places])


def hashes(values: Sequence[str]) -> np.ndarray:
    """Hash texts.

    Args:
        values: n texts.

    Returns:
        uint64 (n,).
    """
    return np.array([hash_key(value) for value in values], dtype=np.uint64)


def read_done(out: str) -> Done:
    """Read what the parts hold, a part at a time.

    Args:
        out: folder or URI.

    Returns:
        The rows as hashes.

    Raises:
        ValueError: if a part is none of batch tagging's.
    """
    fs, root = fsspec.url_to_fs(out)
    names = tuple(sorted(fs.glob(f"{root.rstrip('/')}/part-*.parquet")))
    arrays: list[tuple[np.ndarray, ...]] = [(np.zeros(0, np.uint64),) * 3 + (np.zeros(0, np.int32),)]
    for index, table in enumerate(_read_columns(fs, names, ["key", "uri", "member", "version"])):
        versions, keys = (hashes(table[name].to_pylist()) for name in ("version", "key"))
        arrays.append((image_ids(table), versions, keys, np.full(len(table), index, dtype=np.int32)))
    ids, versions, keys, parts = (np.concatenate(column) for column in zip(*arrays, strict=True))
    order = np.argsort(ids, kind="stable")
    return Done(ids[order], versions[order], keys[order], parts[order], names)


def read_tagged(out: str, columns: list[str]) -> Iterator[pa.Table]:
    """Read the rows of the output, a part at a time.

    Args:
        out: folder or URI.
        columns: names of the columns that are read; those that the parts do not have are left out.

    Yields:
        The rows of each part.
    """
    fs, root = fsspec.url_to_fs(out)
    yield from _read_columns(fs, sorted(fs.glob(f"{root.rstrip('/')}/part-*.parquet")), columns)


def _read_columns(fs: fsspec.AbstractFileSystem, names: Sequence[str], columns: list[str]) -> Iterator[pa.Table]:
    for name in names:
        try:
            with fs.open(name, "rb") as file:
                parquet = pq.ParquetFile(file)
                known = parquet.schema_arrow.names
                if _SOURCE_NAMES - set(known):
                    raise ValueError("it was written by an earlier version")
                yield parquet.read(columns=[column for column in columns if column in known])
        except (pa.ArrowException, ValueError) as error:
            raise ValueError(f"{name} is no part of a tagged archive ({error}); name another --out folder") from None


def write_part(table: pa.Table, out: str, name: str) -> None:
    """Write rows as a part; one of the same name is replaced.

    Args:
        table: rows of `tagged_schema`.
        out: folder or URI.
        name: of the part, without an ending.
    """
    path = f"{out.rstrip('/')}/{name}"
    lines = []
    for row in table.drop_columns([name for name in table.column_names if name in _SOURCE_NAMES]).to_pylist():
        row["scores"] = [round(score, 5) for score in row["scores"]]
        for column in ("boxes", "embedding"):
            if row.get(column) is not None:
                row[column] = _rounded(row[column])
        lines.append(json.dumps(row, ensure_ascii=False) + "\n")
    write_bytes(f"{path}.jsonl", "".join(lines).encode())
    write_table(table, f"{path}.parquet")


def drop_rows(out: str, done: Done, stale: np.ndarray) -> None:
    """Remove rows whose images changed, so that no image has two rows.

    Args:
        out: folder or URI.
        done: what its parts hold.
        stale: uint64 (n,), ids of the rows.
    """
    fs, _ = fsspec.url_to_fs(out)
    for index in np.unique(done.parts[np.isin(done.ids, stale)]).tolist():
        path = done.names[index]
        with fs.open(path, "rb") as file:
            table = pq.ParquetFile(file).read()
        kept = table.filter(pa.array(~np.isin(image_ids(table), stale)))
        name = path.rpartition("/")[2].removesuffix(".parquet")
        if len(kept):
            write_part(kept, out, name)
        else:
            fs.rm_file(path)
            fs.rm_file(f"{path.removesuffix('.parquet')}.jsonl")


def prepare_output(out: str, identity: Json) -> None:
    """Make the folder of the output, or check that an earlier call wrote it with the same model and query.

    What a killed run left unfinished is removed.

    Args:
        out: folder or URI.
        identity: all that the rows depend on, beside the images.

    Raises:
        ValueError: if the folder holds tags of another model or query.
    """
    fs, root = fsspec.url_to_fs(out)
    fs.invalidate_cache()
    path = f"{out.rstrip('/')}/{MANIFEST}"
    parts = fs.glob(f"{root.rstrip('/')}/part-*")
    try:
        with fsspec.open(path, "r") as file:
            earlier = json.load(file)
    except FileNotFoundError:
        if parts:
            raise ValueError(f"{out} holds tags of an earlier version; name another --out folder") from None
        write_text(path, json.dumps(identity, indent=1, ensure_ascii=False))
        return
    except ValueError:
        raise ValueError(f"{path} cannot be read; name another --out folder") from None
    identity = json.loads(json.dumps(identity))
    if earlier != identity:
        names = sorted(name for name in {*earlier, *identity} if earlier.get(name) != identity.get(name))
        raise ValueError(f"{out} holds tags made with another {', '.join(names)}; name another --out folder")
    whole = {name.removesuffix(".parquet") for name in parts if name.endswith(".parquet")}
    for name in parts:
        if name.endswith(".part") or (name.endswith(".jsonl") and name.removesuffix(".jsonl") not in whole):
            fs.rm_file(name)


def count_rows(out: str) -> tuple[Groups, Groups]:
    """Count the rows and the errors of each folder and extension.

    Args:
        out: folder or URI.

    Returns:
        Rows, and rows with an error.
    """
    rows: Groups = Counter()
    errors: Groups = Counter()
    for table in read_tagged(out, ["uri", "error"]):
        rows.update(map(group_of, table["uri"].to_pylist()))
        errors.update(map(group_of, table.filter(pc.is_valid(table["error"]))["uri"].to_pylist()))
    return rows, errors


def group_of(uri: str) -> tuple[str, str]:
    """Folder and extension that an image is counted under.

    Args:
        uri: of its file; of its shard for an image in a shard.

    Returns:
        The folder, and the extension in lower case with its dot; "" without one.
    """
    folder, _, name = uri.rpartition("/")
    stem, dot, extension = name.rpartition(".")
    return folder, f".{extension.lower()}" if dot and stem else ""


def _rounded(value: object) -> object:
    if isinstance(value, list):
        return [_rounded(item) for item in value]
    return round(value, 5) if isinstance(value, float) else value
