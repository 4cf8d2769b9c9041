"""What a user names as an evaluation set: `NAME=TRUTH[,option=value...]`.

    coco80=annotations/instances_val2017.json,images=val2017
    openimages_rare=rare_annots.txt,classes=rare_taglist.txt,images=openimages
    mine=shards/*.tar

The format of TRUTH follows from its name, unless `format=` says it.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, fields
from typing import Literal, get_args

Format = Literal["shards", "list", "coco", "openimages", "ade20k"]
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,63}")
OPTIONS = "format, images, classes, descriptions, map, leave_out, min_area, ambiguous, unverified"


@dataclass(frozen=True)
class SetSpec:
    """An evaluation set as it is named; paths are as the user wrote them."""

    name: str
    truth: str
    format: Format
    images: str | None = None  # folder of the images; None: as the format has it
    classes: str | None = None  # list of the classes; None: those of the file, or of its labels
    descriptions: str | None = None  # OpenImages' table of label ids and names
    map: str | None = None  # file of labels for classes
    leave_out: str | None = None  # file of classes that are left out
    min_area: float = 0.0  # share of the image: a smaller object does not count
    ambiguous: Literal["keep", "leave_out"] = "keep"  # classes whose name is also a name of another class
    unverified: Literal["negative", "unknown"] = "negative"  # classes that nobody checked on an image
    more: tuple[str, ...] = ()  # further shards

    @classmethod
    def parse(cls, text: str) -> SetSpec:
        """Read one value of `--eval`.

        Args:
            text: `NAME=TRUTH[,option=value...]`.

        Returns:
            The set.

        Raises:
            ValueError: if it has another form.
        """
        name, equals, rest = text.partition("=")
        if not equals or not _NAME.fullmatch(name):
            raise ValueError(f"--eval {text}: write NAME=FILE[,option=value...], such as coco80=instances_val2017.json")
        names = "|".join(field.name for field in fields(cls) if field.name not in ("name", "truth", "more"))
        truth, *parts = re.split(rf",(?=(?:{names})=)", rest)
        options = dict(part.split("=", 1) for part in parts)
        if not truth or len(options) < len(parts):
            raise ValueError(f"--eval {text}: name the file once, and each option once ({OPTIONS})")
        values: dict[str, object] = {"format": _format_of(truth), **options}
        choices = {"format": get_args(Format), "ambiguous": ("keep", "leave_out")}
        choices["unverified"] = ("negative", "unknown")
        for option, allowed in choices.items():
            if values.get(option, allowed[0]) not in allowed:
                raise ValueError(f"--eval {name}: {option}={values[option]}: use {', '.join(allowed)}")
        try:
            values["min_area"] = float(options.get("min_area", 0))
        except ValueError:
            values["min_area"] = -1.0
        if not 0 <= float(values["min_area"]) < 1:  # type: ignore[arg-type]
            raise ValueError(f"--eval {name}: min_area={options['min_area']}: use a share of the image, such as 0.01")
        if values["min_area"] and values["format"] not in ("coco", "ade20k"):
            raise ValueError(f"--eval {name}: min_area needs boxes or masks; the format {values['format']} has none")
        if values.get("unverified") == "unknown" and values["format"] not in ("openimages", "shards"):
            raise ValueError(
                f"--eval {name}: unverified=unknown is for openimages and shards, which list what is absent"
            )
        return cls(name=name, truth=truth, **values)  # type: ignore[arg-type]


def _format_of(truth: str) -> str:
    lower = truth.lower()
    if lower.endswith(".txt"):
        return "list"
    if lower.endswith(".json"):
        return "coco"
    return "openimages" if lower.endswith(".csv") else "shards"
