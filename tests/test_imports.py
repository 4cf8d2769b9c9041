"""Contract (DESIGN, section 4): imports point one way, room by room, and never in a circle of files; models and the
training step know no Ray and no DeepSpeed; what every process imports does not load torch.

What a module names is read from its source, also inside functions, for type checkers only, and as a string; what an
import loads is asked of a fresh interpreter.
"""

from __future__ import annotations

import ast
import graphlib
import pkgutil
import subprocess
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest

import ram_ray
import ram_ray.models

ROOT = Path(ram_ray.__file__).parents[1]
MODELS = [f"ram_ray.models.{module.name}" for module in pkgutil.iter_modules(ram_ray.models.__path__)]
Arrows = Mapping[str, set[str]]  # module -> modules that it names

# A room, which is a package or a file at the root, may name rooms of earlier lines only. "ram_ray" is the version.
ROOMS: tuple[tuple[str, ...], ...] = (
    ("ram_ray", "records", "settings"),
    ("config", "label_system"),
    ("runtime",),
    ("results",),
    ("evaluation_results",),
    ("models", "drawn_scenes"),
    ("data", "captions"),
    ("training", "labels", "inference", "interop", "curation"),
    ("synthesis", "detectors"),
    ("data_engine", "evaluation", "serving"),
    ("reporting",),
    ("pipeline",),
    ("preflight", "ablation", "planning"),
    ("cli",),
    ("jobs",),
)
FLOOR = {room: floor for floor, rooms in enumerate(ROOMS) for room in rooms}


def read_sources(root: Path) -> dict[str, ast.Module]:
    """The package and the jobs below `root`: module -> its source, every file of them."""
    files = [*root.glob("ram_ray/**/*.py"), *root.glob("jobs/**/*.py")]
    names = [".".join(path.relative_to(root).with_suffix("").parts).removesuffix(".__init__") for path in files]
    return {name: ast.parse(path.read_text(encoding="utf-8")) for name, path in zip(names, files, strict=True)}


def read_imports(source: ast.Module) -> Iterator[str]:
    """What a source imports, anywhere in it."""
    for node in ast.walk(source):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "imports are absolute"
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def read_strings(source: ast.Module) -> Iterator[str]:
    """Its strings, for a module can be imported by one; of "module:name", as Ray Serve writes it, the module."""
    for node in ast.walk(source):
        if isinstance(node, ast.Constant) and isinstance(node.value, str):
            yield node.value.partition(":")[0]


def read_arrows(root: Path) -> Arrows:
    """Arrows between all modules below `root`; a name inside a module stands for the module."""
    sources = read_sources(root)

    def find_module(name: str) -> str:
        while name and name not in sources:
            name = name.rpartition(".")[0]
        return name

    return {
        module: {find_module(name) for name in (*read_imports(source), *read_strings(source))} - {"", module}
        for module, source in sources.items()
    }


def room_of(module: str) -> str:
    """The room that a module is in."""
    first, *rest = module.split(".")
    return rest[0] if first == "ram_ray" and rest else first


def find_backward(arrows: Arrows) -> list[str]:
    """Arrows to a room that is not below."""
    pairs = [(module, named) for module, names in arrows.items() for named in names]
    return [
        f"{module} -> {named}"
        for module, named in pairs
        if room_of(module) != room_of(named) and FLOOR[room_of(named)] >= FLOOR[room_of(module)]
    ]


def find_circle(arrows: Arrows) -> list[str]:
    """Modules that name each other in a circle; none if there is no such circle."""
    try:
        graphlib.TopologicalSorter(arrows).prepare()
    except graphlib.CycleError as error:
        return list(error.args[1])
    return []


def find_reached(arrows: Arrows, *modules: str) -> set[str]:
    """Modules, and all that they name, and so on."""
    reached: set[str] = set()
    waiting = list(modules)
    while waiting:
        module = waiting.pop()
        if module not in reached:
            reached.add(module)
            waiting += arrows[module]
    return reached


@pytest.fixture(scope="module")
def arrows() -> Arrows:
    return read_arrows(ROOT)


def test_every_room_has_its_place(arrows: Arrows) -> None:
    assert {room_of(module) for module in arrows} == set(FLOOR)
    files = {path for folder in ("ram_ray", "jobs") for path in (ROOT / folder).rglob("*.py")}
    assert len(arrows) == len(files) > 200


def test_no_arrow_runs_back(arrows: Arrows) -> None:
    assert find_backward(arrows) == []


def test_no_files_name_each_other_in_a_circle(arrows: Arrows) -> None:
    assert find_circle(arrows) == []


@pytest.mark.parametrize(
    "source",
    [
        "import ram_ray.training.step",
        "from ram_ray.training import step",
        "from ram_ray.training.step import TrainStep as Step",
        "def later() -> None:\n    from ram_ray.training.step import TrainStep",
        "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    from ram_ray.training.step import TrainStep",
        "from importlib import import_module\nimport_module('ram_ray.training.step')",
        "APP = 'ram_ray.training.step:app'",
    ],
)
def test_an_arrow_that_runs_back_is_seen(tmp_path: Path, source: str) -> None:
    """From models to training, and by the other half of it from data, where that is allowed, to models."""
    for name, text in {"models/ram.py": source, "training/step.py": "from ram_ray.models.ram import RAM"}.items():
        path = tmp_path / "ram_ray" / name
        path.parent.mkdir(parents=True)
        (path.parent / "__init__.py").touch()
        path.write_text(text)
    arrows = read_arrows(tmp_path)
    assert find_backward(arrows) == ["ram_ray.models.ram -> ram_ray.training.step"]
    assert set(find_circle(arrows)) == {"ram_ray.models.ram", "ram_ray.training.step"}


def test_rooms_of_one_line_do_not_name_each_other() -> None:
    assert find_backward({"ram_ray.labels.build": {"ram_ray.training.step", "ram_ray.captions.rules"}}) == [
        "ram_ray.labels.build -> ram_ray.training.step"
    ]
    assert find_backward({"jobs.clean": {"ram_ray.cli.run", "ram_ray"}, "ram_ray": set()}) == []


def test_nothing_that_models_and_the_training_step_name_names_ray_or_deepspeed(arrows: Arrows) -> None:
    sources = read_sources(ROOT)
    models = [module for module in arrows if room_of(module) == "models"]
    reached = find_reached(arrows, *models, "ram_ray.training.step")
    assert {room_of(module) for module in reached} <= {
        "models",
        "training",
        *(room for line in ROOMS[:4] for room in line),
    }
    for module in reached:
        named = {name.partition(".")[0] for name in read_imports(sources[module])}
        assert named.isdisjoint({"ray", "deepspeed"}), module


def _loaded_by(*modules: str) -> set[str]:
    """Top-level names in `sys.modules` of a new interpreter that imported the modules."""
    code = "import sys\n" + "".join(f"import {name}\n" for name in modules) + "print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=300, cwd=ROOT)
    assert done.returncode == 0, done.stderr
    return {name.partition(".")[0] for name in done.stdout.split()}


def test_models_and_the_training_step_load_neither_ray_nor_deepspeed() -> None:
    loaded = _loaded_by(*MODELS, "ram_ray.inference.predictor", "ram_ray.training.step", "ram_ray.training.augment")
    assert "torch" in loaded
    assert loaded.isdisjoint({"ray", "deepspeed"})


def test_strategies_load_neither_ray_nor_deepspeed_nor_what_reads_data() -> None:
    """So that `tests/gpu/check_gpu.py` runs where there is torch and little else."""
    parts = ("training.strategy", "training.step", "training.optimizer", "models.ram", "models.dual_encoder")
    loaded = _loaded_by(*(f"ram_ray.{name}" for name in parts))
    assert loaded.isdisjoint({"ray", "deepspeed", "pyarrow", "pandas"})


def test_decoding_for_training_does_not_load_torch() -> None:
    loaded = _loaded_by("ram_ray.training.feed", "ram_ray.training.table", "ram_ray.synthesis.pairs")
    assert loaded.isdisjoint({"torch", "transformers", "timm"})


def test_contracts_and_command_lines_do_not_load_torch() -> None:
    modules = ("config", "records", "label_system", "runtime.artifacts", "models.tokenizer", "cli.job", "cli.main")
    loaded = _loaded_by(*(f"ram_ray.{name}" for name in modules))
    assert loaded.isdisjoint({"torch", "transformers", "timm", "ray", "spacy", "faiss", "matplotlib"})


def test_reading_and_drawing_images_and_tagging_in_batch_do_not_load_torch() -> None:
    modules = ("data.images", "data.shards", "drawn_scenes", "captions.parser", "inference.batch")
    loaded = _loaded_by(*(f"ram_ray.{name}" for name in modules))
    assert loaded.isdisjoint({"torch", "transformers", "timm"})
