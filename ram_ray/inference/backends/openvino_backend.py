"""The OpenVINO backend, the fastest on a CPU. In fp32 its logits are PyTorch's up to rounding.

The model is traced into two graphs, image encoder and recognition decoder, both for any number of images and tags.
RAM++'s weighing of descriptions, a small part, stays in PyTorch.
"""

from __future__ import annotations

import queue
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from ram_ray.inference.backends.backend import LabelSet, MicroBatcher
from ram_ray.models.cpu_inference import bias_windows
from ram_ray.models.ram import RAM

_HINTS = {"fp32": "f32", "bf16": "bf16"}


def import_openvino() -> Any:
    """Import OpenVINO without its telemetry: each conversion would fork processes that report it to its makers.

    OpenVINO has a stub for an installation without that package. No effect if this process has imported it already.

    Returns:
        The module.

    Raises:
        ValueError: if openvino is not installed.
    """
    sys.modules.setdefault("openvino_telemetry", None)  # type: ignore[arg-type]
    try:
        import openvino
    except ImportError:
        raise ValueError(
            "the openvino backend needs the package of this name: install ram_ray with the extra 'openvino'"
        ) from None
    return openvino


class OpenVinoBackend:
    """See `ram_ray.inference.backends.backend.Backend`.

    Args:
        model: in eval mode, on the CPU.
        precision: "fp32" or "bf16".
        threads: of inference; None: OpenVINO's default.

    Raises:
        ValueError: if openvino is not installed.
    """

    def __init__(self, model: RAM, *, precision: str, threads: int | None) -> None:
        openvino = import_openvino()
        self._model, self._micro_batcher = model, MicroBatcher(model)
        self._settings: dict[str, Any] = {
            "INFERENCE_PRECISION_HINT": _HINTS[precision],  # its default is bf16 if the CPU supports it
            "PERFORMANCE_HINT": "LATENCY",
        }
        if threads is not None:
            self._settings["INFERENCE_NUM_THREADS"] = threads
        config = model.config
        bias_windows(model)
        pixels = torch.zeros(2, 3, config.image_size, config.image_size)
        self._encoder = self._compile(openvino, _Encoder(model), (pixels,), shapes=[(-1, *pixels.shape[1:])])
        tokens = torch.zeros(2, 5, model.context_width)
        width = model.recognition.width
        queries = torch.zeros(2 if model.reweighs else 1, len(model.label_embed), width)
        # Classifiers of single labels (Tag2Text, group queries) fix the number of tags.
        num_tags = -1 if config.scores_any_label else queries.shape[1]
        side = (-1 if model.reweighs else 1, num_tags, width)
        self._head = self._compile(
            openvino, _Head(model), (queries, queries, tokens), shapes=[side, side, (-1, -1, model.context_width)]
        )

    def encode(self, pixel_values: Tensor) -> Tensor:
        """See `Backend.encode`."""
        return self._micro_batcher.encode(self._encoder, pixel_values)

    def logits(self, tokens: Tensor, labels: LabelSet) -> Tensor:
        """See `Backend.logits`."""
        return self._micro_batcher.logits(lambda micro_batch: self._logits(micro_batch, labels), tokens, labels)

    @torch.inference_mode()
    def _logits(self, tokens: Tensor, labels: LabelSet) -> Tensor:
        queries, projected_queries = labels.queries, labels.projected_queries
        if queries is None or projected_queries is None:
            assert labels.descriptions is not None
            queries = self._model.queries(labels.descriptions, tokens)
            projected_queries = self._model.recognition.project_queries(queries)
        return self._head(queries, projected_queries, tokens)

    def _compile(self, openvino: Any, module: nn.Module, example: tuple, *, shapes: list[tuple]) -> _Graph:
        with torch.inference_mode(False), torch.no_grad(), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of tracing, which no user can do anything about
            # Traced here without a check: OpenVINO's own tracing runs the check, which is slow for a large model.
            traced = torch.jit.trace(module.eval(), example, check_trace=False)
            graph = openvino.convert_model(traced, example_input=example)
        graph.reshape(
            {port: openvino.PartialShape(list(shape)) for port, shape in zip(graph.inputs, shapes, strict=True)}
        )
        return _Graph(openvino.compile_model(graph, "CPU", self._settings))


class _Graph:
    """A compiled graph with one output; each thread has an inference request of its own while it runs."""

    def __init__(self, compiled: Any) -> None:
        self._compiled = compiled
        self._idle_requests: queue.SimpleQueue = queue.SimpleQueue()

    def __call__(self, *inputs: Tensor) -> Tensor:
        with self._request() as request:
            arrays = {index: tensor.detach().contiguous().numpy() for index, tensor in enumerate(inputs)}
            outputs = request.infer(arrays, share_inputs=True)
            return torch.from_numpy(outputs[0].copy())

    @contextmanager
    def _request(self) -> Iterator[Any]:
        try:
            request = self._idle_requests.get_nowait()
        except queue.Empty:
            request = self._compiled.create_infer_request()
        try:
            yield request
        finally:
            self._idle_requests.put(request)


class _Encoder(nn.Module):
    def __init__(self, model: RAM) -> None:
        super().__init__()
        self.image_encoder, self.image_proj = model.image_encoder, model.image_proj

    def forward(self, pixel_values: Tensor) -> Tensor:
        return self.image_proj(self.image_encoder(pixel_values))


class _Head(nn.Module):
    def __init__(self, model: RAM) -> None:
        super().__init__()
        self.recognition = model.recognition

    def forward(self, queries: Tensor, projected_queries: Tensor, tokens: Tensor) -> Tensor:
        return self.recognition(queries, tokens, projected_queries=projected_queries)
