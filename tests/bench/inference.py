"""How fast a tagger is, as ratios: the plain path, our default, and each backend, in turn in one process.

    python tests/bench/inference.py                       # RAM Swin-L 384, 4,585 tags, random weights
    python tests/bench/inference.py --size small          # a Swin of 28M parameters at 224 px: minutes less
    python tests/bench/inference.py --device cuda         # bf16, compiled and with CUDA graphs

The plain path has the reference's structure: window bias gathered for every image, attention written out, label
embeddings projected and repeated for every image, PyTorch's own linear maps. All variants take turns, `--rounds`
times, so that a busy machine is busy for all; a figure is the best round's. Where the machine is quiet, wall time
(images/s) and CPU seconds agree; where it is not, only CPU seconds mean something.

Random weights say nothing about tags, but all about speed and rounding. `flips` counts decisions that differ from the
plain path's, at the released models' usual threshold of 0.68, and, as the worst case, at the median of the scores:
random weights put all of them near it, which trained ones do not.
"""

from __future__ import annotations

import argparse
import gc
import json
import math
import resource
import time
from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from ram_ray.inference.backends.backend import make_label_set
from ram_ray.inference.backends.registry import make_backend
from ram_ray.models.blocks import Attention, Block
from ram_ray.models.ram import RAM
from ram_ray.settings.models import ModelConfig, SwinConfig, TransformerConfig

SIZES = {
    "full": (384, 4585, SwinConfig(window_size=12, embed_dim=192, num_heads=(6, 12, 24, 48))),
    "base": (224, 4585, SwinConfig(window_size=7, embed_dim=128)),
    "small": (224, 600, SwinConfig(window_size=7, embed_dim=96, depths=(2, 2, 6, 2), num_heads=(3, 6, 12, 24))),
    "tiny": (32, 20, SwinConfig(window_size=4, embed_dim=16, depths=(1, 1), num_heads=(1, 2))),
}


@dataclass
class Variant:
    """One way to compute the logits of normalised pixels (B, 3, S, S)."""

    name: str
    run: Callable[[Tensor], Tensor]
    wall: float = float("inf")
    cpu: float = float("inf")
    logits: Tensor | None = None


def model(size: str) -> RAM:
    """A RAM without captioner, the same random weights at every call."""
    pixels, num_tags, swin = SIZES[size]
    recognition = TransformerConfig(layers=2, heads=4)
    torch.manual_seed(0)
    config = ModelConfig(image_size=pixels, swin=swin, recognition=recognition, captions=False)
    return RAM(config, F.normalize(torch.randn(num_tags, config.label_width), dim=-1)).eval().requires_grad_(False)


def plain(made: RAM) -> Callable[[Tensor], Tensor]:
    """The reference's structure: nothing kept, nothing shared among images, nothing fused."""

    def cross(layer: Attention, x: Tensor, context: Tensor, heads: int) -> Tensor:
        q, k, v = (
            part.unflatten(-1, (heads, -1)).transpose(1, 2)
            for part in (layer.query(x), layer.key(context), layer.value(context))
        )
        scores = (q @ k.transpose(-1, -2)) / q.shape[-1] ** 0.5
        y = scores.softmax(-1) @ v
        return layer.norm(layer.out(y.transpose(1, 2).flatten(2)) + x)

    @torch.inference_mode()
    def run(pixel_values: Tensor) -> Tensor:
        tokens = made.image_proj(made.image_encoder(pixel_values))
        x = F.relu(made.recognition.label_proj(made.label_embed)).unsqueeze(0).repeat(len(tokens), 1, 1)
        for layer in made.recognition.layers:
            assert isinstance(layer, Block) and layer.cross is not None
            x = layer.ffn(cross(layer.cross, x, tokens, layer.heads))
        return made.recognition.fc(x).squeeze(-1)

    return run


def through(name: str, size: str, *, precision: str, threads: int | None, device: str) -> Callable[[Tensor], Tensor]:
    """A backend's forward over a model of its own (backends take weights over)."""
    made = model(size).to(device)
    labels = make_label_set(made, made.label_embed)
    backend = make_backend(name, made, precision=precision, threads=threads)
    return lambda pixel_values: backend.logits(backend.encode(pixel_values), labels)


def compiled(size: str, *, device: str) -> Callable[[Tensor], Tensor]:
    """torch.compile in bf16 with CUDA graphs, label side kept."""
    made = model(size).to(device)
    labels = make_label_set(made, made.label_embed)

    def forward(pixel_values: Tensor) -> Tensor:
        with torch.autocast(device, torch.bfloat16):
            return made.recognition(
                labels.queries, made.encode(pixel_values), projected_queries=labels.projected_queries
            ).float()

    fast = torch.compile(forward, mode="reduce-overhead")
    return torch.inference_mode()(lambda pixel_values: fast(pixel_values).clone())


def variants(size: str, *, threads: int | None, device: str, only: list[str] | None) -> list[Variant]:
    """Every variant that can run here."""
    makers: dict[str, Callable[[], Callable[[Tensor], Tensor]]] = {"plain": lambda: plain(model(size).to(device))}
    for name, precision in (("torch", "fp32"), ("torch", "bf16"), ("openvino", "fp32"), ("openvino", "bf16")):
        if device == "cpu" or name == "torch":
            makers[f"{name} {precision}"] = lambda name=name, precision=precision: through(
                name, size, precision=precision, threads=threads, device=device
            )
    if device != "cpu":
        makers["torch bf16 compiled"] = lambda: compiled(size, device=device)
    made = []
    for name, make in makers.items():
        if only and name != "plain" and name not in only:
            continue
        try:
            made.append(Variant(name, make()))
        except ValueError as error:
            print(f"{name}: not measured: {error}", flush=True)
        gc.collect()
    return made


def measure(variant: Variant, pixels: Tensor) -> None:
    """One round: a forward of every batch; the best round counts."""
    sync = torch.cuda.synchronize if pixels.is_cuda else lambda: None
    sync()
    wall, cpu = time.perf_counter(), time.process_time()
    out = variant.run(pixels)
    sync()
    variant.wall = min(variant.wall, (time.perf_counter() - wall) / len(pixels))
    variant.cpu = min(variant.cpu, (time.process_time() - cpu) / len(pixels))
    variant.logits = out.float().cpu()


def ceiling(dtype: torch.dtype, device: str) -> float:
    """The best product of matrices that PyTorch reaches here, in GFLOP a CPU second (a second on a GPU)."""
    a, b = (torch.randn(2048, 2048, device=device, dtype=dtype) for _ in range(2))
    best = 0.0
    clock = time.process_time if device == "cpu" else time.perf_counter
    for _ in range(5):
        start = clock()
        c = a @ b
        if c.is_cuda:
            torch.cuda.synchronize()
        best = max(best, 2 * 2048**3 / max(clock() - start, 1e-9) / 1e9)
    return best


def flops(size: str) -> float:
    """GFLOP of the products of an image, counted in the plain path."""
    from torch.utils.flop_counter import FlopCounterMode

    made = model(size)
    with FlopCounterMode(display=False) as counter:
        plain(made)(torch.zeros(1, 3, made.config.image_size, made.config.image_size))
    return counter.get_total_flops() / 1e9


def report(made: list[Variant], *, size: str, device: str) -> list[dict]:
    """A row a variant, against the plain path."""
    base = made[0]
    assert base.name == "plain" and base.logits is not None
    limits = {"flips_percent": math.log(0.68 / 0.32), "flips_percent_at_median": float(base.logits.median())}
    kinds = {variant.name: torch.bfloat16 if "bf16" in variant.name else torch.float32 for variant in made}
    # Only of the formats that were measured: a product in bf16 takes a minute where the processor has none.
    work, best = flops(size), {dtype: ceiling(dtype, device) for dtype in set(kinds.values())}
    rows = []
    for variant in made:
        assert variant.logits is not None
        seconds = variant.cpu if device == "cpu" else variant.wall
        flips = {
            name: round(100 * float(((variant.logits > limit) != (base.logits > limit)).float().mean()), 3)
            for name, limit in limits.items()
        }
        rows.append(
            {
                "variant": variant.name,
                "images_per_second": round(1 / variant.wall, 3),
                "cpu_seconds": round(variant.cpu, 4),
                "ratio": round((base.cpu / variant.cpu) if device == "cpu" else base.wall / variant.wall, 2),
                "of_torch_ceiling": round(work / seconds / best[kinds[variant.name]], 2),
                "largest_logit_difference": float((variant.logits - base.logits).abs().max()),
                **flips,
            }
        )
    return rows


def main() -> None:
    """Measure and print a table, or JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", choices=list(SIZES), default="full")
    parser.add_argument("--batch", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--only", nargs="*", help="variants beside plain")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    if options.threads:
        torch.set_num_threads(options.threads)
    side = SIZES[options.size][0]
    pixels = torch.randn(options.batch, 3, side, side, generator=torch.Generator().manual_seed(1)).to(options.device)
    made = variants(options.size, threads=options.threads, device=options.device, only=options.only)
    for variant in made:  # what is made at the first call is not measured
        variant.run(pixels)
    for _ in range(options.rounds):
        for variant in made:
            measure(variant, pixels)
    rows = report(made, size=options.size, device=options.device)
    if options.json:
        print(json.dumps(rows, indent=1))
        return
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6
    threads = torch.get_num_threads()
    print(f"{options.size}, batch {options.batch}, {options.device}, {threads} threads, peak {peak:.1f} GB")
    heads = ("images/s", "CPU s", "ratio", "ceiling", "max diff", "flips %", "at median")
    print("variant".ljust(22) + "".join(f"{title:>11}" for title in heads))
    for row in rows:
        name, *numbers = row.values()
        print(name.ljust(22) + "".join(f"{number:>11.4g}" for number in numbers), flush=True)


if __name__ == "__main__":
    main()
