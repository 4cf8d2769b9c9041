"""`ram-ray serve`: serve a model bundle over HTTP until Ctrl-C. `ram-ray swap`: change what it serves."""

from __future__ import annotations

import logging
import math
import os
import signal
import threading
from typing import TYPE_CHECKING, Annotated

import typer

from ram_ray.cli.command import require
from ram_ray.cli.options import Model, Sets

if TYPE_CHECKING:
    from ram_ray.records import Json
    from ram_ray.settings.serving import ServeConfig

logger = logging.getLogger(__name__)

LOAD_S = 900.0  # until a new model must be loaded
Files = Annotated[
    list[str] | None, typer.Option("--config", metavar="YAML", help="Settings; only the section serve is used.")
]
Name = Annotated[
    str | None,
    typer.Option(
        "--name", metavar="NAME", help="Name of the model in requests and answers; default: its last folders."
    ),
]


def serve(model: Model, name: Name = None, config: Files = None, sets: Sets = None) -> int:
    """Serve a model over HTTP until Ctrl-C.

    It gives tags, captions and boxes of images, and has a page to upload images. Port and limits are settings, for
    example --set serve.port=8000. `ram-ray swap` replaces the model.
    """
    require("fastapi", extra="serve")
    from ram_ray.config import load
    from ram_ray.runtime import cluster, outcome
    from ram_ray.serving import CALLBACK

    settings = load(files=config or (), sets=sets or ()).serve
    source = find_bundle(model)
    stop = threading.Event()

    def work() -> None:
        # Beside the replicas of a model there must be room for those of the one that replaces it.
        copies = 2 * settings.replicas * settings.num_cpus + settings.replicas
        cluster.start(num_cpus=max(cluster.machine_cpus(), math.ceil(copies) + 1), http_callback=CALLBACK)
        for signal_number in (signal.SIGINT, signal.SIGTERM):  # after Ray, which sets handlers of its own
            signal.signal(signal_number, lambda *_: stop.set())

        from ram_ray.serving import app, control

        url = app.deploy(source, settings, name=name)
        logger.info("Serving %s at %s (page), %s/docs (API). Ctrl-C stops it. Try:", model, url, url)
        logger.info("  curl -F images=@image.jpg -F top_k=5 %s/v1/tag", url)
        with control.listen(settings.port, lambda order: carry_out(order, settings)):
            while not stop.wait(1):  # a signal is noticed between two waits at the latest
                pass
        logger.info("stopping: requests that are being answered end first")
        app.shutdown(everything=not cluster.joins_cluster())

    return outcome.run(work, name="serve", folder=None)


def swap(
    model: Annotated[
        str | None, typer.Option("--model", metavar="BUNDLE", help="The new bundle: folder, URI or Hugging Face id.")
    ] = None,
    name: Name = None,
    beside: Annotated[bool, typer.Option("--beside", help="Offer it beside the others, by its name.")] = False,
    rollback: Annotated[bool, typer.Option("--rollback", help="Go back to the model before the last swap.")] = False,
    config: Files = None,
    sets: Sets = None,
) -> int:
    """Replace the model of a running `ram-ray serve`.

    No request is lost. The new model is loaded and tried beside the old one. If it is broken, nothing changes and the
    reason is printed.
    On a cluster give the settings of `ram-ray serve` again.
    """
    require("fastapi", extra="serve")
    from ram_ray.config import load
    from ram_ray.runtime import cluster

    settings = load(files=config or (), sets=sets or ()).serve
    if rollback == (model is not None):
        raise ValueError("give --model BUNDLE, or --rollback")
    order = {"model": find_bundle(model) if model else None, "name": name, "beside": beside}
    if cluster.joins_cluster():
        cluster.start()
        answer = carry_out(order, settings)
        cluster.stop()
    else:
        from ram_ray.serving import control

        answer = control.send(settings.port, order, timeout_s=LOAD_S)
    print(f"serving {answer['name']} (bundle {answer['digest']}, {answer['num_tags']} tags)")
    return 0


def key(
    name: Annotated[str, typer.Argument(metavar="NAME", help="Name of the client, in logs and metrics.")],
    images_per_minute: Annotated[int | None, typer.Option(metavar="N", help="Most images a minute.")] = None,
) -> int:
    """Make an API key for `ram-ray serve`.

    It prints the key, for the client, and its entry for the server's settings, which holds its hash alone.
    """
    from ram_ray.serving.keys import make_key

    secret, entry = make_key(name, images_per_minute=images_per_minute)
    print(f"key for the client, shown once: {secret}")
    print("entry of serve.api_keys in a YAML file for ram-ray serve --config:")
    print(f"  - {entry.model_dump_json(exclude_none=True)}")
    return 0


def carry_out(order: Json, settings: ServeConfig) -> Json:
    """Do what an order says, in a process of the server's cluster.

    Args:
        order: `model`, None for a rollback; `name`; `beside`.
        settings: section `serve`.

    Returns:
        Name, digest and number of tags of the model that answers now.

    Raises:
        ValueError: if it cannot be done; then nothing has changed.
    """
    from ram_ray.serving import app

    if order["model"] is None:
        info = app.rollback(settings)
    else:
        info = app.swap(order["model"], settings, name=order["name"], beside=order["beside"])
    logger.info("serving %s (bundle %s)", info.model, info.digest)
    return {"name": info.model, "digest": info.digest, "num_tags": len(info.tags)}


def find_bundle(model: str) -> str:
    """Check that a bundle is there, before anything starts.

    Args:
        model: folder, URI or Hugging Face id.

    Returns:
        The same, an absolute path for a folder.

    Raises:
        ValueError: if it has no config.json.
    """
    from ram_ray.runtime.storage import local_copy

    source = os.path.abspath(model) if os.path.isdir(model) else model
    if not (local_copy(source, files=("config.json",)) / "config.json").is_file():
        raise ValueError(f"{model} is not a model bundle: it has no config.json")
    return source
