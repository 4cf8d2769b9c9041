"""Contract: learning rates of the paper's schedules; a step trains the tagger and nothing frozen; a row of weight 0 has
no effect, and the step does not depend on which worker has which row.
"""

from __future__ import annotations

import multiprocessing
from pathlib import Path

import numpy as np
import pytest
import torch

from ram_ray.models.bundle import load_bundle
from ram_ray.models.image_encoder import normalise
from ram_ray.settings.training import TrainConfig
from ram_ray.training.optimizer import parameter_groups
from ram_ray.training.step import TrainStep, learning_rate, step_seed


@pytest.fixture()
def step(tiny_bundle: str) -> TrainStep:
    return _step(tiny_bundle)


def _step(tiny_bundle: str) -> TrainStep:
    bundle = load_bundle(tiny_bundle)
    bundle.model.requires_grad_(True).train()
    start = bundle.tokenizer.prompt_length(bundle.model.config.prompt)
    return TrainStep(bundle.model, teacher=bundle.teacher(), caption_start=start)


def _batch(tiny_bundle: str, *, captions: bool = True) -> dict[str, torch.Tensor]:
    """Make a batch as the feed does: uint8 crops and targets, int32 ids."""
    rng = np.random.default_rng(0)
    batch = {
        "pixels": torch.from_numpy(rng.integers(0, 256, (3, 1, 32, 32, 3), dtype=np.uint8)),
        "targets": torch.from_numpy(rng.integers(0, 2, (3, 6), dtype=np.uint8)),
    }
    if captions:
        tokenizer = load_bundle(tiny_bundle).tokenizer
        ids = tokenizer.encode_captions(["a red dog", "a beach", "run"], prompt="a picture of ", max_tokens=16)
        tags = tokenizer.encode_tags([["red", "dog"], ["beach"], []], max_tokens=16)
        batch["caption_ids"], batch["tag_ids"] = (torch.from_numpy(column.astype(np.int32)) for column in (ids, tags))
    return batch


def test_the_step_schedule_warms_up_and_decays_in_each_epoch() -> None:
    config = TrainConfig(lr=1e-4, warmup_lr=5e-7, warmup_steps=10, schedule="step", decay=0.9, min_lr=5e-5)

    def rate(step: int) -> float:
        return learning_rate(step, config=config, steps_per_epoch=100, total_steps=2000)

    assert rate(0) == pytest.approx(5e-7) and rate(5) == pytest.approx((1e-4 + 5e-7) / 2)
    assert rate(10) == rate(99) == pytest.approx(1e-4)
    assert rate(100) == rate(199) == pytest.approx(0.9e-4) and rate(250) == pytest.approx(0.81e-4)
    assert rate(1999) == 5e-5, "never under min_lr"


def test_the_cosine_schedule_goes_from_lr_to_min_lr() -> None:
    config = TrainConfig(lr=1e-3, min_lr=1e-5, warmup_lr=0.0, warmup_steps=4, schedule="cosine")

    def rate(step: int) -> float:
        return learning_rate(step, config=config, steps_per_epoch=7, total_steps=104)

    assert rate(0) == 0 and rate(2) == pytest.approx(5e-4) and rate(4) == pytest.approx(1e-3)
    assert rate(54) == pytest.approx((1e-3 + 1e-5) / 2) and rate(104) == pytest.approx(1e-5)
    assert rate(500) == pytest.approx(1e-5)
    rates = [rate(step) for step in range(4, 105)]
    assert rates == sorted(rates, reverse=True)


def test_short_runs_have_rates_too() -> None:
    for schedule in ("step", "cosine"):
        config = TrainConfig(schedule=schedule, warmup_steps=0)
        assert learning_rate(0, config=config, steps_per_epoch=0, total_steps=1) == pytest.approx(config.lr)
        warm = TrainConfig(schedule=schedule, warmup_steps=50)
        assert 0 < learning_rate(3, config=warm, steps_per_epoch=4, total_steps=4) < warm.lr


def test_losses_and_their_total(step: TrainStep, tiny_bundle: str) -> None:
    losses = step(_batch(tiny_bundle))
    assert losses.keys() == {"tag", "text", "distill", "total"} and all(loss.isfinite() for loss in losses.values())
    torch.testing.assert_close(losses["total"], 2 * losses["text"] + losses["distill"])
    assert step(_batch(tiny_bundle, captions=False)).keys() == {"tag", "distill", "total"}
    plain = TrainStep(step.model, teacher=None, caption_start=1)
    assert plain(_batch(tiny_bundle, captions=False)).keys() == {"tag", "total"}


def _gradients(step: TrainStep) -> dict[str, torch.Tensor]:
    """Return the gradients and remove them from the step."""
    gradients = {name: weight.grad for name, weight in step.named_parameters() if weight.grad is not None}
    step.zero_grad(set_to_none=True)
    return gradients


def _assert_equal(values: dict[str, torch.Tensor], expected: dict[str, torch.Tensor]) -> None:
    assert values.keys() == expected.keys()
    for name, value in expected.items():
        torch.testing.assert_close(values[name], value, rtol=1e-4, atol=1e-6, msg=name)


def test_a_row_of_weight_0_has_no_effect(step: TrainStep, tiny_bundle: str) -> None:
    """For any pixels of this row, losses and gradients are those of the other rows."""
    whole = _batch(tiny_bundle)
    alone = {name: value[[0, 2]] for name, value in whole.items()}
    expected = step(alone)
    expected["total"].backward()
    gradients = _gradients(step)
    for pixels in (whole["pixels"][1], torch.zeros_like(whole["pixels"][1])):
        batch = {**whole, "pixels": whole["pixels"].clone(), "weight": torch.tensor([1.0, 0.0, 1.0])}
        batch["pixels"][1] = pixels
        losses = step(batch)
        losses["total"].backward()
        assert {name: loss.item() for name, loss in losses.items()} == pytest.approx(
            {name: loss.item() for name, loss in expected.items()}, rel=1e-5
        )
        _assert_equal(_gradients(step), gradients)


def test_a_batch_without_a_usable_row_gives_zero_losses_and_zero_gradients(step: TrainStep, tiny_bundle: str) -> None:
    losses = step({**_batch(tiny_bundle), "weight": torch.zeros(3)})
    losses["total"].backward()
    assert {loss.item() for loss in losses.values()} == {0.0}
    assert all(not gradient.any() for gradient in _gradients(step).values())


def _worker(rank: int, folder: str, bundle: str) -> None:
    """The first worker has two of the three rows; the second has a row and a padding row of weight 0."""
    torch.distributed.init_process_group("gloo", init_method=f"file://{folder}/store", rank=rank, world_size=2)
    try:
        step, batch = _step(bundle), _batch(bundle)
        rows, weight = ([0, 2], [1.0, 1.0]) if rank == 0 else ([1, 1], [1.0, 0.0])
        mine = {**{name: value[rows] for name, value in batch.items()}, "weight": torch.tensor(weight)}
        losses = step(mine)
        losses["total"].backward()
        detached = {name: loss.detach() for name, loss in losses.items()}
        torch.save({**detached, **_gradients(step)}, f"{folder}/{rank}.pt")
    finally:
        torch.distributed.destroy_process_group()


def test_two_workers_average_to_one_with_all_rows(step: TrainStep, tiny_bundle: str, tmp_path: Path) -> None:
    """Captions are of unequal length, and the ratio of tag to text loss is that of all rows."""
    arguments = (str(tmp_path), tiny_bundle)
    other = multiprocessing.get_context("spawn").Process(target=_worker, args=(1, *arguments), daemon=True)
    other.start()
    _worker(0, *arguments)
    other.join(timeout=120)
    assert other.exitcode == 0
    first, second = (torch.load(tmp_path / f"{rank}.pt", weights_only=True) for rank in (0, 1))
    losses = step(_batch(tiny_bundle))
    losses["total"].backward()
    expected = {**{name: loss.detach() for name, loss in losses.items()}, **_gradients(step)}
    _assert_equal({name: (value + second[name]) / 2 for name, value in first.items()}, expected)


def test_the_teacher_encodes_the_crop_of_the_student(step: TrainStep, tiny_bundle: str) -> None:
    batch = _batch(tiny_bundle)
    config, teacher = step.model.config, load_bundle(tiny_bundle).teacher()
    pixels = batch["pixels"][:, 0]
    student = step.model.encode(normalise(pixels, config.mean, config.std))[:, 0]
    torch.testing.assert_close(step(batch)["distill"], (student - teacher.features(pixels)).abs().mean())


def test_frozen_parameters_get_no_gradient(step: TrainStep, tiny_bundle: str) -> None:
    step(_batch(tiny_bundle))["total"].backward()
    assert not step.model.label_embed.requires_grad and step.model.label_embed.grad is None
    teacher = step._teacher[0].text.model  # type: ignore[union-attr]
    assert all(weight.grad is None and not weight.requires_grad for weight in teacher.parameters())
    assert {name.split(".")[0] for name in step.state_dict()} == {"model"}, "the teacher is not a submodule"
    for name, parameter in step.model.named_parameters():
        assert parameter.grad is not None and parameter.grad.isfinite().all(), name


def test_every_parameter_is_in_one_group_and_vectors_do_not_decay(step: TrainStep) -> None:
    decayed, plain = parameter_groups(step, TrainConfig(weight_decay=0.05))
    assert (decayed["weight_decay"], plain["weight_decay"]) == (0.05, 0.0)
    grouped = [id(parameter) for parameter in [*decayed["params"], *plain["params"]]]
    assert sorted(grouped) == sorted({id(parameter) for parameter in step.parameters()})
    assert all(parameter.ndim > 1 for parameter in decayed["params"])
    assert all(parameter.ndim <= 1 for parameter in plain["params"])
    step.model.image_encoder.requires_grad_(False)
    num_trainable = sum(len(group["params"]) for group in parameter_groups(step, TrainConfig(weight_decay=0.05)))
    assert num_trainable == len(grouped) - len(list(step.model.image_encoder.parameters()))


def test_vectors_decay_too_where_the_settings_say_so(step: TrainStep) -> None:
    groups = parameter_groups(step, TrainConfig(weight_decay=0.05, decay_vectors=True))
    assert [group["weight_decay"] for group in groups] == [0.05, 0.05]


def test_a_cosine_by_epochs_is_constant_within_an_epoch() -> None:
    config = TrainConfig(schedule="cosine_epochs", lr=5e-6, min_lr=0.0, warmup_steps=0)
    rates = [learning_rate(step, config=config, steps_per_epoch=10, total_steps=20) for step in range(20)]
    assert rates[:10] == [5e-6] * 10 and rates[10:] == pytest.approx([2.5e-6] * 10)
    warm = config.model_copy(update={"warmup_steps": 4, "warmup_lr": 0.0})
    rates = [learning_rate(step, config=warm, steps_per_epoch=10, total_steps=20) for step in range(10)]
    assert rates[0] == 0 and rates[4:] == [5e-6] * 6


def test_every_step_and_rank_has_its_own_seed() -> None:
    seeds = {step_seed(seed, step=step, rank=rank) for seed in (0, 1) for step in range(50) for rank in range(8)}
    assert len(seeds) == 2 * 50 * 8
    torch.manual_seed(step_seed(2**31 - 1, step=10**7, rank=4000))
