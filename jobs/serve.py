"""Serve a model over HTTP until Ctrl-C: python jobs/serve.py --model BUNDLE [--set serve.port=8000]."""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # runs from a clone that is not installed

from ram_ray.cli.command import run_job
from ram_ray.cli.serve import serve

if __name__ == "__main__":
    sys.exit(run_job(serve, error_prefix="serve"))
