"""The subcommands of `ram-ray` about models: import, download, export, tag. See `main.py`."""

from __future__ import annotations

import argparse
import json
import sys
from typing import Any

from ram_ray.interop.importing import RELEASES, Sources, download, import_checkpoint


def add_import(commands: Any) -> None:
    """`ram-ray import CHECKPOINT OUT`: a released checkpoint to a model bundle."""
    parser = commands.add_parser("import", help="turn a RAM, RAM++ or Tag2Text checkpoint into a model bundle")
    parser.add_argument("checkpoint", help="the .pth file")
    parser.add_argument("out", help="folder of the bundle")
    _add_sources(parser)
    parser.set_defaults(run=run_import)


def add_download(commands: Any) -> None:
    """`ram-ray download NAME OUT`: fetch a released checkpoint and import it."""
    parser = commands.add_parser("download", help="fetch a released checkpoint from its hub and import it")
    parser.add_argument("name", choices=list(RELEASES))
    parser.add_argument("out", help="folder of the bundle")
    parser.add_argument("--revision", help="commit on the hub, in place of the pinned one")
    _add_sources(parser)
    parser.set_defaults(run=run_download)


def add_export(commands: Any) -> None:
    """`ram-ray export --onnx BUNDLE OUT`: a bundle to an ONNX file that was run and compared."""
    parser = commands.add_parser("export", help="write a bundle's tagger as ONNX, if it gives the bundle's numbers")
    parser.add_argument("--onnx", action="store_true", required=True, help="the format")
    parser.add_argument("bundle")
    parser.add_argument("out", help="a folder, or a file that ends in .onnx")
    parser.add_argument("--images", nargs="*", default=[], metavar="IMAGE", help="photos to compare on")
    parser.set_defaults(run=run_export)


def add_tag(commands: Any) -> None:
    """`ram-ray tag IMAGE ... --model BUNDLE`: tags on standard output."""
    parser = commands.add_parser("tag", help="tag pictures with a model bundle")
    parser.add_argument("images", nargs="+", metavar="IMAGE")
    parser.add_argument("--model", required=True, metavar="BUNDLE", help="folder, URI or Hugging Face id")
    parser.add_argument("--tags", help="your own tags, separated by commas")
    parser.add_argument("--top-k", type=int)
    parser.add_argument("--threshold", type=float)
    parser.add_argument("--caption", action="store_true", help="also write a caption")
    parser.add_argument("--chinese", action="store_true", help="Chinese names of tags, where the model has them")
    parser.add_argument("--json", action="store_true", help="one JSON object a picture")
    parser.add_argument("--backend", default="torch", help="torch or openvino")
    parser.add_argument("--precision", default="fp32", help="fp32 or bf16")
    parser.add_argument(
        "--no-exif",
        action="store_true",
        help="take images as stored, as the released code does: without orientation and transparency",
    )
    parser.set_defaults(run=run_tag)


def _add_sources(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--config", metavar="DIR", help="the reference's configs: med_config.json, q2l_config.json, swin/"
    )
    parser.add_argument("--tag-list", metavar="F", help="names of the tags, one a line")
    parser.add_argument("--thresholds", metavar="F", help="a probability a tag, one a line")
    parser.add_argument("--tag-list-chinese", metavar="F", help="Chinese names, one a line")
    parser.add_argument("--tokenizer", metavar="DIR", help="BERT's vocabulary (vocab.txt or tokenizer.json)")
    parser.add_argument("--text-encoder", metavar="CLIP", help="CLIP for your own tags: folder, URI or Hugging Face id")
    parser.add_argument("--text-encoder-revision", metavar="COMMIT")
    parser.add_argument("--image-size", type=int, metavar="PX", help="which of several swin/*.json")


def _local(source: str | None) -> str | None:
    """A path as it is; of a URI the path of a copy."""
    from ram_ray.runtime.storage import local_copy

    return str(local_copy(source)) if source and "://" in source else source


def _sources(options: argparse.Namespace) -> Sources:
    return Sources(
        configs=_local(options.config),
        tag_list=_local(options.tag_list),
        thresholds=_local(options.thresholds),
        chinese=_local(options.tag_list_chinese),
        tokenizer=options.tokenizer,
        text_encoder=options.text_encoder,
        text_encoder_revision=options.text_encoder_revision,
        image_size=options.image_size,
    )


def run_import(options: argparse.Namespace) -> int:
    """Import; what was assumed goes to standard error."""
    done = import_checkpoint(options.checkpoint, options.out, sources=_sources(options))
    for note in done.notes:
        print(f"ram-ray {options.command}: {note}", file=sys.stderr)
    print(done.summary)
    return 0


def run_download(options: argparse.Namespace) -> int:
    """Fetch, then import."""
    options.checkpoint = download(options.name, revision=options.revision)
    return run_import(options)


def run_export(options: argparse.Namespace) -> int:
    """Export; a file that differs from the bundle is not kept."""
    from ram_ray.interop.onnx_export import export_onnx
    from ram_ray.records import Reject

    try:
        print(export_onnx(options.bundle, options.out, images=options.images))
    except Reject as reject:
        raise ValueError(str(reject)) from None
    return 0


def run_tag(options: argparse.Namespace) -> int:
    """Tag image by image; one that cannot be read is said and gives exit code 1 at the end."""
    from ram_ray.data.preprocess import to_square
    from ram_ray.inference.predictor import Predictor
    from ram_ray.records import Reject

    predictor = Predictor.from_pretrained(
        options.model, backend=options.backend, precision=options.precision, exif=not options.no_exif
    )
    own = None if options.tags is None else [one.strip() for one in options.tags.split(",") if one.strip()]
    failed = 0
    for path in options.images:
        try:
            square = to_square(path, size=predictor.image_size, as_stored=options.no_exif)
        except (Reject, ValueError) as error:
            failed += 1
            print(json.dumps({"image": path, "error": str(error)}) if options.json else f"{error}", flush=True)
            continue
        tokens = predictor.encode(square)
        found = predictor.tag(tokens, top_k=options.top_k, threshold=options.threshold, tags=own)[0]
        caption = predictor.caption(tokens)[0] if options.caption else None
        print(_shown(path, found, caption, options), flush=True)
    return 1 if failed else 0


def _shown(path: str, found: list, caption: str | None, options: argparse.Namespace) -> str:
    names = [one.chinese if options.chinese and one.chinese else one.tag for one in found]
    if not options.json:
        text = " | ".join(f"{name} {one.score:.2f}" for name, one in zip(names, found, strict=True)) or "(no tags)"
        return f"{path}: {text}" + ("" if caption is None else f"\n    {caption}")
    tags = [
        {"tag": name, "id": one.id, "score": round(one.score, 6), "threshold": round(one.threshold, 6)}
        for name, one in zip(names, found, strict=True)
    ]
    return json.dumps(
        {"image": path, "tags": tags, **({} if caption is None else {"caption": caption})}, ensure_ascii=False
    )
