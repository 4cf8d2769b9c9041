"""Contract: a label knows all labels that are more general by WordNet; a name without a main sense has none."""

from __future__ import annotations

from pathlib import Path

import pytest

from ram_ray.label_system import Label, LabelSystem
from ram_ray.labels.broader import find_broader
from ram_ray.labels.wordnet import WordNet

LICENCE = "  1 This is no licence.\n"


@pytest.fixture
def wordnet(tmp_path: Path) -> WordNet:
    """WordNet with chains of a few words: poodle < dog < canine < animal, and a bat of two senses."""
    index = {"poodle": 1, "dog": 2, "animal": 4, "cat": 5}
    lines = [f"{word} n 1 1 @ 1 1 {offset:08d}  \n" for word, offset in index.items()]
    (tmp_path / "index.noun").write_text(LICENCE + "".join(lines) + "bat n 2 1 @ 2 0 00000006 00000007  \n")
    (tmp_path / "data.noun").write_text(
        LICENCE
        + "00000001 05 n 01 poodle 0 001 @ 00000002 n 0000 | a dog  \n"
        + "00000002 05 n 02 dog 0 domestic_dog 0 002 ~ 00000001 n 0000 @ 00000003 n 0000 | barks  \n"
        + "00000003 05 n 01 canine 0 001 @i 00000004 n 0000 | of dogs  \n"
        + "00000004 03 n 01 animal 0 000 | lives  \n"
        + "00000005 05 n 01 cat 0 001 @ 00000004 n 0000 | purrs  \n"
        + "00000006 05 n 01 bat 0 001 @ 00000004 n 0000 | flies  \n"
    )
    for name in ("verb", "adj"):
        (tmp_path / f"index.{name}").write_text(LICENCE)
    (tmp_path / "cntlist.rev").write_text("")
    return WordNet(tmp_path)


def test_labels_know_what_is_more_general(wordnet: WordNet) -> None:
    names = ["poodle", "dog", "animal", "cat", "bat", "sky"]
    labels = LabelSystem(Label(id, name, "object") for id, name in enumerate(names))
    assert find_broader(labels, wordnet) == {"poodle": ("animal", "dog"), "dog": ("animal",), "cat": ("animal",)}


def test_a_missing_file_is_one_clear_error(wordnet: WordNet) -> None:
    (wordnet.folder / "data.noun").unlink()
    with pytest.raises(ValueError, match="data.noun cannot be read as a file of WordNet"):
        find_broader(LabelSystem([Label(0, "dog", "object")]), wordnet)
