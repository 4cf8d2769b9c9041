"""Generation of missing tags: what the model sees on an image and no caption mentions (paper, section 3.3).

    `Generator`     scores tags and writes captions, on a GPU
    `CaptionTags`   finds the tags of the generated captions, with the parser
    `merge`         adds tags to an annotation by a threshold or by the thresholds of `data_engine.calibrate`, which
                    need the scores of all images

Between them travel SCORES rows, with the logits of the MAX_SCORES likeliest tags in half precision: a thousand bytes an
image, whatever the size of the label system.

A tag keeps its first origin (human, parsed, generated caption, tagger). Every round starts from the original captions
and the tags that survived. A tag that cleaning removed is not added again: the model learnt from the same images and
captions, so its score is no new evidence. Neither is a tag that a person excludes.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa

from ram_ray.captions.tables import load_lemmas
from ram_ray.data.folds import fold_hash
from ram_ray.data.ground_truth import decided_against
from ram_ray.data_engine.calibrate import bin_of
from ram_ray.data_engine.stage_settings import ScoreSettings
from ram_ray.label_system import LabelSystem, is_present
from ram_ray.labels.match import Matcher, TagFinder
from ram_ray.records import ANNOTATION, CAPTION, Row, to_table
from ram_ray.settings.models import Decoding

if TYPE_CHECKING:
    from ram_ray.captions.parser import CaptionParser
    from ram_ray.inference.predictor import Predictor

Addition = tuple[int, str, float]  # tag, origin, score
Logits = Callable[[Row], np.ndarray]  # SCORES row -> (K,) logits of its `tagger_ids`, in their order
MAX_SCORES = 256

# Annotations with the captions and scores of the model, not yet merged.
SCORES = pa.schema(
    [
        *ANNOTATION,
        ("generated", pa.list_(CAPTION)),
        ("tagger_ids", pa.list_(pa.int32())),  # descending by logit
        ("tagger_logits", pa.binary()),  # float16 of each, little-endian
    ]
)


class Generator:
    """Actor: images and their annotations -> SCORES rows, whose generated captions have no tags yet.

    A batch holds `pixels` (B, S, S, 3) uint8 and the ANNOTATION columns, as numpy. Rows with a `reason` get
    neither captions nor scores.

    Args:
        bundle_uri: path, URI or id of the model.
        settings: of the stage.
        device: torch device, as in `Predictor.from_pretrained`.
        precision: "fp32" or "bf16".
        threads: number of torch threads.
        predictor: a loaded model, used in place of the bundle.
    """

    def __init__(
        self,
        bundle_uri: str,
        settings: ScoreSettings,
        *,
        device: str | None = None,
        precision: str = "fp32",
        threads: int | None = None,
        predictor: Predictor | None = None,
    ) -> None:
        if predictor is None:
            from ram_ray.inference.predictor import Predictor as Loader

            predictor = Loader.from_pretrained(bundle_uri, device=device, precision=precision, threads=threads)
        self.predictor, self.settings = predictor, settings
        self.decoding = Decoding(
            num_beams=settings.num_beams if settings.decoding == "beam" else 1,
            sample=settings.decoding == "nucleus",
            top_p=settings.top_p,
        )

    def __call__(self, batch: Mapping[str, np.ndarray]) -> pa.Table:
        """Write captions and scores for a batch.

        Args:
            batch: ANNOTATION rows as numpy columns, with `pixels` uint8 (B, S, S, 3).

        Returns:
            SCORES rows, in the order of the batch.
        """
        rows = to_rows(batch)
        for row in rows:
            row.update(generated=[], tagger_ids=[], tagger_logits=b"")
        usable = [index for index, row in enumerate(rows) if not row["reason"]]
        if usable:
            self._predict(np.stack([batch["pixels"][index] for index in usable]), [rows[index] for index in usable])
        return to_table(rows, SCORES)

    def _predict(self, pixels: np.ndarray, rows: list[Row]) -> None:
        """Add captions and scores to the rows of images (B, S, S, 3); each image is encoded once."""
        tokens = self.predictor.encode(pixels)
        scores = self.predictor.token_probabilities(tokens)  # (B, N)
        for row, row_scores in zip(rows, scores, strict=True):
            ids = np.argsort(-row_scores, kind="stable")[:MAX_SCORES]
            row.update(tagger_ids=ids.tolist(), tagger_logits=encode_logits(row_scores[ids]).tobytes())
        guides = self.predictor.present_names(scores, threshold=self.settings.threshold)
        for number in range(self.settings.captions):
            seeds = [fold_hash(f"{self.settings.seed or 0}/{number}/{row['key']}") >> 1 for row in rows]
            captions = self.predictor.caption_tokens(
                tokens, guides, max_tokens=self.settings.max_caption_tokens, decoding=self.decoding, seed=seeds
            )
            for row, caption in zip(rows, captions, strict=True):
                row["generated"].append({"text": caption, "origin": "generated", "tags": [], "sources": []})


class CaptionTags:
    """Adds the tags of the generated captions to SCORES rows, with the parser of the run.

    Args:
        parser_model: as in `process_parser`.
        labels_uri: of the label system.
        max_caption_chars: most characters of a caption that are read.
        match: find labels by their words too, not in the parse alone.
        parser: a loaded parser, used in place of `parser_model`.
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
        self._find_tags = TagFinder(
            labels, Matcher(labels, load_lemmas(), max_chars=max_caption_chars) if match else None
        )

    def __call__(self, table: pa.Table) -> pa.Table:
        """Find the tags of the generated captions.

        Args:
            table: SCORES rows.

        Returns:
            SCORES rows with tags and their sources in each generated caption.
        """
        rows = table.to_pylist()
        captions = [caption for row in rows for caption in row["generated"]]
        parsed = self.parser.parse([caption["text"] for caption in captions]) if captions else []
        for caption, tags in zip(captions, parsed, strict=True):
            caption["tags"], caption["sources"] = self._find_tags(caption["text"], tags)
        return to_table(rows, SCORES)


class Threshold:
    """Rule: the same threshold for all tags.

    Tags of generated captions are added as well, all of them as in the paper, or those over `caption_threshold`.

    Args:
        threshold: lowest probability of a tag of the tagger.
        caption_threshold: lowest probability by the tagger of a tag of a generated caption.
    """

    def __init__(self, threshold: float, *, caption_threshold: float = 0.0) -> None:
        self.threshold, self.caption_threshold = threshold, caption_threshold

    def __call__(self, ids: np.ndarray, logits: np.ndarray, votes: Mapping[int, int]) -> list[Addition]:
        """Select the tags to add, those of captions first, then those of the tagger.

        Args:
            ids: (K,) int64 tags.
            logits: (K,) float logits of these tags.
            votes: tag -> number of generated captions that mention it.

        Returns:
            (tag, origin, probability) of each addition.
        """
        scores = 1 / (1 + np.exp(-logits))
        over = np.flatnonzero(is_present(scores, self.threshold))
        confirmed = set(ids[is_present(scores, self.caption_threshold)].tolist())
        caption_tags = [id for id in votes if id in confirmed or not self.caption_threshold]
        additions: list[Addition] = [(int(id), "generated_caption", 1.0) for id in caption_tags]
        return additions + [(int(ids[index]), "tagger", float(scores[index])) for index in over]


class Calibrated:
    """Rule: a threshold for each tag, which is lower where generated captions mention the tag.

    The score of an addition is its probability to be correct.

    Args:
        min_bins: (V, T) int, lowest bin from which the tag is added.
        correct: (V, T, B) float, probability that an addition is correct.
    """

    def __init__(self, min_bins: np.ndarray, correct: np.ndarray) -> None:
        self.min_bins, self.correct = min_bins, correct

    def __call__(self, ids: np.ndarray, logits: np.ndarray, votes: Mapping[int, int]) -> list[Addition]:
        """Select the tags to add, those of captions first, each group in descending order of the probability.

        Args:
            ids: (K,) int64 tags.
            logits: (K,) float logits of these tags.
            votes: tag -> number of generated captions that mention it.

        Returns:
            (tag, origin, probability) of each addition.
        """
        bins = dict(zip(ids.tolist(), bin_of(logits).tolist(), strict=True))
        additions: list[Addition] = []
        for id in dict.fromkeys([*votes, *bins]):
            vote, score_bin = min(votes.get(id, 0), len(self.min_bins) - 1), bins.get(id, 0)
            if score_bin >= self.min_bins[vote, id]:
                origin = "generated_caption" if vote else "tagger"
                additions.append((id, origin, float(self.correct[vote, id, score_bin])))
        return sorted(additions, key=lambda addition: (addition[1] == "tagger", -addition[2], addition[0]))


def tagger_logits_of(row: Row) -> np.ndarray:
    """The tagger's logits of a row, without co-occurrence.

    Args:
        row: of SCORES.

    Returns:
        (K,) float32, in the order of the row's `tagger_ids`.
    """
    return decode_logits(row["tagger_logits"])


def decode_logits(data: bytes | None) -> np.ndarray:
    """Decode logits that `encode_logits` encoded.

    Args:
        data: float16 in little-endian bytes; None: no logits.

    Returns:
        (K,) float32.
    """
    return np.frombuffer(data or b"", "<f2").astype(np.float32)


def merge(row: Row, *, rule: Threshold | Calibrated, logits: Logits = tagger_logits_of) -> Row:
    """Add to an annotation the tags that the rule selects; `row` is not changed.

    Order: the tags of the annotation, then those of generated captions, then those of the tagger. New generated
    captions replace those of an earlier round, whose surviving tags stay.

    Args:
        row: of SCORES.
        rule: selects the tags to add.
        logits: logits that the rule gets: the tagger's, or combined with co-occurrence (`data_engine.combine_scores`).

    Returns:
        An ANNOTATION row.
    """
    annotation = {name: row[name] for name in ANNOTATION.names}
    if row["reason"]:
        return annotation
    captions = [dict(caption) for caption in row["captions"] or []]
    if row["generated"]:
        originals = [caption for caption in captions if caption["origin"] == "original"]
        captions = originals + [dict(caption) for caption in row["generated"]]
    tags = [dict(tag) for tag in row["tags"] or []]
    decided = {tag["id"] for tag in tags} | decided_against(row)
    ids = np.array(row["tagger_ids"] or [], np.int64)
    for id, origin, score in rule(ids, logits(row), votes_of(row)):
        if id not in decided:
            decided.add(id)
            tags.append({"id": id, "origin": origin, "score": score})
    return {**annotation, "captions": captions, "tags": tags}


def votes_of(row: Row) -> dict[int, int]:
    """Number of generated captions that mention each tag.

    Args:
        row: of SCORES.

    Returns:
        Tag id -> number of captions, in the order of the captions.
    """
    votes: dict[int, int] = {}
    for caption in row["generated"] or []:
        for id in dict.fromkeys(caption["tags"] or []):
            votes[int(id)] = votes.get(int(id), 0) + 1
    return votes


def encode_logits(probabilities: np.ndarray) -> np.ndarray:
    """Encode probabilities as logits; in float16 they are finer near 1 than probabilities.

    Args:
        probabilities: float, 0 to 1, of any shape.

    Returns:
        Little-endian float16, in the same shape.
    """
    values = np.clip(probabilities.astype(np.float64), 1e-7, 1 - 1e-7)
    return (np.log(values) - np.log1p(-values)).astype("<f2")


def to_rows(batch: Mapping[str, np.ndarray]) -> list[Row]:
    """ANNOTATION rows of a numpy batch of Ray Data; other columns are dropped, nulls become None.

    Args:
        batch: columns by name, at least those of ANNOTATION.

    Returns:
        A dict for each row.
    """
    columns = {name: [to_python(value) for value in batch[name]] for name in ANNOTATION.names}
    return [dict(zip(columns, values, strict=True)) for values in zip(*columns.values(), strict=True)]


def to_python(value: object) -> object:
    """Convert a nested value of a numpy batch to Python types.

    Args:
        value: dict, sequence, array or scalar.

    Returns:
        The value as dicts, lists and scalars; NaN, which stands for a null, as None.
    """
    if isinstance(value, dict):
        return {name: to_python(item) for name, item in value.items()}
    if isinstance(value, (list, tuple, np.ndarray)):
        return [to_python(item) for item in value]
    if isinstance(value, np.generic):
        value = value.item()
    return None if isinstance(value, float) and value != value else value
