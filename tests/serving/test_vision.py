"""Contract: `POST /v1/images:annotate` has Google Vision's shape: lists of the same tags and boxes as `/v1/tag`, a
`google.rpc.Status` for each image that fails, and errors of a request as Google's client reads them."""

from __future__ import annotations

import base64
import json
from collections.abc import Iterator
from typing import Any

import pytest
from fastapi.testclient import TestClient

from ram_ray.inference.predictor import Predictor
from ram_ray.serving.api import create_api
from ram_ray.serving.keys import make_key
from ram_ray.serving.tagger import LocalTagger
from ram_ray.settings.serving import ServeConfig
from tests.serving.image_files import image_file
from tests.web_server import WebServer

PATH = "/v1/images:annotate"
LABELS, OBJECTS = {"type": "LABEL_DETECTION"}, {"type": "OBJECT_LOCALIZATION"}


@pytest.fixture(scope="module")
def predictor(tiny_bundle: str) -> Predictor:
    return Predictor.from_pretrained(tiny_bundle, device="cpu", threads=1)


def client_of(predictor: Predictor, **settings: Any) -> TestClient:
    app = create_api(LocalTagger(predictor, model="tiny"), ServeConfig(**settings))
    return TestClient(app, raise_server_exceptions=False)


@pytest.fixture(scope="module")
def client(predictor: Predictor) -> Iterator[TestClient]:
    with client_of(predictor) as api_client:
        yield api_client


def ask(content: bytes = image_file(1), features: list[dict] | None = None, **fields: Any) -> dict[str, Any]:
    image = {"content": base64.b64encode(content).decode()}
    return {"image": image, "features": [LABELS] if features is None else features, **fields}


def annotate(client: TestClient, *requests: dict[str, Any]) -> list[dict[str, Any]]:
    answer = client.post(PATH, json={"requests": requests})
    assert answer.status_code == 200, answer.text
    return answer.json()["responses"]


def tags_of(client: TestClient, content: bytes) -> list[dict[str, Any]]:
    answer = client.post("/v1/tag", files={"images": ("a.jpg", content)}, data={"regions": "true"})
    return answer.json()["images"][0]["tags"]


def test_lists_are_those_of_the_api_and_cut_at_max_results(client: TestClient) -> None:
    tags = tags_of(client, image_file(1))
    assert len(tags) == 6
    (both, few) = annotate(
        client,
        ask(features=[LABELS, OBJECTS | {"maxResults": 2}]),
        ask(features=[{"type": 4, "max_results": 1, "model": "builtin/latest"}], imageContext={"languageHints": []}),
    )
    labels = [(label["description"], label["score"]) for label in both["labelAnnotations"]]
    assert labels == [(tag["tag"], tag["score"]) for tag in tags]
    assert len({label["mid"] for label in both["labelAnnotations"]}) == 6
    things = both["localizedObjectAnnotations"]
    assert [thing["name"] for thing in things] == [tag["tag"] for tag in tags[:2]]
    corners = things[0]["boundingPoly"]["normalizedVertices"]
    assert tags[0]["box"] == [corners[0]["x"], corners[0]["y"], corners[2]["x"], corners[2]["y"]]
    assert [label["description"] for label in few["labelAnnotations"]] == [tags[0]["tag"]]
    assert "error" not in both and "localizedObjectAnnotations" not in few


def test_what_cannot_be_answered_is_an_error_of_its_image(client: TestClient) -> None:
    face = {"type": "FACE_DETECTION"}
    requests = [
        ask(b"%PDF-1.7"),
        {"image": {"content": "%%%"}, "features": [LABELS]},
        {"features": [LABELS]},
        ask(features=[]),
        {"image": {"source": {"imageUri": "https://example.org/a.jpg"}}, "features": [LABELS]},
        {"image": {"source": {"gcsImageUri": "gs://bucket/a.jpg"}}, "features": [LABELS]},
        ask(features=[LABELS | {"model": "other"}]),
        ask(features=[LABELS | {"model": "tiny"}, OBJECTS | {"model": "other"}]),
        ask(features=[face, LABELS]),
        ask(image_file(2)),
    ]
    answers = annotate(client, *requests)
    codes = [answer.get("error", {}).get("code") for answer in answers]
    assert codes == [3, 3, 3, 3, 7, 7, 5, 3, 12, None]
    messages = [answer["error"]["message"] for answer in answers[:-1]]
    for message, word in zip(messages, ("a PDF", "base64", "content", "features", "imageUri"), strict=False):
        assert word in message
    assert (
        "FACE_DETECTION" in messages[8]
        and answers[8]["labelAnnotations"] == annotate(client, ask())[0]["labelAnnotations"]
    ), "the list that can be given is there, beside the error"
    assert len(answers[9]["labelAnnotations"]) == 6
    assert client.post(PATH, json={"requests": []}).json() == client.post(PATH, json={}).json() == {"responses": []}


@pytest.mark.parametrize(
    ("body", "text"),
    [
        (b"{", "Invalid JSON"),
        (json.dumps({"requests": [ask(features=[{"type": "LABELS"}])]}), "requests.0.features.0.type: there is no"),
        (json.dumps({"requests": [ask(features=[LABELS | {"maxResults": -1}])]}), "requests.0.features.0.maxResults"),
        (json.dumps({"requests": [ask(colour=1)]}), "requests.0.colour: no such field"),
        (json.dumps({"requests": [{}] * 17}), "too many images in a request: 17; at most 16"),
        (json.dumps({"requests": [{}] * 2000}), "at most 1000"),
    ],
)
def test_errors_of_a_request_are_google_s(client: TestClient, body: str | bytes, text: str) -> None:
    answer = client.post(PATH, content=body)
    problem = answer.json()["error"]
    assert (answer.status_code, problem["code"], problem["status"]) == (400, 400, "INVALID_ARGUMENT")
    assert text in problem["message"]
    assert problem["details"][1]["requestId"] == answer.headers["x-request-id"]


def test_keys_come_as_google_s_clients_send_them(predictor: Predictor) -> None:
    secret, entry = make_key("shop")
    with client_of(predictor, api_keys=(entry,)) as client:
        refused = client.post(PATH, json={"requests": [ask()]})
        assert (refused.status_code, refused.json()["error"]["status"]) == (401, "UNAUTHENTICATED")
        body = {"requests": [ask()]}
        assert client.post(f"{PATH}?key={secret}", json=body).status_code == 200
        assert client.post(PATH, json=body, headers={"X-Goog-Api-Key": secret}).status_code == 200
        path = "/v1/projects/mine/locations/eu/images:annotate"
        assert client.post(f"{path}?key={secret}", json=body).status_code == 200
        assert client.post(f"/v1/tag?key={secret}", json={"images": ["aGk="]}).status_code == 401


def test_an_image_uri_of_the_list_is_fetched(predictor: Predictor) -> None:
    with WebServer() as web:
        web.files["/a.jpg"] = image_file(1)
        settings = {"image_hosts": (web.url.removeprefix("http://"),), "image_networks": ("127.0.0.0/8",)}
        uris = [f"{web.url}/a.jpg", "https://example.org/a.jpg", f"{web.url}/none.jpg"]
        requests = [{"image": {"source": {"imageUri": uri}}, "features": [LABELS]} for uri in uris]
        with client_of(predictor, **settings) as client:
            fetched, refused, missing = annotate(client, *requests)
            assert fetched == annotate(client, ask())[0]
        assert (refused["error"]["code"], missing["error"]["code"]) == (7, 14)
        assert sorted(path for _, path, _ in web.requests) == ["/a.jpg", "/none.jpg"]  # side by side, in any order
