"""`ram-ray serve`: serve a model bundle over HTTP until Ctrl-C."""

from __future__ import annotations

import logging
import os
import signal
import threading
from typing import Annotated

import typer

from ram_ray.cli.command import require
from ram_ray.cli.options import Model, Sets

logger = logging.getLogger(__name__)


def serve(
    model: Model,
    config: Annotated[
        list[str] | None, typer.Option("--config", metavar="YAML", help="Settings; only the section serve is used.")
    ] = None,
    sets: Sets = None,
) -> int:
    """Serve a model over HTTP until Ctrl-C.

    It gives tags, captions and boxes of images, and has a page to upload images. Port and limits are settings, for
    example --set serve.port=8000.
    """
    require("fastapi", extra="serve")
    from ram_ray.config import load
    from ram_ray.runtime import cluster, outcome
    from ram_ray.runtime.storage import local_copy

    stop = threading.Event()
    for signal_number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(signal_number, lambda *_: stop.set())
    settings = load(files=config or (), sets=sets or ()).serve
    source = os.path.abspath(model) if os.path.isdir(model) else model
    if not (local_copy(source, files=("config.json",)) / "config.json").is_file():
        raise ValueError(f"{model} is not a model bundle: it has no config.json")

    def work() -> None:
        cluster.start()

        from ray import serve

        from ram_ray.serving.app import APP_NAME, deploy

        url = deploy(source, settings)
        logger.info("Serving %s at %s (page), %s/docs (API). Ctrl-C stops it. Try:", model, url, url)
        logger.info("  curl -F images=@image.jpg -F top_k=5 %s/v1/tag", url)
        stop.wait()
        logger.info("stopping")
        serve.delete(APP_NAME)
        if not cluster.joins_cluster():
            serve.shutdown()

    return outcome.run(work, name="serve", folder=None)
