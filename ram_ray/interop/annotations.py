"""The released RAM annotations as rows of ours.

A JSON list of {image_path, caption: [text], union_label_id: [id], parse_label_id: [[id]]} (arXiv 2306.03514, the
authors' repository). It has millions of entries, so it is read entry by entry, never whole. `parse_label_id` gives
what each caption was parsed to; what stands only in `union_label_id` came from the authors' data engine, whose ids we
take as tags of a tagger. An entry that cannot be used becomes a rejected row.
"""

from __future__ import annotations

import json
import posixpath
import re
from collections.abc import Iterator
from itertools import islice
from typing import Any

import fsspec
import pyarrow.parquet as pq

from ram_ray.label_system import LabelSystem
from ram_ray.records import ANNOTATION, REJECTED, Reject, to_table
from ram_ray.runtime.artifacts import write_text
from ram_ray.runtime.key_hash import hash_key

ROWS_AT_ONCE = 10_000
MAX_ENTRY = 1_000_000  # characters of one entry
_READ = 1 << 20
_UNFINISHED = "unfinished.txt"
_SPACES = re.compile(r"[ \t\r\n]*")


def import_annotations(uri: str, system: LabelSystem, out: str, *, images: str = "") -> dict[str, int]:
    """Write the entries of a released file as `records.ANNOTATION` rows under `out`, partitioned by shard.

    Args:
        uri: the JSON file, at any fsspec URI, also compressed.
        system: the label system that its ids are of.
        out: folder or URI for the rows; new or empty.
        images: what `image_path` is relative to; pictures are not opened, but each must be there. Without it rows have
            no length of their picture, and can be counted and compared but not trained on.

    Returns:
        rows_in, rows_out, rejected, tags: rows_in is their sum without the tags.

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
        rows: list[dict[str, Any]] = []
        for place, entry in enumerate(islice(entries, ROWS_AT_ONCE), counts["rows_in"] + 1):
            rows.append(_row(entry, place, shard=shard, system=system, images=images, keys=keys))
        if not rows:
            break
        good = [row for row in rows if "reason" not in row]
        bad = [
            {**{name: row[name] for name in ("key", "shard", "reason", "detail")}, "stage": "import"}
            for row in rows
            if "reason" in row
        ]
        counts["rows_in"] += len(rows)
        counts["rows_out"] += len(good)
        counts["rejected"] += len(bad)
        counts["tags"] += sum(len(row["tags"]) for row in good)
        for part, schema, folder in ((good, ANNOTATION, f"shard={shard}"), (bad, REJECTED, "rejected")):
            if part:
                where = f"{root}/{'annotations/' if schema is ANNOTATION else ''}{folder}"
                fs.makedirs(where, exist_ok=True)
                table = to_table(part, schema)
                with fs.open(f"{where}/part-{number:05d}.parquet", "wb") as file:
                    pq.write_table(table.drop_columns(["shard"]) if schema is ANNOTATION else table, file)
    if not counts["rows_out"]:
        raise ValueError(f"{uri}: none of its {counts['rows_in']} entries is usable")
    system.save(f"{out}/label_system.json")
    write_text(f"{out}/counts.json", json.dumps(counts, indent=1))
    fs.rm(f"{root}/{_UNFINISHED}")
    return counts


def _begin(fs: Any, root: str, out: str) -> None:
    """Make the folder ready; what an import that was killed left there is begun anew."""
    mark = f"{root}/{_UNFINISHED}"
    if fs.exists(mark):
        for part in ("annotations", "rejected"):
            if fs.exists(f"{root}/{part}"):
                fs.rm(f"{root}/{part}", recursive=True)
    elif fs.exists(root) and fs.ls(root):
        raise ValueError(f"{out}: there is something already; name a new folder")
    fs.makedirs(root, exist_ok=True)
    write_text(mark, "this import has not ended; the next one into this folder begins anew")


def read_entries(uri: str) -> Iterator[Any]:
    """The entries of a JSON list, one by one, in bounded memory.

    Yields:
        An entry as JSON gives it.

    Raises:
        ValueError: if the file is not a JSON list, breaks off, or has an entry of more than `MAX_ENTRY` characters.
    """
    decoder = json.JSONDecoder()
    fs, path = fsspec.url_to_fs(uri)
    if not fs.isfile(path):
        raise ValueError(f"{uri}: there is no such file")
    with fsspec.open(uri, "r", encoding="utf-8", errors="replace", compression="infer") as file:
        text, place, begun = file.read(_READ), 0, False
        while True:
            place = _SPACES.match(text, place).end()  # type: ignore[union-attr]
            if place < len(text) and (text[place] in ",]" if begun else text[place] == "["):
                if text[place] == "]":
                    return
                begun, place = True, place + 1
                continue
            if text and not begun and place < len(text):
                raise ValueError(f"{uri}: not a JSON list; the released annotations begin with '['")
            try:
                entry, end = decoder.raw_decode(text, place)
                after = _SPACES.match(text, end).end()  # type: ignore[union-attr]
                if text[after : after + 1] not in (",", "]"):  # "3." may go on, whatever the decoder makes of it
                    raise json.JSONDecodeError("more to come", text, end)
                yield entry
                place = end
            except (json.JSONDecodeError, RecursionError) as error:
                if len(text) - place > MAX_ENTRY or isinstance(error, RecursionError):
                    raise ValueError(f"{uri}: an entry cannot be read as JSON: {text[place : place + 60]!r}") from None
                more = file.read(_READ)
                if not more:
                    raise ValueError(f"{uri}: breaks off or is no JSON at {text[place : place + 60]!r}") from None
                text, place = text[place:] + more, 0


def _row(entry: Any, number: int, *, shard: str, system: LabelSystem, images: str, keys: set[int]) -> dict[str, Any]:
    """One ANNOTATION row, or a rejected one."""
    row: dict[str, Any] = {"key": f"{shard}/{number}", "shard": shard}
    try:
        path, captions, union, parsed = _fields(entry)
        _check_ids([*union, *(id for ids in parsed for id in ids)], system)
        key = f"{shard}/{path}"
        digest = hash_key(key)
        if digest in keys:
            raise Reject("duplicate_key", f"{path[:200]!r} was there before")
        where = _where(path, images)
        keys.add(digest)
    except Reject as reject:
        return {**row, "reason": reject.reason, "detail": reject.detail}
    said = dict.fromkeys(id for ids in parsed for id in ids)
    tags = [{"id": id, "origin": "parsed", "score": 1.0} for id in said]
    tags += [{"id": id, "origin": "tagger", "score": 1.0} for id in dict.fromkeys(union) if id not in said]
    texts = [
        {"text": text, "origin": "original", "tags": ids, "sources": ["parsed"] * len(ids)}
        for text, ids in zip(captions, parsed, strict=True)
    ]
    return {**row, "key": key, **where, "captions": texts, "tags": tags, "removed": []}


def _where(path: str, images: str) -> dict[str, Any]:
    """Where a picture lies (see `records`)."""
    if not images:
        return {"uri": path, "offset": 0}
    uri = f"{images.rstrip('/')}/{path}"
    if ".." in path.split("/"):
        raise Reject("bad_metadata", f"image_path leaves its folder: {path[:200]!r}")
    fs, local = fsspec.url_to_fs(uri)
    try:
        return {"uri": uri, "offset": 0, "nbytes": fs.size(local)}
    except OSError:
        raise Reject("undecodable", f"no picture at {uri[:300]}") from None


def _fields(entry: Any) -> tuple[str, list[str], list[int], list[list[int]]]:
    if not isinstance(entry, dict) or not isinstance(entry.get("image_path"), str) or not entry["image_path"]:
        raise Reject("bad_metadata", f"no image_path in {str(entry)[:100]}")
    captions = entry.get("caption") or []
    captions = [captions] if isinstance(captions, str) else captions
    union, parsed = entry.get("union_label_id") or [], entry.get("parse_label_id") or []
    if parsed and all(isinstance(one, int) for one in parsed):
        parsed = [parsed]
    parsed = list(parsed) + [[]] * (len(captions) - len(parsed))
    if not isinstance(captions, list) or not all(isinstance(one, str) for one in captions):
        raise Reject("bad_metadata", "caption is not a list of texts")
    if not isinstance(union, list) or len(parsed) != len(captions) or not all(isinstance(one, list) for one in parsed):
        raise Reject("bad_metadata", f"{len(captions)} captions, {len(parsed)} lists in parse_label_id")
    if not captions and not union:
        raise Reject("no_caption", "neither captions nor labels")
    return entry["image_path"], captions, union, parsed


def _check_ids(ids: list[Any], system: LabelSystem) -> None:
    for id in ids:
        if not isinstance(id, int) or isinstance(id, bool) or not 0 <= id < len(system):
            raise Reject("bad_metadata", f"label id {str(id)[:40]} is not one of the {len(system)} of the label system")
