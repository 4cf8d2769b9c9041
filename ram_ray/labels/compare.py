"""Compares two label systems: added, removed, renamed and merged labels, and the agreement of two builds."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass

from ram_ray.label_system import Label, LabelSystem
from ram_ray.records import Json


@dataclass(frozen=True)
class Diff:
    """Changes from an old version to a new version; names are written "kind:name", in the order of their ids."""

    old: str  # versions
    new: str
    added: tuple[str, ...]
    removed: tuple[str, ...]
    merged: tuple[tuple[str, str], ...]  # old label -> the new label that has it as a synonym
    split: tuple[tuple[str, str], ...]  # new label -> the old label whose synonym it was
    renamed: tuple[tuple[str, str], ...]  # old name -> new name of the same label
    synonyms: tuple[tuple[str, tuple[str, ...], tuple[str, ...]], ...]  # (label, added synonyms, removed synonyms)

    @property
    def empty(self) -> bool:
        """True if the two versions are equal."""
        return self.old == self.new

    def to_dict(self) -> Json:
        """Convert to a tree for JSON.

        Returns:
            The fields by name.
        """
        return asdict(self)


def diff(old: LabelSystem, new: LabelSystem) -> Diff:
    """List the changes from `old` to `new`.

    Args:
        old: label system.
        new: label system.

    Returns:
        The changes.
    """
    old_names = {_key(label): label for label in old.labels}
    new_names = {_key(label): label for label in new.labels}
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
    new_of_renamed = {new_name for _, new_name in renamed}
    split, added = [], []
    for key, label in new_names.items():
        if key in old_names or key in new_of_renamed:
            continue
        id = old.find(label.name, label.kind)
        if id is None:
            added.append(key)
        else:
            split.append((key, _key(old[id])))
    changed = []
    for key, label in new_names.items():
        if key in old_names:
            old_synonyms, new_synonyms = set(old_names[key].synonyms), set(label.synonyms)
            if old_synonyms != new_synonyms:
                added_synonyms, removed_synonyms = new_synonyms - old_synonyms, old_synonyms - new_synonyms
                changed.append((key, tuple(sorted(added_synonyms)), tuple(sorted(removed_synonyms))))
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


def agreement(first: LabelSystem, second: LabelSystem, *, top: int) -> tuple[float, float]:
    """Share of the first `top` labels of `first` that are among the first `top` labels of `second`.

    Args:
        first: labels, most frequent first.
        second: labels, most frequent first.
        top: number of labels that are compared.

    Returns:
        Two shares, 0 to 1: labels with equal name and kind; labels that have a name or synonym in common.
    """
    labels, others = first.labels[:top], second.labels[:top]
    if not labels:
        return 0.0, 0.0
    names = {_key(other) for other in others}
    ids = {other.id for other in others}
    num_equal = sum(_key(label) in names for label in labels)
    num_matched = sum(_shares_name(label, second, ids) for label in labels)
    return num_equal / len(labels), num_matched / len(labels)


def _shares_name(label: Label, system: LabelSystem, ids: set[int]) -> bool:
    return any(system.find(name, label.kind) in ids for name in (label.name, *label.synonyms))


def _key(label: Label) -> str:
    return f"{label.kind}:{label.name}"


def format_diff(change: Diff, *, max_names: int = 20) -> str:
    """Format a diff for a terminal.

    Args:
        change: the diff.
        max_names: the most names that are written of each type of change.

    Returns:
        Text with a line for each type of change.
    """
    lines = [f"{change.old} -> {change.new}" + (", the same" if change.empty else "")]
    parts: list[tuple[str, Sequence[str]]] = [
        ("added", change.added),
        ("removed", change.removed),
        ("merged", [f"{old} into {new}" for old, new in change.merged]),
        ("split", [f"{new} from {old}" for new, old in change.split]),
        ("renamed", [f"{old} to {new}" for old, new in change.renamed]),
        ("synonyms", [_format_synonyms(*synonyms) for synonyms in change.synonyms]),
    ]
    for title, names in parts:
        if names:
            rest = f", and {len(names) - max_names:,} more" if len(names) > max_names else ""
            lines.append(f"{title} ({len(names):,}): {', '.join(names[:max_names])}{rest}")
    return "\n".join(lines)


def _format_synonyms(name: str, added: Sequence[str], removed: Sequence[str]) -> str:
    return f"{name} ({', '.join([*(f'+{synonym}' for synonym in added), *(f'-{synonym}' for synonym in removed)])})"
