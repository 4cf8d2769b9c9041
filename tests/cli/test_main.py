"""Contract: `ram-ray` and the programs of `jobs/` read the same options; help is quick; a mistake is one line on the
standard error and exit code 2, and leaves nothing behind.
"""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import get_args

import pytest
import typer
from botocore.exceptions import NoCredentialsError

import ram_ray
from ram_ray.cli import job
from ram_ray.cli.command import run as run_app
from ram_ray.cli.command import run_job, spread_values
from ram_ray.cli.main import app, main
from ram_ray.cli.models import Release
from ram_ray.cli.options import Kind
from ram_ray.cli.run import Stage, ablation, finetune, full_pipeline
from ram_ray.cli.tag import tag_images
from ram_ray.interop.releases import RELEASES
from ram_ray.pipeline import STAGES
from ram_ray.records import KINDS

ROOT = Path(ram_ray.__file__).parents[1]
COMMANDS = ["run", "plan", "evaluate", "serve", "swap", "key", "tag", "parse", "labels", "models"]
RECIPE = {"--preset", "--config", "--set", "--data", "--eval"}
OPTIONS = {  # of a job, beside --help
    **{stage: RECIPE | {"--run", "--check"} for stage in STAGES},
    "finetune": RECIPE | {"--run", "--check", "--model", "--revision", "--add-labels"},
    "full_pipeline": RECIPE | {"--run", "--check", "--serve", "--try"},
    "ablation": RECIPE | {"--out", "--seeds", "--table", "--rounds"},
    "stablerep": RECIPE | {"--out", "--seeds", "--row"},
    "benchmark": {"--model", "--systems", "--sets", "--out", "--tune", "--replicates", "--config", "--set"}
    | {"--descriptions"},
    "vision_predictions": {"--eval", "--out", "--url", "--key-file", "--max-images", "--max-results"},
    "serve": {"--model", "--name", "--config", "--set"},
    "tag_images": {"--model", "--data", "--out", "--top-k", "--threshold", "--tags", "--backend", "--precision"}
    | {"--config", "--set", "--caption", "--boxes", "--embedding", "--write", "--sidecars", "--overwrite"}
    | {"--allow", "--deny", "--rename", "--names", "--most-specific", "--chinese"},
}


def _options(text: str) -> set[str]:
    """Long options of a help text but --help."""
    return set(re.findall(r"^ +(?:-\w, )?(--[\w-]+)", text, re.MULTILINE)) - {"--help"}


def _run(*command: str, cwd: Path = ROOT) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, *command],
        capture_output=True,
        text=True,
        timeout=300,
        cwd=cwd,
        env={"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "PATH": "/usr/bin:/bin"},
    )


@pytest.fixture
def executed(monkeypatch: pytest.MonkeyPatch) -> list[dict]:
    """What reaches `job.execute`, in place of a run."""
    calls: list[dict] = []

    def record(config, run_uri, **options) -> int:
        calls.append({"config": config, "run": run_uri, **options})
        return 0

    monkeypatch.setattr(job, "execute", record)
    return calls


def test_help_names_the_commands_and_loads_nothing_large(capsys: pytest.CaptureFixture) -> None:
    assert main(["--help"]) == 0
    text = capsys.readouterr().out
    assert re.findall(r"^  (\w+)  ", text.partition("Commands:")[2], re.MULTILINE) == COMMANDS
    assert "..." not in text.partition("Commands:")[2], "a first line of help is cut"
    ended = _run("-X", "importtime", "-m", "ram_ray.cli", "--help")
    loaded = {line.rpartition("|")[2].strip().partition(".")[0] for line in ended.stderr.splitlines()}
    assert ended.returncode == 0 and "typer" in loaded
    assert loaded.isdisjoint({"torch", "ray", "numpy", "pyarrow", "spacy", "fsspec", "rich", "pydantic"})


@pytest.mark.parametrize("command", [*COMMANDS, "labels build", "models import", "import", "download", "export"])
def test_every_command_has_help(command: str, capsys: pytest.CaptureFixture) -> None:
    assert main([*command.split(), "--help"]) == 0
    text = capsys.readouterr().out
    assert f"Usage: ram-ray {command} " in text and "list[" not in text


def test_version(capsys: pytest.CaptureFixture) -> None:
    assert main(["--version"]) == 0
    assert capsys.readouterr().out == f"ram_ray {ram_ray.__version__}\n"


def test_names_in_the_options_are_those_of_the_code() -> None:
    """They are written out there so that help needs no import of what runs."""
    assert get_args(Stage) == STAGES and get_args(Kind) == KINDS and set(get_args(Release)) == set(RELEASES)


@pytest.mark.parametrize("name", sorted(OPTIONS))
def test_jobs_have_their_options(name: str) -> None:
    ended = _run(f"jobs/{name}.py", "--help")
    assert ended.returncode == 0 and _options(ended.stdout) == OPTIONS[name], ended


def test_every_job_is_covered() -> None:
    assert {path.stem for path in (ROOT / "jobs").glob("*.py")} == set(OPTIONS) | {"contact_sheet"}


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("--data a b --run r", "--data a --data b --run r"),
        ("--data a b --eval c", "--data a --data b --eval c"),
        ("--data=a b", "--data=a b"),
        ("--try", "--try 3"),
        ("--try --serve", "--try 3 --serve"),
        ("--try 8 --serve", "--try 8 --serve"),
        ("--images a b -- --data c d", "--images a --images b -- --data c d"),
        ("--set a=b c", "--set a=b c"),
        ("--compare a b --eval c", "--compare a --compare b --eval c"),
    ],
)
def test_several_values_after_one_option(line: str, expected: str) -> None:
    assert spread_values(line.split()) == expected.split()


def test_run_passes_its_options(executed: list[dict], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "own.yaml").write_text("pretrain: {epochs: 3}\nretrain: {epochs: 3}\n")
    line = "run --preset demo --until clean --config own.yaml --set retrain.epochs=4 --set seed=7 --data a b --eval c"
    assert main([*line.split(), "--run", "r", "--check"]) == 0
    (call,) = executed
    config = call.pop("config")
    assert (config.name, config.seed, config.pretrain.epochs, config.retrain.epochs) == ("demo", 7, 3, 4)
    assert config.data.train == [str(tmp_path / "a"), str(tmp_path / "b")]
    assert config.data.eval == [str(tmp_path / "c")]
    assert call == {"run": "r", "last": "clean", "check": True, "keep_serving": False, "num_try_images": 0}


def test_finetune_adds_labels_to_a_bundle(
    executed: list[dict], tiny_bundle: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    shutil.copytree(tiny_bundle, tmp_path / "bundles" / "ram")
    line = "--preset photos --model bundles/ram --data mine --add-labels more.txt --set finetune.epochs=7"
    monkeypatch.setattr(sys, "argv", ["jobs/finetune.py", *line.split()])
    assert run_job(finetune) == 0
    (call,) = executed
    config, bundle = call["config"], str(tmp_path / "bundles" / "ram")
    assert call["last"] == "finetune" and (config.engine.model, config.engine.rounds) == (bundle, 0)
    assert (config.labels.system, config.labels.add) == (f"{bundle}/label_system.json", f"{tmp_path}/more.txt")
    assert (config.represent.clip, config.represent.text_encoder) == (f"{bundle}/text_encoder", None)
    training = config.finetune
    assert (training.start, training.old_labels, training.image_size, training.window_size) == (
        "previous",
        "keep",
        32,
        4,
    )
    assert training.caption_loss and not training.distill_loss and training.epochs == 7


def test_paths_of_bundles_are_absolute(
    executed: list[dict], tiny_bundle: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "b").symlink_to(tiny_bundle)
    line = "run --set pretrain.start=./b --set retrain.start=OWNER/NAME --set engine.model=b"
    assert main(line.split()) == 0
    config = executed[0]["config"]
    assert (config.pretrain.start, config.engine.model) == (str(tmp_path / "b"), str(tmp_path / "b"))
    assert (config.retrain.start, config.finetune.start) == ("OWNER/NAME", "previous")


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("run", {"last": "evaluate", "keep_serving": False, "num_try_images": 0}),
        ("run --serve", {"last": "evaluate", "keep_serving": True, "num_try_images": 0}),
        ("run --try", {"num_try_images": 3}),
        ("run --try 8 --serve", {"keep_serving": True, "num_try_images": 8}),
        ("evaluate", {"last": "evaluate", "check": False}),
    ],
)
def test_what_a_run_ends_with(executed: list[dict], line: str, expected: dict) -> None:
    assert main(line.split()) == 0
    assert expected.items() <= executed[0].items()


@pytest.mark.parametrize(
    ("function", "line", "message"),
    [
        (full_pipeline, "--preset dmeo", "error: --preset dmeo: no such preset; use one of demo, "),
        (full_pipeline, "--foo", "error: No such option: --foo; see full_pipeline --help"),
        (full_pipeline, "--try x", "error: Invalid value for '--try': "),
        (full_pipeline, "--data", "error: --data needs a value"),
        (
            finetune,
            "--model nowhere/b",
            "error: nowhere/b is not a model bundle: nowhere/b: no such file or folder, and",
        ),
        (
            finetune,
            "--add-labels a.txt",
            "error: --add-labels and --revision need the bundle that they are about: give",
        ),
        (ablation, "", "error: Missing option '--out'"),
        (ablation, "--out x --table 3", "error: --table 3: use 4, 5, heads"),
        (ablation, "--out x --seeds 0", "error: --seeds 0: at least one is needed"),
        (tag_images, "--model m --out o --data nowhere", "error: nowhere: no images"),
        (tag_images, "--model m --out o --data . --top-k 0", "error: Invalid value for '--top-k': "),
        (tag_images, "--model m --out o --data . --threshold 50", "error: Invalid value for '--threshold': "),
        (tag_images, "--model m --out o --data . --write xls", "error: --write xls: use some of txt, xmp, jpeg, csv"),
        (tag_images, "--model m --out o --data . --overwrite", "error: --sidecars and --overwrite are about "),
        (tag_images, "--model m --out o --data . --backend abacus", "error: --backend abacus: use torch or openvino"),
    ],
)
def test_mistakes_of_a_job(function, line: str, message: str, tmp_path: Path, monkeypatch, capsys) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", [f"jobs/{function.__name__}", *line.split()])
    assert run_job(function) == 2
    shown = capsys.readouterr()
    assert shown.err.startswith(message) and len(shown.err.splitlines()) == 1 and not shown.out
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("", "ram-ray: Missing command; see ram-ray --help"),
        ("tga a.jpg", "ram-ray: No such command 'tga'"),
        ("run --until cleen", "ram-ray run: Invalid value for '--until': 'cleen' is not one of 'shards', "),
        ("run --until parse --try", "ram-ray run: --serve and --try need the finetuned model"),
        ("run --set pretrain.epoch=2", "ram-ray run: pretrain.epoch: no such field"),
        ("run --config nowhere.yaml", "ram-ray run: nowhere.yaml: cannot be read as YAML"),
        ("serve --model . --set serve.prt=1", "ram-ray serve: serve.prt: no such field"),
        ("serve --model .", "ram-ray serve: . is not a model bundle: it has no config.json"),
        ("swap", "ram-ray swap: give --model BUNDLE, or --rollback"),
        ("swap --model . --rollback", "ram-ray swap: give --model BUNDLE, or --rollback"),
        ("swap --rollback --set serve.port=9", "ram-ray swap: no server of yours at port 9: set serve.port"),
        ("tag --model m", "ram-ray tag: name images, or folders and shards with --data and --out"),
        (
            "tag a.jpg",
            "ram-ray tag: --model is missing; two commands give the authors' RAM++ and use it: `ram-ray download "
            "ram-plus bundles/ram-plus`, then `ram-ray tag a.jpg --model bundles/ram-plus`",
        ),
        ("tag --data x --out y", "ram-ray tag: --model is missing"),
        ("download ram-plus out --revision main", "ram-ray download: --revision main: give a commit of "),
        ("tag a.jpg --model m --out o", "ram-ray tag: --out: only with --data"),
        ("tag a.jpg --model m --threshold 50", "ram-ray tag: Invalid value for '--threshold': "),
        ("tag . --model m", "ram-ray tag: .: no images"),
        ("tag a.jpg --model=", "ram-ray tag: --model is missing"),
        ("run --data --check", "ram-ray run: --data needs a value"),
        ("evaluate --out o", "ram-ray evaluate: --out and --replicates go with --compare"),
        ("plan --images 9 --shards 1 --run-nodes m=1", "ram-ray plan: --run-nodes are the machines of --run or"),
        ("plan --images 9 --shards 1 --json --markdown", "ram-ray plan: --json and --markdown are two forms"),
        ("evaluate --compare a", "ram-ray evaluate: --compare takes two systems, the old and the new; 1 are given"),
        ("evaluate --compare a b --model c --eval d", "ram-ray evaluate: --compare goes with --eval, --out, "),
        ("evaluate --calibrate f1", "ram-ray evaluate: --calibrate needs --model BUNDLE and --eval LABELLED"),
        ("evaluate --calibrate f2 --model . --eval .", "ram-ray evaluate: --calibrate f2: use precision=0.9, "),
        ("tag --data . --model m", "ram-ray tag: --data needs --out"),
        ("tag --data . --out o --model m --json", "ram-ray tag: --json: not with --data"),
        ("tag --data nowhere --out o --model m", "ram-ray tag: nowhere: no images"),
        ("models import nowhere.pth out", "ram-ray models: nowhere.pth: no such file"),
        ("import nowhere.pth out", "ram-ray import: nowhere.pth: no such file"),
        ("download ramm out", "ram-ray download: Invalid value for 'NAME': 'ramm' is not one of 'ram', "),
        ("export bundle out", "ram-ray export: name the format: --onnx"),
        ("labels build nowhere*.txt --run r", "ram-ray labels: "),
        ("labels show coco80 --kind thing", "ram-ray labels: Invalid value for '--kind': 'thing' is not one of "),
    ],
)
def test_mistakes_are_one_line(line: str, message: str, tmp_path: Path, monkeypatch, capsys) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("signal.signal", lambda *_: None)  # the test's process keeps its own
    assert main(line.split()) == 2
    shown = capsys.readouterr()
    assert shown.err.startswith(message) and len(shown.err.splitlines()) == 1 and not shown.out
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("error", "code", "message"),
    [
        (ValueError("set it lower"), 2, "prog: set it lower\n"),
        (FileNotFoundError(2, "No such file or directory", "a.txt"), 2, "prog: a.txt: No such file or directory\n"),
        (ModuleNotFoundError("No module named 'ray'", name="ray"), 2, "prog: ray is not installed; "),
        (OSError(28, "No space left on device", "b"), 2, "prog: b: No space left on device\n"),
        (NoCredentialsError(), 2, "prog: NoCredentialsError: Unable to locate credentials\n"),
    ],
)
def test_exceptions_end_in_exit_codes(error: Exception, code: int, message: str, capsys) -> None:
    def fail() -> int:
        raise error

    single_command = typer.Typer()
    single_command.command()(fail)
    assert run_app(single_command, [], name="prog") == code
    assert capsys.readouterr().err.startswith(message)


def test_an_error_of_the_code_is_no_mistake() -> None:
    def fail() -> int:
        raise KeyError("a")

    single_command = typer.Typer()
    single_command.command()(fail)
    with pytest.raises(KeyError):
        run_app(single_command, [], name="prog")


def test_odd_names_and_tags_are_one_line(capsys: pytest.CaptureFixture) -> None:
    for arguments, message in (
        (["tag", "", "--model", "m"], "an image's name is empty; write . for the current folder"),
        (["tag", "a.jpg", "--model", "m", "--tags", " ,"], "--tags is empty; write names with commas between them"),
        (["tag", "a.jpg", "--model", "m", "--tags", "caf\udce9"], "has characters that are no text; write it in UTF-8"),
    ):
        assert main(arguments) == 2
        error = capsys.readouterr().err
        assert message in error and len(error.splitlines()) == 1


def test_errors_of_the_package_are_not_hidden() -> None:
    def fail() -> int:
        raise ModuleNotFoundError("No module named 'ram_ray.gone'", name="ram_ray.gone")

    single_command = typer.Typer()
    single_command.command()(fail)
    with pytest.raises(ModuleNotFoundError):
        run_app(single_command, [], name="prog")


def test_ctrl_c_is_130() -> None:
    code = (
        "import typer; from ram_ray.cli.command import run\n"
        "def stop() -> int:\n    raise KeyboardInterrupt\n"
        "app = typer.Typer(); app.command()(stop); raise SystemExit(run(app, [], name='prog'))"
    )
    ended = _run("-c", code)
    assert (ended.returncode, ended.stdout, ended.stderr) == (130, "", "")


def test_the_app_is_importable_by_its_name() -> None:
    assert isinstance(app, typer.Typer)
