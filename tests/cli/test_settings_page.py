"""Contract: every field of the settings says what it means, and docs/configuration.md is generated from them."""

from __future__ import annotations

import importlib
import pkgutil
import re
from pathlib import Path

import pytest

import ram_ray.settings
from ram_ray.cli.settings_page import write_page
from ram_ray.config import RunConfig, load
from ram_ray.settings.section import Section

PAGE = Path(ram_ray.settings.__file__).parents[2] / "docs" / "configuration.md"
MODULES = [
    importlib.import_module(f"ram_ray.settings.{module.name}")
    for module in pkgutil.iter_modules(ram_ray.settings.__path__)
]
SECTIONS = {
    kind
    for module in MODULES
    for kind in vars(module).values()
    if isinstance(kind, type) and issubclass(kind, Section) and kind is not Section
} | {RunConfig}


@pytest.mark.parametrize("section", sorted(SECTIONS, key=lambda section: section.__name__))
def test_every_field_has_a_description(section: type[Section]) -> None:
    for name, field in section.model_fields.items():
        text = field.description or ""
        assert text.endswith(".") and len(text) < 200, f"{section.__name__}.{name}: {text!r}"


def test_the_page_is_up_to_date() -> None:
    command = "python -m ram_ray.cli.settings_page docs/configuration.md"
    assert PAGE.read_text(encoding="utf-8") == write_page(), f"run `{command}`"


def test_the_page_names_every_section_and_field() -> None:
    parts = re.split(r"^## `?(.*?)`?$", PAGE.read_text(encoding="utf-8"), flags=re.MULTILINE)
    tables = dict(zip(parts[1::2], parts[2::2], strict=True))
    assert "| `epochs` | number, above 0 | `5.0` |" in tables["pretrain"]
    assert "| `epochs` | `2.0` |" in tables["finetune"] and "`lr`" in tables["finetune"]
    assert "The fields of `pretrain`, and the same defaults." in tables["retrain"]
    assert "| `workers` | integer or [integer, integer] | `8` |" in tables["training"]
    assert "| `kinds` | list of `object`, `scene`, `attribute`, `action` |" in tables["labels"]

    def check(path: str, section: Section) -> None:
        for name in type(section).model_fields:
            value = getattr(section, name)
            if isinstance(value, Section):
                check(f"{path}.{name}".lstrip("."), value)
            elif "The fields of" not in tables[path or "The run"]:
                assert f"| `{name}` | " in tables[path or "The run"], (path, name)

    check("", RunConfig())


def test_the_pages_example_loads(tmp_path: Path) -> None:
    match = re.search(r"```yaml\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.DOTALL)
    assert match
    (tmp_path / "mine.yaml").write_text(match[1])
    assert load(files=[tmp_path / "mine.yaml"], sets=["pretrain.epochs=8"]).labels.max_labels == 500
