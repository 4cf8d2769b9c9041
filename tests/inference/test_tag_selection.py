"""Contract: an answer has a name once; lists, chains and translations select and name the tags before `top_k` does; a
file of them that cannot be read is one clear error."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from ram_ray.inference.tag_rules import TagRules, best_own_tags, read_broader, read_names, read_pairs
from ram_ray.inference.tag_selection import TagSelector, unknown_names
from ram_ray.label_system import Label, LabelSystem
from ram_ray.settings.models import ModelConfig

LABELS = LabelSystem(
    [
        Label(0, "jump", "object"),
        Label(1, "animal", "object", chinese="动物"),
        Label(2, "dog", "object", synonyms=("hound",), chinese="狗"),
        Label(3, "jump", "action"),
        Label(4, "poodle", "object", threshold=0.9),
    ]
)
SCORES = np.array([[0.7, 0.95, 0.9, 0.8, 0.75]], dtype=np.float32)
CONFIG = ModelConfig(threshold=0.5)
CHAIN = {"dog": ("animal",), "poodle": ("animal", "dog")}


def names(rules: TagRules | None = None, *, top_k: int | None = None, threshold: float | None = None) -> list[str]:
    (tags,) = TagSelector(rules, LABELS).select_all(SCORES, CONFIG, top_k=top_k, threshold=threshold)
    assert [tag.score for tag in tags] == sorted((tag.score for tag in tags), reverse=True)
    return [tag.tag for tag in tags]


def test_a_name_of_two_kinds_is_there_once_with_its_highest_score() -> None:
    (tags,) = TagSelector(None, LABELS).select_all(SCORES, CONFIG, top_k=None, threshold=None)
    assert [(tag.tag, tag.id) for tag in tags] == [("animal", 1), ("dog", 2), ("jump", 3)]
    assert names(top_k=4) == ["animal", "dog", "jump", "poodle"], "the best k have k names"


@pytest.mark.parametrize(
    ("rules", "top_k", "expected"),
    [
        (TagRules(allow=("hound", "jump")), None, ["dog", "jump"]),
        (TagRules(allow=("object:jump", "animal")), None, ["animal", "jump"]),
        (TagRules(deny=("animal",)), 2, ["dog", "jump"]),
        (TagRules(rename={"animal": "creature", "dog": "creature"}), None, ["creature", "jump"]),
        (TagRules(rename={"dog": "pup"}, names={"pup": "Welpe", "jump": "Sprung"}), 3, ["animal", "Welpe", "Sprung"]),
        (TagRules(broader=CHAIN), None, ["dog", "jump"]),
        (TagRules(chinese=True), 2, ["动物", "狗"]),
    ],
)  # fmt: skip
def test_rules(rules: TagRules, top_k: int | None, expected: list[str]) -> None:
    assert names(rules, top_k=top_k) == expected


def test_the_most_specific_label_that_is_present_is_shown() -> None:
    assert names(TagRules(broader=CHAIN), top_k=5) == ["dog", "jump"], "a poodle below its threshold hides no dog"
    assert names(TagRules(broader=CHAIN), threshold=0.7) == ["jump", "poodle"]
    assert names(TagRules(broader=CHAIN, deny=("dog", "poodle"))) == ["animal", "jump"]


def test_an_allow_list_without_a_label_of_the_model_is_an_error() -> None:
    with pytest.raises(ValueError, match="none of the 1 labels that are allowed"):
        TagSelector(TagRules(allow=("zebra",)), LABELS)
    assert unknown_names(["hound", "zebra", "action:jump", "action:dog"], LABELS) == ["zebra", "action:dog"]


def test_own_tags_without_a_threshold_are_the_best() -> None:
    own = [f"tag {number}" for number in range(8)]
    scores = np.linspace(0.1, 0.2, 8, dtype=np.float32)[None]

    def select(config: ModelConfig, **query) -> list[str]:
        query = {"top_k": None, "threshold": None, **query}
        return [tag.tag for tag in TagSelector(None, own).select_all(scores, config, **query)[0]]

    assert select(CONFIG) == own[:2:-1] and best_own_tags(CONFIG, top_k=None, threshold=None) == 5
    assert select(CONFIG, top_k=2) == own[:5:-1] and select(CONFIG, threshold=0.5) == []
    calibrated = ModelConfig(threshold=0.5, own_threshold=0.18)
    assert select(calibrated) == own[:5:-1] and best_own_tags(calibrated, top_k=None, threshold=None) is None


def test_files_of_rules(tmp_path: Path) -> None:
    file = tmp_path / "list.txt"
    file.write_text("dog  # mine\n\n# all\nobject:jump\ndog\n")
    assert read_names(str(file)) == ("dog", "object:jump")
    file.write_text("dog = Hund\ncat\tKatze\n")
    assert read_pairs(str(file)) == {"dog": "Hund", "cat": "Katze"}
    file.write_text("poodle = dog\ndog = animal\ndog = pet\n")
    assert read_broader(str(file)) == {"poodle": ("animal", "dog", "pet"), "dog": ("animal", "pet")}


@pytest.mark.parametrize(
    ("text", "read", "message"),
    [
        ("# nothing\n", read_names, "there is no name in it"),
        ("dog\n", read_pairs, "line 1: 'dog' is no pair"),
        ("a = b\na = c\n", read_pairs, "line 2: 'a' has two other names"),
        ("a = b\nb = a\n", read_broader, "'a' is more general than itself"),
        ("a =\n", read_broader, "line 1: 'a =' is no pair"),
    ],
)
def test_a_file_that_means_nothing_is_one_clear_error(text: str, read, message: str, tmp_path: Path) -> None:
    (tmp_path / "list.txt").write_text(text)
    with pytest.raises(ValueError, match=message):
        read(str(tmp_path / "list.txt"))
    with pytest.raises(ValueError, match=r"none\.txt: cannot be read as a list of names"):
        read(str(tmp_path / "none.txt"))
