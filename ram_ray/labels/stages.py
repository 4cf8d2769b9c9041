"""The stages `parse`, `label_system` and `labels`: captions to names, names to a label system, names to label ids.

Ray Data counts the names, so the data on the driver grows with the vocabulary and not with the captions. A caption's
tags have two sources: the parse, and names of the label system in the text (see `match`). The source of each tag is
stored.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import ray
import ray.data

from ram_ray.captions.parser import SHIPPED, Tag, load_pipeline, process_parser
from ram_ray.captions.tables import load_lemmas
from ram_ray.config import RunConfig
from ram_ray.data.ground_truth import tag_counts
from ram_ray.label_system import LabelSystem
from ram_ray.labels.annotations import Labeller
from ram_ray.labels.build import build
from ram_ray.labels.counts import (
    Evidence,
    ambiguous_names,
    read_caption_counts,
    read_evidence,
    read_name_counts,
    read_unread_counts,
)
from ram_ray.labels.listed import fit_ready, make_kind_guesser
from ram_ray.labels.lists import read_system
from ram_ray.labels.match import MATCHED
from ram_ray.labels.names import Key
from ram_ray.labels.options import find_edits, identity, make_options
from ram_ray.labels.page import to_html
from ram_ray.labels.report import BuildReport
from ram_ray.records import ANNOTATION, PARSED, to_table
from ram_ray.runtime.annotate import annotate, read_rows, sum_blocks
from ram_ray.runtime.artifacts import Manifest, Run
from ram_ray.runtime.per_process import PerProcess
from ram_ray.runtime.storage import TASK_RETRIES, make_folder
from ram_ray.settings.data import MeasureConfig
from ram_ray.settings.labels import LabelsConfig


class CaptionReader:
    """`records.SAMPLE` rows to `records.PARSED` rows, with a parser for the life of a process."""

    def __init__(self, config: LabelsConfig) -> None:
        self._parser = process_parser(config.parser, max_chars=config.max_caption_chars)

    def __call__(self, block: pa.Table) -> pa.Table:
        """Parse the captions of a block.

        Args:
            block: SAMPLE rows.

        Returns:
            A table of PARSED rows, one for each row of the block.
        """
        rows = block.to_pylist()
        for row, (names, unread) in zip(rows, self._parse([row["captions"] for row in rows]), strict=True):
            row["parsed"], row["unread"] = names, unread
        measured = [row for row in rows if row.get("unseen") is not None]
        for row, (names, unread) in zip(measured, self._parse([row["unseen"] for row in measured]), strict=True):
            rejected = {rejection["caption"] for rejection in unread}
            row["unseen"] = ["" if index in rejected else text for index, text in enumerate(row["unseen"])]
            row["parsed_unseen"] = names
        return to_table(rows, PARSED)

    def _parse(self, rows: list[list[str]]) -> list[tuple[list[dict[str, Any]], list[dict[str, Any]]]]:
        """Names and rejected captions of each row; the captions of all rows are a single batch of the parser."""
        captions = [text for row in rows for text in row]
        tags = self._parser.parse(captions) if captions else []
        results = iter(zip(tags, self._reasons(captions, tags), strict=True))
        parsed_rows = []
        for row in rows:
            parsed: list[dict[str, Any]] = []
            unread: list[dict[str, Any]] = []
            for index in range(len(row)):
                names, reason = next(results)
                parsed += [{"caption": index, "name": tag.name, "kind": tag.kind} for tag in dict.fromkeys(names)]
                unread += [{"caption": index, "reason": reason}] if reason else []
            parsed_rows.append((parsed, unread))
        return parsed_rows

    def _reasons(self, captions: list[str], tags: list[list[Tag]]) -> list[str | None]:
        """Reason of each rejected caption, else None; only captions without tags can be rejected."""
        read = getattr(self._parser, "read", None)  # optional method of a parser
        empty = [text for text, names in zip(captions, tags, strict=True) if not names]
        if read is None or not empty:
            return [None] * len(captions)
        reasons = iter([reading.reason for reading in read(empty)])
        return [None if names else next(reasons) for names in tags]


def parse(run: Run, config: RunConfig, samples: Manifest, *, name: str = "parse") -> Manifest:
    """Run the stage `parse`: names and kinds in every caption.

    Args:
        run: the run; the stage's folder is created in it.
        config: of the run.
        samples: manifest of SAMPLE rows.
        name: of this stage.

    Returns:
        The manifest of the PARSED rows.

    Raises:
        ValueError: if the configured parser is not installed.
    """
    stage_config = {"parser": config.labels.parser, "max_caption_chars": config.labels.max_caption_chars}
    stage = run.stage(name, kind="annotations", config=stage_config, inputs=[samples])
    if stage.manifest:
        return stage.manifest
    if config.labels.parser != SHIPPED:  # raises before any task starts if the pipeline is missing
        load_pipeline(config.labels.parser)
    annotate(
        stage,
        lambda dataset: dataset.map_batches(PerProcess(CaptionReader, config.labels), **caption_tasks(config)),
        source=samples.path,
        schema=PARSED,
        run=config,
        rows_in=samples.counts["rows_out"],
    )
    rows = read_rows(stage.path, run=config, columns=["captions", "parsed", "unread"])
    counts = sum_blocks(rows, _count_parsed, run=config)
    images = int(counts["rows"])
    _check_row_counts(stage.name, rows_in=samples.counts["rows_out"], rows_out=images, rejected=0)
    return stage.finish(
        rows_in=images,
        rows_out=images,
        rejected=0,
        images=images,
        tags=int(counts["tags"]),
        captions=int(counts["captions"]),
        unread=read_unread_counts(stage.path, run=config) if counts["unread"] else {},
    )


def build_labels(run: Run, config: RunConfig, parsed: Manifest, teacher: Manifest | None = None) -> Manifest:
    """Run the stage `label_system`: a frozen label system from the counts of parsed names, with its report and page.

    Args:
        run: the run; the stage's folder is created in it, and its root gets a copy of the system, report and page.
        config: of the run; its section `labels` configures the build.
        parsed: manifest of PARSED rows.
        teacher: manifest of the stage `represent`; required if `labels.embeddings` is "represent".

    Returns:
        The stage's manifest; `label_system_uri` of its path is the URI of the system.

    Raises:
        ValueError: if the teacher is required and None, or a file that the configuration names cannot be read.
    """
    settings = config.labels
    edits = find_edits(settings, run.uri)
    encoder = teacher if settings.embeddings == "represent" else None
    if settings.embeddings == "represent" and encoder is None:
        raise ValueError("labels.embeddings=represent needs the text encoder of a run; set it to a file of vectors")
    stage_config = identity(settings, edits=edits, encoder=encoder.digest if encoder else None)
    stage = run.stage("label_system", kind="annotations", config=stage_config, inputs=[parsed])
    if stage.manifest:
        return stage.manifest
    counts = read_name_counts(parsed.path, run=config)
    vectors = _encode_names(counts, config, encoder) if encoder else None
    lemmas = load_lemmas()
    if settings.system:
        listed = read_system(settings.system, kind_of=make_kind_guesser(lemmas, counts))
        names = [*counts, *((entry.name, entry.kind) for entry in listed.labels)]
        options = make_options(settings, names, edits=edits, lemmas=lemmas, vectors=vectors)
        system, report = fit_ready(listed, counts, options)
    else:
        system, report = build(counts, make_options(settings, counts, edits=edits, lemmas=lemmas, vectors=vectors))
    evidence = read_evidence(parsed.path, run=config, system=system)
    system = mark_ambiguous(system, evidence, agreement=settings.match_agreement)
    report.add_evidence(evidence)
    report.captions = read_caption_counts(parsed.path, run=config)
    _write_outputs(run, stage.path, system, report)
    return stage.finish(
        labels=len(system),
        version=system.version,
        names=len(counts),
        merged=sum(report.merges.values()),
        dropped=sum(report.num_dropped.values()),
    )


def mark_ambiguous(system: LabelSystem, evidence: dict[int, Evidence], *, agreement: float) -> LabelSystem:
    """Set the ambiguous words of each label, which only the parse can find.

    Args:
        system: the label system.
        evidence: label id -> evidence.
        agreement: least agreement, 0 to 1, as in `counts.ambiguous_names`.

    Returns:
        The system with `Label.ambiguous`; its version does not change.
    """
    no_evidence = Evidence({}, [])
    return LabelSystem(
        replace(entry, ambiguous=ambiguous_names(evidence.get(entry.id, no_evidence), entry.kind, agreement=agreement))
        for entry in system.labels
    )


def label_system_uri(path: str) -> str:
    """URI of the label system of a stage.

    Args:
        path: folder of a finished stage `label_system`.

    Returns:
        URI of the JSON file.
    """
    return f"{path}/label_system.json"


def label_captions(
    run: Run, config: RunConfig, parsed: Manifest, labels: Manifest, *, name: str = "labels", held_out: bool = False
) -> Manifest:
    """Run the stage `labels`: parsed names, and names in the text, become ids of the label system.

    Args:
        run: the run; the stage's folder is created in it.
        config: of the run.
        parsed: manifest of PARSED rows.
        labels: manifest of the stage `label_system`.
        name: of this stage.
        held_out: True for images that are not used for training: no false tags are planted.

    Returns:
        The stage's manifest, with the counts of `annotation_counts`.
    """
    settings, measure = config.labels, MeasureConfig() if held_out else config.data.measure
    stage_config: dict[str, Any] = {"match": settings.match, "max_caption_chars": settings.max_caption_chars}
    if measure.is_enabled:
        stage_config |= {"measure": measure, "seed": config.seed}
    stage = run.stage(name, kind="annotations", config=stage_config, inputs=[parsed, labels])
    if stage.manifest:
        return stage.manifest
    uri = label_system_uri(labels.path)
    labeller = PerProcess(Labeller.load, uri, settings, measure=measure, seed=config.seed)
    annotate(
        stage,
        lambda dataset: dataset.map_batches(labeller, **caption_tasks(config)),
        source=parsed.path,
        schema=ANNOTATION,
        run=config,
        rows_in=parsed.counts["rows_out"],
    )
    counts = annotation_counts(stage.path, config=config, system=LabelSystem.load(uri))
    _check_row_counts(stage.name, rows_in=parsed.counts["rows_out"], rows_out=counts["images"], rejected=0)
    return stage.finish(rows_in=counts["images"], rows_out=counts["images"], rejected=0, **counts)


def annotation_counts(
    path: str,
    *,
    config: RunConfig,
    system: LabelSystem,
    extra_counts: Callable[[pa.Table], dict[str, float]] | None = None,
) -> dict[str, Any]:
    """Count images, tags and matched tags and, where rows have human labels, true and false tags: tp, fp, fn.

    Args:
        path: folder of ANNOTATION rows.
        config: of the run.
        system: the label system of the ids.
        extra_counts: additional counts of a block, see `annotate.sum_blocks`.

    Returns:
        Count by name.
    """
    reference = ray.put(system)

    def count(block: pa.Table) -> dict[str, float]:
        return {
            "rejected_rows": len(block) - block["reason"].null_count,
            **_count_matched(block),
            **(extra_counts(block) if extra_counts else {}),
            **tag_counts(block, system=ray.get(reference)).to_pylist()[0],
        }

    columns = ["captions", "tags", "labels", "reason"]
    sums = sum_blocks(read_rows(path, run=config, columns=columns), count, run=config)
    return {name: int(value) for name, value in sums.items()}


def caption_tasks(config: RunConfig) -> dict[str, Any]:
    """Arguments of `Dataset.map_batches` for captions: tasks, so that Ray Data uses all CPUs, also those added later.

    Args:
        config: of the run.

    Returns:
        Keyword arguments.
    """
    return {
        "batch_format": "pyarrow",
        "batch_size": config.data.rows_per_block,
        "num_cpus": config.resources.task_cpus,
    }


def _encode_names(counts: dict[Key, dict[str, int]], config: RunConfig, teacher: Manifest) -> dict[str, np.ndarray]:
    """Encode the names that can become labels with the run's text encoder, in a Ray task: name -> (D,) float32."""
    frequent = {name for (name, _), sources in counts.items() if sum(sources.values()) >= config.labels.min_count}
    names = sorted(frequent)

    def encode() -> np.ndarray:
        from ram_ray.models.dual_encoder import Teacher

        encoder = Teacher.from_pretrained(teacher.counts["source"], revision=teacher.counts["revision"])
        return encoder.label_embeddings(names, list(config.model.templates)).numpy()

    vectors = ray.get(ray.remote(num_cpus=config.resources.task_cpus, **TASK_RETRIES)(encode).remote())
    return dict(zip(names, vectors, strict=True))


def _write_outputs(run: Run, path: str, system: LabelSystem, report: BuildReport) -> None:
    make_folder(run.fs, run.fs._strip_protocol(path))
    system.save(label_system_uri(path))
    page = to_html(system, report, title=run.uri.rstrip("/").rpartition("/")[2])
    for name, text in (("label_report.json", report.to_json()), ("label_system.html", page)):
        with run.fs.open(f"{run.fs._strip_protocol(path)}/{name}", "w", encoding="utf-8") as file:
            file.write(text)
        run.write_text(name, text)
    run.write_text("label_system.json", system.to_json())


def _count_matched(block: pa.Table) -> dict[str, float]:
    valid = block.filter(pc.is_null(block["reason"])).combine_chunks()
    origins = pc.struct_field(pc.list_flatten(valid["tags"]), "origin")
    return {"matched": pc.sum(pc.equal(origins, MATCHED)).as_py() or 0}


def _count_parsed(block: pa.Table) -> dict[str, float]:
    tags = [{(tag["name"], tag["kind"]) for tag in row} for row in block["parsed"].to_pylist()]
    captions, unread = (pc.sum(pc.list_value_length(block[name])).as_py() or 0 for name in ("captions", "unread"))
    return {"rows": len(block), "tags": sum(len(row_tags) for row_tags in tags), "captions": captions, "unread": unread}


def _check_row_counts(stage: str, *, rows_in: int, rows_out: int, rejected: int) -> None:
    assert rows_in == rows_out + rejected, f"{stage}: {rows_in} rows in, {rows_out} out, {rejected} rejected"
