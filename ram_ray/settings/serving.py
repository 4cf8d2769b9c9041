"""Settings of the HTTP endpoint."""

from __future__ import annotations

import ipaddress
import re
from typing import Literal

from pydantic import Field, field_validator, model_validator

from ram_ray.settings.data import MAX_PIXELS
from ram_ray.settings.section import Section

HOST_ENTRY = re.compile(r"(\[[0-9a-fA-F:.]+\]|(?:\*|(?:\*\.)?[\w.-]+))(?::(\d{1,5}))?", re.ASCII)  # host, port


class ApiKey(Section):
    """A key of the HTTP endpoint; the server knows its hash alone. `ram-ray key NAME` makes one."""

    name: str = Field(min_length=1, max_length=64, description="Name of the client, in logs and metrics.")
    sha256: str = Field(pattern=r"^[0-9a-f]{64}$", description="SHA-256 of the key, as hexadecimal digits.")
    images_per_minute: int | None = Field(None, ge=1, description="Most images a minute; null: no limit.")


class ServeConfig(Section):
    """The HTTP endpoint."""

    host: str = Field("127.0.0.1", description="Address to listen on; `0.0.0.0` is every network of the machine.")
    port: int = Field(8000, ge=1, le=65535, description="Port to listen on.")
    tls_cert: str = Field("", description="PEM file of a certificate; with `tls_key` the server speaks HTTPS.")
    tls_key: str = Field("", description="PEM file of the certificate's key.")
    replicas: int = Field(1, ge=1, description="Copies of the model, at least.")
    max_replicas: int = Field(
        1, ge=1, description="Copies of the model, at most; above `replicas` their number follows the load."
    )
    num_cpus: float = Field(0.5, ge=0, description="CPUs of a copy of the model.")
    num_gpus: float = Field(0, ge=0, description="GPUs of a copy of the model; a share is possible.")
    threads: int = Field(1, ge=1, description="CPU threads of a copy of the model.")
    backend: Literal["auto", "torch", "openvino"] = Field(
        "auto", description="What computes the model; `auto`: OpenVINO on CPUs where it is installed, else torch."
    )
    precision: Literal["auto", "fp32", "bf16"] = Field(
        "auto",
        description="`auto`: bf16 on a GPU, and with OpenVINO on a processor that has it; else fp32, which is exact.",
    )
    max_batch_size: int = Field(16, ge=1, description="Most images of one forward; fewer where more are no faster.")
    batch_wait_s: float = Field(0.01, ge=0, description="Most seconds that a forward waits for more images.")
    max_request_bytes: int = Field(32_000_000, ge=1, description="Most bytes of a request.")
    max_image_bytes: int = Field(16_000_000, ge=1, description="Most bytes of an image.")
    max_pixels: int = Field(MAX_PIXELS, ge=1, description="Most pixels of an image.")
    max_images: int = Field(16, ge=1, description="Most images of a request.")
    max_queued: int = Field(256, ge=1, description="Most images that wait at a time; more are refused with status 429.")
    max_held_bytes: int = Field(256_000_000, ge=1, description="Most bytes of all requests' bodies at a time.")
    max_held_pixels: int = Field(
        64_000_000, ge=1, description="Most pixels that are decoded at a time; a larger image is decoded alone."
    )
    min_bytes_per_s: int = Field(1000, ge=1, description="Least rate of a body; a slower one ends with status 408.")
    timeout_s: float = Field(30.0, gt=0, description="Seconds until a request is given up.")
    api_keys: tuple[ApiKey, ...] = Field((), description="Keys of clients; none: the endpoint is open.")
    cors_origins: tuple[str, ...] = Field((), description="Web origins whose pages may call the API; `*` is all.")
    image_hosts: tuple[str, ...] = Field(
        (),
        description="Hosts from which the images of `imageUri` are fetched, such as `img.example.org`, "
        "`*.example.org`, `img.example.org:8443`; `*` is all. None: an `imageUri` is refused.",
    )
    image_networks: tuple[str, ...] = Field(
        (), description="Private networks in which these hosts may be, such as `10.1.0.0/16`; none: public ones only."
    )
    examples: str = Field(
        "", description="Folder of up to 8 images (JPEG, PNG, WebP) that the page offers to try; empty: drawn scenes."
    )
    access_log: str = Field("", description="File that gets a line of JSON for each request; empty: none.")

    @field_validator("image_hosts")
    @classmethod
    def _check_hosts(cls, hosts: tuple[str, ...]) -> tuple[str, ...]:
        for host in hosts:
            if HOST_ENTRY.fullmatch(host) is None:
                raise ValueError(f"{host!r} is no host: give its name, and a port if it is not 80 or 443")
        return hosts

    @field_validator("image_networks")
    @classmethod
    def _check_networks(cls, networks: tuple[str, ...]) -> tuple[str, ...]:
        for network in networks:
            ipaddress.ip_network(network, strict=False)  # its error names the network
        return networks

    @model_validator(mode="after")
    def _check_tls(self) -> ServeConfig:
        if bool(self.tls_cert) != bool(self.tls_key):
            raise ValueError("tls_cert and tls_key: set both, or none")
        return self
