"""`ram-ray models import|download|export`: released checkpoints to model bundles, and bundles to ONNX.

Each command also exists without the word `models`; the help does not list those names.
"""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from ram_ray.cli.command import Command, make_app

if TYPE_CHECKING:
    from ram_ray.interop.importing import Sources

app = make_app("Import, download and export models.")

Release = Literal["ram", "ram-plus", "tag2text"]
Out = Annotated[str, typer.Argument(metavar="OUT", help="Folder of the bundle.")]
Configs = Annotated[
    str | None,
    typer.Option("--config", metavar="DIR", help="The reference's configs: med_config.json, q2l_config.json, swin/."),
]
TagList = Annotated[str | None, typer.Option("--tag-list", metavar="F", help="Names of the tags, one a line.")]
Thresholds = Annotated[str | None, typer.Option("--thresholds", metavar="F", help="A probability a tag, one a line.")]
Chinese = Annotated[str | None, typer.Option("--tag-list-chinese", metavar="F", help="Chinese names, one a line.")]
Tokenizer = Annotated[
    str | None,
    typer.Option("--tokenizer", metavar="DIR", help="BERT's vocabulary (vocab.txt or tokenizer.json)."),
]
TextEncoder = Annotated[
    str | None,
    typer.Option("--text-encoder", metavar="CLIP", help="CLIP for your own tags: folder, URI or Hugging Face id."),
]
TextEncoderRevision = Annotated[
    str | None, typer.Option("--text-encoder-revision", metavar="COMMIT", help="Commit of the CLIP on the hub.")
]
ImageSize = Annotated[int | None, typer.Option("--image-size", metavar="PX", help="Which of several swin/*.json.")]


@app.command("import", cls=Command)
def import_model(
    checkpoint: Annotated[str, typer.Argument(metavar="CHECKPOINT", help="The .pth file.")],
    out: Out,
    config: Configs = None,
    tag_list: TagList = None,
    thresholds: Thresholds = None,
    tag_list_chinese: Chinese = None,
    tokenizer: Tokenizer = None,
    text_encoder: TextEncoder = None,
    text_encoder_revision: TextEncoderRevision = None,
    image_size: ImageSize = None,
) -> int:
    """Turn a released checkpoint into a model bundle.

    The architecture, RAM, RAM++ or Tag2Text, is recognised by the checkpoint's tensors.
    """
    from ram_ray.interop.importing import Sources

    sources = Sources(
        configs=_local_path(config),
        tag_list=_local_path(tag_list),
        thresholds=_local_path(thresholds),
        chinese=_local_path(tag_list_chinese),
        tokenizer=tokenizer,
        text_encoder=text_encoder,
        text_encoder_revision=text_encoder_revision,
        image_size=image_size,
    )
    return _import(checkpoint, out, sources, command="import")


@app.command("download", cls=Command)
def download_model(
    name: Annotated[Release, typer.Argument(metavar="NAME", help="ram, ram-plus or tag2text.")],
    out: Out,
    text_encoder: TextEncoder = None,
    text_encoder_revision: TextEncoderRevision = None,
    revision: Annotated[
        str | None, typer.Option("--revision", metavar="COMMIT", help="Commit on the hub, in place of the pinned one.")
    ] = None,
    cache: Annotated[
        Path | None,
        typer.Option("--cache", metavar="DIR", help="Where files are kept (default: ~/.cache/ram_ray/downloads)."),
    ] = None,
    hub: Annotated[
        str, typer.Option("--hub", metavar="URL", envvar="HF_ENDPOINT", help="Hugging Face hub or a mirror.")
    ] = "https://huggingface.co",
    github: Annotated[
        str, typer.Option("--github", metavar="URL", envvar="RAM_RAY_GITHUB", help="GitHub's raw files or a mirror.")
    ] = "https://raw.githubusercontent.com",
) -> int:
    """Download a released model and import it.

    The checkpoint comes from the Hugging Face hub; lists and configs come from the authors' repository on GitHub. Each
    is checked by its sha256. The same command goes on after a break.
    """
    from ram_ray.interop.importing import check_new_folder
    from ram_ray.interop.releases import RELEASES, default_cache, download
    from ram_ray.runtime.screen import shown

    check_new_folder(out)
    with shown((sys.stderr, sys.stderr)):  # standard output has the bundle's line alone
        files = download(RELEASES[name], hub=hub, github=github, cache=cache or default_cache(), revision=revision)
    sources = replace(files.sources, text_encoder=text_encoder, text_encoder_revision=text_encoder_revision)
    for note in files.notes:
        print(f"ram-ray download: {note}", file=sys.stderr)
    return _import(str(files.checkpoint), out, sources, command="download", origin=files.origin)


@app.command("export", cls=Command)
def export_model(
    bundle: Annotated[str, typer.Argument(metavar="BUNDLE", help="Model bundle: folder, URI or Hugging Face id.")],
    out: Annotated[str, typer.Argument(metavar="OUT", help="A folder, or a file that ends in .onnx.")],
    onnx: Annotated[bool, typer.Option("--onnx", help="The format; there is no other.")] = False,
    images: Annotated[
        list[str] | None, typer.Option("--images", metavar="IMAGE...", help="Images to compare the outputs on.")
    ] = None,
) -> int:
    """Write a bundle's tagger as ONNX.

    The file is run and compared; it is written only if it gives the bundle's outputs.
    """
    from ram_ray.interop.onnx_export import export_onnx
    from ram_ray.records import Reject

    if not onnx:
        raise ValueError("name the format: --onnx")
    try:
        print(export_onnx(bundle, out, images=images or []))
    except Reject as reject:
        raise ValueError(str(reject)) from None
    return 0


def _local_path(source: str | None) -> str | None:
    """Copy a URI to this machine and return the copy's path; a path is returned unchanged."""
    from ram_ray.runtime.storage import local_copy

    return str(local_copy(source)) if source and "://" in source else source


def _import(checkpoint: str, out: str, sources: Sources, *, command: str, origin: str | None = None) -> int:
    """Import a checkpoint; notes on assumed values go to standard error."""
    from ram_ray.interop.importing import import_checkpoint

    imported = import_checkpoint(checkpoint, out, sources=sources, origin=origin)
    for note in imported.notes:
        print(f"ram-ray {command}: {note}", file=sys.stderr)
    print(imported.summary)
    return 0
