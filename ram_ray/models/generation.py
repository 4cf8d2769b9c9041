"""Captions word by word: greedy, beam search or sampling, with keys and values of earlier words kept.

The rules are those of the released models' generation (transformers 4.25), so that their captions come out token by
token; unlike there, on newer versions, each image of a batch looks at its own tags alone:

- lengths count tokens with the prompt; before `min_length` the end token cannot come;
- the repetition penalty works on logits, in beam search on log-probabilities, and counts the prompt's words too;
- a beam's score is its summed log-probability over its length without the end token; an image is done when as many
  captions have ended as there are beams and the best open one could not overtake the worst of them.

Letters: B images, K beams, T tokens so far, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from ram_ray.models.captioner import CaptionDecoder
from ram_ray.settings.models import Decoding

Generators = torch.Generator | list[torch.Generator] | None


class Steps:
    """The decoder, fed one word at a time: what earlier words left behind is kept and follows the beams."""

    def __init__(self, decoder: CaptionDecoder, context: Tensor, context_mask: Tensor | None) -> None:
        self._decoder, self._context, self._mask = decoder, context, context_mask
        self._caches: list[dict] = [{} for _ in decoder.layers]
        self._start = 0

    def __call__(self, ids: Tensor) -> Tensor:
        """Decode one step.

        Args:
            ids: (R, T) int64, the new words.

        Returns:
            Logits (R, V) float32 of the next word.
        """
        logits = self._decoder(ids, self._context, self._mask, caches=self._caches, start=self._start)[:, -1]
        self._start += ids.shape[1]
        return logits.float()

    def repeat(self, times: int) -> None:
        """Make `times` rows of each row, beside one another."""
        self._select("self", "cross", rows=lambda one: one.repeat_interleave(times, dim=0))
        if self._mask is not None:
            self._mask = self._mask.repeat_interleave(times, dim=0)

    def reorder(self, rows: Tensor) -> None:
        """Row i goes on from what row `rows[i]` of the same image was.

        Args:
            rows: (R,) int64.
        """
        self._select("self", rows=lambda one: one.index_select(0, rows))

    def _select(self, *parts: str, rows: Callable[[Tensor], Tensor]) -> None:
        for cache in self._caches:
            for part in parts:
                cache[part] = {name: rows(one) for name, one in cache[part].items()}


def generate(
    decoder: CaptionDecoder,
    context: Tensor,
    context_mask: Tensor | None,
    prompt: Tensor,
    *,
    decoding: Decoding,
    max_length: int,
    end: int,
    generator: Generators = None,
) -> Tensor:
    """Ids (B, T) of captions with the prompt: then the words, the end token where it came, and zeros.

    Args:
        decoder: of captions.
        context: (B, T', D), the tag encoder's output; `context_mask` (B, T'), True where it is seen, None: all.
        context_mask: (B, T') bool, True where the context is seen; None: all of it.
        prompt: (P,) ids that every caption begins with.
        decoding: beams, lengths, penalty or draws.
        max_length: most tokens, with the prompt.
        end: id of the end token.
        generator: of the draws, with `decoding.sample`; a list holds one an image, whose draws then do not depend on
            what else is in the batch.

    Returns:
        int64 (B, T).
    """
    steps = Steps(decoder, context, context_mask)
    search = _beams if decoding.num_beams > 1 and not decoding.sample else _single
    return search(
        steps, prompt.expand(len(context), -1), decoding=decoding, max_length=max_length, end=end, generator=generator
    )


def _single(
    steps: Steps, ids: Tensor, *, decoding: Decoding, max_length: int, end: int, generator: Generators
) -> Tensor:
    """Greedy, or with draws: ids (B, P) to (B, T)."""
    done = torch.zeros(len(ids), dtype=torch.bool, device=ids.device)
    new = ids
    while ids.shape[1] < max_length and not bool(done.all()):
        scores = _adjust(steps(new), ids, decoding=decoding, end=end)
        word = _draw(scores, decoding, generator) if decoding.sample else scores.argmax(-1)
        word = word.masked_fill(done, 0)
        done = done | (word == end)
        new = word[:, None]
        ids = torch.cat([ids, new], dim=1)
    return ids


def _draw(scores: Tensor, decoding: Decoding, generator: Generators) -> Tensor:
    """One word a row (R,), among the `top_k` best and of them the fewest that have `top_p` of the probability."""
    kth = scores.topk(min(decoding.top_k, scores.shape[-1]), dim=-1).values[:, -1:]
    scores = scores.masked_fill(scores < kth, -torch.inf)
    ordered, places = scores.sort(dim=-1)
    out = ordered.softmax(-1).cumsum(-1) <= 1 - decoding.top_p
    out[:, -1] = False
    scores = scores.masked_fill(out.scatter(1, places, out), -torch.inf)
    chances = scores.softmax(-1)
    if isinstance(generator, list):
        pairs = zip(chances, generator, strict=True)
        return torch.cat([torch.multinomial(row, 1, generator=one) for row, one in pairs])
    return torch.multinomial(chances, 1, generator=generator).squeeze(1)


class _Ended:
    """The best K captions of one image that have ended: (score, ids)."""

    def __init__(self, size: int) -> None:
        self._size = size
        self._kept: list[tuple[float, Tensor]] = []
        self.done = False

    def add(self, ids: Tensor, total: float) -> None:
        score = total / len(ids)
        if len(self._kept) < self._size or score > self._worst:
            self._kept.append((score, ids))
            if len(self._kept) > self._size:
                del self._kept[min(range(len(self._kept)), key=lambda place: self._kept[place][0])]

    def judge(self, best_total: float, length: int) -> None:
        """Done if no open beam, the best of which has `best_total`, could beat the worst kept."""
        self.done = self.done or (len(self._kept) >= self._size and self._worst >= best_total / length)

    @property
    def _worst(self) -> float:
        return min(score for score, _ in self._kept)

    def best(self) -> Tensor:
        place = max(range(len(self._kept)), key=lambda one: (self._kept[one][0], one))
        return self._kept[place][1]


def _beams(
    steps: Steps, ids: Tensor, *, decoding: Decoding, max_length: int, end: int, generator: Generators
) -> Tensor:
    """Beam search: ids (B, P) to (B, T)."""
    images, beams = len(ids), decoding.num_beams
    ended = [_Ended(beams) for _ in range(images)]
    totals = torch.full((images, beams), -1e9, device=ids.device)
    totals[:, 0] = 0  # all beams begin alike: only the first counts
    logits = steps(ids)
    steps.repeat(beams)
    ids, logits = ids.repeat_interleave(beams, dim=0), logits.repeat_interleave(beams, dim=0)
    while ids.shape[1] < max_length:
        scores = _adjust(logits.log_softmax(-1), ids, decoding=decoding, end=end) + totals.view(-1, 1)
        size = scores.shape[-1]
        best, places = scores.view(images, -1).topk(2 * beams, dim=1)
        going: list[tuple[float, int, int]] = []
        for image, found in enumerate(zip(best.tolist(), places.tolist(), strict=True)):
            first = image * beams
            candidates = [(total, first + place // size, place % size) for total, place in zip(*found, strict=True)]
            going += _go_on(candidates, ended[image], ids, beams=beams, end=end, first=first)
        sums, rows, words = zip(*going, strict=True)
        totals = torch.tensor(sums, device=ids.device).view(images, beams)
        chosen, new = torch.tensor(rows, device=ids.device), torch.tensor(words, device=ids.device)[:, None]
        ids = torch.cat([ids.index_select(0, chosen), new], dim=1)
        if all(one.done for one in ended) or ids.shape[1] >= max_length:
            break
        steps.reorder(chosen)
        logits = steps(new)
    return _pad([_finish(one, ids, totals, first=image * beams) for image, one in enumerate(ended)], end, max_length)


def _go_on(
    candidates: list[tuple[float, int, int]], ended: _Ended, ids: Tensor, *, beams: int, end: int, first: int
) -> list[tuple[float, int, int]]:
    """One image's next beams as (total, row, word), from its 2K best (total, row, word); ended ones are kept."""
    if ended.done:
        return [(0.0, first, 0)] * beams
    going: list[tuple[float, int, int]] = []
    for rank, (total, row, word) in enumerate(candidates):
        if word == end:
            if rank < beams:
                ended.add(ids[row].clone(), total)
        else:
            going.append((total, row, word))
        if len(going) == beams:
            break
    ended.judge(candidates[0][0], ids.shape[1])
    return going


def _finish(ended: _Ended, ids: Tensor, totals: Tensor, *, first: int) -> Tensor:
    """The best caption of an image, open beams counted as they stand."""
    if not ended.done:
        for beam, total in enumerate(totals.view(-1)[first : first + totals.shape[1]].tolist()):
            ended.add(ids[first + beam], total)
    return ended.best()


def _pad(rows: list[Tensor], end: int, max_length: int) -> Tensor:
    """Rows of different lengths to one (B, T), the end token behind each that has room for it."""
    length = min(max(map(len, rows)) + 1, max_length)
    out = rows[0].new_zeros(len(rows), length)
    for place, row in enumerate(rows):
        out[place, : len(row)] = row
        if len(row) < length:
            out[place, len(row)] = end
    return out


def _adjust(scores: Tensor, ids: Tensor, *, decoding: Decoding, end: int) -> Tensor:
    """Scores (R, V) of the next word after ids (R, T), with the repetition penalty and the least length."""
    if decoding.repetition_penalty != 1:
        there = scores.gather(1, ids)
        penalty = decoding.repetition_penalty
        scores = scores.scatter(1, ids, torch.where(there < 0, there * penalty, there / penalty))
    if ids.shape[1] < decoding.min_length and end >= 0:
        scores = scores.index_fill(1, torch.tensor([end], device=scores.device), -torch.inf)
    return scores
