"""Contract: a held-out label is in nothing that a training reads, and the other labels have the tags that they have
without a hold-out; what is drawn has enough positives and follows the seed; a pair of an attribute and a noun is true
where a caption describes it so."""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa
import pytest

from ram_ray.captions.tables import load_lemmas
from ram_ray.config import RunConfig
from ram_ray.label_system import Label, LabelSystem
from ram_ray.labels.annotations import Labeller, LabelSettings
from ram_ray.labels.compounds import CompoundReader
from ram_ray.labels.held_out_rows import HeldOutRemover, HoldingOutLabeller
from ram_ray.labels.hold_out import Choice, HoldOutSettings, choose, count_positives, split_system
from ram_ray.labels.parse_stage import CaptionReader, ParseSettings
from ram_ray.records import PARSED, SAMPLE, to_table
from ram_ray.training.rows import tagged_rows

WORDS = {
    "object": ("dog", "ball", "umbrella", "train", "hot dog"),
    "scene": ("beach",),
    "attribute": ("red", "blue"),
    "action": ("run", "train"),
}
SYNONYMS = {"dog": ("puppy",), "umbrella": ("parasol",)}
SYSTEM = LabelSystem(
    Label(id, name, kind, 10, SYNONYMS.get(name, ()))
    for id, (kind, name) in enumerate((kind, name) for kind, names in WORDS.items() for name in names)
)
IDS = {(label.kind, label.name): label.id for label in SYSTEM.labels}
DOG, BALL, UMBRELLA, BEACH, RED = (
    IDS[key]
    for key in (*(("object", name) for name in ("dog", "ball", "umbrella")), ("scene", "beach"), ("attribute", "red"))
)
CAPTIONS = [
    ["a puppy with a red ball on the beach", "a dog runs"],
    ["a blue ball and a red umbrella", "a parasol without a dog"],
    ["a man eats a hot dog"],
    ["a red ball"],
]


@pytest.fixture(scope="module")
def parsed() -> pa.Table:
    location = {"shard": "s", "uri": "a/s.tar", "offset": 512, "nbytes": 99, "width": 40, "height": 30}
    more: list[dict] = [{}, {"labels": ["red umbrella", "ball"]}, {}, {"labels": ["dog"], "negative_labels": ["ball"]}]
    rows = [
        {"key": f"s/{index}", **location, "captions": captions, **fields}
        for index, (captions, fields) in enumerate(zip(CAPTIONS, more, strict=True))
    ]
    return CaptionReader(ParseSettings.from_config(RunConfig()))(to_table(rows, SAMPLE))


def settings(**fields) -> HoldOutSettings:
    """Of 1 positive at least, unless the fields say otherwise."""
    tree = {"seed": 3, "evaluate": {"hold_out_min_positives": 1, **fields}}
    return HoldOutSettings.from_config(RunConfig.model_validate(tree))


def label(parsed: pa.Table, *, held_out: bool = False) -> Labeller:
    return Labeller(SYSTEM, LabelSettings.from_config(RunConfig(), held_out=held_out))


def remove(parsed: pa.Table, choice: Choice, *, drop_captions: bool) -> tuple[LabelSystem, pa.Table]:
    rest, held_out = split_system(SYSTEM, choice)
    remover = HeldOutRemover(SYSTEM, rest, held_out, drop_captions=drop_captions, lemma=load_lemmas(), max_chars=1000)
    return rest, HoldingOutLabeller(label(parsed), remover)(parsed)


def names(table: pa.Table, system: LabelSystem) -> list[list[str]]:
    return [sorted(system[tag["id"]].name for tag in row["tags"]) for row in table.to_pylist()]


def test_other_labels_keep_their_tags_and_get_new_ids(parsed: pa.Table) -> None:
    before = label(parsed)(parsed)
    rest, after = remove(parsed, Choice((DOG, RED), ()), drop_captions=False)
    assert len(rest) == len(SYSTEM) - 2 and [entry.id for entry in rest.labels] == list(range(len(rest)))
    assert rest.find("dog") is None and rest.find("puppy") is None and rest.find("red") is None
    expected = [[name for name in row if name not in ("dog", "red")] for row in names(before, SYSTEM)]
    assert names(after, rest) == expected and any("dog" in row for row in names(before, SYSTEM))
    assert "dog" not in names(after, rest)[2], "a dog is not found in a hot dog because dog is held out, nor otherwise"
    first, second, _, fourth = after.to_pylist()
    assert [caption["text"] for caption in first["captions"]] == CAPTIONS[0]
    for row in after.to_pylist():
        for caption in row["captions"]:
            assert len(caption["tags"]) == len(caption["sources"]) and all(id < len(rest) for id in caption["tags"])
    assert [rest[id].name for id in second["truth"]] == ["ball"] and fourth["truth"] == []
    assert fourth["absent"] == [] and before.to_pylist()[3]["truth"] == [DOG]


def test_a_caption_that_names_a_held_out_label_is_not_trained_on(parsed: pa.Table) -> None:
    """By its tags, by the label's words, and by the words of a pair; its other tags stay."""
    rest, table = remove(parsed, Choice((DOG,), ("red umbrella",)), drop_captions=True)
    texts = [[caption["text"] for caption in row["captions"]] for row in table.to_pylist()]
    assert texts == [[], ["a parasol without a dog"], [], ["a red ball"]], "negated words name nothing"
    assert {"ball", "beach"} <= set(names(table, rest)[0])
    row = tagged_rows(table)[0]
    assert row["captions"] == [] and row["tags"], "the image is still trained on"


def test_a_pair_is_true_where_a_caption_or_a_person_says_so(parsed: pa.Table) -> None:
    reader = CompoundReader(SYSTEM, parser="en_ud_ewt", max_chars=1000)
    rows = label(parsed, held_out=True)(parsed).to_pylist()
    found = reader(rows)
    assert found[0] == {"red ball"} and found[2] == set(), "a hot dog is a label, not a pair"
    assert {"blue ball", "red umbrella"} <= found[1]
    rows[3]["captions"], rows[3]["unknown_labels"] = [], ["Red parasol"]
    assert reader(rows)[3] == {"red umbrella"}, "parts are written as the labels that have them"


def test_what_is_drawn_has_enough_positives_and_follows_the_seed(parsed: pa.Table, tmp_path: Path) -> None:
    SYSTEM.save(f"{tmp_path}/labels.json")
    rows = label(parsed, held_out=True)(parsed)
    drawn = settings(hold_out_labels=2, hold_out_compounds=1)
    counts = {
        name: int(count)
        for name, count in count_positives(rows, f"{tmp_path}/labels.json", drawn, reads_pairs=True).items()
    }
    assert counts[str(DOG)] == 2, "by human labels where there are any, else by captions"
    assert counts[str(BALL)] == 2 and counts["red ball"] == 2 and counts["red umbrella"] == 1
    choice = choose(SYSTEM, counts, drawn)
    assert choice == choose(SYSTEM, counts, drawn) and len(choice.labels) == 2 and len(choice.compounds) == 1
    held_out = {SYSTEM[id].name for id in choice.labels}
    assert not held_out & set(choice.compounds[0].split()), "the parts of a pair are trained"
    assert "train" not in held_out
    plain = settings(hold_out_labels=2)
    chosen = {choose(SYSTEM, counts, plain.model_copy(update={"seed": seed})).labels for seed in range(20)}
    assert len(chosen) > 3
    two = settings(hold_out_labels=2, hold_out_min_positives=2)
    assert set(choose(SYSTEM, counts, two).labels) <= {DOG, BALL, BEACH, RED}
    with pytest.raises(ValueError, match=r"evaluate.hold_out_labels: 9 are asked for, and \d have 1 positives"):
        choose(SYSTEM, counts, settings(hold_out_labels=9))
    with pytest.raises(ValueError, match=r"evaluate.hold_out_compounds: 9 are asked for"):
        choose(SYSTEM, counts, settings(hold_out_compounds=9))


def test_names_are_labels_synonyms_or_pairs() -> None:
    choice = choose(SYSTEM, {}, settings(hold_out_labels=["Puppy", "red parasol", "train", "object:ball"]))
    assert choice.labels == tuple(sorted([DOG, BALL, IDS["object", "train"], IDS["action", "train"]]))
    assert choice.compounds == ("red umbrella",)
    rest, held_out = split_system(SYSTEM, choice)
    assert len(rest) == len(SYSTEM) - 4 and held_out.names[-1] == "red umbrella" and len(held_out) == 5
    for wrong, message in {
        "unicorn": "'unicorn' is no label of the run, and no pair",
        "action:train": r"'train' is a label of several kinds \(action, object\)",
    }.items():
        with pytest.raises(ValueError, match=message):
            choose(SYSTEM, {}, settings(hold_out_labels=[wrong]))
    with pytest.raises(ValueError, match=f"none of the {len(SYSTEM)} labels is left"):
        choose(SYSTEM, {}, settings(hold_out_labels=SYSTEM.names))


def test_parsed_rows_stay_as_many(parsed: pa.Table) -> None:
    _, table = remove(parsed, Choice((DOG,), ()), drop_captions=True)
    assert len(table) == len(parsed) == len(to_table(parsed.to_pylist(), PARSED))
