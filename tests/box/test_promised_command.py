"""Contract: the command that the README promises ends, on several Ray nodes, an S3 store and web shards.

`ray job submit -- python jobs/full_pipeline.py --preset ram_4m` in small: two DeepSpeed workers, a round of the data
engine, an image that only decoding finds broken. Rows in = rows out + rejected in every stage; the model answers over
HTTP from the bucket; the same command again does nothing twice; a driver killed in parse, and again in pretrain, goes
on where it was.
"""

from __future__ import annotations

import io
import tarfile
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor

import httpx
import pytest

from ram_ray.runtime.own_cluster import free_port
from tests.box.cluster import BUCKET, Box, answers
from tests.box.corpus import CUT, HELD_OUT, NUM_IMAGES, SOURCES
from tests.box.kills import PARSE, PRETRAIN, kill_driver
from tests.box.runs import RunFolder, command, uri

BROKEN = f"{CUT[0]}/00000/{CUT[1]:09d}"
ROWS = NUM_IMAGES * len(SOURCES)


def test_it_ends_with_a_report(unbroken: RunFolder) -> None:
    report = unbroken.json("evaluation/report.json")
    stages = [stage["stage"] for stage in report["stages"]]
    before = ["shards", "fingerprints", "represent", "parse", "labels", "pretrain"]
    assert stages == [*before, "generate_1", "clean_1", "retrain_1", "finetune"]
    assert 0 <= report["mAP"] <= 1 and report["num_tags"] > 10
    assert unbroken.manifests()["evaluate_finetune"]["images"] == HELD_OUT
    assert not [path for path in unbroken.objects() if "/work/" in path], "what unfinished stages need is gone"


def test_rows_reconcile_and_the_broken_image_is_rejected_once(unbroken: RunFolder) -> None:
    stages = unbroken.manifests()
    for name in ("shards", "parse", "labels", "generate_1", "clean_1"):
        counts = stages[name]
        rows = ROWS - (name == "clean_1")
        assert counts["rows_in"] == counts["rows_out"] + counts["rejected"] == rows, name
    rejected = unbroken.rejected()
    assert {(key, reason) for _, key, reason in rejected} == {(BROKEN, "truncated")}
    assert len({stage for stage, *_ in rejected}) == len(rejected), "once in each stage that met it"
    assert {stage for stage, *_ in rejected} == {"pretrain", "scores_1"}, "and no more after it was taken out"


def test_training_was_that_of_the_preset(unbroken: RunFolder) -> None:
    stages = unbroken.manifests()
    for name in ("pretrain", "retrain_1", "finetune"):
        assert stages[name]["strategy"] == "deepspeed"
    assert 0 < stages["finetune"]["rows_in"] <= NUM_IMAGES, "coco alone"
    assert stages["represent"]["source"] == f"s3://{BUCKET}/models/clip"


@pytest.fixture(scope="module")
def killed(box: Box, unbroken: RunFolder) -> Iterator[Future[None]]:
    """Another run whose driver is killed, in a thread beside the tests from here on: they all wait most of the time."""
    with ThreadPoolExecutor(1) as pool:  # its thread lives as long as what it starts, see `die_too`
        yield pool.submit(kill_driver, box, unbroken, PARSE, PRETRAIN)


@pytest.mark.usefixtures("killed")
def test_again_everything_is_reused(box: Box, unbroken: RunFolder) -> None:
    before = unbroken.objects()
    text = box.run(*command("full_pipeline", unbroken.run), name="again", timeout_s=300)
    assert text.count("\nreused: ") == len(unbroken.json("evaluation/report.json")["stages"]) and "\ndone: " not in text
    after = unbroken.objects()
    changed = {path for path in before.keys() | after.keys() if before.get(path) != after.get(path)}
    written = set(unbroken.files("config.yaml", "evaluation/*.json", "evaluation/*.html", "logs/*"))
    assert changed <= written, "the configuration, the reports and a log are written, nothing else"


def test_the_bundle_on_s3_answers_over_http(box: Box, unbroken: RunFolder) -> None:
    model = unbroken.manifests()["finetune"]["path"]
    assert model.startswith(uri(unbroken.run))
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


def test_a_killed_driver_goes_on(killed: Future[None]) -> None:
    killed.result()


def read_image(box: Box, source: str, number: int) -> bytes:
    """The JPEG of a source's image."""
    data = box.fs.cat_file(f"{BUCKET}/data/{source}/00000.tar")
    with tarfile.open(fileobj=io.BytesIO(data)) as tar:
        file = tar.extractfile(f"{number:09d}.jpg")
        assert file is not None
        return file.read()
