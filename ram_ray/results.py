"""What each stage leaves: its result, which is also its manifest (`RUN/<folder>/<stage>/<digest>.json`).

Paths are URIs, counts are numbers; what was not measured is None. `records` describes tables; a result is made by a
stage of a run (`runtime.artifacts`), and imports point one way.

    shards      Samples (DrawnShards: the drawn scenes;     pretrain    TrainedModel (GivenModel)
                Fingerprints, Duplicates, Images)
    represent   DualEncoderResult (Vocabulary, Synthetic)   generate    GeneratedAnnotations (Scores, ScoreWeights,
    parse       Parsed                                                  Thresholds)
    labels      LabelSystemResult, Annotations              clean       CleanedAnnotations (Doubts, Regions, Removals)
    encode      EncodedViews, CopiedImages

`evaluation_results` has those of `evaluate`, and of evaluation sets.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from ram_ray.runtime.artifacts import Folder, StageResult


@dataclass(frozen=True)
class Counts:
    """True positives, false positives and false negatives; they add up over batches, shards and machines."""

    tp: int = 0
    fp: int = 0
    fn: int = 0

    def __add__(self, other: Counts) -> Counts:
        return Counts(self.tp + other.tp, self.fp + other.fp, self.fn + other.fn)

    @property
    def precision(self) -> float:
        """Share of the predictions that are true; 0 if nothing was predicted."""
        return self.tp / (self.tp + self.fp) if self.tp + self.fp else 0.0

    @property
    def recall(self) -> float:
        """Share of the truth that was predicted; 0 if nothing is true."""
        return self.tp / (self.tp + self.fn) if self.tp + self.fn else 0.0


class RowsResult(StageResult):
    """A stage that read rows and wrote rows: rows_in = rows_out + rejected."""

    rows_in: int
    rows_out: int  # that can be used
    rejected: int


class Samples(RowsResult):
    """`records.SAMPLE` rows: of shards, or of text files with captions."""

    shards: int
    images: int | None = None  # None: captions without images
    held_out: bool = False  # not trained on


class Fingerprints(Samples):
    """`records.FINGERPRINT` rows: what each image is compared by."""


class ImageScores(Fingerprints):
    """`records.FINGERPRINT` rows with what models say of each image."""


class Duplicates(StageResult):
    """`records.DUPLICATE` rows, partitioned by set and shard."""

    rows: int  # that are in a pair
    counts: dict[str, int]  # "SET/ACTION/KIND/OTHER" -> rows of a set that are duplicates of one of the set OTHER

    def count(self, set_name: str, *actions: str, held_out: bool | None = None) -> int:
        """Count the duplicates of a set.

        Args:
            set_name: "train", or "eval".
            actions: merged, left_out, placeholder, listed.
            held_out: whether the other row is held out; None: either.
        """
        parts = [(name.split("/"), count) for name, count in self.counts.items()]
        return sum(
            count
            for (name, action, _, other), count in parts
            if name == set_name and action in actions and held_out in (None, other != "train")
        )


class Images(Samples):
    """`records.SAMPLE` rows, one an image: rows_in = rows_out + rejected + merged."""

    merged: int  # rows whose captions went to another row of their image
    filtered_captions: dict[str, int]  # reason -> captions


class DrawnShards(StageResult):
    """The drawn scenes as shards of the run."""

    shards: int
    images: int


class Parsed(RowsResult):
    """`records.PARSED` rows."""

    images: int
    tags: int  # names, each once an image
    captions: int
    rejected_captions: dict[str, int]  # reason -> captions that the parser rejected
    held_out: bool = False


class LabelSystemResult(StageResult):
    """A frozen label system."""

    labels: int
    system_version: str
    names: int  # that captions mention, each once for each kind
    rare_names: int = 0  # of these, left out by `labels.min_name_count`
    merged: int
    dropped: int

    @property
    def uri(self) -> str:
        """URI of the label system, for `LabelSystem.load`."""
        return f"{self.path}/label_system.json"


class TaggedRows(RowsResult):
    """Rows with tags, and the tags against the truth where images have human labels."""

    images: int
    tags: int
    matched: int  # tags that only their words in a caption gave, not the parse
    labelled: int  # images with a truth; tp, fp and fn are over these
    tp: int
    fp: int
    fn: int
    unknown: int  # human labels that the label system does not contain
    human: int = 0  # tags of human labels

    @property
    def truth(self) -> Counts | None:
        """The tags against the truth; None if no image has one."""
        return Counts(self.tp, self.fp, self.fn) if self.labelled else None


class Annotations(TaggedRows):
    """`records.ANNOTATION` rows."""

    held_out: bool = False


class Scores(TaggedRows):
    """SCORES rows of a round: generated captions, and the likeliest tags. Tags are those before the round."""

    generated_caption: int  # tags of earlier rounds, by origin
    tagger: int


class ScoreWeights(StageResult):
    """The weights of a tagger's score and of co-occurrence; `score_weights.npz`: the pairs of tags."""

    images: int
    pairs: int
    constant: float
    score: float
    co_occurrence: float


class Thresholds(StageResult):
    """`thresholds.json` and `curve.json` of a round."""

    images: int  # that scores were calibrated on
    calibrated: int | None = None  # tags; None: one threshold for all
    reached: int | None = None  # tags that some score adds

    @property
    def curve(self) -> str:
        """URI of the precision-recall curve."""
        return f"{self.path}/curve.json"


class GeneratedAnnotations(Annotations):
    """Annotations with the tags and captions that a round added; its rejected rows are those of `Scores`."""

    generated_caption: int  # tags by origin, of all rounds
    tagger: int
    scores: str | None = None  # URI of the SCORES rows of the round; None: an earlier version left it
    added: int  # tags of this round
    added_generated_caption: int
    added_tagger: int
    added_correct: int  # on images with a truth
    added_wrong: int

    @property
    def curve(self) -> str:
        """URI of the precision-recall curve of the round."""
        return f"{self.path}/curve.json"


class Doubts(StageResult):
    """`doubts.json`: the score of each label below which a mention is in doubt."""

    mentions: int  # that were counted
    labels: int  # with enough mentions

    @property
    def uri(self) -> str:
        """URI of the scores, for `data_engine.doubts.read_doubts`."""
        return f"{self.path}/doubts.json"


class Regions(StageResult):
    """IMAGE_REGIONS rows: boxes, embeddings and scores of the tags of each image."""

    images: int
    detected: int  # images that the detector saw


class Removals(StageResult):
    """Which image loses which tag, and why."""

    labels: int  # with crops
    decided: int  # labels with enough images
    crops: int
    decided_crops: int  # of decided labels
    outliers: int  # removed tags, by reason
    disagreements: int
    protected: int  # tags that would be removed but for a human label or `protected`
    bins: int  # of shards; the removals of a bin are a file

    @property
    def samples(self) -> str:
        """URI of the folder of sample crops (`data_engine.clean.SAMPLE_ROWS`)."""
        return f"{self.path}/samples"

    @property
    def untouched(self) -> str:
        """URI of the names of the labels that were not cleaned (`data_engine.clean_stages.untouched_labels`)."""
        return f"{self.path}/untouched.json"


class CleanedAnnotations(Annotations):
    """Annotations without the tags that a round removed."""

    removals: str  # digest of the stage `removals`
    samples: str  # URI of its sample crops
    untouched_tags: int  # tags before the stage that were not decided on: their label is not selected or too rare
    untouched_labels: int  # of the label system


class DualEncoderResult(StageResult):
    """The encoders of texts and images; counts are None if they were not trained here."""

    folder: ClassVar[Folder] = "models"

    source: str  # folder, URI or Hugging Face id, for `Teacher.from_pretrained`
    revision: str | None  # commit of a Hugging Face id
    rows_in: int | None = None
    rejected: int | None = None
    steps: int | None = None
    images_seen: int | None = None
    strategy: str | None = None  # deepspeed | ddp


class Synthetic(RowsResult):
    """SYNTHETIC rows: captions with generated images."""

    images: int


class CopiedImages(RowsResult):
    """`training.copies.COPIES` rows and their images: smaller copies, in the order of training."""

    buckets: int
    nbytes: int  # of all copies


class EncodedViews(RowsResult):
    """`training.encode_stage.VIEWS` rows: where the tokens of each view of an image are."""

    token_shape: tuple[int, int]  # of a view
    nbytes: int  # of all tokens


class Vocabulary(StageResult):
    """A folder with `tokenizer.json`."""

    folder: ClassVar[Folder] = "models"
    words: int


class TrainedModel(StageResult):
    """A model bundle."""

    folder: ClassVar[Folder] = "models"

    image_size: int  # pixels a side
    rows_in: int  # rows of the training table
    rejected: int  # images that could not be read
    steps: int
    images_seen: int
    strategy: str  # deepspeed | ddp
    fold: int | None = None  # index of the fold that only this model scores; None: a model of the recipe itself


class GivenModel(TrainedModel):
    """A bundle that the user named, with the labels of the run; nothing is trained, so counts of training are 0."""

    source: str  # path, URI or Hugging Face id
    kept: int  # labels of the run that the bundle has
    by_synonym: int  # of these, matched by a synonym
    new: int  # labels of the run that it did not have
    dropped: int  # its labels that the run does not have
