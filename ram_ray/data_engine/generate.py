"""Missing tags: what the model sees in a picture that no caption says (paper, section 3.3, generation).

Three steps, since one wants a GPU, one a parser, and what is added can only be decided when all pictures are seen:

    `Generator`     looks at the pictures: the tagger's scores, and captions
    `CaptionTags`   finds the tags of the captions that it wrote
    `merge`         adds to an annotation what is likely enough, by the thresholds of `data_engine.calibrate`

Between them travel SCORES rows. A picture keeps the scores of its MAX_SCORES likeliest tags, as logits in half
precision: a thousand bytes, whatever the size of the label system.

What merging must not lose is where a tag came from. So a tag keeps its first origin (parsed, then generated
caption, then tagger), every round starts from the original captions plus what survived the rounds before, and
a tag that cleaning removed does not come back: it was looked at and judged, and the model that asks for it again has
learnt from the same pictures and captions, so that its asking is no new evidence.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa

from ram_ray.captions.tables import load_lemmas
from ram_ray.data.parts import place_of
from ram_ray.data_engine.calibrate import bin_of
from ram_ray.label_system import LabelSystem, is_present
from ram_ray.labels.match import Matcher, TagFinder
from ram_ray.records import ANNOTATION, CAPTION, to_table
from ram_ray.settings.data_engine import GenerateConfig
from ram_ray.settings.models import Decoding

if TYPE_CHECKING:
    from ram_ray.captions.parser import CaptionParser
    from ram_ray.inference.predictor import Predictor

Addition = tuple[int, str, float]  # tag, origin, score
Logits = Callable[[Mapping[str, Any]], np.ndarray]  # of a SCORES row's `tagger_ids`, (K,), in their order
MAX_SCORES = 256

# Annotations with what the model says of the picture, not yet merged.
SCORES = pa.schema(
    [
        *ANNOTATION,
        ("generated", pa.list_(CAPTION)),
        ("tagger_ids", pa.list_(pa.int32())),  # best first
        ("tagger_logits", pa.binary()),  # float16 of each, little-endian
    ]
)


class Generator:
    """Actor: pictures and their annotations -> SCORES rows, whose generated captions have no tags yet.

    A batch holds `pixels` (B, S, S, 3) uint8 and the ANNOTATION columns, as numpy. Rows with a `reason` pass
    through with nothing generated.

    Args:
        bundle_uri: path, URI or id of the model.
        config: section `engine.generate`.
        seed: of draws, with `decoding` "nucleus".
        device: as in `Predictor.from_pretrained`, as are precision and threads.
        precision: "fp32" or "bf16".
        threads: of torch.
        predictor: a model that is loaded already, in place of the bundle.
    """

    def __init__(
        self,
        bundle_uri: str,
        config: GenerateConfig,
        *,
        seed: int = 0,
        device: str | None = None,
        precision: str = "fp32",
        threads: int | None = None,
        predictor: Predictor | None = None,
    ) -> None:
        if predictor is None:
            from ram_ray.inference.predictor import Predictor as Loader

            predictor = Loader.from_pretrained(bundle_uri, device=device, precision=precision, threads=threads)
        self.predictor, self.config, self.seed = predictor, config, seed
        self.decoding = Decoding(
            num_beams=config.num_beams if config.decoding == "beam" else 1,
            sample=config.decoding == "nucleus",
            top_p=config.top_p,
        )

    def __call__(self, batch: Mapping[str, np.ndarray]) -> pa.Table:
        """Captions and scores of a batch.

        Args:
            batch: ANNOTATION rows as numpy columns, with `pixels` uint8 (B, S, S, 3).

        Returns:
            SCORES rows; rejected ones have no scores.
        """
        rows = to_rows(batch)
        for row in rows:
            row.update(generated=[], tagger_ids=[], tagger_logits=b"")
        good = [place for place, row in enumerate(rows) if not row["reason"]]
        if good:
            self._look(np.stack([batch["pixels"][place] for place in good]), [rows[place] for place in good])
        return to_table(rows, SCORES)

    def _look(self, pixels: np.ndarray, rows: list[dict[str, Any]]) -> None:
        """Add to the rows what the model says of their pictures; each picture is encoded once."""
        tokens = self.predictor.encode(pixels)
        scores = self.predictor.token_probabilities(tokens)  # (B, N)
        for row, of_row in zip(rows, scores, strict=True):
            ids = np.argsort(-of_row, kind="stable")[:MAX_SCORES]
            row.update(tagger_ids=ids.tolist(), tagger_logits=to_logits(of_row[ids]).tobytes())
        guides = self.predictor.present_names(scores, threshold=self.config.threshold)
        for number in range(self.config.captions):
            seeds = [place_of(f"{self.seed}/{number}/{row['key']}") >> 1 for row in rows]
            captions = self.predictor.caption_tokens(
                tokens, guides, max_tokens=self.config.max_caption_tokens, decoding=self.decoding, seed=seeds
            )
            for row, caption in zip(rows, captions, strict=True):
                row["generated"].append({"text": caption, "origin": "generated", "tags": [], "sources": []})


class CaptionTags:
    """SCORES rows -> the same, with the tags of the generated captions, by the run's own parser.

    Args:
        parser_model: as of `process_parser`.
        labels_uri: of the label system.
        max_caption_chars: most characters of a caption that are read.
        match: find labels by their words too, not in the parse alone.
        parser: one that is loaded already, in place of `parser_model`.
    """

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
            from ram_ray.captions.parser import process_parser

            parser = process_parser(parser_model, max_chars=max_caption_chars)
        self.parser = parser
        labels = LabelSystem.load(labels_uri)
        self._find = TagFinder(labels, Matcher(labels, load_lemmas(), max_chars=max_caption_chars) if match else None)

    def __call__(self, table: pa.Table) -> pa.Table:
        """The SCORES rows with tags and their sources in each generated caption."""
        rows = table.to_pylist()
        captions = [one for row in rows for one in row["generated"]]
        parsed = self.parser.parse([one["text"] for one in captions]) if captions else []
        for caption, tags in zip(captions, parsed, strict=True):
            caption["tags"], caption["sources"] = self._find(caption["text"], tags)
        return to_table(rows, SCORES)


class Threshold:
    """One probability for all tags, and what a generated caption says.

    Of what it says everything is taken, as in the paper, or what the tagger holds likely enough itself.

    Args:
        threshold: least probability of the tagger's own tags.
        of_caption: least probability that the tagger must give to a tag of a generated caption.
    """

    def __init__(self, threshold: float, *, of_caption: float = 0.0) -> None:
        self.threshold, self.of_caption = threshold, of_caption

    def __call__(self, ids: np.ndarray, logits: np.ndarray, votes: Mapping[int, int]) -> list[Addition]:
        """What is likely enough, the captions' tags first, then the tagger's.

        Args:
            ids: (K,) int64 tags.
            logits: (K,) float, of these tags.
            votes: tag -> generated captions that name it.

        Returns:
            (tag, origin, probability) of each addition.
        """
        scores = 1 / (1 + np.exp(-logits))
        over = np.flatnonzero(is_present(scores, self.threshold))
        likely = set(ids[is_present(scores, self.of_caption)].tolist())
        agreed = [id for id in votes if id in likely or not self.of_caption]
        found: list[Addition] = [(int(id), "generated_caption", 1.0) for id in agreed]
        return found + [(int(ids[one]), "tagger", float(scores[one])) for one in over]


class Calibrated:
    """Each tag from a score of its own on, which is lower where generated captions name it.

    The score that an addition keeps is how likely it is right, whoever asked for it.

    Args:
        least: (V, T) lowest bin from which the tag is added.
        right: (V, T, B) how likely it then is right.
    """

    def __init__(self, least: np.ndarray, right: np.ndarray) -> None:
        self.least, self.right = least, right

    def __call__(self, ids: np.ndarray, logits: np.ndarray, votes: Mapping[int, int]) -> list[Addition]:
        """See `Threshold`; likeliest first in each of the two groups."""
        scores = dict(zip(ids.tolist(), bin_of(logits).tolist(), strict=True))
        found: list[Addition] = []
        for id in dict.fromkeys([*votes, *scores]):
            vote, place = min(votes.get(id, 0), len(self.least) - 1), scores.get(id, 0)
            if place >= self.least[vote, id]:
                origin = "generated_caption" if vote else "tagger"
                found.append((id, origin, float(self.right[vote, id, place])))
        return sorted(found, key=lambda one: (one[1] == "tagger", -one[2], one[0]))


def own_logits(row: Mapping[str, Any]) -> np.ndarray:
    """The tagger's own logits of a row.

    Args:
        row: of SCORES.

    Returns:
        (K,) float32, in the order of the row's `tagger_ids`.
    """
    return from_logits(row["tagger_logits"])


def from_logits(data: bytes | None) -> np.ndarray:
    """Logits as `to_logits` stored them.

    Args:
        data: float16 in little-endian bytes; None: no logits.

    Returns:
        (K,) float32.
    """
    return np.frombuffer(data or b"", "<f2").astype(np.float32)


def merge(row: Mapping[str, Any], *, rule: Threshold | Calibrated, logits: Logits = own_logits) -> dict[str, Any]:
    """The ANNOTATION row of a SCORES row, with what the rule adds; `row` is not changed.

    Order: the tags that were there, then the generated captions', then the tagger's. Generated captions of an
    earlier round are replaced (the tags that they gave stay, if they survived); without new ones they are kept.

    Args:
        row: of SCORES.
        rule: says which tags are likely enough.
        logits: what the rule takes for the scores: the tagger's own, or weighed (`data_engine.weigh`).
    """
    kept = {name: row[name] for name in ANNOTATION.names}
    if row["reason"]:
        return kept
    captions = [dict(one) for one in row["captions"] or []]
    if row["generated"]:
        captions = [one for one in captions if one["origin"] == "original"] + [dict(one) for one in row["generated"]]
    tags = [dict(one) for one in row["tags"] or []]
    settled = {tag["id"] for tag in tags} | {one["id"] for one in row["removed"] or []}
    ids = np.array(row["tagger_ids"] or [], np.int64)
    for tag, origin, score in rule(ids, logits(row), votes_of(row)):
        if tag not in settled:
            settled.add(tag)
            tags.append({"id": tag, "origin": origin, "score": score})
    return {**kept, "captions": captions, "tags": tags}


def votes_of(row: Mapping[str, Any]) -> dict[int, int]:
    """Tag -> generated captions of a SCORES row that name it, in their order."""
    votes: dict[int, int] = {}
    for caption in row["generated"] or []:
        for id in dict.fromkeys(caption["tags"] or []):
            votes[int(id)] = votes.get(int(id), 0) + 1
    return votes


def to_logits(probabilities: np.ndarray) -> np.ndarray:
    """Probabilities to logits that are stored: finer than float16 probabilities near 1, where it matters.

    Args:
        probabilities: float, 0 to 1, of any shape.

    Returns:
        Little-endian float16, in the same shape.
    """
    values = np.clip(probabilities.astype(np.float64), 1e-7, 1 - 1e-7)
    return (np.log(values) - np.log1p(-values)).astype("<f2")


def to_rows(batch: Mapping[str, np.ndarray]) -> list[dict[str, Any]]:
    """ANNOTATION rows of a numpy batch as Ray Data gives it; other columns are left out, nulls become None.

    Args:
        batch: columns by name, at least those of ANNOTATION.

    Returns:
        A dict a row.
    """
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
