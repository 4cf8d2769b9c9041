"""The optimizers: torch's fused AdamW, as in the paper, or Muon for the matrices of linear maps and AdamW for the rest.

Muon (Jordan et al., 2024; for AdamW's scale of steps: arXiv 2502.16982) makes each matrix's step orthogonal. A small
tagger that starts from nothing gets as far with it as AdamW does in a multiple of the steps; each step costs a few
small matrix products more, which the workers share. It needs whole matrices, so ZeRO may not cut them up: stage 0, or
plain DDP.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import distributed, nn
from torch.nn.utils import parameters_to_vector, vector_to_parameters

from ram_ray.settings.training import TrainConfig

BETAS = (0.9, 0.999)


def make_optimizer(model: nn.Module, config: TrainConfig) -> torch.optim.Optimizer:
    """The configured optimizer over the parameters that learn; each group's "lr_scale" is its share of `config.lr`.

    Args:
        model: whose parameters learn.
        config: of the training.
    """
    if config.optimizer == "muon":
        return MuonAdamW(model, config)
    groups = parameter_groups(model, weight_decay=config.weight_decay)
    return torch.optim.AdamW(groups, lr=config.lr, betas=BETAS, fused=True)


def parameter_groups(model: nn.Module, *, weight_decay: float) -> list[dict]:
    """AdamW groups: no decay for biases, norms and other vectors."""
    learnt = [one for one in model.parameters() if one.requires_grad]
    return _groups(learnt, weight_decay=weight_decay)


def set_learning_rate(optimizer: Any, lr: float) -> None:
    """Give every group its share of `lr`."""
    for group in optimizer.param_groups:
        group["lr"] = lr * group.get("lr_scale", 1.0)


class MuonAdamW(torch.optim.Optimizer):
    """Muon and AdamW as one optimizer, with one list of groups and one state, as engines and checkpoints expect.

    Matrices of linear maps go to Muon, at `muon_lr`; embeddings, convolutions, classifiers of one output, biases and
    norms go to AdamW at `lr`. Each worker makes the steps of its share of the matrices and hands the others what came
    out; the state is whole on all of them, so that a checkpoint is any one's.
    """

    def __init__(self, model: nn.Module, config: TrainConfig) -> None:
        learnt = [one for one in model.parameters() if one.requires_grad]
        linear = {id(one.weight) for one in model.modules() if isinstance(one, nn.Linear) and min(one.weight.shape) > 1}
        linear -= {id(one.weight) for one in model.modules() if isinstance(one, nn.Embedding)}
        matrices = [one for one in learnt if id(one) in linear]
        self._muon = torch.optim.Muon(
            matrices, lr=config.muon_lr, weight_decay=config.weight_decay, adjust_lr_fn="match_rms_adamw"
        )
        self._shares = _shares(matrices, distributed.get_world_size() if distributed.is_initialized() else 1)
        rest = _groups([one for one in learnt if id(one) not in linear], weight_decay=config.weight_decay)
        self._adamw = torch.optim.AdamW(rest, lr=config.lr, betas=BETAS, fused=True)
        for group in self._muon.param_groups:
            group["lr_scale"] = config.muon_lr / config.lr
        super().__init__([*self._muon.param_groups, *self._adamw.param_groups], {})

    @torch.no_grad()
    def step(self, closure: Any = None) -> None:  # type: ignore[override]
        """One step of both. Loading a state replaces groups and state, so they are handed on each time."""
        assert closure is None
        count = len(self._muon.param_groups)
        self._muon.param_groups, self._adamw.param_groups = self.param_groups[:count], self.param_groups[count:]
        self._muon.state = self._adamw.state = self.state
        self._step_of_matrices()
        self._adamw.step()

    def _step_of_matrices(self) -> None:
        """Muon's step of this worker's share, and of the others' the momentum alone."""
        rank = distributed.get_rank() if len(self._shares) > 1 else 0
        others = [one for share in self._shares[:rank] + self._shares[rank + 1 :] for one in share]
        gradients = [one.grad for one in others]
        for one in others:
            one.grad = None  # so Muon passes it by
        self._muon.step()
        momentum = self._muon.param_groups[0]["momentum"]
        for one, gradient in zip(others, gradients, strict=True):
            one.grad = gradient
            if gradient is not None:
                state = self.state[one]
                state.setdefault("momentum_buffer", torch.zeros_like(gradient)).lerp_(gradient, 1 - momentum)
        if len(self._shares) > 1:
            for owner, share in enumerate(self._shares):
                moved = parameters_to_vector(share)
                distributed.broadcast(moved, src=owner)
                vector_to_parameters(moved, share)


def _groups(parameters: list[nn.Parameter], *, weight_decay: float) -> list[dict]:
    decayed = [one for one in parameters if one.ndim > 1]
    plain = [one for one in parameters if one.ndim <= 1]
    return [{"params": decayed, "weight_decay": weight_decay}, {"params": plain, "weight_decay": 0.0}]


def _shares(matrices: list[nn.Parameter], workers: int) -> list[list[nn.Parameter]]:
    """A list of matrices for each worker, about equally costly to make orthogonal; the same on every worker."""
    shares: list[list[nn.Parameter]] = [[] for _ in range(min(workers, len(matrices)) or 1)]
    costs = [0] * len(shares)
    for one in sorted(matrices, key=lambda one: -one.numel() * min(one.shape)):
        least = costs.index(min(costs))
        shares[least].append(one)
        costs[least] += one.numel() * min(one.shape)
    return shares
