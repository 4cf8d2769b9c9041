"""What a GPU does with the models: one JSON line a check, in some minutes, on one card.

    python tests/gpu/check_gpu.py                        # exit code 3 and one line where there is no GPU
    python tests/gpu/check_gpu.py --device cpu --small   # the same code in small, for a machine without one

Needs torch, timm, pydantic and PyYAML, and no Ray; transformers and deepspeed are checked where they are
installed, and a check that cannot run says why. Images a second are those of the best of some rounds of random images;
`share_of_peak` is the floating-point operations that torch counts in a step, over the card's dense bf16 peak.
Exit code 1 if a check fails.
"""

from __future__ import annotations

import argparse
import collections
import json
import os
import sys
import tempfile
import time
import traceback
from collections.abc import Callable
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))

from tests.gpu.machine import Machine, batch_of, strategy, tagger, train_step  # noqa: E402


def check_device(machine: Machine) -> dict:
    """What is here."""
    import torch

    found: dict = {"torch": torch.__version__, "cuda": torch.version.cuda}
    if machine.device == "cuda":
        card = torch.cuda.get_device_properties(0)
        found |= {"card": card.name, "memory_gib": round(card.total_memory / 2**30), "peak_tflops": machine.peak}
    return found


def check_group(machine: Machine) -> dict:
    """A process group of one: NCCL on a GPU, and a sum that stays what it was."""
    import torch

    values = torch.arange(4.0, device=machine.device)
    torch.distributed.all_reduce(values)
    gathered = [torch.empty_like(values)]
    torch.distributed.all_gather(gathered, values)
    assert gathered[0].tolist() == [0, 1, 2, 3]
    return {"backend": torch.distributed.get_backend()}


def check_precision(machine: Machine, kind: str) -> dict:
    """Outputs of linear layers are bf16 where bf16 is asked for; step time against fp32 (TF32 on a GPU)."""
    import torch

    found: dict = {}
    side, window, images = (64, 2, 2) if machine.small else (224, 7, 16)
    for precision, expected in (("bf16", torch.bfloat16), ("fp32", torch.float32)):
        if kind == "deepspeed":
            import deepspeed.runtime.torch_autocast as state

            state.TORCH_AUTOCAST_INITIALIZED = False  # DeepSpeed keeps it for the process
        step = train_step(machine, side=side, window=window)
        made = strategy(machine, step, kind=kind, precision=precision, images=images)
        seen: collections.Counter = collections.Counter()
        for module in step.modules():
            if isinstance(module, torch.nn.Linear):
                module.register_forward_hook(lambda _, inputs, output, seen=seen: seen.update([output.dtype]))
        batch = batch_of(machine, step.model, images=images)
        losses = made.step([batch], lr=1e-6)
        assert set(seen) == {expected}, f"{precision}: {dict(seen)}"
        seconds = machine.seconds(lambda made=made, batch=batch: made.step([batch], lr=1e-6))
        found[precision] = {"step_ms": round(1000 * seconds, 1), "loss": round(losses["total"], 3)}
        del made, step
    found["fp32_over_bf16"] = round(found["fp32"]["step_ms"] / found["bf16"]["step_ms"], 2)
    found["matmul_precision_of_fp32"] = torch.get_float32_matmul_precision()
    return found


def check_training(machine: Machine) -> dict:
    """Swin-L at 224 px, 52 images a step, bf16, recognition and captions: a pretraining step of `ram_14m`."""
    import torch
    from torch.utils.flop_counter import FlopCounterMode

    side, window, images = (64, 2, 2) if machine.small else (224, 7, 52)
    step = train_step(machine, side=side, window=window)
    made = strategy(machine, step, kind="ddp", precision="bf16", images=images)
    batch = batch_of(machine, step.model, images=images)
    made.step([batch], lr=1e-6)
    with FlopCounterMode(display=False) as counter:
        made.step([batch], lr=1e-6)
    seconds = machine.seconds(lambda: made.step([batch], lr=1e-6))
    flops = counter.get_total_flops()
    return {
        "images_per_second": round(images / seconds, 1),
        "gflop_per_image": round(flops / images / 1e9, 1),
        "share_of_peak": machine.share(flops, seconds),
        "memory_gib": round(torch.cuda.max_memory_allocated() / 2**30, 1) if machine.device == "cuda" else None,
    }


def check_inference(machine: Machine) -> dict:
    """Swin-L at 384 px, 4,585 labels, the `torch` backend in bf16."""
    import torch
    from torch.utils.flop_counter import FlopCounterMode

    from ram_ray.inference.backends.backend import make_label_set
    from ram_ray.inference.backends.registry import make_backend

    side, window, images = (64, 2, 2) if machine.small else (384, 12, 64)
    model = tagger(machine, side=side, window=window, captions=False).eval().requires_grad_(False)
    labels = make_label_set(model, model.label_embed)
    backend = make_backend("torch", model, precision="bf16", threads=None)
    pixels = torch.randn(images, 3, side, side, device=machine.device)
    with FlopCounterMode(display=False) as counter:
        backend.logits(backend.encode(pixels), labels)
    seconds = machine.seconds(lambda: backend.logits(backend.encode(pixels), labels))
    flops = counter.get_total_flops()
    return {
        "images_per_second": round(images / seconds, 1),
        "gflop_per_image": round(flops / images / 1e9, 1),
        "share_of_peak": machine.share(flops, seconds),
    }


def check_clip(machine: Machine) -> dict:
    """A CLIP of transformers' own classes as the teacher: the device's features are the CPU's."""
    import torch

    from ram_ray.models.teacher import Teacher
    from tests.gpu.tiny_clip import save_clip

    with tempfile.TemporaryDirectory() as folder:
        save_clip(Path(folder))
        teachers = [Teacher.from_pretrained(folder, device=device) for device in ("cpu", machine.device)]
    pixels = torch.randint(0, 256, (4, 96, 96, 3), dtype=torch.uint8)
    cpu, device = (teacher.features(pixels.to(teacher.device)).float().cpu() for teacher in teachers)
    texts = [teacher.label_embeddings(["a red dog", "a beach"], ["a {}"]).cpu() for teacher in teachers]
    torch.testing.assert_close(cpu, device, atol=2e-2, rtol=2e-2)
    torch.testing.assert_close(*texts, atol=2e-2, rtol=2e-2)
    return {"largest_difference": float((cpu - device).abs().max()), "device": str(teachers[1].device)}


def check_dino(machine: Machine) -> dict:
    """A Grounding-DINO of transformers' own classes: the device's scores are the CPU's."""
    import torch
    from PIL import Image

    from ram_ray.detectors.zero_shot import GroundingDinoDetector
    from tests.tiny_grounding_dino import save_grounding_dino

    with tempfile.TemporaryDirectory() as folder:
        torch.manual_seed(0)
        save_grounding_dino(Path(folder), words=["dog", "beach"])
        detectors = [GroundingDinoDetector(folder, device=device, threshold=0.0) for device in ("cpu", machine.device)]
    images = [Image.effect_noise((96, 80), 60 + 10 * number).convert("RGB") for number in range(3)]
    tags, ids = [["dog", "beach"]] * 3, [[0, 1]] * 3
    cpu, device = (detector.detect(images, tags=tags, tag_ids=ids) for detector in detectors)
    pairs = [
        (a.score, b.score)
        for on_cpu, on_device in zip(cpu, device, strict=True)
        for a, b in zip(on_cpu, on_device, strict=True)
    ]
    assert len(pairs) == 6
    worst = max(abs(a - b) for a, b in pairs)
    assert worst < 2e-2, pairs
    return {"largest_difference_of_scores": worst, "device": str(detectors[1].device)}


CHECKS: dict[str, tuple[Callable[[Machine], dict], tuple[str, ...]]] = {
    "device": (check_device, ()),
    "process group": (check_group, ()),
    "precision, DDP": (lambda machine: check_precision(machine, "ddp"), ("timm",)),
    "precision, DeepSpeed": (lambda machine: check_precision(machine, "deepspeed"), ("timm", "deepspeed")),
    "training, Swin-L 224": (check_training, ("timm",)),
    "inference, Swin-L 384": (check_inference, ("timm",)),
    "CLIP teacher": (check_clip, ("timm", "transformers")),
    "Grounding-DINO": (check_dino, ("transformers", "scipy")),
}


def join_group(machine: Machine, folder: str) -> None:
    """What Ray Train does before a worker runs, for one process."""
    import torch

    names = {"RANK": 0, "LOCAL_RANK": 0, "WORLD_SIZE": 1, "LOCAL_WORLD_SIZE": 1}
    os.environ.update({name: str(value) for name, value in names.items()})
    os.environ.update({"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "29500"})
    backend = "nccl" if machine.device == "cuda" else "gloo"
    torch.distributed.init_process_group(backend, init_method=f"file://{folder}/store", rank=0, world_size=1)


def main() -> int:
    """Run the checks; the exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", choices=["cuda", "cpu"], default="cuda")
    parser.add_argument("--small", action="store_true", help="tiny models")
    parser.add_argument("--only", nargs="*", help=f"of {list(CHECKS)}")
    options = parser.parse_args()
    import torch

    if options.device == "cuda" and not torch.cuda.is_available():
        print("there is no GPU here: nothing was checked")
        return 3
    machine, failed = Machine(options.device, options.small), False
    with tempfile.TemporaryDirectory() as folder:
        join_group(machine, folder)
        for name, (check, needs) in CHECKS.items():
            if options.only and name not in options.only:
                continue
            line, start = {"check": name}, time.perf_counter()
            try:
                for module in needs:
                    __import__(module)
                line |= {"ok": True, **check(machine)}
            except ImportError as error:
                line |= {"ok": None, "skipped": f"{error}"}
            except Exception as error:  # the next check says its own
                failed = True
                where = traceback.extract_tb(error.__traceback__)[-1]
                line |= {"ok": False, "error": f"{type(error).__name__}: {error} ({where.name}:{where.lineno})"}
            print(json.dumps({**line, "wall_s": round(time.perf_counter() - start, 1)}), flush=True)
        torch.distributed.destroy_process_group()
    return int(failed)


if __name__ == "__main__":
    sys.exit(main())
