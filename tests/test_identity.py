"""Contract: what a stage reads is what its digest is made of.

A function that opens a stage takes nothing out of the configuration but the stage's settings (`X.from_config(config)`)
and how it is executed (`config.execution`); else it only passes the configuration on to another function that takes
it. The digest changes with every field of the settings that is not marked as runtime-only, and with none that is.
"""

from __future__ import annotations

import ast
import importlib
import typing
from collections.abc import Iterator
from pathlib import Path
from types import NoneType
from typing import Any

import pytest

import ram_ray
from ram_ray.settings.section import RUNTIME_ONLY, Section, StageSettings

ROOT = Path(ram_ray.__file__).parent
STAGE_NAMES = {
    *(
        "shards",
        "fingerprints",
        "image_scores",
        "similarity",
        "duplicates",
        "images",
        "captions",
        "scenes",
        "parse",
        "label_system",
        "hold_out",
        "labels",
        "vocabulary",
        "represent",
        "synthesize",
    ),
    *(
        "given",
        "encode",
        "copy_images",
        "train",
        "scores",
        "score_weights",
        "thresholds",
        "generate",
        "doubts",
        "regions",
        "removals",
        "clean",
        "evaluate",
    ),
    *("open_set", "eval_set", "evaluate_on_set", "tag_statistics", "sample_images"),
}


def find_stage_functions() -> dict[str, ast.FunctionDef]:
    """All functions of the package that call `run.stage(...)`: "module.function" -> its source."""
    functions = {}
    for path in sorted(ROOT.rglob("*.py")):
        module = ".".join(path.relative_to(ROOT.parent).with_suffix("").parts)
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.FunctionDef) and any(map(_opens_stage, ast.walk(node))):
                functions[f"{module}.{node.name}"] = node
    return functions


def _opens_stage(node: ast.AST) -> bool:
    return (
        isinstance(node, ast.Call)
        and isinstance(node.func, ast.Attribute)
        and node.func.attr == "stage"
        and isinstance(node.func.value, ast.Name)
        and node.func.value.id == "run"
    )


def find_other_uses(function: ast.FunctionDef) -> list[str]:
    """Uses of `config` in a function other than those that the contract allows."""
    allowed: set[int] = set()
    for node in ast.walk(function):
        if isinstance(node, ast.Attribute) and node.attr == "execution":
            allowed.add(id(node.value))
        elif isinstance(node, ast.Call) and node.args:
            name, first = node.func, node.args[0]
            if isinstance(name, ast.Attribute) and name.attr == "from_config":
                allowed.add(id(first))
            elif isinstance(name, ast.Name) and isinstance(first, ast.Name) and first.id == "run":
                allowed.update(id(argument) for argument in node.args[1:2])  # another stage: f(run, config, ...)
    return [
        f"line {node.lineno}"
        for node in ast.walk(function)
        if isinstance(node, ast.Name) and node.id == "config" and id(node) not in allowed
    ]


FUNCTIONS = find_stage_functions()


def test_every_stage_is_found() -> None:
    assert len(FUNCTIONS) == len(STAGE_NAMES)


@pytest.mark.parametrize("name", sorted(FUNCTIONS))
def test_a_stage_reads_only_its_settings(name: str) -> None:
    assert find_other_uses(FUNCTIONS[name]) == []


@pytest.mark.parametrize(
    ("body", "is_allowed"),
    [
        ("S.from_config(config)", True),
        ("S.from_config(config, round=1)", True),
        ("work(execution=config.execution)", True),
        ("other(run, config, samples)", True),
        ("work(config)", False),
        ("config.seed", False),
        ("S.from_config(config.labels)", False),
        ("work(lambda: config.labels)", False),
        ("other(run, config.labels)", False),
    ],
)
def test_a_setting_that_is_read_beside_them_is_seen(body: str, is_allowed: bool) -> None:
    (function,) = ast.parse(f"def stage(run, config):\n    run.stage(1)\n    {body}").body
    assert isinstance(function, ast.FunctionDef) and (find_other_uses(function) == []) == is_allowed


def test_work_that_leaves_rows_does_not_know_the_configuration() -> None:
    """Actors, tasks and training workers get settings; `RunConfig` is imported where stages are opened, and above."""
    modules = {name.rpartition(".")[0] for name in FUNCTIONS}
    for path in sorted(ROOT.rglob("*.py")):
        module = ".".join(path.relative_to(ROOT.parent).with_suffix("").parts)
        room = module.split(".")[1]
        if room in ("cli", "ablation", "pipeline", "planning", "preflight", "config") or module in modules:
            continue
        if module in WITHOUT_STAGES:
            continue
        imports = [node for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.ImportFrom)]
        names = {alias.name for node in imports if node.module == "ram_ray.config" for alias in node.names}
        assert not names or module in SETTINGS_MODULES, f"{module} imports {names}"


WITHOUT_STAGES = {  # that take the configuration
    "ram_ray.inference.batch",
    "ram_ray.evaluation.benchmark",
    "ram_ray.evaluation.calibrate",
    "ram_ray.evaluation.sets.prepare",
    "ram_ray.reporting.run_log",
}
SETTINGS_MODULES = {
    "ram_ray.labels.annotations",
    "ram_ray.labels.options",
    "ram_ray.curation.score_settings",
    "ram_ray.data_engine.stage_settings",
}


def find_settings_classes() -> list[type[StageSettings]]:
    """The settings classes of all stages."""
    for name in {*(name.rpartition(".")[0] for name in FUNCTIONS), *SETTINGS_MODULES}:
        importlib.import_module(name)
    classes: list[type[StageSettings]] = []
    waiting = [StageSettings]
    while waiting:
        kind = waiting.pop()
        classes += [kind] if kind.__module__.startswith("ram_ray.") else []
        waiting += kind.__subclasses__()
    return sorted(classes, key=lambda kind: kind.__name__)


def make(kind: Any, *, other: bool = False) -> Any:
    """A value of a type; with `other`, another one. Validation is of no interest here."""
    origin, arguments = typing.get_origin(kind), typing.get_args(kind)
    if origin is typing.Literal:
        return arguments[-1] if other else arguments[0]
    if arguments and NoneType in arguments:
        return None if other else make(next(argument for argument in arguments if argument is not NoneType))
    if origin in (tuple, list):
        return origin([make(arguments[0], other=other)])
    if origin is dict:
        return {"name": make(arguments[1], other=other)}
    if origin is not None:  # a union
        return make(arguments[0], other=other)
    if issubclass(kind, Section):
        values = {name: make(field.annotation) for name, field in kind.model_fields.items()}
        if other:
            name = next(name for name in kind.model_fields if not is_runtime_only(kind, name))
            values[name] = make(kind.model_fields[name].annotation, other=True)
        return kind.model_construct(**values)
    return {str: ("a", "b"), bool: (False, True), int: (1, 2), float: (0.5, 0.25)}[kind][other]


def is_runtime_only(kind: type[Section], name: str) -> bool:
    return kind.model_fields[name].json_schema_extra == RUNTIME_ONLY


def find_changes(kind: type[Section]) -> Iterator[tuple[str, Section, bool]]:
    """Name, changed value, and whether the digest must stay, for each field of a section and of those inside it."""
    base = make(kind)
    for name, field in kind.model_fields.items():
        marked = is_runtime_only(kind, name)
        yield name, base.model_copy(update={name: make(field.annotation, other=True)}), marked
        inner = getattr(base, name)
        if isinstance(inner, tuple) and inner and isinstance(inner[0], Section):
            changes = [(path, (value,), stays) for path, value, stays in find_changes(type(inner[0]))]
        elif isinstance(inner, Section):
            changes = list(find_changes(type(inner)))
        else:
            continue
        for path, value, stays in changes:
            yield f"{name}.{path}", base.model_copy(update={name: value}), marked or stays


@pytest.mark.parametrize("kind", find_settings_classes(), ids=lambda kind: kind.__name__)
def test_each_field_changes_the_digest_unless_it_is_marked(kind: type[StageSettings]) -> None:
    base = make(kind).identity()
    for path, changed, stays in find_changes(kind):
        assert isinstance(changed, StageSettings)
        assert (changed.identity() == base) == stays, path


def test_marked_fields_are_those_that_are_known() -> None:
    marked = {
        f"{kind.__name__}.{path}" for kind in find_settings_classes() for path, _, stays in find_changes(kind) if stays
    }
    assert "EvaluationSettings.batch_size" in marked and "TaggerSettings.training.workers" in marked
    assert "TaggerSettings.train.lr" not in marked and "SampleSettings.shards.size" not in marked
