"""The reference page of all settings, generated from the settings themselves.

python -m ram_ray.cli.settings_page docs/configuration.md

Each section of the configuration becomes a table: name, type, default and meaning of its fields. Sections of one class,
such as `pretrain` and `finetune`, have the same fields: the first table names all of them, the others only the defaults
that differ. A test holds the page in the repository to this module.
"""

from __future__ import annotations

import argparse
import json
import sys
import types
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal, Union, get_args, get_origin

import annotated_types
from pydantic.fields import FieldInfo

from ram_ray.config import RunConfig
from ram_ray.settings.section import Section

INTRODUCTION = """# Configuration

<!-- made by `python -m ram_ray.cli.settings_page docs/configuration.md` of the fields in ram_ray/settings -->

A run is configured by a preset, then YAML files (`--config`), then single settings (`--set`); later ones win:

```
ram-ray run --preset photos --config mine.yaml --set pretrain.epochs=8
```

```yaml
# mine.yaml
name: mine
labels: {max_labels: 500, min_count: 10}
```

An unknown field or a wrong value is one line that names it, before anything starts. The defaults below are those of the
paper where it gives a value; a preset changes some of them. `null` is written as it stands here.
"""
TYPE_NAMES = {int: "integer", float: "number", str: "text", bool: "`true` or `false`", type(None): "`null`"}
BOUNDS = {
    annotated_types.Ge: ("ge", "at least"),
    annotated_types.Gt: ("gt", "above"),
    annotated_types.Le: ("le", "at most"),
    annotated_types.Lt: ("lt", "below"),
    annotated_types.MinLen: ("min_length", "length at least"),
}


def write_page() -> str:
    """Generate the page.

    Returns:
        Markdown.
    """
    sections = dict(_find_sections("", RunConfig()))
    first_paths: dict[type[Section], str] = {}
    for path in sorted(sections, key=lambda path: path.count(".")):  # a stable sort: the first of the shallowest
        first_paths.setdefault(type(sections[path]), path)
    parts = [_write_section(path, section, sections, first_paths) for path, section in sections.items()]
    return "\n".join([INTRODUCTION, *parts])


def _find_sections(path: str, section: Section) -> Iterator[tuple[str, Section]]:
    """A section and those inside it, with their paths."""
    yield path, section
    for name in type(section).model_fields:
        value = getattr(section, name)
        if isinstance(value, Section):
            yield from _find_sections(f"{path}.{name}".lstrip("."), value)


def _write_section(
    path: str, section: Section, sections: dict[str, Section], first_paths: dict[type[Section], str]
) -> str:
    section_type = type(section)
    heading = f"## `{path}`" if path else "## The run"
    fields = [(name, field) for name, field in section_type.model_fields.items() if not _is_section(section, name)]
    if (first_path := first_paths[section_type]) != path:
        changed = [name for name, _ in fields if getattr(section, name) != getattr(sections[first_path], name)]
        text = f"The fields of `{first_path}`" + ("; defaults that differ:" if changed else ", and the same defaults.")
        rows = [f"| `{name}` | {_format_value(getattr(section, name))} |" for name in changed]
        table = ["| field | default |", "|---|---|", *rows] if changed else []
        return "\n".join([heading, "", _describe_section(path), "", text, "", *table, *([""] if table else [])])
    rows = [
        f"| `{name}` | {format_type(field)} | {_format_value(getattr(section, name))} | {_escape(field.description)} |"
        for name, field in fields
    ]
    text = _describe_section(path) if path else "Fields that belong to no section."
    return "\n".join([heading, "", text, "", "| field | type | default | meaning |", "|---|---|---|---|", *rows, ""])


def _is_section(section: Section, name: str) -> bool:
    return isinstance(getattr(section, name), Section)


def _describe_section(path: str) -> str:
    """The description of the field that holds a section."""
    section_type: type[Section] = RunConfig
    text = ""
    for name in path.split("."):
        field = section_type.model_fields[name]
        text = field.description or ""
        assert isinstance(field.annotation, type)
        section_type = field.annotation
    return text


def format_type(field: FieldInfo) -> str:
    """Describe the values that a field takes.

    Args:
        field: of a section.

    Returns:
        Its type and bounds in words, as Markdown for a cell of a table.
    """
    bounds = [
        f"{words} {getattr(bound, attribute):,}"
        for bound in field.metadata
        for bound_type, (attribute, words) in BOUNDS.items()
        if isinstance(bound, bound_type)
    ]
    return _escape(", ".join([_format_annotation(field.annotation), *bounds]))


def _format_annotation(annotation: Any) -> str:
    origin, arguments = get_origin(annotation), get_args(annotation)
    if origin in (Union, types.UnionType):
        return " or ".join(_format_annotation(argument) for argument in arguments)
    if origin is Literal:
        return ", ".join(f"`{value}`" for value in arguments)
    if origin is list or (origin is tuple and arguments[-1] is Ellipsis):
        return f"list of {_format_annotation(arguments[0])}"
    if origin is dict:
        return f"mapping of text to {_format_annotation(arguments[1])}"
    if origin is tuple:
        return f"[{', '.join(_format_annotation(argument) for argument in arguments)}]"
    if isinstance(annotation, type) and issubclass(annotation, Section):
        return f"mapping of {', '.join(f'`{name}`' for name in annotation.model_fields)}"
    return TYPE_NAMES[annotation]


def _format_value(value: object) -> str:
    return f"`{_escape(json.dumps(value, ensure_ascii=False))}`"


def _escape(text: str | None) -> str:
    return (text or "").replace("|", "\\|")


def put_page(page: str, arguments: list[str]) -> None:
    """Write a page to the file that is named, or to standard output.

    Args:
        page: its text.
        arguments: the file's path, or nothing.
    """
    parser = argparse.ArgumentParser(description="Write the page to a file, or to standard output.")
    parser.add_argument("file", nargs="?", type=Path, help="the Markdown file to write")
    file: Path | None = parser.parse_args(arguments).file
    if file:
        file.write_text(page, encoding="utf-8")
    else:
        print(page, end="")


if __name__ == "__main__":
    put_page(write_page(), sys.argv[1:])
