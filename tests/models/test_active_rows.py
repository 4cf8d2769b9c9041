"""Contract: a backward pass that skips pairs without a gradient gives the gradients of one that computes all."""

from __future__ import annotations

import pytest
import torch

from ram_ray.models import active_rows
from ram_ray.models.losses import UNKNOWN, asymmetric_loss, kept_loss
from ram_ray.models.recognition import RecognitionDecoder
from ram_ray.settings.models import TransformerConfig
from ram_ray.settings.training import TrainConfig

B, N, D, C = 2, 60, 32, 24


def decoder(dropout: float) -> RecognitionDecoder:
    torch.manual_seed(0)
    config = TransformerConfig(width=D, layers=2, heads=2, ffn=64, dropout=dropout)
    model = RecognitionDecoder(config, label_width=D, context_width=C)
    torch.nn.init.constant_(model.fc.bias, -3.0)
    return model.train()


def gradients(
    model: RecognitionDecoder, *, kept: bool, autocast: bool
) -> tuple[dict[str, torch.Tensor], torch.Tensor, float]:
    """Gradients of the weights and of the image tokens, and the share of the pairs that are computed."""
    model.zero_grad()
    torch.manual_seed(1)
    embed, tokens = torch.randn(N, D), torch.randn(B, 7, C, requires_grad=True)
    targets = torch.zeros(B, N)
    targets[0, 3], targets[1, 5], targets[1, 9] = 1, 1, UNKNOWN
    with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
        logits = model(model.queries(embed), tokens)
        logits.retain_grad()
        loss = asymmetric_loss(logits, targets)
        if kept:
            loss = loss + kept_loss(logits[:, :4], torch.zeros(B, 4))
    loss.backward()
    share = count_active(logits.grad, left_out=model.skipped_gradient) / (B * N)
    return {name: weight.grad.clone() for name, weight in model.named_parameters()}, tokens.grad.clone(), share


def count_active(grad: torch.Tensor, *, left_out: float) -> int:
    """Pairs but for the smallest of each image that together are a share of its gradients; by loops."""
    active = 0
    for sizes in (sorted(row) for row in grad.abs().tolist()):
        active += sum(sum(sizes[: k + 1]) > left_out * sum(sizes) for k in range(len(sizes)))
    return active


@pytest.mark.parametrize("recompute", [False, True])
@pytest.mark.parametrize(("dropout", "kept"), [(0.0, False), (0.1, True)])
def test_skipping_pairs_without_a_gradient_changes_no_gradient(
    monkeypatch: pytest.MonkeyPatch, dropout: float, kept: bool, recompute: bool
) -> None:
    model = decoder(dropout)
    model.recompute = recompute
    skipped, skipped_tokens, share = gradients(model, kept=kept, autocast=False)
    assert 0 < share < active_rows.MAX_SHARE
    monkeypatch.setattr(active_rows, "MAX_SHARE", -1.0)
    full, full_tokens, _ = gradients(model, kept=kept, autocast=False)
    scale = max(float(grad.abs().max()) for grad in full.values())
    for name, grad in full.items():
        torch.testing.assert_close(skipped[name], grad, rtol=1e-5, atol=1e-6 * scale, msg=name)
    torch.testing.assert_close(skipped_tokens, full_tokens, rtol=1e-5, atol=1e-6 * scale)


@pytest.mark.parametrize("left_out", [active_rows.EXACT, 0.02])
def test_the_rows_that_are_computed_are_those_with_a_gradient(monkeypatch: pytest.MonkeyPatch, left_out: float) -> None:
    found: list[int] = []
    index = active_rows.ActiveRows.index

    def count(rows: active_rows.ActiveRows, num_rows: int) -> torch.Tensor | None:
        picked = index(rows, num_rows)
        found.append(num_rows if picked is None else len(picked))
        return picked

    monkeypatch.setattr(active_rows.ActiveRows, "index", count)
    model = decoder(0.1)
    model.skipped_gradient = left_out
    *_, share = gradients(model, kept=False, autocast=False)
    active = round(share * B * N)
    # Backwards: the second layer's down, up, out and query; of the first the queries are those of all images.
    assert found == [active] * 7 + [N] and active < B * N


def test_what_is_skipped_of_an_image_does_not_depend_on_the_images_beside_it() -> None:
    torch.manual_seed(0)
    grad = torch.randn(4, N) ** 5
    grad[1] = 1.0  # most rows are active, so all are computed
    alone, whole = [], []
    for start, rows in enumerate(grad.split(1)):
        active = active_rows.ActiveRows(0.05)
        active._set(rows)
        index = active.index(N)
        whole += [start] if index is None else []
        alone += [start * N + int(row) for row in (range(N) if index is None else index)]
    assert whole == [1]
    together = active_rows.ActiveRows(0.05)
    together._set(1000 * grad)
    index = together.index(4 * N)
    assert index is not None and index.tolist() == alone


@pytest.mark.parametrize("left_out", [0.01, 0.1])
def test_gradients_change_by_about_the_skipped_share(monkeypatch: pytest.MonkeyPatch, left_out: float) -> None:
    monkeypatch.setattr(active_rows, "MAX_SHARE", 1.0)
    model = decoder(0.0)
    torch.nn.init.zeros_(model.fc.bias)  # negatives have a gradient
    full, *_ = gradients(model, kept=False, autocast=False)
    model.skipped_gradient = left_out
    skipped, *_ = gradients(model, kept=False, autocast=False)
    exact = torch.cat([grad.flatten() for grad in full.values()])
    change = torch.cat([(skipped[name] - grad).flatten() for name, grad in full.items()])
    assert 0.5 * left_out < float(change.norm() / exact.norm()) < 1.5 * left_out


def test_under_autocast(monkeypatch: pytest.MonkeyPatch) -> None:
    model = decoder(0.1)
    skipped, tokens, _ = gradients(model, kept=False, autocast=True)
    monkeypatch.setattr(active_rows, "MAX_SHARE", -1.0)
    full, full_tokens, _ = gradients(model, kept=False, autocast=True)
    scale = max(float(grad.abs().max()) for grad in full.values())
    for name, grad in full.items():
        assert skipped[name].dtype == grad.dtype == torch.float32
        torch.testing.assert_close(skipped[name], grad, rtol=0.02, atol=0.01 * scale, msg=name)
    torch.testing.assert_close(tokens, full_tokens, rtol=0.02, atol=0.01 * scale)


def test_the_default_setting_is_exact() -> None:
    assert TrainConfig().skipped_gradient == active_rows.EXACT


def test_without_gradients_a_layer_is_the_plain_one() -> None:
    model = decoder(0.0)
    tokens = torch.randn(B, 7, C)
    queries = model.queries(torch.randn(N, D))
    with torch.no_grad():
        trained = model(queries, tokens)
        assert torch.equal(model.eval()(queries, tokens), trained)


def test_a_gradient_that_is_no_number_stays_one_and_no_gradient_is_zero() -> None:
    for value, expected in ((float("nan"), float("nan")), (0.0, 0.0)):
        model = decoder(0.0)
        logits = model(model.queries(torch.randn(N, D)), torch.randn(B, 7, C))
        (logits * value).sum().backward()
        (grad,) = {grad.sum().item() for grad in [model.layers[0].ffn.up.weight.grad] if grad is not None}
        assert grad == pytest.approx(expected, nan_ok=True)
