"""Contract: `local_copy` takes a path, a URI or a Hugging Face id; a URI is copied once a machine, whole or not at all,
and the copy is removed when the last process that uses it has ended or was killed.
"""

from __future__ import annotations

import functools
import http.server
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import fsspec
import pytest

from ram_ray.runtime.storage import copies_folder, local_copy
from tests.s3 import FAULTS, S3Proxy

ROOT = Path(__file__).resolve().parents[2]
USER = """
import sys, time
from ram_ray.runtime.storage import local_copy
print(local_copy(sys.argv[1]), flush=True)
sys.stdin.read()
"""


@pytest.fixture(autouse=True)
def temporary(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A temp folder of the test's own, for other processes too."""
    folder = tmp_path_factory.mktemp("temporary")
    monkeypatch.setenv("TMPDIR", str(folder))
    monkeypatch.setattr("tempfile.tempdir", str(folder))
    return folder


@pytest.fixture
def model(s3: S3Proxy, request: pytest.FixtureRequest) -> str:
    """URI of a folder with three files, one of several MB."""
    uri = f"{s3.bucket}/{request.node.name}"
    fs = fsspec.filesystem("s3")
    for name, data in {"config.json": b"{}", "deep/er/a.txt": b"a", "weights": bytes(3 << 20)}.items():
        fs.pipe_file(f"{uri}/{name}", data)
    return uri


def use(uri: str) -> subprocess.Popen[str]:
    """A process that uses a copy until its stdin is closed."""
    return subprocess.Popen(
        [sys.executable, "-c", USER, uri], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=ROOT
    )


def wait_until(true: Callable[[], Any], seconds: float = 60) -> None:
    end = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < end
        time.sleep(0.02)


def files_of(folder: Path) -> dict[str, int]:
    return {str(path.relative_to(folder)): path.stat().st_size for path in folder.rglob("*") if path.is_file()}


def test_a_path_comes_back_as_it_is(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("a")
    assert local_copy(str(tmp_path)) == tmp_path
    assert local_copy(f"file://{tmp_path}/a.txt") == tmp_path / "a.txt"
    for missing in (str(tmp_path / "none"), "./none", "a/b/c"):
        with pytest.raises(ValueError, match="no such file or folder; give a path, a URI or a Hugging Face id"):
            local_copy(missing)


def test_the_hub_is_not_asked_for_a_mistyped_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "models").mkdir()
    with pytest.raises(ValueError, match="^models/none: no such file or folder in models/$"):
        local_copy("models/none")


def test_a_hub_that_does_not_answer_is_asked_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """The hub is a port at which nobody listens; a file that is tried again would wait between the tries."""
    import huggingface_hub

    attempts = []
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
    monkeypatch.setattr("huggingface_hub.utils._http.time.sleep", attempts.append)
    monkeypatch.setattr(huggingface_hub, "HfApi", lambda: huggingface_hub.hf_api.HfApi("http://127.0.0.1:9"))
    with pytest.raises(
        ValueError, match="^some/model: no such file or folder, and not to be had from the hub: "
    ) as caught:
        local_copy("some/model")
    assert "\n" not in str(caught.value) and not attempts


def test_an_id_is_left_to_the_hubs_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    commit = "0123456789abcdef0123456789abcdef01234567"
    snapshot = tmp_path / "models--some--model/snapshots" / commit
    snapshot.mkdir(parents=True)
    (snapshot / "config.json").write_text("{}")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    assert local_copy("some/model", revision=commit) == snapshot
    with pytest.raises(ValueError, match="^some/other at 1.0: no such file or folder, and not to be had") as caught:
        local_copy("some/other", revision="1.0")
    assert "\n" not in str(caught.value)


def test_processes_share_one_copy_and_it_is_removed_with_the_last(s3: S3Proxy, model: str) -> None:
    s3.log = []
    users = [use(model) for _ in range(4)]
    (folder,) = {Path(user.stdout.readline().strip()) for user in users}  # type: ignore[union-attr]
    gets = [request for request in s3.log if request.startswith("GET") and "list-type" not in request]
    s3.log = None
    assert len(gets) == 3, "each file was fetched once"
    assert files_of(folder) == {"config.json": 2, "deep/er/a.txt": 1, "weights": 3 << 20}
    for user in users[1:]:
        user.communicate()
    time.sleep(0.5)
    assert len(files_of(folder)) == 3, "one process still uses it"
    users[0].send_signal(signal.SIGKILL)  # what it would do at its exit is not done
    users[0].communicate()
    wait_until(lambda: not copies_folder().exists())


def test_a_changed_source_gets_another_copy(model: str) -> None:
    fs = fsspec.filesystem("s3")
    old = local_copy(model)
    assert local_copy(f"{model}/") == old
    fs.pipe_file(f"{model}/config.json", b"[]")  # of the same length
    new = local_copy(model)
    assert new != old and (new / "config.json").read_text() == "[]"
    assert (old / "config.json").read_text() == "{}", "a process that uses the old copy keeps it"


def test_files_alone_and_single_files(s3: S3Proxy, model: str) -> None:
    only = local_copy(model, files=("*.json", "vocab.txt"))
    assert files_of(only) == {"config.json": 2}
    single = local_copy(f"{model}/deep/er/a.txt")
    assert single.name == "a.txt" and single.read_text() == "a"
    with pytest.raises(ValueError, match="nothing is there of vocab.txt"):
        local_copy(model, files=("vocab.txt",))
    for missing in (f"{model}-none", "s3://no-such-bucket/model"):
        with pytest.raises(ValueError, match=missing):
            local_copy(missing)


@pytest.mark.parametrize("end", [signal.SIGKILL, signal.SIGTERM])
def test_a_copier_that_is_killed_leaves_nothing_that_looks_whole(s3: S3Proxy, model: str, end: signal.Signals) -> None:
    s3.delay = {"weights": 2.0}
    killed, other = use(model), None
    try:
        wait_until(lambda: any(copies_folder().glob("*.part/config.json")))
        other = use(model)  # waits for the first process
        time.sleep(0.3)
        killed.send_signal(end)
        killed.communicate()
        s3.delay = {}
        folder = Path(other.stdout.readline().strip())  # type: ignore[union-attr]
        assert files_of(folder) == {"config.json": 2, "deep/er/a.txt": 1, "weights": 3 << 20}
        assert not list(copies_folder().glob("*.part"))
    finally:
        s3.delay = {}
        for process in (killed, other):
            if process:
                process.kill()
                process.communicate()
    wait_until(lambda: not copies_folder().exists())


def test_what_killed_processes_left_goes_with_the_next_copy(model: str, temporary: Path) -> None:
    folder = copies_folder()
    folder.mkdir(parents=True, mode=0o700)
    folder.parent.chmod(0o700)
    (folder / "old.lock").touch()
    (folder / "old").mkdir()
    (folder / "old/weights").touch()
    (folder / "half.lock").touch()
    (folder / "half.part").mkdir()
    user = use(model)
    assert user.stdout and user.stdout.readline()
    assert {path.name.partition(".")[0] for path in folder.iterdir()}.isdisjoint({"old", "half"})
    user.communicate()


def test_nobody_else_may_put_a_copy_there(model: str, temporary: Path) -> None:
    folder = temporary / f"ram_ray-{os.getuid()}"
    folder.mkdir()
    folder.chmod(0o777)
    with pytest.raises(ValueError, match="can be written by others"):
        local_copy(model)


def test_a_fetch_that_fails_is_made_again(s3: S3Proxy, model: str) -> None:
    s3.share, s3.faults = 0.3, FAULTS
    try:
        assert len(files_of(local_copy(model))) == 3
    finally:
        s3.share = 0.0


def test_a_file_of_a_web_server(tmp_path: Path, temporary: Path) -> None:
    (tmp_path / "weights.pth").write_bytes(bytes(range(256)) * 100)
    handler = functools.partial(http.server.SimpleHTTPRequestHandler, directory=str(tmp_path))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            url = f"http://127.0.0.1:{server.server_port}"
            copy = local_copy(f"{url}/weights.pth")
            assert copy.name == "weights.pth" and copy.read_bytes() == (tmp_path / "weights.pth").read_bytes()
            with pytest.raises(ValueError, match="none.pth: nothing is there"):
                local_copy(f"{url}/none.pth")
        finally:
            server.shutdown()
            thread.join()
