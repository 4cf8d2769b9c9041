"""The optimizers: torch's fused AdamW, as in the paper, or Muon for the matrices of linear layers with AdamW.

Muon (Jordan et al., 2024; for AdamW's scale of steps: arXiv 2502.16982) makes the step of each matrix orthogonal. A
small tagger trained from scratch needs fewer steps with it than with AdamW. A step costs a few more matrix products,
which are split over the workers. Muon needs whole matrices, so it runs with ZeRO stage 0 or with DDP.

An image encoder with a learning rate of its own (`backbone_lr`) is AdamW's, since its weights are not new.
"""

from __future__ import annotations

import torch
from torch import distributed, nn
from torch.nn.utils import parameters_to_vector, vector_to_parameters

from ram_ray.models.image_encoder import ImageEncoder
from ram_ray.settings.training import TrainConfig

BETA1 = 0.9


def make_optimizer(model: nn.Module, config: TrainConfig) -> torch.optim.Optimizer:
    """Make the configured optimizer over the trainable parameters.

    Args:
        model: its trainable parameters are optimized.
        config: settings of the training.

    Returns:
        The optimizer. A group's "lr_scale", if any, is the factor of its learning rate to `config.lr`.
    """
    if config.optimizer == "muon":
        return MuonAdamW(model, config)
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
    """

    def __init__(self, model: nn.Module, config: TrainConfig) -> None:
        trainable, encoder = split_parameters(model, config)
        layers = [module for module in model.modules() if isinstance(module, nn.Linear)]
        linear = {id(layer.weight) for layer in layers if min(layer.weight.shape) > 1}
        linear -= {id(module.weight) for module in model.modules() if isinstance(module, nn.Embedding)}
        matrices = [parameter for parameter in trainable if id(parameter) in linear]
        self._muon = torch.optim.Muon(
            matrices, lr=config.muon_lr, weight_decay=config.weight_decay, adjust_lr_fn="match_rms_adamw"
        )
        self._shares = _shares(matrices, distributed.get_world_size() if distributed.is_initialized() else 1)
        rest = [parameter for parameter in trainable if id(parameter) not in linear]
        groups = [*_groups(rest, config), *_encoder_groups(encoder, config)]
        self._adamw = torch.optim.AdamW(groups, lr=config.lr, betas=(BETA1, config.beta2), fused=True)
        for group in self._muon.param_groups:
            group["lr_scale"] = config.muon_lr / config.lr
        super().__init__([*self._muon.param_groups, *self._adamw.param_groups], {})

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # type: ignore[override]
        """Step both optimizers. Loading a state replaces groups and state, so each step passes them on.

        Args:
            closure: must be None.
        """
        assert closure is None
        num_groups = len(self._muon.param_groups)
        self._muon.param_groups, self._adamw.param_groups = (
            self.param_groups[:num_groups],
            self.param_groups[num_groups:],
        )
        self._muon.state = self._adamw.state = self.state
        self._step_matrices()
        self._adamw.step()

    def _step_matrices(self) -> None:
        """Step this worker's matrices with Muon; of the other workers' matrices, update only the momentum."""
        rank = distributed.get_rank() if len(self._shares) > 1 else 0
        others = [matrix for share in self._shares[:rank] + self._shares[rank + 1 :] for matrix in share]
        gradients = [matrix.grad for matrix in others]
        for matrix in others:
            matrix.grad = None  # Muon skips a matrix without a gradient
        self._muon.step()
        momentum = self._muon.param_groups[0]["momentum"]
        for matrix, gradient in zip(others, gradients, strict=True):
            matrix.grad = gradient
            if gradient is not None:
                state = self.state[matrix]
                state.setdefault("momentum_buffer", torch.zeros_like(gradient)).lerp_(gradient, 1 - momentum)
        if len(self._shares) > 1:
            for owner, share in enumerate(self._shares):
                values = parameters_to_vector(share)
                distributed.broadcast(values, src=owner)
                vector_to_parameters(values, share)


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
