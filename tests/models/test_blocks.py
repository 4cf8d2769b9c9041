"""Contract: a cache, queries shared by all rows, and padding do not change the result."""

from __future__ import annotations

from functools import partial

import pytest
import torch

from ram_ray.models.blocks import Attention, Block, FeedForward, TokenEmbedding, initialise

WIDTH, HEADS = 16, 4


@pytest.fixture(autouse=True)
def _seed() -> None:
    torch.manual_seed(0)


def _block(**changes) -> Block:
    return Block(WIDTH, **{"heads": HEADS, "ffn": 32, "dropout": 0.0, "context_width": 12, **changes}).eval()


def test_attention_is_softmax_of_scaled_products() -> None:
    attention = Attention(WIDTH, 12, dropout=0.0).eval()
    x, context = torch.randn(2, 3, WIDTH), torch.randn(2, 5, 12)
    expected = torch.zeros(2, 3, WIDTH)
    q, k, v = attention.query(x), attention.key(context), attention.value(context)
    size = WIDTH // HEADS
    shares = torch.zeros(2, 3, 5)
    for b in range(2):
        for head in range(HEADS):
            part = slice(head * size, (head + 1) * size)
            for t in range(3):
                scores = torch.stack([q[b, t, part] @ k[b, s, part] for s in range(5)]) / size**0.5
                share = scores.softmax(0)
                shares[b, t] += share / HEADS
                expected[b, t, part] = sum(share[s] * v[b, s, part] for s in range(5))
    expected = attention.norm(attention.out(expected) + x)
    torch.testing.assert_close(attention(x, context, heads=HEADS), expected, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(attention.weights(x, context, heads=HEADS), shares, atol=1e-5, rtol=1e-5)


def test_the_number_of_heads_is_an_argument_of_the_call() -> None:
    attention = Attention(WIDTH, 12, dropout=0.0).eval()
    x, context = torch.randn(2, 3, WIDTH), torch.randn(2, 5, 12)
    two_heads, four_heads = (attention(x, context, heads=heads) for heads in (2, 4))
    assert two_heads.shape == four_heads.shape and not torch.allclose(two_heads, four_heads, atol=1e-4)


@pytest.mark.parametrize("first", [1, 3])
def test_decoding_with_a_cache_equals_the_whole_causal_pass(first: int) -> None:
    block = _block()
    x, context = torch.randn(2, 7, WIDTH), torch.randn(2, 5, 12)
    context_mask = torch.tensor([[True] * 5, [True] * 3 + [False] * 2])[:, None, None, :]
    whole = block(x, context, context_mask=context_mask, causal=True)
    cache: dict = {}
    parts = [block(x[:, :first], context, context_mask=context_mask, causal=first > 1, cache=cache)]
    for index in range(first, 7):  # after the first call the cache has the context
        parts.append(block(x[:, index : index + 1], None, context_mask=context_mask, cache=cache))
    torch.testing.assert_close(torch.cat(parts, 1), whole, atol=1e-5, rtol=1e-5)


def test_with_causal_later_tokens_do_not_change_earlier_results() -> None:
    block = _block(context_width=None)
    x = torch.randn(1, 6, WIDTH)
    changed = x.clone()
    changed[:, 4:] += 1
    expected, result = block(x, causal=True), block(changed, causal=True)
    torch.testing.assert_close(result[:, :4], expected[:, :4])
    assert not torch.allclose(result[:, 4:], expected[:, 4:])
    assert not torch.allclose(block(x)[:, :4], block(changed)[:, :4]), "without `causal` they do"


def test_queries_of_batch_size_1_are_used_for_every_row() -> None:
    block = _block(self_attention=False)
    queries, context = torch.randn(1, 4, WIDTH), torch.randn(3, 5, 12)
    torch.testing.assert_close(block(queries, context), block(queries.expand(3, -1, -1), context))


def test_padding_is_not_attended_to() -> None:
    block = _block(context_width=None)
    x = torch.randn(2, 6, WIDTH)
    mask = torch.tensor([[True] * 6, [True] * 4 + [False] * 2])
    y = block(x, mask=mask[:, None, None, :])
    torch.testing.assert_close(y[1:, :4], block(x[1:, :4]))
    torch.testing.assert_close(y[:1], block(x[:1]))
    noise = x.clone()
    noise[1, 4:] = 100.0
    torch.testing.assert_close(block(noise, mask=mask[:, None, None, :])[1, :4], y[1, :4])


def test_the_context_mask_hides_context() -> None:
    block = _block()
    x, context = torch.randn(1, 3, WIDTH), torch.randn(1, 5, 12)
    mask = torch.tensor([True, True, False, True, False])
    torch.testing.assert_close(block(x, context, context_mask=mask[None, None, None]), block(x, context[:, mask]))


def test_feed_forward_is_post_norm_with_gelu() -> None:
    layer = FeedForward(WIDTH, 32, dropout=0.0).eval()
    x = torch.randn(2, 3, WIDTH)
    hidden = x @ layer.up.weight.T + layer.up.bias
    hidden = hidden * 0.5 * (1 + torch.erf(hidden / 2**0.5))
    y = hidden @ layer.down.weight.T + layer.down.bias + x
    y = (y - y.mean(-1, keepdim=True)) / y.var(-1, keepdim=True, unbiased=False).sqrt()
    torch.testing.assert_close(layer(x), y, atol=1e-5, rtol=1e-5)


def test_dropout_acts_in_training_only() -> None:
    block = _block(dropout=0.5)
    x, context = torch.randn(1, 3, WIDTH), torch.randn(1, 5, 12)
    torch.testing.assert_close(block(x, context), block(x, context))
    block.train()
    assert not torch.allclose(block(x, context), block(x, context))


def test_embeddings_start_at_the_given_position() -> None:
    embedding = TokenEmbedding(20, WIDTH, max_positions=8, dropout=0.0).eval()
    ids = torch.randint(1, 20, (2, 6))
    torch.testing.assert_close(embedding(ids[:, 4:], start=4), embedding(ids)[:, 4:])
    assert not torch.allclose(embedding(ids[:, 4:]), embedding(ids)[:, 4:])


def test_initialisation_is_berts() -> None:
    linear, embedding = torch.nn.Linear(200, 200), torch.nn.Embedding(200, 200, padding_idx=0)
    for module in (linear, embedding):
        initialise(module)
    assert abs(linear.weight.std().item() - 0.02) < 1e-3 and not linear.bias.any()
    assert abs(embedding.weight[1:].std().item() - 0.02) < 1e-3 and not embedding.weight[0].any()


def test_initialisation_by_width_keeps_the_scale_of_the_signal() -> None:
    torch.manual_seed(0)
    layers = torch.nn.Sequential(*(torch.nn.Linear(96, 96) for _ in range(4)))
    x = torch.randn(100, 96)
    assert layers.apply(initialise)(x).std() < 0.01
    assert 0.7 < layers.apply(partial(initialise, std=None))(x).std() < 1.4
