"""Contract: what the package says goes through `logging`; only programs whose purpose is output print it."""

from __future__ import annotations

import ast
from pathlib import Path

import ram_ray

ROOT = Path(ram_ray.__file__).parents[1]
PRINTERS = {  # their output is what a user or another program asked for, and `command` reports wrong command lines
    "jobs/contact_sheet.py",
    "ram_ray/captions/training/score_parser.py",
    "ram_ray/captions/training/train_parser.py",
    "ram_ray/cli/command.py",
    "ram_ray/cli/labels.py",
    "ram_ray/cli/main.py",
    "ram_ray/cli/models.py",
    "ram_ray/cli/parse.py",
    "ram_ray/cli/plan.py",
    "ram_ray/cli/serve.py",
    "ram_ray/cli/settings_page.py",
    "ram_ray/cli/tag.py",
}


def prints(source: ast.Module) -> bool:
    """Whether a source calls `print`, or writes to the standard streams itself."""
    calls = [ast.unparse(node.func) for node in ast.walk(source) if isinstance(node, ast.Call)]
    return any(call in ("print", "typer.echo", "sys.stdout.write", "sys.stderr.write") for call in calls)


def test_only_programs_print() -> None:
    paths = [*ROOT.glob("ram_ray/**/*.py"), *ROOT.glob("jobs/**/*.py")]
    sources = {path.relative_to(ROOT).as_posix(): ast.parse(path.read_text(encoding="utf-8")) for path in paths}
    assert {path for path, source in sources.items() if prints(source)} == PRINTERS


def test_a_logger_has_the_name_of_its_module() -> None:
    calls = {
        ast.unparse(node)
        for path in ROOT.glob("ram_ray/**/*.py")
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.Assign) and "getLogger" in ast.unparse(node.value)
    }
    allowed = {"logger = logging.getLogger(PACKAGE)", "workers_logger = logging.getLogger(record.name)"}
    assert calls - allowed == {"logger = logging.getLogger(__name__)"}
