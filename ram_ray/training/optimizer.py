"""The optimizers: torch's fused AdamW, as in the paper, or Muon for the matrices of linear layers with AdamW.

Muon (Jordan et al., 2024; for AdamW's scale of steps: arXiv 2502.16982) makes the step of each matrix orthogonal. A
small tagger trained from scratch needs fewer steps with it than with AdamW. A step costs a few more matrix products,
which are split over the workers. Muon needs whole matrices, so it runs with ZeRO stage 0 or with DDP.

`torch.optim.Muon` computes these products in bf16 on every device. On a processor without bf16 they take most of a
step, so here they have the precision of the training.

An image encoder with a learning rate of its own (`backbone_lr`) is AdamW's, since its weights are not new.
"""

from __future__ import annotations

import torch
from torch import Tensor, distributed, nn
from torch.nn.utils import parameters_to_vector, vector_to_parameters

from ram_ray.models.image_encoder import ImageEncoder
from ram_ray.settings.training import TrainConfig

BETA1 = 0.9
MOMENTUM = 0.95  # of Muon, with Nesterov's form
NEWTON_SCHULZ = (3.4445, -4.775, 2.0315)  # coefficients of the iteration by Jordan et al.
NUM_ITERATIONS = 5
ADAMW_RMS = 0.2  # root mean square of the step of AdamW, which Muon's has too (arXiv 2502.16982, equation 4)


def make_optimizer(model: nn.Module, config: TrainConfig, *, is_bf16: bool) -> torch.optim.Optimizer:
    """Make the configured optimizer over the trainable parameters.

    Args:
        model: its trainable parameters are optimized.
        config: settings of the training.
        is_bf16: whether Muon's matrix products are in bf16; else float32.

    Returns:
        The optimizer. A group's "lr_scale", if any, is the factor of its learning rate to `config.lr`.
    """
    if config.optimizer == "muon":
        return MuonAdamW(model, config, is_bf16=is_bf16)
    return torch.optim.AdamW(parameter_groups(model, config), lr=config.lr, betas=(BETA1, config.beta2), fused=True)


def parameter_groups(model: nn.Module, config: TrainConfig) -> list[dict]:
    """Make AdamW's groups: `decay_vectors` says whether biases and norms decay; `backbone_lr` is the image encoder's.

    Args:
        model: its trainable parameters are grouped.
        config: settings of the training.

    Returns:
        A group of matrices and a group of vectors, and two more for an image encoder with its own learning rate.
    """
    trainable, encoder = split_parameters(model, config)
    return [*_groups(trainable, config), *_encoder_groups(encoder, config)]


def split_parameters(model: nn.Module, config: TrainConfig) -> tuple[list[nn.Parameter], list[nn.Parameter]]:
    """Split the trainable parameters by their learning rate.

    Args:
        model: with an `ImageEncoder`, or without.
        config: settings of the training.

    Returns:
        Parameters at `lr`, and those at `backbone_lr`: of the image encoder, none if it has no rate of its own.
    """
    trainable = [parameter for parameter in model.parameters() if parameter.requires_grad]
    if config.backbone_lr is None:
        return trainable, []
    encoders = [module for module in model.modules() if isinstance(module, ImageEncoder)]
    own_rate = {id(parameter) for encoder in encoders for parameter in encoder.parameters()}
    rest = [parameter for parameter in trainable if id(parameter) not in own_rate]
    return rest, [parameter for parameter in trainable if id(parameter) in own_rate]


def set_learning_rate(optimizer: torch.optim.Optimizer, lr: float) -> None:
    """Set the learning rate of every group.

    Args:
        optimizer: changed in place.
        lr: rate of a group without "lr_scale"; the other groups get lr x lr_scale.
    """
    for group in optimizer.param_groups:
        group["lr"] = lr * group.get("lr_scale", 1.0)


class MuonAdamW(torch.optim.Optimizer):
    """Muon and AdamW as a single optimizer with a single state, as strategies and checkpoints expect.

    Muon takes the matrices of linear layers, at `muon_lr`. AdamW takes embeddings, convolutions, classifiers with one
    output, biases and norms, at `lr`. Each worker computes the Muon steps of its share of the matrices and broadcasts
    the results. Every worker holds the whole state, so any worker can write the checkpoint.

    Args:
        model: its trainable parameters are optimized.
        config: settings of the training.
        is_bf16: whether Muon's matrix products are in bf16; else float32.
    """

    def __init__(self, model: nn.Module, config: TrainConfig, *, is_bf16: bool) -> None:
        trainable, encoder = split_parameters(model, config)
        layers = [module for module in model.modules() if isinstance(module, nn.Linear)]
        linear = {id(layer.weight) for layer in layers if min(layer.weight.shape) > 1}
        linear -= {id(module.weight) for module in model.modules() if isinstance(module, nn.Embedding)}
        matrices = [parameter for parameter in trainable if id(parameter) in linear]
        muon = {"params": matrices, "weight_decay": config.weight_decay, "lr": config.muon_lr}
        muon["lr_scale"] = config.muon_lr / config.lr
        self._shares = _shares(matrices, distributed.get_world_size() if distributed.is_initialized() else 1)
        self._dtype = torch.bfloat16 if is_bf16 else torch.float32
        rest = [parameter for parameter in trainable if id(parameter) not in linear]
        groups = [*_groups(rest, config), *_encoder_groups(encoder, config)]
        self._adamw = torch.optim.AdamW(groups, lr=config.lr, betas=(BETA1, config.beta2), fused=True)
        super().__init__([muon, *self._adamw.param_groups], {})

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # type: ignore[override]
        """Step both optimizers. Loading a state replaces groups and state, so each step passes them on.

        Args:
            closure: must be None.
        """
        assert closure is None
        self._step_matrices()
        self._adamw.param_groups, self._adamw.state = self.param_groups[1:], self.state
        self._adamw.step()

    def _step_matrices(self) -> None:
        """Update all momenta, step this worker's matrices, and take those of the others from their owners."""
        group = self.param_groups[0]
        rank = distributed.get_rank() if len(self._shares) > 1 else 0
        for owner, share in enumerate(self._shares):
            for matrix in share:
                if matrix.grad is None:
                    continue
                state = self.state[matrix]
                if not state:
                    state["momentum_buffer"] = torch.zeros_like(matrix.grad)
                momentum = state["momentum_buffer"].lerp_(matrix.grad, 1 - MOMENTUM)
                if owner == rank:
                    step = orthogonalise(matrix.grad.lerp(momentum, MOMENTUM), self._dtype)
                    matrix.mul_(1 - group["lr"] * group["weight_decay"])
                    matrix.add_(step, alpha=-group["lr"] * ADAMW_RMS * max(matrix.shape) ** 0.5)
        if len(self._shares) > 1:
            for owner, share in enumerate(self._shares):
                values = parameters_to_vector(share)
                distributed.broadcast(values, src=owner)
                vector_to_parameters(values, share)


def orthogonalise(matrix: Tensor, dtype: torch.dtype) -> Tensor:
    """Bring all singular values of a matrix near 1, by Newton-Schulz iterations.

    Args:
        matrix: (rows, columns).
        dtype: of the matrix products.

    Returns:
        A matrix of that dtype with the same singular vectors, and singular values of about 0.7 to 1.2.
    """
    a, b, c = NEWTON_SCHULZ
    is_tall = matrix.shape[0] > matrix.shape[1]
    wide = (matrix.T if is_tall else matrix).to(dtype)
    wide = wide / wide.norm().clamp(min=1e-7)
    for _ in range(NUM_ITERATIONS):
        square = wide @ wide.T
        wide = torch.addmm(wide, torch.addmm(square, square, square, beta=b, alpha=c), wide, beta=a)
    return wide.T if is_tall else wide


def _groups(parameters: list[nn.Parameter], config: TrainConfig) -> list[dict]:
    matrices = [parameter for parameter in parameters if parameter.ndim > 1]
    vectors = [parameter for parameter in parameters if parameter.ndim <= 1]
    decay = config.weight_decay
    return [
        {"params": matrices, "weight_decay": decay},
        {"params": vectors, "weight_decay": decay if config.decay_vectors else 0.0},
    ]


def _encoder_groups(parameters: list[nn.Parameter], config: TrainConfig) -> list[dict]:
    if not parameters:
        return []
    return [{**group, "lr_scale": (config.backbone_lr or 0.0) / config.lr} for group in _groups(parameters, config)]


def _shares(matrices: list[nn.Parameter], workers: int) -> list[list[nn.Parameter]]:
    """Assign the matrices to workers at about equal cost of orthogonalisation; the same result on every worker."""
    shares: list[list[nn.Parameter]] = [[] for _ in range(min(workers, len(matrices)) or 1)]
    costs = [0] * len(shares)
    for matrix in sorted(matrices, key=lambda matrix: -matrix.numel() * min(matrix.shape)):
        cheapest = costs.index(min(costs))
        shares[cheapest].append(matrix)
        costs[cheapest] += matrix.numel() * min(matrix.shape)
    return shares
