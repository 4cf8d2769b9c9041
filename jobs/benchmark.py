"""Score systems on evaluation sets: python jobs/benchmark.py --model BUNDLE --systems ... --sets ... --out DIR."""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # runs from a clone that is not installed

from ram_ray.cli.benchmark import benchmark
from ram_ray.cli.command import run_job

if __name__ == "__main__":
    sys.exit(run_job(benchmark, error_prefix="benchmark"))
