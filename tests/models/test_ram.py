"""Contract: RAM shares the weights that the paper shares, scores any label set, learns, and generates captions."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from ram_ray.models.losses import asymmetric_loss, combine
from ram_ray.models.ram import RecognitionDecoder
from ram_ray.settings.models import TransformerConfig
from tests.tiny import NAMES, SWIN, batch, config, tagger


@pytest.fixture(scope="module")
def model():
    return tagger(spread=6.0)


@pytest.fixture(scope="module")
def tokens(model) -> torch.Tensor:
    with torch.no_grad():
        return model.encode(batch()["pixel_values"])


def test_the_first_image_token_is_the_mean(model) -> None:
    pixels = batch()["pixel_values"]
    features = model.image_encoder(pixels)
    assert features.shape == (3, 1 + 4 * 4, SWIN.num_features)
    torch.testing.assert_close(features[:, 0], features[:, 1:].mean(1))
    assert model.encode(pixels).shape == (3, 17, 12)


def test_another_resolution_gives_more_tokens(model) -> None:
    assert model.image_encoder(torch.randn(1, 3, 48, 48)).shape == (1, 1 + 6 * 6, SWIN.num_features)


def test_the_lowest_layers_of_the_tag_encoder_are_the_recognition_decoders(model) -> None:
    for shared, layer in zip(model.recognition.layers, model.tag_encoder.layers, strict=False):
        assert layer.cross is shared.cross and layer.ffn is shared.ffn
    own = model.tag_encoder.layers[2]
    assert all(own.cross is not shared.cross for shared in model.recognition.layers)
    assert model.recognition.layers[0].attention is None and own.attention is not None
    assert model.recognition.layers[0].heads == 2 and model.tag_encoder.layers[0].heads == 4


def test_the_caption_loss_trains_the_shared_recognition_decoder() -> None:
    model = tagger()
    losses = model(batch())
    losses["text"].backward()
    assert model.recognition.layers[0].cross.key.weight.grad.abs().sum() > 0
    assert model.recognition.fc.weight.grad is None


def test_logits_of_other_tags_equal_those_of_a_model_with_these_tags(model, tokens: torch.Tensor) -> None:
    embed = torch.randn(9, 10)
    other = tagger(spread=6.0)
    other.label_embed = embed
    logits = model.logits(tokens, embed)
    assert logits.shape == (3, 9)
    torch.testing.assert_close(logits, other.logits(tokens))
    assert model.logits(tokens).shape == (3, len(NAMES))


def test_tags_do_not_affect_each_other(model, tokens: torch.Tensor) -> None:
    torch.testing.assert_close(model.logits(tokens, model.label_embed[2:3]), model.logits(tokens)[:, 2:3])


def test_similarity_adds_the_product_of_query_and_mean_token(tokens: torch.Tensor) -> None:
    with_it, without = tagger(similarity=True).eval(), tagger().eval()
    missing, unexpected = without.load_state_dict(with_it.state_dict(), strict=False)
    assert (missing, unexpected) == ([], ["recognition.similarity.weight"])
    queries = with_it.recognition.queries(with_it.label_embed)
    for batch_queries in (queries, queries.repeat(len(tokens), 1, 1)):  # RAM++ has queries for each image
        added = with_it.recognition(batch_queries, tokens) - without.recognition(batch_queries, tokens)
        directions = queries[0] @ with_it.recognition.similarity.weight.T
        torch.testing.assert_close(added, tokens[:, 0] @ directions.T / tokens.shape[-1] ** 0.5)


def test_attention_is_a_distribution_over_image_tokens(model, tokens: torch.Tensor) -> None:
    queries = model.recognition.queries(model.label_embed)
    attention = model.recognition.attention(queries, tokens)
    assert attention.shape == (3, len(NAMES), 16) and (attention >= 0).all()
    torch.testing.assert_close(attention.sum(-1), torch.ones(3, len(NAMES)))
    assert attention.std(-1).min() > 1e-4, "attention differs between image tokens"


def test_label_embeddings_of_another_width_are_a_clear_error() -> None:
    with pytest.raises(ValueError, match=r"\(6, 9\).*\(tags, 10\)"):
        type(tagger())(config(), torch.zeros(6, 9))


def test_queries_of_similar_labels_are_dissimilar_at_first() -> None:
    torch.manual_seed(0)
    embed = torch.nn.functional.normalize(torch.randn(32) + 0.3 * torch.randn(20, 32), dim=-1)
    decoder = RecognitionDecoder(
        TransformerConfig(width=48, layers=1, heads=4, ffn=64), label_width=32, context_width=16
    )
    decoder.spread_queries(embed)
    queries = decoder.label_proj(embed)
    assert 1.5 < queries.std() < 2.5 and queries.mean().abs() < 0.2
    off_diagonal = 1 - torch.eye(20)
    vectors = (embed, torch.nn.functional.normalize(queries, dim=-1))
    embed_cosine, query_cosine = ((rows @ rows.T * off_diagonal).sum() / off_diagonal.sum() for rows in vectors)
    assert embed_cosine > 0.8 and query_cosine < 0.1


def test_losses_follow_the_inputs_of_the_batch_and_are_finite() -> None:
    model = tagger()
    whole = batch()
    losses = model(whole)
    assert losses.keys() == {"tag", "text", "distill"}
    assert all(loss.ndim == 0 and loss.isfinite() for loss in losses.values())
    tags_only = {name: whole[name] for name in ("pixel_values", "targets")}
    assert model(tags_only).keys() == {"tag"}
    tokens = model.encode(whole["pixel_values"])
    torch.testing.assert_close(losses["tag"], asymmetric_loss(model.logits(tokens), whole["targets"]))
    torch.testing.assert_close(losses["distill"], (tokens[:, 0] - whole["teacher"]).abs().mean())


def test_losses_work_under_autocast() -> None:
    model = tagger().train()
    with torch.autocast("cpu", torch.bfloat16):
        losses = model(batch())
    combine(losses).backward()
    assert all(loss.isfinite() for loss in losses.values())
    assert all(p.grad is None or p.grad.isfinite().all() for p in model.parameters())


@pytest.mark.parametrize("start", [1, 3, 5])
def test_the_prompt_and_the_padding_are_not_learned(model, start: int) -> None:
    inputs = batch(start=start)
    ids, tags = inputs["caption_ids"], inputs["tag_ids"]
    tokens = model.encode(inputs["pixel_values"])
    logits = model.caption_decoder(ids, model.tag_encoder(tags, tokens), tags != 0)
    terms = []
    for row in range(3):
        for index in range(start, ids.shape[1]):
            if token := int(ids[row, index]):
                terms.append(F.cross_entropy(logits[row, index - 1], torch.tensor(token), label_smoothing=0.1))
    torch.testing.assert_close(model(inputs)["text"], torch.stack(terms).mean())


def test_padding_of_tags_and_captions_does_not_change_the_logits(model, tokens: torch.Tensor) -> None:
    inputs = batch()
    ids, tags = inputs["caption_ids"], inputs["tag_ids"]
    wide_tags, wide_ids = F.pad(tags, (0, 4)), F.pad(ids, (0, 3))
    context, wide = model.tag_encoder(tags, tokens), model.tag_encoder(wide_tags, tokens)
    mask = tags != 0
    torch.testing.assert_close(wide[:, :6][mask], context[mask])
    logits = model.caption_decoder(ids, context, mask)
    torch.testing.assert_close(model.caption_decoder(wide_ids, wide, wide_tags != 0)[:, :9], logits)


def _greedy(model, tokens, tag_ids, prompt, *, max_tokens: int, end: int) -> torch.Tensor:
    """Generate each caption alone, with a whole pass for every token and without a cache."""
    rows = []
    for row in range(len(tag_ids)):
        context, mask = model.tag_encoder(tag_ids[row : row + 1], tokens[row : row + 1]), tag_ids[row : row + 1] != 0
        ids, generated = prompt[None], []
        for _ in range(max_tokens):
            token = int(model.caption_decoder(ids, context, mask)[0, -1].argmax())
            if token == end:
                break
            generated.append(token)
            ids = torch.cat([ids, torch.tensor([[token]])], dim=1)
        rows.append(generated + [0] * (max_tokens - len(generated)))
    return torch.tensor(rows)


@torch.no_grad()
def test_captions_are_the_greedy_ones(model, tokens: torch.Tensor) -> None:
    tag_ids, prompt = batch()["tag_ids"], torch.tensor([7, 8, 9])
    free = _greedy(model, tokens, tag_ids, prompt, max_tokens=8, end=-1)
    assert len({tuple(row) for row in free.tolist()}) > 1, "captions must differ to detect swapped rows"
    generated = model.generate(tokens, tag_ids, prompt, max_tokens=8, end=-1)
    assert torch.equal(generated, free)
    for end in sorted(set(free[:, 1:].flatten().tolist())):
        expected = _greedy(model, tokens, tag_ids, prompt, max_tokens=8, end=end)
        generated = model.generate(tokens, tag_ids, prompt, max_tokens=8, end=end)
        num_tokens = generated.shape[1]
        assert torch.equal(generated, expected[:, :num_tokens]) and not expected[:, num_tokens:].any()


@torch.no_grad()
def test_a_caption_does_not_depend_on_its_batch(model, tokens: torch.Tensor) -> None:
    tag_ids, prompt = batch()["tag_ids"], torch.tensor([7])
    together = model.generate(tokens, tag_ids, prompt, max_tokens=6, end=-1)
    for row in range(3):
        alone = model.generate(tokens[row : row + 1], tag_ids[row : row + 1], prompt, max_tokens=6, end=-1)
        assert torch.equal(alone[0], together[row])


def test_the_model_overfits_one_batch() -> None:
    model = tagger(spread=4.0).train()
    inputs, steps = batch(4), 120
    optimizer = torch.optim.AdamW(model.parameters(), lr=5e-3)
    # A decreasing learning rate ends at the same weights on every processor; with a constant rate they depend on the
    # last step.
    schedule = torch.optim.lr_scheduler.LinearLR(optimizer, start_factor=1.0, end_factor=0.0, total_iters=steps)
    history = []
    for _ in range(steps):
        losses = model(inputs)
        history.append({name: loss.item() for name, loss in losses.items()})
        optimizer.zero_grad()
        combine(losses).backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()
    first, last = history[0], history[-1]
    assert last["tag"] < 0.1 * first["tag"], (first, last)
    assert last["text"] < 0.3 * first["text"], (first, last)
    assert last["distill"] < 0.3 * first["distill"], (first, last)
    tags = model.eval().logits(model.encode(inputs["pixel_values"])) > 0
    assert torch.equal(tags, inputs["targets"] > 0)
