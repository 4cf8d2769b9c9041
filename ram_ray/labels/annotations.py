"""Parsed rows to annotations: a caption's names, and names found in its text, to ids of the label system.

Where the run measures its data engine (`ram_ray.data.measure`), the hidden captions' tags become the truth here, and
false tags are planted: hidden captions are read in the same way as those trained on, and go no further.
"""

from __future__ import annotations

from typing import Any

import pyarrow as pa

from ram_ray.captions.tables import load_lemmas
from ram_ray.data.ground_truth import truth_ids
from ram_ray.label_system import LabelSystem
from ram_ray.labels.match import MATCHED, Matcher, TagFinder
from ram_ray.labels.parsed import parsed_captions
from ram_ray.labels.planted import Planter, truth_names
from ram_ray.records import ANNOTATION, PARSED, to_table
from ram_ray.settings.data import MeasureConfig
from ram_ray.settings.labels import LabelsConfig


class Labeller:
    """`records.PARSED` rows to `records.ANNOTATION` rows.

    Args:
        labels: the label system that ids are of.
        config: section `labels`.
        measure: what is planted and hidden to measure the data engine; None: nothing.
        seed: of what is planted.
    """

    def __init__(
        self, labels: LabelSystem, config: LabelsConfig, *, measure: MeasureConfig | None = None, seed: int = 0
    ) -> None:
        self._find, self._labels = make_finder(labels, config), labels
        self._measured = measure is not None and measure.on
        self._planter = Planter(labels, share=measure.planted, seed=seed) if measure and measure.planted else None

    @classmethod
    def load(cls, uri: str, config: LabelsConfig, *, measure: MeasureConfig, seed: int) -> Labeller:
        """One with the label system at `uri`.

        Args:
            uri: of the label system.
            config: section `labels`.
            measure: what is planted and hidden to measure the data engine.
            seed: of what is planted.
        """
        return cls(LabelSystem.load(uri), config, measure=measure, seed=seed)

    def __call__(self, block: pa.Table) -> pa.Table:
        """ANNOTATION rows of a block of PARSED rows."""
        found = to_annotations(block, self._find)
        return self._measure(block, found) if self._measured else found

    def _measure(self, block: pa.Table, found: pa.Table) -> pa.Table:
        """The tags of all captions become the truth, where there are no human labels; then false ones are planted."""
        hidden = to_annotations(unseen_captions(block), self._find)["tags"].to_pylist()
        rows = found.to_pylist()
        for row, unseen in zip(rows, hidden, strict=True):
            said = dict.fromkeys(tag["id"] for tag in [*row["tags"], *unseen])
            true = set(said) | (truth_ids(row["labels"], None, self._labels)[0] or set())
            if row["labels"] is None:
                row["labels"] = truth_names(list(said), self._labels)
            if self._planter:
                self._planter.plant(row, true=true)
        return to_table(rows, ANNOTATION)


def make_finder(labels: LabelSystem, config: LabelsConfig) -> TagFinder:
    """What finds a caption's labels: from the parse, and by their words where `labels.match` says so."""
    matcher = Matcher(labels, load_lemmas(), max_chars=config.max_caption_chars) if config.match else None
    return TagFinder(labels, matcher)


def to_annotations(block: pa.Table, find: TagFinder) -> pa.Table:
    """`records.PARSED` rows to `records.ANNOTATION` rows; names outside the label system are left out.

    A tag of the picture is "parsed" if the parse gave it in any caption, else "matched".

    Args:
        block: PARSED rows.
        find: finds a caption's labels.
    """
    rows = []
    for row in block.to_pylist():
        captions: list[dict[str, Any]] = []
        union: dict[int, str] = {}
        for caption in parsed_captions(row):
            ids, sources = find("" if caption.unread else caption.text, caption.names)
            captions.append({"text": caption.text, "origin": "original", "tags": ids, "sources": sources})
            for id, source in zip(ids, sources, strict=True):
                if source != MATCHED or id not in union:
                    union[id] = MATCHED if source == MATCHED else "parsed"
        kept = {name: row[name] for name in ANNOTATION.names if name in row}
        origins = [{"id": id, "origin": origin, "score": 1.0} for id, origin in union.items()]
        rows.append({**kept, "captions": captions, "tags": origins, "removed": []})
    return to_table(rows, ANNOTATION)


def unseen_captions(block: pa.Table) -> pa.Table:
    """`records.PARSED` rows with the hidden captions in the place of those trained on."""
    rows = [
        {**row, "captions": row["unseen"] or [], "parsed": row["parsed_unseen"] or [], "unread": []}
        for row in block.to_pylist()
    ]
    return to_table(rows, PARSED)
