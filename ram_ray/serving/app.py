"""The applications of Ray Serve: one that speaks HTTP, and one for each bundle that it offers.

A swap deploys the new bundle's application beside the old one. It is loaded and tried there; if it is broken, its
application is removed and nothing else has changed. Then the Ingress replicas are told, in place (Serve's
`user_config`), and only then the old application goes: Serve lets its replicas finish what they have.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import logging
import os
import re
import socket
import uuid
from pathlib import Path
from typing import Any

from pydantic import ValidationError
from ray import serve
from ray.serve.handle import DeploymentHandle

import ram_ray
from ram_ray.records import Json
from ram_ray.runtime import ray_internals
from ram_ray.serving import CALLBACK
from ram_ray.serving.messages import ModelInfo
from ram_ray.serving.remote import APP_NAME
from ram_ray.serving.replicas import Ingress, TaggerReplica
from ram_ray.settings.serving import ServeConfig

logger = logging.getLogger(__name__)

MODEL_PREFIX = "model-"  # of the applications of bundles
INGRESS_CPUS = 0.25  # decoding threads release the lock; on a cluster set it in the Serve config's `deployments`
FACTS_S = 30.0
_LOGGING = {"enable_access_log": False, "log_level": "WARNING"}
_CAUSE = re.compile(r"^(?:\w+\.)*(\w*(?:Error|Exception)): (.+)$", re.MULTILINE)


def model_app(model_uri: str, config: ServeConfig, *, name: str | None = None) -> serve.Application:
    """Make the Serve application of one bundle, which answers no HTTP.

    Args:
        model_uri: a path, any fsspec URI, or a Hugging Face id.
        config: section `serve`.
        name: in requests and answers; None: the last parts of `model_uri`.

    Returns:
        The application, not yet deployed.
    """
    check_s = max(1.0, config.timeout_s / 6)  # three checks in a row without an answer, and the replica is replaced
    return TaggerReplica.options(  # type: ignore[attr-defined]
        ray_actor_options={"num_cpus": config.num_cpus, "num_gpus": config.num_gpus},
        max_ongoing_requests=2,  # one batch is computed, the next is there
        max_queued_requests=config.max_queued,
        health_check_period_s=check_s,
        health_check_timeout_s=2 * check_s,
        graceful_shutdown_timeout_s=config.timeout_s,
        graceful_shutdown_wait_loop_s=0.5,
        max_constructor_retry_count=1,  # a broken bundle stays broken
        **_scaling(config, target=2),
    ).bind(model_uri, config, name)


def ingress_app(
    config: ServeConfig, *, state: Json | None = None, tagger: Any = None, guarded: bool = True
) -> serve.Application:
    """Make the Serve application that speaks HTTP.

    Args:
        config: section `serve`.
        state: the models that it offers (`Ingress.reconfigure`).
        tagger: of a single model in the same application, in place of `state`.
        guarded: whether the proxies have the guard.

    Returns:
        The application, not yet deployed. With the same settings it is updated in place.
    """
    check_s = max(1.0, config.timeout_s / 6)
    settings = f"{ram_ray.__version__} {guarded} {config.model_dump_json()}"
    return ray_internals.with_version(
        Ingress.options(  # type: ignore[attr-defined]
            ray_actor_options={"num_cpus": INGRESS_CPUS},
            max_ongoing_requests=1000,  # waiting images have places of their own; health checks still pass
            health_check_period_s=check_s,
            health_check_timeout_s=2 * check_s,
            graceful_shutdown_timeout_s=config.timeout_s,
            graceful_shutdown_wait_loop_s=0.5,
            user_config=state,
            **_scaling(config, target=64),
        ),
        hashlib.sha256(settings.encode()).hexdigest()[:16],
    ).bind(config, tagger, guarded)


def app(args: Json) -> serve.Application:
    """Build the application of a Serve config file: `import_path: ram_ray.serving.app:app`, `args: {model: ...}`.

    Args:
        args: `model`, and any field of `ServeConfig` except `host` and `port`.

    Returns:
        The application, not yet deployed.

    Raises:
        ValueError: for a missing model or an unknown or wrong field; names it.
    """
    fields = dict(args)
    model = fields.pop("model", None)
    if not isinstance(model, str) or not model:
        raise ValueError("args.model: give the path, URI or hub id of a model bundle")
    for name in ("host", "port"):
        if name in fields:
            raise ValueError(f"args.{name}: set it in the config file's http_options; all applications share it")
    try:
        config = ServeConfig.model_validate(fields)
    except ValidationError as error:
        from ram_ray.serving.messages import describe

        raise ValueError(f"args: {describe(error)}") from None
    return ingress_app(config, tagger=model_app(model, config), guarded=ray_internals.has_proxy_callback())


def _scaling(config: ServeConfig, *, target: int) -> Json:
    if config.max_replicas <= config.replicas:
        return {"num_replicas": config.replicas}
    limits = {"min_replicas": config.replicas, "max_replicas": config.max_replicas}
    return {"autoscaling_config": {**limits, "target_ongoing_requests": target, "upscale_delay_s": 10}}


def deploy(model_uri: str, config: ServeConfig, *, name: str | None = None) -> str:
    """Serve a bundle on the cluster that this process has joined; where one is served already, swap it.

    Stop it with `shutdown`.

    Args:
        model_uri: a path, any fsspec URI, or a Hugging Face id.
        config: section `serve`.
        name: in requests and answers; None: the last parts of `model_uri`.

    Returns:
        The URL of the server.

    Raises:
        ValueError: if the port is taken, Serve already runs on another port, or the bundle cannot be loaded; then
            nothing has changed.
    """
    _start_serve(config)
    swap(model_uri, config, name=name)
    host = "127.0.0.1" if config.host in ("0.0.0.0", "::") else config.host
    return f"http{'s' if config.tls_cert else ''}://{f'[{host}]' if ':' in host else host}:{config.port}"


def swap(model_uri: str, config: ServeConfig, *, name: str | None = None, beside: bool = False) -> ModelInfo:
    """Load a bundle, try it, and offer it.

    Args:
        model_uri: a path, any fsspec URI, or a Hugging Face id.
        config: section `serve`.
        name: in requests and answers; None: the last parts of `model_uri`.
        beside: offer it beside the others; False: it replaces the default.

    Returns:
        The new model.

    Raises:
        ValueError: if the bundle cannot be loaded or its name is taken; then nothing has changed.
    """
    _check_files(model_uri)
    state = current_state()
    app_name, info = _load(model_uri, config, name=name)
    models = [entry for entry in (state or {"models": []})["models"]]
    old = None if beside or state is None else state["default"]
    kept = [entry for entry in models if entry["app"] != old]
    if any(entry["name"] == info.model for entry in kept):
        serve.delete(app_name)
        raise ValueError(f"a model named {info.model!r} is served already: give another --name")
    entry = {"app": app_name, "uri": model_uri, "name": info.model, "digest": info.digest}
    default = state["default"] if beside and state else app_name
    previous = next((entry for entry in models if entry["app"] == old), (state or {}).get("previous"))
    _offer({"models": [*kept, entry], "default": default, "previous": previous}, config)
    if old is not None:
        serve.delete(old)
    return info


def rollback(config: ServeConfig) -> ModelInfo:
    """Go back to the bundle before the last swap.

    Args:
        config: section `serve`.

    Returns:
        The model that answers now.

    Raises:
        ValueError: if there is none before, or it cannot be loaded any more; then nothing has changed.
    """
    previous = (current_state() or {}).get("previous")
    if not previous:
        raise ValueError("there is no model before the one that is served")
    return swap(previous["uri"], config, name=previous["name"])


def current_state() -> Json | None:
    """The models that the server offers, as `Ingress.reconfigure` got them; None: nothing is served."""
    if ray_internals.serve_port() is None:
        return None
    status = serve.status().applications.get(APP_NAME)
    if status is None or status.status not in ("RUNNING", "UNHEALTHY"):
        return None
    return serve.get_app_handle(APP_NAME).state.remote().result(timeout_s=FACTS_S) or None


def shutdown(*, everything: bool) -> None:
    """Stop serving: requests that are being answered end first.

    Args:
        everything: also stop what other applications share.
    """
    names = serve.status().applications
    if APP_NAME in names:  # first, as the models answer what it has
        serve.delete(APP_NAME)
    if everything:
        serve.shutdown()
        return
    for name in names:
        if name.startswith(MODEL_PREFIX):
            serve.delete(name)


def _check_files(model_uri: str) -> None:
    """Check what can be checked of a local bundle before a replica starts, which takes seconds."""
    from safetensors import SafetensorError, safe_open

    from ram_ray.label_system import LabelSystem
    from ram_ray.models.bundle_config import parse_config

    folder = Path(model_uri)
    if not folder.is_dir():
        return
    try:
        parse_config(folder, source=model_uri)
        LabelSystem.from_json((folder / "label_system.json").read_text())
        with safe_open(folder / "model.safetensors", framework="np"):
            pass
    except (OSError, ValueError, SafetensorError) as error:
        raise ValueError(f"{model_uri} cannot be served: {error}") from None


def _load(model_uri: str, config: ServeConfig, *, name: str | None) -> tuple[str, ModelInfo]:
    """Deploy the application of a bundle and wait until all its replicas have tried it."""
    app_name = f"{MODEL_PREFIX}{uuid.uuid4().hex[:8]}"
    try:
        handle: DeploymentHandle = serve.run(
            model_app(model_uri, config, name=name), name=app_name, route_prefix=None, logging_config=_LOGGING
        )
        info, _ = handle.facts.remote().result(timeout_s=FACTS_S)
    except Exception as error:
        with contextlib.suppress(Exception):
            status = serve.status().applications.get(app_name)
            message = str(error) if status is None else "\n".join(_messages(status))
            error = RuntimeError(message or str(error))
        with contextlib.suppress(Exception):
            serve.delete(app_name)
        raise ValueError(f"{model_uri} cannot be served: {_cause(str(error))}") from None
    return app_name, info


def _messages(status: Any) -> list[str]:
    return [*(deployment.message for deployment in status.deployments.values()), status.message]


def _cause(text: str) -> str:
    """The last exception that a text of Ray names."""
    found = _CAUSE.findall(text)
    if not found:
        return " ".join(text.split())[:400]
    kind, message = found[-1]
    return message[:400] if kind == "ValueError" else f"{kind}: {message[:400]}"


def _offer(state: Json, config: ServeConfig) -> None:
    target = ingress_app(config, state=state)
    serve.run(target, name=APP_NAME, route_prefix="/", logging_config=_LOGGING)


def _start_serve(config: ServeConfig) -> None:
    running_port = ray_internals.serve_port()
    if running_port is not None:  # its HTTP options cannot change: Ray would only warn and keep the old port
        if running_port != config.port:
            raise ValueError(
                f"Ray Serve already runs on port {running_port} of this cluster, not {config.port}: "
                f"set serve.port={running_port}, or stop it first with `serve shutdown`"
            )
        return
    check_port_free(config.host, config.port)
    options: Json = {"host": config.host, "port": config.port}
    if config.tls_cert:
        for path in (config.tls_cert, config.tls_key):
            if not os.access(path, os.R_OK):
                raise ValueError(f"{path} cannot be read: set serve.tls_cert and serve.tls_key to PEM files")
        options |= {"ssl_certfile": config.tls_cert, "ssl_keyfile": config.tls_key}
    serve.start(http_options=options, controller_options=ray_internals.proxy_callback(CALLBACK))


def check_port_free(host: str, port: int) -> None:
    """Check that a port can be listened at.

    Args:
        host: address.
        port: of the address.

    Raises:
        ValueError: if it is taken, or may not be used; says what to set.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family, socket.SOCK_STREAM) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError as error:
            if error.errno == errno.EADDRINUSE:
                raise ValueError(f"port {port} on {host} is taken: set serve.port to a free one") from None
            if error.errno == errno.EACCES:
                raise ValueError(f"port {port} needs more rights: set serve.port to 1024 or above") from None
            raise ValueError(f"cannot listen on {host}:{port}: {error.strerror}; set serve.host") from None
