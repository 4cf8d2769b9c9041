"""Contract: private names and switches of Ray and DeepSpeed are used in three modules alone, and these say for which
version they were written.

Private is a name with an underscore before it, in what is imported from either package, or read from it, or given to
its functions. A switch is an environment variable of theirs, `RAY_` or `DS_`, but for the few that a user sets.
"""

from __future__ import annotations

import ast
import logging
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

import ram_ray
from ram_ray.runtime import ray_data_internals, ray_internals, ray_train_internals, versions
from ram_ray.training import deepspeed_internals

ROOT = Path(ram_ray.__file__).parents[1]
INTERNALS = {"ray": ray_internals, "deepspeed": deepspeed_internals}
USERS_SWITCHES = {"RAY_ADDRESS", "RAY_TMPDIR"}
SWITCH = re.compile(r"(RAY|DS)_\w+")


def find_internals(source: ast.Module) -> list[str]:
    """What a source uses of Ray's or DeepSpeed's internals."""
    theirs = {bound for name, bound in read_imports(source) if is_theirs(name)}
    found = [name for name, _ in read_imports(source) if is_theirs(name) and has_private(name)]
    for node in ast.walk(source):
        match node:
            case ast.Attribute():
                chain = ast.unparse(node)
                of_engine = re.search(r"\b_?engine\._", chain)  # DeepSpeed's
                if of_engine or (chain.partition(".")[0] in theirs and has_private(chain)):
                    found.append(chain)
            case ast.Call(func=ast.Attribute() | ast.Name()) if ast.unparse(node.func).partition(".")[0] in theirs:
                found += [word.arg for word in node.keywords if word.arg and has_private(word.arg)]
            case ast.Constant(value=str(text)):
                first, _, second = text.partition(".")
                if SWITCH.fullmatch(text) and text not in USERS_SWITCHES:
                    found.append(text)
                elif first in INTERNALS and second and re.fullmatch(r"[\w.]+", text) and has_private(text):
                    found.append(text)  # for importlib
    return found


def read_imports(source: ast.Module) -> Iterator[tuple[str, str]]:
    """What a source imports, anywhere in it, and the name that it gets."""
    for node in ast.walk(source):
        if isinstance(node, ast.Import):
            yield from ((alias.name, alias.asname or alias.name.partition(".")[0]) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield from ((f"{node.module}.{alias.name}", alias.asname or alias.name) for alias in node.names)


def is_theirs(name: str) -> bool:
    """Whether a dotted name is of one of the packages."""
    return name.partition(".")[0] in INTERNALS


def has_private(name: str) -> bool:
    """Whether a part of a dotted name begins with an underscore."""
    return any(part.startswith("_") and part != "__version__" for part in name.split("."))


def test_internals_are_used_in_their_modules_alone() -> None:
    files = [*ROOT.glob("ram_ray/**/*.py"), *ROOT.glob("jobs/**/*.py")]
    found = {path: find_internals(ast.parse(path.read_text(encoding="utf-8"))) for path in files}
    own = {Path(str(module.__file__)) for module in (*INTERNALS.values(), ray_data_internals, ray_train_internals)}
    assert {path: names for path, names in found.items() if names and path not in own} == {}
    assert all(found[path] for path in own), "the search sees what is there"


@pytest.mark.parametrize(
    "source",
    [
        "import ray._private.utils",
        "from ray._private import utils",
        "from ray import _raylet",
        "from ray.train.v2._internal.execution import context as reports",
        "def later() -> None:\n    from ray.serve.context import _get_global_client",
        "import ray\nray._raylet.GcsClient",
        "import ray\nray.init(_temp_dir='/tmp/x')",
        "from ray import serve\nserve.context._get_global_client()",
        "from importlib import import_module\nimport_module('ray._private.utils')",
        "import os\nos.environ['RAY_TRAIN_V2_ENABLED'] = '1'",
        "import os\nos.environ.setdefault('DS_ACCELERATOR', 'cpu')",
        "import deepspeed\ndeepspeed.ops.__compatible_ops__['x'] = False",
        "def load(self) -> None:\n    self._engine._config.load_universal_checkpoint = True",
    ],
)
def test_what_is_used_elsewhere_is_seen(source: str) -> None:
    assert find_internals(ast.parse(source))


@pytest.mark.parametrize(
    "source",
    [
        "import ray.data\nray.data.DataContext.get_current().enable_progress_bars = False",
        "from ray.train import ControllerError\nimport os\nos.environ.get('RAY_ADDRESS')",
        "def load(self) -> None:\n    self._engine.load_checkpoint('x', tag='deepspeed')",
        "import fsspec\nfs, path = fsspec.url_to_fs('x')\nfs._parent(path)",
    ],
)
def test_what_is_public_or_another_package_s_is_left_alone(source: str) -> None:
    assert find_internals(ast.parse(source)) == []


@pytest.mark.parametrize("package", INTERNALS)
def test_the_version_written_for_is_the_one_that_is_pinned(package: str) -> None:
    pins = dict(line.split("==") for line in (ROOT / "constraints.txt").read_text().splitlines() if "==" in line)
    assert pins[package] == INTERNALS[package].WRITTEN_FOR, f"read {INTERNALS[package].__file__} against the new one"


def test_another_version_is_one_warning_and_no_error(caplog: pytest.LogCaptureFixture) -> None:
    versions.warn_if_other_version.cache_clear()
    with caplog.at_level(logging.WARNING):
        for _ in range(2):
            versions.warn_if_other_version("ray", written_for="1.0.0", module="ram_ray.runtime.ray_internals")
    (line,) = caplog.messages
    assert "ray_internals uses internals of 1.0.0" in line and line.startswith("ray ")


def test_the_version_written_for_warns_of_nothing(caplog: pytest.LogCaptureFixture) -> None:
    versions.warn_if_other_version.cache_clear()
    with caplog.at_level(logging.WARNING):
        for package, module in INTERNALS.items():
            versions.warn_if_other_version(package, written_for=module.WRITTEN_FOR, module=module.__name__)
    assert caplog.messages == []
