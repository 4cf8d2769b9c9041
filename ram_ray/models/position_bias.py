"""Relative position biases of a Swin brought to another window size, as the reference brings them.

Distances between source places grow geometrically, so that the middle, where biases change fast, keeps its detail
and the outermost source place lands on the outermost target place (after BEiT). Between them: a bicubic spline.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor


def resize_position_bias(table: Tensor, window_size: int) -> Tensor:
    """Interpolate a table of relative position biases to another window.

    Args:
        table: ((2 v - 1)^2, heads) float, of window v.
        window_size: w.

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
    if source == 1:  # one place: the same everywhere
        return table.float().expand(target**2, -1).clone()
    from scipy.interpolate import RectBivariateSpline

    places = _places(source // 2, reach=target // 2)
    wanted = np.arange(-(target // 2), target // 2 + 1, dtype=float)
    degree = min(3, source - 1)  # windows under 3, which the reference cannot resize, have too few places for cubes
    rows = table.float().numpy().reshape(source, source, -1)
    heads = [
        RectBivariateSpline(places, places, rows[..., head], kx=degree, ky=degree, s=0)(wanted, wanted)
        for head in range(rows.shape[-1])
    ]
    return torch.from_numpy(np.stack(heads, axis=-1).reshape(target**2, -1).astype(np.float32))


def _places(steps: int, *, reach: int) -> np.ndarray:
    """Source places: 0 and `steps` on either side at 1, 1 + q, 1 + q + q^2, ..., the last about at `reach`.

    The ratio q is halved in on as the reference does, so that its rounding is ours too.
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
