"""Contract of the HTTP side, with a model in this process: order of results, separate failures, limits."""

from __future__ import annotations

import asyncio
import json
import re
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from fastapi.testclient import TestClient

from ram_ray.inference.predictor import Predictor
from ram_ray.serving.api import create_api
from ram_ray.serving.keys import make_key
from ram_ray.serving.metrics import Metrics
from ram_ray.serving.tagger import LocalTagger
from ram_ray.settings.serving import ServeConfig
from tests.serving.image_files import base64_of, bomb, image_file

CONFIG = ServeConfig(max_images=4, max_request_bytes=400_000, max_image_bytes=200_000, max_pixels=1_000_000)


@pytest.fixture(scope="module")
def predictor(tiny_bundle: str) -> Predictor:
    return Predictor.from_pretrained(tiny_bundle, device="cpu", threads=1)


def client_of(predictor: Predictor, config: ServeConfig = CONFIG) -> TestClient:
    return TestClient(create_api(LocalTagger(predictor, model="tiny"), config), raise_server_exceptions=False)


@pytest.fixture(scope="module")
def client(predictor: Predictor) -> Iterator[TestClient]:
    with client_of(predictor) as api_client:
        yield api_client


def files(*images: bytes) -> list[tuple[str, tuple[str, bytes]]]:
    return [("images", (f"{index}.jpg", data)) for index, data in enumerate(images)]


def error_of(answer: Any, status: int) -> dict[str, str]:
    assert answer.status_code == status, answer.text
    problem = answer.json()["error"]
    assert set(problem) == {"code", "message", "request_id"} and all(problem.values())
    assert problem["request_id"] == answer.headers["x-request-id"]
    return problem


def test_form_and_json_get_the_model_s_own_answer(client: TestClient, predictor: Predictor) -> None:
    form = client.post("/v1/tag", files=files(image_file(1), image_file(2)), data={"top_k": "6"})
    sent = client.post("/v1/tag", json={"images": [base64_of(image_file(1)), base64_of(image_file(2))], "top_k": 6})
    assert form.status_code == 200 and form.json() == sent.json()
    first, second = form.json()["images"]
    assert len(first["tags"]) == 6 and first["error"] is None and first["caption"] is None
    assert {tag["tag"]: tag["id"] for tag in first["tags"]} == {n: i for i, n in enumerate(predictor.labels.names)}
    scores = [tag["score"] for tag in first["tags"]]
    assert scores == sorted(scores, reverse=True)
    assert first != second


def test_a_broken_image_among_valid_images(client: TestClient) -> None:
    alone = client.post("/v1/tag", files=files(image_file(1)), data={"top_k": "3"}).json()["images"][0]
    answer = client.post("/v1/tag", files=files(image_file(1), b"no image", b"", image_file(2)), data={"top_k": "3"})
    assert answer.status_code == 200
    images = answer.json()["images"]
    assert images[0] == alone
    assert [image["error"] and image["error"]["code"] for image in images] == [None, "undecodable", "undecodable", None]
    assert images[1]["tags"] == [] and len(images[3]["tags"]) == 3


def test_a_truncated_image_and_bad_base64_are_errors_of_their_own(client: TestClient) -> None:
    whole = image_file(1, size=(300, 200))
    sent = {"images": [base64_of(whole[: len(whole) // 2]), {"content": "%%%"}, base64_of(whole)], "top_k": 1}
    images = client.post("/v1/tag", json=sent).json()["images"]
    assert [image["error"] and image["error"]["code"] for image in images] == ["truncated", "undecodable", None]


def test_own_tags_are_scored_in_place_of_the_list(client: TestClient) -> None:
    answer = client.post("/v1/tag", files=files(image_file(1)), data={"tags": "red dog, beach ", "threshold": "0"})
    tags = answer.json()["images"][0]["tags"]
    assert {tag["tag"] for tag in tags} == {"red dog", "beach"}
    assert all(tag["id"] is None for tag in tags)


def test_caption_and_regions(client: TestClient) -> None:
    fields = {"caption": "true", "regions": "true", "top_k": "2"}
    result = client.post("/v1/tag", files=files(image_file(1)), data=fields).json()["images"][0]
    assert isinstance(result["caption"], str)
    for tag in result["tags"]:
        x0, y0, x1, y1 = tag["box"]
        assert 0 <= x0 < x1 <= 1 and 0 <= y0 < y1 <= 1


def test_an_image_of_too_many_pixels_or_bytes_is_not_decoded(client: TestClient) -> None:
    packed = bomb(10_000)
    assert len(packed) < CONFIG.max_image_bytes
    started = time.process_time()  # not of the clock: the machine may be busy
    large = image_file(3, size=(600, 500), format="BMP")[: CONFIG.max_image_bytes + 1]
    answer = client.post("/v1/tag", files=files(packed, image_file(1), large))
    assert time.process_time() - started < 2
    codes = [image["error"] and image["error"]["code"] for image in answer.json()["images"]]
    assert codes == ["too_large", None, "too_large"]


def test_too_many_images(client: TestClient) -> None:
    assert error_of(client.post("/v1/tag", files=files(*[image_file()] * 5)), 413)["code"] == "too_many_images"
    sent = {"images": [base64_of(image_file())] * 5}
    assert error_of(client.post("/v1/tag", json=sent), 413)["code"] == "too_many_images"


def test_no_images(client: TestClient) -> None:
    assert "images" in error_of(client.post("/v1/tag", json={"images": []}), 422)["message"]
    assert "images" in error_of(client.post("/v1/tag", files={"images": (None, "text")}), 422)["message"]
    assert "photo" in error_of(client.post("/v1/tag", files={"photo": ("a.jpg", image_file())}), 422)["message"]


def test_too_large_a_body_with_and_without_its_length(client: TestClient) -> None:
    big = b"x" * (CONFIG.max_request_bytes + 1)
    assert error_of(client.post("/v1/tag", files=files(big)), 413)["code"] == "too_large"

    def chunks() -> Iterator[bytes]:
        yield from (big[i : i + 10_000] for i in range(0, len(big), 10_000))

    headers = {"content-type": "application/json"}
    assert error_of(client.post("/v1/tag", content=chunks(), headers=headers), 413)["code"] == "too_large"
    headers = {"content-type": "application/json", "content-length": "10"}
    assert error_of(client.post("/v1/tag", content=chunks(), headers=headers), 413)["code"] == "too_large"


def test_wrong_content_type(client: TestClient) -> None:
    for kind in ("text/plain", "application/x-www-form-urlencoded"):  # the second is that of curl --data-binary
        problem = error_of(client.post("/v1/tag", content=image_file(), headers={"content-type": kind}), 415)
        assert kind in problem["message"] and "multipart/form-data" in problem["message"]
    error_of(client.post("/v1/tag", content=b""), 415)


def test_wrong_fields_are_named(client: TestClient) -> None:
    assert (
        "colour" in error_of(client.post("/v1/tag", files=files(image_file()), data={"colour": "red"}), 422)["message"]
    )
    sent = {"images": [base64_of(image_file())], "top_k": 0}
    assert "top_k" in error_of(client.post("/v1/tag", json=sent), 422)["message"]


def test_unreadable_bodies(client: TestClient) -> None:
    kind = {"content-type": "application/json"}
    assert error_of(client.post("/v1/tag", content=b"{", headers=kind), 400)["code"] == "bad_request"
    for kind_of_form in ("multipart/form-data", "multipart/form-data; boundary=x"):
        error_of(client.post("/v1/tag", content=b"--y\r\nrubbish", headers={"content-type": kind_of_form}), 400)


def test_errors_of_the_router_are_json_too(client: TestClient) -> None:
    assert error_of(client.get("/v1/nothing"), 404)["code"] == "not_found"
    assert error_of(client.get("/v1/tag"), 405)["code"] == "method_not_allowed"


def test_a_slow_model_ends_in_504(predictor: Predictor) -> None:
    class Slow(LocalTagger):
        async def tag(self, images: Any, options: Any) -> Any:
            await asyncio.sleep(5)

    app = create_api(Slow(predictor, model="tiny"), ServeConfig(timeout_s=0.3))
    with TestClient(app, raise_server_exceptions=False) as client:
        assert error_of(client.post("/v1/tag", files=files(image_file())), 504)["code"] == "timeout"


def test_health_labels_and_readiness(client: TestClient, predictor: Predictor) -> None:
    assert client.get("/healthz").json() == {"status": "ok"}
    assert client.get("/readyz").json() == {"status": "ready", "model": "tiny"}
    labels = client.get("/v1/tags").json()
    assert [label["name"] for label in labels["tags"]] == predictor.labels.names
    assert labels["version"] == predictor.labels.version
    (model,) = client.get("/v1/models").json()["models"]
    assert (model["name"], model["default"], model["num_tags"]) == ("tiny", True, 6)


def test_a_model_is_asked_for_by_its_name(client: TestClient) -> None:
    answer = client.post("/v1/tag", files=files(image_file(1)), data={"model": "tiny"})
    assert answer.status_code == 200 and answer.json()["model"] == "tiny"
    problem = error_of(client.post("/v1/tag", files=files(image_file(1)), data={"model": "large"}), 404)
    assert problem["code"] == "unknown_model" and "tiny" in problem["message"]


def test_head_icon_and_request_ids(client: TestClient) -> None:
    head = client.head("/readyz", headers={"X-Request-ID": "mine-1"})
    assert (head.status_code, head.content, head.headers["x-request-id"]) == (200, b"", "mine-1")
    assert client.get("/healthz", headers={"X-Request-ID": "not valid!"}).headers["x-request-id"] != "not valid!"
    assert client.get("/favicon.ico").headers["content-type"] == "image/svg+xml"


def test_keys_origins_and_the_access_log(predictor: Predictor, tmp_path: Path) -> None:
    secret, entry = make_key("shop", images_per_minute=2)
    log = tmp_path / "access.log"
    config = ServeConfig(api_keys=(entry,), cors_origins=("https://shop.example",), access_log=str(log))
    app = create_api(LocalTagger(predictor, model="tiny"), config, metrics=Metrics(enabled=False))
    with TestClient(app, raise_server_exceptions=False) as client:
        assert client.get("/healthz").status_code == client.get("/").status_code == 200
        assert error_of(client.get("/v1/models"), 401)["code"] == "unauthorized"
        error_of(client.post("/v1/tag", files=files(image_file(1)), headers={"X-API-Key": "rr_wrong"}), 401)
        for headers in {"Authorization": f"Bearer {secret}"}, {"X-API-Key": secret}:
            assert client.post("/v1/tag", files=files(image_file(1)), headers=headers).status_code == 200
        refused = client.post("/v1/tag", files=files(image_file(1)), headers={"X-API-Key": secret})
        assert error_of(refused, 429)["code"] == "rate_limited" and 1 <= int(refused.headers["retry-after"]) <= 60
        asked = {"Origin": "https://shop.example", "Access-Control-Request-Method": "POST"}
        allowed = client.options("/v1/tag", headers=asked)
        assert allowed.headers["access-control-allow-origin"] == "https://shop.example"
        other = client.options("/v1/tag", headers={**asked, "Origin": "https://other.example"})
        assert "access-control-allow-origin" not in other.headers
    lines = [json.loads(line) for line in log.read_text().splitlines()]
    assert [line["status"] for line in lines[:5]] == [200, 200, 401, 401, 200]
    assert lines[4]["client"] == "shop" and lines[4]["bytes"] > 0 and lines[4]["path"] == "/v1/tag"
    assert secret not in log.read_text()


def test_one_image_passes_the_many_of_another_request(predictor: Predictor) -> None:
    order: list[int] = []

    class Slow(LocalTagger):
        async def tag(self, images: Any, options: Any) -> Any:
            await asyncio.sleep(0.05)
            order.append(options.top_k)
            return await super().tag(images, options)

    app = create_api(Slow(predictor, model="tiny"), ServeConfig(max_batch_size=1, max_images=40))
    with TestClient(app) as client, ThreadPoolExecutor(2) as pool:
        client.get("/readyz")
        many = pool.submit(client.post, "/v1/tag", files=files(*[image_file(1)] * 40), data={"top_k": "1"})
        while not order:
            time.sleep(0.005)
        assert client.post("/v1/tag", files=files(image_file(2)), data={"top_k": "2"}).status_code == 200
        assert many.result().status_code == 200
    assert order.index(2) < 35 and len(order) == 41


def test_openapi_describes_both_ways_and_the_errors(client: TestClient) -> None:
    api = client.get("/openapi.json").json()
    post = api["paths"]["/v1/tag"]["post"]
    assert set(post["requestBody"]["content"]) == {"multipart/form-data", "application/json", "image/*"}
    for kind in ("multipart/form-data", "application/json"):
        content = post["requestBody"]["content"][kind]
        assert {"images", "top_k", "threshold", "tags", "caption", "regions", "model"} == set(
            content["schema"]["properties"]
        )
    assert {"200", "413", "415", "422", "429", "503", "504"} <= set(post["responses"])
    text = json.dumps(api)
    for name in re.findall(r'"#/components/schemas/(\w+)"', text):
        assert name in api["components"]["schemas"]
    assert "#/$defs" not in text
