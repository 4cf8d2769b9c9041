"""The stages `parse`, `label_system` and `labels`: captions to tags by name, names to a label system, names to ids.

Counting is Ray Data's, so what the driver receives grows with the vocabulary and not with the captions. A caption's
tags come from two readers, the parse and the label system's own names found in the text (see `match`); which of them
found a tag stays with it.
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
    read_captions,
    read_counts,
    read_evidence,
    read_unread,
)
from ram_ray.labels.lists import read_system
from ram_ray.labels.match import MATCHED
from ram_ray.labels.names import Key
from ram_ray.labels.options import find_edits, identity, make_options
from ram_ray.labels.page import to_html
from ram_ray.labels.ready import fit_ready, kind_guess
from ram_ray.labels.report import BuildReport
from ram_ray.records import ANNOTATION, PARSED, to_table
from ram_ray.runtime.annotate import annotate, read_rows, sum_blocks
from ram_ray.runtime.artifacts import Manifest, Run
from ram_ray.runtime.per_process import PerProcess
from ram_ray.runtime.storage import TASK_RETRIES, make_folder
from ram_ray.settings.data import MeasureConfig
from ram_ray.settings.labels import LabelsConfig


class CaptionReader:
    """`records.SAMPLE` rows to `records.PARSED` rows; holds the parser."""

    def __init__(self, config: LabelsConfig) -> None:
        self._parser = process_parser(config.parser, max_chars=config.max_caption_chars)

    def __call__(self, block: pa.Table) -> pa.Table:
        """PARSED rows of a block of SAMPLE rows."""
        rows = block.to_pylist()
        for row, (names, unread) in zip(rows, self._read([row["captions"] for row in rows]), strict=True):
            row["parsed"], row["unread"] = names, unread
        measured = [row for row in rows if row.get("unseen") is not None]
        for row, (names, unread) in zip(measured, self._read([row["unseen"] for row in measured]), strict=True):
            away = {one["caption"] for one in unread}
            row["unseen"] = ["" if place in away else text for place, text in enumerate(row["unseen"])]
            row["parsed_unseen"] = names
        return to_table(rows, PARSED)

    def _read(self, rows: list[list[str]]) -> list[tuple[list[dict[str, Any]], list[dict[str, Any]]]]:
        """The names, and the captions turned away, of each row's captions; all are parsed in one go."""
        captions = [text for row in rows for text in row]
        tags = self._parser.parse(captions) if captions else []
        found = iter(zip(tags, self._reasons(captions, tags), strict=True))
        answer = []
        for row in rows:
            parsed: list[dict[str, Any]] = []
            unread: list[dict[str, Any]] = []
            for place in range(len(row)):
                names, reason = next(found)
                parsed += [{"caption": place, "name": one.name, "kind": one.kind} for one in dict.fromkeys(names)]
                unread += [{"caption": place, "reason": reason}] if reason else []
            answer.append((parsed, unread))
        return answer

    def _reasons(self, captions: list[str], tags: list[list[Tag]]) -> list[str | None]:
        """Why a caption was turned away, where the parser can say so; asked only where it found nothing."""
        read = getattr(self._parser, "read", None)
        empty = [text for text, names in zip(captions, tags, strict=True) if not names]
        if read is None or not empty:
            return [None] * len(captions)
        reasons = iter([one.reason for one in read(empty)])
        return [None if names else next(reasons) for names in tags]


def parse(run: Run, config: RunConfig, samples: Manifest, *, name: str = "parse") -> Manifest:
    """Tags of every caption, by name and kind.

    Args:
        run: gets the stage's folder.
        config: of the run.
        samples: stage that left SAMPLE rows.
        name: of this stage.

    Returns:
        The manifest of the PARSED rows.
    """
    identity = {"parser": config.labels.parser, "max_caption_chars": config.labels.max_caption_chars}
    stage = run.stage(name, kind="annotations", config=identity, inputs=[samples])
    if stage.manifest:
        return stage.manifest
    if config.labels.parser != SHIPPED:  # a missing pipeline is the user's mistake: say so before any task starts
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
    _balance(stage.name, rows_in=samples.counts["rows_out"], rows_out=images, rejected=0)
    return stage.finish(
        rows_in=images,
        rows_out=images,
        rejected=0,
        images=images,
        tags=int(counts["tags"]),
        captions=int(counts["captions"]),
        unread=read_unread(stage.path, run=config) if counts["unread"] else {},
    )


def build_labels(run: Run, config: RunConfig, parsed: Manifest, teacher: Manifest | None = None) -> Manifest:
    """A frozen label system from the counts of parsed tags, with its report and page, in the stage and the run's root.

    Args:
        run: gets the stage's folder, and the report and page in its root.
        config: of the run; `labels` says how the system is built.
        parsed: stage that left PARSED rows.
        teacher: `represent`'s manifest; needed where `labels.embeddings` is "represent".

    Returns:
        The stage's manifest; `label_system_uri` says where in its folder the system is.

    Raises:
        ValueError: if the teacher is needed and not given, or a file that the configuration names cannot be read.
    """
    settings = config.labels
    edits = find_edits(settings, run.uri)
    encoder = teacher if settings.embeddings == "represent" else None
    if settings.embeddings == "represent" and encoder is None:
        raise ValueError("labels.embeddings=represent needs the run's own text encoder; give a file of vectors here")
    what = identity(settings, edits=edits, encoder=encoder.digest if encoder else None)
    stage = run.stage("label_system", kind="annotations", config=what, inputs=[parsed])
    if stage.manifest:
        return stage.manifest
    counts = read_counts(parsed.path, run=config)
    vectors = _encode_names(counts, config, encoder) if encoder else None
    lemmas = load_lemmas()
    if settings.system:
        listed = read_system(settings.system, kind_of=kind_guess(lemmas, counts))
        names = [*counts, *((one.name, one.kind) for one in listed.labels)]
        options = make_options(settings, names, edits=edits, lemmas=lemmas, vectors=vectors)
        system, report = fit_ready(listed, counts, options)
    else:
        system, report = build(counts, make_options(settings, counts, edits=edits, lemmas=lemmas, vectors=vectors))
    evidence = read_evidence(parsed.path, run=config, system=system)
    system = mark_ambiguous(system, evidence, agreement=settings.match_agreement)
    report.add_evidence(evidence)
    report.captions = read_captions(parsed.path, run=config)
    _write(run, stage.path, system, report)
    return stage.finish(
        labels=len(system),
        version=system.version,
        names=len(counts),
        merged=sum(report.merges.values()),
        dropped=sum(report.num_dropped.values()),
    )


def mark_ambiguous(system: LabelSystem, evidence: dict[int, Evidence], *, agreement: float) -> LabelSystem:
    """The system with the words noted that matching must leave to the parse.

    Args:
        system: the labels.
        evidence: of each label, by id.
        agreement: as of `counts.ambiguous_names`.
    """
    nothing = Evidence({}, [])
    return LabelSystem(
        replace(one, ambiguous=ambiguous_names(evidence.get(one.id, nothing), one.kind, agreement=agreement))
        for one in system.labels
    )


def label_system_uri(path: str) -> str:
    """Where a `label_system` stage keeps it."""
    return f"{path}/label_system.json"


def label(
    run: Run, config: RunConfig, parsed: Manifest, labels: Manifest, *, name: str = "labels", held_out: bool = False
) -> Manifest:
    """Parsed names, and names found in the text, to ids of the label system: the first annotations.

    Args:
        run: gets the stage's folder.
        config: of the run.
        parsed: stage that left PARSED rows.
        labels: stage that built the label system.
        name: of this stage.
        held_out: not to be trained on, so that nothing is planted.

    Returns:
        The stage's manifest, with the counts of `annotation_counts`.
    """
    settings, measure = config.labels, MeasureConfig() if held_out else config.data.measure
    identity: dict[str, Any] = {"match": settings.match, "max_caption_chars": settings.max_caption_chars}
    if measure.on:
        identity |= {"measure": measure, "seed": config.seed}
    stage = run.stage(name, kind="annotations", config=identity, inputs=[parsed, labels])
    if stage.manifest:
        return stage.manifest
    uri = label_system_uri(labels.path)
    to_ids = PerProcess(Labeller.load, uri, settings, measure=measure, seed=config.seed)
    annotate(
        stage,
        lambda dataset: dataset.map_batches(to_ids, **caption_tasks(config)),
        source=parsed.path,
        schema=ANNOTATION,
        run=config,
        rows_in=parsed.counts["rows_out"],
    )
    counts = annotation_counts(stage.path, config=config, system=LabelSystem.load(uri))
    _balance(stage.name, rows_in=parsed.counts["rows_out"], rows_out=counts["images"], rejected=0)
    return stage.finish(rows_in=counts["images"], rows_out=counts["images"], rejected=0, **counts)


def annotation_counts(
    path: str, *, config: RunConfig, system: LabelSystem, also: Callable[[pa.Table], dict[str, float]] | None = None
) -> dict[str, Any]:
    """Images, tags, matched tags and, where rows carry human labels, how true the tags are: tp, fp, fn.

    Args:
        path: folder of ANNOTATION rows.
        config: of the run.
        system: the label system that ids are of.
        also: counts more of each block, see `annotate.sum_blocks`.
    """
    reference = ray.put(system)

    def count(block: pa.Table) -> dict[str, float]:
        return {
            "rejected_rows": len(block) - block["reason"].null_count,
            **_count_matched(block),
            **(also(block) if also else {}),
            **tag_counts(block, system=ray.get(reference)).to_pylist()[0],
        }

    columns = ["captions", "tags", "labels", "reason"]
    sums = sum_blocks(read_rows(path, run=config, columns=columns), count, run=config)
    return {name: int(value) for name, value in sums.items()}


def caption_tasks(config: RunConfig) -> dict[str, Any]:
    """What a step over captions asks Ray Data for: tasks, which use every CPU that there is, now or later."""
    return {
        "batch_format": "pyarrow",
        "batch_size": config.data.rows_per_block,
        "num_cpus": config.resources.task_cpus,
    }


def _encode_names(counts: dict[Key, dict[str, int]], config: RunConfig, teacher: Manifest) -> dict[str, np.ndarray]:
    """Vectors of the names that can become labels, by the run's own text encoder, away from the driver."""
    frequent = {name for (name, _), sources in counts.items() if sum(sources.values()) >= config.labels.min_count}
    names = sorted(frequent)

    def encode() -> np.ndarray:
        from ram_ray.models.dual_encoder import Teacher

        encoder = Teacher.from_pretrained(teacher.counts["source"], revision=teacher.counts["revision"])
        return encoder.label_embeddings(names, list(config.model.templates)).numpy()

    vectors = ray.get(ray.remote(num_cpus=config.resources.task_cpus, **TASK_RETRIES)(encode).remote())
    return dict(zip(names, vectors, strict=True))


def _write(run: Run, path: str, system: LabelSystem, report: BuildReport) -> None:
    make_folder(run.fs, run.fs._strip_protocol(path))
    system.save(label_system_uri(path))
    page = to_html(system, report, title=run.uri.rstrip("/").rpartition("/")[2])
    for name, text in (("label_report.json", report.to_json()), ("label_system.html", page)):
        with run.fs.open(f"{run.fs._strip_protocol(path)}/{name}", "w", encoding="utf-8") as file:
            file.write(text)
        run.write_text(name, text)
    run.write_text("label_system.json", system.to_json())


def _count_matched(block: pa.Table) -> dict[str, float]:
    good = block.filter(pc.is_null(block["reason"])).combine_chunks()
    origins = pc.struct_field(pc.list_flatten(good["tags"]), "origin")
    return {"matched": pc.sum(pc.equal(origins, MATCHED)).as_py() or 0}


def _count_parsed(block: pa.Table) -> dict[str, float]:
    tags = [{(tag["name"], tag["kind"]) for tag in row} for row in block["parsed"].to_pylist()]
    captions, unread = (pc.sum(pc.list_value_length(block[name])).as_py() or 0 for name in ("captions", "unread"))
    return {"rows": len(block), "tags": sum(len(one) for one in tags), "captions": captions, "unread": unread}


def _balance(stage: str, *, rows_in: int, rows_out: int, rejected: int) -> None:
    assert rows_in == rows_out + rejected, f"{stage}: {rows_in} rows in, {rows_out} out, {rejected} rejected"
