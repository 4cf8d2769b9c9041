"""Contract: `jobs/vision_predictions.py` asks a service of Google Vision's shape for each image of a set once, and
leaves a file of predictions that scores the set; what was done is not asked for again, and errors are.

The service is our own `POST /v1/images:annotate`, served over a socket.
"""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import uvicorn

from ram_ray.cli.command import run_job
from ram_ray.cli.compare import parse_sets
from ram_ray.cli.vision import KEY_VARIABLE, batches, vision_predictions
from ram_ray.config import RunConfig
from ram_ray.evaluation.sets.prepare import SetReading, prepare_set
from ram_ray.evaluation.systems.predictions import PredictionsSystem, read_predictions
from ram_ray.inference.predictor import Predictor
from ram_ray.serving.api import create_api
from ram_ray.serving.keys import make_key
from ram_ray.serving.tagger import LocalTagger
from ram_ray.serving.vision_client import MAX_BYTES, to_prediction
from ram_ray.settings.serving import ServeConfig
from tests.tiny import jpeg

NUM_IMAGES = 18  # two requests


@pytest.fixture(scope="module")
def service(tiny_bundle: str) -> Iterator[tuple[str, str]]:
    """URL of our server, and a key that it asks for."""
    secret, entry = make_key("vision")
    predictor = Predictor.from_pretrained(tiny_bundle, device="cpu", threads=1)
    app = create_api(LocalTagger(predictor, model="tiny"), ServeConfig(api_keys=(entry,)))
    server = uvicorn.Server(uvicorn.Config(app, host="127.0.0.1", port=0, log_level="warning"))
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    while not server.started:
        assert thread.is_alive()
        time.sleep(0.02)
    yield f"http://127.0.0.1:{server.servers[0].sockets[0].getsockname()[1]}", secret
    server.should_exit = True
    thread.join()


@pytest.fixture
def named_set(tmp_path: Path) -> str:
    for number in range(NUM_IMAGES):
        (tmp_path / f"{number:02}.jpg").write_bytes(jpeg(number, size=(40, 40)))
    (tmp_path / "broken.jpg").write_bytes(b"no image")
    names = [*(f"{number:02}.jpg,dog" for number in range(NUM_IMAGES)), "broken.jpg,dog", "gone.jpg,beach"]
    (tmp_path / "truth.txt").write_text("\n".join(names))
    return f"own={tmp_path}/truth.txt,images={tmp_path}"


def ask(monkeypatch: pytest.MonkeyPatch, *arguments: str) -> int:
    monkeypatch.setattr("sys.argv", ["vision_predictions.py", *arguments])
    return run_job(vision_predictions, error_prefix="vision_predictions")


def test_a_set_is_asked_for_once(
    service: tuple[str, str], named_set: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    url, secret = service
    out = tmp_path / "out" / "google.jsonl"
    (tmp_path / "key.txt").write_text(f"{secret}\n")
    options = ("--eval", named_set, "--out", str(out), "--url", url, "--key-file", str(tmp_path / "key.txt"))
    assert ask(monkeypatch, *options, "--max-images", "3") == 0
    first = out.read_text().splitlines()
    assert len(first) == 3
    out.write_text("\n".join(first) + '\n{"key": "03.jpg", "ta')  # killed while it wrote
    assert ask(monkeypatch, *options) == 0
    lines = out.read_text().splitlines()
    assert lines[:3] == first and len(lines) == NUM_IMAGES + 1, "an image that is not there is not sent"
    predictions = {prediction.key: prediction for prediction in read_predictions(str(out))}
    assert predictions["broken.jpg"].error and not predictions["broken.jpg"].tags
    assert all(len(predictions[f"{number:02}.jpg"].tags) == 6 for number in range(NUM_IMAGES))
    out.write_text("\n".join(line for line in lines if '"05.jpg"' not in line) + "\n")
    assert ask(monkeypatch, *options) == 0
    again = out.read_text().splitlines()
    assert len(again) == len(lines) and json.loads(again[-1])["key"] in ("05.jpg", "broken.jpg")
    assert set(again) == set(lines)
    eval_set = prepare_set(
        parse_sets([named_set])[0], str(tmp_path / "set"), reading=SetReading.from_config(RunConfig())
    )
    manifest = PredictionsSystem("google", str(out)).score(eval_set, str(tmp_path / "scores"))
    assert manifest.images == NUM_IMAGES + 2 and "1 images have no line" in manifest.notes[0]


def test_mistakes_are_one_line(
    service: tuple[str, str],
    named_set: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture,
) -> None:
    monkeypatch.delenv(KEY_VARIABLE, raising=False)
    out = tmp_path / "p.jsonl"
    assert ask(monkeypatch, "--eval", named_set, "--out", str(out)) == 2
    assert f"Google asks for a key: set {KEY_VARIABLE}" in capsys.readouterr().err
    monkeypatch.setenv(KEY_VARIABLE, "wrong")
    assert ask(monkeypatch, "--eval", named_set, "--out", str(out), "--url", service[0]) == 1
    assert not out.read_text()
    out.write_text("{}\n")
    assert ask(monkeypatch, "--eval", named_set, "--out", str(out), "--url", service[0]) == 2
    assert 'p.jsonl, line 1: has no "key"' in capsys.readouterr().err
    truth = named_set.partition(",")[0]
    assert ask(monkeypatch, "--eval", truth, "--out", str(tmp_path / "q"), "--url", service[0]) == 2
    assert "names no images to send" in capsys.readouterr().err


def test_an_answer_becomes_a_line() -> None:
    labels = [{"description": "Dog", "score": 0.5}, {"description": "dog", "score": 0.9}, {"description": "Sky"}]
    assert to_prediction({"labelAnnotations": labels}) == {"tags": ["dog", "sky"], "scores": [0.9, 0.0]}
    assert to_prediction({"error": {"code": 3, "message": "bad"}})["error"] == "bad"
    assert to_prediction({}) == {"tags": [], "scores": []}
    sizes = [MAX_BYTES // 2, MAX_BYTES // 2, 10, *[1] * 20]
    cut = list(batches([{"nbytes": size} for size in sizes]))
    assert [len(batch) for batch in cut] == [2, 16, 5]
