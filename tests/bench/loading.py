"""How long a full-size bundle takes to load, and how much memory, in a process of its own.

    python tests/bench/loading.py [--folder DIR] [--captions] [--backend torch]

Writes a RAM Swin-L 384 with random weights as a bundle (kept in DIR, where one is named), then loads it as a user does,
tags nothing, and prints the seconds of `Predictor.from_pretrained` and the peak of resident memory over what the
imports alone took, as a share of the weights' size.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
from pathlib import Path

LOAD = """
import re, sys, time
import torch, timm.models.swin_transformer, safetensors.torch
from ram_ray.inference.predictor import Predictor
peak = lambda: int(re.search(r"VmHWM:\\s+(\\d+)", open("/proc/self/status").read())[1]) * 1024  # this program's alone
before, start = peak(), time.perf_counter()
predictor = Predictor.from_pretrained(sys.argv[1], device="cpu", backend=sys.argv[2])
print(time.perf_counter() - start, before, peak())
"""


def write(folder: Path, *, captions: bool) -> None:
    """A full-size bundle with random weights."""
    import torch
    import torch.nn.functional as F

    from ram_ray.label_system import Label, LabelSystem
    from ram_ray.models.bundle import save_bundle
    from ram_ray.models.ram import RAM
    from ram_ray.models.tokenizer import TextTokenizer
    from ram_ray.settings.models import ModelConfig, SwinConfig

    swin = SwinConfig(window_size=12, embed_dim=192, num_heads=(6, 12, 24, 48))
    tokenizer = TextTokenizer.train([f"tag {i}" for i in range(4585)], vocab_size=400)
    config = ModelConfig(image_size=384, swin=swin, captions=captions, vocab_size=len(tokenizer))
    model = RAM(config, F.normalize(torch.randn(4585, config.label_width), dim=-1))
    labels = LabelSystem(Label(i, f"tag {i}", "object") for i in range(4585))
    save_bundle(folder, model, labels=labels, tokenizer=tokenizer if captions else None, teacher=None)


def main() -> None:
    """Write where there is none yet, load, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder")
    parser.add_argument("--captions", action="store_true", help="with tag encoder and caption decoder")
    parser.add_argument("--backend", default="torch")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(options.folder or temporary)
        if not (folder / "config.json").is_file():
            write(folder, captions=options.captions)
        size = (folder / "model.safetensors").stat().st_size
        command = [sys.executable, "-c", LOAD, str(folder), options.backend]
        done = subprocess.run(command, capture_output=True, text=True, check=True)
        seconds, before, peak = map(float, done.stdout.split())
    print(
        f"{size / 1e9:.2f} GB of weights: {seconds:.1f} s; peak {peak / 1e9:.2f} GB, {before / 1e9:.2f} of it imports: "
        f"{peak / size:.2f} times the weights with the imports, {(peak - before) / size:.2f} without"
    )


if __name__ == "__main__":
    main()
