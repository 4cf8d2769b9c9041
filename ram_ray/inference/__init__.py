"""Inference with a model bundle. Users write `from ram_ray.inference import Predictor`.

`Predictor` needs torch, and the driver of batch tagging does not, so the class is imported only when its name is used.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ram_ray.inference.predictor import Predictor as Predictor


def __getattr__(name: str) -> Any:
    if name == "Predictor":
        from ram_ray.inference.predictor import Predictor

        return Predictor
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
