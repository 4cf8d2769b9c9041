"""Contract: a stage's cost is its node-hours times their price, and is not named without a price."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from ram_ray.config import load
from ram_ray.reporting.run_log import RunLog
from ram_ray.reporting.stage_cost import cost_of
from ram_ray.results import Samples
from ram_ray.runtime.usage import Used
from ram_ray.settings.runtime import ResourcesConfig

USED = Used(cpu_seconds=640, gpu_seconds=80, cpu_node_seconds=1800, gpu_node_seconds=900)


def samples() -> Samples:
    counts = {"shards": 1, "rows_in": 8, "rows_out": 8, "rejected": 0, "images": 8}
    return Samples.model_validate({"stage": "shards", "digest": "1", "path": "", "seconds": 60, "used": USED, **counts})


@pytest.mark.parametrize(
    ("prices", "cost"),
    [
        ({"cpu_node_price": 2.0, "gpu_node_price": 40.0}, 11.0),
        ({"gpu_node_price": 40.0}, 10.0),
        ({"cpu_node_price": 0.0}, 0.0),
        ({}, None),
    ],
)
def test_the_cost_is_node_hours_times_price(prices: dict[str, float], cost: float | None) -> None:
    assert cost_of(USED, ResourcesConfig(**prices)) == cost
    assert cost_of(None, ResourcesConfig(**prices)) is None


def test_used_of_steps_adds_up() -> None:
    assert Used(cpu_seconds=1280, gpu_seconds=160, cpu_node_seconds=3600, gpu_node_seconds=1800) == USED + USED


@pytest.mark.parametrize("is_priced", [True, False])
def test_the_report_has_what_a_stage_used_and_cost(tmp_path: Path, is_priced: bool) -> None:
    prices = ["resources.cpu_node_price=2", "resources.gpu_node_price=40"] if is_priced else []
    config, log = load(None, sets=prices), RunLog()
    run = log.open(str(tmp_path))
    run.notify(samples(), is_reused=True)
    log.write_report(run, config, None)
    (stage,) = json.loads((tmp_path / "evaluation" / "report.json").read_text())["stages"]
    assert (stage["cpu_seconds"], stage["gpu_seconds"]) == (640, 80)
    assert (stage["cpu_node_hours"], stage["gpu_node_hours"]) == (0.5, 0.25)
    assert stage["cost"] == (11.0 if is_priced else None)
    page = (tmp_path / "evaluation" / "report.html").read_text()
    assert ">CPU-seconds</th>" in page and "<td>640</td>" in page
    assert (">cost</th>" in page, "<td>11.00</td>" in page) == (is_priced, is_priced)


def test_a_price_below_zero_is_refused() -> None:
    with pytest.raises(ValueError, match="cpu_node_price"):
        load(None, sets=["resources.cpu_node_price=-1"])
