"""Contract: what README.md, CONTRIBUTING.md and the site say can be followed: README is short, every command, option,
setting and path that they name exists, every relative link leads to a file and a heading, and every page is in the
site's menu.

Commands are read from code blocks and from code in a line, and looked up in the typer app; nothing is run.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import yaml
from typer.main import get_command

import ram_ray
from ram_ray.cli.benchmark import benchmark
from ram_ray.cli.command import DEFAULT_VALUES, SEVERAL_VALUES, make_app
from ram_ray.cli.main import app
from ram_ray.cli.run import ablation, finetune, stablerep
from ram_ray.cli.vision import vision_predictions
from ram_ray.config import RunConfig
from ram_ray.pipeline import STAGES
from ram_ray.settings.section import Section

ROOT = Path(ram_ray.__file__).parents[1]
DOCS = ROOT / "docs"
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted(DOCS.rglob("*.md")), ROOT / "cluster" / "README.md"]
MAX_README_LINES = 150
# The command of `ram-ray` that has the options of a job.
JOBS = {"full_pipeline": "run", "tag_images": "tag", "serve": "serve", **{stage: "evaluate" for stage in STAGES}}
OWN_OPTIONS = {
    "ablation": ablation,
    "benchmark": benchmark,
    "finetune": finetune,
    "stablerep": stablerep,
    "vision_predictions": vision_predictions,
}  # jobs whose options no command has
FENCE = re.compile(r"^```(\w*)[^\n]*\n(.*?)^```", re.MULTILINE | re.DOTALL)
# A program stands where the shell expects one: at the start, after `|`, `&&`, `;`, `$(`, the prompt `$` or `--`.
PROGRAM = re.compile(r"(?:^|\||&&|;|\$\(|\$ |-- )\s*(ram-ray|(?:\S*python\S* )?jobs/\w+\.py)(?= |$)")
OPTION = re.compile(r"--[a-z][\w-]*")
# A file of Python, or a path below a folder of the repository.
PATH = re.compile(r"[\w./-]+\.py\b|(?<![\w./-])(?:ram_ray|tests|jobs|cluster|docs)/[\w./-]*\w")

pages = pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))


def read_commands(text: str) -> list[str]:
    """Command lines that a page names.

    Args:
        text: Markdown.

    Returns:
        Each from its program to the end of the line, of the pipe or of the code span; without comments.
    """
    blocks = [block for language, block in FENCE.findall(text) if language not in ("python", "yaml", "json", "text")]
    spans = re.findall(r"`([^`]+)`", FENCE.sub("", text))
    commands = []
    for piece in [*blocks, *(span.replace("\n", " ") for span in spans)]:
        for line in re.sub(r"\\\n\s*", "", piece).splitlines():
            for match in PROGRAM.finditer(line):
                command = re.split(r"\s#|\s\|\s|\s&&|;|>", line[match.start(1) :])[0]
                commands.append(command.strip())
    return commands


@cache
def options_of(program: str) -> frozenset[str]:
    """Long options of a command, such as `ram-ray labels show`, or of a job, such as `jobs/parse.py`."""
    job = re.search(r"jobs/(\w+)\.py", program)
    if job and job[1] == "contact_sheet":  # the job that is not typer's
        return frozenset({"--help"} | set(OPTION.findall((ROOT / job[0]).read_text(encoding="utf-8"))))
    if job and job[1] in OWN_OPTIONS:
        job_app = make_app()
        job_app.command()(OWN_OPTIONS[job[1]])
        command: Any = get_command(job_app)
    else:
        words = ["ram-ray", JOBS[job[1]]] if job else program.split()
        command = get_command(app)
        for word in words[1:]:
            command = command.commands[word]
    return frozenset({"--help"} | {name for param in command.params for name in param.opts if name.startswith("--")})


def find_mistakes(command: str) -> list[str]:
    """What is wrong with a command line that a page names: an unknown command, job, option or setting."""
    words = command.split()
    if words[0] != "ram-ray":
        (path,) = re.findall(r"jobs/\w+\.py", command)[:1]
        if not (ROOT / path).is_file():
            return [f"{path} is not there"]
        program = path
    else:
        program, current = "ram-ray", get_command(app)
        for word in words[1:]:
            commands: dict[str, Any] = getattr(current, "commands", {})
            if not commands or word.startswith("-") or word == "...":
                break
            if word not in commands:
                return [f"`{program}` has no command {word}"]
            program, current = f"{program} {word}", commands[word]
    unknown = set(OPTION.findall(command)) - options_of(program)
    return [f"`{program}` has no option {option}" for option in sorted(unknown)]


@cache
def file_names() -> frozenset[str]:
    """Names of all files of Python, such as `zero_shot.py`."""
    return frozenset(path.name for folder in ("ram_ray", "tests", "jobs") for path in (ROOT / folder).rglob("*.py"))


def find_missing_paths(text: str) -> list[str]:
    """Paths that a page names and that do not exist.

    Args:
        text: Markdown. Its paths start at the repository or at `ram_ray`; a name without a folder may be anywhere.

    Returns:
        The paths, sorted.
    """
    return [
        path
        for path in sorted(set(PATH.findall(text)))
        if path not in file_names() and not any((folder / path).exists() for folder in (ROOT, ROOT / "ram_ray"))
    ]


def find_fields(section: Section, prefix: str = "") -> Iterator[str]:
    """Names of all settings, such as `engine.rounds`, and of their sections."""
    for name in type(section).model_fields:
        yield prefix + name
        value = getattr(section, name)
        if isinstance(value, Section):
            yield from find_fields(value, f"{prefix}{name}.")


def anchors_of(page: Path) -> set[str]:
    """Names by which the headings of a page can be linked to."""
    text = FENCE.sub("", page.read_text(encoding="utf-8"))
    headings = re.findall(r"^#+ (.*)$", text, re.MULTILINE)
    return {re.sub(r"\s+", "-", re.sub(r"[^\w\s-]", "", heading).strip().lower()) for heading in headings}


def test_the_readme_is_short() -> None:
    assert len((ROOT / "README.md").read_text(encoding="utf-8").splitlines()) <= MAX_README_LINES


@pages
def test_commands_and_options_exist(page: Path) -> None:
    mistakes = [
        f"{command}: {mistake}"
        for command in read_commands(page.read_text(encoding="utf-8"))
        for mistake in find_mistakes(command)
    ]
    assert not mistakes, "\n".join(mistakes)


@pages
def test_paths_exist(page: Path) -> None:
    assert not find_missing_paths(page.read_text(encoding="utf-8"))


@pages
def test_settings_of_set_exist(page: Path) -> None:
    named = set(re.findall(r"--set ([\w.]+)=", page.read_text(encoding="utf-8")))
    assert named <= set(find_fields(RunConfig()))


@pages
def test_values_of_preset_and_until_exist(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    presets = {path.stem for path in (ROOT / "ram_ray" / "presets").glob("*.yaml")}
    assert set(re.findall(r"--preset ([a-z]\w*)", text)) <= presets
    assert set(re.findall(r"--until ([a-z]\w*)", text)) <= set(STAGES)


@pages
def test_make_targets_exist(page: Path) -> None:
    targets = set(re.findall(r"^([\w-]+):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE))
    assert set(re.findall(r"(?:^|`)make ([a-z][\w-]*)", page.read_text(encoding="utf-8"), re.MULTILINE)) <= targets


@pages
def test_relative_links_resolve(page: Path) -> None:
    broken = []
    for target in re.findall(r"\]\(([^)\s]+)\)", FENCE.sub("", page.read_text(encoding="utf-8"))):
        if re.match(r"\w+:", target):
            continue
        path, _, anchor = target.partition("#")
        file = page.parent / path if path else page
        if not file.is_file() or (anchor and anchor not in anchors_of(file)):
            broken.append(target)
    assert not broken


def test_every_page_is_in_the_menu_of_the_site() -> None:
    menu = (ROOT / "mkdocs.yml").read_text(encoding="utf-8")
    named = re.findall(r"[\w-]+\.md", yaml.dump(yaml.safe_load(menu)["nav"]))
    assert sorted(named) == sorted(str(path.relative_to(DOCS)) for path in DOCS.rglob("*.md"))


def test_the_check_reads_commands_and_finds_mistakes() -> None:
    text = (
        "Use `ram-ray tag a.jpg --colour`.\n\n```\n$ echo x | ram-ray parse --json  # --not-read\n"
        "python jobs/clean.py --preset photos \\\n    --run r --nothing\npython jobs/none.py\nram-ray fly\n"
        "ram-ray labels show --htm x\n```\n"
    )
    commands = read_commands(text)
    assert "ram-ray parse --json" in commands and len(commands) == 6
    mistakes = [mistake for command in commands for mistake in find_mistakes(command)]
    assert sorted(mistakes) == [
        "`jobs/clean.py` has no option --nothing",
        "`ram-ray labels show` has no option --htm",
        "`ram-ray tag` has no option --colour",
        "`ram-ray` has no command fly",
        "jobs/none.py is not there",
    ]


def test_the_check_finds_missing_paths() -> None:
    text = (
        "`ram_ray/labels/`, `labels/merge.py`, `merge.py`, `tests/none`, `labels/none.py`, `none.py`, runs/docs/none."
    )
    assert find_missing_paths(text) == ["labels/none.py", "none.py", "tests/none"]


def test_the_check_finds_the_commands_that_the_pages_are_about() -> None:
    named = " ".join(command for page in PAGES for command in read_commands(page.read_text(encoding="utf-8")))
    for text in (
        "ram-ray run",
        "ram-ray models import",
        "ram-ray labels diff",
        "jobs/full_pipeline.py",
        *SEVERAL_VALUES,
    ):
        assert text in named, text
    assert all(option in named for option in DEFAULT_VALUES)
