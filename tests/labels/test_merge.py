"""Contract: names merge within their kind, each merge has a reason, and `apart` pairs never merge; WordNet merges main
senses only, embeddings mutual nearest neighbours only."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from ram_ray.labels.embeddings import merge_similar, read_vectors
from ram_ray.labels.merge import Groups, merge_inflections, merge_senses, merge_spellings
from ram_ray.labels.synonyms import read_synonyms, shipped_synonyms
from ram_ray.labels.wordnet import INSTALLED, WordNet


def _keys(*names: str, kind: str = "object") -> dict:
    return {(name, kind): 10 - index for index, name in enumerate(names)}


def _group(groups: Groups, name: str, kind: str = "object") -> set[str]:
    return {member for member, _ in groups.members((name, kind))}


def test_groups_have_the_reasons_of_their_merges() -> None:
    groups = Groups()
    a, b, c, d = ((letter, "object") for letter in "abcd")
    assert groups.join(a, b, "table") and groups.join(c, d, "wordnet") and groups.join(b, c, "embedding")
    assert not groups.join(a, d, "edit"), "they are already in the same group"
    assert groups.reasons(a) == {b: (a, "table"), c: (b, "embedding"), d: (c, "wordnet")}
    assert sorted(groups.members(d)) == [a, b, c, d] and groups.members(("e", "object")) == [("e", "object")]


def test_an_apart_pair_prevents_the_merge_of_its_groups() -> None:
    a, b, c, d = ((letter, "object") for letter in "abcd")
    groups = Groups([(a, d)])
    assert groups.join(a, b, "table") and groups.join(c, d, "table")
    assert not groups.join(b, c, "wordnet") and _group(groups, "b") == {"a", "b"}


def test_spellings_merge_at_any_position_in_a_name() -> None:
    groups = Groups()
    counts = _keys("tennis racquet", "tennis racket", "grey-haired", "gray-haired", "tee-shirt", "t-shirt",
                   "men's room", "mens room", "hot dog", "dog")  # fmt: skip
    merge_spellings(groups, counts, [shipped_synonyms()])
    pairs = (("tennis racquet", "tennis racket"), ("grey-haired", "gray-haired"), ("tee-shirt", "t-shirt"))
    for first, second in pairs:
        assert second in _group(groups, first)
    assert "mens room" in _group(groups, "men's room") and _group(groups, "dog") == {"dog"}
    assert groups.reasons(("men's room", "object"))["mens room", "object"][1] == "compound"


def test_an_inflection_merges_with_its_dictionary_form_if_that_was_counted() -> None:
    groups = Groups()
    lemma = {("kites", "object"): "kite", ("grapes", "object"): "grape"}
    lemma["bore", "object"] = "bear"
    merge_inflections(groups, _keys("kite", "kites", "grapes", "bore", "bear"), lemma)
    assert _group(groups, "kite") == {"kite", "kites"} and _group(groups, "grapes") == {"grapes"}
    assert _group(groups, "bore") == {"bore"}, "more frequent than its dictionary form"


def test_a_users_file_has_four_forms(tmp_path: Path) -> None:
    path = tmp_path / "synonyms.txt"
    path.write_text("# mine\nword: grey, gray\nobject: Couch, sofa\nbarbecue, bbq\napart: bike, motorcycle\n")
    synonyms = read_synonyms(str(path))
    assert synonyms.words == {"gray": "grey"} and synonyms.spelling("gray-haired man") == "grey-haired man"
    assert [("couch", "object"), ("sofa", "object")] in synonyms.groups
    assert len(synonyms.groups) == 5 and len(synonyms.apart) == 4, "a line without a kind applies to each kind"
    for text, message in (("thing: a, b", "thing"), ("object: couch", "two names"), ("a, " + "x" * 200, "two names")):
        path.write_text(text)
        with pytest.raises(ValueError, match=message):
            read_synonyms(str(path))
    with pytest.raises(ValueError, match="labels.synonyms"):
        read_synonyms(str(tmp_path / "nowhere.txt"))


def _write_wordnet(folder: Path) -> None:
    """Write the files of WordNet with a few words of known senses."""
    licence = "  1 This is no licence.\n"
    (folder / "index.noun").write_text(
        licence
        + "couch n 2 1 @ 2 1 00000001 00000002  \n"
        + "sofa n 1 1 @ 1 1 00000001  \n"
        + "bike n 2 1 @ 2 0 00000003 00000004  \n"
        + "motorcycle n 1 1 @ 1 1 00000003  \n"
        + "plate n 2 1 @ 2 2 00000005 00000006  \n"
        + "home_plate n 1 1 @ 1 1 00000005  \n"
        + "cell_phone n 1 1 @ 1 0 00000007  \ncellphone n 1 1 @ 1 0 00000007  \n"
    )
    (folder / "index.verb").write_text(licence + "draw v 2 1 @ 2 2 00000001 00000002  \npull v 1 1 @ 1 1 00000001  \n")
    (folder / "index.adj").write_text(licence + "large a 1 1 & 1 1 00000009  \nbig a 1 1 & 1 1 00000009  \n")
    (folder / "cntlist.rev").write_text(
        "couch%1:06:00:: 1 5\nplate%1:06:00:: 1 9\nplate%1:06:01:: 2 1\ndraw%2:35:00:: 1 5\ndraw%2:36:00:: 2 4\n"
    )


def test_wordnet_has_main_senses_only(tmp_path: Path) -> None:
    _write_wordnet(tmp_path)
    net = WordNet(tmp_path)
    assert net.sense("couch", "object") == net.sense("sofa", "object") is not None
    assert net.sense("bike", "object") is None, "two senses without counts"
    assert net.sense("draw", "action") is None and net.sense("pull", "action"), "a verb needs a larger share"
    assert net.sense("cell phone", "object") == net.sense("cell-phone", "object") == net.sense("cellphone", "object")
    assert net.sense("large", "attribute") == net.sense("big", "attribute") and net.sense("large", "object") is None
    groups = Groups()
    merge_senses(groups, _keys("couch", "sofa", "motorcycle", "bike", "plate", "home plate"), net)
    assert _group(groups, "sofa") == {"couch", "sofa"} and _group(groups, "bike") == {"bike"}
    assert _group(groups, "plate") == {"plate"}, "a compound never merges with its own words"


def test_wordnet_is_optional_and_checked(tmp_path: Path) -> None:
    assert WordNet.find("none") is None
    with pytest.raises(ValueError, match="labels.wordnet=none"):
        WordNet.find(str(tmp_path))
    _write_wordnet(tmp_path)
    wordnet = WordNet.find(str(tmp_path))
    assert wordnet and wordnet.digest == WordNet(tmp_path).digest
    (tmp_path / "index.noun").write_text("this is no index\n")
    with pytest.raises(ValueError, match="not an index"):
        WordNet(tmp_path)


@pytest.mark.skipif(not (INSTALLED / "index.noun").is_file(), reason="Debian's wordnet-base is not installed")
def test_the_installed_wordnet() -> None:
    net = WordNet()
    for first, second in (("sofa", "couch"), ("fireplug", "fire hydrant")):
        assert net.sense(first, "object") == net.sense(second, "object") is not None
    assert net.sense("bike", "object") is None and net.sense("large", "attribute") == net.sense("big", "attribute")


def test_embeddings_merge_mutual_nearest_neighbours_above_the_threshold() -> None:
    vectors = {
        "mug": [1, 0, 0],
        "cup": [0.99, 0.14, 0],
        "bowl": [0.9, 0.43, 0],
        "sky": [0, 0, 1],
        "heaven": [0, 0.5, 1],
    }
    arrays = {name: np.array(vector, dtype=np.float32) for name, vector in vectors.items()}
    groups = Groups()
    merge_similar(groups, _keys(*vectors, "no vector"), arrays, similarity=0.9)
    assert _group(groups, "mug") == {"mug", "cup"}, "the nearest of bowl is cup, but the nearest of cup is mug"
    assert _group(groups, "sky") == {"sky"}, "0.89 is below the threshold"


def test_vectors_are_read_from_both_formats_and_checked(tmp_path: Path) -> None:
    np.savez(tmp_path / "v.npz", names=np.array(["Mug", "traffic_light"]), vectors=np.eye(2, dtype=np.float32))
    assert read_vectors(str(tmp_path / "v.npz"), ["mug", "traffic light", "sky"]).keys() == {"mug", "traffic light"}
    (tmp_path / "v.txt").write_text("2 3\nmug 1 0 0\ntraffic_light 0 1 0\n")
    assert read_vectors(str(tmp_path / "v.txt"), ["traffic light"])["traffic light"].tolist() == [0, 1, 0]
    (tmp_path / "v.txt").write_text("mug 1 0 0\nsky 0 1\n")
    with pytest.raises(ValueError, match="line 2"):
        read_vectors(str(tmp_path / "v.txt"), ["sky"])
    np.savez(tmp_path / "bad.npz", names=np.array([{"a": 1}], dtype=object), vectors=np.eye(1))
    with pytest.raises(ValueError, match="labels.embeddings"):
        read_vectors(str(tmp_path / "bad.npz"), ["a"])
