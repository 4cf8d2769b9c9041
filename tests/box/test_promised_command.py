"""Contract: the command that the README promises ends, on several Ray nodes, an S3 store and web shards.

`ray job submit -- python jobs/full_pipeline.py --preset ram_4m` in small: two DeepSpeed workers, a round of the data
engine, an image that only decoding finds broken. Rows in = rows out + rejected in every stage; the model answers over
HTTP from the bucket. Its driver is killed in parse, and again in pretrain: it goes on where it was, and the same
command after its end does nothing. `test_kills.py` compares killed runs with an unbroken one.
"""

from __future__ import annotations

import io
import json
import subprocess
import sys
import tarfile
from dataclasses import replace

import httpx
import pytest

from ram_ray.runtime.own_cluster import free_port
from tests.box.cluster import BUCKET, Box, answers
from tests.box.corpus import CUT, HELD_OUT, NUM_IMAGES, SOURCES
from tests.box.kills import PARSE, PRETRAIN, break_off, check_kept
from tests.box.runs import RUN_TIMEOUT_S, RunFolder, command, uri

BROKEN = f"{CUT[0]}/00000/{CUT[1]:09d}"
ROWS = NUM_IMAGES * len(SOURCES)


@pytest.fixture(scope="module")
def run_folder(box: Box) -> RunFolder:
    """The promised command, called three times: it is killed in parse, then in pretrain."""
    folder = RunFolder(box, "promised")
    steps = [replace(step, job="full_pipeline") for step in (PARSE, PRETRAIN)]
    left = break_off(box, folder, steps, held_out=True)
    box.run(*command("full_pipeline", folder.run), name="promised-to-its-end", timeout_s=RUN_TIMEOUT_S)
    check_kept(folder, left)
    return folder


def test_it_ends_with_a_report(run_folder: RunFolder) -> None:
    report = run_folder.json("evaluation/report.json")
    stages = [stage["stage"] for stage in report["stages"]]
    before = ["shards", "fingerprints", "represent", "parse", "labels", "pretrain"]
    assert stages == [*before, "generate_1", "clean_1", "retrain_1", "finetune"]
    assert 0 <= report["mAP"] <= 1 and report["num_tags"] > 10
    assert run_folder.manifests()["evaluate_finetune"]["images"] == HELD_OUT
    assert not [path for path in run_folder.objects() if "/work/" in path], "what unfinished stages need is gone"


def test_rows_reconcile_and_the_broken_image_is_rejected_once(run_folder: RunFolder) -> None:
    stages = run_folder.manifests()
    for name in ("shards", "parse", "labels", "generate_1", "clean_1"):
        counts = stages[name]
        rows = ROWS - (name == "clean_1")
        assert counts["rows_in"] == counts["rows_out"] + counts["rejected"] == rows, name
    rejected = run_folder.rejected()
    assert {(key, reason) for _, key, reason in rejected} == {(BROKEN, "truncated")}
    assert len({stage for stage, *_ in rejected}) == len(rejected), "once in each stage that met it"
    assert {stage for stage, *_ in rejected} == {"pretrain", "scores_1"}, "and no more after it was taken out"


def test_training_was_that_of_the_preset(run_folder: RunFolder) -> None:
    stages = run_folder.manifests()
    for name in ("pretrain", "retrain_1", "finetune"):
        assert stages[name]["strategy"] == "deepspeed"
    assert 0 < stages["finetune"]["rows_in"] <= NUM_IMAGES, "coco alone"
    assert stages["represent"]["source"] == f"s3://{BUCKET}/models/clip"


def test_nothing_was_done_twice(run_folder: RunFolder) -> None:
    for name in ("parse", "labels", "scores_1", "regions_1", "generate_1", "clean_1"):
        keys = [row["key"] for row in run_folder.rows(f"annotations/{name}", ["key"])]
        assert len(keys) == len(set(keys)), f"{name}: a row twice"
    (metrics,) = run_folder.files("models/pretrain/*/metrics.jsonl")
    lines = run_folder.box.fs.cat_file(metrics).decode().splitlines()
    steps = run_folder.manifests()["pretrain"]["steps"]
    assert [json.loads(line)["step"] for line in lines] == list(range(1, steps + 1))


def test_again_everything_is_reused(box: Box, run_folder: RunFolder) -> None:
    before = run_folder.objects()
    text = box.run(*command("full_pipeline", run_folder.run), name="again", timeout_s=300)
    stages = run_folder.json("evaluation/report.json")["stages"]
    assert text.count("\nreused: ") == len(stages) and "\ndone: " not in text
    after = run_folder.objects()
    changed = {path for path in before.keys() | after.keys() if before.get(path) != after.get(path)}
    written = set(run_folder.files("config.yaml", "evaluation/*.json", "evaluation/*.html", "logs/*"))
    assert changed <= written, "the configuration, the reports and a log are written, nothing else"


def test_a_run_without_the_token_is_told_of_it(box: Box, run_folder: RunFolder) -> None:
    environment = {name: value for name, value in box.env.items() if not name.startswith("RAY_AUTH")}
    environment |= {"RAY_ADDRESS": box.address, "HOME": str(box.folder)}
    join = [sys.executable, "-c", "from ram_ray.runtime import cluster; cluster.start()"]
    ended = subprocess.run(join, env=environment, capture_output=True, text=True, timeout=120, check=False)
    assert ended.returncode and "set RAY_AUTH_MODE=token here too" in ended.stderr.splitlines()[-1], ended.stderr


def test_the_bundle_on_s3_answers_over_http(box: Box, run_folder: RunFolder) -> None:
    model = run_folder.manifests()["finetune"]["path"]
    assert model.startswith(uri(run_folder.run))
    port = free_port()
    job = box.submit("python", "jobs/serve.py", "--model", model, "--set", f"serve.port={port}", name="serve")
    try:
        box.wait(lambda: answers(port) or job.poll() is not None, "the tagger")
        box.wait(lambda: "Serving" in box.log("serve") or job.poll() is not None, "the tagger's line")
        assert job.poll() is None, box.log("serve")[-3000:]
        files = {"images": ("a.jpg", read_image(box, "coco", 0), "image/jpeg")}
        answer = httpx.post(f"http://127.0.0.1:{port}/v1/tag", files=files, data={"top_k": "3"}, timeout=60)
        assert answer.status_code == 200, answer.text
        (image,) = answer.json()["images"]
        assert image["error"] is None and len(image["tags"]) == 3
    finally:
        box.stop(job, title=f"serve.port={port}")


def read_image(box: Box, source: str, number: int) -> bytes:
    """The JPEG of a source's image."""
    data = box.fs.cat_file(f"{BUCKET}/data/{source}/00000.tar")
    with tarfile.open(fileobj=io.BytesIO(data)) as tar:
        file = tar.extractfile(f"{number:09d}.jpg")
        assert file is not None
        return file.read()
