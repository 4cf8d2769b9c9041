"""Contract: an ablation's means, spreads and gains are right, gains are within a seed, and what a seed did not measure
is left out and not counted as 0."""

from __future__ import annotations

import pytest
from scipy.stats import ttest_rel

from ram_ray.ablation.rows import build_rows, seed_statistics, to_markdown, to_text, total_gain

NAMES = ("parsed", "+ generation", "+ cleaning")
SEEDS = {
    0: {
        "parsed": {"tags": 100, "precision": 0.9, "mAP": 0.50, "recovered of objects": 0.1},
        "+ generation": {"tags": 150, "precision": 0.8, "mAP": 0.56},
        "+ cleaning": {"tags": 140, "precision": 0.85, "mAP": 0.58},
    },
    1: {
        "parsed": {"tags": 102, "precision": 0.92, "mAP": 0.60, "recovered of objects": 0.3},
        "+ generation": {"tags": 160, "precision": 0.82, "mAP": 0.64},
        "+ cleaning": {"tags": 150, "precision": None, "mAP": 0.65},
    },
}


def test_mean_and_sample_deviation_over_seeds() -> None:
    parsed, generated, cleaned = build_rows(NAMES, SEEDS)
    assert (parsed["row"], generated["row"], cleaned["row"]) == NAMES
    assert parsed["tags"]["mean"] == 101 and parsed["tags"]["sd"] == pytest.approx(2**0.5)
    assert parsed["mAP"]["values"] == {"0": 0.50, "1": 0.60}
    assert cleaned["precision"] == {"mean": 0.85, "sd": None, "values": {"0": 0.85}}
    assert parsed["recovered of objects"]["mean"] == pytest.approx(0.2)
    assert "recall" not in parsed


def test_a_gain_is_within_a_seed() -> None:
    parsed, generated, cleaned = rows = build_rows(NAMES, SEEDS)
    assert "gain" not in parsed
    assert generated["gain"]["mean"] == pytest.approx(0.05)
    assert generated["gain"]["sd"] == pytest.approx(0.02 / 2**0.5), "far less than the seeds differ"
    assert cleaned["gain"]["mean"] == pytest.approx(0.015)
    assert "p" not in parsed and generated["p"] == pytest.approx(ttest_rel([0.56, 0.64], [0.5, 0.6]).pvalue)
    assert cleaned["p"] == pytest.approx(ttest_rel([0.58, 0.65], [0.56, 0.64]).pvalue)
    assert total_gain(rows)["mean"] == pytest.approx(0.065)
    assert total_gain(rows)["values"] == {"0": pytest.approx(0.08), "1": pytest.approx(0.05)}


def test_an_alternative_is_compared_with_what_the_row_before_it_builds_on() -> None:
    names = (*NAMES, "by another rule", "+ finetune")
    more = {"by another rule": {"mAP": 0.59}, "+ finetune": {"mAP": 0.7}}
    rows = build_rows(names, {0: {**SEEDS[0], **more}}, alternatives=["by another rule"])
    assert [row["gain"]["mean"] for row in rows[2:]] == pytest.approx([0.02, 0.03, 0.12])
    assert total_gain(rows)["mean"] == pytest.approx(0.2)


def test_all_rows_may_be_compared_with_one() -> None:
    parsed, generated, cleaned = build_rows(NAMES, SEEDS, base="parsed")
    assert "gain" not in parsed and generated["gain"]["mean"] == pytest.approx(0.05)
    assert cleaned["gain"]["values"] == {"0": pytest.approx(0.08), "1": pytest.approx(0.05)}


def test_a_seed_that_stopped_half_way_counts_where_it_measured() -> None:
    parsed, generated = build_rows(NAMES, {0: SEEDS[0], 1: {"parsed": SEEDS[1]["parsed"]}})[:2]
    assert len(parsed["mAP"]["values"]) == 2 and generated["mAP"]["values"] == {"0": 0.56}
    assert generated["gain"] == {"mean": pytest.approx(0.06), "sd": None, "values": {"0": pytest.approx(0.06)}}
    assert generated["p"] is None and "p |" not in to_markdown([parsed, generated]).splitlines()[0]
    assert build_rows(NAMES, {}) == [] and total_gain(build_rows(NAMES[:1], SEEDS)) is None


def test_nothing_measured_has_no_mean() -> None:
    assert seed_statistics({0: None}) is None and seed_statistics({}) is None


def test_the_tables_say_the_same() -> None:
    rows = build_rows(NAMES, SEEDS)
    text, markdown = to_text(rows).splitlines(), to_markdown(rows).splitlines()
    assert len({len(line) for line in text}) == 1 and len(text) == len(markdown) == 5
    assert markdown[0] == "|  | tags | precision | mAP | gain | p |" and markdown[1] == "|---|---|---|---|---|---|"
    assert markdown[2] == "| parsed | 101 ± 1 | 0.910 ± 0.014 | 0.5500 ± 0.0707 |  |  |"
    assert markdown[4] == "| + cleaning | 145 ± 7 | 0.850 | 0.6150 ± 0.0495 | +0.0150 ± 0.0071 | 0.2 |"
    assert "+0.0500 ± 0.0141" in text[3]
