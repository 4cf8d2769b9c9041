"""Settings of the HTTP endpoint."""

from __future__ import annotations

from pydantic import Field

from ram_ray.settings.section import Section


class ServeConfig(Section):
    """The HTTP endpoint."""

    host: str = "127.0.0.1"
    port: int = 8000
    replicas: int = Field(1, ge=1)
    max_replicas: int = Field(1, ge=1)
    num_cpus: float = 0.5
    num_gpus: float = 0
    threads: int = 1
    max_batch_size: int = 16
    batch_wait_s: float = 0.01
    max_request_bytes: int = 32_000_000
    max_image_bytes: int = 16_000_000
    max_pixels: int = 50_000_000
    max_images: int = 16
    timeout_s: float = 30.0
    max_queued: int = 128
