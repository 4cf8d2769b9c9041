"""The stages `label_system` and `labels`: names to a label system, names to label ids.

Ray Data counts the names, so the data on the driver grows with the vocabulary and not with the captions. A caption's
tags have two sources: the parse (`parse_stage`), and names of the label system in the text (see `match`). The source of
each tag is stored.
"""

from __future__ import annotations

import logging
from dataclasses import replace

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from ram_ray.captions.tables import load_lemmas
from ram_ray.config import RunConfig
from ram_ray.data.ground_truth import tag_counts
from ram_ray.evaluation_results import HeldOutLabels
from ram_ray.label_system import LabelSystem
from ram_ray.labels.annotations import Labeller, LabelSettings
from ram_ray.labels.build import build
from ram_ray.labels.counts import NameCounts, read_name_counts
from ram_ray.labels.evidence import Evidence, ambiguous_names, evidence_share, read_evidence
from ram_ray.labels.held_out_rows import HoldingOutLabeller
from ram_ray.labels.human_labels import label_names, name_counts, read_label_counts, vocabularies
from ram_ray.labels.listed import add_entries, fit_ready, make_kind_guesser, read_released
from ram_ray.labels.lists import read_list, read_system
from ram_ray.labels.match import MATCHED
from ram_ray.labels.names import Key
from ram_ray.labels.options import LabelSystemSettings, make_options
from ram_ray.labels.page import to_html
from ram_ray.labels.report import BuildReport
from ram_ray.records import ANNOTATION, HUMAN
from ram_ray.results import Annotations, DualEncoderResult, LabelSystemResult, Parsed
from ram_ray.runtime.annotate import annotate, caption_rows_per_block, map_captions
from ram_ray.runtime.artifacts import Run
from ram_ray.runtime.per_process import PerProcess
from ram_ray.runtime.rows import Count, Counted
from ram_ray.runtime.storage import make_folder
from ram_ray.runtime.tasks import Task
from ram_ray.settings.runtime import Execution

logger = logging.getLogger(__name__)


def build_labels(
    run: Run, config: RunConfig, parsed: Parsed, dual_encoder: DualEncoderResult | None = None
) -> LabelSystemResult:
    """Run the stage `label_system`: a frozen label system from the counts of parsed names, with its report and page.

    Args:
        run: the run; the stage's folder is created in it, and its root gets a copy of the system, report and page.
        config: of the run; its section `labels` configures the build.
        parsed: PARSED rows.
        dual_encoder: of the run; required if `labels.embeddings` is "represent".

    Returns:
        The label system.

    Raises:
        ValueError: if the dual encoder is required and None, or a file that the configuration names cannot be read.
    """
    settings, execution = LabelSystemSettings.from_config(config, run_uri=run.uri), config.execution
    encoder = dual_encoder if settings.templates else None
    if settings.templates and encoder is None:
        raise ValueError("labels.embeddings=represent needs the text encoder of a run; set it to a file of vectors")
    inputs = [parsed, *([encoder] if encoder else [])]
    stage = run.stage("label_system", LabelSystemResult, settings=settings, inputs=inputs)
    if stage.result:
        return stage.result
    with_capitals = settings.max_capitals < 1 and parsed.captions > 0
    mentions = read_label_counts(parsed.path, sets=settings.human_labels, execution=execution)
    found = read_name_counts(
        parsed.path,
        with_capitals=with_capitals,
        min_count=settings.min_name_count,
        kept=label_names(mentions),
        execution=execution,
    )
    human = name_counts(mentions, kind_of=make_kind_guesser(load_lemmas(), found.names)) if mentions else {}
    counts = add_counts(found.names, human)
    vectors = _encode_names(counts, settings, encoder, execution=execution) if encoder else None
    system, report = _build(counts, settings, vectors=vectors, human=frozenset(human), found=found)
    if settings.misses_wordnet:
        logger.info("labels: WordNet is not installed, so it merges no names (labels.wordnet)")
    evidence: dict[int, Evidence] = {}
    note = ""
    if parsed.captions:
        evidence = read_evidence(
            parsed.path,
            num_rows=parsed.rows_out,
            execution=execution,
            system=system,
            max_caption_chars=settings.max_caption_chars,
        )
        if (share := evidence_share(parsed.rows_out)) < 1:
            note = f"matched and agreed captions, and examples, are those of {share:.1%} of the shards"
    system = mark_ambiguous(system, evidence, agreement=settings.match_agreement)
    report.add_evidence(evidence)
    report.captions = found.captions
    report.notes += [note] if note else []
    if found.num_rare:
        report.notes.append(
            f"{found.num_rare:,} names of fewer than {settings.min_name_count} captions were not counted "
            "(labels.min_name_count)"
        )
    _write_outputs(run, stage.path, system, report)
    return stage.finish(
        labels=len(system),
        system_version=system.version,
        names=len(counts) + found.num_rare,
        rare_names=found.num_rare,
        merged=sum(report.merges.values()),
        dropped=sum(report.num_dropped.values()),
    )


def add_counts(counts: dict[Key, dict[str, int]], more: dict[Key, dict[str, int]]) -> dict[Key, dict[str, int]]:
    """Add up two counts of names.

    Args:
        counts: (name, kind) -> source -> captions.
        more: the same of human labels, whose images count as captions.

    Returns:
        The sums.
    """
    sums = {key: dict(sources) for key, sources in counts.items()}
    for key, sources in more.items():
        total = sums.setdefault(key, {})
        for source, count in sources.items():
            total[source] = total.get(source, 0) + count
    return sums


def _build(
    counts: dict[Key, dict[str, int]],
    settings: LabelSystemSettings,
    *,
    vectors: dict[str, np.ndarray] | None,
    human: frozenset[Key],
    found: NameCounts,
) -> tuple[LabelSystem, BuildReport]:
    """The label system of counted names: built of them, or a ready one to which they only add synonyms."""
    lemmas = load_lemmas()
    if not settings.system:
        options = make_options(settings, counts, lemmas=lemmas, vectors=vectors, capitals=found.capitals)
        return build(counts, replace(options, human=human, rare=found.rare))
    kind_of = make_kind_guesser(lemmas, counts)
    listed = read_released(read_system(settings.system.uri, kind_of=kind_of), kind_of=kind_of)
    if settings.added:
        listed = add_entries(listed, read_list(settings.added.uri), kind_of=kind_of)
    names = [*counts, *((entry.name, entry.kind) for entry in listed.labels)]
    return fit_ready(listed, counts, make_options(settings, names, lemmas=lemmas, vectors=vectors))


def mark_ambiguous(system: LabelSystem, evidence: dict[int, Evidence], *, agreement: float) -> LabelSystem:
    """Set the ambiguous words of each label, which only the parse can find.

    Args:
        system: the label system.
        evidence: label id -> evidence.
        agreement: least agreement, 0 to 1, as in `evidence.ambiguous_names`.

    Returns:
        The system with `Label.ambiguous`; its version does not change.
    """
    no_evidence = Evidence({}, [])
    labels = (
        replace(entry, ambiguous=ambiguous_names(evidence.get(entry.id, no_evidence), entry.kind, agreement=agreement))
        for entry in system.labels
    )
    return LabelSystem(labels, unique=system.unique)


def label_captions(
    run: Run, config: RunConfig, parsed: Parsed, labels: LabelSystemResult, *, name: str = "labels"
) -> Annotations:
    """Run the stage `labels`: parsed names, and names in the text, become ids of the label system.

    Args:
        run: the run; the stage's folder is created in it.
        config: of the run.
        parsed: PARSED rows; no false tags are planted in held-out ones.
        labels: the label system; what it holds out is in no annotation.
        name: of this stage.

    Returns:
        The annotations.

    Raises:
        ValueError: if no image has a label that is known to be negative.
    """
    settings, execution = LabelSettings.from_config(config, held_out=parsed.held_out), config.execution
    stage = run.stage(name, Annotations, settings=settings, inputs=[parsed, labels])
    if stage.result:
        return stage.result
    mentions = read_label_counts(parsed.path, sets=settings.human_labels, execution=execution)
    held_out = labels if isinstance(labels, HeldOutLabels) else None
    uri = held_out.all_uri if held_out else labels.uri
    used = vocabularies(mentions, sets=settings.human_labels, system=LabelSystem.load(uri))
    labeller = PerProcess(Labeller.load, uri, settings, used)
    if held_out:
        labeller = PerProcess(
            HoldingOutLabeller.load,
            uri,
            held_out.uri,
            held_out.held_out_uri,
            settings,
            used,
            drop_captions=held_out.captions == "drop" and not parsed.held_out,
        )
    sums = annotate(
        stage,
        lambda dataset: map_captions(dataset, labeller, execution=execution),
        source=parsed.path,
        schema=ANNOTATION,
        execution=execution,
        rows_in=parsed.rows_out,
        count=counted_annotations(count_without_negatives),
        rows_per_block=caption_rows_per_block(parsed.rows_out, execution=execution),
    )
    counts = {name: int(value) for name, value in sums.items()}
    without_negatives, tagged = counts.pop("without_negatives"), counts.pop("tagged")
    if settings.human_labels and without_negatives == tagged > 0:
        raise ValueError(
            f"data.human_labels: each of the {tagged:,} images with tags leaves all other labels unknown, so a model "
            "would learn to predict every label; add negative_labels to the data, or set it to positive or complete"
        )
    rejected, images = counts.pop("rejected_rows"), counts["images"]
    assert parsed.rows_out == images and not rejected, f"{name}: {parsed.rows_out} rows in, {images} + {rejected} out"
    return stage.finish(rows_in=images, rows_out=images, rejected=0, held_out=parsed.held_out, **counts)


def counted_annotations(*extra: Count) -> Counted:
    """Count images and tags, also those matched and those of human labels, and with a truth true and false tags.

    Args:
        *extra: additional counts of a block.

    Returns:
        What a stage counts that writes ANNOTATION rows; tp, fp and fn are over the rows with a truth.
    """

    def count(block: pa.Table) -> dict[str, float]:
        counts = {
            "rejected_rows": len(block) - block["reason"].null_count,
            **_count_origins(block),
            **tag_counts(block).to_pylist()[0],
        }
        for more in extra:
            counts |= more(block)
        return counts

    return Counted(count, ("tags", "absent", "partial", "truth", "unknown_labels", "reason"))


def _encode_names(
    counts: dict[Key, dict[str, int]],
    settings: LabelSystemSettings,
    encoder: DualEncoderResult,
    *,
    execution: Execution,
) -> dict[str, np.ndarray]:
    """Encode the names that can become labels with the run's text encoder, in a Ray task: name -> (D,) float32."""
    frequent = {name for (name, _), sources in counts.items() if sum(sources.values()) >= settings.min_count}
    names, templates = sorted(frequent), list(settings.templates or ())

    def encode() -> np.ndarray:
        from ram_ray.models.teacher import Teacher

        teacher = Teacher.from_pretrained(encoder.source, revision=encoder.revision)
        return teacher.label_embeddings(names, templates).numpy()

    vectors = Task(encode, num_cpus=execution.task_cpus).run()
    return dict(zip(names, vectors, strict=True))


def _write_outputs(run: Run, path: str, system: LabelSystem, report: BuildReport) -> None:
    make_folder(run.fs, run.fs._strip_protocol(path))
    system.save(f"{path}/label_system.json")
    page = to_html(system, report, title=run.uri.rstrip("/").rpartition("/")[2])
    for name, text in (("label_report.json", report.to_json()), ("label_system.html", page)):
        with run.fs.open(f"{run.fs._strip_protocol(path)}/{name}", "w", encoding="utf-8") as file:
            file.write(text)
        run.write_text(name, text)
    run.write_text("label_system.json", system.to_json())


def _count_origins(block: pa.Table) -> dict[str, float]:
    valid = block.filter(pc.is_null(block["reason"])).combine_chunks()
    origins = pc.struct_field(pc.list_flatten(valid["tags"]), "origin")
    return {name: pc.sum(pc.equal(origins, name)).as_py() or 0 for name in (MATCHED, HUMAN)}


def count_without_negatives(block: pa.Table) -> dict[str, float]:
    """Count the images with tags, and those of them without any negative, see `rows.Counted`.

    Args:
        block: ANNOTATION rows.

    Returns:
        Counts by name.
    """
    rows = block.select(["tags", "absent", "partial", "reason"]).to_pylist()
    tagged = [row for row in rows if not row["reason"] and row["tags"]]
    unknown = [row for row in tagged if row["partial"] and not row["absent"]]
    return {"tagged": len(tagged), "without_negatives": len(unknown)}
