"""Serve a model over HTTP until Ctrl-C: python jobs/serve.py --model BUNDLE [--set serve.port=8000]."""

from __future__ import annotations

import argparse
import os
import signal
import sys
import threading
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # runs from a clone that is not installed


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", required=True, help="model bundle: folder, URI or Hugging Face id")
    parser.add_argument("--config", action="append", default=[], help="YAML file; its section serve counts")
    parser.add_argument("--set", dest="sets", action="append", default=[], metavar="serve.FIELD=VALUE")
    options = parser.parse_args()

    from ram_ray.config import load
    from ram_ray.runtime import cluster, outcome
    from ram_ray.runtime.screen import print_error, print_line
    from ram_ray.runtime.storage import local_copy

    stop = threading.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: stop.set())
    model = os.path.abspath(options.model) if os.path.isdir(options.model) else options.model
    try:
        config = load(files=options.config, sets=options.sets).serve
        if not (local_copy(model, files=("config.json",)) / "config.json").is_file():
            raise ValueError(f"{options.model} is not a model bundle: it has no config.json")
    except ValueError as error:
        print_error(f"serve: {error}")
        return 2

    def work() -> None:
        cluster.start()

        from ray import serve

        from ram_ray.serving.app import APP_NAME, deploy

        url = deploy(model, config)
        print_line(f"Serving {options.model} at {url} (page), {url}/docs (API). Ctrl-C stops it. Try:")
        print_line(f"  curl -F images=@photo.jpg -F top_k=5 {url}/v1/tag")
        stop.wait()
        print_line("stopping")
        serve.delete(APP_NAME)
        if not cluster.joins():
            serve.shutdown()

    return outcome.run(work, name="serve", folder=None)


if __name__ == "__main__":
    sys.exit(main())
