"""The page that compares the presets of the paper with the official training code, value by value.

python -m ram_ray.cli.paper_page docs/paper-settings.md

The official values, with their sources, are in `official_settings.yaml`; ours are read from the presets. A row where
the two are equal gives no reason, and a row where they differ must give one. A test holds the page in the repository to
this module.
"""

from __future__ import annotations

import json
import sys
from functools import reduce
from importlib import resources

import yaml

from ram_ray.cli.options import PRESETS
from ram_ray.cli.settings_page import put_page
from ram_ray.config import RunConfig, load
from ram_ray.records import Json
from ram_ray.settings.prompts import ENSEMBLE, ensemble

NAMES = ("ram_4m", "ram_14m")
INTRODUCTION = """# The paper's settings

<!-- made by `python -m ram_ray.cli.paper_page docs/paper-settings.md` of official_settings.yaml and the presets -->

The presets `ram_4m` and `ram_14m` beside the official training code of RAM,
[xinyu1205/recognize-anything](https://github.com/xinyu1205/recognize-anything) at
`7cb804a8609e9f4b1a50b7f31436d2df40bb9481`. The last column is empty where the two are equal. `retrain` has the values
of `pretrain`. The data engine has no official code.
"""


def write_page() -> str:
    """Generate the page.

    Returns:
        Markdown.

    Raises:
        ValueError: if a row differs without a reason, or gives a reason and does not differ.
    """
    configs = {name: load(PRESETS / f"{name}.yaml") for name in NAMES}
    text = (resources.files("ram_ray.cli") / "official_settings.yaml").read_text(encoding="utf-8")
    parts = [INTRODUCTION]
    for group in yaml.safe_load(text):
        rows = [_write_row(row, configs) for row in group["rows"]]
        head = ["| setting | ours | official | source | why they differ |", "|---|---|---|---|---|"]
        parts.append("\n".join([f"## {group['group']}", "", *head, *rows, ""]))
    return "\n".join(parts)


def _write_row(row: Json, configs: dict[str, RunConfig]) -> str:
    official = _by_preset(row["official"])
    if "settings" in row:
        title = ", ".join(f"`{path}`" for path in row["settings"])
        all_values = {name: {path: _read(config, path) for path in row["settings"]} for name, config in configs.items()}
        for name, values in all_values.items():
            if any(value != values[row["settings"][0]] for value in values.values()):
                raise ValueError(f"{name}: a row has one value, not {values}")
        ours = {name: values[row["settings"][0]] for name, values in all_values.items()}
    else:
        title, ours = row["name"], _by_preset(row["ours"])
    why = row.get("why", "")
    if (ours == official) != (not why):
        raise ValueError(f"{title}: ours {ours}, official {official}, why {why!r}: only a difference has a reason")
    return f"| {title} | {_format(ours)} | {_format(official)} | {row['source']} | {why} |"


def _by_preset(value: object) -> dict[str, object]:
    return value if isinstance(value, dict) else dict.fromkeys(NAMES, value)


def _read(config: RunConfig, path: str) -> object:
    """The value of a setting, as in YAML."""
    value = reduce(getattr, path.split("."), config)
    if value == ensemble():
        return ENSEMBLE
    return list(value) if isinstance(value, tuple) else value


def _format(values: dict[str, object]) -> str:
    texts = {name: f"`{json.dumps(value)}`" for name, value in values.items()}
    if len(set(texts.values())) == 1:
        return texts[NAMES[0]]
    return ", ".join(f"{name}: {text}" for name, text in texts.items())


if __name__ == "__main__":
    put_page(write_page(), sys.argv[1:])
