"""What a build of the label system merged and dropped, and why: for people and for the page.

Bounded: all drops are counted, the most frequent of each reason are listed.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

from ram_ray.labels.names import Key

Dropped = Literal["stop list", "edit", "kind", "rare", "misread", "few sources", "over max_labels", "not listed"]
REASONS: dict[str, str] = {
    "stop list": "on the stop list",
    "edit": "dropped by hand",
    "kind": "of a kind that was not asked for",
    "rare": "named by fewer than labels.min_count captions",
    "misread": "nearly always means another kind (labels.min_share)",
    "few sources": "named by fewer than labels.min_sources sources",
    "over max_labels": "less frequent than the last label",
    "not listed": "not in the ready list that the run was given",
}
HOW: dict[str, str] = {
    "edit": "by hand",
    "file": "the user's synonym file",
    "spelling": "spelling",
    "compound": "one word or two",
    "table": "the shipped table",
    "inflection": "inflection",
    "wordnet": "same main sense in WordNet",
    "embedding": "nearest in the embeddings",
}
MAX_DROPPED = 300  # listed for each reason


@dataclass
class BuildReport:
    """The story of one build; `labels` are in the order of ids."""

    version: str = ""
    num_names: int = 0  # different (name, kind) that were counted
    labels: list[dict[str, Any]] = field(default_factory=list)
    num_dropped: dict[str, int] = field(default_factory=dict)  # by reason
    dropped: list[dict[str, Any]] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    captions: dict[str, int] = field(default_factory=dict)  # read, of each source
    _all: dict[str, list[tuple[int, Key]]] = field(default_factory=dict, repr=False)

    def add_label(
        self,
        name: Key,
        *,
        sources: Mapping[str, int],
        counts: Mapping[Key, Mapping[str, int]],
        reasons: Mapping[Key, tuple[Key, str]],
    ) -> None:
        """Note a label: where it was named, and which names it took in, from which other name, and how.

        Args:
            name: and kind of the label.
            sources: captions by source.
            counts: of all names.
            reasons: name that was taken in -> the name that it was joined to, and how.
        """
        merged = [
            {"name": one[0], "count": sum(counts.get(one, {}).values()), "with": near[0], "how": how}
            for one, (near, how) in reasons.items()
        ]
        merged.sort(key=lambda one: (-int(str(one["count"])), str(one["name"])))
        self.labels.append({"name": name[0], "kind": name[1], "sources": dict(sources), "merged": merged})

    def add_evidence(self, evidence: Mapping[int, Any]) -> None:
        """Note what captions say of each label (`counts.Evidence` by id): examples, and how far its words are clear."""
        for id, label in enumerate(self.labels):
            one = evidence.get(id)
            label["examples"] = list(one.examples) if one else []
            label["words"] = {name: list(pair) for name, pair in sorted(one.names.items())} if one else {}

    def drop(self, name: Key, count: int, reason: Dropped) -> None:
        """Note a name that becomes neither label nor synonym."""
        self._all.setdefault(reason, []).append((-count, name))

    def finish(self) -> None:
        """Sort what was dropped, and keep the most frequent."""
        self.num_dropped = {reason: len(names) for reason, names in sorted(self._all.items())}
        for reason in sorted(self._all):
            for negative, (name, kind) in sorted(self._all[reason])[:MAX_DROPPED]:
                self.dropped.append({"name": name, "kind": kind, "count": -negative, "reason": reason})
        self._all = {}

    @property
    def merges(self) -> Counter[str]:
        """How many names were merged, by how."""
        return Counter(one["how"] for label in self.labels for one in label.get("merged", ()))

    def to_json(self) -> str:
        """The report as JSON text; equal builds give equal bytes."""
        tree = {name: value for name, value in asdict(self).items() if name != "_all"}
        return json.dumps(tree, indent=1, ensure_ascii=False)

    @classmethod
    def from_json(cls, text: str) -> BuildReport:
        """Read what `to_json` wrote.

        Raises:
            ValueError: if the text is not such a report.
        """
        try:
            return cls(**json.loads(text))
        except (TypeError, json.JSONDecodeError) as error:
            raise ValueError(f"this is not a label report: {error}") from None
