"""Text-to-image generators: they make the synthetic images of captions that StableRep learns from.

`TextToImage` is the interface. `DrawnGenerator` needs no model: it draws the words of a caption that it knows.
`DiffusersGenerator` runs Stable Diffusion or any other diffusers pipeline. The same caption and seed give the same
image.
"""

from __future__ import annotations

import random
import re
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Protocol

from ram_ray.drawn_scenes import ACTIONS, BACKGROUNDS, COLOURS, OBJECTS, Scene, draw, scene_of
from ram_ray.drawn_scenes.drawing import Level
from ram_ray.runtime.storage import local_copy

if TYPE_CHECKING:
    from PIL.Image import Image

_DTYPES = ("auto", "float32", "bfloat16", "float16")
_MAX_SEEDS = 4  # seeds tried for an image that the pipeline's safety check blanks
_ACTION_FORMS = {form: lemma for lemma, forms in ACTIONS.items() for form in (lemma, *forms)}
_ObjectWords = list[str | None]  # object, colour, action


class TextToImage(Protocol):
    """A generator of images from captions."""

    def generate(self, captions: list[str], *, seeds: list[int], size: int) -> Sequence[Image | None]:
        """Generate an image of each caption.

        Args:
            captions: B captions.
            seeds: B seeds, one for each caption.
            size: pixels a side.

        Returns:
            B RGB images of `size` x `size` pixels, in order; None for a caption that the generator refuses.
        """
        ...


class DrawnGenerator:
    """Draw the words of a caption that are in the vocabulary of drawn scenes; other words are ignored.

    What the caption does not name (positions, sizes, textures, colours, the background) is drawn from the seed. At most
    four objects are drawn. A caption without a known word gives a background.

    Args:
        level: level of detail of drawn scenes.
    """

    def __init__(self, *, level: Level = "plain") -> None:
        self.level = level

    def generate(self, captions: list[str], *, seeds: list[int], size: int) -> list[Image]:
        """See `TextToImage.generate`.

        Raises:
            ValueError: if there are not as many seeds as captions, or the size cannot be drawn.
        """
        _check_seeds(captions, seeds)
        return [
            draw(parse_scene(caption, seed=seed), size=size, level=self.level, seed=seed)
            for caption, seed in zip(captions, seeds, strict=True)
        ]


def parse_scene(caption: str, *, seed: int) -> Scene:
    """Find the scene of a caption by matching words; what the caption does not name is drawn from the seed.

    A colour belongs to the noun after it ("a red sun"), or before it in "something red". An action belongs to the noun
    before it, or to the next noun if there is none before it.

    Args:
        caption: the text.
        seed: seed of what the caption does not name.

    Returns:
        The scene.
    """
    objects: list[_ObjectWords] = []
    background = colour = action = None
    previous = ""
    for word in re.findall(r"[a-z]+", caption.lower()):
        name = next((form for form in (word, word.removesuffix("s")) if form in OBJECTS), None)
        if word in COLOURS and previous == "something":
            objects[-1][1] = word
        elif word in COLOURS:
            colour = word
        elif name or word == "something":
            objects.append([name, colour, action])
            colour = action = None
        elif word in BACKGROUNDS:
            background, colour = background or word, None
        elif word in _ACTION_FORMS:
            if objects and objects[-1][2] is None:
                objects[-1][2] = _ACTION_FORMS[word]
            else:
                action = _ACTION_FORMS[word]
        previous = word
    known = [(words[0], words[1], words[2]) for words in objects if any(words)]  # "something" alone names nothing
    return scene_of(known, background=background, rng=random.Random(f"{seed}/{caption}"))


class DiffusersGenerator:
    """Any diffusers text-to-image pipeline, by Hugging Face id and revision or by local path.

    Defaults are StableRep's: guidance 2.5, 50 steps. Images are generated at the model's native size (Stable Diffusion
    is poor at other sizes) and resized. Only safetensors weights are read. The noise is drawn on the CPU, so a seed
    gives the same noise on every device. If the safety check of the pipeline blanks an image, other seeds are tried.

    Args:
        model: path, URI or id.
        revision: commit of an id; pin it.
        guidance: classifier-free guidance scale.
        steps: denoising steps.
        device: "cuda", "cpu", ...
        dtype: "float32", "bfloat16", "float16", or "auto": float16 on a GPU, float32 on a CPU.
        native_size: pixels a side to generate at, a multiple of 8; None: the model's size.
        batch_size: images generated at once.

    Raises:
        ImportError: if diffusers is not installed.
        ValueError: if an argument is out of range.
    """

    def __init__(
        self,
        model: str,
        *,
        revision: str | None = None,
        guidance: float = 2.5,
        steps: int = 50,
        device: str = "cpu",
        dtype: str = "auto",
        native_size: int | None = None,
        batch_size: int = 8,
    ) -> None:
        if dtype not in _DTYPES:
            raise ValueError(f"dtype {dtype!r} is unknown; use one of {', '.join(_DTYPES)}")
        if native_size is not None and (native_size <= 0 or native_size % 8):
            raise ValueError(f"native_size {native_size} is not a multiple of 8; use {-(-native_size // 8) * 8 or 8}")
        if steps < 1 or batch_size < 1:
            raise ValueError(f"steps ({steps}) and batch_size ({batch_size}) must be at least 1")
        try:
            from diffusers import DiffusionPipeline
        except ImportError as error:
            raise ImportError(
                f"generator {model!r} needs diffusers; install the extra: pip install 'ram-ray[synthesis]', "
                "or use the generator 'drawn'"
            ) from error
        import torch

        if dtype == "auto":
            dtype = "float32" if device == "cpu" else "float16"
        self.guidance, self.steps, self.batch_size = guidance, steps, batch_size
        folder = str(local_copy(model)) if "://" in model else model  # diffusers downloads the files of an id
        self.pipeline: Any = DiffusionPipeline.from_pretrained(
            folder, revision=revision, dtype=getattr(torch, dtype), use_safetensors=True
        ).to(device)
        self.pipeline.set_progress_bar_config(disable=True)
        self.native_size = native_size or _native_size(self.pipeline)

    def generate(self, captions: list[str], *, seeds: list[int], size: int) -> list[Image | None]:
        """See `TextToImage.generate`; None where the safety check blanks the image with each tried seed.

        Raises:
            ValueError: if there are not as many seeds as captions, or `size` is not positive.
        """
        _check_seeds(captions, seeds)
        if size < 1:
            raise ValueError(f"size {size} must be at least 1")
        images: list[Image | None] = [None] * len(captions)
        for attempt in range(_MAX_SEEDS):
            missing = [index for index, image in enumerate(images) if image is None]
            for start in range(0, len(missing), self.batch_size):
                indices = missing[start : start + self.batch_size]
                batch_seeds = [(seeds[index] + attempt * 0x9E3779B9) % 2**63 for index in indices]
                generated = self._generate_batch([captions[index] for index in indices], batch_seeds, size)
                for index, image in zip(indices, generated, strict=True):
                    images[index] = image
        return images

    def _generate_batch(self, captions: list[str], seeds: list[int], size: int) -> list[Image | None]:
        """Generate a batch of images; None for an image that the safety check blanked."""
        import torch
        from PIL.Image import Resampling

        side = self.native_size or -(-size // 8) * 8
        result = self.pipeline(
            captions,
            height=side,
            width=side,
            num_inference_steps=self.steps,
            guidance_scale=self.guidance,
            generator=[torch.Generator("cpu").manual_seed(seed) for seed in seeds],
            output_type="pil",
        )
        blanked = getattr(result, "nsfw_content_detected", None) or [False] * len(captions)
        return [
            None if is_blank else image.convert("RGB").resize((size, size), Resampling.LANCZOS)
            for image, is_blank in zip(result.images, blanked, strict=True)
        ]


def make_generator(name: str, *, level: Level = "plain", **options: Any) -> TextToImage:
    """Make the generator of a config.

    Args:
        name: "drawn", or the id or path of a diffusers pipeline.
        level: level of detail of drawn scenes; only for "drawn".
        **options: options of `DiffusersGenerator`; not for "drawn".

    Returns:
        The generator.
    """
    return DrawnGenerator(level=level) if name == "drawn" else DiffusersGenerator(name, **options)


def _native_size(pipeline: Any) -> int | None:
    """Pixels a side that the pipeline's model was trained at; None if its config does not say."""
    network = getattr(pipeline, "unet", None) or getattr(pipeline, "transformer", None)
    side = getattr(getattr(network, "config", None), "sample_size", None)
    factor = getattr(pipeline, "vae_scale_factor", None)
    return side * factor if isinstance(side, int) and isinstance(factor, int) else None


def _check_seeds(captions: list[str], seeds: list[int]) -> None:
    if len(captions) != len(seeds):
        raise ValueError(f"{len(captions)} captions came with {len(seeds)} seeds; give one seed a caption")
