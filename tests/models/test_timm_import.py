"""Contract: a process that only runs a model does not import torch's compiler; who asks for it gets the real one."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
CODE = """
import json, sys
import torch
from ram_ray.models.image_encoder import ImageEncoder
from ram_ray.settings.models import SwinConfig

swin = SwinConfig(patch_size=4, window_size=4, embed_dim=8, depths=(2, 2), num_heads=(1, 2), drop_path=0.0)
encoder = ImageEncoder(swin, image_size=32).eval()
with torch.inference_mode():
    tokens = encoder(torch.zeros(1, 3, 32, 32))
from torchvision.ops import roi_align
pooled = roi_align(torch.ones(1, 1, 8, 8), torch.tensor([[0.0, 0, 0, 4, 4]]), 2)
before = sorted(name for name in sys.modules if name.startswith("torch._dynamo"))
compiled = torch.compile(lambda x: x + 1, backend="eager")(torch.ones(2))
import torch._dynamo.utils
print(json.dumps({
    "tokens": list(tokens.shape), "pooled": pooled.sum().item(), "before": before, "compiled": compiled.tolist(),
    "after": [sys.modules[name].__file__ is not None for name in ("torch._dynamo", "torch._dynamo.utils")],
    "reset": callable(torch._dynamo.reset),
}))
"""


def test_a_model_runs_without_the_compiler_and_the_compiler_is_there_afterwards() -> None:
    shown = subprocess.run([sys.executable, "-c", CODE], capture_output=True, text=True, check=True, cwd=ROOT).stdout
    result = json.loads(shown.splitlines()[-1])
    assert result == {
        "tokens": [1, 17, 16],
        "pooled": 4.0,
        "before": [],
        "compiled": [2.0, 2.0],
        "after": [True, True],
        "reset": True,
    }
