"""Near duplicates: precision and recall of the pairs, time of a signature, and how the search grows with the images.

    python tests/bench/near_duplicates.py [--images 50000 100000 200000] [--slices 2 4 8 --rows 2000000]
        [--photos TAR ...]

Images are made for the purpose: noise with the spectrum of photos (1/f in each colour), 32 x 32 pixels, from which
signatures are made as from any image. 2% of them are planted copies: the image at 128 x 128, changed in one of four
ways (JPEG of quality 50, half the size, mirrored, darker), through the whole of `make_signature`. The tasks of the step
`duplicates` then run one after the other over a file of hashes, in this process, as `plan_work` divides them. Time is
that of the CPU. With `--slices` the search for one kind and `TABLES_TIMED` tables of random signatures is timed in two
ways on a Ray of two CPUs: by tasks that read all hashes, and by a shuffle (`curation.hash_shuffle`); seconds are those
of the clock. With `--photos` the signatures of real images are timed, and pairs of different photos counted: each
tar must hold every photo once.
"""

from __future__ import annotations

import argparse
import io
import sys
import tarfile
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image, ImageEnhance, ImageOps

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))

from ram_ray.curation.hash_table import (  # noqa: E402
    HASHES,
    ROWS_PER_FILE,
    Work,
    plan_work,
    read_pairs,
    write_pairs,
)
from ram_ray.curation.lookup import WIDE_TABLES, pair_near  # noqa: E402
from ram_ray.curation.perceptual_hash import SIDE, SIGNATURE, make_signature, sign  # noqa: E402

SHARE, MAX_DISTANCE = 0.02, 8
TABLES_TIMED = 3


def compress(image: Image.Image) -> Image.Image:
    """JPEG of quality 50."""
    data = io.BytesIO()
    image.save(data, "JPEG", quality=50)
    return Image.open(data).convert("RGB")


CHANGES: list[Callable[[Image.Image], Image.Image]] = [
    compress,
    lambda image: image.resize((64, 64), Image.Resampling.LANCZOS),
    ImageOps.mirror,
    lambda image: ImageEnhance.Brightness(image).enhance(0.8),
]


def make_images(count: int, rng: np.random.Generator) -> np.ndarray:
    """Noise whose amplitudes fall with the frequency, uint8 (count, 32, 32, 3)."""
    rows, columns = np.fft.fftfreq(SIDE)[:, None], np.fft.rfftfreq(SIDE)[None]
    radius = np.hypot(rows, columns)
    radius[0, 0] = np.inf
    spectrum = np.fft.rfft2(rng.standard_normal((count, 3, SIDE, SIDE))) / radius
    pixels = np.fft.irfft2(spectrum, s=(SIDE, SIDE))
    pixels *= 45 / pixels.std((2, 3), keepdims=True)
    return np.moveaxis(pixels + rng.uniform(80, 170, (count, 3, 1, 1)), 1, -1).clip(0, 255).astype(np.uint8)


def make_signatures(num_images: int) -> tuple[np.ndarray, set[tuple[int, int]]]:
    """Signatures, and the planted pairs by position."""
    rng = np.random.default_rng(0)
    num_copies = int(SHARE * num_images)
    parts, copies = [], []
    for start in range(0, num_images - num_copies, 5000):
        pixels = make_images(min(5000, num_images - num_copies - start), rng)
        parts.append(sign(pixels)[0])
        for index in range(min(len(pixels), num_copies - len(copies))):
            large = Image.fromarray(pixels[index]).resize((128, 128), Image.Resampling.NEAREST)
            signature = make_signature(CHANGES[len(copies) % len(CHANGES)](large))
            assert signature
            copies.append((start + index, signature))
    parts.append(np.frombuffer(b"".join(signature for _, signature in copies), SIGNATURE))
    first = num_images - num_copies
    return np.concatenate(parts), {(original, first + copy) for copy, (original, _) in enumerate(copies)}


def measure(num_images: int, folder: Path) -> None:
    """Search, and print a line."""
    signatures, planted = make_signatures(num_images)
    rows = len(signatures)
    columns = {name: pa.nulls(rows, HASHES.field(name).type) for name in HASHES.names}
    columns["id"], columns["set"] = pa.array(np.arange(rows)), pa.array(np.zeros(rows, np.int8))
    columns["source"] = pa.array(np.zeros(rows, np.int64))
    columns["signature"] = pa.array([signature.tobytes() for signature in signatures], pa.binary())
    (folder / "hashes").mkdir()
    pq.write_table(pa.table(columns, schema=HASHES), folder / "hashes/0.parquet")
    plan = plan_work(rows, kinds=[], near=True)
    start = time.process_time()
    for work in plan:
        path = str(folder / f"pairs/{work.name}.parquet")
        write_pairs(work, str(folder / "hashes"), path, max_distance=MAX_DISTANCE, mirrored=True)
    seconds = time.process_time() - start
    pairs = read_pairs(str(folder / "pairs"))
    found = set(zip(pairs["id"].to_pylist(), pairs["other_id"].to_pylist(), strict=True))
    correct = len(found & planted)
    print(
        f"{rows:,} images, {len(planted):,} planted pairs: {len(found):,} found, precision {correct / len(found):.4f}, "
        f"recall {correct / len(planted):.4f}; {len(plan)} tasks, {seconds:.1f} s, "
        f"{1e6 * seconds / rows:.0f} us an image",
        flush=True,
    )


def compare_divisions(num_rows: int, slices: list[int], folder: Path) -> None:
    """Time both ways of bringing the rows of a slice together, for numbers of slices."""
    from ram_ray.config import load
    from ram_ray.curation.hash_shuffle import shuffle_pairs, write_distinct
    from ram_ray.runtime.tasks import Task, wait_for

    rng = np.random.default_rng(0)
    for number, start in enumerate(range(0, num_rows, ROWS_PER_FILE)):
        count = min(ROWS_PER_FILE, num_rows - start)
        signatures = np.zeros(count, SIGNATURE)
        for name in ("coarse", "mirrored_coarse"):
            signatures[name] = rng.integers(0, 2**63, count, dtype=np.uint64)
        signatures["fine"] = rng.integers(0, 2**63, (count, 4), dtype=np.uint64)
        columns = {name: pa.nulls(count, HASHES.field(name).type) for name in HASHES.names}
        columns |= {"id": pa.array(np.arange(start, start + count)), "set": pa.array(np.zeros(count, np.int8))}
        columns |= {"source": pa.array(np.zeros(count, np.int64))}
        columns |= {"bytes_hash": pa.array(rng.integers(0, 2**62, count))}
        columns |= {"signature": pa.array([signature.tobytes() for signature in signatures], pa.binary())}
        (folder / "hashes").mkdir(exist_ok=True)
        pq.write_table(pa.table(columns, schema=HASHES), folder / f"hashes/{number}.parquet")
    execution, hashes = (
        load(sets=["resources.task_cpus=1", "resources.shuffle_partitions=8"]).execution,
        folder / "hashes",
    )
    for num_slices in slices:
        plan = [Work(("bytes",), (), index, num_slices) for index in range(num_slices)]
        plan += [
            Work((), (table,), index, num_slices) for table in WIDE_TABLES[:TABLES_TIMED] for index in range(num_slices)
        ]
        start_time = time.monotonic()
        task = Task(write_pairs, num_cpus=1)
        read = folder / f"read{num_slices}"
        wait_for(
            [
                task.start(work, str(hashes), f"{read}/{work.name}.parquet", max_distance=MAX_DISTANCE, mirrored=True)
                for work in plan
            ]
        )
        by_tasks, start_time = time.monotonic() - start_time, time.monotonic()
        shuffled, distinct = str(folder / f"shuffled{num_slices}"), str(folder / f"distinct{num_slices}")
        shuffle_pairs(plan, str(hashes), shuffled, max_distance=MAX_DISTANCE, mirrored=True, execution=execution)
        write_distinct(shuffled, distinct, execution=execution)
        by_shuffle = time.monotonic() - start_time
        print(
            f"{num_rows:,} rows, {num_slices} slices: tasks that read all {by_tasks:.1f} s, "
            f"shuffle {by_shuffle:.1f} s, ratio {by_tasks / by_shuffle:.2f}",
            flush=True,
        )


def measure_photos(tars: list[str]) -> None:
    """Time of decoding and of a signature, and pairs among different photos."""
    made, decoding, signing = [], 0.0, 0.0
    for path in tars:
        with tarfile.open(path) as tar:
            for member in tar:
                if not member.name.endswith((".jpg", ".jpeg", ".png")):
                    continue
                file = tar.extractfile(member)
                assert file
                start = time.process_time()
                image = Image.open(io.BytesIO(file.read())).convert("RGB")
                decoded = time.process_time()
                made.append(make_signature(image))
                signing += time.process_time() - decoded
                decoding += decoded - start
    signatures = np.frombuffer(b"".join(signature for signature in made if signature), SIGNATURE)
    pairs = pair_near(signatures, max_distance=MAX_DISTANCE)
    print(
        f"{len(made):,} photos: decoding {1e3 * decoding / len(made):.2f} ms, a signature "
        f"{1e3 * signing / len(made):.2f} ms; {len(pairs[0])} pairs of different photos"
    )


def main() -> None:
    """Measure each size, then the photos."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", nargs="*", type=int, default=[50_000, 100_000, 200_000])
    parser.add_argument("--slices", nargs="*", type=int, default=[])
    parser.add_argument("--rows", type=int, default=2_000_000, help="rows that are divided into --slices")
    parser.add_argument("--photos", nargs="*", default=[], help="tars of photos")
    options = parser.parse_args()
    for num_images in options.images:
        with tempfile.TemporaryDirectory() as folder:
            measure(num_images, Path(folder))
    if options.slices:
        import ray

        ray.init(num_cpus=2, include_dashboard=False, log_to_driver=False)
        with tempfile.TemporaryDirectory() as folder:
            compare_divisions(options.rows, options.slices, Path(folder))
        ray.shutdown()
    if options.photos:
        measure_photos(options.photos)


if __name__ == "__main__":
    main()
