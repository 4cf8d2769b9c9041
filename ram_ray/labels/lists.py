"""Ready lists of names, in the forms that they are published in, and label systems to and from files.

| file | form |
|---|---|
| tag lists (`ram_tag_list.txt` and the like) | one name a line; `kind:name` gives the kind |
| COCO instances or panoptic, JSON | `categories` with `name` |
| OpenImages class descriptions, CSV | `/m/01g317,Person`, with or without a header |
| ADE20k object info, CSV | `building;edifice,0`, or columns with a `Name` |
| a label system, JSON or CSV | what `LabelSystem.save` and `to_csv` write |

A published list is a contract with a checkpoint: its order gives the ids, so nothing is sorted, merged or left out, and
a name that stands there twice keeps both places.
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
from typing import Any

from ram_ray.label_system import Label, LabelSystem
from ram_ray.labels.names import MAX_NAME, plain, read_text, split_kind
from ram_ray.records import KINDS

MAX_ENTRIES = 1_000_000
_NAME_COLUMNS = ("name", "displayname", "display_name", "class")
_CSV_COLUMNS = ("id", "name", "kind", "count", "threshold", "synonyms", "ambiguous", "read_as")
_BETWEEN = "; "  # synonyms of one cell


@dataclass(frozen=True)
class Entry:
    """One category of a list: its name, other names of it, and its kind where the list says so."""

    name: str
    synonyms: tuple[str, ...] = ()
    kind: str | None = None


def read_list(source: str) -> list[Entry]:
    """The categories of a list, in its order.

    Args:
        source: a file at any fsspec URI, or the name of a shipped list (`shipped_lists`).

    Raises:
        ValueError: if the file cannot be read, holds no names, or is in none of the forms.
    """
    shipped = resources.files("ram_ray.labels") / "categories" / f"{source}.txt"
    if source in shipped_lists():
        text, ending = shipped.read_text(encoding="utf-8"), ".txt"
    else:
        text, ending = read_text(source, what="the list", max_bytes=512_000_000), PurePosixPath(source).suffix.lower()
    if ending == ".json":
        entries = _from_json(source, text)
    elif ending == ".csv":
        entries = _from_csv(source, text)
    else:
        lines = (line.partition("#")[0].strip() for line in text.splitlines())
        entries = [_entry(source, line) for line in lines if line]
    if not entries or len(entries) > MAX_ENTRIES:
        raise ValueError(f"{source}: {len(entries):,} names; a list has 1 to {MAX_ENTRIES:,}")
    return entries


def shipped_lists() -> list[str]:
    """Names of the lists that come with the package."""
    folder = resources.files("ram_ray.labels") / "categories"
    return sorted(one.name.removesuffix(".txt") for one in folder.iterdir() if one.name.endswith(".txt"))


def to_system(entries: Iterable[Entry], *, kind_of: Callable[[str], str]) -> LabelSystem:
    """A label system with the ids of the list.

    Args:
        entries: of the list, in its order.
        kind_of: the kind of a name that comes without one.
    """
    used: Counter[tuple[str, str]] = Counter()
    labels = []
    for place, entry in enumerate(entries):
        kind = entry.kind or kind_of(entry.name)
        used[entry.name, kind] += 1
        again = used[entry.name, kind]
        name = entry.name if again == 1 else f"{entry.name} ({again})"
        labels.append(Label(place, name, kind, synonyms=tuple(one for one in entry.synonyms if one != name)))
    return LabelSystem(labels)


def read_system(source: str, *, kind_of: Callable[[str], str]) -> LabelSystem:
    """A label system from its own JSON, whole, or from any list.

    Args:
        source: path or URI of the file, or a list that `read_list` knows.
        kind_of: the kind of a name that comes without one.

    Raises:
        ValueError: as `read_list` and `LabelSystem.from_json`.
    """
    if source.lower().endswith(".json"):
        text = read_text(source, what="the label system", max_bytes=512_000_000)
        if '"labels"' in text[:1000]:
            return LabelSystem.from_json(text)
    return to_system(read_list(source), kind_of=kind_of)


def to_csv(system: LabelSystem) -> str:
    """The system as CSV, a line a label; `read_list` of it gives the names back."""
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(_CSV_COLUMNS)
    for one in system.labels:
        lists = (_BETWEEN.join(part) for part in (one.synonyms, one.ambiguous, one.read_as))
        writer.writerow([one.id, one.name, one.kind, one.count, "" if one.threshold is None else one.threshold, *lists])
    return out.getvalue()


def _from_json(source: str, text: str) -> list[Entry]:
    try:
        tree: Any = json.loads(text)
        if isinstance(tree, dict):
            tree = tree["labels"] if "labels" in tree else tree["categories"]
        return [_entry(source, one) if isinstance(one, str) else _json_entry(source, one) for one in tree]
    except (KeyError, TypeError, AttributeError, RecursionError, json.JSONDecodeError) as error:
        raise ValueError(
            f"{source}: neither a label system, nor COCO's categories, nor a list of names ({error!r:.100})"
        ) from None


def _json_entry(source: str, tree: dict[str, Any]) -> Entry:
    entry = _entry(source, tree["name"])
    synonyms = tuple(plain(str(one)) for one in tree.get("synonyms", ()))
    return Entry(entry.name, (*entry.synonyms, *synonyms), tree.get("kind") or entry.kind)


def _from_csv(source: str, text: str) -> list[Entry]:
    try:
        rows = [row for row in csv.reader(io.StringIO(text)) if any(cell.strip() for cell in row)]
    except csv.Error as error:
        raise ValueError(f"{source}: cannot be read as CSV: {error}") from None
    if not rows:
        return []
    head = [cell.strip().lower() for cell in rows[0]]
    column = next((head.index(name) for name in _NAME_COLUMNS if name in head), None)
    if column is None:  # no header: the first column that is neither a machine id nor a number
        column = next((place for place, cell in enumerate(rows[0]) if _is_name(cell)), 0)
    else:
        rows = rows[1:]
    kinds = head.index("kind") if "kind" in head else None
    others = head.index("synonyms") if "synonyms" in head else None
    entries = []
    for number, row in enumerate(rows, 1):
        if len(row) <= column:
            raise ValueError(f"{source}: row {number} has {len(row)} columns, the names are in column {column + 1}")
        entry = _entry(source, row[column])
        more = row[others].split(";") if others is not None else ()
        kind = row[kinds].strip().lower() if kinds is not None else entry.kind
        if kind is not None and kind not in KINDS:
            raise ValueError(f"{source}: row {number} has the kind {kind!r}; use one of {', '.join(KINDS)}")
        entries.append(Entry(entry.name, (*entry.synonyms, *(plain(one) for one in more if one.strip())), kind))
    return entries


def _is_name(cell: str) -> bool:
    cell = cell.strip()
    return bool(cell) and not cell.startswith("/") and not cell.replace(".", "").isdigit()


def _entry(source: str, text: str) -> Entry:
    """Read "building;edifice" as an entry with a synonym."""
    kind, _ = split_kind(text)
    name, *synonyms = [
        plain(part) for part in (text.partition(":")[2] if kind else text).split(";") if part.strip()
    ] or [""]
    if not name or len(text) > 10 * MAX_NAME:
        raise ValueError(f"{source}: {text[:40]!r} is not a name")
    return Entry(name, tuple(synonyms), kind)
