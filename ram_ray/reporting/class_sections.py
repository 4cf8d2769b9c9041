"""What a page shows of one class: figures, its two charts, what is predicted in its place, and images."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from ram_ray.evaluation.class_curves import NUM_RANGES, Reliability
from ram_ray.evaluation.class_details import Group, reliability_of
from ram_ray.evaluation.systems.system import NEVER
from ram_ray.records import Json
from ram_ray.reporting.line_chart import Axis, LineChart, Point, draw_lines

CHART_SIZE = (270, 190)  # pixels of the area of the lines
SHARES = Axis(0.0, 0.25)
IDEAL = "score = share"
TITLES: dict[Group, str] = {
    "right": "Right: true images that are predicted, the highest scores first",
    "missed": "Missed: true images with the lowest scores",
    "wrong": "Wrong: images where it is not true, the highest scores first",
}


@dataclass(frozen=True)
class ClassLine:
    """A class in the table of the overview."""

    index: int
    name: str
    file: str  # that has its section
    ap: float | None
    num_images: int
    num_positives: int
    predicted: int  # images
    precision: float | None  # None: it is never predicted
    recall: float | None
    threshold: float | None  # None: the label is muted
    error: float | None  # expected calibration error
    confused_with: str | None

    @classmethod
    def of_row(cls, row: Json, file: str) -> ClassLine:
        """Take the figures of a class.

        Args:
            row: of `class_details`.
            file: that has its section.

        Returns:
            The line.
        """
        predicted, positives = row["tp"] + row["fp"], row["num_positives"]
        reliability = reliability_of(row)
        return cls(
            row["index"],
            row["class"],
            file,
            row["ap"] if positives else None,
            row["num_images"],
            positives,
            predicted,
            row["tp"] / predicted if predicted else None,
            row["tp"] / positives if positives else None,
            row["threshold"] if row["threshold"] != NEVER else None,
            reliability.error if reliability else None,
            row["confusions"][0]["class"] if row["confusions"] else None,
        )

    @property
    def chance(self) -> float:
        """The AP of random scores."""
        return self.num_positives / max(1, self.num_images)

    @property
    def anchor(self) -> str:
        """Id of its section."""
        return f"class-{self.index}"

    @property
    def href(self) -> str:
        """Link to its section, from any of the pages."""
        return f"{self.file}#{self.anchor}"


@dataclass(frozen=True)
class ShownImage:
    """An image of a class."""

    image: Json  # of `class_details`
    jpeg: str | None  # base64; None: it cannot be read


@dataclass(frozen=True)
class Strip:
    """Images of one group."""

    title: str
    images: Sequence[ShownImage]


@dataclass(frozen=True)
class ConfusionLine:
    """Another class that is predicted where this one is wrong."""

    other: ClassLine
    count: int
    right: int
    lift: float


@dataclass(frozen=True)
class RangeLine:
    """A range of scores that has images."""

    text: str
    count: int
    mean_score: float
    share: float  # of positives


@dataclass(frozen=True)
class Section:
    """What the macro of the templates fills in."""

    line: ClassLine
    false_positives: int
    curve: LineChart | None
    reliability: LineChart | None
    ranges: Sequence[RangeLine]
    confusions: Sequence[ConfusionLine]
    strips: Sequence[Strip]
    previous: ClassLine | None
    next: ClassLine | None


def make_section(
    row: Json,
    order: int,
    *,
    lines: Sequence[ClassLine],
    by_name: Mapping[str, ClassLine],
    images: Mapping[str, Sequence[ShownImage]],
) -> Section:
    """Make the section of a class.

    Args:
        row: of `class_details`.
        order: of the class in the pages.
        lines: of all classes, in their order.
        by_name: the same by the name of the class.
        images: that are shown, by group.

    Returns:
        The section.
    """
    line, reliability = lines[order], reliability_of(row)
    curve = list(zip(row["recall"], row["precision"], strict=True))
    mark = None
    if line.precision is not None and line.recall is not None:
        mark = ("at the threshold", (line.recall, line.precision))
    return Section(
        line,
        row["fp"],
        curve_chart({"precision": curve}, mark=mark) if curve else None,
        reliability_chart({"share that is true": reliability}) if reliability else None,
        range_lines(reliability) if reliability else [],
        [
            ConfusionLine(by_name[other["class"]], other["count"], other["right"], other["lift"])
            for other in row["confusions"]
        ],
        [Strip(TITLES[group], images[group]) for group in TITLES if images[group]],
        lines[order - 1] if order else None,
        lines[order + 1] if order + 1 < len(lines) else None,
    )


def curve_chart(
    curves: Mapping[str, Sequence[Point]], *, mark: tuple[str, Point] | None = None, title: str = "Precision by recall"
) -> LineChart:
    """Draw curves of precision against recall.

    Args:
        curves: points (recall, precision) by name.
        mark: a text and a point of the first curve.
        title: above the drawing.

    Returns:
        The chart.
    """
    return draw_lines(
        curves,
        x_axis=SHARES,
        y_axis=SHARES,
        colours=("var(--a)", "var(--b)"),
        title=title,
        x_title="recall",
        y_title="precision",
        mark=mark,
        size=CHART_SIZE,
    )


def reliability_chart(
    reliabilities: Mapping[str, Reliability], *, title: str = "Reliability of the score"
) -> LineChart:
    """Draw the share of true images against the mean score of each range, beside the line of a perfect score.

    Args:
        reliabilities: by name; at most two.
        title: above the drawing.

    Returns:
        The chart.
    """
    lines = {name: reliability.points for name, reliability in reliabilities.items()}
    return draw_lines(
        {**lines, IDEAL: [(0.0, 0.0), (1.0, 1.0)]},
        x_axis=SHARES,
        y_axis=SHARES,
        colours=[*("var(--a)", "var(--b)")[: len(lines)], "var(--soft)"],
        title=title,
        x_title="mean score",
        y_title="share that is true",
        size=CHART_SIZE,
    )


def range_lines(reliability: Reliability) -> list[RangeLine]:
    """List the ranges of scores that have images.

    Args:
        reliability: the sums.

    Returns:
        A line for each.
    """
    lines = []
    for index, count in enumerate(reliability.counts.tolist()):
        if count:
            text = f"{index / NUM_RANGES:.1f} to {(index + 1) / NUM_RANGES:.1f}"
            mean, share = reliability.score_sums[index] / count, reliability.positives[index] / count
            lines.append(RangeLine(text, count, float(mean), float(share)))
    return lines
