"""Predictions in a file as a system of its own: what another program, or a service, says of the images of a set.

A line is a JSON object, as `ram-ray tag --data` writes it:

    {"key": "test/0000c64e1253d68f", "tags": ["car", "wheel"], "scores": [0.98, 0.41]}

`key` is the image's key in the set, `tags` are names in any case, `scores` are numbers of any range where higher is
more likely. `error`, a text, says that the image could not be tagged. Other fields are not read. A class that is not
listed has the lowest score of all; so has every class of an image without a line.

Tags answer for the classes of a set by name, synonym, spelling or the set's mapping file. `vocabulary` is a list of the
names that the system knows: with it, a class outside is not supported; without it, every class counts.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

import fsspec
import numpy as np
import pyarrow.parquet as pq

from ram_ray.evaluation.class_mapping import map_classes
from ram_ray.evaluation.score_files import ScoreManifest, start_folder, write_scores
from ram_ray.evaluation.score_set import finish, make_plan, target_rows
from ram_ray.evaluation.sets.prepare import ClassIndex, EvalSet
from ram_ray.evaluation.systems.system import Plan, PlannedClass, Scorer, System
from ram_ray.label_system import Label, LabelSystem, normalize_name
from ram_ray.labels.lists import Entry, read_list
from ram_ray.labels.names import MAX_NAME
from ram_ray.records import Json
from ram_ray.runtime.content import content_digest
from ram_ray.runtime.location import locate

MAX_LINE = 10_000_000  # characters
MAX_ERRORS = 20  # bad lines that are told
IMAGES_PER_PART = 4096


class Prediction(NamedTuple):
    """What a file says of an image."""

    key: str
    tags: dict[str, float]  # normalized name -> score
    error: str | None


class PredictionsSystem(System):
    """A predictions file; it is read and checked when the system is made.

    Args:
        name: in tables.
        source: path or URI of the JSONL, also compressed.
        vocabulary: list of the names that the system knows; None: any.

    Raises:
        ValueError: with a line for each bad line of the file.
    """

    def __init__(self, name: str, source: str, *, vocabulary: str | None = None) -> None:
        super().__init__(name)
        self.source = source
        names: dict[str, None] = {}
        self.num_lines = 0
        self._lowest = math.inf
        for prediction in read_predictions(source):
            names |= dict.fromkeys(prediction.tags)
            self._lowest = min([self._lowest, *prediction.tags.values()])
            self.num_lines += 1
        if not self.num_lines:
            raise ValueError(f"{source}: has no predictions")
        self._is_closed = vocabulary is not None
        listed = [normalize_name(entry.name) for entry in read_list(vocabulary)] if vocabulary else []
        ordered = list(dict.fromkeys([*listed, *names]))
        self._labels = LabelSystem(Label(id, label, "object") for id, label in enumerate(ordered))
        self._used = frozenset(names)

    @property
    def image_size(self) -> int:
        """It takes no images."""
        raise ValueError(f"{self.source} holds predictions; it is not run on images")

    def identity(self) -> Json:
        """All that its scores depend on beside the images and the classes."""
        folder, _, file = self.source.rpartition("/")
        return {"predictions": content_digest(folder or ".", files=(file,)), "names": self._labels.version}

    def plan(self, classes: Sequence[Entry], mapping: Mapping[str, str] | None, *, exact: bool = False) -> Plan:
        """Match the classes with the names of the file, see `System.plan`."""
        matches = map_classes(classes, self._labels, open_set=not self._is_closed, mapping=mapping, exact=exact)
        planned = [
            PlannedClass(index, match.name, match.matched_by, match.text, match.labels)
            for index, match in enumerate(matches)
            if match.matched_by != "unsupported"
        ]
        return Plan(tuple(planned), tuple(match.name for match in matches if match.matched_by == "unsupported"))

    def load(self, plan: Plan, *, device: str, precision: str, threads: int | None) -> Scorer:
        """It is not run on images, see `System.load`."""
        raise ValueError(f"{self.source} holds predictions; it is not run on images")

    def covers(self, eval_set: EvalSet) -> bool:
        """Whether any line is about an image of a set.

        Args:
            eval_set: the set.

        Returns:
            True if so.
        """
        keys = read_truth_rows(eval_set).keys()
        return any(prediction.key in keys for prediction in read_predictions(self.source))

    def score(self, eval_set: EvalSet, folder: str) -> ScoreManifest:
        """Score the file on a set, in this process.

        Args:
            eval_set: the set.
            folder: for the scores.

        Returns:
            The manifest of the folder.

        Raises:
            ValueError: if no line is about an image of the set.
        """
        plan = make_plan(self, eval_set)
        identity = {"set": eval_set.identity, "system": self.identity(), "plan": repr(plan)}
        digest, done = start_folder(folder, identity)
        if done:
            return done.model_copy(update={"system": self.name, "set_name": eval_set.name})
        truth = read_truth_rows(eval_set)
        matched = _Matched()
        num_images = write_scores(self._batches(eval_set, plan, truth, matched), folder)
        never = sum(not (self._used & {self._labels[id].name for id in item.labels}) for item in plan.classes)
        notes = [
            (matched.missing, "images have no line and count as without tags"),
            (matched.errors, "images have an error and count as without tags"),
            (self.num_lines - matched.lines, "lines are about other images"),
            (never, "classes are in no line"),
        ]
        told = [f"{count:,} {text}" for count, text in notes if count]
        return finish(folder, digest, self.name, eval_set, plan, num_images, seconds=0.0, notes=told)

    def _batches(
        self, eval_set: EvalSet, plan: Plan, truth: dict[str, tuple], matched: _Matched
    ) -> Iterator[tuple[list[str], np.ndarray, np.ndarray]]:
        columns: dict[str, list[int]] = {name: [] for name in self._labels.names}
        for column, item in enumerate(plan.classes):
            for label in item.labels:
                columns[self._labels[label].name].append(column)
        index, indices = ClassIndex(eval_set.entries), [item.index for item in plan.classes]
        lowest = np.float32(self._lowest if math.isfinite(self._lowest) else 0.0)
        waiting, absent = dict(truth), np.nextafter(lowest, np.float32(-np.inf))

        def to_batch(predictions: list[Prediction]) -> tuple[list[str], np.ndarray, np.ndarray]:
            scores = np.full((len(predictions), len(indices)), absent, np.float32)
            for row, prediction in enumerate(predictions):
                for name, score in prediction.tags.items():
                    for column in columns[name]:
                        scores[row, column] = max(scores[row, column], score)
            facts = [truth[prediction.key] for prediction in predictions]
            targets = target_rows(*zip(*facts, strict=True), index=index, num_classes=len(eval_set.classes))
            return [prediction.key for prediction in predictions], scores, targets[:, indices]

        part: list[Prediction] = []
        for prediction in read_predictions(self.source):
            if waiting.pop(prediction.key, None) is None:
                continue
            matched.lines += 1
            matched.errors += prediction.error is not None
            part.append(prediction)
            if len(part) == IMAGES_PER_PART:
                yield to_batch(part)
                part = []
        if not matched.lines:
            example = next(iter(read_predictions(self.source))).key
            raise ValueError(
                f"{self.source}: no line is about an image of {eval_set.name}; its keys are such as "
                f"{next(iter(truth))!r}, those of the file such as {example!r}"
            )
        matched.missing = len(waiting)
        part += [Prediction(key, {}, None) for key in waiting]
        for start in range(0, len(part), IMAGES_PER_PART):
            yield to_batch(part[start : start + IMAGES_PER_PART])


class _Matched:
    """Counts of lines and images."""

    lines = errors = missing = 0


def read_truth_rows(eval_set: EvalSet) -> dict[str, tuple[list[str], list[str], list[str] | None]]:
    """Read the truth of a set.

    Args:
        eval_set: the set.

    Returns:
        Key -> names of the true classes, of those that do not count, and of those known to be absent (None: all that
        are not true); images that cannot be used are left out.
    """
    fs, folder = locate(eval_set.folder)
    truth = {}
    for path in sorted(fs.glob(f"{folder}/rows-*.parquet")):
        with fs.open(path, "rb") as file:
            for row in pq.read_table(file, columns=["key", "truth", "ignored", "absent", "reason"]).to_pylist():
                if row["reason"] is None:
                    truth[row["key"]] = (row["truth"], row["ignored"], row["absent"])
    return truth


def read_predictions(uri: str) -> Iterator[Prediction]:
    """Read and check a predictions file line by line.

    Args:
        uri: path or URI of the JSONL, also compressed.

    Yields:
        The predictions.

    Raises:
        ValueError: after the last line, with a line for each bad line; or if there is no such file.
    """
    problems: list[str] = []
    num_bad = 0
    first_lines: dict[str, int] = {}
    try:
        file = fsspec.open(uri, "rb", compression="infer").open()
    except (OSError, ValueError, ImportError) as error:
        raise ValueError(f"{uri}: cannot be read ({error.__class__.__name__})") from None
    with file:
        number = 0
        while raw := file.readline(MAX_LINE + 1):
            number += 1
            if not raw.strip():
                continue
            try:
                if len(raw) > MAX_LINE:
                    raise ValueError(f"is longer than {MAX_LINE:,} bytes")  # the rest is read as further bad lines
                prediction = parse_prediction(raw)
                earlier = first_lines.setdefault(prediction.key, number)
                if earlier != number:
                    raise ValueError(f"the image {prediction.key[:100]!r} is also in line {earlier}")
            except ValueError as error:
                num_bad += 1
                problems += [f"{uri}, line {number}: {error}"] if num_bad <= MAX_ERRORS else []
            else:
                if not num_bad:
                    yield prediction
    if num_bad:
        more = [f"{uri}: {num_bad - MAX_ERRORS:,} more bad lines"] if num_bad > MAX_ERRORS else []
        raise ValueError("\n".join([*problems, *more]))


def parse_prediction(raw: bytes) -> Prediction:
    """Read one line.

    Args:
        raw: UTF-8.

    Returns:
        The prediction.

    Raises:
        ValueError: if it is not of the format.
    """
    try:
        tree = json.loads(raw)
    except (ValueError, RecursionError) as problem:
        raise ValueError(f"is not JSON ({' '.join(str(problem).split())[:80]})") from None
    if not isinstance(tree, dict):
        raise ValueError('is no object; write {"key": ..., "tags": [...], "scores": [...]}')
    key, tags, scores, error = (tree.get(name) for name in ("key", "tags", "scores", "error"))
    if not isinstance(key, str) or not key:
        raise ValueError('has no "key", the text that names the image in the set')
    if error is not None and not isinstance(error, str):
        raise ValueError('"error" is no text')
    if error and not tags:
        return Prediction(key, {}, error)
    if not isinstance(tags, list) or not all(isinstance(tag, str) and 0 < len(tag) <= MAX_NAME for tag in tags):
        raise ValueError(f'"tags" is no list of names of 1 to {MAX_NAME} characters')
    if not isinstance(scores, list) or not all(_is_number(score) for score in scores):
        raise ValueError('"scores" is no list of finite numbers')
    if len(tags) != len(scores):
        raise ValueError(f"has {len(tags)} tags and {len(scores)} scores")
    names = [normalize_name(tag) for tag in tags]
    if len(set(names)) < len(names):
        twice = next(name for name in names if names.count(name) > 1)
        raise ValueError(f"has the tag {twice!r} twice")
    return Prediction(key, dict(zip(names, map(float, scores), strict=True)), error or None)


def _is_number(value: object) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and abs(value) < 1e30
