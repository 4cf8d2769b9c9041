"""Contract: labels of a run are matched with those of a bundle by name, then by synonym, each of the bundle once."""

from __future__ import annotations

import json

from ram_ray.label_system import Label, LabelSystem
from ram_ray.models.label_match import match_labels, read_kept


def _system(*labels: tuple) -> LabelSystem:
    """Labels of (name, kind, synonyms)."""
    return LabelSystem(
        Label(id, name, kind, synonyms=tuple(synonyms)) for id, (name, kind, *synonyms) in enumerate(labels)
    )


def test_by_name_then_by_synonym_and_the_rest_is_new_or_dropped() -> None:
    bundle = _system(("sofa", "object"), ("dog", "object", "puppy"), ("beach", "scene"), ("cup", "object", "mug"))
    labels = _system(
        ("dog", "object"),
        ("couch", "object", "sofa"),
        ("zebra", "object"),
        ("mug", "object"),
        ("teacup", "object", "mug"),
    )
    match = match_labels(bundle, labels)
    assert match.bundle_ids == (1, 0, None, 3, None), "the first label with a synonym gets the label of the bundle"
    assert match.by_synonym == {1, 3} and match.dropped == (2,)
    assert match.kept == [0, 1, 3] and match.new == [2, 4]
    text = match.to_json(bundle, labels)
    assert read_kept(text) == [0, 1, 3]
    tree = json.loads(text)
    assert tree["by_synonym"] == {"couch": "sofa", "mug": "cup"}
    assert (tree["new"], tree["dropped"]) == (["zebra", "teacup"], ["beach"])


def test_a_name_wins_over_a_synonym_that_comes_before_it() -> None:
    bundle = _system(("sofa", "object"), ("dog", "object"))
    labels = _system(("couch", "object", "sofa"), ("sofa", "object"))
    assert match_labels(bundle, labels).bundle_ids == (None, 0)


def test_kinds_count_only_where_the_bundle_has_several() -> None:
    labels = _system(("train", "action"), ("red", "attribute"), ("christmas tree", "object"))
    released = _system(("Red", "object"), ("Christmas_tree", "object"), ("train", "object"))
    assert match_labels(released, labels).bundle_ids == (2, 0, 1)
    own = _system(("train", "object"), ("red", "attribute"), ("christmas tree", "object"))
    assert match_labels(own, labels).bundle_ids == (None, 1, 2)


def test_a_list_with_a_name_twice_is_matched_at_its_first_place() -> None:
    bundle = LabelSystem([Label(0, "crane", "object"), Label(1, "crane", "object")], unique=False)
    match = match_labels(bundle, _system(("crane", "object")))
    assert match.bundle_ids == (0,) and match.dropped == (1,)
