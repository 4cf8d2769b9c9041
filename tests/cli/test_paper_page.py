"""Contract: docs/paper-settings.md has every value of the presets of the paper beside the official one, and a reason
exactly where they differ."""

from __future__ import annotations

from pathlib import Path

import pytest

import ram_ray
from ram_ray.cli import paper_page
from ram_ray.config import load

PAGE = Path(ram_ray.__file__).parents[1] / "docs" / "paper-settings.md"


def test_the_page_is_up_to_date() -> None:
    command = "python -m ram_ray.cli.paper_page docs/paper-settings.md"
    assert PAGE.read_text(encoding="utf-8") == paper_page.write_page(), f"run `{command}`"


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"settings": ["pretrain.epochs"], "official": 6}, "ours .*5.*official .*6"),
        ({"settings": ["pretrain.epochs"], "official": 5, "why": "for no reason"}, "only a difference has a reason"),
        ({"settings": ["pretrain.epochs", "finetune.epochs"], "official": 5}, "a row has one value"),
    ],
)
def test_a_difference_needs_a_reason(row: dict, message: str) -> None:
    configs = {name: load(paper_page.PRESETS / f"{name}.yaml") for name in paper_page.NAMES}
    with pytest.raises(ValueError, match=message):
        paper_page._write_row({"source": "x", **row}, configs)
