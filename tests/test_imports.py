"""Contract (DESIGN, section 4): imports point one way, models and the training step know no Ray and no DeepSpeed,
and what every process imports does not load torch.

What an import loads is asked of a fresh interpreter; what a module names, lazily or not, of its source.
"""

from __future__ import annotations

import ast
import pkgutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import ram_ray
import ram_ray.models

PACKAGE = Path(ram_ray.__file__).parent
MODELS = [f"ram_ray.models.{one.name}" for one in pkgutil.iter_modules(ram_ray.models.__path__)]


def _loaded_by(*modules: str) -> set[str]:
    """Top-level names in `sys.modules` of a new interpreter that imported the modules."""
    code = "import sys\n" + "".join(f"import {name}\n" for name in modules) + "print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=300, cwd=PACKAGE.parent)
    assert done.returncode == 0, done.stderr
    return {name.partition(".")[0] for name in done.stdout.split()}


def test_models_and_the_training_step_load_neither_ray_nor_deepspeed() -> None:
    loaded = _loaded_by(*MODELS, "ram_ray.inference.predictor", "ram_ray.training.step", "ram_ray.training.augment")
    assert "torch" in loaded
    assert loaded.isdisjoint({"ray", "deepspeed"})


def test_strategies_load_neither_ray_nor_deepspeed_nor_what_reads_data() -> None:
    """So that `tests/gpu/check_gpu.py` runs where there is torch and little else."""
    parts = ("training.engine", "training.step", "training.optimizer", "models.ram", "models.dual_encoder")
    loaded = _loaded_by(*(f"ram_ray.{name}" for name in parts))
    assert loaded.isdisjoint({"ray", "deepspeed", "pyarrow", "pandas"})


def test_decoding_for_training_does_not_load_torch() -> None:
    loaded = _loaded_by("ram_ray.training.feed", "ram_ray.training.table", "ram_ray.synthesis.pairs")
    assert loaded.isdisjoint({"torch", "transformers", "timm"})


def test_contracts_do_not_load_torch() -> None:
    modules = (
        "config",
        "records",
        "label_system",
        "runtime.artifacts",
        "settings.models",
        "models.tokenizer",
        "cli.job",
        "cli.main",
    )
    loaded = _loaded_by(*(f"ram_ray.{name}" for name in modules))
    assert loaded.isdisjoint({"torch", "transformers", "timm", "ray", "spacy", "faiss", "matplotlib"})


def test_reading_and_drawing_pictures_does_not_load_torch() -> None:
    loaded = _loaded_by("ram_ray.data.images", "ram_ray.data.shards", "ram_ray.drawn_scenes", "ram_ray.captions.parser")
    assert loaded.isdisjoint({"torch", "transformers", "timm"})


def _imports(path: Path) -> Iterator[str]:
    """Modules that a file names, also inside functions."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: imports are absolute"
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def _named(folder: str) -> dict[Path, list[str]]:
    return {path: list(_imports(path)) for path in (PACKAGE / folder).rglob("*.py")}


@pytest.mark.parametrize(
    ("who", "allowed"),
    [
        ("models", ("ram_ray.models", "ram_ray.label_system", "ram_ray.records", "ram_ray.runtime.storage")),
        (
            "data",
            tuple(f"ram_ray.{one}" for one in ("data", "records", "config", "annotate", "artifacts", "storage")),
        ),
    ],
)
def test_a_lower_room_names_no_higher_one(who: str, allowed: tuple[str, ...]) -> None:
    for path, names in _named(who).items():
        foreign = [name for name in names if name.startswith("ram_ray") and not name.startswith(allowed)]
        assert not foreign, f"{path} imports {foreign}"


def test_only_the_jobs_know_the_pipeline() -> None:
    for path, names in _named(".").items():
        assert not [name for name in names if name.split(".")[0] == "jobs"], path
        if path.name not in (
            "job.py",
            "pipeline.py",
            "ablation.py",
            "preflight.py",
        ):  # composed of its stages, or checks them
            assert not [name for name in names if name.startswith("ram_ray.pipeline")], path


def test_models_name_neither_ray_nor_deepspeed_even_lazily() -> None:
    for path, names in {**_named("models"), PACKAGE: list(_imports(PACKAGE / "training" / "step.py"))}.items():
        assert {name.split(".")[0] for name in names}.isdisjoint({"ray", "deepspeed"}), path
