"""Contract: the asymmetric loss equals the released code's; the total is RAM's sum, gradient included."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
import torch

from ram_ray.models.losses import UNKNOWN, asymmetric_loss, caption_loss, combine

SETTINGS = {
    "tag": {},  # RAM's own
    "align": {"gamma_neg": 4.0},
    "default": {"gamma_neg": 4.0, "gamma_pos": 1.0},
    "nofocal": {"gamma_neg": 0.0},
    "noclip": {"gamma_neg": 4.0, "gamma_pos": 1.0, "clip": 0.0},
}


@pytest.mark.parametrize("name", SETTINGS)
def test_asymmetric_loss_and_gradient_are_the_reference(name: str, shared: Path) -> None:
    reference = np.load(shared / "fixtures" / "metrics" / "asymmetric_loss.npz")
    logits = torch.tensor(reference["logits"], requires_grad=True)
    loss = asymmetric_loss(logits, torch.tensor(reference["targets"]), **SETTINGS[name])
    loss.backward()
    assert loss.item() == pytest.approx(float(reference[f"{name}.loss"]), rel=1e-6)
    assert logits.grad is not None
    np.testing.assert_allclose(logits.grad.numpy(), reference[f"{name}.grad"], atol=1e-6, rtol=1e-5)


def _loss_term(logit: float, target: int, *, gamma_neg: float, gamma_pos: float, clip: float) -> float:
    p = 1 / (1 + math.exp(-logit))
    if target:
        return -math.log(max(p, 1e-8)) * (1 - p) ** gamma_pos
    negative = min(1.0, 1 - p + clip)
    return -math.log(max(negative, 1e-8)) * (1 - negative) ** gamma_neg


def test_asymmetric_loss_is_the_sum_of_its_terms() -> None:
    torch.manual_seed(0)
    logits, targets = 3 * torch.randn(3, 5), torch.randint(0, 2, (3, 5))
    for setting in (
        {"gamma_neg": 7.0, "gamma_pos": 0.0, "clip": 0.05},
        {"gamma_neg": 2.0, "gamma_pos": 1.0, "clip": 0},
    ):
        terms = [_loss_term(float(logits[i, j]), int(targets[i, j]), **setting) for i in range(3) for j in range(5)]
        assert float(asymmetric_loss(logits, targets, **setting)) == pytest.approx(sum(terms), rel=1e-5)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_extreme_logits_stay_finite(dtype: torch.dtype) -> None:
    logits = torch.tensor([[-200.0, 200.0, -200.0, 200.0]], dtype=dtype, requires_grad=True)
    loss = asymmetric_loss(logits, torch.tensor([[1, 1, 0, 0]]))
    loss.backward()
    assert loss.dtype == torch.float32 and loss.isfinite() and logits.grad is not None and logits.grad.isfinite().all()


def test_unknown_targets_are_ignored() -> None:
    logits = torch.tensor([[2.0, -1.0, 0.5]], requires_grad=True)
    loss = asymmetric_loss(logits, torch.tensor([[1, UNKNOWN, 0]], dtype=torch.uint8))
    loss.backward()
    assert loss.item() == pytest.approx(float(asymmetric_loss(logits.detach()[:, [0, 2]], torch.tensor([[1, 0]]))))
    assert logits.grad is not None and (logits.grad != 0).tolist() == [[True, False, True]]


def test_easy_negatives_have_no_loss() -> None:
    logits = torch.full((1, 3), -4.0, requires_grad=True)  # probability 0.018, under the clip of 0.05
    loss = asymmetric_loss(logits, torch.zeros(1, 3))
    loss.backward()
    assert loss.item() == 0 and logits.grad is not None and not logits.grad.any()


def test_caption_loss_predicts_the_next_token_with_smoothing() -> None:
    torch.manual_seed(0)
    vocab = 7
    logits, targets = torch.randn(2, 5, vocab), torch.tensor([[-100, -100, 3, 4, 5], [-100, -100, 6, 2, -100]])
    terms = []
    for b in range(2):
        for t in range(4):
            if (token := int(targets[b, t + 1])) == -100:
                continue
            log = logits[b, t] - logits[b, t].exp().sum().log()
            target = torch.full((vocab,), 0.1 / vocab)
            target[token] += 0.9
            terms.append(-(target * log).sum())
    assert len(terms) == 5
    torch.testing.assert_close(caption_loss(logits, targets), torch.stack(terms).mean())


def test_the_total_is_rams_sum() -> None:
    parts = {
        name: torch.tensor(value, requires_grad=True) for name, value in [("tag", 8.0), ("text", 2.0), ("distill", 0.5)]
    }
    total = combine(parts)
    assert float(total.detach()) == pytest.approx(2 + 8 * (2 / 8) + 0.5)
    total.backward()
    gradients = {name: float(loss.grad) for name, loss in parts.items()}  # type: ignore[arg-type]
    assert gradients == pytest.approx({"tag": 2 / 8, "text": 1.0, "distill": 1.0}), "the ratio is a constant"


def test_missing_losses_are_left_out_of_the_total() -> None:
    tag, text, distill = torch.tensor(8.0), torch.tensor(2.0), torch.tensor(0.5)
    assert combine({"tag": tag}) == 8
    assert combine({"tag": tag, "distill": distill}) == 8.5
    assert combine({"tag": tag, "text": text}) == 4
    assert combine({"tag": torch.tensor(0.0), "text": text}).isfinite()


def test_tags_are_learned_in_a_step_without_captions() -> None:
    losses = {"tag": torch.tensor(3.0, requires_grad=True), "text": torch.tensor(0.0)}
    total = combine(losses)
    total.backward()
    assert total.item() == 3 and losses["tag"].grad == 1
    assert combine({"tag": torch.tensor(3.0), "text": torch.tensor(6.0)}).item() == pytest.approx(12)
