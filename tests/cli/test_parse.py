"""Contract: `ram-ray parse` gives one object a line while its input goes on, draws captions, and loads spaCy alone."""

from __future__ import annotations

import io
import json
import os
import subprocess
import sys
from pathlib import Path

REPO = Path(__file__).resolve().parents[2]


def _ram_ray(*arguments: str, data: bytes) -> subprocess.CompletedProcess:
    command = [sys.executable, "-X", "importtime", "-m", "ram_ray.cli", *arguments]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    return subprocess.run(command, input=data, capture_output=True, cwd=REPO, timeout=120, env=environment)


def test_command_gives_one_object_a_line() -> None:
    process = _ram_ray("parse", "--json", data=b"a red car\n\n\xff\xfe\x00\nA dog runs on the beach")
    assert process.returncode == 0
    rows = [json.loads(line) for line in io.BytesIO(process.stdout)]
    empty = {"objects": [], "attributes": [], "actions": []}
    assert rows == [
        {"objects": ["car"], "attributes": ["red"], "actions": []},
        empty,
        empty,
        {"objects": ["dog", "beach"], "attributes": [], "actions": ["run"]},
    ]
    loaded = {line.rpartition(b"|")[2].strip() for line in process.stderr.splitlines()}
    assert b"spacy.language" in loaded and not loaded & {b"torch.nn", b"ray", b"transformers"}


def test_command_answers_before_its_input_ends() -> None:
    command = [sys.executable, "-m", "ram_ray.cli", "parse", "--json"]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, cwd=REPO) as process:
        assert process.stdin and process.stdout
        process.stdin.write(b"a blue boat\n")
        process.stdin.flush()
        assert json.loads(process.stdout.readline())["objects"] == ["boat"]
        process.stdin.close()
        assert process.wait(timeout=60) == 0


def test_command_draws_a_caption() -> None:
    process = _ram_ray("parse", "a brown dog is running on the beach", "ein Hund am Strand", data=b"")
    assert process.returncode == 0
    assert process.stdout.decode() == (
        "a brown dog is running on the beach\n|- dog\n|  |- is brown\n|  `- run on beach\n`- beach (scene)\n"
        "ein Hund am Strand\n`- nothing: not_english\n"
    )


def test_command_names_a_missing_model() -> None:
    process = _ram_ray("parse", "--model", "no_such_model", data=b"")
    assert process.returncode == 2
    assert b"no_such_model" in process.stderr.splitlines()[-1]
