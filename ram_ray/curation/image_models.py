"""The models of the step `image_scores`: an encoder of images and captions, and a classifier of unsafe images.

Both take squares of any side and resize them to their own, as `models.teacher` does for crops.
"""

from __future__ import annotations

import contextlib
from collections.abc import Sequence

import numpy as np
import torch
import torch.nn.functional as F

from ram_ray.curation.score_settings import unsafe_classes
from ram_ray.models.number_format import choose_precision
from ram_ray.models.teacher import Teacher, resize_crops
from ram_ray.models.towers import ImageTower, without_progress_bar
from ram_ray.runtime.storage import local_copy
from ram_ray.settings.curation import CurationEncoderConfig


def _autocast(device: str, precision: str) -> contextlib.AbstractContextManager:
    on_gpu = device != "cpu" and choose_precision(precision, device) == "bf16"
    return torch.autocast("cuda", torch.bfloat16) if on_gpu else contextlib.nullcontext()


class Embedder:
    """Unit vectors of images, and of captions where the encoder is a dual encoder.

    Args:
        config: names the encoder.
        device: of the encoder.
        precision: on a GPU, as in `choose_precision`; else float32.

    Raises:
        ValueError: if the encoder cannot be loaded, or `clip` names none with a joint space.
    """

    def __init__(self, config: CurationEncoderConfig, *, device: str, precision: str) -> None:
        self._device, self._precision = device, precision
        self._teacher: Teacher | None = None
        if config.clip:
            self._teacher = Teacher.from_pretrained(config.clip, revision=config.revision, device=device)
            if not self._teacher.is_dual:
                raise ValueError(f"data.encoder.clip {config.clip!r} has no joint space of images and texts")
        else:
            self._tower = ImageTower.pretrained(config.image_encoder, image_size=config.image_size)
            self._tower.model.to(device)

    @torch.inference_mode()
    def images(self, pixels: np.ndarray) -> np.ndarray:
        """Embed images.

        Args:
            pixels: uint8 (B, S, S, 3), RGB.

        Returns:
            float32 (B, E), of unit length.
        """
        with _autocast(self._device, self._precision):
            if self._teacher:
                return self._teacher.encode_images(pixels)
            squares = torch.from_numpy(np.require(pixels, requirements=["C", "W"])).to(self._device)
            vectors = self._tower.images(resize_crops(squares, self._tower.image_size))
        return F.normalize(vectors.float(), dim=-1).cpu().numpy()

    def texts(self, texts: list[str]) -> np.ndarray:
        """Embed captions.

        Args:
            texts: B captions.

        Returns:
            float32 (B, E), of unit length.
        """
        assert self._teacher
        with _autocast(self._device, self._precision):
            return self._teacher.encode_texts(texts)


class Classifier:
    """A transformers image classifier, some of whose classes are unsafe.

    Args:
        source: path, URI or Hugging Face id.
        revision: commit of an id.
        unsafe: names of the unsafe classes; empty: those of usual names that it has.
        device: of the model.
        precision: on a GPU, as in `choose_precision`; else float32.

    Raises:
        ValueError: if it cannot be loaded, or has none of the classes.
    """

    def __init__(
        self, source: str, *, revision: str | None, unsafe: Sequence[str], device: str, precision: str
    ) -> None:
        from transformers import AutoImageProcessor, AutoModelForImageClassification

        try:
            folder = local_copy(source, revision=revision)
            self._processor = AutoImageProcessor.from_pretrained(folder)
            with without_progress_bar():
                self._model = AutoModelForImageClassification.from_pretrained(folder).eval().to(device)
        except (OSError, ValueError, KeyError) as error:
            raise ValueError(
                f"data.filters.unsafe_model {source!r} cannot be loaded as an image classifier of transformers; give "
                f"a folder, a URI or an id with unsafe_revision: {(str(error).splitlines() or [''])[0]}"
            ) from error
        self._device, self._precision = device, precision
        self._classes = unsafe_classes(self._model.config.id2label, unsafe, source=source)

    @torch.inference_mode()
    def unsafe(self, pixels: np.ndarray) -> np.ndarray:
        """The probability that an image is unsafe.

        Args:
            pixels: uint8 (B, S, S, 3), RGB.

        Returns:
            float32 (B,): the sum over the unsafe classes.
        """
        inputs = self._processor(images=list(pixels), return_tensors="pt").to(self._device)
        with _autocast(self._device, self._precision):
            logits = self._model(**inputs).logits
        return logits.float().softmax(-1)[:, self._classes].sum(-1).cpu().numpy()
