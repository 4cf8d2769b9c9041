"""Contract: no other user can use a private cluster. Its processes listen on the loopback address only; each of them
refuses a call without its token or with another token; the token is in no file and on no command line; no other user
can open its folder, which is removed with the cluster, or by the next run if the run was killed."""

from __future__ import annotations

import fcntl
import ipaddress
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import grpc
import pytest

from ram_ray.runtime import own_cluster

REPO = Path(__file__).resolve().parents[2]
# A method of each of Ray's gRPC servers: a server without the method answers UNIMPLEMENTED to every caller.
METHODS = (
    "NodeInfoGcsService/GetAllNodeInfo",
    "NodeManagerService/GetNodeStats",
    "ObjectManagerService/Pull",
    "CoreWorkerService/PushTask",
    "CoreWorkerService/NumPendingTasks",
    "ReporterService/GetTraceback",
)
DEADLINE_SECONDS = 60


def _family(root: int) -> set[int]:
    """A process and all that descend from it."""
    parents = {}
    for entry in Path("/proc").glob("[0-9]*"):
        try:
            parents[int(entry.name)] = int((entry / "stat").read_text().rpartition(")")[2].split()[1])
        except OSError:
            continue
    family = {root}
    while more := {pid for pid, parent in parents.items() if parent in family} - family:
        family |= more
    return family


def _ray_family() -> set[int]:
    """The processes of this process's cluster: a test run has other children too."""
    folder = own_cluster.logs_folder()
    assert folder is not None
    started = [pid for pid in _family(os.getpid()) - {os.getpid()} if str(folder.parents[2]).encode() in _command(pid)]
    return set().union(*map(_family, started))


def _command(pid: int) -> bytes:
    return _content(Path(f"/proc/{pid}/cmdline"))


def _content(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError:  # the process has ended, or removed the file
        return b""


def _listening(pids: set[int]) -> Iterator[tuple[str, int]]:
    """Address and port of every TCP socket that the processes listen on."""
    inodes = set()
    for pid in pids:
        for descriptor in Path(f"/proc/{pid}/fd").glob("*"):
            try:
                inodes.add(os.readlink(descriptor))
            except OSError:
                continue
    for table in ("/proc/net/tcp", "/proc/net/tcp6"):
        for line in Path(table).read_text().splitlines()[1:]:
            fields = line.split()
            if fields[3] == "0A" and f"socket:[{fields[9]}]" in inodes:
                host, port = fields[1].split(":")
                words = [bytes.fromhex(host[start : start + 8])[::-1] for start in range(0, len(host), 8)]
                family = socket.AF_INET if len(words) == 1 else socket.AF_INET6
                yield socket.inet_ntop(family, b"".join(words)), int(port, 16)


@pytest.fixture(scope="module")
def token(ray_cluster: None) -> str:
    """The cluster's token, as its workers have it."""
    import ray

    return str(ray.get(ray.remote(num_cpus=0.1)(lambda: os.environ["RAY_AUTH_TOKEN"]).remote()))


def test_every_process_listens_on_loopback_alone(ray_cluster: None, token: str) -> None:
    addresses = {host for host, _ in _listening(_ray_family())}
    assert addresses
    for host in addresses:
        address = ipaddress.ip_address(host)
        mapped = getattr(address, "ipv4_mapped", None)
        assert (mapped or address).is_loopback, host


def test_a_call_without_the_token_is_refused_by_every_grpc_server(ray_cluster: None, token: str) -> None:
    refused, answered = set(), set()
    for _, port in _listening(_ray_family()):
        with grpc.insecure_channel(f"127.0.0.1:{port}") as channel:
            for method in METHODS:
                call = channel.unary_unary(f"/ray.rpc.{method}")
                for metadata in ((), (("authorization", f"Bearer {'0' * 64}"),)):
                    try:
                        call(b"", metadata=metadata, timeout=10)
                        answered.add((port, method))
                    except grpc.RpcError as error:
                        if error.code() == grpc.StatusCode.UNAUTHENTICATED:
                            refused.add(method)
                        else:  # not a gRPC server, or not a method of this server
                            assert error.code() in (grpc.StatusCode.UNIMPLEMENTED, grpc.StatusCode.UNAVAILABLE)
    assert not answered
    assert refused == set(METHODS), "each method was asked of the server that has it"

    import ray

    with grpc.insecure_channel(ray.get_runtime_context().gcs_address) as channel:
        call = channel.unary_unary(f"/ray.rpc.{METHODS[0]}")
        assert call(b"", metadata=(("authorization", f"Bearer {token}"),), timeout=10), "with the token it answers"


def test_the_dashboard_and_the_agents_refuse_too(ray_cluster: None, token: str) -> None:
    codes = set()
    for _, port in _listening(_ray_family()):
        for path in ("/api/jobs/", "/api/cluster_status", "/get_or_create_runtime_env"):
            request = urllib.request.Request(f"http://127.0.0.1:{port}{path}", data=b"{}", method="POST")
            try:
                with urllib.request.urlopen(request, timeout=10) as answer:
                    body = answer.read(200)
                    assert body.startswith(b"# HELP"), "counters for Prometheus are readable, nothing else is"
            except urllib.error.HTTPError as error:
                codes.add(error.code)
            except OSError:
                break  # not an HTTP server
            except Exception as error:  # a gRPC server's answer is no HTTP
                assert "BadStatusLine" in type(error).__name__, error
                break
    assert 401 in codes and codes <= {401, 405, 501}


def test_the_token_is_in_no_file_and_on_no_command_line(ray_cluster: None, token: str) -> None:
    folder = own_cluster.logs_folder()
    assert folder is not None and len(token) == 64
    root = folder.parents[2]
    assert root.stat().st_mode & 0o077 == 0, "nobody else can open the folder, whatever Ray allows inside"
    files = [path for path in root.rglob("*") if path.is_file()]
    assert files and not [path for path in files if token.encode() in _content(path)]
    for pid in _family(os.getpid()):
        assert token.encode() not in _command(pid)
    assert "RAY_AUTH_TOKEN" not in os.environ and "RAY_ADDRESS" not in os.environ, "not for what this process starts"


def test_a_free_port_is_not_one_that_the_kernel_gives_to_outgoing_connections() -> None:
    first = int(Path("/proc/sys/net/ipv4/ip_local_port_range").read_text().split()[0])
    assert all(own_cluster.free_port() < first for _ in range(20))


def test_a_folder_is_removed_when_its_owner_is_gone(tmp_path: Path) -> None:
    living, dead, other = (tmp_path / f"{own_cluster.PREFIX}{name}" for name in ("living", "dead", "new"))
    for folder in (living, dead, other):
        folder.mkdir()
    (dead / "lock").touch()
    with (living / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        own_cluster.remove_stale_folders(tmp_path)
        assert living.exists() and other.exists() and not dead.exists()
    own_cluster.remove_stale_folders(tmp_path)
    assert not living.exists(), "the kernel frees the lock of a process that ends"


def test_a_killed_run_leaves_no_process_and_its_folder_goes_with_the_next() -> None:
    code = (
        "from ram_ray.runtime import cluster, own_cluster\n"
        "cluster.start(num_cpus=2, object_store_gb=0.1, dashboard=False)\n"
        "print(own_cluster.logs_folder(), flush=True); import time; time.sleep(600)"
    )
    environment = {**os.environ, "PYTHONPATH": str(REPO)}
    command = [sys.executable, "-c", code]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment) as process:
        assert process.stdout is not None
        root = Path(process.stdout.readline().strip()).parents[2]
        # Ray's two agents look for the GCS a minute longer, and then end.
        family = {
            pid for pid in _family(process.pid) if str(root).encode() in Path(f"/proc/{pid}/cmdline").read_bytes()
        }
        assert root.is_dir() and len(family) > 2, "gcs_server, raylet, log monitor"
        process.send_signal(signal.SIGKILL)
    deadline = time.monotonic() + DEADLINE_SECONDS
    while alive := [pid for pid in family if _runs(pid)]:
        assert time.monotonic() < deadline, f"{alive} still run"
        time.sleep(0.5)
    own_cluster.remove_stale_folders(root.parent)
    assert not root.exists()


def _runs(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False
