"""`ram-ray models import|download|export`: released checkpoints to model bundles, and bundles to ONNX.

Each command also exists without the word `models`; the help does not list those names.
"""

from __future__ import annotations

import sys
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
    files = (config, tag_list, thresholds, tag_list_chinese)
    sources = _make_sources(*files, tokenizer, text_encoder, text_encoder_revision, image_size)
    return _import(checkpoint, out, sources, command="import")


@app.command("download", cls=Command)
def download_model(
    name: Annotated[Release, typer.Argument(metavar="NAME", help="ram, ram-plus or tag2text.")],
    out: Out,
    revision: Annotated[
        str | None, typer.Option("--revision", metavar="COMMIT", help="Commit on the hub, in place of the pinned one.")
    ] = None,
    config: Configs = None,
    tag_list: TagList = None,
    thresholds: Thresholds = None,
    tag_list_chinese: Chinese = None,
    tokenizer: Tokenizer = None,
    text_encoder: TextEncoder = None,
    text_encoder_revision: TextEncoderRevision = None,
    image_size: ImageSize = None,
) -> int:
    """Download a released checkpoint from the Hugging Face Hub and import it."""
    from ram_ray.interop.importing import download

    files = (config, tag_list, thresholds, tag_list_chinese)
    sources = _make_sources(*files, tokenizer, text_encoder, text_encoder_revision, image_size)
    return _import(download(name, revision=revision), out, sources, command="download")


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


def _make_sources(
    config: str | None,
    tag_list: str | None,
    thresholds: str | None,
    chinese: str | None,
    tokenizer: str | None,
    text_encoder: str | None,
    text_encoder_revision: str | None,
    image_size: int | None,
) -> Sources:
    from ram_ray.interop.importing import Sources

    return Sources(
        configs=_local_path(config),
        tag_list=_local_path(tag_list),
        thresholds=_local_path(thresholds),
        chinese=_local_path(chinese),
        tokenizer=tokenizer,
        text_encoder=text_encoder,
        text_encoder_revision=text_encoder_revision,
        image_size=image_size,
    )


def _local_path(source: str | None) -> str | None:
    """Copy a URI to this machine and return the copy's path; a path is returned unchanged."""
    from ram_ray.runtime.storage import local_copy

    return str(local_copy(source)) if source and "://" in source else source


def _import(checkpoint: str, out: str, sources: Sources, *, command: str) -> int:
    """Import a checkpoint; notes on assumed values go to standard error."""
    from ram_ray.interop.importing import import_checkpoint

    imported = import_checkpoint(checkpoint, out, sources=sources)
    for note in imported.notes:
        print(f"ram-ray {command}: {note}", file=sys.stderr)
    print(imported.summary)
    return 0
