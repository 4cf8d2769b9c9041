"""Contract: a bundle deployed on Ray Serve answers over HTTP as the model does, and refuses hostile requests. A swap is
right or does not happen, and loses no request; what is killed is replaced; every error is JSON."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import psutil
import pytest
import torch

from ram_ray.models.bundle import bundle_digest
from ram_ray.runtime.own_cluster import free_port
from ram_ray.settings.serving import ServeConfig
from tests.serving.image_files import base64_of, bomb, image_file

CONFIG = ServeConfig(
    port=free_port(),
    num_cpus=0.5,
    max_batch_size=8,
    batch_wait_s=0.05,
    backend="torch",
    precision="fp32",
    max_images=4,
    max_request_bytes=1_000_000,
    max_image_bytes=800_000,
    max_pixels=2_000_000,
    max_queued=100,
)
PAUSE_S = 0.1  # of each of those that ask during a swap: some requests are always on their way, and the swap gets a CPU


@pytest.fixture(scope="module")
def client(ray_cluster: None, tiny_bundle: str) -> Iterator[httpx.Client]:
    from ray import serve

    from ram_ray.serving.app import deploy

    url = deploy(tiny_bundle, CONFIG)
    assert url == f"http://127.0.0.1:{CONFIG.port}"
    with httpx.Client(base_url=url, timeout=60) as http_client:
        yield http_client
    serve.shutdown()


def files(*images: bytes) -> list[tuple[str, tuple[str, bytes]]]:
    return [("images", (f"{index}.jpg", data)) for index, data in enumerate(images)]


def test_form_json_and_the_model_itself_agree(client: httpx.Client, tiny_bundle: str) -> None:
    from ram_ray.inference.predictor import Predictor

    form = client.post("/v1/tag", files=files(image_file(1), image_file(2)), data={"top_k": "6"})
    assert form.status_code == 200, form.text
    sent = client.post("/v1/tag", json={"images": [base64_of(image_file(1)), base64_of(image_file(2))], "top_k": 6})
    predictor = Predictor.from_pretrained(tiny_bundle, device="cpu")
    for index, seed in enumerate((1, 2)):
        (alone,) = predictor.tag(image_file(seed), top_k=6)
        for answer in (form, sent):
            tags = answer.json()["images"][index]["tags"]
            assert [tag["tag"] for tag in tags] == [tag.tag for tag in alone]
            assert [tag["score"] for tag in tags] == pytest.approx([tag.score for tag in alone], abs=1e-4)


def test_own_tags_caption_and_regions(client: httpx.Client) -> None:
    data = {"tags": "red dog,beach", "threshold": "0", "caption": "true"}
    result = client.post("/v1/tag", files=files(image_file(1)), data=data).json()["images"][0]
    assert {tag["tag"] for tag in result["tags"]} == {"red dog", "beach"} and isinstance(result["caption"], str)
    data = {"regions": "true", "top_k": "1"}
    result = client.post("/v1/tag", files=files(image_file(1)), data=data).json()["images"][0]
    assert len(result["tags"][0]["box"]) == 4


def test_google_s_own_client_gets_its_answers(client: httpx.Client) -> None:
    from google.api_core.exceptions import BadRequest
    from google.auth.credentials import AnonymousCredentials
    from google.cloud import vision

    url = str(client.base_url).rstrip("/")
    google = vision.ImageAnnotatorClient(
        transport="rest", credentials=AnonymousCredentials(), client_options={"api_endpoint": url}
    )
    image = vision.Image(content=image_file(1))
    fields = {"regions": "true"}
    ours = client.post("/v1/tag", files=files(image_file(1)), data=fields).json()["images"][0]["tags"]
    labels = google.label_detection(image=image, max_results=3).label_annotations
    assert [label.description for label in labels] == [tag["tag"] for tag in ours[:3]]
    assert [label.score for label in labels] == pytest.approx([tag["score"] for tag in ours[:3]], abs=1e-4)
    (thing, *others) = google.object_localization(image=image).localized_object_annotations
    box = [(vertex.x, vertex.y) for vertex in thing.bounding_poly.normalized_vertices]
    x0, y0, x1, y1 = ours[0]["box"]
    assert thing.name == ours[0]["tag"] and len(others) == len(ours) - 1
    assert box == [pytest.approx(corner) for corner in ((x0, y0), (x1, y0), (x1, y1), (x0, y1))]
    label = vision.Feature(type_=vision.Feature.Type.LABEL_DETECTION)
    remote = vision.Image(source=vision.ImageSource(image_uri="http://127.0.0.1/a.jpg"))
    asked = [vision.AnnotateImageRequest(image=each, features=[label]) for each in (remote, image)]
    refused, answered = google.batch_annotate_images(requests=asked).responses
    assert refused.error.code == 7 and "imageUri" in refused.error.message
    assert answered.error.code == 0 and len(answered.label_annotations) == len(ours)
    with pytest.raises(BadRequest, match="too many images") as caught:
        google.batch_annotate_images(requests=asked * 3)
    assert caught.value.reason == "too_many_images"


def test_a_broken_image_and_a_bomb_among_valid_images(client: httpx.Client) -> None:
    packed = bomb(20_000)
    assert len(packed) < CONFIG.max_image_bytes
    answer = client.post("/v1/tag", files=files(image_file(1), b"nothing", packed, image_file(2)), data={"top_k": "1"})
    assert answer.status_code == 200, answer.text
    codes = [image["error"] and image["error"]["code"] for image in answer.json()["images"]]
    assert codes == [None, "undecodable", "too_large", None]


@pytest.mark.parametrize(
    ("request_fields", "status", "code"),
    [
        ({"files": files(*[image_file()] * 5)}, 413, "too_many_images"),
        ({"files": files(b"x" * 3_000_000)}, 413, "too_large"),
        ({"content": image_file(), "headers": {"content-type": "text/plain"}}, 415, "unsupported_media_type"),
        ({"files": files(image_file()), "data": {"colour": "red"}}, 422, "invalid_field"),
        ({"json": {"images": [base64_of(image_file())], "top_k": 0}}, 422, "invalid_field"),
        ({"content": b"{", "headers": {"content-type": "application/json"}}, 400, "bad_request"),
    ],
)
def test_wrong_requests_are_refused_in_json(client: httpx.Client, request_fields: dict, status: int, code: str) -> None:
    answer = client.post("/v1/tag", **request_fields)
    assert (answer.status_code, answer.json()["error"]["code"]) == (status, code)


def test_a_stream_without_a_length_is_cut_off(client: httpx.Client) -> None:
    def endless() -> Iterator[bytes]:
        for _ in range(40):
            yield b"x" * 50_000

    answer = client.post("/v1/tag", content=endless(), headers={"content-type": "application/json"})
    assert (answer.status_code, answer.json()["error"]["code"]) == (413, "too_large")


def test_pages_health_and_labels(client: httpx.Client) -> None:
    for path in ("/", "/docs"):
        assert client.get(path).text.startswith("<!doctype html>")
    assert client.get("/healthz").json()["status"] == "ok"
    assert client.get("/readyz").json()["status"] == "ready"
    assert len(client.get("/v1/tags").json()["tags"]) == 6
    assert client.get("/nothing").json()["error"]["code"] == "not_found"


def test_twenty_at_once_are_all_answered_in_order(client: httpx.Client) -> None:
    seeds = list(range(20))
    alone = [client.post("/v1/tag", files=files(image_file(s)), data={"top_k": "6"}).json()["images"][0] for s in seeds]

    def ask(seed: int) -> dict:
        answer = client.post(
            "/v1/tag", files=files(image_file(seed), b"bad", image_file(seed + 1)), data={"top_k": "6"}
        )
        assert answer.status_code == 200, answer.text
        return answer.json()

    with ThreadPoolExecutor(20) as pool:
        answers = list(pool.map(ask, seeds))
    for seed, answer in zip(seeds, answers, strict=True):
        first, bad, _ = answer["images"]
        assert bad["error"]["code"] == "undecodable"
        expected = {tag["tag"]: tag["score"] for tag in alone[seed]["tags"]}
        assert {tag["tag"]: tag["score"] for tag in first["tags"]} == pytest.approx(expected, abs=1e-4)


def test_requests_that_travel_together_get_their_own_answers_each_as_soon_as_it_is_there(client: httpx.Client) -> None:
    kinds: list[tuple[dict, int]] = [
        ({"json": {"images": [base64_of(image_file(1))], "top_k": 3}}, 200),
        ({"content": b"{", "headers": {"content-type": "application/json"}}, 400),
        ({"json": {"images": [base64_of(image_file(2))], "top_k": 2, "caption": True}}, 200),
        ({"json": {"images": [base64_of(image_file(3))], "tags": ["red dog"], "threshold": 0}}, 200),
    ]

    def ask(number: int) -> tuple[int, dict]:
        fields, status = kinds[number % len(kinds)]
        headers = {**fields.get("headers", {}), "x-request-id": f"together-{number}"}
        answer = client.post("/v1/tag", **{**fields, "headers": headers})
        assert (answer.status_code, answer.headers["x-request-id"]) == (status, f"together-{number}"), answer.text
        return number, answer.json()

    with ThreadPoolExecutor(32) as pool:
        answers = dict(pool.map(ask, range(96)))
    for number, answer in answers.items():
        if number % 4 == 1:
            assert answer["error"]["request_id"] == f"together-{number}"
            continue
        tags, caption = answer["images"][0]["tags"], answer["images"][0]["caption"]
        assert len(tags) == {0: 3, 2: 2, 3: 1}[number % 4]
        assert (caption is not None) == (number % 4 == 2) and (tags[0]["tag"] == "red dog") == (number % 4 == 3)


def test_deploying_again_updates_in_place_and_another_port_is_refused(client: httpx.Client, tiny_bundle: str) -> None:
    from ram_ray.serving.app import deploy

    assert deploy(tiny_bundle, CONFIG) == str(client.base_url).rstrip("/")
    with pytest.raises(ValueError, match=f"already runs on port {CONFIG.port}"):
        deploy(tiny_bundle, CONFIG.model_copy(update={"port": free_port()}))


def test_errors_of_ray_and_uvicorn_are_json_and_slow_bodies_lock_nobody_out(client: httpx.Client) -> None:
    assert client.head("/healthz").headers["x-request-id"]
    answer = client.get("/elsewhere", headers={"x-request-id": "mine", "x-request-timeout-seconds": "0.0001"})
    assert answer.status_code == 404 and answer.json()["error"]["request_id"] == "mine"
    slow = []
    for _ in range(200):
        connection = socket.create_connection((CONFIG.host, CONFIG.port))
        connection.sendall(b"POST /v1/tag HTTP/1.1\r\nHost: x\r\nContent-Length: 1000\r\n\r\n{")
        slow.append(connection)
    assert client.post("/v1/tag", files=files(image_file(1))).status_code == 200
    with socket.create_connection((CONFIG.host, CONFIG.port)) as broken:
        broken.sendall(b"NO HTTP\r\n\r\n")
        head, _, body = broken.makefile("rb").read().partition(b"\r\n\r\n")
        assert b" 400 " in head and json.loads(body)["error"]["code"] == "bad_request"
    for connection in slow:
        connection.close()


def test_a_swap_under_load_gives_answers_of_one_model_each_and_loses_none(
    client: httpx.Client, tiny_bundle: str, tmp_path: Path
) -> None:
    from ram_ray.inference.predictor import Predictor
    from ram_ray.models.bundle import load_bundle, save_bundle
    from ram_ray.models.ram import RAM
    from ram_ray.serving import app

    old = load_bundle(tiny_bundle)
    larger = old.model.config.model_copy(update={"image_size": 64})
    torch.manual_seed(5)
    model = RAM(larger, old.model.label_embed)
    save_bundle(tmp_path / "larger", model, labels=old.labels, tokenizer=old.tokenizer, teacher=None)
    expected = {}
    for uri in (tiny_bundle, str(tmp_path / "larger")):
        predictor = Predictor.from_pretrained(uri, device="cpu")
        expected[bundle_digest(Path(uri))] = predictor.tag(image_file(1), top_k=6)[0]
    nan = RAM(larger, torch.full_like(old.model.label_embed, torch.nan))
    save_bundle(tmp_path / "broken", nan, labels=old.labels, tokenizer=old.tokenizer, teacher=None)
    (tmp_path / "cut").mkdir()
    for file in (tmp_path / "larger").glob("*.*"):
        (tmp_path / "cut" / file.name).write_bytes(file.read_bytes()[:3000])
    answers, stop = [], threading.Event()

    def ask() -> None:
        while not stop.wait(PAUSE_S):
            answers.append(client.post("/v1/tag", files=files(image_file(1), image_file(1)), data={"top_k": "6"}))

    with ThreadPoolExecutor(3) as pool:
        askers = [pool.submit(ask) for _ in range(3)]
        try:
            before = client.get("/v1/models").json()
            with pytest.raises(ValueError, match="cut cannot be served: "):
                app.swap(str(tmp_path / "cut"), CONFIG)
            with pytest.raises(ValueError, match="broken cannot be served: the model gives scores that are no numbers"):
                app.swap(str(tmp_path / "broken"), CONFIG)
            assert client.get("/v1/models").json() == before
            swapped = app.swap(str(tmp_path / "larger"), CONFIG, name="larger")
            back = app.rollback(CONFIG)
        finally:
            stop.set()
        [asker.result() for asker in askers]
    assert (swapped.image_size, back.image_size) == (64, 32)
    assert {answer.status_code for answer in answers} == {200}
    assert {answer.json()["digest"] for answer in answers} == set(expected)
    for answer in answers:
        alone = expected[answer.json()["digest"]]
        for image in answer.json()["images"]:
            assert {tag["tag"] for tag in image["tags"]} == {tag.tag for tag in alone}
            scores = {tag["tag"]: tag["score"] for tag in image["tags"]}
            assert scores == pytest.approx({tag.tag: tag.score for tag in alone}, abs=1e-4)
    app.swap(str(tmp_path / "larger"), CONFIG, name="larger", beside=True)
    names = [(model["name"], model["default"]) for model in client.get("/v1/models").json()["models"]]
    assert sorted(names) == sorted([(back.model, True), ("larger", False)])
    by_name = client.post("/v1/tag", files=files(image_file(1)), data={"model": "larger"}).json()
    assert (by_name["model"], by_name["digest"]) == ("larger", swapped.digest)
    with pytest.raises(ValueError, match="'larger' is served already"):
        app.swap(str(tmp_path / "larger"), CONFIG, name="larger", beside=True)


def test_what_is_killed_is_replaced_and_its_requests_are_answered(client: httpx.Client) -> None:
    for name in ("Tagger", "Ingress"):
        pids = replicas(name)
        assert pids
        with ThreadPoolExecutor(1) as pool:
            asked = pool.submit(client.post, "/v1/tag", files=files(*[image_file(1)] * 4))
            for pid in pids:
                os.kill(pid, signal.SIGKILL)
            answer = asked.result()
        for _ in range(10):  # on a busy machine a replica starts for longer than a request lasts
            if answer.status_code == 200:
                break
            assert answer.status_code in (503, 504) and answer.headers["retry-after"], answer.text
            assert answer.json()["error"]["code"] in ("not_ready", "busy", "timeout")
            answer = client.post("/v1/tag", files=files(image_file(1)))
        assert answer.status_code == 200, answer.text


def replicas(name: str) -> list[int]:
    """Processes of the replicas of a deployment, among those that this process started."""
    found = []
    for process in psutil.Process().children(recursive=True):
        with contextlib.suppress(psutil.Error):
            title = " ".join(process.cmdline())
            if title.startswith("ray::ServeReplica:") and f":{name}" in title:
                found.append(process.pid)
    return found


def test_a_taken_port_is_one_clear_error() -> None:
    from ram_ray.serving.app import check_port_free

    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        with pytest.raises(ValueError, match=f"port {port} on 127.0.0.1 is taken: set serve.port"):
            check_port_free("127.0.0.1", port)
    check_port_free("127.0.0.1", free_port())


@pytest.mark.parametrize(
    ("args", "message"),
    [
        ({}, "args.model"),
        ({"model": 5}, "args.model"),
        ({"model": "m", "max_image": 5}, "args: max_image: no such field"),
        ({"model": "m", "threads": "many"}, "args: threads"),
        ({"model": "m", "port": 80}, "args.port.*http_options"),
    ],
)
def test_wrong_args_of_a_serve_config_are_named(args: dict, message: str) -> None:
    from ram_ray.serving.app import app

    with pytest.raises(ValueError, match=message):
        app(args)
