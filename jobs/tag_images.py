"""Tag a folder of images, or shards: python jobs/tag_images.py --model BUNDLE --data GLOB ... --out DIR.

Writes part-*.parquet and part-*.jsonl to DIR with the columns key, tags, scores, error. Images need no captions; an
image that cannot be read gives a row with its error. The same command goes on after a break, and later tags only what
is new or changed. On a single machine it uses all cores; on a CPU it is fastest with --backend openvino --precision
bf16.
"""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # runs from a clone that is not installed

from ram_ray.cli.command import run_job
from ram_ray.cli.tag import tag_images

if __name__ == "__main__":
    sys.exit(run_job(tag_images, error_prefix="tag_images"))
