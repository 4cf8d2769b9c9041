"""Contract: what human labels teach follows from their set: a listed label is a tag of origin human, an excluded one is
negative, and another one is negative or unknown as `data.human_labels` says; their names get into the label system."""

from __future__ import annotations

from collections import Counter

import pyarrow as pa
import pytest

from ram_ray.config import RunConfig
from ram_ray.label_system import Label, LabelSystem
from ram_ray.labels.annotations import Labeller, LabelSettings
from ram_ray.labels.build import BuildOptions, build
from ram_ray.labels.human_labels import LabelMention, count_labels, find_set, name_counts, vocabularies
from ram_ray.labels.options import LabelSystemSettings
from ram_ray.labels.stages import add_counts, count_without_negatives
from ram_ray.records import PARSED, to_table

NAMES = ("dog", "beach", "ball", "man", "tree", "grass")
DOG, BEACH, BALL, MAN, TREE, GRASS = range(6)
SYSTEM = LabelSystem(
    Label(id, name, "object", 10, ("puppy",) if name == "dog" else ()) for id, name in enumerate(NAMES)
)


def _row(key: str, *, caption: list[str] | None = None, **more) -> dict:
    """A PARSED row of one caption that mentions these names, or of no caption."""
    return {
        "key": key,
        "shard": key.rpartition("/")[0],
        "uri": "u",
        "offset": 0,
        "nbytes": 9,
        "captions": [] if caption is None else [" and ".join(caption)],
        "parsed": [{"caption": 0, "name": name, "kind": "object"} for name in caption or ()],
        "rejected_captions": [],
        **more,
    }


def _settings(human_labels: object, *, held_out: bool = False, **data) -> LabelSettings:
    config = RunConfig.model_validate(
        {"data": {"human_labels": human_labels, **data}, "labels": {"match": False}, "seed": 1}
    )
    return LabelSettings.from_config(config, held_out=held_out)


def _annotate(rows: list[dict], human_labels: object, **options) -> list[dict]:
    settings, block = _settings(human_labels, **options), to_table(rows, PARSED)
    used = vocabularies(count_labels(block, settings.human_labels), sets=settings.human_labels, system=SYSTEM)
    return Labeller(SYSTEM, settings, used)(block).to_pylist()


def _origins(row: dict) -> dict[int, str]:
    return {tag["id"]: tag["origin"] for tag in row["tags"]}


ROWS = [
    _row("s/both", caption=["dog", "beach", "ball"], labels=["puppy", "ufo"], negative_labels=["man"]),
    _row("s/labels", labels=["beach", "beach"]),
    _row("s/nothing", labels=[]),
    _row("s/unlabelled", caption=["tree"]),
    _row("s/negative", caption=["ball"], negative_labels=["ball"]),
]
# kind -> for each row: the ids of its tags, of absent labels, and whether other labels are unknown
EXPECTED = {
    "positive": [
        ([DOG, BEACH, BALL], [MAN], False), ([BEACH], [], False), ([], [], False), ([TREE], [], False),
        ([], [BALL], False),
    ],
    "partial": [
        ([DOG, BEACH, BALL], [MAN], True), ([BEACH], [], True), ([], [], True), ([TREE], [], False), ([], [BALL], True),
    ],
    # The set uses dog, beach, man and ball: the first row lists dog, so the other three are negatives.
    "complete": [
        ([DOG], [BEACH, BALL, MAN], False), ([BEACH], [DOG, BALL, MAN], True), ([], [DOG, BEACH, BALL, MAN], True),
        ([TREE], [], False), ([], [BALL], False),
    ],
}  # fmt: skip


@pytest.mark.parametrize("kind", EXPECTED)
def test_what_a_set_teaches(kind: str) -> None:
    rows = _annotate(ROWS, kind)
    assert [([tag["id"] for tag in row["tags"]], row["absent"], row["partial"]) for row in rows] == EXPECTED[kind]
    assert _origins(rows[0])[DOG] == "human" and set(_origins(rows[3]).values()) == {"parsed"}
    assert all(row["truth"] is None for row in rows), "labels that are trained on score nothing"
    assert rows[0]["unknown_labels"] == ["ufo"]
    assert rows[0]["captions"][0]["tags"] == [DOG, BEACH, BALL], "a caption keeps what it mentions"


@pytest.mark.parametrize("options", [{"human_labels": "none"}, {"human_labels": "complete", "held_out": True}])
def test_labels_that_are_not_trained_on_are_the_truth(options: dict) -> None:
    rows = _annotate(ROWS, **options)
    assert [row["truth"] for row in rows] == [[DOG], [BEACH], [], None, None]
    assert [[tag["id"] for tag in row["tags"]] for row in rows] == [[DOG, BEACH, BALL], [], [], [TREE], [BALL]]
    assert all(not row["absent"] and not row["partial"] for row in rows)


def test_the_first_glob_that_matches_a_shard_counts() -> None:
    kinds = {"coco/1*": "none", "coco": "complete", "web-*": "positive"}
    sets = RunConfig.model_validate({"data": {"human_labels": kinds}}).data.label_sets
    assert [find_set(shard, sets) for shard in ("coco/10", "coco/20", "a/web-0", "other/0")] == [None, 1, 2, None]
    rows = [_row("coco/20/a", labels=["dog"]), _row("a/web-0/b", labels=["beach"]), _row("coco/10/c", labels=["ball"])]
    first, second, third = _annotate(rows, kinds)
    assert (first["absent"], second["absent"]) == ([], []), "each set has a vocabulary of its own"
    assert (first["partial"], second["partial"]) == (True, False)
    assert third["truth"] == [BALL] and third["tags"] == []


def test_two_names_of_one_label_are_positive_if_one_is() -> None:
    (row,) = _annotate([_row("s/1", labels=["dog"], negative_labels=["puppy", "tree"])], "partial")
    assert _origins(row) == {DOG: "human"} and row["absent"] == [TREE]


def test_a_rejected_caption_says_nothing() -> None:
    rejected = _row("s/1", caption=[], labels=["dog"], rejected_captions=[{"caption": 0, "reason": "not_english"}])
    (row,) = _annotate([rejected], "complete")
    assert row["partial"]


def test_images_of_labels_are_counted_by_set_and_source() -> None:
    sets = _settings({"s": "complete"}).human_labels
    rows = [*ROWS, _row("s/broken", labels=["tree"], reason="truncated"), _row("t/1", labels=["dog"])]
    counts = count_labels(to_table(rows, PARSED), sets)
    assert counts == {
        LabelMention(0, "s", "puppy", True): 1,
        LabelMention(0, "s", "ufo", True): 1,
        LabelMention(0, "s", "beach", True): 1,
        LabelMention(0, "s", "man", False): 1,
        LabelMention(0, "s", "ball", False): 1,
    }
    assert vocabularies(counts, sets=sets, system=SYSTEM) == ({DOG, BEACH, BALL, MAN},)


def test_names_of_human_labels_become_labels_however_rare() -> None:
    mentions = Counter(
        {
            LabelMention(0, "coco", "Fire_Hydrant", True): 2,
            LabelMention(0, "coco", "action:train", True): 1,
            LabelMention(0, "coco", "zebra", False): 9,
            LabelMention(1, "web", "fire hydrant", True): 1,
        }
    )
    human = name_counts(mentions, kind_of=lambda name: "object")
    assert human == {("fire hydrant", "object"): {"coco": 2, "web": 1}, ("train", "action"): {"coco": 1}}
    captions = {("dog", "object"): {"web": 9}, ("fire hydrant", "object"): {"web": 1}, ("cat", "object"): {"web": 8}}
    counts = add_counts(captions, human)
    assert counts["fire hydrant", "object"] == {"coco": 2, "web": 2} and len(captions["fire hydrant", "object"]) == 1
    options = BuildOptions(min_count=5, min_sources=2, max_labels=3, human=frozenset(human))
    system, report = build(counts, options)
    assert {(label.name, label.count) for label in system.labels} == {("fire hydrant", 4), ("train", 1)}
    assert report.num_dropped["few sources"] == 2
    few, _ = build(counts, BuildOptions(min_count=1, max_labels=2, human=frozenset(human)))
    assert set(few.names) == {"fire hydrant", "train"}, "they come before frequent names of captions"


def test_false_tags_are_planted_in_captions_alone() -> None:
    rows = [_row(f"s/{number}", labels=["dog", "beach"]) for number in range(20)]
    rows += [_row(f"s/{number}", caption=["man"], labels=["dog"], negative_labels=["tree"]) for number in range(20, 40)]
    annotations = _annotate(rows, "positive", measure={"planted": 1.0})
    assert all(_origins(row) == {DOG: "human", BEACH: "human"} for row in annotations[:20])
    for row in annotations[20:]:
        planted = _origins(row).keys() - {MAN, DOG}
        assert len(planted) == 1 and TREE not in planted, "as many as the caption has tags, and none that is excluded"
        assert set(row["truth"]) == {DOG, MAN}


def test_tags_that_came_with_the_data_are_those_of_captions_or_of_a_tagger() -> None:
    given = [{"id": DOG, "caption": 0}, {"id": TREE, "caption": 0}, {"id": BALL, "caption": None}]
    (row,) = _annotate([_row("s/1", caption=["dog"], given_tags=given)], "none")
    assert _origins(row) == {DOG: "parsed", TREE: "parsed", BALL: "tagger"}
    (caption,) = row["captions"]
    assert (caption["tags"], caption["sources"]) == ([DOG, TREE], ["parsed", "parsed"])
    wrong = [_row("coco/0/1", caption=["dog"], given_tags=[{"id": 6, "caption": None}])]
    with pytest.raises(ValueError, match="label id 6, and labels.system has 6 labels"):
        _annotate(wrong, "none")


def test_images_without_any_negative_are_counted() -> None:
    settings = _settings("partial")
    table = Labeller(SYSTEM, settings, (frozenset(),))(to_table(ROWS, PARSED))
    assert count_without_negatives(table) == {"tagged": 3, "without_negatives": 1}
    assert count_without_negatives(pa.Table.from_pylist([], schema=table.schema)) == {
        "tagged": 0,
        "without_negatives": 0,
    }


def test_the_stages_that_read_human_labels_depend_on_them() -> None:
    none, complete = (RunConfig.model_validate({"data": {"human_labels": kind}}) for kind in ("none", "complete"))
    for settings in (
        lambda config: LabelSystemSettings.from_config(config, run_uri=None),
        lambda config: LabelSettings.from_config(config, held_out=False),
    ):
        assert settings(none).identity() != settings(complete).identity()
    held_out = [LabelSettings.from_config(config, held_out=True).identity() for config in (none, complete)]
    assert held_out[0] == held_out[1]


@pytest.mark.parametrize("value", ["all", {"coco*": "full"}, 3])
def test_an_unknown_kind_is_one_line(value: object) -> None:
    with pytest.raises(ValueError, match=r"is not one of none, positive, partial, complete; write one of them"):
        RunConfig.model_validate({"data": {"human_labels": value}})
