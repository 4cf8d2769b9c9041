"""The `ram-ray` command: small tools around the pipeline, one subcommand each.

A subcommand is a function that adds its parser and names what runs it (`set_defaults(run=...)`); it imports
what it needs when it runs, so that `ram-ray parse` never loads torch. To add one, write such a function and
list it in `COMMANDS`. Those about models are in `models.py`, those about label systems in `labels.py`.
"""

from __future__ import annotations

import argparse
import json
import os
import select
import sys
from collections.abc import Callable, Iterator
from typing import IO, TYPE_CHECKING, Any

from ram_ray.cli.models import add_download, add_export, add_import, add_tag

if TYPE_CHECKING:
    from ram_ray.captions.rules import Tag

_BATCH = 256
_READ = 1 << 16


def add_parse(commands: Any) -> None:
    """`ram-ray parse [CAPTION ...] [--json]`: tags of the captions named, or of standard input line by line."""
    parser = commands.add_parser("parse", help="read tags from captions: those named, or one a line on standard input")
    parser.add_argument("captions", nargs="*", metavar="CAPTION", help="drawn as a tree; without any, standard input")
    parser.add_argument("--json", action="store_true", help="one JSON object a line: objects, attributes, actions")
    parser.add_argument("--model", default="en_ud_ewt", help="the shipped spaCy pipeline, or an installed one")
    parser.add_argument("--max-chars", type=int, default=1000, help="longer captions are cut at a word's end")
    parser.set_defaults(run=run_parse)


def add_labels(commands: Any) -> None:
    """`ram-ray labels ...`: make, look at, compare and exchange label systems."""
    from ram_ray.cli.labels import add_labels as add

    add(commands)


COMMANDS: list[Callable[[Any], None]] = [add_parse, add_labels, add_import, add_download, add_export, add_tag]


def run_parse(options: argparse.Namespace) -> int:
    """Draw the captions named, or parse standard input as it comes: one line out a line in, even an unreadable one."""
    from ram_ray.captions.parser import CaptionParser

    parser = CaptionParser(options.model, max_chars=options.max_chars)
    if options.captions:
        from ram_ray.captions.draw import draw

        for caption, found in zip(options.captions, parser.read(options.captions), strict=True):
            print(_as_json(found.tags) if options.json else draw(caption, found))
        return 0
    for lines in _batches(sys.stdin.buffer):
        captions = [line.decode("utf-8", "replace") for line in lines]
        for tags in parser.parse(captions):
            print(_as_json(tags) if options.json else _as_text(tags))
        sys.stdout.flush()
    return 0


def _batches(source: IO[bytes]) -> Iterator[list[bytes]]:
    """Lines in lists of up to `_BATCH`, each as soon as no more input is waiting."""
    descriptor = source.fileno()
    rest, ready = b"", []
    while chunk := os.read(descriptor, _READ):
        *lines, rest = (rest + chunk).split(b"\n")
        ready += lines
        while len(ready) >= _BATCH:
            yield ready[:_BATCH]
            ready = ready[_BATCH:]
        if ready and not _waiting(descriptor):
            yield ready
            ready = []
    if rest:
        ready.append(rest)
    if ready:
        yield ready


def _waiting(descriptor: int) -> bool:
    """True if a read would not block; a file always answers at once."""
    try:
        return bool(select.select([descriptor], [], [], 0)[0])
    except (OSError, ValueError):  # not a thing that can be waited on
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


def main(arguments: list[str] | None = None) -> int:
    """Entry point of `ram-ray`; a user's mistake is one line on standard error and exit code 2."""
    parser = argparse.ArgumentParser(prog="ram-ray", description="Tools around the ram_ray pipeline.")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    for add in COMMANDS:
        add(commands)
    options = parser.parse_args(arguments)
    try:
        return options.run(options)
    except ValueError as error:
        print(f"ram-ray {options.command}: {error}", file=sys.stderr)
        return 2
    except (BrokenPipeError, KeyboardInterrupt):
        # The reader is gone: closing standard output later would complain once more.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1


if __name__ == "__main__":
    sys.exit(main())
