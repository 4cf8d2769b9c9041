"""Token-by-token caption generation: greedy, beam search or sampling, with cached keys and values.

The rules are those of the released models' generation (transformers 4.25), so captions are equal token by token. Unlike
there with newer versions, each image of a batch attends only to its own tags.

- Lengths count tokens with the prompt; the end token is not allowed before `min_length`.
- The repetition penalty applies to logits, in beam search to log-probabilities, and includes the tokens of the prompt.
- Without `repeat_tags` the tokens of an image's tags come once each; the prompt's tokens are free.
- The score of a beam is its summed log-probability divided by its length without the end token. The search of an image
  ends when K captions are finished and no open beam can exceed the worst of them.

Letters: B images, K beams, R rows (B, or B x K beams), P prompt tokens, T tokens so far, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from ram_ray.models.captioner import CaptionDecoder
from ram_ray.settings.models import Decoding

Generators = torch.Generator | list[torch.Generator] | None


class CachedDecoder:
    """The caption decoder with cached keys and values of earlier tokens; the caches follow the beams.

    Args:
        decoder: the caption decoder.
        context: (R, T', D), the tag encoder's output.
        context_mask: (R, T') bool, True where attention is allowed; None: everywhere.
    """

    def __init__(self, decoder: CaptionDecoder, context: Tensor, context_mask: Tensor | None) -> None:
        self._decoder, self._context, self._mask = decoder, context, context_mask
        self._caches: list[dict] = [{} for _ in decoder.layers]
        self._start = 0

    def __call__(self, ids: Tensor) -> Tensor:
        """Compute the logits of the next token.

        Args:
            ids: (R, T) int64, the new tokens.

        Returns:
            Logits (R, V) float32.
        """
        logits = self._decoder(ids, self._context, self._mask, caches=self._caches, start=self._start)[:, -1]
        self._start += ids.shape[1]
        return logits.float()

    def repeat(self, times: int) -> None:
        """Repeat each row.

        Args:
            times: number of copies, which become adjacent rows.
        """
        self._map_caches("self", "cross", select=lambda tensor: tensor.repeat_interleave(times, dim=0))
        if self._mask is not None:
            self._mask = self._mask.repeat_interleave(times, dim=0)

    def reorder(self, rows: Tensor) -> None:
        """Replace row i by row `rows[i]` of the same image.

        Args:
            rows: (R,) int64.
        """
        self._map_caches("self", select=lambda tensor: tensor.index_select(0, rows))

    def _map_caches(self, *attentions: str, select: Callable[[Tensor], Tensor]) -> None:
        for cache in self._caches:
            for attention in attentions:
                cache[attention] = {name: select(tensor) for name, tensor in cache[attention].items()}


def generate(
    decoder: CaptionDecoder,
    context: Tensor,
    context_mask: Tensor | None,
    prompt: Tensor,
    *,
    decoding: Decoding,
    max_length: int,
    end: int,
    tag_ids: Tensor | None = None,
    generator: Generators = None,
) -> Tensor:
    """Generate captions.

    Args:
        decoder: the caption decoder.
        context: (B, T', D), the tag encoder's output.
        context_mask: (B, T') bool, True where attention is allowed; None: everywhere.
        prompt: (P,) ids of the first tokens of every caption.
        decoding: beams, lengths, repetition penalty or sampling.
        max_length: maximum tokens, with the prompt.
        end: id of the end token.
        tag_ids: (B, T') ids of the tags that guide the captions, for `decoding.repeat_tags` false.
        generator: generator of the draws, with `decoding.sample`. A list has a generator for each image, whose draws
            then do not depend on the other images.

    Returns:
        int64 (B, T): the prompt, the caption, the end token if generated, and zeros.
    """
    cached = CachedDecoder(decoder, context, context_mask)
    search = _beam_search if decoding.num_beams > 1 and not decoding.sample else _greedy_or_sample
    once = None
    if tag_ids is not None and not decoding.repeat_tags:
        vocab_size = decoder.embedding.word.num_embeddings
        once = torch.zeros(len(context), vocab_size, dtype=torch.bool, device=tag_ids.device)
        once = once.scatter(1, tag_ids, True).index_fill(1, prompt, False)
    return search(
        cached,
        prompt.expand(len(context), -1),
        once=once,
        decoding=decoding,
        max_length=max_length,
        end=end,
        generator=generator,
    )


def _greedy_or_sample(
    decoder: CachedDecoder,
    ids: Tensor,
    *,
    once: Tensor | None,
    decoding: Decoding,
    max_length: int,
    end: int,
    generator: Generators,
) -> Tensor:
    """Generate greedily or by sampling: ids (B, P) to (B, T); `once` (B, V) marks tokens that come once."""
    ended = torch.zeros(len(ids), dtype=torch.bool, device=ids.device)
    new = ids
    while ids.shape[1] < max_length and not bool(ended.all()):
        scores = _adjust(decoder(new), ids, once=once, decoding=decoding, end=end)
        tokens = _sample(scores, decoding, generator) if decoding.sample else scores.argmax(-1)
        tokens = tokens.masked_fill(ended, 0)
        ended = ended | (tokens == end)
        new = tokens[:, None]
        ids = torch.cat([ids, new], dim=1)
    return ids


def _sample(scores: Tensor, decoding: Decoding, generator: Generators) -> Tensor:
    """Draw a token (R,) of each row from its `top_k` best tokens, limited to the fewest with probability `top_p`."""
    kth = scores.topk(min(decoding.top_k, scores.shape[-1]), dim=-1).values[:, -1:]
    scores = scores.masked_fill(scores < kth, -torch.inf)
    ordered, order = scores.sort(dim=-1)
    excluded = ordered.softmax(-1).cumsum(-1) <= 1 - decoding.top_p
    excluded[:, -1] = False
    scores = scores.masked_fill(excluded.scatter(1, order, excluded), -torch.inf)
    probabilities = scores.softmax(-1)
    if isinstance(generator, list):
        pairs = zip(probabilities, generator, strict=True)
        return torch.cat([torch.multinomial(row, 1, generator=row_generator) for row, row_generator in pairs])
    return torch.multinomial(probabilities, 1, generator=generator).squeeze(1)


class _FinishedCaptions:
    """The K best finished captions of an image: (score, ids)."""

    def __init__(self, size: int) -> None:
        self._size = size
        self._captions: list[tuple[float, Tensor]] = []
        self.is_complete = False

    def add(self, ids: Tensor, total: float) -> None:
        score = total / len(ids)
        if len(self._captions) < self._size or score > self._worst:
            self._captions.append((score, ids))
            if len(self._captions) > self._size:
                del self._captions[min(range(len(self._captions)), key=lambda index: self._captions[index][0])]

    def update_complete(self, best_total: float, length: int) -> None:
        """Set `is_complete` if no open beam, with at most `best_total`, can exceed the worst caption."""
        full = len(self._captions) >= self._size
        self.is_complete = self.is_complete or (full and self._worst >= best_total / length)

    @property
    def _worst(self) -> float:
        return min(score for score, _ in self._captions)

    def best(self) -> Tensor:
        best = max(range(len(self._captions)), key=lambda index: (self._captions[index][0], index))
        return self._captions[best][1]


def _beam_search(
    decoder: CachedDecoder,
    ids: Tensor,
    *,
    once: Tensor | None,
    decoding: Decoding,
    max_length: int,
    end: int,
    generator: Generators,
) -> Tensor:
    """Generate by beam search: ids (B, P) to (B, T); `once` (B, V) marks tokens that come once."""
    num_images, beams = len(ids), decoding.num_beams
    finished = [_FinishedCaptions(beams) for _ in range(num_images)]
    totals = torch.full((num_images, beams), -1e9, device=ids.device)
    totals[:, 0] = 0  # all beams are equal at first, so only the first is used
    logits = decoder(ids)
    decoder.repeat(beams)
    ids, logits = ids.repeat_interleave(beams, dim=0), logits.repeat_interleave(beams, dim=0)
    once = None if once is None else once.repeat_interleave(beams, dim=0)
    while ids.shape[1] < max_length:
        scores = _adjust(logits.log_softmax(-1), ids, once=once, decoding=decoding, end=end) + totals.view(-1, 1)
        size = scores.shape[-1]
        best, indices = scores.view(num_images, -1).topk(2 * beams, dim=1)
        open_beams: list[tuple[float, int, int]] = []
        for image, top in enumerate(zip(best.tolist(), indices.tolist(), strict=True)):
            first = image * beams
            candidates = [(total, first + index // size, index % size) for total, index in zip(*top, strict=True)]
            open_beams += _next_beams(candidates, finished[image], ids, beams=beams, end=end, first=first)
        sums, rows, tokens = zip(*open_beams, strict=True)
        totals = torch.tensor(sums, device=ids.device).view(num_images, beams)
        selected, new = torch.tensor(rows, device=ids.device), torch.tensor(tokens, device=ids.device)[:, None]
        ids = torch.cat([ids.index_select(0, selected), new], dim=1)
        if all(captions.is_complete for captions in finished) or ids.shape[1] >= max_length:
            break
        decoder.reorder(selected)
        logits = decoder(new)
    best_ids = [_best_caption(captions, ids, totals, first=image * beams) for image, captions in enumerate(finished)]
    return _pad(best_ids, end, max_length)


def _next_beams(
    candidates: list[tuple[float, int, int]],
    finished: _FinishedCaptions,
    ids: Tensor,
    *,
    beams: int,
    end: int,
    first: int,
) -> list[tuple[float, int, int]]:
    """Select an image's K next beams of its 2K best candidates, each (total, row, token); record finished captions."""
    if finished.is_complete:
        return [(0.0, first, 0)] * beams
    open_beams: list[tuple[float, int, int]] = []
    for rank, (total, row, token) in enumerate(candidates):
        if token == end:
            if rank < beams:
                finished.add(ids[row].clone(), total)
        else:
            open_beams.append((total, row, token))
        if len(open_beams) == beams:
            break
    finished.update_complete(candidates[0][0], ids.shape[1])
    return open_beams


def _best_caption(finished: _FinishedCaptions, ids: Tensor, totals: Tensor, *, first: int) -> Tensor:
    """The best caption of an image; if its search is incomplete, open beams are included."""
    if not finished.is_complete:
        for beam, total in enumerate(totals.view(-1)[first : first + totals.shape[1]].tolist()):
            finished.add(ids[first + beam], total)
    return finished.best()


def _pad(rows: list[Tensor], end: int, max_length: int) -> Tensor:
    """Pad rows of different lengths to (B, T), with the end token after each row that is shorter than T."""
    length = min(max(map(len, rows)) + 1, max_length)
    padded = rows[0].new_zeros(len(rows), length)
    for index, row in enumerate(rows):
        padded[index, : len(row)] = row
        if len(row) < length:
            padded[index, len(row)] = end
    return padded


def _adjust(scores: Tensor, ids: Tensor, *, once: Tensor | None, decoding: Decoding, end: int) -> Tensor:
    """Apply the rules of the decoding to scores (R, V) of the token after ids (R, T)."""
    if decoding.repetition_penalty != 1:
        repeated = scores.gather(1, ids)
        penalty = decoding.repetition_penalty
        scores = scores.scatter(1, ids, torch.where(repeated < 0, repeated * penalty, repeated / penalty))
    if once is not None:
        scores = scores.masked_fill(torch.zeros_like(once).scatter(1, ids, True) & once, -torch.inf)
    if ids.shape[1] < decoding.min_length and end >= 0:
        scores = scores.index_fill(1, torch.tensor([end], device=scores.device), -torch.inf)
    return scores
