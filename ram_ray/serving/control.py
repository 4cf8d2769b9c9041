"""Orders to a server of this machine: `ram-ray swap` sends them to the process of `ram-ray serve`.

A private Ray cluster can be reached by its own processes alone, so the serving process listens at a Unix socket, in a
folder that only its user can enter. A request and its answer are one line of JSON each.
"""

from __future__ import annotations

import contextlib
import json
import os
import socketserver
import tempfile
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from socket import AF_UNIX, SOCK_STREAM, socket
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ram_ray.records import Json as Order

MAX_LINE = 100_000


def socket_path(port: int) -> Path:
    """Path of the socket of the server at a port.

    Args:
        port: of HTTP.

    Returns:
        The path, in a folder of mode 0700.

    Raises:
        ValueError: if the folder belongs to another user.
    """
    folder = Path(tempfile.gettempdir()) / f"ram_ray-{os.getuid()}" / "serve"
    folder.mkdir(parents=True, exist_ok=True)
    for part in (folder, folder.parent):
        if part.stat().st_uid != os.getuid():
            raise ValueError(f"{part} belongs to another user; set TMPDIR to a folder of your own")
    folder.chmod(0o700)
    return folder / f"{port}.sock"


@contextmanager
def listen(port: int, carry_out: Callable[[Order], Order]) -> Iterator[None]:
    """Take orders for as long as the context lasts, one at a time.

    Args:
        port: of HTTP.
        carry_out: does what an order says; a `ValueError` is the user's mistake and becomes the answer.

    Yields:
        Nothing.
    """
    path = socket_path(port)
    path.unlink(missing_ok=True)

    class Handler(socketserver.StreamRequestHandler):
        def handle(self) -> None:
            try:
                answer = carry_out(json.loads(self.rfile.readline(MAX_LINE)))
            except ValueError as error:
                answer = {"error": str(error)}
            except Exception as error:
                answer = {"error": f"{type(error).__name__}: {error}"}
            with contextlib.suppress(OSError):  # the sender may be gone
                self.wfile.write(json.dumps(answer).encode() + b"\n")

    server = socketserver.UnixStreamServer(str(path), Handler)
    thread = threading.Thread(target=server.serve_forever, name="control", daemon=True)
    thread.start()
    try:
        yield
    finally:
        server.shutdown()
        server.server_close()
        path.unlink(missing_ok=True)


def send(port: int, order: Order, *, timeout_s: float) -> Order:
    """Send an order and wait for its answer.

    Args:
        port: of HTTP.
        order: what to do.
        timeout_s: most seconds.

    Returns:
        The answer.

    Raises:
        ValueError: if no server of this user is at the port, or the order failed; says why.
    """
    with socket(AF_UNIX, SOCK_STREAM) as connection:
        connection.settimeout(timeout_s)
        try:
            connection.connect(str(socket_path(port)))
            connection.sendall(json.dumps(order).encode() + b"\n")
            with connection.makefile("rb") as file:
                answer = json.loads(file.readline(MAX_LINE) or b"{}")
        except TimeoutError:
            raise ValueError(f"no answer within {timeout_s:g} s; the log of the server says more") from None
        except OSError:
            raise ValueError(
                f"no server of yours at port {port}: set serve.port, or RAY_ADDRESS for one on a cluster"
            ) from None
    if not answer or "error" in answer:
        raise ValueError(answer.get("error") or "the server ended")
    return answer
