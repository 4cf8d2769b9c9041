"""Contract: `ram-ray download` makes a bundle of a released model from pinned files alone, here of a local server with
small ones. A broken line goes on where it was cut; a file that is not the pinned one is refused in one line; what is
whole is not fetched again; and the pins of the real releases are complete.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from ram_ray.cli.main import main
from ram_ray.inference.predictor import Predictor
from ram_ray.interop.importing import LISTS
from ram_ray.interop.releases import RELEASES, Content, HubFile, Release, default_cache
from ram_ray.runtime import web_files
from tests import released
from tests.tiny import photo
from tests.web_server import WebServer

NAMES = {"ram": "ram", "ram_plus": "ram-plus", "tag2text": "tag2text"}
COMMIT = "ab" * 20


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[WebServer]:
    monkeypatch.setattr(web_files, "WAIT_SECONDS", (0.0, 0.0))
    with WebServer() as server:
        monkeypatch.setenv("HF_ENDPOINT", f"{server.url}/hub/")
        monkeypatch.setenv("RAM_RAY_GITHUB", f"{server.url}/github")
        yield server


@pytest.fixture(params=NAMES)
def name(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest.fixture
def release(server: WebServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> str:
    """A small release in place of a real one: the same names of files, on the server, with pins of their own."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    folder = released.write(tmp_path / "files", released.model(name))
    real = RELEASES[NAMES[name]]
    swin = next(path for path in real.reference if "swin" in path)
    (folder / "configs/swin/config_swinB_384.json").rename(folder / swin)

    def publish(path: str, file: Path) -> Content:
        server.files[path] = content = file.read_bytes()
        return Content(hashlib.sha256(content).hexdigest(), len(content))

    def publish_on_hub(real: HubFile, file: Path) -> HubFile:
        path = f"/hub/{real.repository}/resolve/{real.revision}/{real.name}"
        return HubFile(real.repository, real.revision, real.name, publish(path, file))

    github = "/github/xinyu1205/recognize-anything/7cb804a8609e9f4b1a50b7f31436d2df40bb9481/ram"
    small = Release(
        publish_on_hub(real.checkpoint, folder / "checkpoint.pth"),
        {path: publish(f"{github}/{path}", folder / path) for path in real.reference},
        real.vocabulary and publish_on_hub(real.vocabulary, folder / "tokenizer" / "vocab.txt"),
    )
    monkeypatch.setitem(RELEASES, NAMES[name], small)
    return NAMES[name]


only_ram = pytest.mark.parametrize("name", ["ram"], indirect=True)


def test_a_release_becomes_a_bundle(release: str, name: str, server: WebServer, tmp_path: Path, capsys) -> None:
    assert main(["download", release, str(tmp_path / "bundle")]) == 0
    shown = capsys.readouterr()
    assert shown.out.count("\n") == 1 and "7 tags, 48 px" in shown.out
    assert re.fullmatch(r"ram-ray download: the checkpoint is kept at \S+; the bundle does not need it\n", shown.err)
    assert server.count("GET") == len(server.files), "each file once"
    predictor = Predictor.from_pretrained(str(tmp_path / "bundle"), device="cpu")
    assert predictor.labels.names == [f"tag {i}" for i in range(7)]
    assert len(predictor.tag([photo(1)], top_k=3)[0]) == 3
    if name == "tag2text":
        assert predictor.labels[3].threshold is None
    else:
        assert predictor.labels[3].threshold == 0.43 and predictor.labels[3].chinese == "标签3"
    if name == "ram_plus":
        assert not any("vocab.txt" in path for path in server.files), "RAM++ writes no captions"
    else:
        assert isinstance(predictor.caption([photo(1)])[0], str)
    checkpoint = RELEASES[release].checkpoint
    assert checkpoint.content and checkpoint.content.sha256 in (tmp_path / "bundle" / "README.md").read_text()
    assert list(default_cache().glob(f"hub/{checkpoint.repository}/{checkpoint.revision}/*.pth"))


@only_ram
def test_a_cut_line_goes_on_where_it_was_cut(release: str, server: WebServer, tmp_path: Path, capsys) -> None:
    path = next(path for path in server.files if path.endswith(".pth"))
    server.cuts[path] = [20_000]
    assert main(["download", release, str(tmp_path / "bundle")]) == 0
    assert server.ranges(path) == [None, "bytes=20000-"]
    assert "cut after 20,000 of" in capsys.readouterr().err
    server.requests.clear()
    assert main(["download", release, str(tmp_path / "again")]) == 0
    assert not server.requests, "all is there"


@only_ram
def test_a_later_command_goes_on_too(release: str, server: WebServer, tmp_path: Path, capsys) -> None:
    path = next(path for path in server.files if path.endswith(".pth"))
    server.cuts[path] = [20_000, 0, 0]
    assert main(["download", release, str(tmp_path / "bundle")]) == 2
    error = capsys.readouterr().err.splitlines()[-1]
    assert "20,000 bytes are kept, and the same command goes on from there" in error and path in error
    assert not (tmp_path / "bundle").exists()
    server.requests.clear()
    assert main(["download", release, str(tmp_path / "bundle")]) == 0
    assert [request[1:] for request in server.requests] == [(path, "bytes=20000-")]


@only_ram
@pytest.mark.parametrize("ending", [".pth", "ram_tag_list.txt", "vocab.txt"])
def test_a_file_that_is_not_the_pinned_one_is_refused(
    ending: str, release: str, server: WebServer, tmp_path: Path, capsys
) -> None:
    path = next(path for path in server.files if path.endswith(ending))
    right = server.files[path]
    server.files[path] = right[:-1] + bytes([right[-1] ^ 1])
    assert main(["download", release, str(tmp_path / "bundle")]) == 2
    error = capsys.readouterr().err
    option = "--github" if ending == "ram_tag_list.txt" else "--hub"
    assert error.count("\n") == 1 and f"{server.url}{path}: its sha256 is " in error
    assert error.endswith(f"; nothing is kept; run it again, or name a mirror with {option}\n")
    assert not (tmp_path / "bundle").exists()
    server.files[path] = right
    assert main(["download", release, str(tmp_path / "bundle")]) == 0


@only_ram
def test_another_revision_is_not_checked_but_recorded(release: str, server: WebServer, tmp_path: Path, capsys) -> None:
    path = next(path for path in server.files if path.endswith(".pth"))
    content = server.files.pop(path)
    server.files[path.replace(RELEASES[release].checkpoint.revision, COMMIT)] = content
    options = ["--revision", COMMIT, "--cache", str(tmp_path / "own")]
    assert main(["download", release, str(tmp_path / "bundle"), *options]) == 0
    digest = hashlib.sha256(content).hexdigest()
    assert f"at {COMMIT} has sha256 {digest}; none is known" in capsys.readouterr().err
    assert digest in (tmp_path / "bundle" / "README.md").read_text() and not default_cache().exists()
    assert main(["download", release, str(tmp_path / "other"), "--revision", "main"]) == 2
    assert "--revision main: give a commit of " in capsys.readouterr().err


@only_ram
def test_nothing_is_fetched_for_a_folder_with_files(release: str, server: WebServer, tmp_path: Path, capsys) -> None:
    (tmp_path / "mine").write_text("kept")
    assert main(["download", release, str(tmp_path)]) == 2
    assert "is there already" in capsys.readouterr().err and not server.requests


@pytest.mark.parametrize("release", RELEASES.values(), ids=RELEASES)
def test_the_pins_are_complete(release: Release) -> None:
    files = [release.checkpoint, *([release.vocabulary] if release.vocabulary else [])]
    assert all(re.fullmatch("[0-9a-f]{40}", file.revision) for file in files)
    contents = [file.content for file in files] + list(release.reference.values())
    assert all(content and re.fullmatch("[0-9a-f]{64}", content.sha256) and content.num_bytes for content in contents)
    architecture = {"tag2text_swin_14m.pth": "tag2text"}.get(release.checkpoint.name, "ram")
    wanted = {f"data/{names[architecture]}" for names in LISTS.values() if architecture in names}
    assert {path for path in release.reference if path.startswith("data/")} == wanted
