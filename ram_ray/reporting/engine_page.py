"""The HTML page of the data engine: what each step did to the counts of tags, and to which images.

The page is one file with its own style, its images embedded, and no script: it opens from a bucket, from a mail, on a
phone. Where the truth is known, each image says whether its tag is correct; where it is not known, no image does. The
markup is in `templates/engine_page.html.j2`.
"""

from __future__ import annotations

import base64
import math
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from ram_ray.reporting.engine_curve import Curve, to_chart
from ram_ray.reporting.engine_rows import Outcome, SampleImage
from ram_ray.reporting.line_chart import LineChart
from ram_ray.reporting.rendering import number, percent, render

NUM_OPEN = 3  # labels that are unfolded at first
UNSCORED = ("human", "parsed", "matched", "generated_caption")  # origins that have no score of their own
_STRIPS: tuple[Outcome, ...] = ("removed", "added", "kept")  # in their order on the page
_FIGURES = {  # title and note by the name in `statistics.tag_shares`
    "added_precision": ("added tags that are correct", "of those still there at the end"),
    "recovered": ("unmentioned tags recovered", "of what is true and no caption mentions"),
    "mentioned_false_removed": ("false mentions removed", "of what captions mention and is not there"),
    "false_removed": ("false tags removed", "of all that were ever there"),
    "true_removed": ("true tags removed", "of all that were ever there: errors"),
}


@dataclass(frozen=True)
class Step:
    """The tags after one step; None: not measured."""

    stage: str
    tags: int
    images: int
    precision: float | None = None
    recall: float | None = None


@dataclass(frozen=True)
class Reason:
    """The tags that were removed for a reason."""

    reason: str
    images: int = 0
    labelled: int = 0  # of these, images whose truth is known
    correct: int = 0  # of these, images of which the tag is true

    @property
    def false(self) -> float | None:
        """The share that is false, of those whose truth is known."""
        return (self.labelled - self.correct) / self.labelled if self.labelled else None


@dataclass(frozen=True)
class LabelChanges:
    """What happened to the tags of one label over all images, and a sample of these images."""

    id: int
    name: str
    kind: str
    kept: int = 0  # mentioned by captions, and still there
    removed: int = 0  # mentioned or added
    added: int = 0  # and still there
    true_share: Mapping[Outcome, float | None] = field(default_factory=dict)  # of each of these three counts
    unmentioned: int | None = None  # images of which it is true and no caption mentions it; None: not known
    sample_images: Sequence[SampleImage] = ()

    @property
    def num_tags(self) -> Mapping[Outcome, int]:
        """The three counts by their name."""
        return {"kept": self.kept, "removed": self.removed, "added": self.added}


@dataclass(frozen=True)
class View:
    """Everything that the page shows."""

    run: str
    steps: Sequence[Step]
    figures: Mapping[str, float | None]  # of `statistics.tag_shares`
    reasons: Sequence[Reason]
    labels: Sequence[LabelChanges]  # most changes first
    curve: Curve | None = None
    untouched: tuple[int, int] | None = None  # tags and labels that the last cleaning did not decide on


@dataclass(frozen=True)
class Card:
    """A number at the top of the page."""

    name: str
    value: str
    note: str


@dataclass(frozen=True)
class Thumbnail:
    """An image of a strip."""

    title: str
    alt: str
    jpeg: str | None  # in base64; None: the image cannot be read
    true: bool | None  # None: not known
    text: str  # reason and score


@dataclass(frozen=True)
class Strip:
    """The images of one label and outcome, by cluster."""

    outcome: Outcome
    num_images: int
    num_tags: int  # that the images are drawn from
    true_share: float | None
    clusters: Mapping[int | None, Sequence[Thumbnail]]  # None: images without a cluster


@dataclass(frozen=True)
class LabelStrips:
    """A label with its images."""

    label: LabelChanges
    strips: Sequence[Strip]


@dataclass(frozen=True)
class Page:
    """What the template engine_page.html.j2 shows."""

    run: str
    cards: Sequence[Card]
    steps: Sequence[Step]
    max_tags: int  # of a step
    chart: LineChart | None
    reasons: Sequence[Reason]
    shown: Sequence[LabelStrips]
    labels: Sequence[LabelChanges]
    truth_of_images: bool  # whether the truth of any shown image is known
    truth_of_labels: bool  # whether the truth of any image is known
    num_open: int = NUM_OPEN


def to_html(view: View) -> str:
    """The page as HTML.

    Args:
        view: everything that the page shows.

    Returns:
        A whole document, which loads nothing.
    """
    shown = [label for label in view.labels if label.sample_images]
    page = Page(
        run=view.run,
        cards=_cards(view),
        steps=view.steps,
        max_tags=max(step.tags for step in view.steps) or 1,
        chart=to_chart(view.curve) if view.curve else None,
        reasons=view.reasons,
        shown=[LabelStrips(label, _strips(label)) for label in shown],
        labels=view.labels,
        truth_of_images=any(image["true"] is not None for label in shown for image in label.sample_images),
        truth_of_labels=any(label.unmentioned is not None for label in view.labels),
    )
    return render("engine_page.html.j2", page)


def _cards(view: View) -> list[Card]:
    first, last = view.steps[0], view.steps[-1]
    cards = [Card("tags", number(last.tags), f"{first.tags:,} before, in {last.images:,} images")]
    if last.precision is not None and last.recall is not None:
        cards += [
            Card("precision", number(last.precision, 3), f"{number(first.precision, 3)} before"),
            Card("recall", number(last.recall, 3), f"{number(first.recall, 3)} before"),
        ]
    if view.untouched:
        tags, labels = view.untouched
        cards += [Card("tags not cleaned", number(tags), f"of {labels:,} labels: not selected, or too few images")]
    figures = [(title, note, view.figures.get(name)) for name, (title, note) in _FIGURES.items()]
    return cards + [Card(title, percent(value, 1), note) for title, note, value in figures if value is not None]


def _strips(label: LabelChanges) -> list[Strip]:
    strips = []
    for outcome in _STRIPS:
        images = [image for image in label.sample_images if image["outcome"] == outcome]
        clusters: dict[int | None, list[Thumbnail]] = defaultdict(list)
        for image in sorted(images, key=lambda image: -1 if image["cluster"] is None else image["cluster"]):
            clusters[image["cluster"]].append(_thumbnail(label.name, image))
        if images:
            true_share = label.true_share.get(outcome)
            strips.append(Strip(outcome, len(images), label.num_tags[outcome], true_share, clusters))
    return strips


def _thumbnail(name: str, image: SampleImage) -> Thumbnail:
    score, reason, jpeg = image["score"], image["reason"] or "", image["jpeg"]
    scored = score is not None and math.isfinite(score) and reason not in UNSCORED
    return Thumbnail(
        title=image["caption"] or image["key"],
        alt=f"{name}: {image['key']}",
        jpeg=None if jpeg is None else base64.b64encode(jpeg).decode("ascii"),
        true=image["true"],
        text=reason.replace("_", " ") + (f" {score:.2f}" if scored else ""),
    )
