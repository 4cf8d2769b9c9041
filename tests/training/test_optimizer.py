"""Contract: every parameter that learns is in one group; Muon's step of a matrix is orthogonal, the rest is AdamW's.

Workers share the orthogonalisation, and each ends with the model and the state that one alone would have.
"""

import copy
from pathlib import Path

import torch
from torch import multiprocessing, nn

from ram_ray.settings.training import TrainConfig
from ram_ray.training.optimizer import MuonAdamW, make_optimizer, set_learning_rate

CONFIG = TrainConfig(optimizer="muon", lr=1e-3, muon_lr=1e-2, weight_decay=0.0)


class Small(nn.Module):
    """A layer of each sort; the last embedding is also the output's weight."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.convolution = nn.Conv2d(3, 4, 3)
        self.hidden = nn.Linear(8, 16)
        self.word = nn.Embedding(10, 8)
        self.output = nn.Linear(8, 10, bias=False)
        self.output.weight = self.word.weight
        self.fc = nn.Linear(16, 1)
        self.frozen = nn.Linear(8, 8).requires_grad_(False)


def _stepped(model: nn.Module, config: TrainConfig) -> dict[str, torch.Tensor]:
    """How far each parameter moved in one step."""
    before = copy.deepcopy(dict(model.named_parameters()))
    optimizer = make_optimizer(model, config)
    set_learning_rate(optimizer, config.lr)
    generator = torch.Generator().manual_seed(1)
    for parameter in model.parameters():
        if parameter.requires_grad:
            parameter.grad = torch.randn(parameter.shape, generator=generator)
    optimizer.step()
    return {name: (parameter - before[name]).detach() for name, parameter in model.named_parameters()}


def test_matrices_of_linear_maps_are_muons_and_each_parameter_is_in_one_group() -> None:
    model = Small()
    optimizer = make_optimizer(model, CONFIG)
    assert isinstance(optimizer, MuonAdamW)
    first, *rest = [group["params"] for group in optimizer.param_groups]
    assert [id(one) for one in first] == [id(model.hidden.weight)]
    grouped = [id(one) for group in (first, *rest) for one in group]
    assert sorted(grouped) == sorted(id(one) for one in model.parameters() if one.requires_grad)


def test_a_matrix_moves_alike_in_all_directions_and_the_rest_as_under_adamw() -> None:
    moved, plain = _stepped(Small(), CONFIG), _stepped(Small(), CONFIG.model_copy(update={"optimizer": "adamw"}))
    strengths = torch.linalg.svdvals(moved["hidden.weight"]) / (CONFIG.muon_lr * 0.2 * 16**0.5)
    assert ((strengths > 0.6) & (strengths < 1.3)).all(), strengths
    assert torch.linalg.svdvals(plain["hidden.weight"])[-1] < 0.5 * torch.linalg.svdvals(plain["hidden.weight"])[0]
    for name, step in moved.items():
        if name != "hidden.weight":
            torch.testing.assert_close(step, plain[name], msg=name)
    assert not moved["frozen.weight"].any()


def test_both_rates_follow_the_schedule() -> None:
    optimizer = make_optimizer(Small(), CONFIG)
    set_learning_rate(optimizer, 5e-4)
    assert [round(group["lr"], 9) for group in optimizer.param_groups] == [5e-3, 5e-4, 5e-4]


def _steps(optimizer: torch.optim.Optimizer, model: nn.Module, seeds: range) -> None:
    """A step a seed, with gradients of that seed."""
    for seed in seeds:
        generator = torch.Generator().manual_seed(seed)
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.grad = torch.randn(parameter.shape, generator=generator)
        optimizer.step()


def test_a_state_that_was_loaded_goes_on_as_if_nothing_had_happened() -> None:
    whole, parted = Small(), Small()
    _steps(make_optimizer(whole, CONFIG), whole, range(4))
    first = make_optimizer(parted, CONFIG)
    _steps(first, parted, range(2))
    second = make_optimizer(parted, CONFIG)
    second.load_state_dict(first.state_dict())
    _steps(second, parted, range(2, 4))
    for name, value in parted.state_dict().items():
        assert torch.equal(value, whole.state_dict()[name]), name


class Deep(nn.Module):
    """Three matrices, so that two workers have unequal shares."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.layers = nn.Sequential(nn.Linear(8, 16), nn.Linear(16, 12), nn.Linear(12, 4))


def _trained() -> dict[str, torch.Tensor]:
    """Parameters, and momenta by the place of their parameter, after three steps."""
    model = Deep()
    optimizer = make_optimizer(model, CONFIG)
    _steps(optimizer, model, range(3))
    momenta = {
        str(place): state["momentum_buffer"] for place, state in optimizer.state_dict()["state"].items() if place < 3
    }
    return {**model.state_dict(), **momenta}


def _worker(rank: int, folder: str) -> None:
    torch.distributed.init_process_group("gloo", init_method=f"file://{folder}/store", rank=rank, world_size=2)
    torch.save(_trained(), f"{folder}/{rank}.pt")
    torch.distributed.destroy_process_group()


def test_two_workers_that_share_the_matrices_end_with_what_one_would_have(tmp_path: Path) -> None:
    other = multiprocessing.get_context("spawn").Process(target=_worker, args=(1, str(tmp_path)), daemon=True)
    other.start()
    _worker(0, str(tmp_path))  # this process is the first worker: one start less
    other.join(timeout=60)
    assert other.exitcode == 0
    expected = _trained()
    assert len(expected) == 9
    for rank in range(2):
        found = torch.load(tmp_path / f"{rank}.pt", weights_only=True)
        assert found.keys() == expected.keys()
        for name, value in expected.items():
            assert torch.equal(found[name], value), (rank, name)
