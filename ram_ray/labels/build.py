"""Counts of parsed tags to a frozen label system.

The counts are captions that name a tag; they fit in memory because they are bounded by the vocabulary, not
by the corpus. Names that differ only in spelling ("gray"/"grey"), or in how a compound is written ("motor
bike", "motor-bike", "motorbike"), become one label under the more frequent name, with the others as
synonyms. A noun and a verb spelled alike ("train") stay apart, as their kinds differ. Everything is sorted, so
equal counts give an equal system whatever the order they came in.

Wider merging (WordNet, embeddings, a user's file) belongs in `merge_key`'s place: a function that gives names
of one meaning the same key.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping

from ram_ray.label_system import Label, LabelSystem
from ram_ray.records import KINDS

# British and American spelling, and two common ways to write one word. Left: what merges into the right.
SPELLINGS = {
    "grey": "gray", "aeroplane": "airplane", "tyre": "tire", "doughnut": "donut", "moustache": "mustache",
    "racquet": "racket", "theatre": "theater", "harbour": "harbor", "jewellery": "jewelry", "pyjamas": "pajamas",
    "colourful": "colorful", "coloured": "colored", "multicoloured": "multicolored", "yoghurt": "yogurt",
    "neighbourhood": "neighborhood", "kerb": "curb", "plough": "plow", "armour": "armor", "blonde": "blond",
    "veggie": "vegetable", "bicyclist": "cyclist", "tee-shirt": "t-shirt", "barbeque": "barbecue", "bbq": "barbecue",
    "catsup": "ketchup", "omelette": "omelet", "sulphur": "sulfur", "grey-haired": "gray-haired", "centre": "center",
    "fibre": "fiber", "parlour": "parlor", "storey": "story", "waggon": "wagon", "woollen": "woolen", "metre": "meter",
    "television set": "television", "tv": "television", "tv set": "television", "fridge": "refrigerator",
}  # fmt: skip

Counts = Mapping[tuple[str, str], int] | Iterable[tuple[str, str, int]]


def merge_key(name: str) -> str:
    """Key under which names of one meaning meet: spelling table, then no spaces and hyphens."""
    words = [SPELLINGS.get(word, word) for word in SPELLINGS.get(name, name).split()]
    return "".join(words).replace("-", "").replace("'", "")


def build_label_system(
    counts: Counts,
    *,
    max_labels: int = 4585,
    min_count: int = 5,
    kinds: Iterable[str] = KINDS,
    stop: frozenset[str] = frozenset(),
    key: Callable[[str], str] = merge_key,
) -> LabelSystem:
    """The `max_labels` most frequent tags as a label system.

    Args:
        counts: (name, kind) -> captions that name it, or triples (name, kind, count); repeats add up.
        min_count: captions that must name a label, its synonyms together.
        kinds: kinds that become labels.
        stop: names that never become labels or synonyms.
        key: names of one kind with the same key are one label.

    Raises:
        ValueError: if a kind is unknown, or no tag is frequent enough to become a label.
    """
    kept = frozenset(kinds)
    if unknown := kept - frozenset(KINDS):
        raise ValueError(f"unknown kinds {sorted(unknown)}; labels.kinds takes {', '.join(KINDS)}")
    groups: dict[tuple[str, str], dict[str, int]] = defaultdict(lambda: defaultdict(int))
    for name, kind, count in _triples(counts):
        if kind not in KINDS:
            raise ValueError(f"tag {name!r} has kind {kind!r}; use one of {', '.join(KINDS)}")
        if kind in kept and name and name not in stop:
            groups[kind, key(name)][name] += count
    merged = []
    for (kind, _), spellings in groups.items():
        # A caption that writes both spellings counts twice; this is rare and does not change the order.
        total = sum(spellings.values())
        name, *synonyms = sorted(spellings, key=lambda one: (-spellings[one], one))
        if total >= min_count:
            merged.append((-total, kind, name, tuple(sorted(synonyms))))
    if not merged:
        raise ValueError(
            f"no tag of kinds {sorted(kept)} is named by {min_count} captions ({len(groups)} different tags were "
            "read); lower labels.min_count or give more captions"
        )
    top = sorted(merged)[:max_labels]
    return LabelSystem(
        Label(id=place, name=name, kind=kind, count=-negative, synonyms=synonyms)
        for place, (negative, kind, name, synonyms) in enumerate(top)
    )


def _triples(counts: Counts) -> Iterable[tuple[str, str, int]]:
    if isinstance(counts, Mapping):
        return ((name, kind, count) for (name, kind), count in counts.items())
    return counts
