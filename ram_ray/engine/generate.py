"""Missing tags: what the model sees in a picture that no caption says (paper, section 3.3, generation).

Two steps, since one wants a GPU and the other does not: `Generator` looks at the pictures, and `CaptionTags`
parses the captions that it wrote and merges everything into the annotations. Between them travel GENERATED rows.

What merging must not lose is where a tag came from. So a tag keeps its first origin (parsed, then generated
caption, then tagger), every round starts from the original captions plus what survived the rounds before, and
a tag that cleaning removed does not come back: it was looked at and judged, and the model that asks for it again has
learnt from the same pictures.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa

from ram_ray.engine.config import GenerateConfig
from ram_ray.label_system import LabelSystem
from ram_ray.labels.match import Matcher, TagFinder
from ram_ray.labels.tables import load_lemmas
from ram_ray.records import ANNOTATION, to_table

if TYPE_CHECKING:
    from ram_ray.inference import Predictor
    from ram_ray.labels.parser import CaptionParser

# Annotations with what the model says of the picture, not yet merged.
GENERATED = pa.schema(
    [
        *ANNOTATION,
        ("generated_caption", pa.string()),  # null where captions are not asked for
        ("tagger_ids", pa.list_(pa.int32())),  # best first
        ("tagger_scores", pa.list_(pa.float32())),  # probabilities
    ]
)


class Generator:
    """Actor: pictures and their annotations -> GENERATED rows.

    A batch holds `pixels` (B, S, S, 3) uint8 and the ANNOTATION columns, as numpy. Rows with a `reason` pass
    through with nothing generated.
    """

    def __init__(
        self,
        bundle_uri: str,
        config: GenerateConfig,
        *,
        device: str | None = None,
        precision: str = "fp32",
        threads: int | None = None,
        predictor: Predictor | None = None,
    ) -> None:
        if predictor is None:
            from ram_ray.inference import Predictor as Loader

            predictor = Loader.from_pretrained(bundle_uri, device=device, precision=precision, threads=threads)
        self.predictor = predictor
        self.config = config

    def __call__(self, batch: Mapping[str, np.ndarray]) -> pa.Table:
        rows = to_rows(batch)
        for row in rows:
            row.update(generated_caption=None, tagger_ids=[], tagger_scores=[])
        good = [place for place, row in enumerate(rows) if not row["reason"]]
        if good:
            self._look(np.stack([batch["pixels"][place] for place in good]), [rows[place] for place in good])
        return to_table(rows, GENERATED)

    def _look(self, pixels: np.ndarray, rows: list[dict[str, Any]]) -> None:
        """Add to the rows what the model says of their pictures; each picture is encoded once."""
        tokens = self.predictor.encode(pixels)
        for row, scores in zip(rows, self.predictor.token_probabilities(tokens), strict=True):
            ids = np.flatnonzero(scores >= self.config.threshold)
            ids = ids[np.argsort(-scores[ids], kind="stable")]
            row.update(tagger_ids=ids.tolist(), tagger_scores=scores[ids].tolist())
        if self.config.captions:
            guides = [[self.predictor.labels[id].name for id in row["tagger_ids"]] for row in rows]
            captions = self.predictor.caption_tokens(tokens, guides, max_tokens=self.config.max_caption_tokens)
            for row, caption in zip(rows, captions, strict=True):
                row["generated_caption"] = caption


class CaptionTags:
    """Actor: GENERATED rows -> merged ANNOTATION rows; parses the generated captions with the run's own parser."""

    def __init__(
        self,
        parser_model: str,
        labels_uri: str,
        *,
        max_caption_chars: int = 1000,
        match: bool = True,
        parser: CaptionParser | None = None,
    ) -> None:
        if parser is None:
            from ram_ray.labels.parser import CaptionParser as Loader

            parser = Loader(parser_model, max_chars=max_caption_chars)
        self.parser = parser
        labels = LabelSystem.load(labels_uri)
        self._find = TagFinder(labels, Matcher(labels, load_lemmas(), max_chars=max_caption_chars) if match else None)

    def __call__(self, table: pa.Table) -> pa.Table:
        rows = table.to_pylist()
        said = [row for row in rows if row["generated_caption"]]
        parsed = self.parser.parse([row["generated_caption"] for row in said]) if said else []
        tags_of = {
            id(row): self._find(row["generated_caption"], tags)[0] for row, tags in zip(said, parsed, strict=True)
        }
        return to_table([self._merged(row, tags_of.get(id(row), [])) for row in rows], ANNOTATION)

    def _merged(self, row: dict[str, Any], caption_ids: list[int]) -> dict[str, Any]:
        caption, ids, scores = (row.pop(name) for name in ("generated_caption", "tagger_ids", "tagger_scores"))
        if row["reason"]:
            return row
        return merge(row, caption=caption, caption_ids=caption_ids, tagger_ids=ids or [], tagger_scores=scores or [])


def merge(
    row: Mapping[str, Any],
    *,
    caption: str | None,
    caption_ids: Sequence[int],
    tagger_ids: Sequence[int],
    tagger_scores: Sequence[float],
) -> dict[str, Any]:
    """One annotation with what the model adds; `row` is not changed.

    Order: the tags that were there, then the generated caption's, then the tagger's. A generated caption of an
    earlier round is replaced (the tags that it gave stay, if they survived); without a new one it is kept.
    """
    captions = [dict(one) for one in row["captions"] or []]
    if caption:
        captions = [one for one in captions if one["origin"] == "original"]
        captions.append({"text": caption, "origin": "generated", "tags": [int(one) for one in caption_ids]})
    tags = [dict(one) for one in row["tags"] or []]
    settled = {tag["id"] for tag in tags} | {one["id"] for one in row["removed"] or []}
    added = [(id, "generated_caption", 1.0) for id in caption_ids]
    added += [(id, "tagger", float(score)) for id, score in zip(tagger_ids, tagger_scores, strict=True)]
    for tag, origin, score in added:
        if tag not in settled:
            settled.add(tag)
            tags.append({"id": int(tag), "origin": origin, "score": score})
    return {**row, "captions": captions, "tags": tags}


def to_rows(batch: Mapping[str, np.ndarray]) -> list[dict[str, Any]]:
    """ANNOTATION rows of a numpy batch as Ray Data gives it; other columns are left out, nulls become None."""
    columns = {name: [plain(one) for one in batch[name]] for name in ANNOTATION.names}
    return [dict(zip(columns, values, strict=True)) for values in zip(*columns.values(), strict=True)]


def plain(value: Any) -> Any:
    """A nested value of a numpy batch in Python's own types; NaN, which stands for a null, becomes None."""
    if isinstance(value, dict):
        return {name: plain(one) for name, one in value.items()}
    if isinstance(value, (list, tuple, np.ndarray)):
        return [plain(one) for one in value]
    if isinstance(value, np.generic):
        value = value.item()
    return None if isinstance(value, float) and value != value else value
