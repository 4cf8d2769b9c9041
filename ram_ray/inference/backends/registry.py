"""Make a backend by its name: PyTorch (the default), or OpenVINO (the extra `openvino`)."""

from __future__ import annotations

from ram_ray.inference.backends.backend import Backend
from ram_ray.inference.backends.torch_backend import TorchBackend
from ram_ray.models.ram import RAM

BACKENDS = ("torch", "openvino")
PRECISIONS = ("fp32", "bf16")


def make_backend(name: str, model: RAM, *, precision: str, threads: int | None) -> Backend:
    """Make a backend for a model.

    Args:
        name: "torch" or "openvino".
        model: in eval mode; the backend may change its weights in place.
        precision: "fp32" or "bf16".
        threads: of OpenVINO; None: its default.

    Returns:
        The backend, on the model's device.

    Raises:
        ValueError: if the name or precision is unknown, or the backend is not installed.
    """
    if precision not in PRECISIONS:
        raise ValueError(f"precision {precision!r}: use 'fp32' or 'bf16'")
    if name == "torch":
        return TorchBackend(model, precision=precision)
    if name == "openvino":
        if model.label_embed.device.type != "cpu":
            raise ValueError("the openvino backend runs on the CPU: use device='cpu', or backend='torch' on a GPU")
        from ram_ray.inference.backends.openvino_backend import OpenVinoBackend

        return OpenVinoBackend(model, precision=precision, threads=threads)
    raise ValueError(f"backend {name!r}: use one of {', '.join(BACKENDS)}")
