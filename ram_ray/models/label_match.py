"""Which labels of a bundle are labels of a run: matched by name, then by synonym.

A released model has a list of names without kinds ("red" is an object there), and a run's label system has kinds. So
kinds are compared only where the bundle's labels have several of them. A label of the bundle is matched once: of two
labels of the run, the one with its name gets it.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass

from ram_ray.label_system import Label, LabelSystem

MATCH_FILE = "label_match.json"  # in a model's folder


@dataclass(frozen=True)
class LabelMatch:
    """The labels of a run beside those of a bundle."""

    bundle_ids: tuple[int | None, ...]  # for each label of the run, the id in the bundle; None: a new label
    by_synonym: frozenset[int]  # ids in the run
    dropped: tuple[int, ...]  # ids in the bundle

    @property
    def kept(self) -> list[int]:
        """Ids in the run of the labels that the bundle has."""
        return [id for id, bundle_id in enumerate(self.bundle_ids) if bundle_id is not None]

    @property
    def new(self) -> list[int]:
        """Ids in the run of the labels that the bundle does not have."""
        return [id for id, bundle_id in enumerate(self.bundle_ids) if bundle_id is None]

    def to_json(self, bundle: LabelSystem, labels: LabelSystem) -> str:
        """List the names of all labels, for a reader, and the ids of those that are kept, for `read_kept`.

        Args:
            bundle: labels of the bundle.
            labels: labels of the run.

        Returns:
            JSON text.
        """
        renamed = {labels[id].name: bundle[self.bundle_ids[id] or 0].name for id in sorted(self.by_synonym)}
        return json.dumps(
            {
                "kept_ids": self.kept,
                "by_synonym": renamed,
                "new": [labels[id].name for id in self.new],
                "dropped": [bundle[id].name for id in self.dropped],
            },
            indent=1,
        )


def read_kept(text: str) -> list[int]:
    """Read the ids of the kept labels.

    Args:
        text: of `LabelMatch.to_json`.

    Returns:
        Ids in the run.
    """
    return [int(id) for id in json.loads(text)["kept_ids"]]


def match_labels(bundle: LabelSystem, labels: LabelSystem) -> LabelMatch:
    """Match the labels of a run with those of a bundle.

    Args:
        bundle: labels of the bundle.
        labels: labels of the run.

    Returns:
        The match.
    """
    has_kinds = len({label.kind for label in bundle.labels}) > 1
    by_name: dict[tuple[str, str], int] = {}
    by_any_name: dict[tuple[str, str], int] = {}

    def key(kind: str, name: str) -> tuple[str, str]:
        return (kind if has_kinds else "", _normalise(name))

    for label in bundle.labels:
        by_name.setdefault(key(label.kind, label.name), label.id)
        for name in (label.name, *label.synonyms):
            by_any_name.setdefault(key(label.kind, name), label.id)
    matched: dict[int, int] = {}  # id in the run -> id in the bundle
    free = set(range(len(bundle)))

    def take(label: Label, candidates: Iterable[int | None]) -> None:
        found = next((id for id in candidates if id in free), None)
        if found is not None:
            matched[label.id] = found
            free.discard(found)

    for label in labels.labels:
        take(label, [by_name.get(key(label.kind, label.name))])
    same_name = set(matched)
    for label in labels.labels:
        if label.id not in matched:
            take(label, [by_any_name.get(key(label.kind, name)) for name in (label.name, *label.synonyms)])
    bundle_ids = tuple(matched.get(label.id) for label in labels.labels)
    return LabelMatch(bundle_ids, frozenset(matched.keys() - same_name), tuple(sorted(free)))


def _normalise(name: str) -> str:
    return " ".join(name.replace("_", " ").lower().split())
