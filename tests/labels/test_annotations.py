"""Contract: hidden captions are used for measuring only; human labels remain the ground truth; only planted tags are
missing from the ground truth of the captions."""

from __future__ import annotations

import pyarrow as pa
import pytest

from ram_ray.config import RunConfig
from ram_ray.data.ground_truth import tag_counts
from ram_ray.label_system import Label, LabelSystem
from ram_ray.labels.annotations import Labeller, LabelSettings
from ram_ray.labels.counts import count_names
from ram_ray.labels.parse_stage import CaptionReader, ParseSettings
from ram_ray.records import PARSED, SAMPLE, to_table
from ram_ray.training.rows import tagged_rows

NAMES = ("dog", "beach", "ball", "man", "tree", "grass")
SYSTEM = LabelSystem(Label(id, name, "object", 10) for id, name in enumerate(NAMES))
PARSE = ParseSettings.from_config(RunConfig())


def _settings(**measure) -> LabelSettings:
    config = RunConfig.model_validate({"seed": 1, "data": {"measure": measure}})
    return LabelSettings.from_config(config, held_out=False)


def _sample(key: str, captions: list[str], hidden: list[str] | None, **more) -> dict:
    location = {"shard": "s", "uri": "a/s.tar", "offset": 512, "nbytes": 99, "width": 40, "height": 30}
    return {"key": key, **location, "captions": captions, "hidden_captions": hidden, **more}


@pytest.fixture(scope="module")
def parsed() -> pa.Table:
    rows = [
        _sample("s/0", ["a dog"], ["a dog on the beach", "a man with a ball", "un perro y un arbol en la playa"]),
        _sample("s/1", ["a dog and a ball"], ["grass"], labels=["beach"]),
        *[_sample(f"s/{index}", ["a dog and a man"], ["a tree"]) for index in range(2, 42)],
    ]
    return CaptionReader(PARSE)(to_table(rows, SAMPLE))


def _label(parsed: pa.Table, **measure) -> pa.Table:
    return Labeller(SYSTEM, _settings(**measure))(parsed)


def test_hidden_captions_become_the_ground_truth_only(parsed: pa.Table) -> None:
    table = _label(parsed, captions_per_image=1)
    first, second, *_ = table.to_pylist()
    assert [caption["text"] for caption in first["captions"]] == ["a dog"]
    assert [tag["id"] for tag in first["tags"]] == [0]
    assert set(first["truth"]) == {0, 1, 2, 3}
    assert second["truth"] == [1], "human labels remain the ground truth"
    (row, *_) = tagged_rows(table)
    assert row["tags"] == [0] and row["captions"] == [{"text": "a dog", "tags": [0]}]
    assert count_names(parsed.slice(0, 1)).to_pylist() == [
        {"name": "dog", "kind": "object", "source": "s", "count": 1}
    ], "hidden captions are not counted for the label system"


def test_counts_against_the_ground_truth_are_exact(parsed: pa.Table) -> None:
    rest = _label(parsed.slice(2), captions_per_image=1)
    (counts,) = tag_counts(rest).to_pylist()
    assert (counts["labelled"], counts["tp"], counts["fp"], counts["fn"]) == (40, 80, 0, 40)
    (counts,) = tag_counts(_label(parsed.slice(2), planted=0.5, captions_per_image=1)).to_pylist()
    assert (counts["tp"], counts["fp"], counts["fn"]) == (80, 40, 40), "a planted tag for every two tags of captions"
    (counts,) = tag_counts(_label(parsed.slice(1, 1), planted=1.0)).to_pylist()
    assert (counts["tp"], counts["fp"], counts["fn"]) == (0, 4, 1), (
        "human labels and tags of captions are never planted"
    )


def test_planting_depends_on_the_key_only(parsed: pa.Table) -> None:
    whole, part = _label(parsed, planted=0.5), _label(parsed.slice(5, 3), planted=0.5)
    assert whole.slice(5, 3).equals(part)


def test_a_run_without_measuring_has_no_ground_truth(parsed: pa.Table) -> None:
    assert _label(parsed).column("truth").null_count == 41
    plain = CaptionReader(PARSE)(to_table([_sample("s/0", ["a dog"], None)], SAMPLE))
    assert plain.schema == PARSED and plain.to_pylist()[0]["parsed_hidden"] is None
