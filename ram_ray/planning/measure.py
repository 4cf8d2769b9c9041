"""A short bench of this machine: constants of a plan, measured with the functions that the stages call.

Each part runs for about `SECONDS`. Work on a CPU is measured in CPU seconds of this process, so that other work beside
it counts little; models on a GPU and requests are measured in seconds. On a cluster, run it on a worker machine.
"""

from __future__ import annotations

import io
import itertools
import resource
import subprocess
import sys
import time
import uuid
from typing import TYPE_CHECKING

import fsspec

from ram_ray.config import RunConfig
from ram_ray.planning.measure_models import measure_models
from ram_ray.planning.timing import Measured, time_calls

if TYPE_CHECKING:
    from PIL import Image

SECONDS = 2.0  # of each part
PHOTO = (500, 375)  # pixels
# Words of which captions are made, each another one: the parser would answer a repeated one from its cache.
WORDS = (
    ("two brown", "a small red", "the old wooden", "a shiny new", "three large"),
    ("dogs", "bicycle", "chair", "lighthouse", "boats", "plate"),
    ("are running along", "stands beside", "is lying in front of", "seen from"),
    ("a sandy beach at sunset", "the window of a house", "his friends in the park", "a table with a glass of water"),
)


def measure_constants(config: RunConfig, *, store: str | None = None, seconds: float = SECONDS) -> Measured:
    """Measure what can be measured on this machine.

    Args:
        config: of the run that is planned: its parser and the shapes of its models.
        store: folder or URI whose requests are timed; None: none are.
        seconds: of each part.

    Returns:
        The constants; those of a model that does not fit into memory are left out, with a note.
    """
    found = Measured()
    _measure_captions(found, config, seconds)
    _measure_images(found, config, seconds)
    _measure_rows(found, seconds)
    start = _child_seconds()
    subprocess.run([sys.executable, "-c", "import ray, pyarrow.parquet"], check=True)
    found.add("process_start", _child_seconds() - start, "import of ray and pyarrow in a new process")
    if store:
        _measure_requests(found, store)
    measure_models(found, config, seconds=seconds)
    return found


def _child_seconds() -> float:
    """CPU seconds of the processes that this one has started and that have ended."""
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return usage.ru_utime + usage.ru_stime


def make_photo(seed: int = 0) -> Image.Image:
    """An image of the size of a photo, with detail at every scale, so that its JPEG is as long as a photo's."""
    import numpy as np
    from PIL import Image

    rng = np.random.default_rng(seed)
    width, height = PHOTO
    total = np.zeros((height, width, 3))
    for cells in (4, 16, 64, 256):
        noise = Image.fromarray(rng.integers(0, 256, (cells, cells, 3), dtype=np.uint8))
        total += np.asarray(noise.resize(PHOTO, Image.Resampling.BICUBIC), dtype=float) / cells**0.5
    return Image.fromarray((255 * (total - total.min()) / (total.max() - total.min())).astype(np.uint8))


def _measure_captions(found: Measured, config: RunConfig, seconds: float) -> None:
    from ram_ray.captions.parser import process_parser

    parser = process_parser(config.labels.parser, max_chars=config.labels.max_caption_chars)
    captions = iter([" ".join(words) for words in itertools.product(*WORDS)])
    batch = 40

    def parse() -> object:
        return parser.parse(list(itertools.islice(captions, batch)))

    parse()
    start, parsed = time.process_time(), 0
    while time.process_time() - start < seconds and parse():
        parsed += batch
    taken = (time.process_time() - start) / parsed
    found.add("parse_caption", taken, f"{parsed} captions through {config.labels.parser}")


def _measure_images(found: Measured, config: RunConfig, seconds: float) -> None:
    from ram_ray.curation.fingerprints import hash_pixels
    from ram_ray.curation.perceptual_hash import make_signature
    from ram_ray.data.images import decode
    from ram_ray.data.preprocess import resize_square
    from ram_ray.training.augment import train_crop

    data = io.BytesIO()
    make_photo().save(data, "JPEG", quality=90)
    content, limits, train = data.getvalue(), config.data.limits(), config.pretrain

    def prepare() -> object:
        return resize_square(decode(content, limits=limits), size=train.image_size)

    def crop() -> object:
        image = decode(content, limits=limits, size=train.image_size)
        return train_crop(image, size=train.image_size, config=train.augment, seed=0)

    def fingerprint() -> object:
        image = decode(content, limits=limits)
        return hash_pixels(image), make_signature(image)

    what = f"a JPEG of {PHOTO[0]} x {PHOTO[1]} pixels and {len(content):,} bytes"
    found.add("decode_image", time_calls(prepare, seconds=seconds), f"{what}, decoded and resized")
    found.add("crop_image", time_calls(crop, seconds=seconds), f"{what}, decoded and augmented")
    found.add("fingerprint", time_calls(fingerprint, seconds=seconds), f"{what}, decoded and hashed")


def _measure_rows(found: Measured, seconds: float) -> None:
    import pyarrow as pa
    import pyarrow.compute as pc
    import pyarrow.parquet as pq

    from ram_ray.records import SAMPLE, to_table

    row = {"key": "a/0/1", "shard": "a/0", "uri": "/data/a/0.tar", "offset": 1, "nbytes": 40_000}
    rows = [
        {**row, "key": f"a/0/{index}", "captions": ["two brown dogs are running along a sandy beach"]}
        for index in range(1000)
    ]
    table = to_table(rows, SAMPLE)
    buffer = io.BytesIO()
    pq.write_table(table, buffer)

    def change() -> object:
        read = pq.read_table(io.BytesIO(buffer.getvalue()))
        sink = pa.BufferOutputStream()
        pq.write_table(to_table(read.to_pylist(), SAMPLE), sink)
        return sink

    def count() -> object:
        read = pq.read_table(io.BytesIO(buffer.getvalue()), columns=["captions", "reason"])
        return pc.sum(pc.list_value_length(read["captions"])), read["reason"].null_count

    found.add(
        "read_row", time_calls(change, seconds=seconds) / len(rows), "rows of shards, read, made anew and written"
    )
    found.add("count_row", time_calls(count, seconds=seconds) / len(rows), "two columns of rows of shards, counted")


def _measure_requests(found: Measured, store: str) -> None:
    fs, root = fsspec.url_to_fs(store)
    fs.makedirs(root, exist_ok=True)
    name = f"{root.rstrip('/')}/plan-{uuid.uuid4().hex}"
    taken = []
    for number in range(10):
        start = time.monotonic()
        fs.pipe_file(f"{name}-{number}", b"x" * 10_000)
        fs.cat_file(f"{name}-{number}")
        fs.invalidate_cache()
        fs.ls(root)
        taken.append((time.monotonic() - start) / 3)
    for number in range(10):
        fs.rm_file(f"{name}-{number}")
    found.add("request_seconds", sorted(taken)[len(taken) // 2], f"10 times writing, reading and listing in {store}")
