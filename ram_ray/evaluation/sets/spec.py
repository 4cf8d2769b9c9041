"""What a user names as an evaluation set: `NAME=TRUTH[,option=value...]`.

    coco80=annotations/instances_val2017.json,images=val2017
    openimages_rare=rare_annots.txt,classes=rare_taglist.txt,images=openimages
    mine=shards/*.tar
    unseen=runs/mine/evaluation/open_set/DIGEST,format=prepared

The format of TRUTH follows from its name, unless `format=` says it.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Collection
from dataclasses import dataclass, fields, replace
from typing import Any, Literal, get_args

Format = Literal["shards", "list", "coco", "openimages", "ade20k", "prepared"]
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
        if values["format"] == "prepared" and len(options) > 1:
            raise ValueError(f"--eval {name}: format=prepared takes no other option: the set has its own")
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

    def with_paths(self, absolute: Callable[[str], str], *, shipped: Collection[str] = ()) -> SetSpec:
        """Replace the paths.

        Args:
            absolute: makes a path absolute.
            shipped: names of class lists that are no paths.

        Returns:
            The set with other paths.
        """
        paths = {name: getattr(self, name) for name in ("images", "classes", "descriptions", "map", "leave_out")}
        changed: dict[str, Any] = {
            name: path if path is None or (name == "classes" and path in shipped) else absolute(path)
            for name, path in paths.items()
        }
        return replace(self, truth=absolute(self.truth), more=tuple(map(absolute, self.more)), **changed)

    def to_text(self) -> str:
        """Write the set as `parse` reads it.

        Returns:
            `NAME=TRUTH[,option=value...]`, with the options that are not as they are without being named.
        """
        assert not self.more, "plain shards have no name"
        plain = SetSpec(self.name, self.truth, _format_of(self.truth))  # type: ignore[arg-type]
        options = [
            f",{option.name}={getattr(self, option.name)}"
            for option in fields(self)
            if option.name not in ("name", "truth", "more")
            and getattr(self, option.name) != getattr(plain, option.name)
        ]
        return f"{self.name}={self.truth}{''.join(options)}"


def is_named(text: str) -> bool:
    """Whether a value of `--eval` names a set, or is a path.

    Args:
        text: the value.

    Returns:
        True for `NAME=FILE`, unless there is a file or folder of this very name.
    """
    name, equals, _ = text.partition("=")
    return bool(equals) and _NAME.fullmatch(name) is not None and not os.path.exists(text)


def _format_of(truth: str) -> str:
    lower = truth.lower()
    if lower.endswith(".txt"):
        return "list"
    if lower.endswith(".json"):
        return "coco"
    return "openimages" if lower.endswith(".csv") else "shards"
