"""Contract: RAM shares what the paper shares, answers for any label set, learns, and captions as it was taught."""

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


def test_image_tokens_have_their_mean_in_front(model) -> None:
    pixels = batch()["pixel_values"]
    features = model.image_encoder(pixels)
    assert features.shape == (3, 1 + 4 * 4, SWIN.num_features)
    torch.testing.assert_close(features[:, 0], features[:, 1:].mean(1))
    assert model.encode(pixels).shape == (3, 17, 12)


def test_another_resolution_gives_more_tokens(model) -> None:
    assert model.image_encoder(torch.randn(1, 3, 48, 48)).shape == (1, 1 + 6 * 6, SWIN.num_features)


def test_the_lowest_layers_of_the_tag_encoder_are_the_recognition_decoders(model) -> None:
    for lender, layer in zip(model.recognition.layers, model.tag_encoder.layers, strict=False):
        assert layer.cross is lender.cross and layer.ffn is lender.ffn
    own = model.tag_encoder.layers[2]
    assert all(own.cross is not one.cross for one in model.recognition.layers)
    assert model.recognition.layers[0].attention is None and own.attention is not None
    assert model.recognition.layers[0].heads == 2 and model.tag_encoder.layers[0].heads == 4


def test_a_caption_alone_teaches_the_recognition_decoder() -> None:
    model = tagger()
    losses = model(batch())
    losses["text"].backward()
    assert model.recognition.layers[0].cross.key.weight.grad.abs().sum() > 0
    assert model.recognition.fc.weight.grad is None


def test_logits_for_other_tags_are_those_of_a_model_with_other_tags(model, tokens: torch.Tensor) -> None:
    embed = torch.randn(9, 10)
    other = tagger(spread=6.0)
    other.label_embed = embed
    logits = model.logits(tokens, embed)
    assert logits.shape == (3, 9)
    torch.testing.assert_close(logits, other.logits(tokens))
    assert model.logits(tokens).shape == (3, len(NAMES))


def test_tags_do_not_see_one_another(model, tokens: torch.Tensor) -> None:
    torch.testing.assert_close(model.logits(tokens, model.label_embed[2:3]), model.logits(tokens)[:, 2:3])


def test_similarity_adds_the_product_of_query_and_mean_token(tokens: torch.Tensor) -> None:
    with_it, without = tagger(similarity=True).eval(), tagger().eval()
    missing, unexpected = without.load_state_dict(with_it.state_dict(), strict=False)
    assert (missing, unexpected) == ([], ["recognition.similarity.weight"])
    queries = with_it.recognition.queries(with_it.label_embed)
    for one in (queries, queries.repeat(len(tokens), 1, 1)):  # RAM++ has queries of each image
        added = with_it.recognition(one, tokens) - without.recognition(one, tokens)
        directions = queries[0] @ with_it.recognition.similarity.weight.T
        torch.testing.assert_close(added, tokens[:, 0] @ directions.T / tokens.shape[-1] ** 0.5)


def test_attention_is_a_share_of_the_image(model, tokens: torch.Tensor) -> None:
    queries = model.recognition.queries(model.label_embed)
    attention = model.recognition.attention(queries, tokens)
    assert attention.shape == (3, len(NAMES), 16) and (attention >= 0).all()
    torch.testing.assert_close(attention.sum(-1), torch.ones(3, len(NAMES)))
    assert attention.std(-1).min() > 1e-4, "different places are looked at differently"


def test_label_embeddings_of_another_width_are_one_clear_error() -> None:
    with pytest.raises(ValueError, match=r"\(6, 9\).*\(tags, 10\)"):
        type(tagger())(config(), torch.zeros(6, 9))


def test_queries_of_labels_that_lie_close_together_start_unlike() -> None:
    torch.manual_seed(0)
    embed = torch.nn.functional.normalize(torch.randn(32) + 0.3 * torch.randn(20, 32), dim=-1)
    decoder = RecognitionDecoder(
        TransformerConfig(width=48, layers=1, heads=4, ffn=64), label_width=32, context_width=16
    )
    decoder.spread_queries(embed)
    queries = decoder.label_proj(embed)
    assert 1.5 < queries.std() < 2.5 and queries.mean().abs() < 0.2
    apart = 1 - torch.eye(20)
    before, after = (
        (one @ one.T * apart).sum() / apart.sum() for one in (embed, torch.nn.functional.normalize(queries, dim=-1))
    )
    assert before > 0.8 and after < 0.1


def test_losses_are_there_for_what_the_batch_has_and_finite() -> None:
    model = tagger()
    whole = batch()
    losses = model(whole)
    assert losses.keys() == {"tag", "text", "distill"}
    assert all(one.ndim == 0 and one.isfinite() for one in losses.values())
    bare = {name: whole[name] for name in ("pixel_values", "targets")}
    assert model(bare).keys() == {"tag"}
    tokens = model.encode(whole["pixel_values"])
    torch.testing.assert_close(losses["tag"], asymmetric_loss(model.logits(tokens), whole["targets"]))
    torch.testing.assert_close(losses["distill"], (tokens[:, 0] - whole["teacher"]).abs().mean())


def test_losses_work_under_autocast() -> None:
    model = tagger().train()
    with torch.autocast("cpu", torch.bfloat16):
        losses = model(batch())
    combine(losses).backward()
    assert all(one.isfinite() for one in losses.values())
    assert all(p.grad is None or p.grad.isfinite().all() for p in model.parameters())


@pytest.mark.parametrize("start", [1, 3, 5])
def test_the_prompt_and_the_padding_are_not_learnt(model, start: int) -> None:
    inputs = batch(start=start)
    ids, tags = inputs["caption_ids"], inputs["tag_ids"]
    tokens = model.encode(inputs["pixel_values"])
    logits = model.caption_decoder(ids, model.tag_encoder(tags, tokens), tags != 0)
    terms = []
    for row in range(3):
        for place in range(start, ids.shape[1]):
            if word := int(ids[row, place]):
                terms.append(F.cross_entropy(logits[row, place - 1], torch.tensor(word), label_smoothing=0.1))
    torch.testing.assert_close(model(inputs)["text"], torch.stack(terms).mean())


def test_padding_of_tags_and_captions_changes_nothing(model, tokens: torch.Tensor) -> None:
    inputs = batch()
    ids, tags = inputs["caption_ids"], inputs["tag_ids"]
    wide_tags, wide_ids = F.pad(tags, (0, 4)), F.pad(ids, (0, 3))
    context, wide = model.tag_encoder(tags, tokens), model.tag_encoder(wide_tags, tokens)
    seen = tags != 0
    torch.testing.assert_close(wide[:, :6][seen], context[seen])
    logits = model.caption_decoder(ids, context, seen)
    torch.testing.assert_close(model.caption_decoder(wide_ids, wide, wide_tags != 0)[:, :9], logits)


def _greedy(model, tokens, tag_ids, prompt, *, max_tokens: int, end: int) -> torch.Tensor:
    """Caption by caption, the whole sequence anew for every word, no cache."""
    rows = []
    for row in range(len(tag_ids)):
        context, mask = model.tag_encoder(tag_ids[row : row + 1], tokens[row : row + 1]), tag_ids[row : row + 1] != 0
        ids, words = prompt[None], []
        for _ in range(max_tokens):
            word = int(model.caption_decoder(ids, context, mask)[0, -1].argmax())
            if word == end:
                break
            words.append(word)
            ids = torch.cat([ids, torch.tensor([[word]])], dim=1)
        rows.append(words + [0] * (max_tokens - len(words)))
    return torch.tensor(rows)


@torch.no_grad()
def test_captions_are_the_greedy_ones(model, tokens: torch.Tensor) -> None:
    tag_ids, prompt = batch()["tag_ids"], torch.tensor([7, 8, 9])
    free = _greedy(model, tokens, tag_ids, prompt, max_tokens=8, end=-1)
    assert len({tuple(row) for row in free.tolist()}) > 1, "the test must be able to see rows mixed up"
    made = model.generate(tokens, tag_ids, prompt, max_tokens=8, end=-1)
    assert torch.equal(made, free)
    for end in sorted(set(free[:, 1:].flatten().tolist())):
        expected = _greedy(model, tokens, tag_ids, prompt, max_tokens=8, end=end)
        made = model.generate(tokens, tag_ids, prompt, max_tokens=8, end=end)
        assert torch.equal(made, expected[:, : made.shape[1]]) and not expected[:, made.shape[1] :].any()


@torch.no_grad()
def test_a_caption_does_not_depend_on_its_batch(model, tokens: torch.Tensor) -> None:
    tag_ids, prompt = batch()["tag_ids"], torch.tensor([7])
    together = model.generate(tokens, tag_ids, prompt, max_tokens=6, end=-1)
    for row in range(3):
        alone = model.generate(tokens[row : row + 1], tag_ids[row : row + 1], prompt, max_tokens=6, end=-1)
        assert torch.equal(alone[0], together[row])


def test_it_overfits_one_batch() -> None:
    model = tagger(spread=4.0).train()
    inputs, steps = batch(4), 120
    optimizer = torch.optim.AdamW(model.parameters(), lr=5e-3)
    # Steps that shorten end at the same weights on every processor; with equal ones the last step decides.
    schedule = torch.optim.lr_scheduler.LinearLR(optimizer, start_factor=1.0, end_factor=0.0, total_iters=steps)
    history = []
    for _ in range(steps):
        losses = model(inputs)
        history.append({name: one.item() for name, one in losses.items()})
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
