"""What is left of a tagger's speed when a batch job tags many images: start, reading, decoding and writing included.

    python tests/bench/tagging.py --data 'photos-dev.tar' [--backend openvino] [--precision bf16] [--size full]

Writes a model with random weights as a bundle, runs `jobs/tag_images.py` over the data and takes its whole time, from
the command to the last part written, and measures `Predictor` on one image at a time in a process of its own, before
the job and after it: a machine is not as quick at all hours, and a job of minutes takes what it gets. The ratio is to
the mean of both; the best round, as `tests/bench/inference.py` takes it, is printed too. The job's own options come
after `--`.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))

PREDICTOR = """
import sys, time
import torch
from ram_ray.runtime.cluster import machine_cpus
from ram_ray.inference.predictor import Predictor
folder, backend, precision, rounds = sys.argv[1:5]
predictor = Predictor.from_pretrained(
    folder, device="cpu", backend=backend, precision=precision, threads=machine_cpus()
)
pixels = torch.randn(1, 3, predictor.image_size, predictor.image_size)
predictor.logits(pixels)  # what is made at the first call is no part of it
seconds = []
for _ in range(int(rounds)):
    start = time.perf_counter()
    for _ in range(3):
        predictor.logits(pixels)
    seconds.append((time.perf_counter() - start) / 3)
print(*seconds)
"""


def write(folder: Path, *, size: str) -> None:
    """A bundle of one of the sizes of `tests/bench/inference.py`, without captioner."""
    from ram_ray.label_system import Label, LabelSystem
    from ram_ray.models.bundle import save_bundle
    from tests.bench.inference import model

    made = model(size)
    labels = LabelSystem(Label(i, f"tag {i}", "object") for i in range(len(made.label_embed)))
    save_bundle(folder, made, labels=labels, tokenizer=None, teacher=None)


def predict(command: list[str]) -> list[float]:
    """Seconds an image of each round."""
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True, cwd=ROOT)
    return [float(word) for word in done.stdout.splitlines()[-1].split()]


def main() -> None:
    """Measure both and print a line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", nargs="+", required=True, help="images, as for the job")
    parser.add_argument("--size", default="full", choices=("full", "base", "small", "tiny"))
    parser.add_argument("--backend", default="openvino")
    parser.add_argument("--precision", default="bf16")
    parser.add_argument("--rounds", type=int, default=10)
    parser.add_argument("job", nargs="*", help="options of the job")
    options = parser.parse_args()
    how = ["--backend", options.backend, "--precision", options.precision]
    with tempfile.TemporaryDirectory() as temporary:
        bundle, out = Path(temporary, "bundle"), Path(temporary, "out")
        write(bundle, size=options.size)
        command = [sys.executable, "-c", PREDICTOR, str(bundle), options.backend, options.precision]
        alone = [*command, str(options.rounds)]
        rounds = predict(alone)
        command = [sys.executable, str(ROOT / "jobs" / "tag_images.py"), "--model", str(bundle), "--out", str(out)]
        start = time.perf_counter()
        subprocess.run([*command, *how, *options.job, "--data", *options.data], check=True)
        seconds = time.perf_counter() - start
        rounds += predict(alone)
        lines = sum(len(file.read_text().splitlines()) for file in out.glob("*.jsonl"))
    speed, mean, best = lines / seconds, len(rounds) / sum(rounds), 1 / min(rounds)
    print(
        f"{options.size}, {options.backend} {options.precision}: the predictor {mean:.3f} images/s (best {best:.3f}); "
        f"the job {lines:,} images in {seconds:.0f} s, {speed:.3f} images/s: {speed / mean:.3f} ({speed / best:.3f})"
    )


if __name__ == "__main__":
    main()
