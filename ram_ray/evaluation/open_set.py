"""The stage `open_set`: the held-out labels of a run as an evaluation set, whose classes no training has seen.

Its rows are the images of the run's evaluation data. A class is true of an image as the stage `evaluate` has it: by
human labels, or without them by the tags of its captions; for a pair of an attribute and a noun see `labels.compounds`.
A model answers for a class by a label of that very name, if it has one, so that a model that was trained with the
labels can be compared on the same set; else by a label query.
"""

from __future__ import annotations

from collections.abc import Sequence

import pyarrow as pa

from ram_ray.config import RunConfig
from ram_ray.data.ground_truth import true_tags
from ram_ray.evaluation.sets.prepare import MANIFEST, EvalSet, write_set_rows
from ram_ray.evaluation.sets.rows import SET_ROW
from ram_ray.evaluation_results import HeldOutLabels, PreparedSet
from ram_ray.label_system import LabelSystem
from ram_ray.labels.compounds import CompoundReader
from ram_ray.labels.hold_out import hold_out
from ram_ray.labels.stages import label_captions
from ram_ray.results import Annotations, LabelSystemResult, Parsed
from ram_ray.runtime.artifacts import Run, write_text
from ram_ray.runtime.per_process import PerProcess
from ram_ray.runtime.rows import drop_rejected, read_rows
from ram_ray.runtime.storage import remove_folder
from ram_ray.settings.section import StageSettings

NAME = "open_set"  # of the set


class OpenSetSettings(StageSettings):
    """How captions are read for pairs; what is held out is an input."""

    parser: str
    max_caption_chars: int

    @classmethod
    def from_config(cls, config: RunConfig) -> OpenSetSettings:
        """Take the settings out of the configuration of the run."""
        return cls(parser=config.labels.parser, max_caption_chars=config.labels.max_caption_chars)


class TruthReader:
    """ANNOTATION rows of the evaluation data to rows of the set.

    Args:
        system: all labels, of the ids in the rows.
        held_out: labels and pairs that are held out.
        settings: of the stage.
    """

    def __init__(self, system: LabelSystem, held_out: LabelSystem, settings: OpenSetSettings) -> None:
        wanted = {(label.kind, label.name) for label in held_out.labels}
        self._names = {label.id: label.name for label in system.labels if (label.kind, label.name) in wanted}
        self._pairs = set(held_out.names) - set(self._names.values())
        self._read = (
            CompoundReader(system, parser=settings.parser, max_chars=settings.max_caption_chars)
            if self._pairs
            else None
        )

    @classmethod
    def load(cls, all_uri: str, held_out_uri: str, settings: OpenSetSettings) -> TruthReader:
        """Make a reader.

        Args:
            all_uri: of the label system with the held-out labels.
            held_out_uri: of these.
            settings: of the stage.

        Returns:
            The reader.
        """
        return cls(LabelSystem.load(all_uri), LabelSystem.load(held_out_uri), settings)

    def __call__(self, block: pa.Table) -> pa.Table:
        """Read a block.

        Args:
            block: ANNOTATION rows.

        Returns:
            SET_ROW rows of the images that have a truth.
        """
        rows = drop_rejected(block).to_pylist()
        pairs: Sequence[set[str]] = self._read(rows) if self._read else [set() for _ in rows]
        made = []
        for row, found in zip(rows, pairs, strict=True):
            true = true_tags(row["truth"], row["captions"])
            if true is None:
                continue
            names = {self._names[id] for id in true if id in self._names} | (found & self._pairs)
            location = {name: row[name] for name in ("key", "uri", "offset", "nbytes")}
            made.append({**location, "truth": sorted(names), "ignored": [], "absent": None})
        return pa.Table.from_pylist(made, schema=SET_ROW)


def hold_out_labels(
    run: Run, config: RunConfig, labels: LabelSystemResult, parsed: Sequence[Parsed]
) -> tuple[HeldOutLabels, PreparedSet]:
    """Hold labels out of all trainings: the stages `labels_eval_all`, `hold_out` and `open_set`.

    Args:
        run: the run; the folders of the stages are created in it.
        config: of the run.
        labels: the label system.
        parsed: PARSED rows of the evaluation data; the first set counts.

    Returns:
        The label system that trainings see, and the set of what is held out.

    Raises:
        ValueError: without evaluation data.
    """
    if not parsed:
        raise ValueError("evaluate.hold_out_labels: they are scored on held-out images; give these with --eval")
    truth = label_captions(run, config, parsed[0], labels, name="labels_eval_all")
    rest = hold_out(run, config, labels, truth)
    return rest, make_open_set(run, config, rest, truth)


def make_open_set(run: Run, config: RunConfig, labels: HeldOutLabels, truth: Annotations) -> PreparedSet:
    """Write the set.

    Args:
        run: the run; the stage's folder is created in it.
        config: of the run.
        labels: what is held out.
        truth: annotations of the evaluation data, with all labels.

    Returns:
        The set.

    Raises:
        ValueError: if no image of the evaluation data has a truth.
    """
    settings, execution = OpenSetSettings.from_config(config), config.execution
    stage = run.stage("open_set", PreparedSet, settings=settings, inputs=[labels, truth])
    if stage.result:
        return stage.result
    remove_folder(run.fs, run.fs._strip_protocol(stage.path))  # a killed call may have written a part
    reader, folder = PerProcess(TruthReader.load, labels.all_uri, labels.held_out_uri, settings), stage.path

    def write(block: pa.Table) -> pa.Table:
        return pa.table({"images": [write_set_rows(reader(block), folder)[0]]})

    rows = read_rows(truth.path, execution=execution).map_batches(
        write, batch_format="pyarrow", batch_size=None, num_cpus=execution.task_cpus
    )
    images = sum(row["images"] for row in rows.iter_rows())
    if not images:
        raise ValueError(
            "evaluate.hold_out_labels: no image of the evaluation data has human labels or captions to score held-out "
            "labels by"
        )
    classes = list(dict.fromkeys(LabelSystem.load(labels.held_out_uri).names))
    eval_set = EvalSet(
        name=NAME,
        folder=folder,
        identity=stage.digest,
        images=images,
        rejected=0,
        has_images=True,
        classes=classes,
        synonyms=[[] for _ in classes],
        exact=True,
    )
    write_text(f"{folder}/{MANIFEST}", eval_set.model_dump_json(indent=1))
    return stage.finish(set_name=NAME, images=images, rejected=0, classes=len(classes), left_out=0)
