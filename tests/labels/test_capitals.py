"""Contract: a name that captions write with a capital inside sentences is no label, and neither is boilerplate; the
report says why. Titles and captions without capitals tell nothing, and nationalities are no names.
"""

from __future__ import annotations

import pytest

from ram_ray.captions.boilerplate import reasons, verbs
from ram_ray.labels.build import BuildOptions, build
from ram_ray.labels.capitals import CAPITALS, MIN_MENTIONS, capital_shares, count_capitals
from ram_ray.labels.counts import ANY_NAME, NAMED_NUMBERS, NUMBERS, count_block
from ram_ray.records import PARSED, to_table

TITAN, WATCH, ASIAN = ("titan", "object"), ("watch", "object"), ("asian", "attribute")
CAPTIONS = [
    ("a man shows his Titan watches to a friend", [TITAN, WATCH]),
    ("the new Titan stands beside an Asian woman", [TITAN, ASIAN]),
    ("Titan Watch On A Table", [TITAN, WATCH]),  # a title
    ("a titan watch on a table", [TITAN, WATCH]),  # no capitals
    ("the small watch lies on a table in Paris", [WATCH]),
]


def _row(text: str, names: list[tuple[str, str]]) -> dict:
    row = dict.fromkeys(PARSED.names)
    parsed = [{"caption": 0, "name": name, "kind": kind} for name, kind in names]
    return {**row, "key": text, "shard": "s-0001", "captions": [text], "parsed": parsed}


def test_only_sentences_count() -> None:
    table = to_table([_row(*caption) for caption in CAPTIONS], PARSED)
    rows = count_capitals(table).to_pylist()
    assert {(row["name"], row["kind"]): (row["capital"], row["inside"]) for row in rows} == {
        TITAN: (2, 2),
        WATCH: (0, 1),
    }
    assert {row["source"] for row in rows} == {"s"}
    assert count_capitals(to_table([], PARSED)).schema == CAPITALS


def test_names_and_their_capitals_are_counted_in_one_pass() -> None:
    table = to_table([_row(*caption) for caption in CAPTIONS], PARSED)
    both = count_block(table, with_capitals=True)
    sums = both.group_by(["name", "kind", "source"]).aggregate([(name, "sum") for name in NUMBERS]).to_pylist()
    assert {(row["name"], row["kind"]): [row[f"{name}_sum"] for name in NUMBERS] for row in sums} == {
        TITAN: [4, 2, 2],
        WATCH: [4, 0, 1],
        ASIAN: [1, 0, 0],
        ANY_NAME: [5, 0, 0],
    }
    plain = count_block(table, with_capitals=False)
    assert plain.schema == both.schema == NAMED_NUMBERS and set(plain["inside"].to_pylist()) == {0}
    assert count_block(to_table([], PARSED), with_capitals=True).schema == NAMED_NUMBERS


def test_a_name_that_few_captions_mention_in_sentences_has_no_share() -> None:
    few, enough = MIN_MENTIONS - 1, MIN_MENTIONS
    assert capital_shares({TITAN: (few, few), WATCH: (1, enough)}) == {WATCH: 1 / enough}


def test_names_and_boilerplate_are_dropped_with_their_reasons() -> None:
    counts = {TITAN: {"web": 90}, WATCH: {"web": 80}, ("sale", "object"): {"web": 70}, ("sail", "action"): {"web": 60}}
    shares = {TITAN: 0.97, WATCH: 0.1}
    options = BuildOptions(boilerplate=reasons(), capitals=shares, max_capitals=0.8)
    system, report = build(counts, options)
    assert system.names == ["watch", "sail"]
    assert report.dropped == [
        {"name": "sale", "kind": "object", "count": 70, "reason": "boilerplate", "detail": "trade"},
        {"name": "titan", "kind": "object", "count": 90, "reason": "name", "detail": "0.97"},
    ]
    kept = build(counts, BuildOptions(boilerplate=reasons(), capitals=shares, human=frozenset([TITAN])))[0]
    assert "titan" in kept.names, "a person named it"


@pytest.mark.parametrize("name", ["sale", "monday", "getty"])
def test_actions_are_not_boilerplate(name: str) -> None:
    system, _ = build({(name, "action"): {"web": 9}, (name, "object"): {"web": 9}}, BuildOptions(boilerplate=reasons()))
    assert [label.kind for label in system.labels] == ["action"]


@pytest.mark.parametrize("name", ["begin", "try"])
def test_verbs_that_nobody_sees_are_no_labels(name: str) -> None:
    counts = {(name, "action"): {"web": 9}, (name, "object"): {"web": 9}, ("jump", "action"): {"web": 9}}
    system, report = build(counts, BuildOptions(verbs=verbs()))
    assert {(label.name, label.kind) for label in system.labels} == {("jump", "action"), (name, "object")}
    assert [(line["name"], line["kind"], line["reason"]) for line in report.dropped] == [
        (name, "action", "boilerplate")
    ]
