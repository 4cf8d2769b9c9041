"""Contract: the pages load nothing from elsewhere, name what their scripts use, and offer examples; in Chromium an
example is tagged, and what is shown is what the API answers."""

from __future__ import annotations

import re
import shutil
import subprocess
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import uvicorn
from fastapi.testclient import TestClient

from ram_ray.inference.predictor import Predictor
from ram_ray.runtime.own_cluster import free_port
from ram_ray.serving.api import create_api
from ram_ray.serving.pages import find_examples
from ram_ray.serving.tagger import LocalTagger
from ram_ray.settings.serving import ServeConfig
from tests.serving.image_files import image_file


@pytest.fixture(scope="module")
def predictor(tiny_bundle: str) -> Predictor:
    return Predictor.from_pretrained(tiny_bundle, device="cpu", threads=1)


@pytest.fixture(scope="module")
def client(predictor: Predictor) -> Iterator[TestClient]:
    with TestClient(create_api(LocalTagger(predictor, model="tiny"), ServeConfig(max_images=5))) as api_client:
        yield api_client


def test_pages_load_nothing_from_elsewhere(client: TestClient) -> None:
    for path in ("/", "/docs", "/page/page.js", "/page/results.js", "/page/page.css"):
        answer = client.get(path)
        assert answer.status_code == 200 and answer.headers["x-content-type-options"] == "nosniff"
        assert not re.findall(r"(?:https?:)?//[a-z]+\.", answer.text)
    policy = client.get("/").headers["content-security-policy"]
    assert "default-src 'none'" in policy and "unsafe" not in policy
    assert "default-src 'none'" in client.get("/docs").headers["content-security-policy"]
    for path in ("/page/page.html", "/page/..%2fapi.py", "/page/examples", "/page/"):
        assert client.get(path).status_code == 404


def test_scripts_and_styles_use_what_the_page_has(client: TestClient) -> None:
    page, script = client.get("/").text, client.get("/page/page.js").text
    ids = set(re.findall(r' id="([\w-]+)"', page))
    assert set(re.findall(r'\$\("([\w-]+)"\)', script)) <= ids
    assert set(re.findall(r'(?:for|aria-describedby|aria-labelledby)="([\w-]+)"', page)) <= ids
    imported = re.search(r"import \{(.+)\} from", script)
    assert imported is not None
    exported = set(re.findall(r"^export (?:async )?function (\w+)", client.get("/page/results.js").text, re.MULTILINE))
    assert set(imported[1].replace(" ", "").split(",")) <= exported
    for field in re.findall(r"<(?:input|select)[^>]*>", page):
        before, name = page[: page.index(field)], re.findall(r' id="([\w-]+)"', field)[0]
        is_inside = before.rfind("<label") > before.rfind("</label>")
        assert is_inside or f'<label for="{name}">' in page, f"{field} has no label"
    for label in re.findall(r"<label(?! for=).*?</label>", page, re.DOTALL):
        assert "<output" not in label, "a label names the first field in it, and an output is one"


def test_limits_and_examples(client: TestClient, tmp_path: Path) -> None:
    limits = client.get("/v1/limits").json()
    assert (limits["max_images"], limits["max_own_tags"], limits["timeout_s"]) == (5, 200, 30)
    assert set(re.findall(r"limits\.(\w+)", client.get("/page/page.js").text)) <= set(limits)
    paths = client.get("/page/examples.json").json()
    assert len(paths) == 4
    for path in paths:
        answer = client.get(f"/{path}")
        assert answer.headers["content-type"] == "image/webp"
        sent = client.post("/v1/tag", content=answer.content, headers={"content-type": "image/webp"})
        assert sent.json()["images"][0]["error"] is None
    for name in ("b.JPG", "a.png", "c.txt"):
        (tmp_path / name).write_bytes(image_file(1))
    (tmp_path / "d.jpg").write_bytes(bytes(3_000_000))
    assert [path.name for path in find_examples(str(tmp_path))] == ["a.png", "b.JPG"]
    assert find_examples(str(tmp_path / "none")) == []


def test_an_example_is_tagged_in_chromium(predictor: Predictor, tmp_path: Path) -> None:
    chromium = shutil.which("chromium") or shutil.which("google-chrome")
    if chromium is None:
        pytest.skip("Chromium is not installed")
    port = free_port()
    app = create_api(LocalTagger(predictor, model="tiny"), ServeConfig())
    server = uvicorn.Server(uvicorn.Config(app, port=port, log_level="error"))
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    while not server.started:
        time.sleep(0.02)
    try:
        options = ["--headless", "--no-sandbox", "--disable-gpu", f"--user-data-dir={tmp_path}", "--timeout=20000"]
        options += ["--virtual-time-budget=10000", "--dump-dom", f"http://127.0.0.1:{port}/#example=2"]
        page = subprocess.run([chromium, *options], capture_output=True, text=True, timeout=60).stdout
    finally:
        server.should_exit = True
        thread.join()
    assert "1 image tagged in" in page and 'id="problem" role="alert"></div>' in page
    names = re.findall(r'<span class="name">([^<]+)</span>', page)
    image = Path(find_examples("")[1]).read_bytes()
    expected = [score.tag for score in predictor.tag(image, top_k=6)[0]]
    assert names == expected
