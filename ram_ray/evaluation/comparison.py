"""Two systems on the same images: which classes got better or worse, by a paired test corrected for their number.

The replicates of the two are of the same images (`bootstrap`), so their differences are paired. A class is named better
or worse if its AP differs and the p-value, corrected by Holm for all classes that are compared, is at most `ALPHA`:
with no true difference anywhere, the probability that any class is named is at most that. A class without positives is
not compared.

Letters: C classes, R replicates.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from ram_ray.evaluation.bootstrap import holm, interval, mean_over_classes, paired_p_value
from ram_ray.evaluation.measures import ClassFigures, rates
from ram_ray.records import Json

ALPHA = 0.05


def compare_figures(
    first: Mapping[str, ClassFigures], second: Mapping[str, ClassFigures], *, min_positives: int = 1
) -> Json:
    """Compare two systems on the classes that both score.

    Args:
        first: figures by the name of the class.
        second: those of the other system, on the same images and with the same resampling.
        min_positives: fewest positives of a class that is compared.

    Returns:
        num_classes, `mAP` and `macro_f1` (first, second, difference, interval, p_value), `better` and `worse`: the
        classes of the second that differ, by their AP; `per_class`: a line for each class, the worst first; and the
        classes that one of them alone scores: `only_first`, `only_second`.

    Raises:
        ValueError: if a class has other images or another truth in the two.
    """
    names = [name for name in first if name in second and first[name].num_positives >= max(1, min_positives)]
    for name in (name for name in first if name in second):
        shapes = [(figure.num_images, figure.num_positives) for figure in (first[name], second[name])]
        if shapes[0] != shapes[1]:
            raise ValueError(
                f"the class {name!r} has {shapes[0][0]} images with {shapes[0][1]} positives for the one and "
                f"{shapes[1][0]} with {shapes[1][1]} for the other; compare scores of one set"
            )
    lines = [_compare(name, first[name], second[name]) for name in names]
    for line, corrected in zip(lines, holm(np.array([line["p_value"] for line in lines])), strict=True):
        line["corrected_p_value"] = float(corrected)
    lines.sort(key=lambda line: line["difference"])
    differing = [line for line in lines if line["corrected_p_value"] <= ALPHA]
    pairs = [(first[name], second[name]) for name in names]
    return {
        "num_classes": len(lines),
        "alpha": ALPHA,
        "mAP": _compare_means(
            [np.array([pair[side].ap for pair in pairs]) for side in (0, 1)],
            [[pair[side].ap_replicates for pair in pairs] for side in (0, 1)],
        ),
        "macro_f1": _compare_means(
            [np.array([float(rates(pair[side].counts)["f1"]) for pair in pairs]) for side in (0, 1)],
            [[rates(pair[side].count_replicates)["f1"] for pair in pairs] for side in (0, 1)],
        ),
        "better": [line["class"] for line in reversed(differing) if line["difference"] > 0],
        "worse": [line["class"] for line in differing if line["difference"] < 0],
        "per_class": lines,
        "only_first": sorted(set(first) - set(second)),
        "only_second": sorted(set(second) - set(first)),
    }


def _compare(name: str, first: ClassFigures, second: ClassFigures) -> Json:
    replicates = second.ap_replicates.astype(np.float64) - first.ap_replicates
    difference = second.ap - first.ap
    bounds = interval(difference, replicates)
    return {
        "class": name,
        "num_positives": first.num_positives,
        "first": first.ap,
        "second": second.ap,
        "difference": difference,
        "interval": None if bounds is None else list(bounds),
        "p_value": paired_p_value(difference, replicates, num_positives=first.num_positives),
        **{
            f"{which}_{rate}": float(value)
            for which, figure in (("first", first), ("second", second))
            for rate, value in rates(figure.counts).items()
            if rate != "f1"
        },
    }


def _compare_means(values: Sequence[np.ndarray], replicates: Sequence[Sequence[np.ndarray]]) -> Json:
    """Compare the means over classes: values (C,) and replicates C x (R,) of each of the two systems."""
    if not len(values[0]):
        return {"first": None, "second": None, "difference": None, "interval": None, "p_value": None}
    means = [float(array.mean()) for array in values]
    drawn = mean_over_classes(np.stack(replicates[1])) - mean_over_classes(np.stack(replicates[0]))
    bounds = interval(means[1] - means[0], drawn)
    return {
        "first": means[0],
        "second": means[1],
        "difference": means[1] - means[0],
        "interval": None if bounds is None else list(bounds),
        "p_value": paired_p_value(means[1] - means[0], drawn),
    }
