"""Contract: beams find what an exhaustive search finds, a batch changes no caption, kept keys and values change no
word, and lengths, penalty and draws do what they say."""

from __future__ import annotations

import itertools

import pytest
import torch

from ram_ray.settings.models import Decoding
from tests import released

WORDS = 9
PROMPT = torch.tensor([5, 6])


@pytest.fixture(scope="module")
def model():
    return released.model("ram", vocab_size=WORDS)


@pytest.fixture(scope="module")
def inputs(model) -> tuple[torch.Tensor, torch.Tensor]:
    torch.manual_seed(3)
    with torch.no_grad():
        tokens = model.encode(torch.randn(3, 3, 48, 48))
    tags = torch.randint(1, WORDS, (3, 6))
    tags[1, 4:] = 0
    return tokens, tags


def _make(model, inputs, *, end: int = -1, rows: slice = slice(None), seed: int | None = None, **decoding):
    tokens, tags = inputs
    generator = None if seed is None else torch.Generator().manual_seed(seed)
    return model.generate(tokens[rows], tags[rows], PROMPT, end=end, decoding=Decoding(**decoding), generator=generator)


def _log_probabilities(model, inputs, row: int, words: tuple[int, ...]) -> float:
    """Of the words behind the prompt, the whole sequence at once and no cache."""
    tokens, tags = inputs
    ids = torch.cat([PROMPT, torch.tensor(words)])[None]
    with torch.no_grad():
        context = model.tag_encoder(tags[row : row + 1], tokens[row : row + 1])
        # A word of id 0 is hidden as padding in this call, so candidates leave it out.
        scores = model.caption_decoder(ids, context, None).log_softmax(-1)[0]
    return sum(float(scores[len(PROMPT) - 1 + place, word]) for place, word in enumerate(words))


def test_as_many_beams_as_words_find_the_best_pair(model, inputs) -> None:
    made = _make(model, inputs, num_beams=WORDS, max_length=len(PROMPT) + 2)
    for row in range(3):
        pairs = list(itertools.product(range(1, WORDS), repeat=2))
        best = max(pairs, key=lambda pair: _log_probabilities(model, inputs, row, pair))
        found = tuple(made[row].tolist())
        if 0 not in found:
            assert found == best
        else:
            assert found[0] == 0 or _log_probabilities(model, inputs, row, best) < 0


@pytest.mark.parametrize("decoding", [{"num_beams": 3}, {"num_beams": 4, "repetition_penalty": 1.3}, {"num_beams": 1}])
def test_a_caption_does_not_depend_on_its_batch(decoding: dict, model, inputs) -> None:
    for end in (-1, 2, 4):
        together = _make(model, inputs, end=end, max_length=12, **decoding)
        for row in range(3):
            alone = _make(model, inputs, end=end, rows=slice(row, row + 1), max_length=12, **decoding)[0]
            assert torch.equal(together[row, : len(alone)], alone) and not together[row, len(alone) :].any()


def test_no_end_before_the_least_length(model, inputs) -> None:
    free = _make(model, inputs, max_length=14)
    end = int(free[0, 0])
    assert not _make(model, inputs, end=end, max_length=14)[0].any(), "it would end at once"
    for beams in (1, 3):
        made = _make(model, inputs, end=end, num_beams=beams, min_length=len(PROMPT) + 4, max_length=14)
        assert made.shape[1] >= 4 and made[0, :4].ne(end).all()


def test_a_strong_penalty_on_log_probabilities_repeats_no_word(model, inputs) -> None:
    made = _make(model, inputs, num_beams=2, max_length=len(PROMPT) + 4, repetition_penalty=1e6)
    for row in made.tolist():
        assert len(set(row)) == len(row) and not set(row) & set(PROMPT.tolist())


def test_draws_follow_their_seed_and_a_single_choice_is_the_greedy_one(model, inputs) -> None:
    greedy = _make(model, inputs, max_length=12)
    assert torch.equal(_make(model, inputs, sample=True, top_k=1, max_length=12), greedy)
    first, again, other = (_make(model, inputs, sample=True, top_p=1.0, max_length=30, seed=seed) for seed in (1, 1, 2))
    assert torch.equal(first, again) and not torch.equal(first, other)
    with pytest.raises(ValueError, match="leave num_beams at 1"):
        Decoding(sample=True, num_beams=2)
