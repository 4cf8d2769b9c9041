"""Contract: settings select the labels that are cleaned; the others are counted and named, with the reason."""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa
import pytest

from ram_ray.config import RunConfig, load
from ram_ray.data_engine.clean import CLEANED_LABELS
from ram_ray.data_engine.cleaned_labels import count_removals, untouched_labels
from ram_ray.data_engine.stage_settings import CleanSettings, RegionSettings, select_labels
from ram_ray.label_system import Label, LabelSystem
from ram_ray.settings.data_engine import CleanConfig

LABELS = LabelSystem(
    [
        Label(0, "dog", "object", count=50),
        Label(1, "orange", "object", count=20, synonyms=("tangerine",)),
        Label(2, "orange", "attribute", count=70),
        Label(3, "run", "action", count=90),
        Label(4, "cat", "object", count=50),
    ]
)


def _config(**clean: object) -> RunConfig:
    return load(sets=[f"engine.clean.{name}={value}" for name, value in clean.items()])


def _list(folder: Path, text: str) -> str:
    (folder / "labels.txt").write_text(text)
    return str(folder / "labels.txt")


def test_a_list_selects_labels_by_name_synonym_and_kind(tmp_path: Path) -> None:
    for text, ids in (
        ("cat\nunicorn\n", (4,)),
        ("Tangerine\ndog # a comment\n", (0, 1)),
        ("attribute:orange\n", (2,)),
        ("run\ndog\nrun\n", (0, 3)),
    ):
        assert select_labels(CleanConfig(labels=_list(tmp_path, text)), LABELS) == ids, text
    assert select_labels(CleanConfig(labels="coco80"), LABELS) == (0, 1, 4), "a shipped list"
    with pytest.raises(ValueError, match="no name of .*labels.txt is a label"):
        select_labels(CleanConfig(labels=_list(tmp_path, "unicorn\n")), LABELS)
    with pytest.raises(ValueError, match="gone.txt"):
        select_labels(CleanConfig(labels=str(tmp_path / "gone.txt")), LABELS)


def test_a_count_selects_the_most_frequent_labels_also_of_a_list(tmp_path: Path) -> None:
    assert select_labels(CleanConfig(), LABELS) is None
    assert select_labels(CleanConfig(max_labels=3), LABELS) == (0, 2, 3), "of equal ones the lower id"
    assert select_labels(CleanConfig(max_labels=1, labels="coco80"), LABELS) == (0,)
    assert select_labels(CleanConfig(max_labels=99), LABELS) == (0, 1, 2, 3, 4)


def test_the_digest_follows_what_the_list_says_and_not_its_name(tmp_path: Path) -> None:
    def identities(name: str, text: str) -> list[dict]:
        (tmp_path / name).write_text(text)
        config = _config(labels=tmp_path / name)
        regions = RegionSettings.from_config(config, labels=LABELS, num_images=100)
        return [settings.identity() for settings in (regions, CleanSettings.from_config(config, labels=LABELS))]

    first = identities("a.txt", "dog\n")
    assert identities("b.txt", "# another comment\ndog\n") == first
    assert all(other != same for other, same in zip(identities("a.txt", "dog\ncat\n"), first, strict=True))


def test_fewer_labels_need_fewer_negatives_of_an_image() -> None:
    regions = [
        RegionSettings.from_config(_config(negatives_per_tag=50, **clean), labels=LABELS, num_images=100)
        for clean in ({}, {"max_labels": 2})
    ]
    assert [settings.num_negatives for settings in regions] == [3, 1]


def test_the_rule_is_no_part_of_what_regions_depend_on() -> None:
    ours, papers = (_config(rule=rule) for rule in ("probability", "paper"))
    first, second = (RegionSettings.from_config(config, labels=LABELS, num_images=9) for config in (ours, papers))
    assert first.identity() == second.identity(), "both rules share the detector's work"
    first, second = (CleanSettings.from_config(config, labels=LABELS) for config in (ours, papers))
    assert first.identity() != second.identity()


def test_what_is_not_cleaned_is_counted_and_named() -> None:
    def row(tag: int, crops: int, clusters: int) -> dict:
        counts = dict.fromkeys(("negatives", "outliers", "disagreements", "protected"), 1)
        return {"tag": tag, "crops": crops, "clusters": clusters, **counts}

    rows = pa.Table.from_pylist([row(0, 70, 2), row(1, 5, 0), row(3, 30, 1)], schema=CLEANED_LABELS)
    counts = count_removals(rows)
    assert (counts["labels"], counts["decided"], counts["crops"], counts["decided_crops"]) == (3, 2, 105, 100)
    assert (counts["outliers"], counts["disagreements"], counts["protected"]) == (3, 3, 3)
    assert count_removals(CLEANED_LABELS.empty_table())["decided_crops"] == 0
    untouched = untouched_labels(rows, LABELS, selected=(0, 1, 3))
    assert untouched == {"not_selected": ["orange", "cat"], "too_few_images": ["orange"]}
    assert untouched_labels(rows, LABELS, selected=None) == {
        "not_selected": [],
        "too_few_images": ["orange", "orange", "cat"],
    }


def test_bounds_in_the_wrong_order_are_refused() -> None:
    with pytest.raises(ValueError, match="write the shorter side first"):
        _config(image_bounds="[1333, 800]")
