"""Contract: without extras a `Predictor` and `ram-ray tag` work, and a command that needs an extra says so in one line;
the wheel holds all files of the package and no compiled ones.
"""

from __future__ import annotations

import importlib.util
import re
import shutil
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path

import pytest

import ram_ray
from tests.tiny import photo

ROOT = Path(ram_ray.__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
MODULE_NAMES = {"faiss-gpu": "faiss", "python-multipart": "python_multipart"}
BLOCK = '''
import sys

class Without:
    """A finder that does not find what is not to be there."""

    def __init__(self, finder):
        self._finder = finder

    def __getattr__(self, name):
        return getattr(self._finder, name)

    def find_spec(self, name, *arguments):
        return None if name.partition(".")[0] in {blocked!r} else self._finder.find_spec(name, *arguments)

sys.meta_path[:] = [Without(finder) for finder in sys.meta_path]
'''


def _modules_of_extras() -> set[str]:
    """What the extras train, serve and cloud install, as modules."""
    extras = PROJECT["optional-dependencies"]
    names = {re.split(r"[\[<>=]", line)[0] for extra in ("train", "serve", "cloud") for line in extras[extra]}
    return {MODULE_NAMES.get(name, name) for name in names - {"ram_ray"}}


def _run_without_extras(code: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    code = BLOCK.format(blocked=_modules_of_extras()) + code
    command = [sys.executable, "-c", code, *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=300, cwd=ROOT)


def _run_cli_without_extras(*arguments: str) -> subprocess.CompletedProcess[str]:
    return _run_without_extras("from ram_ray.cli.main import main; sys.exit(main())", *arguments)


def test_extras_hold_what_is_large() -> None:
    assert {"ray", "deepspeed", "spacy", "faiss", "fastapi"} <= _modules_of_extras()
    assert _modules_of_extras().isdisjoint(PROJECT["dependencies"])


def test_every_extra_is_in_all_and_dev_has_the_recipe_and_the_server() -> None:
    extras = PROJECT["optional-dependencies"]
    (everything,) = extras["all"]
    assert set(re.findall(r"\w+", everything.partition("[")[2])) == set(extras) - {"all", "dev", "cloud"}
    assert {"train", "serve"} <= set(re.findall(r"\w+", extras["dev"][0].partition("[")[2]))


def test_a_predictor_needs_no_extra(tiny_bundle: str, tmp_path: Path) -> None:
    photo(1).save(tmp_path / "a.png")
    code = """
from PIL import Image
from ram_ray.inference import Predictor
predictor = Predictor.from_pretrained(sys.argv[1], device="cpu")
images = [Image.open(sys.argv[2])]
print(len(predictor.tag(images, top_k=3)[0]), len(predictor.tag(images, tags=["snow"], threshold=0.0)[0]))
print(len(predictor.caption(images)))
"""
    ended = _run_without_extras(code, tiny_bundle, str(tmp_path / "a.png"))
    assert (ended.returncode, ended.stdout.split()) == (0, ["3", "1", "1"]), ended.stderr


def test_tagging_from_the_shell_needs_no_extra(tiny_bundle: str, tmp_path: Path) -> None:
    photo(1).save(tmp_path / "a.png")
    ended = _run_cli_without_extras("tag", str(tmp_path / "a.png"), "--model", tiny_bundle, "--top-k", "1")
    assert ended.returncode == 0 and ended.stdout.startswith(f"{tmp_path}/a.png: "), ended.stderr


@pytest.mark.parametrize(
    ("line", "module", "extra"),
    [
        ("run --preset demo --check", "ray", "train"),
        ("parse caption", "spacy", "train"),
        ("labels build captions.txt --run nowhere", "ray", "train"),
        ("tag --model m --data . --out nowhere", "ray", "serve"),
        ("serve --model .", "fastapi", "serve"),
    ],
)
def test_a_command_names_the_missing_extra(line: str, module: str, extra: str) -> None:
    ended = _run_cli_without_extras(*line.split())
    told = f": {module} is not installed; pip install 'ram_ray[{extra}]'"
    assert ended.returncode == 2 and ended.stderr.rstrip().endswith(told), ended.stderr
    assert len(ended.stderr.splitlines()) == 1


def test_the_wheel_has_all_files_and_no_compiled_ones(tmp_path: Path) -> None:
    if importlib.util.find_spec("setuptools") is None or importlib.util.find_spec("pip") is None:
        pytest.skip("setuptools or pip is not installed here, so no wheel can be built offline")
    source = tmp_path / "source"
    shutil.copytree(ROOT / "ram_ray", source / "ram_ray", ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source)
    expected = {str(path.relative_to(source)) for path in (source / "ram_ray").rglob("*") if path.is_file()}
    for folder in ("ram_ray", "ram_ray/cli", "ram_ray/presets"):  # as a used checkout has them
        (source / folder / "__pycache__").mkdir()
        (source / folder / "__pycache__" / "main.cpython-311.pyc").write_bytes(b"compiled")
    command = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--no-build-isolation", "--no-index"]
    subprocess.run([*command, "--wheel-dir", str(tmp_path), str(source)], check=True, timeout=300)
    (wheel,) = tmp_path.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        names = {name for name in archive.namelist() if ".dist-info/" not in name}
    assert names == expected
    assert {
        f"ram_ray/presets/{name}.yaml" for name in ("demo", "photos", "photos_scratch", "ram_4m", "ram_14m")
    } <= names
