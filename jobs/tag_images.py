"""Tag a folder of pictures, or shards: python jobs/tag_images.py --model BUNDLE --data GLOB ... --out DIR.

Leaves part-*.parquet and part-*.jsonl in DIR with the columns key, tags, scores, error. Pictures need no
captions; one that cannot be read gives a row with its error. On one machine it uses all cores; on a CPU it is quickest
with --backend openvino --precision bf16.
"""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # runs from a clone that is not installed


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", required=True, help="model bundle: folder, URI or Hugging Face id")
    parser.add_argument("--data", nargs="+", required=True, help="folders, pictures, shards or globs; paths or URIs")
    parser.add_argument("--out", required=True, help="folder or URI for the parts")
    parser.add_argument("--top-k", type=int, help="the best k tags of each picture")
    parser.add_argument("--threshold", type=float, help="one probability in place of each tag's own")
    parser.add_argument("--tags", help="your own tags, separated by commas, in place of the model's list")
    parser.add_argument("--backend", default="torch", choices=("torch", "openvino"))
    parser.add_argument("--precision", choices=("fp32", "bf16"), help="bf16 on a GPU, else fp32")
    parser.add_argument("--config", action="append", default=[], help="YAML file; its resources and data limits count")
    parser.add_argument("--set", dest="sets", action="append", default=[], metavar="SECTION.FIELD=VALUE")
    options = parser.parse_args()

    from ram_ray.config import load
    from ram_ray.inference import batch
    from ram_ray.runtime import cluster, outcome
    from ram_ray.runtime.screen import print_error, print_line

    own = tuple(tag.strip() for tag in options.tags.split(",") if tag.strip()) if options.tags else None
    try:
        config = load(files=options.config, sets=options.sets)
        query = batch.Query(top_k=options.top_k, threshold=options.threshold, tags=own)
        batch.find_work(
            options.data, shard_folders=config.data.shard_folders
        )  # a wrong path is told before anything starts
        resources = config.resources
        if not cluster.joins():
            cpus = cluster.machine_cpus()
            resources = cluster.fill_machine(resources, cpus=min(cpus, resources.num_cpus or cpus))
            config = config.model_copy(update={"resources": resources})
    except ValueError as error:
        print_error(f"tag_images: {error}")
        return 2

    def work() -> None:
        cluster.start(num_cpus=resources.num_cpus, object_store_gb=resources.object_store_gb, dashboard=False)
        counts = batch.tag_to_folder(
            _absolute(options.model) if os.path.isdir(options.model) else options.model,
            [_absolute(one) for one in options.data],
            _absolute(options.out),
            query=query,
            config=config,
            backend=options.backend,
            precision=options.precision,
        )
        print_line(
            f"{counts['images']} pictures tagged into {options.out}, {counts['errors']} of them could not be read"
        )

    return outcome.run(work, name="tag_images", folder=None)


def _absolute(path: str) -> str:
    """Workers have another working directory; URIs stay as they are."""
    return path if "://" in path else os.path.abspath(path)


if __name__ == "__main__":
    sys.exit(main())
