"""A cluster as a user starts it, on one machine: an S3 server, a head without CPUs, worker nodes that can be killed.

Everything is a process of its own, reached over loopback with a token, on free ports and under one temp folder; another
Ray of the machine is not disturbed. All of it ends when the process that started it ends, however that ends: each
command is told by the kernel (PR_SET_PDEATHSIG), and `ray start --block` ties Ray's processes to itself the same way.
"""

from __future__ import annotations

import contextlib
import ctypes
import json
import os
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import psutil

from ram_ray.runtime.own_cluster import free_port
from tests.s3 import variables

ROOT = Path(__file__).resolve().parents[2]
RAY = Path(sys.executable).with_name("ray")
BUCKET = "box"
TIMEOUT_S = 300.0  # slow machines need a third of it
# `ray start`, less the server of Ray's old client: nobody here needs it, and on a slow machine it takes its node down
# when the raylet is not there after 30 seconds.
RAY_START = """
from ray.scripts import scripts
scripts.get_ray_client_dependency_error = lambda: "not wanted"
scripts.main()
"""
STARTED = "Ray runtime started"  # what `ray start` says when its node has joined
START_ATTEMPTS = 4
STORE_BYTES = 200_000_000  # Ray's object store, a node
PR_SET_PDEATHSIG = 1
# A node counts as dead a few seconds after it is killed. Idle workers stay: each new one costs seconds of imports.
SYSTEM_CONFIG = {
    "health_check_initial_delay_ms": 1000,
    "health_check_period_ms": 1000,
    "health_check_failure_threshold": 4,
}
SETTINGS = {
    "RAY_AUTH_MODE": "token",
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_worker_niceness": "5",  # not 15: what else runs on the machine would starve the jobs
    "RAY_idle_worker_killing_time_threshold_ms": "300000",
    "RAY_TRAIN_HEALTH_CHECK_INTERVAL_S": "0.5",
    "REPORTER_UPDATE_INTERVAL_MS": "60000",
    "HF_HUB_OFFLINE": "1",
    "OMP_NUM_THREADS": "1",
    "TOKENIZERS_PARALLELISM": "false",
    "RAY_ENABLE_UV_RUN_RUNTIME_ENV": "0",
    "MALLOC_ARENA_MAX": "1",
}


class Box:
    """The running cluster. `start` and `join` it once, submit jobs, kill and start nodes, `close` it."""

    def __init__(self) -> None:
        self.folder = Path(tempfile.mkdtemp(prefix="box-", dir="/tmp"))  # short: Ray's sockets lie below
        token = self.folder / "token"
        with os.fdopen(os.open(token, os.O_CREAT | os.O_WRONLY, 0o600), "w") as file:
            file.write(secrets.token_hex(32))
        (self.folder / "tmp").mkdir()
        self.checkout = self.folder / "checkout"  # a copy: a file that changes while it is packed spoils the job
        for name in ("ram_ray", "jobs", "tests/box"):
            shutil.copytree(ROOT / name, self.checkout / name, ignore=shutil.ignore_patterns("__pycache__"))
        self.s3_port, self.gcs_port, self.http_port = (free_port() for _ in range(3))
        self.endpoint = f"http://127.0.0.1:{self.s3_port}"
        inherited = {name: value for name, value in os.environ.items() if not name.startswith(("RAY_", "AWS_"))}
        self.env = {
            **inherited,
            **SETTINGS,
            **variables(self.endpoint),
            "RAY_AUTH_TOKEN_PATH": str(token),
            "TMPDIR": str(self.folder / "tmp"),
        }
        self.env["PATH"] = f"{RAY.parent}:{os.environ['PATH']}"  # an activated environment
        self.env.pop("PYTHONDONTWRITEBYTECODE", None)
        self.address, self.url = f"127.0.0.1:{self.gcs_port}", f"http://127.0.0.1:{self.http_port}"
        self.nodes: dict[str, subprocess.Popen] = {}  # by name, "head" among them
        self._spawned: list[subprocess.Popen] = []

    # starting and ending

    def start(self) -> None:
        """Start the S3 server and the head, and wait for neither."""
        self.spawn([sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(self.s3_port)], "s3")
        self._ray_start(
            "head",
            "--head",
            f"--port={self.gcs_port}",
            f"--dashboard-port={self.http_port}",
            f"--system-config={json.dumps(SYSTEM_CONFIG)}",
            num_cpus=0,
        )

    def join(self, *, nodes: Sequence[str] = ("first", "second"), num_cpus: int = 2) -> None:
        """Wait for the head and the S3 server, make the bucket, and start the worker nodes; `wait_ready` waits."""
        self._wait_started("head")
        for name in nodes:
            self._ray_start(name, f"--address={self.address}", num_cpus=num_cpus)
        self.wait(lambda: answers(self.s3_port), "the S3 server")
        self.fs.mkdir(BUCKET)

    def wait_ready(self) -> None:
        """Wait until all nodes are there."""
        for name in self.nodes:
            self._wait_started(name)

    def start_node(self, name: str, *, num_cpus: int = 2) -> None:
        """Start a node that was killed again, and wait until it has joined."""
        assert name not in self.nodes, name
        self._ray_start(name, f"--address={self.address}", num_cpus=num_cpus)
        self._wait_started(name)

    def kill_node(self, name: str) -> None:
        """SIGKILL for the raylet and all that runs on its node, as if its machine were gone."""
        kill_family(self.nodes.pop(name))

    def close(self) -> None:
        """End everything and remove the folder."""
        for process in reversed(self._spawned):
            kill_family(process)
        shutil.rmtree(self.folder, ignore_errors=True)

    # using it

    def submit(self, *command: str, name: str, env: dict[str, str] | None = None) -> subprocess.Popen:
        """`ray job submit` of a command in the checkout; what it prints goes to `log(name)`."""
        submit = [str(RAY), "job", "submit", "--address", self.url, "--working-dir", str(self.checkout)]
        submit += ["--runtime-env-json", json.dumps({"env_vars": env})] if env else []
        return self.spawn([*submit, "--", *command], name)

    def run(self, *command: str, name: str, timeout_s: float, env: dict[str, str] | None = None) -> str:
        """Submit a job, wait for its end, and return what it printed."""
        process = self.submit(*command, name=name, env=env)
        code = process.wait(timeout_s)
        text = self.log(name)
        assert code == 0, f"exit code {code}\n{text[-6000:]}"
        return text

    def stop(self, process: subprocess.Popen, *, title: str) -> None:
        """End a job whose driver has `title` in its command line, as Ctrl-C does."""
        for driver in self.processes(title, node="head"):
            with contextlib.suppress(psutil.NoSuchProcess):
                driver.send_signal(signal.SIGINT)
        process.wait(TIMEOUT_S)

    def log(self, name: str) -> str:
        """What a process started under this name has printed so far."""
        return (self.folder / f"{name}.log").read_text(errors="replace")

    @property
    def fs(self) -> Any:
        """The bucket's file system, without a cache of listings."""
        import s3fs

        return s3fs.S3FileSystem(
            key="test",
            secret="test",
            endpoint_url=self.endpoint,
            use_listings_cache=False,
        )

    def processes(self, title: str, *, node: str | None = None) -> list[psutil.Process]:
        """Ray workers whose title contains `title` ("ray::TrainWorker..."), on one node or on all."""
        matches = []
        for name in [node] if node else list(self.nodes):
            with contextlib.suppress(psutil.NoSuchProcess):
                for process in psutil.Process(self.nodes[name].pid).children(recursive=True):
                    with contextlib.suppress(psutil.NoSuchProcess, psutil.AccessDenied):
                        if title in " ".join(process.cmdline()):
                            matches.append(process)
        return matches

    def alive(self) -> int:
        """Nodes that the cluster counts as alive; 0 while it does not answer."""
        try:
            nodes = self.get("/nodes?view=summary")["data"]["summary"]
        except (OSError, ValueError, KeyError):
            return 0
        return sum(node["raylet"].get("state") == "ALIVE" for node in nodes)

    def get(self, path: str) -> Any:
        """JSON from the head's HTTP server, with the token."""
        token = Path(self.env["RAY_AUTH_TOKEN_PATH"]).read_text()
        request = urllib.request.Request(self.url + path, headers={"Authorization": f"Bearer {token}"})
        with urllib.request.urlopen(request, timeout=10) as answer:
            return json.load(answer)

    def wait(self, ready: Callable[[], Any], what: str, *, timeout_s: float = TIMEOUT_S, pause_s: float = 0.2) -> None:
        """Wait until `ready()`, or fail."""
        deadline = time.monotonic() + timeout_s
        while not ready():
            assert time.monotonic() < deadline, f"{what} did not come in {timeout_s:g} s"
            time.sleep(pause_s)

    # below

    def spawn(self, command: list[str], name: str) -> subprocess.Popen:
        """Start a command that ends with this process; what it prints goes to `log(name)`."""
        with open(self.folder / f"{name}.log", "ab") as log:
            process = subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, env=self.env, cwd=ROOT, preexec_fn=die_too
            )
        self._spawned.append(process)
        return process

    def _ray_start(self, name: str, *options: str, num_cpus: int) -> None:
        common = [
            *("--block", "--node-ip-address=127.0.0.1", "--disable-usage-stats"),
            *(f"--num-cpus={num_cpus}", f"--object-store-memory={STORE_BYTES}"),
            *("--min-worker-port=0", "--max-worker-port=0", f"--dashboard-agent-listen-port={free_port()}"),
            # Its own, as on a machine of its own: a node removes a job's working directory when it needs it no more.
            f"--temp-dir={self.folder / name}",
        ]
        (self.folder / f"{name}.log").unlink(missing_ok=True)
        command = [sys.executable, "-c", RAY_START, "start", *options, *common]
        self.nodes[name] = self.spawn(command, name)

    def _wait_started(self, name: str) -> None:
        """Wait until a node has joined. `ray start` gives up after 30 seconds: on a slow machine it is tried again."""
        for _ in range(START_ATTEMPTS):
            self.wait(lambda: STARTED in self.log(name) or self.nodes[name].poll() is not None, f"the node {name}")
            if self.nodes[name].poll() is None:
                return
            self.nodes[name] = self.spawn(self.nodes[name].args, name)  # type: ignore[arg-type]
        raise AssertionError(f"the node {name} does not start\n{self.log(name)[-3000:]}")


def answers(port: int, *, host: str = "127.0.0.1") -> bool:
    """Whether something listens on a port."""
    with socket.socket() as probe:
        return probe.connect_ex((host, port)) == 0


def kill_family(process: subprocess.Popen) -> None:
    """SIGKILL for a process and all that it started, unless it has ended."""
    if process.poll() is None:
        root = psutil.Process(process.pid)
        for member in [root, *root.children(recursive=True)]:
            with contextlib.suppress(psutil.NoSuchProcess):
                member.kill()
        process.wait()


def die_too() -> None:
    """Of a child before it runs its command: the kernel kills it when its parent ends."""
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
