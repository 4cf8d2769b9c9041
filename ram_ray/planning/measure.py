"""A short bench of this machine: constants of a plan, measured with the functions that the stages call.

Each part runs for about `SECONDS`. Work on a CPU is measured in CPU seconds of this process, so that other work beside
it counts little; models on a GPU, starts and requests are measured in seconds. On a cluster, run it on a worker machine.
"""

from __future__ import annotations

import contextlib
import datetime
import io
import os
import platform
import subprocess
import sys
import time
import uuid
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import fsspec

from ram_ray.config import RunConfig
from ram_ray.planning.arithmetic import count_weights, forward_gflop, training_gflop
from ram_ray.planning.constants import Constant, shipped_constants

if TYPE_CHECKING:
    from PIL import Image

SECONDS = 2.0  # of each part
PHOTO = (500, 375)  # pixels
CAPTIONS = (
    "two brown dogs are running along a sandy beach",
    "a man in a red jacket stands beside his bicycle",
    "Vintage wooden chair with leather seat, set of two",
    "a plate of food with vegetables and a glass of water on a table",
    "Lighthouse at sunset on the north coast of the island",
    "children play football in a park in front of a large building",
)
MODEL_COPIES = 3  # of the weights while a training step is measured: weights, gradients, and what is between


@dataclass
class Measured:
    """Constants by name, and what the user should know."""

    constants: dict[str, Constant] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)

    def add(self, name: str, value: float, how: str) -> None:
        """Add a constant.

        Args:
            name: as in `constants.yaml`.
            value: in the unit that the shipped constant has.
            how: what was run.
        """
        unit = shipped_constants().origins[name].unit
        date, machine = datetime.date.today().isoformat(), machine_name()
        self.constants[name] = Constant(value, unit, "measured", how, date, machine)


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
    start = time.monotonic()
    subprocess.run([sys.executable, "-c", "import ray, pyarrow.parquet"], check=True)
    found.add("process_start", time.monotonic() - start, "import of ray and pyarrow in a new process")
    if store:
        _measure_requests(found, store)
    _measure_models(found, config, seconds)
    return found


def time_calls(call: Callable[[], object], *, seconds: float, clock: Callable[[], float] = time.process_time) -> float:
    """Seconds of a call, after one that is not counted.

    Args:
        call: what is measured.
        seconds: least seconds of all calls together.
        clock: CPU seconds of this process, or another clock.

    Returns:
        The mean.
    """
    call()
    calls, start, wall = 0, clock(), time.monotonic()
    while calls == 0 or time.monotonic() - wall < seconds:
        call()
        calls += 1
    return (clock() - start) / calls


def machine_name() -> str:
    """The processor of this machine, and how many cores it has."""
    name = platform.processor() or platform.machine()
    with contextlib.suppress(OSError):
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        name = next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), name)
    return f"{os.cpu_count()} cores of {name}"


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
    captions = list(CAPTIONS) * 40
    taken = time_calls(lambda: parser.parse(captions), seconds=seconds) / len(captions)
    found.add("parse_caption", taken, f"{len(captions)} captions through {config.labels.parser}")


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
    rows = [{**row, "key": f"a/0/{index}", "captions": [CAPTIONS[0]]} for index in range(1000)]
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

    found.add("read_row", time_calls(change, seconds=seconds) / len(rows), "rows of shards, read, made anew and written")
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


def _measure_models(found: Measured, config: RunConfig, seconds: float) -> None:
    import torch

    on_gpu = torch.cuda.is_available()
    free = torch.cuda.mem_get_info()[0] if on_gpu else os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_AVPHYS_PAGES")
    needed = count_weights(config) * 4 * MODEL_COPIES
    if needed > 0.8 * free:
        found.notes.append(
            f"models were not measured: {needed / 1e9:.1f} GB of weights and gradients, and {free / 1e9:.1f} GB are free"
        )
        return
    model, batch = _make_model(config, device="cuda" if on_gpu else "cpu")
    train = config.pretrain
    sizes = {"image_size": train.image_size, "window_size": train.window_size}
    parts = forward_gflop(config, **sizes, num_labels=config.labels.max_labels)
    forward = parts["encoder"] + parts["head"]
    both = training_gflop(config, train, num_labels=config.labels.max_labels, teacher=0.0)
    images = len(batch["pixel_values"])
    clock = _gpu_clock if on_gpu else time.process_time

    def run() -> None:
        with torch.no_grad(), _precision(config, on_gpu):
            model.logits(model.encode(batch["pixel_values"]))

    def step() -> None:
        model.zero_grad()
        with _precision(config, on_gpu):
            losses = model(batch)
        sum(losses.values()).backward()

    def rate(gflop: float, call: Callable[[], None]) -> float:
        return gflop * images / time_calls(call, seconds=seconds, clock=clock)

    what = f"{images} images of {train.image_size} pixels, {config.labels.max_labels:,} labels"
    model.eval()
    passed = rate(forward, run)
    model.train()
    stepped = rate(both, step)
    if not on_gpu:
        found.add(f"cpu_gflops_{config.training.precision}", passed, f"forward pass, {what}")
        found.add("cpu_gflops_training", stepped, f"forward and backward pass, {what}")
        found.notes.append("there is no GPU here, so the constants of GPUs are those of the package")
        return
    peak = _gpu_peak(seconds)
    found.add("gpu_share_forward", passed / peak, f"forward pass, {what}, of {peak / 1000:.0f} TFLOP/s")
    for name in ("gpu_share_training", "gpu_share_training_head"):
        found.add(name, stepped / peak, f"forward and backward pass, {what}, of {peak / 1000:.0f} TFLOP/s")
    found.notes.append(f"a large product reaches {peak / 1000:.0f} TFLOP/s: add gpu_tflops={peak / 1000:.0f} to --nodes")


def _make_model(config: RunConfig, *, device: str) -> tuple[Any, dict[str, Any]]:
    """The tagger with random weights at the size of its pretraining, and a batch."""
    import torch

    from ram_ray.models.pretrained import training_fields
    from ram_ray.models.ram import RAM

    train, labels = config.pretrain, config.labels.max_labels
    fields = training_fields(config.model, image_size=train.image_size, window_size=train.window_size)
    sizes = config.model.model_copy(update=fields)
    torch.manual_seed(0)
    images = min(2 if device == "cpu" else 16, train.micro_batch_size or train.batch_size)
    model = RAM(sizes, torch.randn(labels, sizes.label_width)).to(device)
    model.set_recompute(config.training.recompute)
    targets = torch.zeros(images, labels, device=device)
    targets[:, : min(8, labels)] = 1
    batch = {
        "pixel_values": torch.randn(images, 3, train.image_size, train.image_size, device=device),
        "targets": targets,
    }
    if train.caption_loss and sizes.captions:
        words = min(1000, sizes.vocab_size)
        batch |= {
            "caption_ids": torch.randint(5, words, (images, min(20, sizes.max_caption_tokens)), device=device),
            "tag_ids": torch.randint(5, words, (images, min(20, sizes.max_tag_tokens)), device=device),
            "caption_start": torch.tensor(4),
        }
    return model, batch


def _precision(config: RunConfig, on_gpu: bool) -> Any:
    import torch

    if config.training.precision == "bf16":
        return torch.autocast("cuda" if on_gpu else "cpu", torch.bfloat16)
    return contextlib.nullcontext()


def _gpu_clock() -> float:
    import torch

    torch.cuda.synchronize()
    return time.monotonic()


def _gpu_peak(seconds: float) -> float:
    """GFLOP/s of a large product of matrices in bf16."""
    import torch

    size = 8192
    left, right = (torch.randn(size, size, device="cuda", dtype=torch.bfloat16) for _ in range(2))
    return 2 * size**3 / 1e9 / time_calls(lambda: left @ right, seconds=seconds, clock=_gpu_clock)
