"""Contract: both strategies make the same steps, and a resumed run equals an uninterrupted run bit for bit.

The tests run in a single process, in a gloo group of size 1, and without a compiler.
"""

from __future__ import annotations

import collections
import copy
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import nn

from ram_ray.settings.models import TimmConfig
from ram_ray.settings.training import TrainConfig, TrainingConfig
from ram_ray.training.build import freeze_encoder
from ram_ray.training.step import TrainStep, step_seed
from ram_ray.training.strategy import DDPStrategy, TrainingStrategy, make_strategy, read_weights
from tests.tiny import SWIN, tagger

CPU = torch.device("cpu")
CONFIG = TrainConfig(batch_size=4, weight_decay=0.05, clip_grad=1.0)
PLAIN = TrainingConfig(strategy="ddp", precision="fp32", workers=1, use_gpu=False)


pytestmark = pytest.mark.usefixtures("process_group")


def _step(*, dropout: float = 0.0) -> TrainStep:
    stack = {"dropout": dropout}
    sizes = {
        name: {"width": 16, "layers": 2, "heads": 2, "ffn": 32, **stack} for name in ("recognition", "tag_encoder")
    }
    swin = SWIN.model_copy(update={"drop_path": dropout})
    model = tagger(spread=2.0, swin=swin, caption_decoder=sizes["recognition"], **sizes).train()
    return TrainStep(model, teacher=None, caption_start=2)


def _batches(number: int, *, size: int = 4) -> list[dict[str, torch.Tensor]]:
    rng = torch.Generator().manual_seed(3)
    return [
        {
            "pixels": torch.randint(0, 256, (size, 1, 32, 32, 3), generator=rng, dtype=torch.uint8),
            "targets": torch.randint(0, 2, (size, 6), generator=rng, dtype=torch.uint8),
            "caption_ids": torch.randint(1, 50, (size, 7), generator=rng, dtype=torch.int32),
            "tag_ids": torch.randint(1, 50, (size, 5), generator=rng, dtype=torch.int32),
        }
        for _ in range(number)
    ]


def _train(strategy: TrainingStrategy, batches: list[dict], *, first: int = 0) -> list[dict[str, float]]:
    losses = []
    for step, batch in enumerate(batches, start=first):
        torch.manual_seed(step_seed(0, step=step, rank=0))
        losses.append(strategy.step([batch], lr=1e-3 / (1 + step)))
    return losses


def _same(module: nn.Module, other: nn.Module) -> bool:
    state, expected = module.state_dict(), other.state_dict()
    return state.keys() == expected.keys() and all(torch.equal(value, expected[name]) for name, value in state.items())


def _ddp(step: nn.Module, config: TrainConfig = CONFIG, training: TrainingConfig = PLAIN) -> DDPStrategy:
    strategy = make_strategy(step, config=config, training=training, device=CPU)  # type: ignore[arg-type]
    assert isinstance(strategy, DDPStrategy) and strategy.name == "ddp"
    return strategy


class _MeanStep(nn.Module):
    """A loss that is a mean over rows, so that the loss of a batch is the mean over its micro batches."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.model = nn.Sequential(nn.Linear(5, 8), nn.Tanh(), nn.Linear(8, 1))

    def forward(self, batch: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        return {"total": (self.model(batch["x"]) - batch["y"]).square().mean()}


@pytest.mark.parametrize("clip", [1e6, 0.01])
def test_accumulated_micro_batches_are_one_big_batch(clip: float) -> None:
    config = TrainConfig(clip_grad=clip)
    torch.manual_seed(1)
    x, y = torch.randn(3, 8, 5), torch.randn(3, 8, 1)
    whole, parts = _MeanStep(), _MeanStep()
    big, small = _ddp(whole, config), _ddp(parts, config)
    for step in range(3):
        whole_losses = big.step([{"x": x[step], "y": y[step]}], lr=0.01)
        micro_batches = [{"x": x[step, i : i + 2], "y": y[step, i : i + 2]} for i in (0, 2, 4, 6)]
        losses = small.step(micro_batches, lr=0.01)
        assert whole_losses["total"] == pytest.approx(losses["total"], rel=1e-5)
    assert not _same(whole, _MeanStep())
    for name, value in whole.state_dict().items():
        torch.testing.assert_close(parts.state_dict()[name], value, atol=1e-6, rtol=1e-5)


def test_the_learning_rate_of_the_call_is_used() -> None:
    step = _step()
    original = copy.deepcopy(step)
    strategy = _ddp(step)
    strategy.step(_batches(1), lr=0.0)
    assert _same(step, original)
    strategy.step(_batches(1), lr=1e-3)
    changes = [(a - b).abs().max() for a, b in zip(step.parameters(), original.parameters(), strict=True)]
    assert 0.5e-3 < max(changes) < 2e-3


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_training_lowers_the_loss(precision: str) -> None:
    strategy = _ddp(_step(), training=PLAIN.model_copy(update={"precision": precision}))
    (batch,) = _batches(1)
    losses = [strategy.step([batch], lr=3e-3) for _ in range(15)]
    assert losses[-1]["text"] < 0.9 * losses[0]["text"] and losses[0].keys() == {"tag", "text", "total"}
    assert all(parameter.dtype == torch.float32 for parameter in strategy._step.parameters())


@pytest.mark.parametrize("optimizer", ["adamw", "muon"])
def test_a_resumed_run_equals_an_uninterrupted_run_bit_for_bit(optimizer: str, tmp_path: Path) -> None:
    config = CONFIG.model_copy(update={"optimizer": optimizer})
    batches = _batches(4)
    uninterrupted = _step(dropout=0.2)
    expected = _train(_ddp(uninterrupted, config=config), batches)
    first, second = _step(dropout=0.2), _step(dropout=0.2)
    strategy = _ddp(first, config=config)
    assert _train(strategy, batches[:2]) == expected[:2]
    strategy.save(tmp_path)
    with torch.no_grad():
        for parameter in second.parameters():
            parameter.add_(1.0)  # other weights than the checkpoint's
    resumed = _ddp(second, config=config)
    resumed.load(tmp_path)
    assert _same(second, first)
    assert _train(resumed, batches[2:], first=2) == expected[2:]
    assert _same(second, uninterrupted)


def test_modules_outside_the_model_are_resumed_too(tmp_path: Path) -> None:
    """`represent` trains a contrastive head that is not a part of its model."""

    class Headed(_MeanStep):
        def __init__(self) -> None:
            super().__init__()
            self.head = nn.BatchNorm1d(5)

        def forward(self, batch: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
            return super().forward({**batch, "x": self.head(batch["x"])})

    torch.manual_seed(1)
    batch = {"x": 3 + torch.randn(8, 5), "y": torch.randn(8, 1)}
    first, second = Headed(), Headed()
    strategy = _ddp(first)
    for _ in range(3):
        strategy.step([batch], lr=0.01)
    strategy.save(tmp_path)
    resumed = _ddp(second)
    resumed.load(tmp_path)
    assert _same(first, second) and first.head.running_mean.abs().min() > 0.1
    assert strategy.step([batch], lr=0.01) == resumed.step([batch], lr=0.01)
    assert read_weights(tmp_path).keys() == first.model.state_dict().keys()


def test_weights_read_from_a_checkpoint_are_the_models(tmp_path: Path) -> None:
    step = _step()
    strategy = _ddp(step)
    _train(strategy, _batches(2))
    strategy.save(tmp_path)
    weights = read_weights(tmp_path)
    other = tagger(seed=9, tag_encoder=step.model.config.tag_encoder)
    other.load_state_dict(weights)
    assert _same(other, step.model)


@pytest.mark.usefixtures("no_compiler")
@pytest.mark.parametrize(
    ("zero_stage", "optimizer"), [(0, "adamw"), (1, "adamw"), (2, "adamw"), (3, "adamw"), (0, "muon")]
)
def test_deepspeed_makes_the_steps_of_ddp_and_resumes_from_its_checkpoint(
    zero_stage: int, optimizer: str, tmp_path: Path
) -> None:
    config = CONFIG.model_copy(update={"optimizer": optimizer})
    batches = _batches(4)
    plain = _step()
    expected = _train(_ddp(plain, config=config), batches)
    training = TrainingConfig(strategy="deepspeed", zero_stage=zero_stage, precision="fp32", workers=1, use_gpu=False)

    def strategy_of(step: TrainStep) -> TrainingStrategy:
        strategy = make_strategy(step, config=config, training=training, device=CPU)
        assert strategy.name == "deepspeed"
        return strategy

    strategy = strategy_of(_step())
    losses = _train(strategy, batches[:2])
    strategy.save(tmp_path)
    losses += _train(strategy, batches[2:], first=2)
    for step_losses, expected_losses in zip(losses, expected, strict=True):
        assert step_losses == pytest.approx(expected_losses, rel=1e-3)
    weights = read_weights(tmp_path)
    assert weights.keys() == plain.model.state_dict().keys()

    resumed = strategy_of(_step())
    resumed.load(tmp_path)
    assert _train(resumed, batches[2:], first=2) == losses[2:], "the state of the optimizer is loaded"
    (tmp_path / "end").mkdir()
    resumed.save(tmp_path / "end")
    # Adam divides by the gradient's size: if that is only rounding, a weight may change by a part of lr = 1e-3.
    for name, value in read_weights(tmp_path / "end").items():
        torch.testing.assert_close(value, plain.model.state_dict()[name], atol=2e-4, rtol=1e-3, msg=name)
    tagger(tag_encoder=plain.model.config.tag_encoder).load_state_dict(weights)


def _deepspeed(
    step: nn.Module, config: TrainConfig = CONFIG, *, zero_stage: int = 1, precision: str = "fp32"
) -> TrainingStrategy:
    training = TrainingConfig(
        strategy="deepspeed", zero_stage=zero_stage, precision=precision, workers=1, use_gpu=False
    )
    return make_strategy(step, config=config, training=training, device=CPU)


@pytest.mark.usefixtures("no_compiler")
def test_deepspeed_accumulates_as_ddp_does() -> None:
    config = TrainConfig(batch_size=4, micro_batch_size=2, clip_grad=1.0)
    batches = _batches(4, size=2)
    plain, deepspeed = _ddp(_step(), config), _deepspeed(_step(), config)
    for pair in (batches[:2], batches[2:]):
        losses, expected = (each.step(pair, lr=1e-3, shares=[0.75, 0.25]) for each in (deepspeed, plain))
        assert losses == pytest.approx(expected, rel=1e-3)


@pytest.mark.parametrize("make", [_ddp, _deepspeed])
@pytest.mark.usefixtures("no_compiler")
def test_without_clip_grad_gradients_are_not_clipped(
    make: Callable[[nn.Module, TrainConfig], TrainingStrategy],
) -> None:
    """AdamW's first step depends on a gradient's size only through `eps`, so a gradient is clipped to that size."""
    changes = {}
    for clip in (None, 1e6, 1e-8):
        step = _MeanStep()
        original = [parameter.detach().clone() for parameter in step.parameters()]
        strategy = make(step, TrainConfig(batch_size=8, clip_grad=clip, weight_decay=0.0))
        torch.manual_seed(1)
        strategy.step([{"x": torch.randn(8, 5), "y": torch.randn(8, 1)}], lr=1e-2)
        pairs = zip(step.parameters(), original, strict=True)
        changes[clip] = torch.cat([(a - b).abs().flatten() for a, b in pairs])
    torch.testing.assert_close(changes[None], changes[1e6])
    assert changes[None].max() > 0.9e-2 and changes[1e-8].max() < 0.5e-2


def test_clip_grad_0_is_a_mistake() -> None:
    with pytest.raises(ValueError, match=r"(?s)clip_grad.*null"):
        TrainConfig(clip_grad=0)


@pytest.fixture()
def as_on_a_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    """DeepSpeed asks torch whether the GPU's autocast is on; answer for the CPU's autocast."""
    from deepspeed.runtime import torch_autocast

    class Torch:
        def __getattr__(self, name: str) -> object:
            return getattr(torch, name)

        def is_autocast_enabled(self) -> bool:
            return torch.is_autocast_enabled("cpu")

    monkeypatch.setattr(torch_autocast, "torch", Torch())


@pytest.mark.usefixtures("no_compiler", "as_on_a_gpu")
@pytest.mark.parametrize("zero_stage", [0, 1, 3])
@pytest.mark.parametrize("precision", ["bf16", "fp32"])
def test_deepspeed_computes_in_the_configured_precision(
    precision: str, zero_stage: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    from deepspeed.runtime import torch_autocast

    monkeypatch.setattr(torch_autocast, "TORCH_AUTOCAST_INITIALIZED", False)  # an earlier test may have set it
    step, seen = _step(), collections.Counter()
    for module in step.modules():
        if isinstance(module, nn.Linear):
            module.register_forward_hook(lambda _, inputs, output: seen.update([output.dtype]))
    strategy = _deepspeed(step, precision=precision, zero_stage=zero_stage)
    losses = strategy.step(_batches(1), lr=1e-3)
    assert set(seen) == {torch.bfloat16 if precision == "bf16" else torch.float32}, seen
    assert all(parameter.dtype == torch.float32 for parameter in step.parameters()), "master weights"
    # Eight bits of a bf16 number round by 2e-3; sums of such errors over some ten layers stay under 3%.
    exact = _ddp(_step()).step(_batches(1), lr=1e-3)
    assert losses == pytest.approx(exact, rel=1e-4 if precision == "fp32" else 3e-2)


def test_fp32_on_a_gpu_is_tf32(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ram_ray.training.strategy.DDPStrategy", lambda *args, **kwargs: None)
    original = torch.get_float32_matmul_precision()
    try:
        for precision, device, expected in (
            ("bf16", "cuda", "highest"),
            ("fp32", "cpu", "highest"),
            ("fp32", "cuda", "high"),
        ):
            training = PLAIN.model_copy(update={"precision": precision})
            make_strategy(nn.Linear(1, 1), config=CONFIG, training=training, device=torch.device(device))
            assert torch.get_float32_matmul_precision() == expected, (precision, device)
    finally:
        torch.set_float32_matmul_precision(original)


@pytest.mark.usefixtures("no_compiler")
@pytest.mark.parametrize("backbone_lr", [0.0, 1e-5])
@pytest.mark.parametrize(
    ("strategy", "optimizer"),
    [("ddp", "adamw"), ("ddp", "muon"), (0, "adamw"), (0, "muon"), (1, "adamw"), (2, "adamw"), (3, "adamw")],
)
def test_an_image_encoder_has_its_own_learning_rate(
    strategy: str | int, optimizer: str, backbone_lr: float, tmp_path: Path
) -> None:
    config = TrainConfig(batch_size=4, lr=1e-3, backbone_lr=backbone_lr, optimizer=optimizer, weight_decay=0.0)
    distribution = {"strategy": "ddp"} if strategy == "ddp" else {"strategy": "deepspeed", "zero_stage": strategy}
    training = TrainingConfig(precision="fp32", workers=1, use_gpu=False, **distribution)
    named = TimmConfig(name="test_resnet", weights="of a file")
    step = TrainStep(tagger(image_encoder=named, image_size=64).train(), teacher=None, caption_start=2)
    freeze_encoder(step.model.image_encoder, config)
    original = copy.deepcopy(step.model.state_dict())
    made = make_strategy(step, config=config, training=training, device=CPU)
    (batch,) = _batches(1)
    batch["pixels"] = torch.nn.functional.pad(batch["pixels"], (0, 0, 16, 16, 16, 16))
    made.step([batch], lr=1e-3)
    made.save(tmp_path)
    weights = {name: value.detach() for name, value in read_weights(tmp_path).items()}
    changes = {name: (value - original[name]).abs().max().item() for name, value in weights.items()}
    of_encoder = [change for name, change in changes.items() if name.startswith("image_encoder.")]
    assert max(of_encoder) == pytest.approx(backbone_lr, rel=0.02)
    assert changes["recognition.fc.weight"] == pytest.approx(1e-3, rel=0.02)
    assert {change for name, change in changes.items() if "running" in name} == {0.0}, "statistics of the file"
