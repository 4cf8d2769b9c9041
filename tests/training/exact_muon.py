"""Muon's Newton-Schulz iteration in float32, for tests that compare one way of computing a step with another.

torch computes it in bfloat16, and its five steps magnify small singular values a hundredfold: gradients that differ by
a unit in the last place of float32, as they do between two orders of summing, two ways of clipping or two processors,
then end in weights that differ by up to 9e-3 after four steps in which they move by 6e-2 (test_engine's model). In
float32 the same difference ends in 1e-6. So no tolerance on torch's own would tell a right step from a wrong one.
"""

from __future__ import annotations

from torch import Tensor

NAME = "torch.optim._muon._zeropower_via_newtonschulz"


def orthogonal(gradient: Tensor, coefficients: tuple[float, float, float], steps: int, eps: float) -> Tensor:
    """What torch's function of the name above computes, in the gradient's own precision."""
    a, b, c = coefficients
    tall = gradient.size(0) > gradient.size(1)
    x = gradient.T if tall else gradient
    x = x / x.norm().clamp(min=eps)
    for _ in range(steps):
        square = x @ x.T
        x = a * x + (b * square + c * square @ square) @ x
    return x.T if tall else x
