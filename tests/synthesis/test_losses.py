"""Contract: losses equal slow references from the papers' formulas, have right gradients, and are never NaN."""

from __future__ import annotations

import math
from datetime import timedelta
from pathlib import Path

import pytest
import torch
import torch.multiprocessing as mp

from ram_ray.models.dual_encoder import DualEncoder
from ram_ray.settings.models import DualEncoderConfig
from ram_ray.settings.synthesis import RepresentConfig
from ram_ray.synthesis.head import ProjectionHead, WeightedBatchNorm
from ram_ray.synthesis.losses import Candidates, gather, image_text_loss, multi_positive_loss
from ram_ray.synthesis.represent import PairStep
from tests.tiny import STACK, SWIN


def cosine(left: list[float], right: list[float]) -> float:
    dot = sum(a * b for a, b in zip(left, right, strict=True))
    return dot / math.sqrt(sum(a * a for a in left)) / math.sqrt(sum(b * b for b in right))


def slow_multi_positive(features: torch.Tensor, ids: list[int], temperature: float, anchors: range) -> float:
    """StableRep, equations 2-4, in loops: cross-entropy of p against q over all images but the anchor."""
    rows = features.tolist()
    losses = []
    for anchor in anchors:
        others = [j for j in range(len(rows)) if j != anchor]
        positives = [j for j in others if ids[j] == ids[anchor]]
        if not positives:
            continue
        total = sum(math.exp(cosine(rows[anchor], rows[j]) / temperature) for j in others)
        losses.append(
            -sum(math.log(math.exp(cosine(rows[anchor], rows[j]) / temperature) / total) for j in positives)
            / len(positives)
        )
    return sum(losses) / len(losses) if losses else 0.0


def slow_image_text(image: torch.Tensor, text: torch.Tensor, ids: list[int], scale: float) -> float:
    total = 0.0
    for rows, columns in ((image.tolist(), text.tolist()), (text.tolist(), image.tolist())):
        for i, row in enumerate(rows):
            scores = [math.exp(scale * cosine(row, column)) for column in columns]
            positives = [j for j in range(len(ids)) if ids[j] == ids[i]]
            total -= sum(math.log(scores[j] / sum(scores)) for j in positives) / len(positives) / len(rows)
    return total / 2


def batch(ids: list[int], dim: int = 5, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(len(ids), dim, generator=generator, dtype=torch.float64) * 3, torch.tensor(ids)


@pytest.mark.parametrize("ids", [[0, 0, 1, 1, 2, 2], [4, 1, 4, 4, 1, 9, 7], [3, 3, 3, 3], [0, 1]])
@pytest.mark.parametrize("temperature", [0.1, 0.7])
def test_multi_positive_equals_the_loops(ids: list[int], temperature: float) -> None:
    features, caption_ids = batch(ids)
    loss = multi_positive_loss(features, caption_ids, temperature=temperature)
    assert loss.item() == pytest.approx(slow_multi_positive(features, ids, temperature, range(len(ids))), rel=1e-10)


def test_candidates_of_other_workers_count() -> None:
    ids = [0, 1, 2, 1, 0, 5]
    features, caption_ids = batch(ids)
    parts = []
    for offset in (0, 2, 4):
        own = slice(offset, offset + 2)
        candidates = Candidates(features, caption_ids, offset)
        parts.append(multi_positive_loss(features[own], caption_ids[own], temperature=0.5, candidates=candidates))
        anchors = [anchor for anchor in range(offset, offset + 2) if ids.count(ids[anchor]) > 1]
        expected = sum(slow_multi_positive(features, ids, 0.5, range(anchor, anchor + 1)) for anchor in anchors) / 4
        assert parts[-1].item() == pytest.approx(expected, rel=1e-10), "four anchors have a positive"
    whole = multi_positive_loss(features, caption_ids, temperature=0.5)
    assert sum(parts).item() == pytest.approx(whole.item(), rel=1e-10)


def test_pairs_of_other_workers_count() -> None:
    image, ids = batch([0, 1, 1, 2, 3, 0], seed=1)
    text, _ = batch([0] * 6, seed=2)
    parts = []
    for own in (slice(0, 2), slice(2, 6)):
        candidates = {"images": Candidates(image, ids, own.start), "texts": Candidates(text, ids, own.start)}
        parts.append(image_text_loss(image[own], text[own], ids[own], logit_scale=3.0, **candidates))
    assert sum(parts).item() == pytest.approx(slow_image_text(image, text, ids.tolist(), 3.0), rel=1e-10)


def test_rows_of_weight_0_are_neither_anchors_nor_candidates() -> None:
    """For any features of these rows, losses and gradients are those of the other rows."""
    ids, ignored = [0, 7, 0, 1, 1, 0], [1, 4]
    used = [row for row in range(6) if row not in ignored]
    weight = torch.ones(6).index_fill(0, torch.tensor(ignored), 0)
    for seed in (0, 1):
        image, caption_ids = batch(ids, seed=1)
        text, _ = batch(ids, seed=2)
        for side in (image, text):
            side[ignored] = batch(ids, seed=10 + seed)[0][ignored]
            side.requires_grad_()
        losses = [
            multi_positive_loss(image, caption_ids, weight=weight),
            image_text_loss(image, text, caption_ids, logit_scale=2.0, weight=weight),
        ]
        alone = [side.detach()[used].requires_grad_() for side in (image, text)]
        expected = [
            multi_positive_loss(alone[0], caption_ids[used]),
            image_text_loss(*alone, caption_ids[used], logit_scale=2.0),
        ]
        assert [loss.item() for loss in losses] == pytest.approx([loss.item() for loss in expected], rel=1e-10)
        sum(losses).backward()
        sum(expected).backward()
        for side, other in zip((image, text), alone, strict=True):
            torch.testing.assert_close(side.grad[used], other.grad, rtol=1e-9, atol=1e-12)
            assert not side.grad[ignored].any()


def test_without_a_used_row_losses_and_gradients_are_zero() -> None:
    features, ids = batch([0, 0, 1])
    features.requires_grad_()
    weight = torch.zeros(3)
    loss = multi_positive_loss(features, ids, weight=weight)
    loss = loss + image_text_loss(features, features.flip(1), ids, logit_scale=2.0, weight=weight)
    loss.backward()
    assert loss.item() == 0 and not features.grad.any()


def test_batch_norm_equals_torchs_over_the_rows_of_weight_1() -> None:
    torch.manual_seed(0)
    for affine in (True, False):
        ours, theirs = WeightedBatchNorm(5, affine=affine), torch.nn.BatchNorm1d(5, affine=affine)
        rows = (3 + 2 * torch.randn(8, 5)).requires_grad_()
        used = [0, 1, 2, 4, 7]
        weight = torch.zeros(8).index_fill(0, torch.tensor(used), 1)
        alone = rows.detach()[used].requires_grad_()
        normalised, expected = ours(rows, weight)[used], theirs(alone)
        torch.testing.assert_close(normalised, expected)
        (normalised.square() * torch.arange(5.0)).sum().backward()
        (expected.square() * torch.arange(5.0)).sum().backward()
        torch.testing.assert_close(rows.grad[used], alone.grad, atol=1e-5, rtol=1e-4)
        assert not rows.grad[[3, 5, 6]].any()
        for name, value in theirs.state_dict().items():
            torch.testing.assert_close(ours.state_dict()[name], value, msg=name)
        torch.testing.assert_close(ours.eval()(rows), theirs.eval()(rows))
    assert WeightedBatchNorm(5)(torch.randn(3, 5), torch.zeros(3)).isfinite().all()


def test_the_mask_is_computed_for_every_batch() -> None:
    features, _ = batch([0] * 6)
    for ids in ([0, 0, 1, 1, 2, 2], [0, 1, 2, 0, 1, 2]):
        loss = multi_positive_loss(features, torch.tensor(ids), temperature=0.3)
        assert loss.item() == pytest.approx(slow_multi_positive(features, ids, 0.3, range(6)), rel=1e-10)


def test_gradients() -> None:
    features, caption_ids = batch([0, 0, 1, 1, 7])
    features.requires_grad_()
    assert torch.autograd.gradcheck(lambda x: multi_positive_loss(x, caption_ids, temperature=0.5), (features,))
    image, text = (batch([0, 0, 1, 2], seed=seed)[0].requires_grad_() for seed in (1, 2))
    scale = torch.tensor(2.0, dtype=torch.float64, requires_grad=True)
    ids = torch.tensor([0, 0, 1, 2])
    assert torch.autograd.gradcheck(lambda i, t, s: image_text_loss(i, t, ids, logit_scale=s), (image, text, scale))


@pytest.mark.parametrize("ids", [[0], [0, 1, 2, 3]])
def test_no_positives_means_zero_and_no_nan(ids: list[int]) -> None:
    features, caption_ids = batch(ids)
    features = features.float().requires_grad_()
    loss = multi_positive_loss(features, caption_ids)
    loss.backward()
    assert loss.item() == 0 and torch.equal(features.grad, torch.zeros_like(features))


def test_a_row_without_positives_adds_nothing_but_stays_a_candidate() -> None:
    features, _ = batch([0] * 5)
    with_negative = multi_positive_loss(features, torch.tensor([0, 0, 1, 1, 2]), temperature=0.5)
    expected = slow_multi_positive(features, [0, 0, 1, 1, 2], 0.5, range(4))
    assert with_negative.item() == pytest.approx(expected, rel=1e-10)
    without = multi_positive_loss(features[:4], torch.tensor([0, 0, 1, 1]), temperature=0.5)
    assert with_negative > without


def test_equal_features_of_one_caption_give_the_entropy_of_the_target() -> None:
    loss = multi_positive_loss(torch.ones(6, 3), torch.zeros(6, dtype=torch.long))
    assert loss.item() == pytest.approx(math.log(5), rel=1e-6)


def test_bf16_and_autocast_are_computed_in_fp32() -> None:
    features, caption_ids = batch([0, 0, 1, 1, 2, 2], dim=16)
    half = features.to(torch.bfloat16)
    exact = slow_multi_positive(half.double(), caption_ids.tolist(), 0.1, range(6))
    with torch.autocast("cpu", torch.bfloat16):
        losses = [multi_positive_loss(half, caption_ids), multi_positive_loss(half.float(), caption_ids)]
        pairs = image_text_loss(half, half.flip(1), caption_ids, logit_scale=torch.tensor(10.0, dtype=torch.bfloat16))
    for loss in losses:
        assert loss.dtype == torch.float32 and loss.item() == pytest.approx(exact, rel=1e-5)
    expected = slow_image_text(half.double(), half.double().flip(1), caption_ids.tolist(), 10.0)
    assert pairs.dtype == torch.float32 and pairs.item() == pytest.approx(expected, rel=1e-5)


def test_image_text_equals_clip_where_captions_differ() -> None:
    image, ids = batch([0, 1, 2, 3], seed=1)
    text, _ = batch([0, 1, 2, 3], seed=2)
    unit = [torch.nn.functional.normalize(rows, dim=1) for rows in (image, text)]
    logits, targets = 7.0 * unit[0] @ unit[1].T, torch.arange(4)
    clip = sum(torch.nn.functional.cross_entropy(scores, targets) for scores in (logits, logits.T)) / 2
    assert image_text_loss(image, text, ids, logit_scale=7.0).item() == pytest.approx(clip.item(), rel=1e-10)


@pytest.mark.parametrize("ids", [[0, 0, 1, 1, 2], [5, 5, 5]])
def test_pairs_of_one_caption_are_not_negatives(ids: list[int]) -> None:
    image, caption_ids = batch(ids, seed=1)
    text = batch(ids, seed=2)[0]
    first = [ids.index(caption) for caption in ids]
    text = text[first]  # a caption has a single embedding
    loss = image_text_loss(image, text, caption_ids, logit_scale=4.0)
    assert loss.item() == pytest.approx(slow_image_text(image, text, ids, 4.0), rel=1e-10)
    if len(set(ids)) == 1:  # nothing to distinguish: the minimum is the entropy of the target, for any images
        assert loss.item() >= math.log(len(ids)) - 1e-9


def test_mistakes_are_errors_that_name_the_argument() -> None:
    features, ids = batch([0, 0, 1])
    with pytest.raises(ValueError, match="caption_ids"):
        multi_positive_loss(features, ids[:2])
    with pytest.raises(ValueError, match="offset 1"):
        multi_positive_loss(features, ids, candidates=Candidates(features, ids, 1))
    with pytest.raises(ValueError, match="temperature"):
        multi_positive_loss(features, ids, temperature=0.0)
    with pytest.raises(ValueError, match="one shape"):
        image_text_loss(features, features[:2], ids, logit_scale=1.0)


def test_projection_head_trains_towards_the_captions() -> None:
    torch.manual_seed(0)
    head = ProjectionHead(12, hidden=32, out=8)
    kinds = [type(layer).__name__ for layer in head.layers]
    assert kinds == [*["Linear", "WeightedBatchNorm", "ReLU"] * 2, "Linear"]
    assert head.layers[-1].bias is not None and head.layers[0].bias is None
    with_norm = ProjectionHead(12, hidden=32, out=8, last_norm=True)
    kinds = [type(layer).__name__ for layer in with_norm.layers]
    assert kinds == (["Linear", "WeightedBatchNorm", "ReLU"] * 3)[:-1]
    assert with_norm.layers[-1].weight is None, "the last BatchNorm has no scale"
    ids = torch.arange(8).repeat_interleave(3)
    inputs = torch.randn(8, 12)[ids] + 1.5 * torch.randn(24, 12)
    optimizer = torch.optim.AdamW(head.parameters(), lr=3e-3)
    losses = []
    for _ in range(40):
        loss = multi_positive_loss(head(inputs), ids)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.6 * losses[0] and losses[-1] >= math.log(2) - 1e-6  # the target's own entropy
    assert ProjectionHead(4).layers[0].out_features == 4096 and ProjectionHead(4).layers[-1].out_features == 256


def test_gather_in_one_process_changes_nothing() -> None:
    features, ids = batch([0, 1])
    assert gather(features, ids) == (features, ids, 0)


SIZES = (2, 5)  # rows of the two workers


def _rows_of(rank: int, rows: torch.Tensor) -> torch.Tensor:
    return rows[sum(SIZES[:rank]) : sum(SIZES[: rank + 1])]


def _all_workers_rows() -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Features, captions and weights of both workers; a row has weight 0."""
    features, ids = batch([0, 1, 2, 1, 0, 2, 0], dim=6)
    weight = torch.ones(7)
    weight[3] = 0
    return features.float(), ids, weight


def _loss(head: ProjectionHead, features: torch.Tensor, ids: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
    """The losses of a step after the head's batch norms, over all workers."""
    out = head(features, weight)
    gathered, all_ids, offset = gather(torch.cat([out, weight[:, None]], 1), ids)
    candidates = Candidates(gathered[:, :-1], all_ids, offset)
    weights = {"weight": weight, "all_weight": gathered[:, -1]}
    loss = multi_positive_loss(out, ids, temperature=0.5, candidates=candidates, **weights)
    return loss + image_text_loss(out, out, ids, logit_scale=2.0, images=candidates, texts=candidates, **weights)


def _head() -> ProjectionHead:
    torch.manual_seed(0)
    return ProjectionHead(6, hidden=8, out=4, last_norm=True)


def _step_gradients(captions: slice) -> torch.Tensor:
    """Gradients of all parameters of `PairStep`, of a part of four captions with two views each."""
    torch.manual_seed(0)
    sizes = DualEncoderConfig(image_size=32, swin=SWIN, text=STACK, embed_dim=12, vocab_size=50, max_text_tokens=6)
    step = PairStep(DualEncoder(sizes), RepresentConfig(head=(16, 8))).train()
    rng = torch.Generator().manual_seed(1)
    batch = {
        "pixels": torch.randint(0, 256, (4, 2, 32, 32, 3), generator=rng, dtype=torch.uint8),
        "text_ids": torch.randint(1, 50, (4, 6), generator=rng),
        "caption": torch.tensor([3, 1, 3, 2]),
        "weight": torch.tensor([1.0, 1.0, 1.0, 0.0]),
    }
    step({name: values[captions] for name, values in batch.items()})["total"].backward()
    missing = [name for name, parameter in step.named_parameters() if parameter.grad is None]
    assert not missing, missing
    return torch.cat([parameter.grad.flatten() for parameter in step.parameters()])


def _worker(rank: int, folder: str) -> None:
    torch.distributed.init_process_group(
        "gloo", init_method=f"file://{folder}/meet", rank=rank, world_size=2, timeout=timedelta(seconds=120)
    )
    features, ids, weight = (_rows_of(rank, column) for column in _all_workers_rows())
    features = features.clone().requires_grad_()
    head = _head()
    _loss(head, features, ids, weight).backward()
    weights = torch.cat([parameter.grad.flatten() for parameter in head.parameters()])
    step = _step_gradients(slice(0, 1) if rank == 0 else slice(1, 4))
    torch.save((features.grad, weights, step), f"{folder}/grad{rank}.pt")
    torch.distributed.destroy_process_group()


def test_two_workers_with_unequal_rows_step_as_one_with_the_whole_batch(tmp_path: Path) -> None:
    other = mp.get_context("spawn").Process(target=_worker, args=(1, str(tmp_path)), daemon=True)
    other.start()
    _worker(0, str(tmp_path))  # this process is the first worker, which saves a start
    other.join(timeout=60)
    assert other.exitcode == 0
    features, ids, weight = _all_workers_rows()
    features.requires_grad_()
    head = _head()
    _loss(head, features, ids, weight).backward()
    (grad_0, weights_0, step_0), (grad_1, weights_1, step_1) = (
        torch.load(tmp_path / f"grad{rank}.pt", weights_only=True) for rank in (0, 1)
    )
    torch.testing.assert_close(torch.cat([grad_0, grad_1]), features.grad, rtol=1e-4, atol=1e-6)
    weights = torch.cat([parameter.grad.flatten() for parameter in head.parameters()])
    torch.testing.assert_close(weights_0 + weights_1, weights, rtol=1e-4, atol=1e-6)
    # Both sides of the image-text loss, with the logit scale and the image encoder; workers average their gradients.
    torch.testing.assert_close((step_0 + step_1) / 2, _step_gradients(slice(0, 4)), rtol=1e-3, atol=1e-5)
