"""The projection head of StableRep's training (arXiv 2306.00984), with batch norms over the images of all workers.

Letters: B images of this worker, C channels.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from ram_ray.training.worker_sums import differentiable_sum_over_workers


class WeightedBatchNorm(nn.BatchNorm1d):
    """BatchNorm with mean and variance over the rows of weight 1 of all workers, in training.

    torch's SyncBatchNorm runs only on GPUs and takes no weights. A row of weight 0 is normalised as the other rows, but
    does not change their mean and variance.
    """

    def forward(self, features: Tensor, weight: Tensor | None = None) -> Tensor:
        """Normalise by mean and variance of the rows of weight 1, over all workers.

        Args:
            features: (B, C) float.
            weight: (B,), 0 for a row to be ignored, else 1; None: all 1.

        Returns:
            (B, C); float32 in training.
        """
        if not self.training:
            return super().forward(features)
        with torch.autocast(features.device.type, enabled=False):
            x = features.float()
            weights = torch.ones(len(x), 1, device=x.device) if weight is None else weight[:, None].float()
            sums = differentiable_sum_over_workers(torch.cat([(x * weights).sum(0), weights.sum(0)]))
            count = sums[-1].detach().clamp(min=1)
            mean = sums[:-1] / count
            variance = differentiable_sum_over_workers(((x - mean).square() * weights).sum(0)) / count
            self._update_running_statistics(mean.detach(), variance.detach() * count / (count - 1).clamp(min=1))
            x = (x - mean) * (variance + self.eps).rsqrt()
            return x * self.weight + self.bias if self.affine else x

    @torch.no_grad()
    def _update_running_statistics(self, mean: Tensor, variance: Tensor) -> None:
        assert self.running_mean is not None and self.running_var is not None and self.momentum is not None
        assert self.num_batches_tracked is not None
        self.running_mean.lerp_(mean, self.momentum)
        self.running_var.lerp_(variance, self.momentum)
        self.num_batches_tracked += 1


class ProjectionHead(nn.Module):
    """The MLP between the backbone and the contrastive loss; it is not a part of the trained model.

    BatchNorm follows every linear layer but the last, as in StableRep's official code. With `last_norm` it also follows
    the last one, without scale and shift, because the loss takes cosines. Training needs at least two rows of weight 1
    over all workers. The official code normalises each view of the captions alone; here all views are one batch.

    Args:
        in_dim: width of the features.
        hidden: width of hidden layers.
        out: width of the output.
        layers: number of linear layers.
        last_norm: whether a BatchNorm follows the last linear layer.

    Raises:
        ValueError: if there is no layer.
    """

    def __init__(
        self, in_dim: int, *, hidden: int = 4096, out: int = 256, layers: int = 3, last_norm: bool = False
    ) -> None:
        super().__init__()
        if layers < 1:
            raise ValueError(f"layers is {layers}; use at least 1")
        widths = [in_dim, *[hidden] * (layers - 1), out]
        modules: list[nn.Module] = []
        for index, (width_in, width_out) in enumerate(zip(widths, widths[1:], strict=False)):
            last = index == layers - 1
            has_norm = last_norm or not last
            modules.append(nn.Linear(width_in, width_out, bias=not has_norm))
            if has_norm:
                modules.append(WeightedBatchNorm(width_out, affine=not last))
            if not last:
                modules.append(nn.ReLU(inplace=True))
        self.layers = nn.Sequential(*modules)

    def forward(self, features: Tensor, weight: Tensor | None = None) -> Tensor:
        """Project features.

        Args:
            features: (B, in_dim) float.
            weight: (B,), 0 for a row to be ignored, else 1; None: all 1.

        Returns:
            (B, out).
        """
        for layer in self.layers:
            features = layer(features, weight) if isinstance(layer, WeightedBatchNorm) else layer(features)
        return features
