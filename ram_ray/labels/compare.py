"""Two label systems beside each other: what was added, removed, renamed and merged; and how alike two builds are."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from ram_ray.label_system import Label, LabelSystem


@dataclass(frozen=True)
class Diff:
    """From an old version to a new one; names are written "kind:name", in the order of the ids that they had."""

    old: str  # versions
    new: str
    added: tuple[str, ...]
    removed: tuple[str, ...]
    merged: tuple[tuple[str, str], ...]  # an old label -> the new one that took it in as a synonym
    split: tuple[tuple[str, str], ...]  # a new label -> the old one whose synonym it was
    renamed: tuple[tuple[str, str], ...]  # old name -> new name of the same group
    synonyms: tuple[tuple[str, tuple[str, ...], tuple[str, ...]], ...]  # label -> synonyms gained, and lost

    @property
    def empty(self) -> bool:
        """True if both mean the same."""
        return self.old == self.new

    def to_dict(self) -> dict[str, Any]:
        """As JSON takes it."""
        return asdict(self)


def diff(old: LabelSystem, new: LabelSystem) -> Diff:
    """What changed from `old` to `new`."""
    old_names, new_names = {_key(one): one for one in old.labels}, {_key(one): one for one in new.labels}
    merged, renamed, removed = [], [], []
    for key, label in old_names.items():
        if key in new_names:
            continue
        id = new.find(label.name, label.kind)
        if id is None:
            removed.append(key)
        elif new[id].name in label.synonyms and _key(new[id]) not in old_names:
            renamed.append((key, _key(new[id])))
        else:
            merged.append((key, _key(new[id])))
    fresh = {to for _, to in renamed}
    split, added = [], []
    for key, label in new_names.items():
        if key in old_names or key in fresh:
            continue
        id = old.find(label.name, label.kind)
        if id is None:
            added.append(key)
        else:
            split.append((key, _key(old[id])))
    changed = []
    for key, label in new_names.items():
        if key in old_names:
            before, after = set(old_names[key].synonyms), set(label.synonyms)
            if before != after:
                changed.append((key, tuple(sorted(after - before)), tuple(sorted(before - after))))
    return Diff(
        old.version,
        new.version,
        tuple(added),
        tuple(removed),
        tuple(merged),
        tuple(split),
        tuple(renamed),
        tuple(changed),
    )


def agreement(one: LabelSystem, other: LabelSystem, *, top: int) -> tuple[float, float]:
    """Share of the first `top` labels of `one` that are among the first `top` of `other`.

    Args:
        one: labels, most frequent first.
        other: labels, most frequent first.
        top: how many labels are compared.

    Returns:
        by name and kind alone; and by meaning, where a synonym of the other's label counts as well.
    """
    first, second = one.labels[:top], other.labels[:top]
    if not first:
        return 0.0, 0.0
    names = {_key(label) for label in second}
    ids = {label.id for label in second}
    same = sum(_key(label) in names for label in first)
    meant = sum(_found(label, other, ids) for label in first)
    return same / len(first), meant / len(first)


def _found(label: Label, system: LabelSystem, ids: set[int]) -> bool:
    return any(system.find(name, label.kind) in ids for name in (label.name, *label.synonyms))


def _key(label: Label) -> str:
    return f"{label.kind}:{label.name}"


def say(change: Diff, *, most: int = 20) -> str:
    """A diff as text, with at most `most` names of each sort."""
    lines = [f"{change.old} -> {change.new}" + (", the same" if change.empty else "")]
    parts: list[tuple[str, Sequence[str]]] = [
        ("added", change.added),
        ("removed", change.removed),
        ("merged", [f"{name} into {into}" for name, into in change.merged]),
        ("split", [f"{name} from {of}" for name, of in change.split]),
        ("renamed", [f"{name} to {to}" for name, to in change.renamed]),
        ("synonyms", [_say_synonyms(*one) for one in change.synonyms]),
    ]
    for what, names in parts:
        if names:
            more = f", and {len(names) - most:,} more" if len(names) > most else ""
            lines.append(f"{what} ({len(names):,}): {', '.join(names[:most])}{more}")
    return "\n".join(lines)


def _say_synonyms(name: str, gained: Sequence[str], lost: Sequence[str]) -> str:
    return f"{name} ({', '.join([*(f'+{one}' for one in gained), *(f'-{one}' for one in lost)])})"
