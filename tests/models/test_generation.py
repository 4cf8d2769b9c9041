"""Contract: beam search equals an exhaustive search, the batch and the cache do not change a caption, and lengths,
penalty and sampling follow their definitions."""

from __future__ import annotations

import itertools

import pytest
import torch

from ram_ray.settings.models import Decoding
from tests import released

VOCAB_SIZE = 9
PROMPT = torch.tensor([5, 6])


@pytest.fixture(scope="module")
def model():
    return released.model("ram", vocab_size=VOCAB_SIZE)


@pytest.fixture(scope="module")
def inputs(model) -> tuple[torch.Tensor, torch.Tensor]:
    torch.manual_seed(3)
    with torch.no_grad():
        tokens = model.encode(torch.randn(3, 3, 48, 48))
    tags = torch.randint(1, VOCAB_SIZE, (3, 6))
    tags[1, 4:] = 0
    return tokens, tags


def _generate(model, inputs, *, end: int = -1, rows: slice = slice(None), seed: int | None = None, **decoding):
    tokens, tags = inputs
    generator = None if seed is None else torch.Generator().manual_seed(seed)
    return model.generate(tokens[rows], tags[rows], PROMPT, end=end, decoding=Decoding(**decoding), generator=generator)


def _log_probabilities(model, inputs, row: int, tokens: tuple[int, ...]) -> float:
    """Log-probability of tokens after the prompt, from a single pass without a cache."""
    image_tokens, tags = inputs
    ids = torch.cat([PROMPT, torch.tensor(tokens)])[None]
    with torch.no_grad():
        context = model.tag_encoder(tags[row : row + 1], image_tokens[row : row + 1])
        # This call masks token 0 as padding, so candidates do not have it.
        scores = model.caption_decoder(ids, context, None).log_softmax(-1)[0]
    return sum(float(scores[len(PROMPT) - 1 + index, token]) for index, token in enumerate(tokens))


def test_as_many_beams_as_tokens_find_the_best_pair(model, inputs) -> None:
    generated = _generate(model, inputs, num_beams=VOCAB_SIZE, max_length=len(PROMPT) + 2)
    for row in range(3):
        pairs = list(itertools.product(range(1, VOCAB_SIZE), repeat=2))
        best = max(pairs, key=lambda pair: _log_probabilities(model, inputs, row, pair))
        pair = tuple(generated[row].tolist())
        if 0 not in pair:
            assert pair == best
        else:
            assert pair[0] == 0 or _log_probabilities(model, inputs, row, best) < 0


@pytest.mark.parametrize("decoding", [{"num_beams": 3}, {"num_beams": 4, "repetition_penalty": 1.3}, {"num_beams": 1}])
def test_a_caption_does_not_depend_on_its_batch(decoding: dict, model, inputs) -> None:
    for end in (-1, 2, 4):
        together = _generate(model, inputs, end=end, max_length=12, **decoding)
        for row in range(3):
            alone = _generate(model, inputs, end=end, rows=slice(row, row + 1), max_length=12, **decoding)[0]
            assert torch.equal(together[row, : len(alone)], alone) and not together[row, len(alone) :].any()


def test_no_end_token_before_the_minimum_length(model, inputs) -> None:
    free = _generate(model, inputs, max_length=14)
    end = int(free[0, 0])
    assert not _generate(model, inputs, end=end, max_length=14)[0].any(), "without a minimum the caption ends at once"
    for beams in (1, 3):
        generated = _generate(model, inputs, end=end, num_beams=beams, min_length=len(PROMPT) + 4, max_length=14)
        assert generated.shape[1] >= 4 and generated[0, :4].ne(end).all()


def test_with_a_strong_penalty_on_log_probabilities_no_token_is_repeated(model, inputs) -> None:
    generated = _generate(model, inputs, num_beams=2, max_length=len(PROMPT) + 4, repetition_penalty=1e6)
    for row in generated.tolist():
        assert len(set(row)) == len(row) and not set(row) & set(PROMPT.tolist())


def test_samples_depend_on_their_seed_and_top_k_1_is_greedy(model, inputs) -> None:
    greedy = _generate(model, inputs, max_length=12)
    assert torch.equal(_generate(model, inputs, sample=True, top_k=1, max_length=12), greedy)
    first, again, other = (
        _generate(model, inputs, sample=True, top_p=1.0, max_length=30, seed=seed) for seed in (1, 1, 2)
    )
    assert torch.equal(first, again) and not torch.equal(first, other)
    with pytest.raises(ValueError, match="leave num_beams at 1"):
        Decoding(sample=True, num_beams=2)


@pytest.mark.parametrize("decoding", [{"num_beams": 1}, {"num_beams": 3}, {"sample": True}])
def test_without_repeated_tags_the_tokens_of_a_tag_come_once(decoding: dict, model, inputs) -> None:
    """The others, and those of the prompt, come as often as they like."""
    image_tokens, prompt = inputs[0], torch.tensor([7])
    tags = torch.tensor([[5, 6, 0], [5, 6, 1], [6, 7, 5]])

    def generate(repeat_tags: bool) -> list[list[int]]:
        options = Decoding(max_length=20, repeat_tags=repeat_tags, **decoding)
        generator = torch.Generator().manual_seed(0)
        return model.generate(image_tokens, tags, prompt, end=-1, decoding=options, generator=generator).tolist()

    free, once = generate(True), generate(False)
    for row, limited in zip(once, tags.tolist(), strict=True):
        assert all(row.count(token) <= 1 for token in set(limited) - {0, 7})
        assert max(map(row.count, row)) > 1
    assert max(row.count(token) for row in free for token in (5, 6)) > 1
