"""Contract: labels added to a trained model are learned; those that it had stay, though no annotation names them."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch

from ram_ray.evaluation.metrics import average_precision
from ram_ray.label_system import Label, LabelSystem
from ram_ray.models.label_match import match_labels
from ram_ray.models.losses import kept_loss
from ram_ray.models.ram import RAM
from ram_ray.models.relabel import relabel
from ram_ray.training.step import TrainStep
from tests.tiny import config

COLOURS = np.array(
    [(255, 0, 0), (0, 255, 0), (0, 0, 255), (255, 255, 0), (0, 255, 255), (255, 0, 255), (255, 255, 255), (0, 0, 0)]
)
NUM_OLD, NUM_LABELS, STEPS = 6, 8, 160
QUERIES = torch.randn(NUM_LABELS, 10, generator=torch.Generator().manual_seed(0))


def _batch(size: int, *, seed: int) -> dict[str, torch.Tensor]:
    """Grey images with one to three squares; a label is a colour."""
    rng = np.random.default_rng(seed)
    pixels = rng.integers(100, 156, (size, 1, 32, 32, 3)).astype(np.uint8)
    targets = np.zeros((size, NUM_LABELS), dtype=np.uint8)
    for image in range(size):
        for label in rng.choice(NUM_LABELS, rng.integers(1, 4), replace=False):
            x, y = rng.integers(0, 24, 2)
            pixels[image, 0, y : y + 8, x : x + 8] = COLOURS[label]
            targets[image, label] = 1
    return {"pixels": torch.from_numpy(pixels), "targets": torch.from_numpy(targets)}


def _train(model: RAM, step: TrainStep, labels: slice, *, seed: int, steps: int = STEPS) -> RAM:
    """Train on annotations of `labels`; other labels that the model has are absent in every annotation."""
    parameters = [parameter for parameter in model.requires_grad_(True).parameters()]
    optimizer = torch.optim.AdamW(parameters, lr=3e-3)
    for number in range(steps):
        batch = _batch(24, seed=seed * 10_000 + number)
        targets = torch.zeros_like(batch["targets"])
        targets[:, labels] = batch["targets"][:, labels]
        optimizer.zero_grad()
        step({**batch, "targets": targets[:, : len(model.label_embed)]})["total"].backward()
        optimizer.step()
    return model.eval()


def _average_precision(model: RAM) -> np.ndarray:
    batch = _batch(300, seed=77)
    with torch.no_grad():
        pixels = batch["pixels"][:, 0].permute(0, 3, 1, 2).float() / 255
        mean, std = (torch.tensor(values)[:, None, None] for values in (model.config.mean, model.config.std))
        scores = model.logits(model.encode((pixels - mean) / std)).numpy()
    truth = batch["targets"].numpy() == 1
    return np.array([average_precision(scores[:, id], truth[:, id]) for id in range(scores.shape[1])])


def _new_model(num_labels: int) -> RAM:
    torch.manual_seed(3)
    return RAM(config(captions=False, init_std=None), QUERIES[:num_labels])


@pytest.fixture(scope="module")
def grown() -> dict[str, np.ndarray]:
    """Average precision of the old model, of the one with two more labels, kept or not, and of one of all labels."""
    old = _new_model(NUM_OLD)
    _train(old, TrainStep(old, teacher=None, caption_start=0), slice(0, NUM_OLD), seed=1)
    scores = {"old": _average_precision(old)}
    names = [LabelSystem(Label(id, str(id), "object") for id in range(count)) for count in (NUM_OLD, NUM_LABELS)]
    relabel(old, match_labels(*names), QUERIES[NUM_OLD:])
    for name, kept in (("kept", range(NUM_OLD)), ("forgotten", ())):
        keeper, student = (copy.deepcopy(old).requires_grad_(False).eval() for _ in range(2))
        step = TrainStep(student, teacher=None, caption_start=0, keeper=keeper if kept else None, kept_ids=kept)
        scores[name] = _average_precision(_train(student, step, slice(NUM_OLD, NUM_LABELS), seed=2))
    joint = _new_model(NUM_LABELS)
    _train(joint, TrainStep(joint, teacher=None, caption_start=0), slice(0, NUM_LABELS), seed=1, steps=2 * STEPS)
    return {**scores, "joint": _average_precision(joint)}


@pytest.mark.slow  # four trainings; the figures depend on the processor's rounding
def test_old_labels_stay_within_1_percent(grown: dict[str, np.ndarray]) -> None:
    old = grown["old"].mean()
    assert old > 0.7, "the model had learned something"
    assert grown["kept"][:NUM_OLD].mean() > 0.99 * old
    assert grown["forgotten"][:NUM_OLD].mean() < 0.9 * old, "without the keeper they are lost"


@pytest.mark.slow  # four trainings; the figures depend on the processor's rounding
def test_new_labels_are_within_10_percent_of_training_on_all(grown: dict[str, np.ndarray]) -> None:
    assert grown["kept"][NUM_OLD:].mean() > 0.9 * grown["joint"][NUM_OLD:].mean()


def test_the_loss_of_kept_labels_is_0_where_nothing_changed_and_ignores_unusable_rows() -> None:
    logits = torch.randn(3, 4)
    assert kept_loss(logits, logits).item() == pytest.approx(0, abs=1e-6)
    other = logits + torch.randn(3, 4)
    weight = torch.tensor([1.0, 0.0, 1.0])
    assert kept_loss(other, logits).item() > 0
    torch.testing.assert_close(kept_loss(other, logits, weight=weight), kept_loss(other[[0, 2]], logits[[0, 2]]))


def test_annotations_do_not_teach_kept_labels() -> None:
    """Whatever the annotations say about them, the step is the same."""
    model = _new_model(NUM_LABELS).eval()
    step = TrainStep(model, teacher=None, caption_start=0, keeper=copy.deepcopy(model), kept_ids=[1, 4])
    batch = _batch(4, seed=5)
    losses = step(batch)
    assert losses.keys() == {"tag", "kept", "total"} and losses["kept"].item() == pytest.approx(0, abs=1e-5)
    changed = {**batch, "targets": batch["targets"].clone()}
    changed["targets"][:, [1, 4]] = 1 - changed["targets"][:, [1, 4]]
    torch.testing.assert_close(step(changed)["total"], losses["total"])
    changed["targets"][:, 0] = 1 - changed["targets"][:, 0]
    assert not torch.isclose(step(changed)["total"], losses["total"])


def test_a_frozen_encoder_encodes_once_for_the_model_and_its_keeper() -> None:
    """The losses are those of a step where both encode."""
    losses, encoded = [], []
    for freezes in (False, True):
        model = _new_model(NUM_LABELS)
        keeper = copy.deepcopy(model).eval()
        if freezes:
            model.image_encoder.freeze()
        keeper.image_encoder.register_forward_hook(lambda *_: encoded.append("keeper"))
        step = TrainStep(model, teacher=None, caption_start=0, keeper=keeper, kept_ids=[1, 4])
        step.train()
        assert model.image_encoder.training != freezes, "a frozen encoder is as at inference, its tokens are the same"
        losses.append(step(_batch(4, seed=5)) if freezes else step.eval()(_batch(4, seed=5)))
    assert encoded == ["keeper"], "only beside the encoder that is trained"
    for name, loss in losses[0].items():
        torch.testing.assert_close(losses[1][name], loss)


def test_the_head_learns_kept_labels_without_dropout() -> None:
    """The loss of kept labels is 0 where nothing changed, also in training."""
    torch.manual_seed(3)
    layers = config(captions=False, init_std=None)
    noisy = layers.model_copy(update={"recognition": layers.recognition.model_copy(update={"dropout": 0.5})})
    model = RAM(noisy, QUERIES)
    model.image_encoder.freeze()
    step = TrainStep(model, teacher=None, caption_start=0, keeper=copy.deepcopy(model).eval(), kept_ids=[1, 4])
    for _ in range(2):
        assert step.training and model.training
        assert step(_batch(4, seed=5))["kept"].item() == pytest.approx(0, abs=1e-5)
        step.eval().train()
    alone = TrainStep(model, teacher=None, caption_start=0).train()
    assert not torch.equal(alone(_batch(4, seed=5))["tag"], alone(_batch(4, seed=5))["tag"]), "else there is dropout"
