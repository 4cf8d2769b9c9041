"""Options that several commands share, each declared once with name, type and help; and paths made absolute."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated, Literal

import typer

PRESETS = Path(__file__).resolve().parents[1] / "presets"
PRESET_NAMES = sorted(path.stem for path in PRESETS.glob("*.yaml"))

Kind = Literal["object", "scene", "attribute", "action"]

Preset = Annotated[
    str | None, typer.Option(metavar="NAME|YAML", help=f"A whole run: {', '.join(PRESET_NAMES)}, or a YAML file.")
]
ConfigFiles = Annotated[
    list[str] | None, typer.Option("--config", metavar="YAML", help="Settings over the preset's; may be repeated.")
]
Sets = Annotated[
    list[str] | None, typer.Option("--set", metavar="SECTION.FIELD=VALUE", help="One setting; may be repeated.")
]
Train = Annotated[
    list[str] | None, typer.Option("--data", metavar="GLOB...", help="Training shards: tar, Parquet, or folders.")
]
HeldOut = Annotated[
    list[str] | None,
    typer.Option(
        "--eval", metavar="GLOB...|NAME=FILE...", help="Held-out shards to score on, and named evaluation sets."
    ),
]
RunUri = Annotated[str | None, typer.Option("--run", metavar="URI", help="Folder of the run (default: runs/NAME).")]
Check = Annotated[bool, typer.Option("--check", help="Only report what would make the run fail.")]
Serve = Annotated[bool, typer.Option("--serve", help="Deploy the model and serve it until Ctrl-C.")]
TryOut = Annotated[
    int,
    typer.Option(
        "--try",
        metavar="[N]",
        show_default=False,
        help="Deploy, tag N held-out images (default: 3) over HTTP, and shut down.",
    ),
]

GivenModel = Annotated[
    str | None,
    typer.Option("--model", metavar="BUNDLE", help="Bundle to finetune: folder, URI or Hugging Face id."),
]
GivenRevision = Annotated[
    str | None, typer.Option("--revision", metavar="COMMIT", help="Commit of the bundle on the hub.")
]
AddLabels = Annotated[
    str | None, typer.Option("--add-labels", metavar="FILE", help="Labels to add to those of --model, one a line.")
]

Model = Annotated[str, typer.Option("--model", metavar="BUNDLE", help="Model bundle: folder, URI or Hugging Face id.")]
TopK = Annotated[int | None, typer.Option("--top-k", metavar="K", min=1, help="The best K tags of each image.")]
Threshold = Annotated[
    float | None,
    typer.Option("--threshold", metavar="P", min=0, max=1, help="One probability in place of each tag's own."),
]
OwnTags = Annotated[
    str | None,
    typer.Option("--tags", metavar="A,B", help="Your own tags, separated by commas, in place of the model's list."),
]
Allow = Annotated[str | None, typer.Option("--allow", metavar="FILE", help="The only labels to give, one a line.")]
Deny = Annotated[str | None, typer.Option("--deny", metavar="FILE", help="Labels that are never given, one a line.")]
Rename = Annotated[
    str | None,
    typer.Option("--rename", metavar="FILE", help="Other names of labels: `name = other name` on each line."),
]
Names = Annotated[
    str | None, typer.Option("--names", metavar="FILE", help="Names in another language: `name = other` on each line.")
]
MostSpecific = Annotated[
    str | None,
    typer.Option(
        "--most-specific",
        metavar="WHERE",
        help="Of dog and animal only dog: by `wordnet`, its folder, or a file with `dog = animal` on each line.",
    ),
]
Chinese = Annotated[bool, typer.Option("--chinese", help="Chinese names of tags, where the model has them.")]
Caption = Annotated[bool, typer.Option("--caption", help="Also write a caption.")]
Boxes = Annotated[bool, typer.Option("--boxes", help="With --data: also a box of each tag.")]
Embedding = Annotated[bool, typer.Option("--embedding", help="With --data: also the image's embedding.")]
Write = Annotated[
    str | None,
    typer.Option(
        "--write",
        metavar="A,B",
        help="With --data: also txt, xmp or jpeg (beside or in the images), csv, coco, fiftyone, label_studio.",
    ),
]
Sidecars = Annotated[
    str | None, typer.Option("--sidecars", metavar="DIR", help="Folder for txt and xmp, in place of beside the images.")
]
Overwrite = Annotated[bool, typer.Option("--overwrite", help="Replace .txt files that are there.")]
Backend = Annotated[str, typer.Option("--backend", metavar="NAME", help="torch or openvino.")]
AsJson = Annotated[bool, typer.Option("--json", help="Write JSON.")]


def absolute(uri: str) -> str:
    """Make a path absolute, because workers have another working directory.

    Args:
        uri: a path or URI.

    Returns:
        The absolute path; a URI is returned unchanged.
    """
    return uri if "://" in uri else os.path.abspath(uri)
