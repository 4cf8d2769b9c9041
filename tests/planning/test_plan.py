"""Contract: counts grow with rows and shards alone; what cannot end is refused with the limit and what avoids it; an
earlier run's seconds and contents replace the shipped constants.
"""

from __future__ import annotations

import functools
import re
from dataclasses import replace
from pathlib import Path

import pytest

from ram_ray.config import RunConfig, load
from ram_ray.planning.cluster import Cluster, known_machines, read_cluster
from ram_ray.planning.constants import Constant, Constants, read_constants, shipped_constants, write_constants
from ram_ray.planning.cost import Pace, make_plan
from ram_ray.planning.earlier_run import content_constants, measured_seconds, plan_run, read_run
from ram_ray.planning.limits import Limit, find_limits
from ram_ray.planning.page import compare, to_json, to_text
from ram_ray.planning.plan import Plan, Workload
from ram_ray.planning.recipe import plan_stages
from ram_ray.planning.regrouping import count_regrouping
from ram_ray.results import Parsed, Samples
from ram_ray.runtime.artifacts import Run
from ram_ray.settings.section import StageSettings

NODES = ("head=1", "p4de.24xlarge=1", "c6i.16xlarge=8")
LOAD = Workload(images=14_000_000, shards=1400, finetune_images=113_000, held_out=50_000, held_out_shards=5)


PHOTO_BYTES = Constant(200e3, unit="bytes/image", kind="estimate", origin="a photo of 2,000 pixels")


def preset(name: str = "ram_14m", *sets: str) -> RunConfig:
    return load(f"ram_ray/presets/{name}.yaml", sets=sets)


@functools.cache
def planned(
    sets: tuple[str, ...] = (), workload: Workload = LOAD, nodes: tuple[str, ...] = NODES, name: str = "ram_14m"
) -> Plan:
    cluster, constants = read_cluster(nodes), shipped_constants()
    return make_plan(plan_stages(preset(name, *sets), workload, cluster, constants), workload, cluster, constants)


def limits_of(sets: tuple[str, ...] = (), workload: Workload = LOAD, nodes: tuple[str, ...] = NODES) -> list[Limit]:
    limits = find_limits(planned(sets, workload, nodes), preset("ram_14m", *sets), within_hours=720)
    return [limit for limit in limits if limit.ends]


def test_every_constant_says_where_it_is_from_and_is_used() -> None:
    constants = shipped_constants()
    for name, constant in constants.origins.items():
        assert constant.origin and constant.kind in ("measured", "estimate"), name
        assert constant.kind == "estimate" or constant.date and constant.machine, name
    used = set()
    for name, sets in (
        ("ram_14m", ()),
        ("ram_14m", ("training.recompute=false", "pretrain.copy_side=256")),
        ("demo", ()),
    ):
        plan = planned(sets, name=name)
        find_limits(plan, preset(name, *sets), within_hours=1)
        to_json(plan, [])
        used |= plan.constants.used
    used |= planned(("training.precision=bf16",), name="demo").constants.used
    assert set(constants) == used


def test_the_stages_are_those_of_the_recipe_in_its_order() -> None:
    names = [cost.stage.name for cost in planned().costs]
    assert [name for name in names if not name.endswith("_eval") and not name.startswith("evaluate")] == [
        *("shards", "fingerprints", "duplicates", "images", "vocabulary", "represent", "parse", "label_system"),
        *("labels", "pretrain", "scores_1", "score_weights_1", "thresholds_1", "generate_1"),
        *("regions_1", "removals_1", "clean_1", "retrain_1", "finetune"),
    ]
    given = [cost.stage.name for cost in planned(("engine.model=./bundle", "engine.rounds=2")).costs]
    assert "pretrain" not in given and {"clean_2", "retrain_2"} <= set(given)
    folds = [cost.stage.name for cost in planned(("engine.folds=3",)).costs]
    assert {"pretrain_fold_0", "pretrain_fold_2"} <= set(folds) and "retrain_1_fold_0" not in folds


def test_ten_times_the_rows_and_shards_are_ten_times_the_files() -> None:
    small = planned()
    large = planned((), replace(LOAD, images=10 * LOAD.images, shards=10 * LOAD.shards))
    assert 8 < large.total("files") / small.total("files") < 10.2  # each read task ends with a smaller block
    assert large.total("gpu_seconds") == pytest.approx(10 * small.total("gpu_seconds"), rel=0.02)
    assert small.passes_over_all - 1 < large.passes_over_all < small.passes_over_all, "statistics read some shards"


def test_no_stage_grows_faster_than_the_images() -> None:
    """Tasks that each read all rows, as many as there are rows, are found here: they grow with the square."""
    small, large = (planned((), replace(LOAD, images=n, shards=n // 10_000)) for n in (10**8, 10**9))
    for costs in zip(small.costs, large.costs, strict=True):
        before, after = (cost.stage for cost in costs)
        requests = [sum(stage.requests) for stage in (before, after)]
        most = 18 if before.name == "removals_1" else 10.1  # files of a batch: until each label is a group
        assert requests[1] <= most * max(1, requests[0]), before.name
        most = 13 if before.name == "duplicates" else 10.1  # hashes of one key: `lookup.MAX_NEIGHBOURS` bounds them
        assert after.cpu_seconds <= most * max(1, before.cpu_seconds), before.name


def test_files_of_regrouping_grow_with_batches() -> None:
    counts = [
        count_regrouping(
            crops=rows, nbytes=rows * 1000, num_files=rows // 1000, labels=4585, partitions=200, removed=rows / 100
        )
        for rows in (10**7, 10**8)
    ]
    moved = [count.moved_files / count.batches / count.groups**0.5 for count in counts]  # today 2 B sqrt(G) at most
    assert all(0.5 < files <= 3 for files in moved) and 9 < counts[1].batches / counts[0].batches <= 10
    assert counts[1].groups <= 4585 and counts[1].sets > 0 and counts[1].bins == 10


def test_copies_are_made_once_and_read_by_fewer_requests_where_a_worker_has_few_lanes() -> None:
    sides = ("pretrain.copy_side=256", "retrain.copy_side=256", "finetune.copy_side=384", "training.workers=256")
    nodes = ("head=1", "p4de.24xlarge=32", "c6i.16xlarge=8")
    large = Constants({**shipped_constants().origins, "image_bytes": PHOTO_BYTES})
    cluster = read_cluster(nodes)
    without, copied = (
        {stage.name: stage for stage in plan_stages(preset("ram_14m", *sets), LOAD, cluster, large)}
        for sets in (sides[3:], sides)
    )
    assert set(copied) - set(without) == {"copies_256", "copies_384"}
    assert copied["copies_256"].disk_bytes == pytest.approx(13_300_000 * 0.3 * 256**2 * 4 / 3)
    assert copied["copies_384"].rows_out == LOAD.finetune_images
    for name in ("pretrain", "retrain_1"):
        assert copied[name].requests.get < without[name].requests.get / 4, name
    assert copied["copies_256"].requests.get < without["pretrain"].requests.get / 3


@pytest.mark.parametrize(
    ("sets", "workload", "nodes", "line"),
    [
        (
            (),
            LOAD,
            ("mine=4,cpus=64,memory=256",),
            "pretrain: no GPU: 8 GPUs are asked for, and there is 0; add machines",
        ),
        ((), LOAD, ("mine=4,cpus=64,memory=256,gpus=1,gpu_memory=80",), "pretrain: GPUs: .* set training.workers to 4"),
        (
            ("labels.min_name_count=1",),
            LOAD,
            ("head=1,memory=2", *NODES[1:]),
            "label_system: driver memory: .*; set labels.min_name_count to [2-9], or take --nodes head=1,memory=[0-9]",
        ),
        (
            ("training.recompute=false",),
            LOAD,
            ("a=1,cpus=96,memory=900,gpus=8,gpu_memory=24",),
            "pretrain: GPU memory: .* set pretrain.micro_batch_size to 2[0-9], or training.recompute",
        ),
        (
            (),
            replace(LOAD, images=50, shards=2, finetune_images=50),
            NODES,
            "pretrain: fewer rows than a batch: a step has",
        ),
        (
            ("labels.min_count=100",),
            replace(LOAD, images=60, shards=2),
            NODES,
            "labels: captions: a label must be in 100",
        ),
        (
            (),
            replace(LOAD, images=10**9, shards=10**5),
            NODES,
            "time: .* take . times the GPUs, and set training.workers to",
        ),
        (
            (),
            replace(LOAD, images=10**9, shards=10**5),
            ("g=1,cpus=64,memory=900,gpus=8,gpu_tflops=999999",),
            "object store and disk",
        ),
    ],
    ids=["no-gpu", "few-gpus", "driver", "gpu-memory", "batch", "captions", "time", "store"],
)
def test_what_cannot_end_is_named_with_what_avoids_it(
    sets: tuple[str, ...], workload: Workload, nodes: tuple[str, ...], line: str
) -> None:
    lines = [limit.line for limit in limits_of(sets, workload, nodes)]
    assert any(re.search(line, text) for text in lines), lines
    assert all("\n" not in text for text in lines)


def test_the_large_preset_ends_on_the_machines_of_its_files() -> None:
    assert limits_of() == []


def test_settings_that_a_limit_names_avoid_it() -> None:
    nodes = ("a=1,cpus=96,memory=900,gpus=8,gpu_memory=24",)
    sets: tuple[str, ...] = ("training.recompute=false",)
    (fix,) = {limit.fix.split()[3].rstrip(",") for limit in limits_of(sets, LOAD, nodes) if limit.stage == "pretrain"}
    sets = (*sets, f"pretrain.micro_batch_size={fix}")
    assert not [limit for limit in limits_of(sets, LOAD, nodes) if limit.stage == "pretrain"]


def test_larger_blocks_are_named_only_where_they_help() -> None:
    """At a billion rows blocks fill the driver in most stages; names of captions fill it whatever the blocks are."""
    nodes, sets = ("head=1,memory=24", *NODES[1:]), ("labels.min_name_count=1",)
    workload = replace(LOAD, images=10**9, shards=10**5)
    limits = {limit.stage: limit for limit in limits_of(sets, workload, nodes) if limit.what == "driver memory"}
    assert "rows_per_block" in limits["scores_1"].fix and "rows_per_block" not in limits["label_system"].fix
    rows = limits["scores_1"].fix.split()[3].rstrip(",")
    larger = limits_of((f"data.rows_per_block={rows}",), workload, nodes)
    assert not [limit for limit in larger if limit.stage == "scores_1" and limit.what == "driver memory"]


def test_a_detector_that_sees_only_images_in_doubt_costs_less() -> None:
    plans = [planned(sets=(f"engine.clean.doubt_share={share}",)) for share in ("null", 0.1, 0.5)]
    seconds = [{cost.stage.name: cost.stage.gpu_seconds for cost in plan.costs}["regions_1"] for plan in plans]
    assert seconds[1] < seconds[2] < seconds[0]
    names = [[cost.stage.name for cost in plan.costs] for plan in plans]
    assert names[1] == names[2] and set(names[1]) - set(names[0]) == {"doubts_1"}


@pytest.mark.parametrize(
    ("memory", "fields"), [(24, ["min_name_count"]), (6, ["min_name_count", "min_count"])], ids=["enough", "little"]
)
def test_fewer_names_are_named_where_they_help(memory: int, fields: list[str]) -> None:
    """No name that is not counted may be a label, so beyond `min_count` both settings are named."""
    nodes, sets = (f"head=1,memory={memory}", *NODES[1:]), ("labels.min_name_count=1",)
    workload = replace(LOAD, images=10**9, shards=10**5)

    def of_names(sets: tuple[str, ...]) -> list[str]:
        found = limits_of(sets, workload, nodes)
        return [limit.fix for limit in found if limit.stage == "label_system" and limit.what == "driver memory"]

    (fix,) = of_names(sets)
    named, _, count = fix.removeprefix("set ").partition(",")[0].partition(" to ")
    assert named.split(" and ") == [f"labels.{name}" for name in fields]
    assert int(count) > 1 and not of_names(tuple(f"labels.{name}={count}" for name in fields))


def test_the_table_and_the_json_have_every_stage() -> None:
    plan = planned()
    lines, data = to_text(plan, []).splitlines(), to_json(plan, limits := find_limits(plan, preset(), within_hours=1))
    for cost in plan.costs:
        assert sum(line.split()[:1] == [cost.stage.name] for line in lines) == 1
    assert [stage["name"] for stage in data["stages"]] == [cost.stage.name for cost in plan.costs]
    assert not data["can_end"] and data["first_limit"] == limits[0].line
    assert data["totals"]["dollars"] == pytest.approx(plan.dollars) and data["constants"]["parse_caption"]["origin"]


def test_machines_are_read_as_they_are_written() -> None:
    cluster = read_cluster(["head=1", "p4de.24xlarge=2,price=20", "mine=3,cpus=8,memory=32"])
    assert (cluster.cpus, cluster.gpus, cluster.stage_cpus) == (2 * 96 + 24, 16, 24)
    assert cluster.price(gpu_hours=True) is None  # `mine` has no price
    assert Cluster(cluster.machines[:2]).price(gpu_hours=True) == pytest.approx(40 + known_machines()["head"].price)
    for text, message in (
        ("c6i.16xlarge", "write KIND=COUNT"),
        ("c6i.16xlarge=0", "write KIND=COUNT"),
        ("mine=1", "is not in the list"),
        ("mine=1,cores=4", "'cores=4' is no field"),
        ("mine=1,cpus=-1,memory=8", "'cpus=-1' is no field with a number"),
        ("head=1", "no machine has CPUs"),
    ):
        with pytest.raises(ValueError, match=message):
            read_cluster([text])


def test_constants_are_replaced_by_a_file(tmp_path: Path) -> None:
    file = str(tmp_path / "mine.yaml")
    found = {"parse_caption": Constant(4e-05, "cpu-s/caption", "measured", "here", "2026-11-29", "mine")}
    write_constants(f"{tmp_path}/mine.json", found)
    assert read_constants(f"{tmp_path}/mine.json")["parse_caption"] == 4e-5
    write_constants(file, found)
    constants = read_constants(file)
    assert constants["parse_caption"] == 4e-5 and constants["read_row"] == shipped_constants()["read_row"]
    for text, message in (
        ("speed: {value: 1.0, unit: s, kind: measured, origin: x}", "speed is no constant"),
        ("task: {value: 1.0, unit: s, kind: measured, origin: x}", "task is in s, and must be in cpu-s/task"),
        ("task: 3", "task needs value"),
        ("task: {value: quick, unit: cpu-s/task, kind: measured, origin: x}", "is 'quick', not a number"),
        ("[", "is no YAML"),
    ):
        (tmp_path / "mine.yaml").write_text(text)
        with pytest.raises(ValueError, match=message) as error:
            read_constants(file)
        assert str(error.value).startswith(file) and "\n" not in str(error.value)


def earlier_run(folder: Path, *, rows: int = 1000, seconds: float = 60.0) -> str:
    """Two finished stages of a run with the preset `photos`, whose files are made up; `parse` took the seconds."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.yaml").write_text(Path("ram_ray/presets/photos.yaml").read_text())
    run = Run(str(folder))
    stage = run.stage("shards", Samples, settings=StageSettings(), inputs=[])
    Path(stage.path, "shard=a").mkdir(parents=True)
    Path(stage.path, "shard=a", "0.parquet").write_bytes(b"x" * 50_000)
    counts = {"rows_in": rows, "rows_out": rows, "rejected": 0, "images": rows}
    samples = stage.finish(shards=1, **counts)
    stage = run.stage("parse", Parsed, settings=StageSettings(), inputs=[samples])
    stage.started -= seconds
    stage.finish(**counts, tags=4 * rows, captions=5 * rows, rejected_captions={})
    return str(folder)


def test_seconds_and_contents_of_an_earlier_run_are_taken(tmp_path: Path) -> None:
    run = read_run(earlier_run(tmp_path))
    assert run.workload == Workload(1000, 1, 1000, labels=run.config.labels.max_labels)
    constants = content_constants(run, shipped_constants())
    assert (constants["captions_an_image"], constants["sample_bytes"]) == (5.0, 50.0)
    cluster = read_cluster(["mine=1,cpus=2,memory=8"])
    plan = plan_run(run, cluster, constants)
    measured = measured_seconds([(run, plan)])
    starts = next(cost.stage.starts for cost in plan.costs if cost.stage.name == "parse")
    assert measured["parse/cpu"].row == pytest.approx((60 - starts) * 2 / 1000, rel=0.01)
    assert measured["parse/cpu"].starts is None
    load = replace(LOAD, images=100_000, shards=100)
    larger = make_plan(plan_stages(run.config, load, cluster, constants), load, cluster, constants, measured=measured)
    (cost,) = [cost for cost in larger.costs if cost.stage.name == "parse"]
    rows = cost.stage.unit_rows
    assert cost.origin == "run" and cost.wall_seconds == pytest.approx((60 - starts) * rows / 1000 + starts, rel=0.01)
    assert [row["stage"] for row in compare(plan, run)] == ["shards", "parse"]


def two_runs(folder: Path, cluster: Cluster, constants: Constants, *, seconds: tuple[float, float]) -> dict[str, Pace]:
    """The pace of runs of 1,000 and of 10,000 rows."""
    runs = []
    for rows, taken in zip((1000, 10_000), seconds, strict=True):
        run = read_run(earlier_run(folder / str(rows), rows=rows, seconds=taken))
        runs.append((run, plan_run(run, cluster, constants)))
    return measured_seconds(runs)


def test_starts_and_rows_are_told_apart_by_runs_of_two_sizes(tmp_path: Path) -> None:
    cluster, constants = read_cluster(["mine=1,cpus=2,memory=8"]), shipped_constants()
    measured = two_runs(tmp_path, cluster, constants, seconds=(60, 78))
    pace, share = measured["parse/cpu"], 1 - constants["duplicate_share"]  # of the rows that are parsed
    assert pace.row == pytest.approx(2 * 18 / 9000 / share, rel=0.02) and pace.starts == pytest.approx(58, rel=0.02)
    load = replace(LOAD, images=100_000, shards=100)
    larger = make_plan(
        plan_stages(preset("photos"), load, cluster, constants), load, cluster, constants, measured=measured
    )
    (cost,) = [cost for cost in larger.costs if cost.stage.name == "parse"]
    assert cost.wall_seconds == pytest.approx(58 + 100_000 * 18 / 9000, rel=0.02)
    longer = two_runs(tmp_path / "no_longer", cluster, constants, seconds=(60, 50))["parse/cpu"]
    assert longer.row == 0 and longer.starts == pytest.approx(54, abs=2), "the larger run took no longer"


def test_what_is_no_run_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="no config.yaml, so it is no folder of a run"):
        read_run(str(tmp_path))
    (tmp_path / "config.yaml").write_text("name: empty\n")
    with pytest.raises(ValueError, match="the stage shards has not ended"):
        read_run(str(tmp_path))
