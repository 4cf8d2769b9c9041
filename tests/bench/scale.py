"""What grows with the data: the driver's memory, time, files and requests of `jobs/parse.py` at two sizes.

    python tests/bench/scale.py [--rows 100000 1000000] [--rows-per-tar 10000] [--s3] [--folder DIR] [-- JOB OPTIONS]

Writes one tar of tiny images with captions and gives it many names (links, or objects in moto's S3 server), checks
headers and parses: the stages `shards` to `parse`, on a Ray of the job's own. `represent` is a dual encoder that is
there already, so that nothing is trained. The driver is the job's own process. Its memory is what is its own (RssAnon,
read several times a second): the pages of the object store that it has read are shared, and resources.object_store_gb
bounds them. The target is a driver whose memory does not grow by more than 5% from 100,000 to 1,000,000 rows, and time,
files and requests that grow as the rows do, or less.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import json
import os
import random
import subprocess
import sys
import tarfile
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))

from tests.s3 import S3Proxy, environment, serve_s3  # noqa: E402

COLOURS = ["red", "blue", "green", "black", "white", "yellow", "brown", "grey", "pink", "orange"]
THINGS = [
    "dog",
    "cat",
    "horse",
    "car",
    "bus",
    "boat",
    "house",
    "tree",
    "bird",
    "table",
    "chair",
    "lamp",
    "bottle",
    "cup",
    "book",
    "shoe",
    "hat",
    "ball",
    "kite",
    "clock",
]
PLACES = ["beach", "street", "field", "park", "kitchen", "room", "lake", "hill", "station", "market"]
DOINGS = ["standing", "lying", "sitting", "waiting", "running"]


@dataclass(frozen=True)
class Measured:
    """One run of the job."""

    rows: int
    seconds: float
    stages: dict[str, float]  # seconds
    driver_mb: float
    files: int
    requests: int


def write_tar(path: Path, *, rows: int) -> None:
    """Tiny images with a caption each."""
    from PIL import Image

    rng = random.Random(0)
    images = []
    for colour in range(16):
        data = io.BytesIO()
        Image.new("RGB", (32, 32), (colour * 15, 255 - colour * 15, colour * 7)).save(data, "JPEG", quality=30)
        images.append(data.getvalue())
    with tarfile.open(path, "w", format=tarfile.USTAR_FORMAT) as tar:
        for row in range(rows):
            words = [rng.choice(choices) for choices in (COLOURS, THINGS, DOINGS, PLACES)]
            text = f"a {words[0]} {words[1]} {words[2]} in the {words[3]}".encode()
            for suffix, member in (("jpg", images[row % 16]), ("txt", text)):
                info = tarfile.TarInfo(f"{row:09d}.{suffix}")
                info.size = len(member)
                tar.addfile(info, io.BytesIO(member))


def write_models(folder: Path) -> None:
    """A dual encoder with random weights and its words: what `represent` and the vocabulary take as it is."""
    from ram_ray.models.dual_encoder import DualEncoder
    from ram_ray.models.tokenizer import TextTokenizer
    from ram_ray.settings.models import DualEncoderConfig, SwinConfig, TransformerConfig

    tokenizer = TextTokenizer.train([" ".join([*COLOURS, *THINGS, *PLACES, *DOINGS])] * 3, vocab_size=400)
    swin = SwinConfig(patch_size=4, window_size=4, embed_dim=8, depths=(1, 1), num_heads=(1, 2))
    text = TransformerConfig(width=16, layers=1, heads=2, ffn=32, dropout=0.0)
    sizes = {"image_size": 32, "embed_dim": 16, "vocab_size": len(tokenizer), "max_text_tokens": 16}
    DualEncoder(DualEncoderConfig(swin=swin, text=text, **sizes)).save(folder, tokenizer)


def own_mb(pid: int) -> float:
    """Memory of a process that it shares with no other, in MB; 0 if it is gone."""
    with contextlib.suppress(OSError):
        for line in Path(f"/proc/{pid}/status").read_text().splitlines():
            if line.startswith("RssAnon:"):
                return int(line.split()[1]) / 1000
    return 0.0


def measure(rows: int, *, data: str, run: str, models: Path, proxy: S3Proxy | None, job: list[str]) -> Measured:
    """Run the job over what is at `data`."""
    import fsspec

    settings = [f"represent.clip={models}", f"tokenizer={models}", "labels.wordnet=none"]
    settings.append("data.duplicates={same: [], near: null}")  # all rows have one of 16 images
    command = [sys.executable, str(ROOT / "jobs/parse.py"), "--data", data, "--run", run]
    command += [word for setting in settings for word in ("--set", setting)] + job
    before, start, peak = proxy.num_requests if proxy else 0, time.monotonic(), 0.0
    process = subprocess.Popen(command, cwd=ROOT)
    while process.poll() is None:
        peak = max(peak, own_mb(process.pid))
        time.sleep(0.2)
    seconds = time.monotonic() - start
    assert process.returncode == 0, f"the job ended with {process.returncode}"
    requests = proxy.num_requests - before if proxy else 0
    fs, root = fsspec.url_to_fs(run)
    files = [file for kind in ("annotations", "models") for file in fs.find(f"{root}/{kind}", detail=False)]
    depth = root.count("/") + 3  # KIND/STAGE/DIGEST.json
    manifests = [json.loads(fs.cat_file(file)) for file in files if file.endswith(".json") and file.count("/") == depth]
    stages = {manifest["stage"]: manifest["seconds"] for manifest in manifests}
    (parsed,) = [manifest for manifest in manifests if manifest["stage"] == "parse"]
    assert parsed["rows_out"] == rows, parsed
    return Measured(rows, seconds, stages, peak, len(files), requests)


@contextlib.contextmanager
def s3(on: bool) -> Iterator[S3Proxy | None]:
    """A store that counts, or none."""
    if not on:
        yield None
        return
    with serve_s3() as server, S3Proxy(server) as proxy, environment(proxy.url):
        proxy.make_bucket("scale")
        yield proxy


def name_tars(
    tar: Path, *, count: int, folder: Path, proxy: S3Proxy | None, name: str | None = None
) -> tuple[str, str]:
    """The same tar under `count` names; the URIs of their folder and of a run, whose names end with `name`."""
    import fsspec

    name = name or str(count)

    if proxy:
        fs = fsspec.filesystem("s3")
        uri = f"{proxy.bucket}/rows-{name}"
        fs.put_file(str(tar), f"{uri}/00000.tar")
        for number in range(1, count):
            fs.cp_file(f"{uri}/00000.tar", f"{uri}/{number:05d}.tar")
        return uri, f"{proxy.bucket}/run-{name}"
    named = folder / f"rows-{name}"
    named.mkdir()
    for number in range(count):
        os.link(tar, named / f"{number:05d}.tar")
    return str(named), str(folder / f"run-{name}")


def show(runs: list[Measured]) -> None:
    """A line a run, and the last against the first."""
    print(f"{'rows':>12} {'seconds':>9} {'rows/s':>8} {'driver MB':>10} {'files':>8} {'requests':>9}  stages")
    for run in runs:
        stages = ", ".join(f"{name} {seconds:.0f}" for name, seconds in run.stages.items())
        print(
            f"{run.rows:>12,} {run.seconds:>9.1f} {run.rows / run.seconds:>8.0f} {run.driver_mb:>10.1f} "
            f"{run.files:>8,} {run.requests:>9,}  {stages}"
        )
    first, last = runs[0], runs[-1]
    if last is not first:
        print(
            f"{last.rows / first.rows:.1f} times the rows: {last.seconds / first.seconds:.2f} times the seconds, "
            f"{last.driver_mb / first.driver_mb:.3f} the driver's memory, {last.files / first.files:.2f} the files"
            + (f", {last.requests / first.requests:.2f} the requests" if first.requests else "")
        )


def main() -> None:
    """Measure each size and print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", nargs="+", type=int, default=[100_000, 1_000_000])
    parser.add_argument("--rows-per-tar", type=int, default=10_000)
    parser.add_argument("--s3", action="store_true", help="data and run in an S3 server, behind a proxy that counts")
    parser.add_argument("--folder", help="where to work (default: a folder for temporary files)")
    parser.add_argument("job", nargs="*", help="options of the job")
    options = parser.parse_args()
    assert all(rows % options.rows_per_tar == 0 for rows in options.rows), "rows are whole tars"
    with tempfile.TemporaryDirectory(dir=options.folder) as temporary, s3(options.s3) as proxy:
        folder = Path(temporary)
        write_models(folder / "models")
        write_tar(folder / "template.tar", rows=options.rows_per_tar)
        runs = []
        for rows in options.rows:
            count = rows // options.rows_per_tar
            data, run = name_tars(folder / "template.tar", count=count, folder=folder, proxy=proxy)
            runs.append(measure(rows, data=data, run=run, models=folder / "models", proxy=proxy, job=options.job))
            show(runs[-1:])
        print()
        show(runs)


if __name__ == "__main__":
    main()
