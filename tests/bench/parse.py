"""Captions a second of the Ray Data stage `parse`, against spaCy's `nlp.pipe` alone on the same cores; and its memory.

    python tests/bench/parse.py captions/*.txt.gz --cores 1 2
    python tests/bench/parse.py captions/*.txt.gz --rows 50000 500000 --cores 2 --no-baseline      # memory

Each line is one fresh process with its own Ray, all of it held to the cores in question. The baseline runs one process
a core, models loaded before the clock starts, over the same cleaned captions, without rules, reading or writing: once
as spaCy comes, which is what the ratio is of, and once with the stage's own matrix products (`parser.load_pipeline`).
The stage's clock covers all of the stage, and in its first ten to thirty seconds processes start: give it rows enough.
Memory is the proportional set size of the driver and all of Ray's processes at its highest while the stage ran, and
beside it what of Ray's object store was ever in use: it has a limit, here 1 GB, and keeps what blocks once needed. Ray
keeps a process for as many tasks as ever ran at one time, 130 to 170 MB each, and whether it comes to two or three is
chance: so all that there can be are started before. Watching memory costs 5% of two cores, so a line has memory or a
ratio. On a busy machine only ratios of one line mean something.
"""

from __future__ import annotations

import argparse
import itertools
import json
import multiprocessing
import os
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from threadpoolctl import threadpool_limits

from ram_ray.captions import parser
from ram_ray.captions.normalize import clean
from ram_ray.data.caption_files import list_files, read_lines

if TYPE_CHECKING:
    from spacy.language import Language


def main() -> None:
    """A line for each number of cores and of rows."""
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("captions", nargs="+", help="text files, one caption a line, also .gz; repeated if too few")
    arguments.add_argument("--rows", type=int, nargs="+", default=[200_000])
    arguments.add_argument("--cores", type=int, nargs="+", default=[1, 2])
    arguments.add_argument("--no-baseline", action="store_true")
    arguments.add_argument("--one", action="store_true", help=argparse.SUPPRESS)
    options = arguments.parse_args()
    if options.one:
        print(json.dumps(measure(options)))
        return
    for cores, rows in itertools.product(options.cores, options.rows):
        command = [sys.executable, __file__, *options.captions, "--one", "--cores", str(cores), "--rows", str(rows)]
        command += ["--no-baseline"] if options.no_baseline else []
        done = subprocess.run(command, capture_output=True, text=True)
        if done.returncode:
            raise SystemExit(done.stderr[-3000:])
        print(say(json.loads(done.stdout.splitlines()[-1])), flush=True)


def say(figures: dict) -> str:
    """One line of figures."""
    line = f"{figures['cores']} cores, {figures['rows']:,} captions: stage {figures['stage']:,.0f}/s"
    if figures["pipe"]:
        line += f", nlp.pipe alone {figures['pipe']:,.0f}/s, ratio {figures['stage'] / figures['pipe']:.3f}"
        line += f" (with the stage's products {figures['fast']:,.0f}/s)"
    if figures["peak_mb"]:
        line += f"; peak {figures['peak_mb']:,.0f} MB, object store {figures['store_mb']:,.0f} MB"
    return line


def measure(options: argparse.Namespace) -> dict:
    """Both rates and the stage's peak memory, in this process."""
    (cores,), (rows,) = options.cores, options.rows
    os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:cores])  # Ray's processes and the baseline's inherit it
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "captions.txt"
        with file.open("w", encoding="utf-8") as lines:  # not a list: the driver's memory counts as the stage's
            lines.writelines(f"{caption}\n" for caption in itertools.islice(repeat(options.captions), rows))
        pipe, fast = (
            None if options.no_baseline else rows / pipe_alone(file, cores, load=load) for load in (_plain, _fast)
        )
        seconds, peak, store = stage(file, cores, memory=options.no_baseline)
    memory = {"peak_mb": peak / 1e6, "store_mb": store / 1e6}
    return {"cores": cores, "rows": rows, "pipe": pipe, "fast": fast, "stage": rows / seconds, **memory}


def repeat(files: list[str]) -> Iterator[str]:
    """Captions of the files, over and over."""
    for shard, uri in itertools.cycle(list_files(files).items()):
        for row in read_lines(shard, uri):
            yield from row["captions"]


def _plain() -> Language:
    """The shipped pipeline as spaCy loads it, without the components that tags do not need."""
    import spacy

    return spacy.load(parser.shipped_folder(), exclude=parser.UNUSED)


def _fast() -> Language:
    return parser.load_pipeline()


def pipe_alone(file: Path, cores: int, *, load: Callable[[], Language]) -> float:
    """Seconds of `nlp.pipe` over the captions, one process a core."""
    context = multiprocessing.get_context("spawn")
    barrier = context.Barrier(cores + 1)
    processes = [context.Process(target=_pipe, args=(file, core, cores, barrier, load)) for core in range(cores)]
    for process in processes:
        process.start()
    barrier.wait()
    start = time.monotonic()
    barrier.wait()
    seconds = time.monotonic() - start
    for process in processes:
        process.join()
    return seconds


def _pipe(file: Path, core: int, cores: int, barrier: threading.Barrier, load: Callable[[], Language]) -> None:
    nlp = load()
    with file.open(encoding="utf-8") as lines:
        texts = [
            clean(line.rstrip("\n"), max_chars=1000).lower() for line in itertools.islice(lines, core, None, cores)
        ]
    barrier.wait()
    with threadpool_limits(limits=1, user_api="blas"):
        for _ in nlp.pipe(texts, batch_size=parser.BATCH):
            pass
    barrier.wait()


def stage(file: Path, cores: int, *, memory: bool) -> tuple[float, float, float]:
    """Seconds of the stage `parse`, and the most memory in bytes while it ran: processes', and the object store's."""
    from ram_ray.cli.labels import caption_stage_settings
    from ram_ray.config import load
    from ram_ray.data.caption_files import collect_captions
    from ram_ray.labels.parse_stage import parse
    from ram_ray.runtime import cluster
    from ram_ray.runtime.artifacts import Run

    cluster.start(num_cpus=cores, object_store_gb=1.0)
    start_workers(cores)
    config = load(sets=caption_stage_settings(cores))
    run = Run(f"{file.parent}/run")
    samples = collect_captions(run, config, [str(file)])
    peak = Peak() if memory else None
    start = time.monotonic()
    parsed = parse(run, config, samples)
    seconds = time.monotonic() - start
    assert parsed.rows_out == samples.rows_out
    return seconds, *(peak.stop() if peak else (0.0, 0.0))


def start_workers(count: int) -> None:
    """Have Ray start so many worker processes with what Ray Data's tasks import."""
    import ray

    @ray.remote(num_cpus=0)
    class Gate:
        def __init__(self) -> None:
            self._here = 0

        def enter(self) -> bool:
            self._here += 1
            return True

        def full(self) -> bool:
            return self._here >= count

    @ray.remote(num_cpus=0.01)
    def wait(gate: Any) -> None:
        import ray.data  # noqa: F401

        ray.get(gate.enter.remote())
        while not ray.get(gate.full.remote()):  # or one process would do for all
            time.sleep(0.1)

    gate = Gate.remote()
    ray.get([wait.remote(gate) for _ in range(count)])


class Peak:
    """Watches the memory of this process and all under it."""

    def __init__(self) -> None:
        self._peak, self._store, self._stop = 0, 0, threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)
        self._thread.start()

    def stop(self) -> tuple[float, float]:
        """The highest sums seen, in bytes: of the processes' own memory, and of what they share."""
        self._stop.set()
        self._thread.join()
        return float(self._peak), float(self._store)

    def _watch(self) -> None:
        while not self._stop.wait(1.0):
            own, shared = (sum(parts) for parts in zip(*map(_pss, _family()), strict=True))
            self._peak, self._store = max(self._peak, own), max(self._store, shared)


def _family() -> set[int]:
    """This process and all that descend from it."""
    parents: dict[int, int] = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                fields = (entry / "stat").read_text().rpartition(")")[2].split()
            except OSError:
                continue
            parents[int(entry.name)] = int(fields[1])
    family = {os.getpid()}
    while more := {pid for pid, parent in parents.items() if parent in family} - family:
        family |= more
    return family


def _pss(pid: int) -> tuple[int, int]:
    """A process's share of memory in bytes, shared memory apart."""
    try:
        lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
    except OSError:
        return 0, 0
    share = {name: 1024 * int(rest.split()[0]) for name, _, rest in (line.partition(":") for line in lines[1:])}
    return share.get("Pss", 0) - share.get("Pss_Shmem", 0), share.get("Pss_Shmem", 0)


if __name__ == "__main__":
    main()
