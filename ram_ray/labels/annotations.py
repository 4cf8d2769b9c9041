"""Parsed rows to annotations: parsed names, and names matched in a caption's text, become ids of the label system.

Human labels become tags where `data.human_labels` says so (`human_labels`), and the truth elsewhere.

Where the run measures its data engine (`data.hidden_captions`), the tags of hidden captions become the ground truth
here, and false tags are planted. Hidden captions are processed like training captions and are then dropped.
"""

from __future__ import annotations

import pyarrow as pa

from ram_ray.captions.tables import load_lemmas
from ram_ray.config import RunConfig
from ram_ray.label_system import LabelSystem
from ram_ray.labels.human_labels import HumanLabels
from ram_ray.labels.match import MATCHED, Matcher, TagFinder
from ram_ray.labels.match import PARSED as BY_PARSE
from ram_ray.labels.parsed_rows import parsed_captions
from ram_ray.labels.planted import Planter
from ram_ray.records import ANNOTATION, PARSED, Row, to_table
from ram_ray.settings.data import LabelSet, MeasureConfig
from ram_ray.settings.section import Section, StageSettings


class Measurement(Section):
    """To measure the data engine: the tags of all captions become the truth, and false tags are planted."""

    measure: MeasureConfig
    seed: int


class LabelSettings(StageSettings):
    """All that the annotations depend on, beside the parsed rows and the label system."""

    match: bool
    max_caption_chars: int
    human_labels: tuple[LabelSet, ...] = ()  # those that are trained on
    measurement: Measurement | None = None

    @classmethod
    def from_config(cls, config: RunConfig, *, held_out: bool) -> LabelSettings:
        """Take the settings out of the configuration of the run.

        Args:
            config: of the run.
            held_out: whether the images are not trained on: then human labels are the truth, and nothing is measured.

        Returns:
            The settings.
        """
        measured = config.data.measure.is_enabled and not held_out
        return cls(
            match=config.labels.match,
            max_caption_chars=config.labels.max_caption_chars,
            human_labels=() if held_out else config.data.label_sets,
            measurement=Measurement(measure=config.data.measure, seed=config.seed) if measured else None,
        )


class Labeller:
    """`records.PARSED` rows to `records.ANNOTATION` rows.

    Args:
        labels: the label system of the ids.
        settings: of the stage.
        vocabularies: label ids of each set of `settings.human_labels`, see `human_labels.vocabularies`.
    """

    def __init__(
        self, labels: LabelSystem, settings: LabelSettings, vocabularies: tuple[frozenset[int], ...] = ()
    ) -> None:
        self._find_tags, self._labels = make_finder(labels, settings), labels
        self._human = HumanLabels(settings.human_labels, vocabularies)
        measurement = settings.measurement
        self._is_measured = measurement is not None
        self._planter: Planter | None = None
        if measurement and measurement.measure.planted:
            self._planter = Planter(labels, share=measurement.measure.planted, seed=measurement.seed)

    @classmethod
    def load(cls, uri: str, settings: LabelSettings, vocabularies: tuple[frozenset[int], ...] = ()) -> Labeller:
        """Make a labeller with the label system at `uri`.

        Args:
            uri: of the label system.
            settings: of the stage.
            vocabularies: as for the class.

        Returns:
            The labeller.
        """
        return cls(LabelSystem.load(uri), settings, vocabularies)

    def __call__(self, block: pa.Table) -> pa.Table:
        """Annotate a block.

        Args:
            block: PARSED rows.

        Returns:
            A table of ANNOTATION rows, one for each row of the block.
        """
        annotations = to_annotations(block, self._find_tags, self._labels, human=self._human)
        return self._measure(block, annotations) if self._is_measured else annotations

    def _measure(self, block: pa.Table, annotations: pa.Table) -> pa.Table:
        """Write the tags of all captions as ground truth where human labels are missing; then plant false tags."""
        hidden_tags = to_annotations(select_hidden(block), self._find_tags, self._labels)["tags"].to_pylist()
        rows = annotations.to_pylist()
        for row, hidden in zip(rows, hidden_tags, strict=True):
            mentioned = dict.fromkeys(tag["id"] for tag in [*row["tags"], *hidden])
            if row["truth"] is None:
                row["truth"] = list(mentioned)
            if self._planter:
                self._planter.plant(row, true_ids={*mentioned, *row["truth"], *row["absent"]})
        return to_table(rows, ANNOTATION)


def make_finder(labels: LabelSystem, settings: LabelSettings) -> TagFinder:
    """Make the function that finds a caption's tags: in the parse, and in the text if `labels.match` is set.

    Args:
        labels: the label system of the ids.
        settings: of the stage.

    Returns:
        A callable from a caption's text and parsed names to ids and their sources.
    """
    matcher = Matcher(labels, load_lemmas(), max_chars=settings.max_caption_chars) if settings.match else None
    return TagFinder(labels, matcher)


def to_annotations(
    block: pa.Table, find_tags: TagFinder, labels: LabelSystem, *, human: HumanLabels | None = None
) -> pa.Table:
    """`records.PARSED` rows to `records.ANNOTATION` rows; names in captions outside the label system are omitted.

    A tag of the image has the origin "human" if a person listed it, else "parsed" if the parser found it in any caption
    or it came with the data for a caption, else "matched"; a tag that came with the data for no caption has "tagger".

    Args:
        block: PARSED rows.
        find_tags: finds a caption's tags.
        labels: the label system of the ids.
        human: the sets whose human labels are trained on; None: all are for scoring alone.

    Returns:
        A table of ANNOTATION rows, one for each row of the block.

    Raises:
        ValueError: if a tag that came with the data is not in the label system.
    """
    human = human or HumanLabels()
    rows = []
    for row in block.to_pylist():
        captions: list[Row] = []
        origins: dict[int, str] = {}  # of the image's tags, by label id
        parsed = parsed_captions(row)
        given_ids = _given_ids(row, labels)
        for index, caption in enumerate(parsed):
            ids, sources = find_tags("" if caption.rejected else caption.text, caption.names)
            added = [id for id in given_ids.pop(index, ()) if id not in ids]
            ids, sources = [*ids, *added], [*sources, *[BY_PARSE] * len(added)]
            captions.append({"text": caption.text, "origin": "original", "tags": ids, "sources": sources})
            for id, source in zip(ids, sources, strict=True):
                if source != MATCHED or id not in origins:
                    origins[id] = MATCHED if source == MATCHED else BY_PARSE
        for id in given_ids.get(None, ()):
            origins.setdefault(id, "tagger")
        annotation = {name: row[name] for name in ANNOTATION.names if name in row}
        tags = [{"id": id, "origin": origin, "score": 1.0} for id, origin in origins.items()]
        annotation |= {"captions": captions, "tags": tags, "removed": []}
        human.apply(row, annotation, labels, has_captions=any(not caption.rejected for caption in parsed))
        rows.append(annotation)
    return to_table(rows, ANNOTATION)


def _given_ids(row: Row, labels: LabelSystem) -> dict[int | None, list[int]]:
    """Index of a caption, or None for no caption -> ids of the tags that came with the data."""
    ids: dict[int | None, list[int]] = {}
    for tag in row["given_tags"] or ():
        if tag["id"] >= len(labels):
            raise ValueError(
                f"{row['key']} has the label id {tag['id']}, and labels.system has {len(labels)} labels; set it to the "
                f"list that the ids of {row['shard']} are of"
            )
        ids.setdefault(tag["caption"], []).append(tag["id"])
    return ids


def select_hidden(block: pa.Table) -> pa.Table:
    """Replace the training captions of each row by its hidden captions.

    Args:
        block: PARSED rows.

    Returns:
        A table of PARSED rows, one for each row of the block.
    """
    rows = [
        {**row, "captions": row["hidden_captions"] or [], "parsed": row["parsed_hidden"] or [], "rejected_captions": []}
        for row in block.to_pylist()
    ]
    return to_table(rows, PARSED)
