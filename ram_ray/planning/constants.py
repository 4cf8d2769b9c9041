"""The constants of a plan: a value, its unit, and where it is from.

Shipped values are in `constants.yaml`. A file of the same form replaces some of them: `ram-ray plan --measure` writes
one with what it measured on the user's machine.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import fsspec
import yaml

SHIPPED = Path(__file__).with_name("constants.yaml")


@dataclass(frozen=True)
class Constant:
    """A value, and where it is from."""

    value: float
    unit: str
    kind: Literal["measured", "estimate"]
    origin: str
    date: str = ""
    machine: str = ""

    def to_dict(self) -> dict[str, Any]:
        """The fields that are set, for YAML and JSON."""
        return {name: value for name, value in asdict(self).items() if value != ""}


class Constants(Mapping[str, float]):
    """Values by name; `origins` has where each is from, and `used` the names that were asked for.

    Args:
        origins: the constants.
    """

    def __init__(self, origins: Mapping[str, Constant]) -> None:
        self.origins = dict(origins)
        self.used: set[str] = set()

    def __getitem__(self, name: str) -> float:
        self.used.add(name)
        return self.origins[name].value

    def __iter__(self) -> Iterator[str]:
        return iter(self.origins)

    def __len__(self) -> int:
        return len(self.origins)

    def with_values(self, changes: Mapping[str, Constant]) -> Constants:
        """Replace some constants.

        Args:
            changes: by name.

        Returns:
            New constants.
        """
        return Constants({**self.origins, **changes})


def shipped_constants() -> Constants:
    """Read the constants of the package.

    Returns:
        The constants of `constants.yaml`.
    """
    return Constants(_parse(SHIPPED.read_text(encoding="utf-8"), source=str(SHIPPED)))


def read_constants(uri: str) -> Constants:
    """Read a file of constants over those of the package.

    Args:
        uri: path or URI of a YAML or JSON file, as `write_constants` writes it.

    Returns:
        The constants.

    Raises:
        ValueError: if it has another form, or a name that is no constant.
    """
    with fsspec.open(uri, "r", encoding="utf-8") as file:
        changes = _parse(file.read(), source=uri)
    shipped = shipped_constants()
    if unknown := sorted(set(changes) - set(shipped)):
        raise ValueError(f"{uri}: {unknown[0]} is no constant of a plan; {SHIPPED.name} has their names")
    for name, constant in changes.items():
        if constant.unit != shipped.origins[name].unit:
            raise ValueError(f"{uri}: {name} is in {constant.unit}, and must be in {shipped.origins[name].unit}")
    return shipped.with_values(changes)


def write_constants(uri: str, constants: Mapping[str, Constant]) -> None:
    """Write constants as a file that `read_constants` reads.

    Args:
        uri: path or URI; JSON if it ends so, else YAML.
        constants: by name.
    """
    values = {name: constant.to_dict() for name, constant in constants.items()}
    as_json = uri.endswith(".json")
    text = json.dumps(values, indent=1) if as_json else yaml.safe_dump(values, sort_keys=False, width=120)
    with fsspec.open(uri, "w", encoding="utf-8") as file:
        file.write(text)


def _load(text: str) -> object:
    try:  # YAML takes JSON's 4e-05 for text
        return json.loads(text)
    except ValueError:
        return yaml.safe_load(text)


def _parse(text: str, *, source: str) -> dict[str, Constant]:
    try:
        data = _load(text) or {}
    except yaml.YAMLError as error:
        raise ValueError(f"{source} is no YAML: {' '.join(str(error).split())}") from None
    if not isinstance(data, dict):
        raise ValueError(f"{source}: write a name and its value, unit, kind and origin for each constant")
    constants = {}
    for name, fields in data.items():
        try:
            values: dict[str, Any] = {key: str(value) if key == "date" else value for key, value in fields.items()}
            constant = Constant(**values)
        except (TypeError, AttributeError):
            raise ValueError(f"{source}: {name} needs value, unit, kind and origin") from None
        value = constant.value
        if isinstance(value, bool) or not isinstance(value, (int, float)) or not math.isfinite(value) or value < 0:
            raise ValueError(f"{source}: {name} is {value!r}, not a number from 0 on")
        if constant.kind not in ("measured", "estimate"):
            raise ValueError(f"{source}: the kind of {name} is {constant.kind!r}; write measured or estimate")
        constants[name] = constant
    return constants
