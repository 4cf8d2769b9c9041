"""The released RAM annotations as `records.ANNOTATION` rows.

The file is a JSON list of {image_path, caption: [text], union_label_id: [id], parse_label_id: [[id]]} (arXiv
2306.03514, the authors' repository). It has millions of entries, so it is read entry by entry. `parse_label_id` has
the tags parsed from each caption. Ids only in `union_label_id` are from the authors' data engine; they become tags of
origin "tagger". An entry that cannot be used becomes a rejected row.
"""

from __future__ import annotations

import json
import posixpath
import re
from collections.abc import Iterator
from itertools import islice

import fsspec
import pyarrow.parquet as pq

from ram_ray.label_system import LabelSystem
from ram_ray.records import ANNOTATION, REJECTED, Reject, Row, to_table
from ram_ray.runtime.artifacts import write_text
from ram_ray.runtime.key_hash import hash_key

ROWS_PER_FILE = 10_000
MAX_ENTRY = 1_000_000  # characters of one entry
_READ = 1 << 20  # characters of one read
_UNFINISHED = "unfinished.txt"
_SPACES = re.compile(r"[ \t\r\n]*")


def import_annotations(uri: str, system: LabelSystem, out: str, *, images: str = "") -> dict[str, int]:
    """Write the entries of a released file as `records.ANNOTATION` rows under `out`, partitioned by shard.

    Args:
        uri: the JSON file, at any fsspec URI, also compressed.
        system: the label system of its ids.
        out: folder or URI for the rows; new or empty.
        images: folder that `image_path` is relative to; images are not opened, but each must exist. Without it, rows
            have no length of their image: they can be counted and compared but not trained on.

    Returns:
        Counts rows_in, rows_out, rejected and tags; rows_in = rows_out + rejected.

    Raises:
        ValueError: if the file is not a JSON list, or holds no usable entry.
    """
    fs, root = fsspec.url_to_fs(out)
    shard = re.sub(r"[^A-Za-z0-9._-]", "_", posixpath.basename(uri).partition(".")[0]) or "annotations"
    _begin(fs, root, out)
    counts = {"rows_in": 0, "rows_out": 0, "rejected": 0, "tags": 0}
    keys: set[int] = set()  # hashes: 8 bytes a row
    entries = read_entries(uri)
    for number in range(10**9):
        rows: list[Row] = []
        for row_number, entry in enumerate(islice(entries, ROWS_PER_FILE), counts["rows_in"] + 1):
            rows.append(_row(entry, row_number, shard=shard, system=system, images=images, keys=keys))
        if not rows:
            break
        accepted = [row for row in rows if "reason" not in row]
        rejected = [
            {**{name: row[name] for name in ("key", "shard", "reason", "detail")}, "stage": "import"}
            for row in rows
            if "reason" in row
        ]
        counts["rows_in"] += len(rows)
        counts["rows_out"] += len(accepted)
        counts["rejected"] += len(rejected)
        counts["tags"] += sum(len(row["tags"]) for row in accepted)
        for part, schema, name in (
            (accepted, ANNOTATION, f"annotations/shard={shard}"),
            (rejected, REJECTED, "rejected"),
        ):
            if part:
                folder = f"{root}/{name}"
                fs.makedirs(folder, exist_ok=True)
                table = to_table(part, schema)
                with fs.open(f"{folder}/part-{number:05d}.parquet", "wb") as file:
                    pq.write_table(table.drop_columns(["shard"]) if schema is ANNOTATION else table, file)
    if not counts["rows_out"]:
        raise ValueError(f"{uri}: none of its {counts['rows_in']} entries is usable")
    system.save(f"{out}/label_system.json")
    write_text(f"{out}/counts.json", json.dumps(counts, indent=1))
    fs.rm(f"{root}/{_UNFINISHED}")
    return counts


def _begin(fs: fsspec.AbstractFileSystem, root: str, out: str) -> None:
    """Make the folder; the files of an interrupted import in it are removed."""
    marker = f"{root}/{_UNFINISHED}"
    if fs.exists(marker):
        for part in ("annotations", "rejected"):
            if fs.exists(f"{root}/{part}"):
                fs.rm(f"{root}/{part}", recursive=True)
    elif fs.exists(root) and fs.ls(root):
        raise ValueError(f"{out} is not empty: name a new folder")
    fs.makedirs(root, exist_ok=True)
    write_text(marker, "this import has not ended; the next import into this folder starts again")


def read_entries(uri: str) -> Iterator[object]:
    """Read the entries of a JSON list one by one, in bounded memory.

    Args:
        uri: the file, at any fsspec URI, also compressed.

    Yields:
        An entry as JSON gives it.

    Raises:
        ValueError: if the file is not a JSON list, ends early, or has an entry of more than `MAX_ENTRY` characters.
    """
    decoder = json.JSONDecoder()
    fs, path = fsspec.url_to_fs(uri)
    if not fs.isfile(path):
        raise ValueError(f"{uri}: there is no such file")
    with fsspec.open(uri, "r", encoding="utf-8", errors="replace", compression="infer") as file:
        text, position, in_list = file.read(_READ), 0, False
        while True:
            position = _SPACES.match(text, position).end()  # type: ignore[union-attr]
            if position < len(text) and (text[position] in ",]" if in_list else text[position] == "["):
                if text[position] == "]":
                    return
                in_list, position = True, position + 1
                continue
            if text and not in_list and position < len(text):
                raise ValueError(f"{uri}: not a JSON list; the released annotations begin with '['")
            try:
                entry, end = decoder.raw_decode(text, position)
                next_position = _SPACES.match(text, end).end()  # type: ignore[union-attr]
                if text[next_position : next_position + 1] not in (",", "]"):  # "3." may continue in the next read
                    raise json.JSONDecodeError("not the end of the entry", text, end)
                yield entry
                position = end
            except (json.JSONDecodeError, RecursionError) as error:
                start = text[position : position + 60]
                if len(text) - position > MAX_ENTRY or isinstance(error, RecursionError):
                    raise ValueError(f"{uri}: an entry cannot be read as JSON: {start!r}") from None
                more = file.read(_READ)
                if not more:
                    raise ValueError(f"{uri} ends early or is not JSON at {start!r}") from None
                text, position = text[position:] + more, 0


def _row(entry: object, number: int, *, shard: str, system: LabelSystem, images: str, keys: set[int]) -> Row:
    """An ANNOTATION row, or the fields of a rejected row."""
    row: Row = {"key": f"{shard}/{number}", "shard": shard}
    try:
        path, captions, union, parsed = _fields(entry)
        _check_ids([*union, *(id for ids in parsed for id in ids)], system)
        key = f"{shard}/{path}"
        digest = hash_key(key)
        if digest in keys:
            raise Reject("duplicate_key", f"{path[:200]!r} is there twice")
        location = _locate(path, images)
        keys.add(digest)
    except Reject as reject:
        return {**row, "reason": reject.reason, "detail": reject.detail}
    mentioned = dict.fromkeys(id for ids in parsed for id in ids)
    tags = [{"id": id, "origin": "parsed", "score": 1.0} for id in mentioned]
    tags += [{"id": id, "origin": "tagger", "score": 1.0} for id in dict.fromkeys(union) if id not in mentioned]
    texts = [
        {"text": text, "origin": "original", "tags": ids, "sources": ["parsed"] * len(ids)}
        for text, ids in zip(captions, parsed, strict=True)
    ]
    return {**row, "key": key, **location, "captions": texts, "tags": tags, "removed": []}


def _locate(path: str, images: str) -> Row:
    """The columns of ANNOTATION that say where an image is (see `records`)."""
    if not images:
        return {"uri": path, "offset": 0}
    uri = f"{images.rstrip('/')}/{path}"
    if ".." in path.split("/"):
        raise Reject("bad_metadata", f"image_path leaves its folder: {path[:200]!r}")
    fs, local = fsspec.url_to_fs(uri)
    try:
        return {"uri": uri, "offset": 0, "nbytes": fs.size(local)}
    except OSError:
        raise Reject("undecodable", f"no image at {uri[:300]}") from None


def _fields(entry: object) -> tuple[str, list[str], list[int], list[list[int]]]:
    if not isinstance(entry, dict) or not isinstance(entry.get("image_path"), str) or not entry["image_path"]:
        raise Reject("bad_metadata", f"no image_path in {str(entry)[:100]}")
    captions = entry.get("caption") or []
    captions = [captions] if isinstance(captions, str) else captions
    union, parsed = entry.get("union_label_id") or [], entry.get("parse_label_id") or []
    if parsed and all(isinstance(id, int) for id in parsed):
        parsed = [parsed]
    parsed = list(parsed) + [[]] * (len(captions) - len(parsed))
    if not isinstance(captions, list) or not all(isinstance(text, str) for text in captions):
        raise Reject("bad_metadata", "caption is not a list of texts")
    if not isinstance(union, list) or len(parsed) != len(captions) or not all(isinstance(ids, list) for ids in parsed):
        raise Reject("bad_metadata", f"{len(captions)} captions, {len(parsed)} lists in parse_label_id")
    if not captions and not union:
        raise Reject("no_caption", "neither captions nor labels")
    return entry["image_path"], captions, union, parsed


def _check_ids(ids: list[object], system: LabelSystem) -> None:
    for id in ids:
        if not isinstance(id, int) or isinstance(id, bool) or not 0 <= id < len(system):
            raise Reject("bad_metadata", f"label id {str(id)[:40]} is not in the label system of {len(system)} labels")
