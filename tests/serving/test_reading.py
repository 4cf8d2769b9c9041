"""Contract: what clients really send is read: base64 of every kind, data: URLs, images as they are, the usual names of
fields, gzip; what is wrong is named, and nothing that is small becomes large."""

from __future__ import annotations

import base64
import gzip
import json
import time
from collections.abc import Iterator
from typing import Any

import pytest
from fastapi.testclient import TestClient
from starlette.requests import Request

from ram_ray.inference.predictor import Predictor
from ram_ray.serving.api import create_api
from ram_ray.serving.encodings import image_from_text, kind_of
from ram_ray.serving.messages import Problem
from ram_ray.serving.reading import estimate_num_images
from ram_ray.serving.tagger import LocalTagger
from ram_ray.settings.serving import ServeConfig
from tests.serving.image_files import image_file

CONFIG = ServeConfig(max_images=4, max_request_bytes=2_000_000, max_held_bytes=5_000_000)
IMAGE = image_file(1)
TEXT = base64.b64encode(IMAGE).decode()
DATA_URL = f"data:image/jpeg;base64,{TEXT}"
JSON = {"content-type": "application/json"}
GZIPPED = gzip.compress(b'{"images": []}', mtime=0)  # a parameter: with the time, workers collect different tests


@pytest.fixture(scope="module")
def client(tiny_bundle: str) -> Iterator[TestClient]:
    predictor = Predictor.from_pretrained(tiny_bundle, device="cpu", threads=1)
    with TestClient(create_api(LocalTagger(predictor, model="tiny"), CONFIG)) as api_client:
        yield api_client


@pytest.fixture(scope="module")
def tagged(client: TestClient) -> dict[str, Any]:
    """The answer for the image, with two tags."""
    return client.post("/v1/tag", json={"images": [{"content": TEXT}], "top_k": 2}).json()["images"][0]


def problem_of(answer: Any, status: int) -> str:
    assert answer.status_code == status, answer.text
    return answer.json()["error"]["message"]


@pytest.mark.parametrize("data", [b"\xfb\xff\xfe" * 20, b"\xfb\xff\xfe\xff", b"\xfb\xff\xfe\xff\xfa", IMAGE])
def test_base64_of_every_kind_gives_the_same_bytes(data: bytes) -> None:
    standard, url_safe = base64.b64encode(data).decode(), base64.urlsafe_b64encode(data).decode()
    wrapped = base64.encodebytes(data).decode()
    for text in (standard, url_safe, standard.rstrip("="), wrapped, wrapped.replace("\n", "\r\n"), f" {standard}\t"):
        assert image_from_text(text) == data
        assert image_from_text(f"data:image/png;charset=x;base64,{text}") == data
    assert image_from_text(f"DATA:;BASE64,{standard}") == data


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "no bytes"),
        (" \n", "no bytes"),
        ("data:image/png;base64,", "no bytes"),
        ("data:image/png,abc", "a data: URL must begin with"),
        ("data:image/png;base64", "a data: URL must begin with"),
        ("ab%cdefg", "character 3 is not"),
        ("ab\ncdéfg", "character 6 is not"),
        ("data:x;base64,ab%", "character 17 is not"),
        ("abcde", "ends early"),
        ("ab=cd", "'=' stands before"),
        ("https://example.org/a.jpg", "this is a URL"),
    ],
)
def test_what_is_wrong_with_base64_is_named(text: str, message: str) -> None:
    problem = image_from_text(text)
    assert isinstance(problem, Problem) and problem.code == "undecodable" and message in problem.message


def test_json_takes_text_of_every_kind(client: TestClient, tagged: dict[str, Any]) -> None:
    images = [TEXT, {"content": DATA_URL}, {"content": base64.encodebytes(IMAGE).decode()}, {"content": "%"}]
    answers = client.post("/v1/tag", json={"images": images, "top_k": 2}).json()["images"]
    assert answers[:3] == [tagged] * 3
    assert "character 1" in answers[3]["error"]["message"]


def test_an_image_as_it_is_with_options_in_the_url(client: TestClient, tagged: dict[str, Any]) -> None:
    for kind in ("image/jpeg", "image/*", "application/octet-stream", "image/png; x=y"):  # the bytes say what it is
        answer = client.post("/v1/tag?top_k=2", content=IMAGE, headers={"content-type": kind})
        assert answer.json()["images"] == [tagged]
    own = client.post("/v1/tag?tags=dog,cat&tags=red&top_k=9", content=IMAGE, headers={"content-type": "image/jpeg"})
    assert {tag["tag"] for tag in own.json()["images"][0]["tags"]} == {"dog", "cat", "red"}
    for query, name in ("topk=2", "topk: no such field"), ("top_k=x", "top_k"), ("top_k=1&top_k=2", "top_k: sent more"):
        answer = client.post(f"/v1/tag?{query}", content=IMAGE, headers={"content-type": "image/jpeg"})
        assert name in problem_of(answer, 422)
    assert "top_k: with JSON" in problem_of(client.post("/v1/tag?top_k=2", json={"images": [TEXT]}), 422)


def test_the_usual_names_of_a_file_field(client: TestClient, tagged: dict[str, Any]) -> None:
    for name in ("images", "images[]", "images[0]", "image", "file", "files", "files[]"):
        answer = client.post("/v1/tag?top_k=2", files=[(name, ("a.jpg", IMAGE))] * 2)
        assert answer.json()["images"] == [tagged] * 2, name
    for name in ("photo", "images[x]", "imagess"):
        assert "in the field 'images'" in problem_of(client.post("/v1/tag", files={name: ("a.jpg", IMAGE)}), 422)
    long = base64.b64encode(image_file(1, size=(400, 300), format="BMP")).decode()
    assert len(long) > 200_000  # more than another field may have
    answer = client.post("/v1/tag", data={"image": [DATA_URL, TEXT, long], "top_k": "2"}, files={"file": b""})
    results = answer.json()["images"]
    assert len(results) == 4 and tagged in results and [result["error"] is None for result in results].count(True) == 3
    assert "images=@FILE" in problem_of(client.post("/v1/tag", files={"images": (None, "a.jpg")}), 422)
    answer = client.post("/v1/tag", files={"tags": (None, "x," * 50_000), "image": ("a.jpg", IMAGE)})
    assert "tags: a field may have at most" in problem_of(answer, 422)


def test_gzip_of_every_kind_of_body(client: TestClient, tagged: dict[str, Any]) -> None:
    def post(body: bytes, kind: str, encoding: str = "gzip") -> Any:
        headers = {"content-type": kind, "content-encoding": encoding}
        return client.post("/v1/tag?top_k=2", content=body, headers=headers)

    assert post(gzip.compress(IMAGE), "image/jpeg").json()["images"] == [tagged]
    assert post(gzip.compress(IMAGE[:500]) + gzip.compress(IMAGE[500:]), "image/jpeg").json()["images"] == [tagged]
    form = b'--x\r\nContent-Disposition: form-data; name="image"; filename="a"\r\n\r\n' + IMAGE + b"\r\n--x--\r\n"
    assert post(gzip.compress(form), "multipart/form-data; boundary=x", "GZIP").json()["images"] == [tagged]
    body = gzip.compress(json.dumps({"images": [TEXT], "top_k": 2}).encode())
    answer = client.post("/v1/tag", content=body, headers=JSON | {"content-encoding": "x-gzip"})
    assert answer.json()["images"] == [tagged]
    assert "early" in problem_of(post(gzip.compress(IMAGE)[:-9], "image/jpeg"), 400)
    assert "not gzip data" in problem_of(post(IMAGE, "image/jpeg"), 400)
    for encoding in ("br", "gzip, gzip", "zstd"):
        assert repr(encoding) in problem_of(post(b"", "image/jpeg", encoding), 415)


def test_no_small_body_becomes_a_large_one(client: TestClient) -> None:
    bomb = gzip.compress(bytes(50_000_000))
    assert len(bomb) < 100_000
    for kind in ("image/jpeg", "application/json", "multipart/form-data; boundary=x"):
        started = time.process_time()
        headers = {"content-type": kind, "content-encoding": "gzip"}
        assert "2,000,000 bytes, decompressed" in problem_of(client.post("/v1/tag", content=bomb, headers=headers), 413)
        assert time.process_time() - started < 0.5
    members = gzip.compress(b"") * 50_000
    answer = client.post("/v1/tag", content=members, headers={"content-type": "image/jpeg", "content-encoding": "gzip"})
    assert "members of gzip" in problem_of(answer, 400)
    assert client.app.state.api.budget.num_bytes == 0  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    ("data", "kind"),
    [
        (b"", "no bytes"),
        (b"%PDF-1.7 ...", "a PDF"),
        (b"\n<!doctype html>", "HTML, SVG or other XML"),
        (b"\0\0\0\x18ftypmp42", "a video"),
        (b"\0\0\0\x18ftypheic", ""),
        (TEXT.encode(), "base64"),
        (DATA_URL.encode(), "a data: URL"),
        (b"hello", ""),
    ],
)
def test_a_file_that_is_no_image_is_named(client: TestClient, data: bytes, kind: str) -> None:
    assert kind_of(data).startswith(kind) and bool(kind_of(data)) == bool(kind)
    (result,) = client.post("/v1/tag", files={"images": ("a.jpg", data)}).json()["images"]
    assert result["error"]["code"] in ("undecodable", "truncated") and kind in result["error"]["message"]


@pytest.mark.parametrize(
    ("kind", "body", "expected"),
    [
        ("application/json", b'{"images": [{"content": "aa"}, {"content": "bb"}], "tags": ["a \\"content\\""]}', 2),
        ("application/json", b'{"requests": [{"image": {"content": "aa"}}]}', 1),
        ("multipart/form-data; boundary=x", 3 * b'--x\r\nContent-Disposition: form-data; filename="a"\r\n\r\n', 3),
        ("image/jpeg", IMAGE, 1),
        ("application/json", GZIPPED, 1),
        ("application/json", 9 * b'{"content": "aa"}', 4),
    ],
)
def test_images_are_counted_before_a_body_is_parsed(kind: str, body: bytes, expected: int) -> None:
    request = Request({"type": "http", "headers": [(b"content-type", kind.encode())]})
    assert estimate_num_images(request, body, max_images=4) == expected


@pytest.mark.parametrize("path", ["/v1/tag", "/v1/images:annotate"])
def test_a_request_without_a_place_is_refused_before_it_is_parsed(client: TestClient, path: str) -> None:
    broken = b'{"images": [{"content": '
    problem_of(client.post(path, content=broken, headers=JSON), 400)
    places = client.app.state.api.work.places  # type: ignore[attr-defined]  # of FastAPI
    with places.take(CONFIG.max_queued, client="testclient"):
        assert "already waiting" in problem_of(client.post(path, content=broken, headers=JSON), 429)
    problem_of(client.post(path, content=broken, headers=JSON), 400)
