"""The models that one server offers, by name, and which one answers where a request names none.

A model is a bundle of one digest: its name, its labels, its image size and its answers come from the same replica set,
which never changes its bundle. A swap replaces the entry as a whole, so a request has one model from start to end.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from dataclasses import dataclass

from ram_ray.serving.limits import ApiError
from ram_ray.serving.messages import ModelInfo
from ram_ray.serving.tagger import Tagger


@dataclass(frozen=True, eq=False)
class ServedModel:
    """A model that is loaded: its facts, most images of a forward, and what computes them."""

    info: ModelInfo
    batch_size: int
    tagger: Tagger

    @property
    def name(self) -> str:
        """Name in requests and answers."""
        return self.info.model


class Models:
    """The models of one Ingress.

    Args:
        tagger: a single model, asked for its facts at the first request; None: `replace` gives the models.
    """

    def __init__(self, tagger: Tagger | None = None) -> None:
        self._tagger = tagger
        self._models: dict[str, ServedModel] = {}
        self._default: str | None = None
        self._changed = asyncio.Event()

    def __iter__(self) -> Iterator[ServedModel]:
        return iter(self._models.values())

    @property
    def default(self) -> str | None:
        """Name of the model for requests that name none."""
        return self._default

    def replace(self, models: list[ServedModel], *, default: str) -> None:
        """Offer these models from now on.

        Args:
            models: loaded models, each name once.
            default: name of one of them.
        """
        self._models = {model.name: model for model in models}
        assert default in self._models
        self._default = default
        self._changed.set()

    async def get(self, name: str | None = None, *, timeout_s: float) -> ServedModel:
        """Find a model, once one is loaded.

        Args:
            name: of the model; None: the default.
            timeout_s: most seconds to wait.

        Returns:
            The model.

        Raises:
            ApiError: 503 if none is loaded in time, 404 if there is none of this name.
        """
        if self._default is None:
            try:
                async with asyncio.timeout(timeout_s):
                    await self._load()
            except TimeoutError:
                raise ApiError(503, "not_ready", "the model is not loaded yet", retry_after_s=5) from None
        assert self._default is not None
        model = self._models.get(name or self._default)
        if model is None:
            known = ", ".join(sorted(self._models))
            raise ApiError(404, "unknown_model", f"model: there is no {name!r:.100}; there are {known}")
        return model

    async def refresh(self, model: ServedModel, *, timeout_s: float) -> ServedModel:
        """Find what replaced a model whose replicas are gone.

        Args:
            model: that did not answer.
            timeout_s: as of `get`.

        Returns:
            The model that answers in its place: of its name, else the default.

        Raises:
            ApiError: as of `get`.
        """
        if self._tagger is not None:
            self._default = None
        try:
            return await self.get(model.name, timeout_s=timeout_s)
        except ApiError as error:
            if error.code != "unknown_model":
                raise
            return await self.get(timeout_s=timeout_s)

    async def _load(self) -> None:
        if self._tagger is None:
            await self._changed.wait()
            return
        info, batch_size = await self._tagger.facts()
        self.replace([ServedModel(info, batch_size, self._tagger)], default=info.model)
