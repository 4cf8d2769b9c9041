"""COCO as img2dataset writes it, a row a caption: what arrives, and what grows with the data.

    python tests/bench/one_row_an_image.py [--images 11300 113000] [--folder DIR] [-- JOB OPTIONS]

Writes Parquet shards as img2dataset does: five rows an image, in random order over all shards, each with the url and a
caption of its own. Images are header-only: the first bytes of one JPEG, which `data.check: header` accepts, so nothing
is decoded, and rows are compared by url. A held-out set of a hundredth has its own images and a tenth of images that
are trained on too. Then `jobs/shards.py` runs, as a user starts it, and what it left is counted: images, captions of
each image, urls that both sides share. The driver's memory is measured as in `tests/bench/scale.py`.
"""

from __future__ import annotations

import argparse
import io
import json
import random
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))

from tests.bench.scale import own_mb  # noqa: E402

CAPTIONS, ROWS_PER_SHARD = 5, 10_000


def write_shards(folder: Path, images: list[int], *, seed: int) -> None:
    """Parquet shards with `CAPTIONS` rows of each image, in random order."""
    data = io.BytesIO()
    Image.new("RGB", (640, 480), "teal").save(data, "JPEG")
    head = data.getvalue()[:700]
    rows = [(image, caption) for image in images for caption in range(CAPTIONS)]
    random.Random(seed).shuffle(rows)
    folder.mkdir(parents=True)
    for number, start in enumerate(range(0, len(rows), ROWS_PER_SHARD)):
        part = rows[start : start + ROWS_PER_SHARD]
        table = {
            "url": [f"http://images.cocodataset.org/train2017/{image:012d}.jpg" for image, _ in part],
            "key": [f"{number:05d}{index:04d}" for index in range(len(part))],
            "caption": [f"caption {caption} of image {image}" for image, caption in part],
            "jpg": [head] * len(part),
        }
        pq.write_table(pa.table(table), folder / f"{number:05d}.parquet")


def run_job(folder: Path, job: list[str]) -> tuple[float, float]:
    """Run `jobs/shards.py`: seconds, and the largest memory of the driver in MB."""
    duplicates = "data.duplicates={same: [url, sha256], near: null}"
    command = [sys.executable, str(ROOT / "jobs/shards.py"), "--data", f"{folder}/train/*.parquet"]
    command += [
        "--eval",
        f"{folder}/eval/*.parquet",
        "--run",
        f"{folder}/run",
        "--set",
        duplicates,
        "--set",
        "data.check=header",
        *job,
    ]
    start, peak = time.monotonic(), 0.0
    process = subprocess.Popen(command, cwd=ROOT)
    while process.poll() is None:
        peak = max(peak, own_mb(process.pid))
        time.sleep(0.2)
    assert process.returncode == 0, f"the job ended with {process.returncode}"
    return time.monotonic() - start, peak


def read_rows(folder: Path, stage: str) -> Iterator[dict]:
    """The rows that a stage left, with url, captions and reason."""
    for file in (folder / "run/annotations" / stage).rglob("*.parquet"):
        yield from pq.read_table(file, columns=["url", "captions", "reason"], partitioning=None).to_pylist()


def measure(num_images: int, folder: Path, job: list[str]) -> None:
    """Write, run, count, print a line."""
    num_held_out = num_images // 100
    write_shards(folder / "train", list(range(num_images)), seed=0)
    shared = list(range(0, num_images, 10))[: num_held_out // 10]
    write_shards(folder / "eval", [*range(num_images, num_images + num_held_out), *shared], seed=1)
    seconds, peak = run_job(folder, job)
    (manifest,) = (folder / "run/annotations/images").glob("*.json")
    counts = json.loads(manifest.read_text())
    assert counts["rows_in"] == counts["rows_out"] + counts["rejected"] + counts["merged"] == CAPTIONS * num_images
    captions: Counter[int] = Counter()
    urls: set[str] = set()
    for row in read_rows(folder, "images"):
        if row["reason"] is None:
            captions[len(row["captions"])] += 1
            urls.add(row["url"])
    held_out = {row["url"] for row in read_rows(folder, "images_eval") if row["reason"] is None}
    stages = {
        file.parent.name: json.loads(file.read_text())["seconds"] for file in folder.glob("run/annotations/*/*.json")
    }
    print(
        f"{num_images:,} images of {CAPTIONS} captions in {CAPTIONS * num_images:,} rows, {len(shared)} of them also "
        f"held out: {sum(captions.values()):,} rows with {dict(captions)} captions, {len(urls):,} urls; merged "
        f"{counts['merged']:,}, rejected {counts['rejected']:,}; held out {len(held_out):,} urls, "
        f"{len(urls & held_out)} of them in training; {seconds:.0f} s, driver {peak:.0f} MB; {stages}",
        flush=True,
    )


def main() -> None:
    """Measure each size."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", nargs="+", type=int, default=[11_300, 113_000])
    parser.add_argument("--folder", help="where to work (default: a folder for temporary files)")
    parser.add_argument("job", nargs="*", help="options of the job")
    options = parser.parse_args()
    for num_images in options.images:
        with tempfile.TemporaryDirectory(dir=options.folder) as folder:
            measure(num_images, Path(folder), options.job)


if __name__ == "__main__":
    main()
