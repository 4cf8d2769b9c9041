"""The report of a build of the label system: merged and dropped names with their reasons.

All dropped names are counted; only the most frequent names of each reason are listed.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Literal

from ram_ray.labels.evidence import Evidence
from ram_ray.labels.names import Key
from ram_ray.records import Json

DropReason = Literal[
    "stop list",
    "boilerplate",
    "name",
    "edit",
    "kind",
    "rare",
    "misread",
    "few sources",
    "over max_labels",
    "not listed",
]
DROP_REASONS: dict[str, str] = {  # texts of the page
    "stop list": "on the stop list",
    "boilerplate": "on the shipped list of boilerplate (labels.boilerplate), with its section",
    "name": "mostly written with a capital inside sentences (labels.max_capitals), with the share",
    "edit": "dropped by an edit",
    "kind": "of a kind that is not in labels.kinds",
    "rare": "mentioned by fewer than labels.min_count captions",
    "misread": "nearly always parsed as another kind (labels.min_share)",
    "few sources": "mentioned by fewer than labels.min_sources sources",
    "over max_labels": "less frequent than the last label",
    "not listed": "not in the list of labels.system",
}
MERGE_REASONS: dict[str, str] = {  # texts of the page for the reasons of merges
    "edit": "an edit",
    "file": "the user's synonym file",
    "spelling": "spelling",
    "compound": "spaces and hyphens",
    "table": "the shipped table",
    "inflection": "inflection",
    "wordnet": "the same main sense in WordNet",
    "embedding": "mutual nearest embeddings",
}
MAX_DROPPED = 300  # names that are listed for each reason


@dataclass
class BuildReport:
    """Merged and dropped names of a build; `labels` are in the order of their ids."""

    version: str = ""
    num_names: int = 0  # number of different (name, kind) that were counted
    labels: list[Json] = field(default_factory=list)
    num_dropped: dict[str, int] = field(default_factory=dict)  # reason -> names
    dropped: list[Json] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    captions: dict[str, int] = field(default_factory=dict)  # source -> captions
    _all_dropped: dict[str, list[tuple[int, Key, str]]] = field(default_factory=dict, repr=False)

    def add_label(
        self,
        name: Key,
        *,
        sources: Mapping[str, int],
        counts: Mapping[Key, Mapping[str, int]],
        reasons: Mapping[Key, tuple[Key, str]],
    ) -> None:
        """Add a label, with the names that merged into it.

        Args:
            name: name and kind of the label.
            sources: source -> captions that mention the label.
            counts: name and kind -> source -> captions, of all names.
            reasons: merged name -> (the name that it was merged with, reason), as `Groups.reasons`.
        """
        merged = [
            {"name": key[0], "count": sum(counts.get(key, {}).values()), "with": other[0], "how": reason}
            for key, (other, reason) in reasons.items()
        ]
        merged.sort(key=lambda merge: (-int(str(merge["count"])), str(merge["name"])))
        self.labels.append({"name": name[0], "kind": name[1], "sources": dict(sources), "merged": merged})

    def add_evidence(self, evidence: Mapping[int, Evidence]) -> None:
        """Add the examples of each label, and its counts of matched words and of those where the parse agrees.

        Args:
            evidence: label id -> `evidence.Evidence`.
        """
        for id, label in enumerate(self.labels):
            label_evidence = evidence.get(id)
            label["examples"] = list(label_evidence.examples) if label_evidence else []
            counts = sorted(label_evidence.names.items()) if label_evidence else []
            label["words"] = {name: list(pair) for name, pair in counts}

    def drop(self, name: Key, count: int, reason: DropReason, detail: str = "") -> None:
        """Add a name that becomes neither label nor synonym.

        Args:
            name: name and kind.
            count: captions that mention it.
            reason: for the drop.
            detail: what the reason refers to.
        """
        self._all_dropped.setdefault(reason, []).append((-count, name, detail))

    def finish(self) -> None:
        """Count the dropped names, and list the most frequent of each reason."""
        self.num_dropped = {reason: len(names) for reason, names in sorted(self._all_dropped.items())}
        for reason in sorted(self._all_dropped):
            for negative_count, (name, kind), detail in sorted(self._all_dropped[reason])[:MAX_DROPPED]:
                row = {"name": name, "kind": kind, "count": -negative_count, "reason": reason}
                self.dropped.append({**row, "detail": detail} if detail else row)
        self._all_dropped = {}

    @property
    def merges(self) -> Counter[str]:
        """Reason -> number of merged names."""
        return Counter(merge["how"] for label in self.labels for merge in label.get("merged", ()))

    def to_json(self) -> str:
        """Write the report as JSON.

        Returns:
            JSON text; equal builds give equal bytes.
        """
        tree = {name: value for name, value in asdict(self).items() if name != "_all_dropped"}
        return json.dumps(tree, indent=1, ensure_ascii=False)

    @classmethod
    def from_json(cls, text: str) -> BuildReport:
        """Read the text that `to_json` wrote.

        Args:
            text: JSON.

        Returns:
            The report.

        Raises:
            ValueError: if the text is not a report.
        """
        try:
            return cls(**json.loads(text))
        except (TypeError, json.JSONDecodeError) as error:
            raise ValueError(f"this is not a label report: {error}") from None
