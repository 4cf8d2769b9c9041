"""Near duplicates: precision and recall of the pairs, time of a signature, and how the search grows with the images.

    python tests/bench/near_duplicates.py [--images 50000 100000 200000] [--photos TAR ...]

Images are made for the purpose: noise with the spectrum of photos (1/f in each colour), 32 x 32 pixels, from which
signatures are made as from any image. 2% of them are planted copies: the image at 128 x 128, changed in one of four
ways (JPEG of quality 50, half the size, mirrored, darker), through the whole of `make_signature`. The tasks of the step
`duplicates` then run one after the other over a file of hashes, in this process, as `plan_work` divides them. Time is
that of the CPU. With `--photos` the signatures of real images are timed, and pairs of different photos counted: each
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

from ram_ray.curation.hash_table import HASHES, plan_work, read_pairs, write_pairs  # noqa: E402
from ram_ray.curation.lookup import pair_near  # noqa: E402
from ram_ray.curation.perceptual_hash import SIDE, SIGNATURE, make_signature, sign  # noqa: E402

SHARE, MAX_DISTANCE = 0.02, 8


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
    parser.add_argument("--photos", nargs="*", default=[], help="tars of photos")
    options = parser.parse_args()
    for num_images in options.images:
        with tempfile.TemporaryDirectory() as folder:
            measure(num_images, Path(folder))
    if options.photos:
        measure_photos(options.photos)


if __name__ == "__main__":
    main()
