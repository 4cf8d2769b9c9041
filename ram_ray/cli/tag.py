"""`ram-ray tag`: tag images on standard output, or folders and shards into files on Ray.

Batch tagging, with `--data`, is the same function as the program `jobs/tag_images.py`.
"""

from __future__ import annotations

import json
import logging
import os
import shlex
from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated

import typer

from ram_ray.cli.command import require
from ram_ray.cli.options import AsJson, Backend, Model, OwnTags, Sets, Threshold, TopK, absolute

if TYPE_CHECKING:
    from ram_ray.inference.tag_score import TagScore

logger = logging.getLogger(__name__)

Precision = Annotated[
    str | None,
    typer.Option("--precision", metavar="NAME", help="fp32 or bf16 (default: fp32; with --data on a GPU bf16)."),
]
BatchConfig = Annotated[
    list[str] | None,
    typer.Option("--config", metavar="YAML", help="With --data: settings; resources and data limits are used."),
]


def tag(
    model: Annotated[
        str | None, typer.Option("--model", metavar="BUNDLE", help="Model bundle: folder, URI or Hugging Face id.")
    ] = None,
    images: Annotated[list[str] | None, typer.Argument(metavar="IMAGE", help="Files or URIs of images.")] = None,
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
    caption: Annotated[bool, typer.Option("--caption", help="Also write a caption.")] = False,
    chinese: Annotated[
        bool, typer.Option("--chinese", help="Chinese names of tags, where the model has them.")
    ] = False,
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
    part-*.parquet and part-*.jsonl with the columns key, tags, scores, error.
    """
    if bool(images) == bool(data):
        raise ValueError("name images, or folders and shards with --data and --out")
    if model is None:
        what = f"--data {shlex.quote(data[0])} --out tagged" if data else shlex.quote((images or ["photo.jpg"])[0])
        raise ValueError(
            "--model is missing; two commands give the authors' RAM++ and use it: `ram-ray download ram-plus "
            f"bundles/ram-plus`, then `ram-ray tag {what} --model bundles/ram-plus`"
        )
    single_only = {"--caption": caption, "--chinese": chinese, "--json": as_json, "--no-exif": no_exif}
    batch_only = {"--out": out, "--config": config, "--set": sets}
    if misplaced := [name for name, value in (single_only if data else batch_only).items() if value]:
        raise ValueError(f"{', '.join(misplaced)}: {'not' if data else 'only'} with --data")
    if data:
        if not out:
            raise ValueError("--data needs --out, the folder for the results")
        return tag_images(model, data, out, top_k, threshold, tags, backend, precision, config, sets)
    from ram_ray.data.preprocess import to_square
    from ram_ray.inference.predictor import Predictor
    from ram_ray.records import Reject
    from ram_ray.runtime.location import to_text

    predictor = Predictor.from_pretrained(model, backend=backend, precision=precision or "fp32", exif=not no_exif)
    own_tags = _split_tags(tags)
    num_failed = 0
    for path in images or ():
        try:
            pixels = to_square(path, size=predictor.image_size, as_stored=no_exif)
        except (Reject, ValueError) as error:
            num_failed += 1
            problem = str(error).encode("utf-8", "backslashreplace").decode()
            print(json.dumps({"image": to_text(path), "error": problem}) if as_json else problem, flush=True)
            continue
        tokens = predictor.encode(pixels)
        scores = predictor.tag(tokens, top_k=top_k, threshold=threshold, tags=own_tags)[0]
        text = predictor.caption(tokens)[0] if caption else None
        names = [score.chinese if chinese and score.chinese else score.tag for score in scores]
        print((_format_json if as_json else _format_line)(to_text(path), names, scores, text), flush=True)
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
) -> int:
    """Tag a folder of images, or shards, into part-*.parquet and part-*.jsonl.

    Their columns are key, tags, scores, error. Images need no captions; an image that cannot be read gives a row with
    its error. On a CPU it is fastest with --backend openvino --precision bf16.
    """
    require("ray", extra="serve")
    from ram_ray.config import load
    from ram_ray.inference import batch, image_files
    from ram_ray.runtime import cluster, outcome

    _check_choice("--backend", backend, ("torch", "openvino"))
    _check_choice("--precision", precision or "fp32", ("fp32", "bf16"))
    settings = load(files=config or (), sets=sets or ())
    own_tags = _split_tags(tags)
    query = batch.Query(top_k=top_k, threshold=threshold, tags=tuple(own_tags) if own_tags is not None else None)
    # Report a wrong path before Ray starts.
    image_files.find_work(data, shard_folders=settings.data.shard_folders, layout=settings.data.layout)
    resources = settings.resources
    if not cluster.joins_cluster():
        cpus = cluster.machine_cpus()
        resources = cluster.resources_for_machine(resources, cpus=min(cpus, resources.num_cpus or cpus))
        settings = settings.model_copy(update={"resources": resources})

    def work() -> None:
        cluster.start(num_cpus=resources.num_cpus, object_store_gb=resources.object_store_gb, dashboard=False)
        counts = batch.tag_to_folder(
            absolute(model) if os.path.isdir(model) else model,
            [absolute(uri) for uri in data],
            absolute(out),
            query=query,
            config=settings,
            backend=backend,
            precision=precision,
        )
        logger.info("%d images tagged into %s, %d of them could not be read", counts["images"], out, counts["errors"])

    return outcome.run(work, name="tag_images", folder=None)


def _split_tags(tags: str | None) -> list[str] | None:
    return [tag.strip() for tag in tags.split(",") if tag.strip()] if tags is not None else None


def _check_choice(option: str, value: str, choices: tuple[str, ...]) -> None:
    if value not in choices:
        raise ValueError(f"{option} {value}: use {' or '.join(choices)}")


def _format_line(path: str, names: Sequence[str], scores: Sequence[TagScore], caption: str | None) -> str:
    text = " | ".join(f"{name} {score.score:.2f}" for name, score in zip(names, scores, strict=True)) or "(no tags)"
    return f"{path}: {text}" + ("" if caption is None else f"\n    {caption}")


def _format_json(path: str, names: Sequence[str], scores: Sequence[TagScore], caption: str | None) -> str:
    tags = [
        {"tag": name, "id": score.id, "score": round(score.score, 6), "threshold": round(score.threshold, 6)}
        for name, score in zip(names, scores, strict=True)
    ]
    row = {"image": path, "tags": tags, **({} if caption is None else {"caption": caption})}
    return json.dumps(row, ensure_ascii=False)
