"""`ram-ray tag`: tag images on standard output, or folders and shards into files on Ray.

Batch tagging, with `--data`, is the same function as the program `jobs/tag_images.py`.
"""

from __future__ import annotations

import json
import logging
import os
import shlex
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated

import typer

from ram_ray.cli import tag_query
from ram_ray.cli.command import require
from ram_ray.cli.options import (
    Allow,
    AsJson,
    Backend,
    Boxes,
    Caption,
    Chinese,
    Deny,
    Embedding,
    Model,
    MostSpecific,
    Names,
    Overwrite,
    OwnTags,
    Rename,
    Sets,
    Sidecars,
    Threshold,
    TopK,
    Write,
    absolute,
)

if TYPE_CHECKING:
    from ram_ray.inference.batch_query import TagCounts
    from ram_ray.inference.tag_score import TagScore

logger = logging.getLogger(__name__)

Precision = Annotated[
    str | None,
    typer.Option("--precision", metavar="NAME", help="fp32, bf16 or auto (default: fp32; with --data on a GPU bf16)."),
]
BatchConfig = Annotated[
    list[str] | None,
    typer.Option("--config", metavar="YAML", help="With --data: settings; resources and data limits are used."),
]


def tag(
    model: Annotated[
        str | None, typer.Option("--model", metavar="BUNDLE", help="Model bundle: folder, URI or Hugging Face id.")
    ] = None,
    images: Annotated[
        list[str] | None, typer.Argument(metavar="IMAGE", help="Files or URIs of images, or folders of them.")
    ] = None,
    data: Annotated[
        list[str] | None,
        typer.Option("--data", metavar="GLOB...", help="Folders, shards or globs, tagged in batch into --out."),
    ] = None,
    out: Annotated[
        str | None, typer.Option("--out", metavar="DIR", help="With --data: folder or URI for Parquet and JSONL.")
    ] = None,
    tags: OwnTags = None,
    top_k: TopK = None,
    threshold: Threshold = None,
    caption: Caption = False,
    boxes: Boxes = False,
    embedding: Embedding = False,
    write: Write = None,
    sidecars: Sidecars = None,
    overwrite: Overwrite = False,
    allow: Allow = None,
    deny: Deny = None,
    rename: Rename = None,
    names: Names = None,
    most_specific: MostSpecific = None,
    chinese: Chinese = False,
    as_json: AsJson = False,
    backend: Backend = "torch",
    precision: Precision = None,
    no_exif: Annotated[
        bool,
        typer.Option("--no-exif", help="Take images as stored, as the released code: no orientation or transparency."),
    ] = False,
    config: BatchConfig = None,
    sets: Sets = None,
) -> int:
    """Tag images with a model bundle.

    Each IMAGE gives a line on standard output. --data and --out tag many in batch on Ray, with all cores, and write
    part-*.parquet and part-*.jsonl with the columns key, tags, scores, error. The same command goes on after a break,
    and later tags only what is new or changed.
    """
    if bool(images) == bool(data):
        raise ValueError("name images, or folders and shards with --data and --out")
    if not model:
        what = f"--data {shlex.quote(data[0])} --out tagged" if data else shlex.quote((images or ["photo.jpg"])[0])
        raise ValueError(
            "--model is missing; two commands give the authors' RAM++ and use it: `ram-ray download ram-plus "
            f"bundles/ram-plus`, then `ram-ray tag {what} --model bundles/ram-plus`"
        )
    single_only = {"--json": as_json, "--no-exif": no_exif}
    batch_only = {"--out": out, "--config": config, "--set": sets, "--boxes": boxes, "--embedding": embedding}
    batch_only |= {"--write": write, "--sidecars": sidecars, "--overwrite": overwrite}
    if misplaced := [name for name, value in (single_only if data else batch_only).items() if value]:
        raise ValueError(f"{', '.join(misplaced)}: {'not' if data else 'only'} with --data")
    lists = {"allow": allow, "deny": deny, "rename": rename, "names": names, "most_specific": most_specific}
    if data:
        if not out:
            raise ValueError("--data needs --out, the folder for the results")
        return tag_images(
            model, data, out, top_k, threshold, tags, backend, precision, config, sets, caption, boxes, embedding,
            write, sidecars, overwrite, allow, deny, rename, names, most_specific, chinese,
        )  # fmt: skip
    from ram_ray.data.preprocess import to_square
    from ram_ray.inference.image_files import find_images, is_folder
    from ram_ray.inference.predictor import Predictor
    from ram_ray.records import Reject
    from ram_ray.runtime.location import to_text

    if "" in (images or ()):
        raise ValueError("an image's name is empty; write . for the current folder")
    paths = [path for name in images or () for path in (find_images(name) if is_folder(name) else [name])]
    own_tags = tag_query.split_list(tags, option="--tags")
    predictor = Predictor.from_pretrained(model, backend=backend, precision=precision or "fp32", exif=not no_exif)
    tag_query.check_extras(predictor.config, caption=caption, boxes=False, own_tags=own_tags is not None)
    rules, notes = tag_query.make_rules(predictor.labels, chinese=chinese, **lists)
    if own_tags is not None:
        notes += tag_query.explain_own_tags(predictor.config, top_k=top_k, threshold=threshold)
    for note in notes:
        print(f"ram-ray tag: {note}", file=sys.stderr)
    num_failed = 0
    for path in paths:
        try:
            pixels = to_square(path, size=predictor.image_size, as_stored=no_exif)
        except (Reject, ValueError) as error:
            num_failed += 1
            problem = str(error).encode("utf-8", "backslashreplace").decode()
            print(f"ram-ray tag: {problem}", file=sys.stderr, flush=True)
            if as_json:
                print(json.dumps({"image": to_text(path), "error": problem}), flush=True)
            continue
        tokens = predictor.encode(pixels)
        scores = predictor.tag(tokens, top_k=top_k, threshold=threshold, tags=own_tags, rules=rules)[0]
        text = predictor.caption(tokens)[0] if caption else None
        print((_format_json if as_json else _format_line)(to_text(path), scores, text), flush=True)
    return 1 if num_failed else 0


def tag_images(
    model: Model,
    data: Annotated[
        list[str], typer.Option("--data", metavar="GLOB...", help="Folders, images, shards or globs; paths or URIs.")
    ],
    out: Annotated[str, typer.Option("--out", metavar="DIR", help="Folder or URI for the parts.")],
    top_k: TopK = None,
    threshold: Threshold = None,
    tags: OwnTags = None,
    backend: Backend = "torch",
    precision: Precision = None,
    config: BatchConfig = None,
    sets: Sets = None,
    caption: Caption = False,
    boxes: Boxes = False,
    embedding: Embedding = False,
    write: Write = None,
    sidecars: Sidecars = None,
    overwrite: Overwrite = False,
    allow: Allow = None,
    deny: Deny = None,
    rename: Rename = None,
    names: Names = None,
    most_specific: MostSpecific = None,
    chinese: Chinese = False,
) -> int:
    """Tag a folder of images, or shards, into part-*.parquet and part-*.jsonl.

    Their columns are key, tags, scores, error. Images need no captions; an image that cannot be read gives a row with
    its error. The same command goes on after a break, and later tags only what is new or changed. On a CPU it is
    fastest with --backend openvino --precision bf16.
    """
    require("ray", extra="serve")
    from ram_ray.config import load
    from ram_ray.inference.batch import tag_to_folder
    from ram_ray.inference.batch_query import Query
    from ram_ray.inference.listing import find_work
    from ram_ray.interop.tag_exports import export_tags
    from ram_ray.label_system import LabelSystem
    from ram_ray.models.bundle_config import read_config
    from ram_ray.runtime import cluster, outcome
    from ram_ray.runtime.storage import check_writable, local_copy

    _check_choice("--backend", backend, ("torch", "openvino"))
    _check_choice("--precision", precision or "fp32", ("auto", "fp32", "bf16"))
    settings = load(files=config or (), sets=sets or ())
    own_tags = tag_query.split_list(tags, option="--tags")
    image_formats, archive_formats = tag_query.split_formats(write)
    sink = tag_query.make_sink(image_formats, folder=sidecars, overwrite=overwrite)
    # Report a wrong path before Ray starts.
    work = find_work(data, shard_folders=settings.data.shard_folders, layout=settings.data.layout, out=absolute(out))
    if work.has_shards:
        tag_query.check_shards(image_formats, archive_formats, sidecars=sidecars)
    check_writable(absolute(out))
    model = absolute(model) if os.path.isdir(model) else model
    bundle = read_config(model)
    tag_query.check_extras(bundle, caption=caption, boxes=boxes, own_tags=own_tags is not None)
    labels = LabelSystem.load(str(local_copy(model, files=("label_system.json",)) / "label_system.json"))
    rules, notes = tag_query.make_rules(
        labels, allow=allow, deny=deny, rename=rename, names=names, most_specific=most_specific, chinese=chinese
    )
    if own_tags is not None:
        notes += tag_query.explain_own_tags(bundle, top_k=top_k, threshold=threshold)
    query = Query(
        top_k=top_k,
        threshold=threshold,
        tags=tuple(own_tags) if own_tags is not None else None,
        rules=rules,
        caption=caption,
        boxes=boxes,
        embedding=embedding,
    )
    resources = settings.resources
    if not cluster.joins_cluster():
        cpus = cluster.machine_cpus()
        resources = cluster.resources_for_machine(resources, cpus=min(cpus, resources.num_cpus or cpus))
        settings = settings.model_copy(update={"resources": resources})

    def run() -> None:
        from ram_ray.detectors.tag_boxes import TagBoxes

        for note in notes:
            logger.warning("%s", note)
        cluster.start(num_cpus=resources.num_cpus, object_store_gb=resources.object_store_gb, dashboard=False)
        counts = tag_to_folder(
            model,
            [absolute(uri) for uri in data],
            absolute(out),
            query=query,
            config=settings,
            backend=backend,
            precision=precision,
            box_finder=TagBoxes if boxes else None,
            sink=sink,
        )
        files = export_tags(absolute(out), archive_formats)
        for line in _format_counts(counts, out, files, image_formats=image_formats):
            logger.info("%s", line)

    return outcome.run(run, name="tag_images", folder=None)


def _format_counts(counts: TagCounts, out: str, files: Sequence[str], *, image_formats: Sequence[str]) -> list[str]:
    kept = counts.rows - counts.tagged - counts.unlisted
    lines = [
        f"{counts.tagged:,} images tagged into {out}, {kept:,} kept from before; {counts.rows:,} rows in all, "
        f"{counts.errors:,} of them could not be read"
    ]
    if counts.unlisted:
        lines.append(f"of images that are not there now, or in other folders: {counts.unlisted:,} rows")
    if counts.not_images:
        some = f", such as {', '.join(counts.examples)}" if counts.examples else ""
        lines.append(f"no images, and without a row: {counts.not_images:,}{some}; counts.json has them by folder")
    lines += [f"{name}: {count:,}" for name, count in sorted(counts.written.items())]
    if image_formats and kept:
        lines.append(
            f"{', '.join(image_formats)}: written for images that were tagged now, not for the {kept:,} kept from "
            "before; for all of them name another --out"
        )
    return [*lines, *(f"written: {file}" for file in files)]


def _check_choice(option: str, value: str, choices: tuple[str, ...]) -> None:
    if value not in choices:
        raise ValueError(f"{option} {value}: use {' or '.join(choices)}")


def _format_line(path: str, scores: Sequence[TagScore], caption: str | None) -> str:
    text = " | ".join(f"{score.tag} {score.score:.2f}" for score in scores) or "(no tags)"
    return f"{path}: {text}" + ("" if caption is None else f"\n    {caption}")


def _format_json(path: str, scores: Sequence[TagScore], caption: str | None) -> str:
    tags = [
        {"tag": score.tag, "id": score.id, "score": round(score.score, 6), "threshold": round(score.threshold, 6)}
        for score in scores
    ]
    row = {"image": path, "tags": tags, **({} if caption is None else {"caption": caption})}
    return json.dumps(row, ensure_ascii=False)
