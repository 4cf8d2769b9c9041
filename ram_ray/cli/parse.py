"""`ram-ray parse`: captions to tags, from the command line or from standard input line by line."""

from __future__ import annotations

import json
import os
import select
import sys
from collections.abc import Iterator
from typing import IO, TYPE_CHECKING, Annotated

import typer

from ram_ray.cli.command import require

if TYPE_CHECKING:
    from ram_ray.captions.rules import Tag

_BATCH_LINES = 256
_READ_BYTES = 1 << 16


def parse(
    captions: Annotated[
        list[str] | None,
        typer.Argument(metavar="CAPTION", help="Shown as a tree; without any, standard input is read."),
    ] = None,
    as_json: Annotated[
        bool, typer.Option("--json", help="One JSON object a line: objects, attributes, actions.")
    ] = False,
    model: Annotated[
        str, typer.Option("--model", metavar="NAME", help="The shipped spaCy pipeline, or an installed one.")
    ] = "en_ud_ewt",
    max_chars: Annotated[
        int, typer.Option("--max-chars", metavar="N", help="Longer captions are cut at a word's end.")
    ] = 1000,
) -> int:
    """Extract tags from captions.

    Without a CAPTION standard input is read: each input line gives one output line at once, also a caption that cannot
    be parsed.
    """
    require("spacy", extra="train")
    from ram_ray.captions.parser import CaptionParser

    parser = CaptionParser(model, max_chars=max_chars)
    if captions:
        from ram_ray.captions.draw import draw

        for caption, reading in zip(captions, parser.read(captions), strict=True):
            print(_as_json(reading.tags) if as_json else draw(caption, reading))
        return 0
    for lines in _batches(sys.stdin.buffer):
        for tags in parser.parse([line.decode("utf-8", "replace") for line in lines]):
            print(_as_json(tags) if as_json else _as_text(tags))
        sys.stdout.flush()
    return 0


def _batches(source: IO[bytes]) -> Iterator[list[bytes]]:
    """Yield lists of up to `_BATCH_LINES` lines, each as soon as no more input is available."""
    descriptor = source.fileno()
    partial, pending = b"", []
    while chunk := os.read(descriptor, _READ_BYTES):
        *lines, partial = (partial + chunk).split(b"\n")
        pending += lines
        while len(pending) >= _BATCH_LINES:
            yield pending[:_BATCH_LINES]
            pending = pending[_BATCH_LINES:]
        if pending and not _has_input(descriptor):
            yield pending
            pending = []
    if partial:
        pending.append(partial)
    if pending:
        yield pending


def _has_input(descriptor: int) -> bool:
    """Whether a read would not block; that of a file never blocks."""
    try:
        return bool(select.select([descriptor], [], [], 0)[0])
    except (OSError, ValueError):  # `select` does not support this kind of input
        return False


def _as_json(tags: list[Tag]) -> str:
    groups: dict[str, list[str]] = {"objects": [], "attributes": [], "actions": []}
    for tag in tags:
        groups["objects" if tag.kind == "scene" else tag.kind + "s"].append(tag.name)
    return json.dumps(groups, ensure_ascii=False)


def _as_text(tags: list[Tag]) -> str:
    kinds: dict[str, list[str]] = {}
    for tag in tags:
        kinds.setdefault(tag.kind, []).append(tag.name)
    return "; ".join(f"{kind}: {', '.join(names)}" for kind, names in kinds.items()) or "(no tags)"
