"""Muon's Newton-Schulz iteration in float32, for tests that compare two ways to compute a step.

torch computes it in bfloat16, and its five iterations magnify small singular values a hundredfold. Gradients that
differ in the last bit of float32 (by another order of sums, another way of clipping or another processor) then lead to
weights that differ by up to 9e-3 after four steps of 6e-2 in total. In float32 the same difference leads to 1e-6. So
with torch's iteration, no tolerance separates a right step from a wrong step.
"""

from __future__ import annotations

from torch import Tensor

NAME = "torch.optim._muon._zeropower_via_newtonschulz"


def orthogonal(gradient: Tensor, coefficients: tuple[float, float, float], steps: int, eps: float) -> Tensor:
    """Compute the result of torch's function `NAME` in the precision of the gradient."""
    a, b, c = coefficients
    tall = gradient.size(0) > gradient.size(1)
    x = gradient.T if tall else gradient
    x = x / x.norm().clamp(min=eps)
    for _ in range(steps):
        square = x @ x.T
        x = a * x + (b * square + c * square @ square) @ x
    return x.T if tall else x
