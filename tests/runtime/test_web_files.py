"""Contract: a file of a web server is fetched whole or not at all, is checked, is resumed when it was cut, also by a
later process, and is fetched once. What a server does wrong is one line with the URL and what to do.
"""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from ram_ray.runtime import web_files
from ram_ray.runtime.web_files import WebFile, fetch
from tests.web_server import WebServer

CONTENT = bytes(range(256)) * 1000
DIGEST = hashlib.sha256(CONTENT).hexdigest()


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[WebServer]:
    monkeypatch.setattr(web_files, "WAIT_SECONDS", (0.0, 0.0))
    with WebServer() as server:
        server.files["/big"] = CONTENT
        yield server


def _fetch(server: WebServer, target: Path, *, sha256: str | None = DIGEST, num_bytes: int | None = None) -> str:
    return fetch(WebFile(f"{server.url}/big", sha256, num_bytes), target, advice="ask for help")


@pytest.mark.parametrize("num_bytes", [None, len(CONTENT)])
@pytest.mark.parametrize("sha256", [None, DIGEST])
def test_a_file_is_fetched_once(sha256: str | None, num_bytes: int | None, server: WebServer, tmp_path: Path) -> None:
    target = tmp_path / "folder" / "file"
    for _ in range(2):
        assert _fetch(server, target, sha256=sha256, num_bytes=num_bytes) == DIGEST
    assert target.read_bytes() == CONTENT and server.ranges("/big") == [None]
    assert {path.name for path in target.parent.iterdir()} == {"file", "file.lock"}


def test_a_cut_file_is_resumed_as_long_as_bytes_come(server: WebServer, tmp_path: Path) -> None:
    server.cuts["/big"] = [1000, 0, 2000, 0, 7]
    assert _fetch(server, tmp_path / "file") == DIGEST
    starts = [None, 1000, 1000, 3000, 3000, 3007]
    assert server.ranges("/big") == [None if start is None else f"bytes={start}-" for start in starts]


def test_a_file_without_a_length_is_resumed_if_its_size_is_known(server: WebServer, tmp_path: Path) -> None:
    server.tells_length = False
    server.cuts["/big"] = [1000]
    assert _fetch(server, tmp_path / "file", num_bytes=len(CONTENT)) == DIGEST
    assert server.ranges("/big") == [None, "bytes=1000-"]


def test_a_server_that_ignores_ranges_sends_all_again(server: WebServer, tmp_path: Path) -> None:
    server.takes_ranges = False
    server.cuts["/big"] = [1000, 500]
    assert _fetch(server, tmp_path / "file") == DIGEST and len(server.requests) == 3
    server.cuts["/big"] = [100] * 9
    with pytest.raises(ValueError, match="cut after 100 of 256,000 bytes"):
        _fetch(server, tmp_path / "other")


def test_a_later_process_goes_on(server: WebServer, tmp_path: Path) -> None:
    (tmp_path / "file.part").write_bytes(CONTENT[:5000])
    assert _fetch(server, tmp_path / "file") == DIGEST and server.ranges("/big") == ["bytes=5000-"]
    (tmp_path / "whole.part").write_bytes(CONTENT)
    assert _fetch(server, tmp_path / "whole", num_bytes=len(CONTENT)) == DIGEST and len(server.requests) == 1


@pytest.mark.parametrize("num_bytes", [None, len(CONTENT)])
def test_a_part_that_is_too_long_is_thrown_away(num_bytes: int | None, server: WebServer, tmp_path: Path) -> None:
    (tmp_path / "file.part").write_bytes(CONTENT + b"more")
    assert _fetch(server, tmp_path / "file", num_bytes=num_bytes) == DIGEST


def test_codes_of_a_busy_server_are_tried_again_and_others_are_not(server: WebServer, tmp_path: Path) -> None:
    server.codes["/big"] = [503, 429]
    assert _fetch(server, tmp_path / "file") == DIGEST
    server.codes["/big"] = [503, 503, 503]
    with pytest.raises(ValueError, match=r"/big cannot be fetched: HTTP 503 Service Unavailable; ask for help"):
        _fetch(server, tmp_path / "other")
    server.requests.clear()
    server.codes["/big"] = [403]
    with pytest.raises(ValueError, match=r"/big: HTTP 403 Forbidden; ask for help"):
        _fetch(server, tmp_path / "other")
    assert len(server.requests) == 1


def test_another_content_is_refused_and_not_kept(server: WebServer, tmp_path: Path) -> None:
    server.files["/big"] = CONTENT[::-1]
    with pytest.raises(ValueError, match=rf"/big: its sha256 is \w+, not {DIGEST}; nothing is kept; ask for help"):
        _fetch(server, tmp_path / "file")
    assert [path.name for path in tmp_path.iterdir()] == ["file.lock"]


@pytest.mark.parametrize("tells_length", [True, False])
def test_another_size_is_refused(tells_length: bool, server: WebServer, tmp_path: Path, monkeypatch) -> None:
    server.tells_length = tells_length
    with pytest.raises(ValueError, match=r"/big: the server's file has [\d,]+ bytes, not 1,000; ask for help"):
        _fetch(server, tmp_path / "file", num_bytes=1000)
    monkeypatch.setattr(web_files, "MAX_BYTES", 1000)
    with pytest.raises(ValueError, match=r"/big: more than 1,000 bytes"):
        _fetch(server, tmp_path / "file", sha256=None)
    assert not (tmp_path / "file").exists()


def test_a_file_that_was_changed_here_is_fetched_again(server: WebServer, tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"mine")
    assert _fetch(server, tmp_path / "file") == DIGEST and (tmp_path / "file").read_bytes() == CONTENT


def test_two_that_fetch_the_same_file_fetch_it_once(server: WebServer, tmp_path: Path) -> None:
    digests: list[str] = []
    threads = [threading.Thread(target=lambda: digests.append(_fetch(server, tmp_path / "file"))) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert digests == [DIGEST] * 4 and len(server.requests) == 1


def test_a_server_that_is_not_there_and_other_protocols_are_an_error(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr(web_files, "WAIT_SECONDS", ())
    with WebServer() as gone:
        pass
    with pytest.raises(ValueError, match=r"/big cannot be fetched: .*refused; ask for help"):
        _fetch(gone, tmp_path / "file")
    (tmp_path / "local").write_text("")
    with pytest.raises(ValueError, match="not a URL of http or https"):
        fetch(WebFile(f"file://{tmp_path}/local"), tmp_path / "file", advice="")


def test_a_folder_that_cannot_be_made_is_an_error(server: WebServer, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(ValueError, match=r"cannot be written: .*; free some space, or choose another folder"):
        _fetch(server, tmp_path / "file" / "below")
