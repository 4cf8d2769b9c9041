"""Which of a model's labels are shown of an image, from their scores.

A name is shown once in an answer, with its highest score, whatever gave it: a label system may have a name in two
kinds ("jump" as an object and as an action), two labels may be renamed to one, or have one translation. The rule stands
here and not in the label system, since the labels stay apart for training and evaluation: only who reads an answer
sees names alone.

Of a chain, such as dog and animal, the most specific label that is present is shown. Rules come before `top_k`, so that
the best k are the best of those that may be shown.

Letters: B images, N labels.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

import numpy as np

from ram_ray.inference.tag_rules import TagRules, best_own_tags, own_threshold
from ram_ray.inference.tag_score import TagScore
from ram_ray.label_system import Label, LabelSystem, is_present, split_kind
from ram_ray.settings.models import ModelConfig


class TagSelector:
    """The rules for the labels of a model, or for a user's own tags.

    Args:
        rules: the rules; None: a name is shown once, and nothing else.
        labels: the label system, or names of own tags.

    Raises:
        ValueError: if the model has none of the labels that are allowed.
    """

    def __init__(self, rules: TagRules | None, labels: LabelSystem | Sequence[str]) -> None:
        self.rules = rules
        rules = rules or TagRules()
        self._labels = labels if isinstance(labels, LabelSystem) else None
        self._thresholds: np.ndarray | None = None  # of the model's labels
        entries: list[Label | str] = [*(labels.labels if isinstance(labels, LabelSystem) else labels)]
        self._entries = entries
        index = _index(entries)
        self.allowed = np.ones(len(entries), dtype=bool)
        if rules.allow is not None:
            self.allowed[:] = False
            self.allowed[_find_all(rules.allow, index)] = True
            if not self.allowed.any():
                raise ValueError(f"the model has none of the {len(rules.allow)} labels that are allowed")
        self.allowed[_find_all(rules.deny, index)] = False
        self.names = _shown_names(rules, entries, index)
        plain = [entry if isinstance(entry, str) else entry.name for entry in entries]
        general = [frozenset(rules.broader.get(name, ())) for name in plain]
        self._plain, self._broader = plain, general if any(general) else None

    def select(self, ranked: Iterable[int], present: np.ndarray, *, top_k: int | None) -> list[int]:
        """Select the labels that are shown of an image.

        Args:
            ranked: indices of labels, highest score first.
            present: (N,) bool, the labels whose score is at least their threshold.
            top_k: most labels; None: no limit.

        Returns:
            Indices, highest score first.
        """
        hidden: set[str] = set()  # names that a more specific present label makes superfluous
        if self._broader:
            hidden = {name for id in np.flatnonzero(present & self.allowed).tolist() for name in self._broader[id]}
        selected: list[int] = []
        shown: set[str] = set()
        for id in ranked:
            if len(selected) == top_k:
                break
            if not self.allowed[id] or self.names[id] in shown or self._plain[id] in hidden:
                continue
            if self._broader and any(self._is_chain(id, other) for other in selected):
                continue
            selected.append(id)
            shown.add(self.names[id])
        return selected

    def select_all(
        self,
        scores: np.ndarray,
        config: ModelConfig,
        *,
        top_k: int | None,
        threshold: float | None,
        unmuted: np.ndarray | None = None,
    ) -> list[list[TagScore]]:
        """Select the tags of images from their scores.

        Args:
            scores: (B, N) float, probabilities.
            config: of the model.
            top_k: most tags of an image; without a `threshold` the best, whatever their score.
            threshold: one probability in place of each label's own.
            unmuted: (N,) bool, the labels that the model may predict; None: all.

        Returns:
            The tags of each image, highest score first.
        """
        if self._labels is not None and threshold is None:
            if self._thresholds is None:
                self._thresholds = self._labels.thresholds(config.threshold)
            thresholds = self._thresholds
        else:
            thresholds = np.full(len(self._entries), own_threshold(config, threshold), dtype=np.float32)
        if self._labels is None:
            top_k = best_own_tags(config, top_k=top_k, threshold=threshold) or top_k
        allowed = np.ones(len(self._entries), dtype=bool) if unmuted is None else unmuted
        result = []
        for row in scores:
            present = is_present(row, thresholds) & allowed
            order = np.argsort(-row, kind="stable")
            shown = allowed if top_k is not None and threshold is None else present
            ids = self.select(order[shown[order]].tolist(), present, top_k=top_k)
            result.append([self._score(id, row[id], thresholds[id]) for id in ids])
        return result

    def _score(self, id: int, score: np.floating, threshold: np.floating) -> TagScore:
        return TagScore.of(self._entries[id], float(score), float(threshold), name=self.names[id])

    def _is_chain(self, id: int, other: int) -> bool:
        assert self._broader
        return self._plain[id] in self._broader[other] or self._plain[other] in self._broader[id]


def unknown_names(names: Iterable[str], labels: LabelSystem) -> list[str]:
    """Names that a label system does not contain.

    Args:
        names: as in `TagRules`.
        labels: the label system.

    Returns:
        The names, in order.
    """
    index = _index(list(labels.labels))
    return [name for name in names if not _find_all([name], index)]


def _index(entries: Sequence[Label | str]) -> dict[str, list[int]]:
    """(name, synonym, `kind:name`) -> indices; a synonym gives way to a label of this name."""
    index: dict[str, list[int]] = {}
    for id, entry in enumerate(entries):
        keys = [entry] if isinstance(entry, str) else [entry.name, f"{entry.kind}:{entry.name}"]
        for key in keys:
            index.setdefault(key, []).append(id)
    synonyms: dict[str, list[int]] = {}
    for id, entry in enumerate(entries):
        for synonym in () if isinstance(entry, str) else entry.synonyms:
            for key in (synonym, f"{entry.kind}:{synonym}"):  # type: ignore[union-attr]
                synonyms.setdefault(key, []).append(id)
    return {**synonyms, **index}


def _find_all(names: Iterable[str], index: Mapping[str, list[int]]) -> list[int]:
    found: list[int] = []
    for name in names:
        kind, plain = split_kind(name)
        found += index.get(name) or index.get(f"{kind}:{plain}" if kind else plain, [])
    return found


def _shown_names(rules: TagRules, entries: Sequence[Label | str], index: Mapping[str, list[int]]) -> list[str]:
    shown = [entry if isinstance(entry, str) else entry.name for entry in entries]
    for name, new in rules.rename.items():
        for id in _find_all([name], index):
            shown[id] = new
    if rules.chinese:
        shown = [
            name if isinstance(entry, str) or not entry.chinese else entry.chinese
            for name, entry in zip(shown, entries, strict=True)
        ]
    translated: dict[int, str] = {}
    for name, new in rules.names.items():
        ids = [id for id, current in enumerate(shown) if current == name] or _find_all([name], index)
        translated |= dict.fromkeys(ids, new)
    return [translated.get(id, name) for id, name in enumerate(shown)]
