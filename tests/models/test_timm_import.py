"""Contract: a process that loads a bundle and runs it does not import torch's compiler, nor sympy; who asks for the
compiler gets the real one."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
CODE = """
import json, sys
import torch
from PIL import Image
from ram_ray.inference.predictor import Predictor

predictor = Predictor.from_pretrained(sys.argv[1], device="cpu", threads=1)
tokens = predictor.encode([Image.new("RGB", (40, 40))])
tags = predictor.tag(tokens, top_k=2) + predictor.tag(tokens, tags=["a blue dog"], top_k=1)
from torchvision.ops import roi_align
pooled = roi_align(torch.ones(1, 1, 8, 8), torch.tensor([[0.0, 0, 0, 4, 4]]), 2)
before = sorted(name for name in sys.modules if name.startswith(("torch._dynamo", "sympy")))
compiled = torch.compile(lambda x: x + 1, backend="eager")(torch.ones(2))
import torch._dynamo.utils
print(json.dumps({
    "tags": [len(found) for found in tags], "pooled": pooled.sum().item(), "before": before,
    "compiled": compiled.tolist(),
    "after": [sys.modules[name].__file__ is not None for name in ("torch._dynamo", "torch._dynamo.utils")],
    "reset": callable(torch._dynamo.reset),
}))
"""


def test_a_model_runs_without_the_compiler_and_the_compiler_is_there_afterwards(tiny_bundle: str) -> None:
    shown = subprocess.run(
        [sys.executable, "-c", CODE, tiny_bundle], capture_output=True, text=True, check=True, cwd=ROOT
    ).stdout
    result = json.loads(shown.splitlines()[-1])
    assert result == {
        "tags": [2, 1],
        "pooled": 4.0,
        "before": [],
        "compiled": [2.0, 2.0],
        "after": [True, True],
        "reset": True,
    }
