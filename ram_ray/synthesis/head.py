"""The projection head of StableRep's training, with batch norms over the images of all workers.

Letters: B images of this worker, C channels.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from ram_ray.training.workers import differentiable_total


class CountedBatchNorm(nn.BatchNorm1d):
    """BatchNorm whose mean and variance in training are those of the images that count, of all workers.

    torch's SyncBatchNorm runs on GPUs alone and takes no weights. A row of weight 0 is normalised as the others are,
    and changes nothing for them.
    """

    def forward(self, features: Tensor, weight: Tensor | None = None) -> Tensor:
        """Normalise by mean and variance of the rows that count, over all workers.

        Args:
            features: (B, C) float.
            weight: (B,), 0 for a row that does not count; None: all count.

        Returns:
            (B, C) float32 in training.
        """
        if not self.training:
            return super().forward(features)
        with torch.autocast(features.device.type, enabled=False):
            x = features.float()
            counts = torch.ones(len(x), 1, device=x.device) if weight is None else weight[:, None].float()
            sums = differentiable_total(torch.cat([(x * counts).sum(0), counts.sum(0)]))
            number = sums[-1].detach().clamp(min=1)
            mean = sums[:-1] / number
            variance = differentiable_total(((x - mean).square() * counts).sum(0)) / number
            self._remember(mean.detach(), variance.detach() * number / (number - 1).clamp(min=1))
            x = (x - mean) * (variance + self.eps).rsqrt()
            return x * self.weight + self.bias if self.affine else x

    @torch.no_grad()
    def _remember(self, mean: Tensor, variance: Tensor) -> None:
        assert self.running_mean is not None and self.running_var is not None and self.momentum is not None
        assert self.num_batches_tracked is not None
        self.running_mean.lerp_(mean, self.momentum)
        self.running_var.lerp_(variance, self.momentum)
        self.num_batches_tracked += 1


class ProjectionHead(nn.Module):
    """The MLP between a backbone and the contrastive loss, dropped afterwards: (B, in_dim) -> (B, out).

    BatchNorm follows every linear layer; the last one has no scale and shift, since the loss takes cosines.
    Training needs at least two rows that count, over all workers.
    """

    def __init__(self, in_dim: int, *, hidden: int = 4096, out: int = 256, layers: int = 3) -> None:
        super().__init__()
        if layers < 1:
            raise ValueError(f"layers is {layers}; use at least 1")
        widths = [in_dim, *[hidden] * (layers - 1), out]
        parts: list[nn.Module] = []
        for place, (before, after) in enumerate(zip(widths, widths[1:], strict=False)):
            last = place == layers - 1
            parts += [nn.Linear(before, after, bias=False), CountedBatchNorm(after, affine=not last)]
            if not last:
                parts.append(nn.ReLU(inplace=True))
        self.layers = nn.Sequential(*parts)

    def forward(self, features: Tensor, weight: Tensor | None = None) -> Tensor:
        """Project features.

        Args:
            features: (B, in_dim) float.
            weight: (B,), 0 for a row that does not count; None: all count.

        Returns:
            (B, out).
        """
        for layer in self.layers:
            features = layer(features, weight) if isinstance(layer, CountedBatchNorm) else layer(features)
        return features
