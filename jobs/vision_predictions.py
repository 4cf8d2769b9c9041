"""Labels of Google Cloud Vision for a set, by your own key: jobs/vision_predictions.py --eval NAME=FILE --out FILE.

export GOOGLE_API_KEY=...
python jobs/vision_predictions.py --eval coco80=instances_val2017.json,images=val2017 --out google.jsonl
python jobs/benchmark.py --model BUNDLE --systems google=google.jsonl --sets coco80=... --out benchmark
"""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # runs from a clone that is not installed

from ram_ray.cli.command import run_job
from ram_ray.cli.vision import vision_predictions

if __name__ == "__main__":
    sys.exit(run_job(vision_predictions, error_prefix="vision_predictions"))
