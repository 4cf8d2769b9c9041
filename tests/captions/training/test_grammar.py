"""Contract: generated captions are trees with a single root and English word forms, the same for the same seed."""

from __future__ import annotations

import pytest

from ram_ray.captions.training.grammar import CaptionGrammar
from ram_ray.captions.training.trees import Lexicon, Node, flatten, plural, verb_form


def test_captions_are_trees() -> None:
    for row in CaptionGrammar(seed=3).captions(300):
        size = len(row["words"])
        assert all(len(column) == size for column in row.values())
        roots = [index for index, head in enumerate(row["heads"]) if index == head]
        assert [row["deps"][index] for index in roots] == ["ROOT"]
        for index, head in enumerate(row["heads"]):
            for _ in range(size):
                index, head = head, row["heads"][head]
            assert index == roots[0], "the root is an ancestor of every word"


def test_same_seed_same_captions() -> None:
    first, again, other = (list(CaptionGrammar(seed=seed).captions(20)) for seed in (1, 1, 2))
    assert first == again != other


def test_tags_agree_with_the_words() -> None:
    for row in CaptionGrammar(seed=4).captions(300):
        for word, pos, tag in zip(row["words"], row["pos"], row["tags"], strict=True):
            assert not (tag == "VBG" and not word.endswith("ing")), row["words"]
            assert ":" not in word and "_" not in word
            assert (pos == "VERB") == (tag.startswith("VB") and pos != "AUX")


def test_flatten() -> None:
    dog = Node("dog", "NOUN", "NN").add_left("amod", Node("red", "ADJ", "JJ")).add_first("det", Node("a", "DET", "DT"))
    row = flatten(Node("runs", "VERB", "VBZ").add_left("nsubj", dog).add_right("punct", Node(".", "PUNCT", ".")))
    assert row["words"] == ["a", "red", "dog", "runs", "."]
    assert row["heads"] == [2, 2, 3, 3, 3]
    assert row["deps"] == ["det", "amod", "nsubj", "ROOT", "punct"]
    assert row["spaces"] == [True, True, True, False, True]


@pytest.mark.parametrize(
    ("entry", "forms"),
    [
        ("jump", ("jumps", "jumping", "jumped", "jumped")),
        ("carry", ("carries", "carrying", "carried", "carried")),
        ("sit:sat", ("sits", "sitting", "sat", "sat")),
        ("ride:rode:ridden", ("rides", "riding", "rode", "ridden")),
        ("lie:lay:lain", ("lies", "lying", "lay", "lain")),
        ("fix", ("fixes", "fixing", "fixed", "fixed")),
        ("ski", ("skis", "skiing", "skied", "skied")),
    ],
)
def test_verb_forms(entry: str, forms: tuple[str, ...]) -> None:
    assert tuple(verb_form(entry, tag) for tag in ("VBZ", "VBG", "VBD", "VBN")) == forms


def test_plurals() -> None:
    assert [plural(entry) for entry in ("dog", "bus", "baby", "toy", "man:men")] == [
        "dogs",
        "buses",
        "babies",
        "toys",
        "men",
    ]


def test_words_file() -> None:
    lexicon = Lexicon()
    assert min(len(words) for words in lexicon.sections.values()) > 0
    assert "soccer ball" in lexicon.sections["compound.thing"]
