"""The label system: the frozen, versioned list of labels that a run trains on and a model bundle contains.

`ram_ray.labels` builds it; training, inference and serving only read it. A label's id is its index in the list and
never changes within a version.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from functools import cached_property

import fsspec
import numpy as np

from ram_ray.records import KINDS

_SPACES = re.compile(r"[\s_]+")
LIST_FIELDS = ("synonyms", "ambiguous", "read_as")  # fields of a label that hold several names


@dataclass(frozen=True)
class Label:
    """An entry of the label system."""

    id: int
    name: str  # lower case, lemmas, words separated by single spaces
    kind: str  # object | scene | attribute | action
    count: int = 0  # captions that mention it
    synonyms: tuple[str, ...] = ()
    threshold: float | None = None  # least probability of a tag; None: the model's default
    ambiguous: tuple[str, ...] = ()  # of name and synonyms: words that captions mostly use in another meaning
    read_as: tuple[str, ...] = ()  # other kinds that a parser may assign to its names
    chinese: str | None = None  # the Chinese name, where an imported list contains it


def normalize_name(name: str) -> str:
    """Write a name in lower case, its words separated by single spaces.

    Args:
        name: underscores are read as spaces.

    Returns:
        The normalized name.
    """
    return _SPACES.sub(" ", name).strip().lower()


def split_kind(text: str) -> tuple[str | None, str]:
    """Split "action:train" into ("action", "train").

    Args:
        text: a name, or a kind, a colon and a name.

    Returns:
        The kind and the normalized name; the kind is None unless one of `records.KINDS` stands before a colon.
    """
    kind, colon, name = text.partition(":")
    kind = kind.strip().lower()
    return (kind, normalize_name(name)) if colon and kind in KINDS else (None, normalize_name(text))


def is_present(scores: np.ndarray, thresholds: np.ndarray | float) -> np.ndarray:
    """Threshold rule: an image has a tag if the tag's probability is at least the label's threshold.

    The RAM repository's evaluation compares with `>=`, and reported precision and recall follow it, so tags are
    assigned with `>=` as well. (Its `generate_tag` uses `>`; the two differ at exact ties only.) With a threshold of 0
    every tag is present, also a tag whose probability is rounded to 0.

    Args:
        scores: (..., N) probabilities.
        thresholds: a number, or an array that broadcasts to `scores`; compared in the dtype of `scores`.

    Returns:
        (..., N) bool, the shape of `scores`.
    """
    return scores >= np.asarray(thresholds, dtype=scores.dtype)


class LabelSystem:
    """An ordered list of labels with lookup by name or synonym.

    Args:
        labels: in the order of their ids, 0 to N - 1.
        unique: False allows two labels of a kind to share a name, as lists of other projects do; `find` then returns
            the first of them, and only their ids differ.

    Raises:
        ValueError: if ids are not 0..N-1 in order, a kind is unknown, or two labels of a kind share a name.
    """

    def __init__(self, labels: Iterable[Label], *, unique: bool = True) -> None:
        self.labels, self.unique = tuple(labels), unique
        for index, label in enumerate(self.labels):
            if label.id != index:
                raise ValueError(f"label {label.name!r} has id {label.id} but index {index}; ids must equal indices")
            if label.kind not in KINDS:
                raise ValueError(f"label {label.name!r} has kind {label.kind!r}; use one of {', '.join(KINDS)}")
        self._by_name: dict[tuple[str, str], int] = {}
        for label in self.labels:
            if unique and (label.kind, label.name) in self._by_name:
                raise ValueError(f"label {label.name!r} of kind {label.kind} occurs twice")
            self._by_name.setdefault((label.kind, label.name), label.id)
        for label in self.labels:
            for synonym in label.synonyms:
                self._by_name.setdefault((label.kind, synonym), label.id)
        for label in self.labels:  # last, so that a wrong kind never hides a label of that kind
            for kind in label.read_as:
                for name in (label.name, *label.synonyms):
                    self._by_name.setdefault((kind, name), label.id)

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, id: int) -> Label:
        return self.labels[id]

    @property
    def names(self) -> list[str]:
        """Names in the order of ids."""
        return [label.name for label in self.labels]

    def thresholds(self, default: float) -> np.ndarray:
        """Thresholds of all labels.

        Args:
            default: threshold of labels that have none (`model.threshold`).

        Returns:
            (N,) float32, in the order of ids.
        """
        values = [default if label.threshold is None else label.threshold for label in self.labels]
        return np.array(values, dtype=np.float32)

    @cached_property
    def version(self) -> str:
        """Digest of names, kinds and synonyms: the meaning of a model's outputs."""
        content = [(label.name, label.kind, sorted(label.synonyms)) for label in self.labels]
        return hashlib.sha256(json.dumps(content).encode()).hexdigest()[:12]

    def find(self, name: str, kind: str | None = None) -> int | None:
        """Find a label by its name or a synonym.

        Args:
            name: as it is written in the system.
            kind: one of `records.KINDS`; None: the first kind that has the name.

        Returns:
            The label's id; None if no label has the name.
        """
        keys = [(kind, name)] if kind else [(known_kind, name) for known_kind in KINDS]
        return next((self._by_name[key] for key in keys if key in self._by_name), None)

    def to_json(self) -> str:
        """Write the whole system as JSON.

        Returns:
            JSON text that `from_json` reads.
        """
        tree = {"version": self.version, "labels": [asdict(label) for label in self.labels]}
        return json.dumps(tree if self.unique else {**tree, "unique": False}, indent=1)

    @classmethod
    def from_json(cls, text: str) -> LabelSystem:
        """Read the text that `to_json` wrote.

        Args:
            text: JSON.

        Returns:
            The label system.

        Raises:
            ValueError: if the text is not a label system, or its labels do not have the version that it states.
        """
        try:
            tree = json.loads(text)
            labels = [
                Label(**{**fields, **{name: tuple(fields.get(name, ())) for name in LIST_FIELDS}})
                for fields in tree["labels"]
            ]
            system = cls(labels, unique=tree.get("unique", True) is not False)
        except (KeyError, TypeError, json.JSONDecodeError) as error:
            raise ValueError(f"this is not a label system: {error!r}") from error
        if tree.get("version") not in (None, system.version):
            raise ValueError(
                f"the labels have version {system.version} but the file states {tree['version']}; "
                "if the edit is intended, remove its 'version' line"
            )
        return system

    def save(self, uri: str) -> None:
        """Write the system as JSON.

        Args:
            uri: any fsspec URI.
        """
        with fsspec.open(uri, "w") as file:
            file.write(self.to_json())

    @classmethod
    def load(cls, uri: str) -> LabelSystem:
        """Read a system that `save` wrote.

        Args:
            uri: any fsspec URI.

        Returns:
            The label system.

        Raises:
            ValueError: as `from_json`.
        """
        with fsspec.open(uri, "r") as file:
            return cls.from_json(file.read())
