"""Settings of the HTTP endpoint."""

from __future__ import annotations

from pydantic import Field

from ram_ray.settings.data import MAX_PIXELS
from ram_ray.settings.section import Section


class ServeConfig(Section):
    """The HTTP endpoint."""

    host: str = Field("127.0.0.1", description="Address to listen on; `0.0.0.0` is every network of the machine.")
    port: int = Field(8000, description="Port to listen on.")
    replicas: int = Field(1, ge=1, description="Copies of the model, at least.")
    max_replicas: int = Field(
        1, ge=1, description="Copies of the model, at most; above `replicas` their number follows the load."
    )
    num_cpus: float = Field(0.5, description="CPUs of a copy of the model.")
    num_gpus: float = Field(0, description="GPUs of a copy of the model; a share is possible.")
    threads: int = Field(1, description="CPU threads of a copy of the model.")
    max_batch_size: int = Field(16, description="Most images of one forward.")
    batch_wait_s: float = Field(0.01, description="Seconds that a forward waits for more images.")
    max_request_bytes: int = Field(32_000_000, description="Most bytes of a request.")
    max_image_bytes: int = Field(16_000_000, description="Most bytes of an image.")
    max_pixels: int = Field(MAX_PIXELS, description="Most pixels of an image.")
    max_images: int = Field(16, description="Most images of a request.")
    timeout_s: float = Field(30.0, description="Seconds until a request is given up.")
    max_queued: int = Field(128, description="Most requests at a time; more are refused with status 429.")
