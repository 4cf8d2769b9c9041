"""The PyTorch backend, which needs no extra."""

from __future__ import annotations

import torch
from torch import Tensor

from ram_ray.inference.backends.backend import LabelSet, MicroBatcher
from ram_ray.models.cpu_inference import bias_windows, can_pack, can_pack_encoder, pack_linears
from ram_ray.models.ram import RAM


class TorchBackend:
    """PyTorch: on a CPU with oneDNN's linear maps, on a GPU with autocast in bf16.

    Args:
        model: in eval mode; its weights may be changed in place.
        precision: "fp32" or "bf16".
    """

    def __init__(self, model: RAM, *, precision: str) -> None:
        self._model = model
        self._device = model.label_embed.device
        bias_windows(model)
        model.image_encoder.freeze()
        dtype = torch.bfloat16 if precision == "bf16" else torch.float32
        packed = self._device.type == "cpu" and can_pack(dtype)
        if packed:
            pack_linears(model, dtype=dtype)
        self._autocast = precision == "bf16" and not packed
        self._autocast_encoder = precision == "bf16" and not (packed and can_pack_encoder(model))
        self._micro_batcher = MicroBatcher(model, split=self._device.type == "cpu")

    @torch.inference_mode()
    def encode(self, pixel_values: Tensor) -> Tensor:
        """See `Backend.encode`."""
        with torch.autocast(self._device.type, torch.bfloat16, enabled=self._autocast_encoder):
            return self._micro_batcher.encode(lambda micro_batch: self._model.encode(micro_batch).float(), pixel_values)

    def logits(self, tokens: Tensor, labels: LabelSet) -> Tensor:
        """See `Backend.logits`."""
        return self._micro_batcher.logits(lambda micro_batch: self._logits(micro_batch, labels), tokens, labels)

    @torch.inference_mode()
    def _logits(self, tokens: Tensor, labels: LabelSet) -> Tensor:
        with torch.autocast(self._device.type, torch.bfloat16, enabled=self._autocast):
            queries = labels.queries
            if queries is None:
                assert labels.descriptions is not None
                queries = self._model.queries(labels.descriptions, tokens)
            return self._model.recognition(queries, tokens, projected_queries=labels.projected_queries).float()
