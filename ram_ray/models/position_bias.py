"""Resize the relative position biases of a Swin to another window size, as the reference does.

The coordinates of the source positions grow geometrically (after BEiT): positions in the middle, where the bias changes
fast, stay close together, and the outermost source position falls on the outermost target position. A bicubic spline
interpolates between them.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor


def resize_position_bias(table: Tensor, window_size: int) -> Tensor:
    """Interpolate a table of relative position biases to another window.

    Args:
        table: ((2 v - 1)^2, heads) float, of window v.
        window_size: w, the new window.

    Returns:
        ((2 w - 1)^2, heads) float32.

    Raises:
        ValueError: if the table belongs to no square window.
    """
    source, target = round(len(table) ** 0.5), 2 * window_size - 1
    if source**2 != len(table) or source % 2 == 0:
        raise ValueError(f"a position bias table of {len(table)} rows belongs to no square window")
    if source == target:
        return table.float()
    if source == 1:  # a single position: a constant
        return table.float().expand(target**2, -1).clone()
    from scipy.interpolate import RectBivariateSpline

    coordinates = _source_coordinates(source // 2, reach=target // 2)
    targets = np.arange(-(target // 2), target // 2 + 1, dtype=float)
    degree = min(3, source - 1)  # windows under 3 have too few positions for cubes
    rows = table.float().numpy().reshape(source, source, -1)
    heads = [
        RectBivariateSpline(coordinates, coordinates, rows[..., head], kx=degree, ky=degree, s=0)(targets, targets)
        for head in range(rows.shape[-1])
    ]
    return torch.from_numpy(np.stack(heads, axis=-1).reshape(target**2, -1).astype(np.float32))


def _source_coordinates(steps: int, *, reach: int) -> np.ndarray:
    """Compute source coordinates: 0, and on each side `steps` at 1, 1 + q, 1 + q + q^2, ..., up to about `reach`.

    The ratio q is found by bisection with the reference's bounds and tolerance, for equal rounding.
    """
    low, high = 1.01, 1.5
    ratio = high
    while high - low > 1e-6:
        ratio = (low + high) / 2
        if (1 - ratio**steps) / (1 - ratio) > reach:
            high = ratio
        else:
            low = ratio
    right = np.cumsum(ratio ** np.arange(steps))
    return np.concatenate([-right[::-1], [0.0], right])
