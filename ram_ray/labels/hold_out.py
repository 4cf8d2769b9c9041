"""The stage `hold_out`: labels that no training sees, so that a model can be scored on labels that are new to it.

Captions are annotated with all labels, and the held-out ones are then taken out: so the other labels have the tags that
they have in a run without the hold-out, and the two runs can be compared. What trainings see is the label system
without them, so nothing else can know them: targets, the tag encoder's prompts, the tags that the data engine adds or
removes, the calibration of thresholds. A training caption that names one is not trained on, unless
`evaluate.hold_out_captions` is `keep`. What was trained before the label system exists, the text encoder of `represent`
and the tokenizer, has read all captions: a label query needs an encoder that knows the word.

A held-out label is drawn from those with enough positives in the evaluation data, or named. A name that no label has is
a pair of an attribute and a noun (`compounds`), which is scored in the same way; its parts stay labels.
"""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Literal

import pyarrow as pa

from ram_ray.config import RunConfig
from ram_ray.data.ground_truth import true_tags
from ram_ray.evaluation_results import HeldOutLabels
from ram_ray.label_system import Label, LabelSystem, normalize_name, split_kind
from ram_ray.labels.compounds import CompoundReader, find_pair, pair_name
from ram_ray.results import Annotations, LabelSystemResult
from ram_ray.runtime.artifacts import Run
from ram_ray.runtime.rows import drop_rejected, sum_blocks
from ram_ray.runtime.storage import make_folder
from ram_ray.settings.section import StageSettings

TRUTH_COLUMNS = ["captions", "truth", "unknown_labels", "reason"]


class HoldOutSettings(StageSettings):
    """All that the choice depends on, beside the label system and the truth of the evaluation data."""

    names: tuple[str, ...]
    number: int  # of labels that are drawn
    compounds: int  # that are drawn
    min_positives: int  # of what is drawn
    captions: Literal["drop", "keep"]
    parser: str
    max_caption_chars: int
    seed: int

    @classmethod
    def from_config(cls, config: RunConfig) -> HoldOutSettings:
        """Take the settings out of the configuration of the run."""
        evaluate, wanted = config.evaluate, config.evaluate.hold_out_labels
        return cls(
            names=() if isinstance(wanted, int) else tuple(wanted),
            number=wanted if isinstance(wanted, int) else 0,
            compounds=evaluate.hold_out_compounds,
            min_positives=max(evaluate.hold_out_min_positives, evaluate.min_positives),
            captions=evaluate.hold_out_captions,
            parser=config.labels.parser,
            max_caption_chars=config.labels.max_caption_chars,
            seed=config.seed,
        )


@dataclass(frozen=True)
class Choice:
    """What is held out: ids of labels, and names of pairs."""

    labels: tuple[int, ...]
    compounds: tuple[str, ...]


def hold_out(run: Run, config: RunConfig, labels: LabelSystemResult, truth: Annotations) -> HeldOutLabels:
    """Take labels out of the label system; the run's root gets what is left, and held_out_labels.json beside it.

    Args:
        run: the run; the stage's folder is created in it.
        config: of the run.
        labels: the label system.
        truth: annotations of the evaluation data, with all labels.

    Returns:
        The label system that trainings see.

    Raises:
        ValueError: if a name is neither a label nor a pair, or too few labels have enough positives.
    """
    settings, execution = HoldOutSettings.from_config(config), config.execution
    stage = run.stage("hold_out", HeldOutLabels, settings=settings, inputs=[labels, truth])
    if stage.result:
        return stage.result
    system = LabelSystem.load(labels.uri)
    reads_pairs = settings.compounds > 0

    def count(block: pa.Table) -> dict[str, float]:
        return count_positives(block, labels.uri, settings, reads_pairs=reads_pairs)

    counts = sum_blocks(truth.path, count, columns=TRUTH_COLUMNS, execution=execution)
    choice = choose(system, {name: int(value) for name, value in counts.items()}, settings)
    rest, held_out = split_system(system, choice)
    make_folder(run.fs, run.fs._strip_protocol(stage.path))
    for name, part in (("label_system", rest), ("held_out_labels", held_out), ("all_labels", system)):
        part.save(f"{stage.path}/{name}.json")
        if part is not system:
            run.write_text(f"{name}.json", part.to_json())
    return stage.finish(
        labels=len(rest),
        system_version=rest.version,
        names=labels.names,
        merged=labels.merged,
        dropped=labels.dropped,
        held_out=len(choice.labels),
        compounds=len(choice.compounds),
        captions=settings.captions,
    )


def count_positives(block: pa.Table, uri: str, settings: HoldOutSettings, *, reads_pairs: bool) -> dict[str, float]:
    """Count the images of each label, and of each pair; for `rows.sum_blocks`.

    Args:
        block: ANNOTATION rows of the evaluation data.
        uri: of the label system of their ids.
        settings: of the stage.
        reads_pairs: whether pairs are counted.

    Returns:
        Images by the label's id as text, and by the pair's name.
    """
    rows = drop_rejected(block).to_pylist()
    counts: dict[str, float] = {}
    for row in rows:
        for id in true_tags(row["truth"], row["captions"]) or ():
            counts[str(id)] = counts.get(str(id), 0) + 1
    if reads_pairs:
        for names in _load_reader(uri, settings.parser, settings.max_caption_chars)(rows):
            for name in names:
                counts[name] = counts.get(name, 0) + 1
    return counts


@lru_cache(maxsize=1)
def _load_reader(uri: str, parser: str, max_chars: int) -> CompoundReader:
    return CompoundReader(LabelSystem.load(uri), parser=parser, max_chars=max_chars)


def choose(system: LabelSystem, counts: Mapping[str, int], settings: HoldOutSettings) -> Choice:
    """Choose what is held out.

    Args:
        system: all labels.
        counts: as of `count_positives`.
        settings: of the stage.

    Returns:
        The choice.

    Raises:
        ValueError: if a name is neither a label nor a pair, too few have enough positives, or no label would be left.
    """
    ids, compounds = _find_named(system, settings.names)
    enough = settings.min_positives
    if settings.number:
        candidates = [label.id for label in _unshared(system) if counts.get(str(label.id), 0) >= enough]
        ids = _draw(candidates, settings.number, settings, field="hold_out_labels")
    if len(ids) >= len(system):
        raise ValueError(f"evaluate.hold_out_labels: none of the {len(system)} labels is left to train on; name fewer")
    if settings.compounds:
        held_out = {system[id].name for id in ids}
        pairs = {name: find_pair(name, system) for name, count in counts.items() if count >= enough}
        usable = [
            name
            for name, pair in sorted(pairs.items())
            if pair and not held_out & {system[id].name for id in pair} and name not in compounds
        ]
        compounds += _draw(usable, settings.compounds, settings, field="hold_out_compounds")
    return Choice(tuple(sorted(ids)), tuple(compounds))


def _find_named(system: LabelSystem, names: Sequence[str]) -> tuple[list[int], list[str]]:
    ids: dict[int, None] = {}
    compounds: dict[str, None] = {}
    for text in names:
        kind, name = split_kind(text)
        matches = [label for label in system.labels if name in (label.name, *label.synonyms)]
        if kind and len({label.kind for label in matches}) > 1:
            kinds = ", ".join(sorted({label.kind for label in matches}))
            raise ValueError(
                f"evaluate.hold_out_labels: {name!r} is a label of several kinds ({kinds}), which one text asks for; "
                f"write {name!r}, and all are held out"
            )
        if matches:
            ids |= dict.fromkeys(label.id for label in matches)
        elif pair := find_pair(name, system):
            compounds[pair_name(pair, system)] = None
        else:
            raise ValueError(
                f"evaluate.hold_out_labels: {text!r} is no label of the run, and no pair of an attribute and a noun "
                "that are; see label_system.json of the run"
            )
    return list(ids), list(compounds)


def _unshared(system: LabelSystem) -> list[Label]:
    """The labels whose names no other label has: one text asks for them alone."""
    owners: dict[str, set[int]] = {}
    for label in system.labels:
        for name in (label.name, *label.synonyms):
            owners.setdefault(name, set()).add(label.id)
    return [label for label in system.labels if all(len(owners[name]) == 1 for name in (label.name, *label.synonyms))]


def _draw(candidates: Sequence, number: int, settings: HoldOutSettings, *, field: str) -> list:
    if len(candidates) < number:
        raise ValueError(
            f"evaluate.{field}: {number} are asked for, and {len(candidates)} have {settings.min_positives} positives "
            "in the evaluation data; ask for fewer, or set evaluate.hold_out_min_positives lower"
        )
    return random.Random(f"{settings.seed}/{field}").sample(sorted(candidates), number)


def split_system(system: LabelSystem, choice: Choice) -> tuple[LabelSystem, LabelSystem]:
    """Split a label system.

    Args:
        system: all labels.
        choice: what is held out.

    Returns:
        The labels that are left, with new ids; and those that are held out, with pairs as objects.
    """
    gone = set(choice.labels)
    rest = [label for label in system.labels if label.id not in gone]
    held_out = [system[id] for id in choice.labels]
    held_out += [Label(0, normalize_name(name), "object") for name in choice.compounds]
    return (
        LabelSystem((replace(label, id=id) for id, label in enumerate(rest)), unique=system.unique),
        LabelSystem((replace(label, id=id) for id, label in enumerate(held_out)), unique=False),
    )
