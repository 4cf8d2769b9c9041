"""Reads published lists of names in their file formats, and writes label systems as CSV.

| file | format |
|---|---|
| tag lists (such as `ram_tag_list.txt`) | a name on each line; `kind:name` states the kind |
| COCO instances or panoptic, JSON | `categories` with `name` |
| OpenImages class descriptions, CSV | `/m/01g317,Person`, with or without a header |
| ADE20k object info, CSV | `building;edifice,0`, or columns with a `Name` |
| a label system, JSON or CSV | as `LabelSystem.save` and `to_csv` write it |

The order of a published list defines the ids of a checkpoint, so no name is sorted, merged or omitted, and a name that
occurs twice has two ids.
"""

from __future__ import annotations

import csv
import io
import json
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from importlib import resources
from pathlib import PurePosixPath

from ram_ray.label_system import Label, LabelSystem, normalize_name, split_kind
from ram_ray.labels.names import MAX_NAME, read_text
from ram_ray.records import KINDS, Json

MAX_ENTRIES = 1_000_000
_NAME_COLUMNS = ("name", "displayname", "display_name", "class")
_CSV_COLUMNS = ("id", "name", "kind", "count", "threshold", "synonyms", "ambiguous", "read_as")
_SEPARATOR = "; "  # of the synonyms in a cell


@dataclass(frozen=True)
class Entry:
    """A category of a list: its name, its synonyms, and its kind where the list states it."""

    name: str
    synonyms: tuple[str, ...] = ()
    kind: str | None = None


def read_list(source: str) -> list[Entry]:
    """Read the categories of a list.

    Args:
        source: any fsspec URI of a file, or the name of a shipped list (`shipped_lists`).

    Returns:
        The categories, in the order of the list.

    Raises:
        ValueError: if the file cannot be read, contains no names, or has none of the formats.
    """
    shipped = resources.files("ram_ray.labels") / "benchmarks" / f"{source}.txt"
    if source in shipped_lists():
        text, suffix = shipped.read_text(encoding="utf-8"), ".txt"
    else:
        text = read_text(source, max_bytes=512_000_000)
        suffix = PurePosixPath(source).suffix.lower()
    if suffix == ".json":
        entries = _from_json(source, text)
    elif suffix == ".csv":
        entries = _from_csv(source, text)
    else:
        lines = (line.partition("#")[0].strip() for line in text.splitlines())
        entries = [_entry(source, line) for line in lines if line]
    if not entries or len(entries) > MAX_ENTRIES:
        raise ValueError(f"{source}: {len(entries):,} names; a list has 1 to {MAX_ENTRIES:,}")
    return entries


def shipped_lists() -> list[str]:
    """List the lists of the package.

    Returns:
        Their names, sorted.
    """
    folder = resources.files("ram_ray.labels") / "benchmarks"
    return sorted(file.name.removesuffix(".txt") for file in folder.iterdir() if file.name.endswith(".txt"))


def to_system(entries: Iterable[Entry], *, kind_of: Callable[[str], str]) -> LabelSystem:
    """Make a label system whose ids are the indices of the list.

    Args:
        entries: categories of the list, in its order.
        kind_of: returns the kind of a name whose entry has none.

    Returns:
        The label system; a repeated name gets a number: "crane (2)".
    """
    used: Counter[tuple[str, str]] = Counter()
    labels = []
    for id, entry in enumerate(entries):
        kind = entry.kind or kind_of(entry.name)
        used[entry.name, kind] += 1
        occurrence = used[entry.name, kind]
        name = entry.name if occurrence == 1 else f"{entry.name} ({occurrence})"
        synonyms = tuple(synonym for synonym in entry.synonyms if synonym != name)
        labels.append(Label(id, name, kind, synonyms=synonyms))
    return LabelSystem(labels)


def read_system(source: str, *, kind_of: Callable[[str], str]) -> LabelSystem:
    """Read a label system from its JSON, with all fields, or from a list.

    Args:
        source: path or URI of the file, or a list that `read_list` reads.
        kind_of: returns the kind of a name whose entry has none.

    Returns:
        The label system.

    Raises:
        ValueError: as `read_list` and `LabelSystem.from_json`.
    """
    if source.lower().endswith(".json"):
        text = read_text(source, max_bytes=512_000_000)
        if '"labels"' in text[:1000]:
            return LabelSystem.from_json(text)
    return to_system(read_list(source), kind_of=kind_of)


def to_csv(system: LabelSystem) -> str:
    """Write a system as CSV that `read_list` reads.

    Args:
        system: the label system.

    Returns:
        Text with a header and a line for each label.
    """
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(_CSV_COLUMNS)
    for label in system.labels:
        threshold = "" if label.threshold is None else label.threshold
        lists = (_SEPARATOR.join(names) for names in (label.synonyms, label.ambiguous, label.read_as))
        writer.writerow([label.id, label.name, label.kind, label.count, threshold, *lists])
    return out.getvalue()


def _from_json(source: str, text: str) -> list[Entry]:
    try:
        tree = json.loads(text)
        if isinstance(tree, dict):
            tree = tree["labels"] if "labels" in tree else tree["categories"]
        return [_entry(source, item) if isinstance(item, str) else _json_entry(source, item) for item in tree]
    except (KeyError, TypeError, AttributeError, RecursionError, json.JSONDecodeError) as error:
        raise ValueError(
            f"{source}: neither a label system, nor COCO's categories, nor a list of names ({error!r:.100})"
        ) from None


def _json_entry(source: str, tree: Json) -> Entry:
    entry = _entry(source, tree["name"])
    synonyms = tuple(normalize_name(str(synonym)) for synonym in tree.get("synonyms", ()))
    return Entry(entry.name, (*entry.synonyms, *synonyms), tree.get("kind") or entry.kind)


def _from_csv(source: str, text: str) -> list[Entry]:
    try:
        rows = [row for row in csv.reader(io.StringIO(text)) if any(cell.strip() for cell in row)]
    except csv.Error as error:
        raise ValueError(f"{source}: cannot be read as CSV: {error}") from None
    if not rows:
        return []
    header = [cell.strip().lower() for cell in rows[0]]
    name_column = next((header.index(name) for name in _NAME_COLUMNS if name in header), None)
    if name_column is None:  # no header: the first column that is neither an OpenImages id nor a number
        name_column = next((index for index, cell in enumerate(rows[0]) if _is_name(cell)), 0)
    else:
        rows = rows[1:]
    kind_column = header.index("kind") if "kind" in header else None
    synonym_column = header.index("synonyms") if "synonyms" in header else None
    entries = []
    for number, row in enumerate(rows, 1):
        if len(row) <= name_column:
            raise ValueError(
                f"{source}: row {number} has {len(row)} columns, the names are in column {name_column + 1}"
            )
        entry = _entry(source, row[name_column])
        cells = row[synonym_column].split(";") if synonym_column is not None else ()
        kind = row[kind_column].strip().lower() if kind_column is not None else entry.kind
        if kind is not None and kind not in KINDS:
            raise ValueError(f"{source}: row {number} has the kind {kind!r}; use one of {', '.join(KINDS)}")
        synonyms = (normalize_name(cell) for cell in cells if cell.strip())
        entries.append(Entry(entry.name, (*entry.synonyms, *synonyms), kind))
    return entries


def _is_name(cell: str) -> bool:
    cell = cell.strip()
    return bool(cell) and not cell.startswith("/") and not cell.replace(".", "").isdigit()


def _entry(source: str, text: str) -> Entry:
    """Read "building;edifice" as an entry with a synonym."""
    kind, _ = split_kind(text)
    name, *synonyms = [
        normalize_name(part) for part in (text.partition(":")[2] if kind else text).split(";") if part.strip()
    ] or [""]
    if not name or len(text) > 10 * MAX_NAME:
        raise ValueError(f"{source}: {text[:40]!r} is not a name")
    return Entry(name, tuple(synonyms), kind)
