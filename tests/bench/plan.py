"""Planned against measured: files, requests and seconds of the cheap stages, at several numbers of rows.

    python tests/bench/plan.py [--rows 1000 5000 10000 100000 1000000] [--rows-per-tar 1000] [--s3] [--folder DIR]

Tiny images with a caption each, in tars, go through shards, fingerprints, parse, the label system and labels on a Ray
of two CPUs. Each size is planned with the two before it as earlier runs (`ram-ray plan --run A --run B`), and the plan
stands beside what was measured. The first size is run twice, so that no measured run starts Ray's processes. With --s3
the data and the run are in moto's S3 server behind a proxy that counts, and requests by kind are printed too; with
`put_written_file` and its like of that run they can be planned. The target is a plan within 20% at 10,000, 100,000 and
1,000,000 rows, on a machine with nothing beside it.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))

from tests.bench.scale import name_tars, s3, write_tar  # noqa: E402
from tests.s3 import S3Proxy  # noqa: E402

CPUS = 2
STAGES = ("shards", "fingerprints", "parse", "label_system", "labels")  # `duplicates` finds no url to compare here


def run_stages(data: str, run_uri: str) -> None:
    """The stages, as `pipeline.prepare` calls them."""
    from ram_ray.config import dump, load
    from ram_ray.curation.duplicates import find_duplicates
    from ram_ray.curation.fingerprints import make_fingerprints
    from ram_ray.data.collect import collect
    from ram_ray.labels.parse_stage import parse
    from ram_ray.labels.stages import build_labels, label_captions
    from ram_ray.runtime.artifacts import Run

    sets = ["labels.wordnet=none", "data.duplicates={same: [url], near: null}"]  # all rows have one of 16 images
    config = load(sets=[*sets, "data.filters.min_brightness=0.001"])  # so that images are decoded
    run = Run(run_uri)
    run.write_text("config.yaml", dump(config))
    samples = collect(run, config, name="shards", uris=[data])
    find_duplicates(run, config, make_fingerprints(run, config, samples))
    parsed = parse(run, config, samples)
    label_captions(run, config, parsed, build_labels(run, config, parsed))


def requests_of(proxy: S3Proxy | None) -> dict[str, int]:
    """Requests so far, by method; PUT with POST and DELETE apart."""
    return {name: proxy.counts[name] for name in ("GET", "HEAD", "PUT", "POST", "DELETE")} if proxy else {}


def main() -> None:
    """Measure each size; the first is the earlier run of the others."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", nargs="+", type=int, default=[1000, 5000, 10_000, 100_000, 1_000_000])
    parser.add_argument("--rows-per-tar", type=int, default=1000)
    parser.add_argument("--s3", action="store_true", help="data and run in an S3 server, behind a proxy that counts")
    parser.add_argument("--folder", help="where to work (default: a folder for temporary files)")
    options = parser.parse_args()
    assert all(rows % options.rows_per_tar == 0 for rows in options.rows), "rows are whole tars"
    import ray

    from ram_ray.planning.cluster import read_cluster
    from ram_ray.planning.constants import shipped_constants
    from ram_ray.planning.cost import make_plan
    from ram_ray.planning.earlier_run import EarlierRun, content_constants, measured_seconds, plan_run, read_run
    from ram_ray.planning.page import compare, comparison_text
    from ram_ray.planning.recipe import plan_stages
    from ram_ray.runtime.cluster import configure_data

    machine = read_cluster([f"bench=1,cpus={CPUS},memory=8"])
    with tempfile.TemporaryDirectory(dir=options.folder) as temporary, s3(options.s3) as proxy:
        folder = Path(temporary)
        write_tar(folder / "template.tar", rows=options.rows_per_tar)
        ray.init(num_cpus=CPUS, include_dashboard=False, log_to_driver=False, object_store_memory=500_000_000)
        configure_data()
        earlier: list[EarlierRun] = []
        for number, rows in enumerate([options.rows[0], *options.rows]):
            tars = {"count": rows // options.rows_per_tar, "name": f"{number}-{rows}"}
            data, run_uri = name_tars(folder / "template.tar", folder=folder, proxy=proxy, **tars)
            before = requests_of(proxy)
            run_stages(data, run_uri)
            if number == 0:
                continue
            made = {name: value - before[name] for name, value in requests_of(proxy).items()}
            run = read_run(run_uri)
            constants = content_constants(run, shipped_constants())
            plan = plan_run(run, machine, constants)
            if len(earlier) >= 2:
                measured = measured_seconds([(one, plan_run(one, machine, constants)) for one in earlier[-2:]])
                stages = plan_stages(run.config, run.workload, machine, constants)
                plan = make_plan(stages, run.workload, machine, constants, measured=measured)
            origin = "the two runs before" if len(earlier) >= 2 else "constants"
            earlier.append(run)
            print(f"{rows:,} rows, seconds by {origin}; requests {made or ''}")
            print(comparison_text([row for row in compare(plan, run) if row["stage"] in STAGES]), flush=True)
            planned = [cost.stage.requests for cost in plan.costs if cost.stage.name in STAGES]
            if made:
                print(
                    "requests planned:",
                    {name: round(sum(getattr(part, name) for part in planned)) for name in planned[0]._fields},
                )
        ray.shutdown()


if __name__ == "__main__":
    main()
