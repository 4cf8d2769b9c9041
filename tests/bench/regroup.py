"""What grows with the regions: files, requests, memory and time of the stage that decides which tags are removed.

    python tests/bench/regroup.py [--rows 100000 1000000] [--shards 14000] [--labels 4585] [--local] [--folder DIR]

Drawn rows of the stage `regions`, ten an image, labels as frequent as 1 / rank, lie in a file for each shard, in moto's
S3 server behind a proxy that counts, or with --local in a folder. The stage `removals` runs on a Ray of two CPUs:
counting, regrouping, k-means and decisions, bins of shards. Files are what was put into the store. Memory is the
largest of a process of the run, that which it shares with no other (RssAnon), read several times a second.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))

from tests.bench.scale import own_mb, s3  # noqa: E402
from tests.s3 import S3Proxy  # noqa: E402
from tests.stage_results import label_system_result  # noqa: E402

WIDTH = 16  # of an embedding
AN_IMAGE = 10  # regions


@dataclass(frozen=True)
class Measured:
    """One run of the stage."""

    rows: int
    seconds: float
    driver_mb: float
    worker_mb: float
    files: int
    requests: int


def write_regions(uri: str, *, rows: int, shards: int, labels: int, an_image: int = AN_IMAGE) -> int:
    """Write a file for each shard; the number of images."""
    import fsspec
    import pyarrow as pa
    import pyarrow.parquet as pq

    from ram_ray.data_engine.crops import IMAGE_REGIONS

    rng = np.random.default_rng(0)
    share = 1 / np.arange(1, labels + 1)
    looks = rng.normal(size=(64, WIDTH))
    region = IMAGE_REGIONS.field("regions").type.value_type
    images, number = max(1, rows // an_image // shards), 0
    fs, root = fsspec.url_to_fs(uri)
    for shard in range(shards):
        count = images * an_image
        tags = rng.choice(labels, count, p=share / share.sum()).astype(np.int32)
        positive = rng.random(count) < 0.9
        points = looks[tags % 64] + 0.3 * rng.normal(size=(count, WIDTH))
        scores = 1 / (1 + np.exp(-rng.normal(size=(3, count)) - positive)).astype(np.float32)
        columns = {
            "tag": tags,
            "positive": positive,
            "mentioned": positive,
            "confirmed": np.zeros(count, bool),
            "human": np.zeros(count, bool),
            "box": [[0.0, 0.0, 1.0, 1.0]] * count,
            "detected": np.ones(count, bool),
            "detector_score": scores[0],
            "image_score": scores[1],
            "region_score": scores[2],
            "predicted": scores[2] > 0.5,
            "other_mentions": [[0, 1]] * count,
            "embedding": [point.tobytes() for point in points.astype("<f2")],
        }
        arrays = [pa.array(columns[field.name], field.type) for field in region]
        lists = pa.ListArray.from_arrays(
            np.arange(0, count + 1, an_image, dtype=np.int32), pa.StructArray.from_arrays(arrays, fields=list(region))
        )
        table = pa.table({"key": [f"{shard:05d}/{number + index}" for index in range(images)], "regions": lists})
        number += images
        folder = f"{root}/shard={shard:05d}"
        fs.makedirs(folder, exist_ok=True)
        with fs.open(f"{folder}/0.parquet", "wb") as file:
            pq.write_table(table, file)
    return number


@contextlib.contextmanager
def watch_memory() -> Iterator[dict[str, float]]:
    """The largest memory of this process and of a Ray worker, in MB, while it is open."""
    peaks, stop = {"driver": 0.0, "worker": 0.0}, threading.Event()

    def look() -> None:
        while not stop.wait(0.3):
            for name in os.listdir("/proc"):
                if name.isdigit():
                    with contextlib.suppress(OSError):
                        pid = int(name)
                        if pid == os.getpid():
                            peaks["driver"] = max(peaks["driver"], own_mb(pid))
                        elif Path(f"/proc/{pid}/cmdline").read_bytes().startswith(b"ray::") and _is_ours(pid):
                            peaks["worker"] = max(peaks["worker"], own_mb(pid))

    thread = threading.Thread(target=look)
    thread.start()
    try:
        yield peaks
    finally:
        stop.set()
        thread.join()


def _is_ours(pid: int) -> bool:
    """Whether a process descends from this one; others may run a Ray too."""
    while pid > 1 and pid != os.getpid():
        pid = int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])
    return pid == os.getpid()


def measure(uri: str, *, rows: int, shards: int, labels: int, proxy: S3Proxy | None) -> Measured:
    """Write the rows, and run the stage."""
    import fsspec

    from ram_ray.config import load
    from ram_ray.data_engine.clean_stages import find_removals
    from ram_ray.label_system import Label, LabelSystem
    from ram_ray.results import Regions
    from ram_ray.runtime.artifacts import Run

    images = write_regions(f"{uri}/regions", rows=rows, shards=shards, labels=labels)
    LabelSystem(Label(id, f"label {id}", "object") for id in range(labels)).save(f"{uri}/label_system.json")
    regions = Regions(stage="regions_1", digest="0", path=f"{uri}/regions", seconds=0.0, images=images, detected=images)
    config = load(sets=["resources.task_cpus=1", "resources.shuffle_partitions=200", "engine.clean.min_images=50"])
    before, puts = (proxy.num_requests, proxy.counts["PUT"]) if proxy else (0, 0)
    start = time.monotonic()
    with watch_memory() as peaks:
        result = find_removals(Run(f"{uri}/run"), config, regions, label_system_result(uri, num_labels=labels), round=1)
    seconds = time.monotonic() - start
    fs, root = fsspec.url_to_fs(f"{uri}/run")
    files = proxy.counts["PUT"] - puts if proxy else len(fs.find(root))
    made = proxy.num_requests - before if proxy else 0
    print(f"{images * AN_IMAGE:,} rows, {result.labels:,} labels with crops, {result.bins} bins", flush=True)
    return Measured(images * AN_IMAGE, seconds, peaks["driver"], peaks["worker"], files, made)


def main() -> None:
    """Measure each size and print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", nargs="+", type=int, default=[100_000, 1_000_000])
    parser.add_argument("--shards", type=int, default=14_000)
    parser.add_argument("--labels", type=int, default=4_585)
    parser.add_argument("--local", action="store_true", help="in a folder; files are those that are left")
    parser.add_argument("--folder", help="where to work (default: a folder for temporary files)")
    options = parser.parse_args()
    import ray

    with tempfile.TemporaryDirectory(dir=options.folder) as temporary, s3(not options.local) as proxy:
        ray.init(num_cpus=2, include_dashboard=False, log_to_driver=False)
        titles = {"rows": 12, "seconds": 8, "rows/s": 8, "driver MB": 10, "worker MB": 10, "files": 8, "requests": 9}
        print(*(f"{title:>{width}}" for title, width in titles.items()))
        for rows in options.rows:
            uri = f"{proxy.bucket if proxy else temporary}/rows-{rows}"
            run = measure(uri, rows=rows, shards=options.shards, labels=options.labels, proxy=proxy)
            print(
                f"{run.rows:>12,} {run.seconds:>8.1f} {run.rows / run.seconds:>8.0f} {run.driver_mb:>10.1f} "
                f"{run.worker_mb:>10.1f} {run.files:>8,} {run.requests:>9,}",
                flush=True,
            )
        ray.shutdown()


if __name__ == "__main__":
    main()
