"""Takes held-out labels out of annotations (`hold_out`): their tags go, other labels get the ids of the rest."""

from __future__ import annotations

from collections.abc import Sequence

import pyarrow as pa

from ram_ray.captions.tables import load_lemmas
from ram_ray.label_system import LabelSystem
from ram_ray.labels.annotations import Labeller, LabelSettings
from ram_ray.labels.match import Lemma, Matcher
from ram_ray.records import ANNOTATION, Row, to_table

_ID_COLUMNS = ("tags", "removed")  # structs with an id


class HeldOutRemover:
    """Removes the tags of held-out labels, and with `drop_captions` the captions that name one.

    A caption names a label if the label is among its tags, or its words are the label's name.

    Args:
        all_labels: of the ids in the rows.
        rest: without the held-out labels.
        held_out: these, and pairs of an attribute and a noun.
        drop_captions: whether captions that name one go; their other tags stay with the image.
        lemma: dictionary forms.
        max_chars: most characters of a caption that are read.
    """

    def __init__(
        self,
        all_labels: LabelSystem,
        rest: LabelSystem,
        held_out: LabelSystem,
        *,
        drop_captions: bool,
        lemma: Lemma,
        max_chars: int,
    ) -> None:
        gone = {(label.kind, label.name) for label in held_out.labels}
        stay = [label.id for label in all_labels.labels if (label.kind, label.name) not in gone]
        assert len(stay) == len(rest)
        self._new_ids = {id: new for new, id in enumerate(stay)}
        self._matcher = Matcher(held_out, lemma, max_chars=max_chars, include_ambiguous=True) if drop_captions else None

    def __call__(self, annotations: pa.Table) -> pa.Table:
        """Remove the held-out labels of a block.

        Args:
            annotations: ANNOTATION rows.

        Returns:
            ANNOTATION rows, as many.
        """
        return to_table([self._remove(row) for row in annotations.to_pylist()], ANNOTATION)

    def _remove(self, row: Row) -> Row:
        for name in _ID_COLUMNS:
            row[name] = [{**tag, "id": self._new_ids[tag["id"]]} for tag in row[name] or () if self._stays(tag["id"])]
        row["absent"] = self._map(row["absent"] or ())
        row["truth"] = None if row["truth"] is None else self._map(row["truth"])
        captions = row["captions"] or []
        if self._matcher:
            captions = [caption for caption in captions if not self._names_one(caption)]
        row["captions"] = [self._without(caption) for caption in captions]
        return row

    def _stays(self, id: int) -> bool:
        return id in self._new_ids

    def _map(self, ids: Sequence[int]) -> list[int]:
        return [self._new_ids[id] for id in ids if self._stays(id)]

    def _names_one(self, caption: Row) -> bool:
        assert self._matcher is not None
        return any(not self._stays(id) for id in caption["tags"]) or bool(self._matcher.find(caption["text"]))

    def _without(self, caption: Row) -> Row:
        pairs = [
            (id, source) for id, source in zip(caption["tags"], caption["sources"], strict=True) if self._stays(id)
        ]
        return {**caption, "tags": self._map(caption["tags"]), "sources": [source for _, source in pairs]}


class HoldingOutLabeller:
    """`records.PARSED` rows to `records.ANNOTATION` rows without held-out labels.

    Args:
        labeller: annotates with all labels.
        remover: removes the held-out ones.
    """

    def __init__(self, labeller: Labeller, remover: HeldOutRemover) -> None:
        self._labeller, self._remover = labeller, remover

    @classmethod
    def load(
        cls,
        all_uri: str,
        rest_uri: str,
        held_out_uri: str,
        settings: LabelSettings,
        vocabularies: tuple[frozenset[int], ...],
        *,
        drop_captions: bool,
    ) -> HoldingOutLabeller:
        """Make a labeller.

        Args:
            all_uri: of the label system with the held-out labels.
            rest_uri: of that without them.
            held_out_uri: of these.
            settings: of the stage `labels`.
            vocabularies: as of `Labeller`, with ids of all labels.
            drop_captions: whether captions that name a held-out label go.

        Returns:
            The labeller.
        """
        systems = [LabelSystem.load(uri) for uri in (all_uri, rest_uri, held_out_uri)]
        remover = HeldOutRemover(
            *systems, drop_captions=drop_captions, lemma=load_lemmas(), max_chars=settings.max_caption_chars
        )
        return cls(Labeller(systems[0], settings, vocabularies), remover)

    def __call__(self, block: pa.Table) -> pa.Table:
        """Annotate a block.

        Args:
            block: PARSED rows.

        Returns:
            ANNOTATION rows, one for each row of the block.
        """
        return self._remover(self._labeller(block))
