"""From a model bundle to tags. `from ram_ray.inference import Predictor` is what users write.

That loads torch, which the driver of batch tagging does not need: the name is looked up when it is asked for, and not
when another module of this package is imported.
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
