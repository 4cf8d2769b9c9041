"""Text to pictures: the seam through which captions become the synthetic images StableRep learns from.

`DrawnGenerator` runs anywhere and is instant: it finds the words it can draw in a caption and draws them.
`DiffusersGenerator` is Stable Diffusion or any other diffusers pipeline. Both make as many pictures of one
caption as there are seeds, and the same picture for the same seed.
"""

from __future__ import annotations

import random
import re
from typing import TYPE_CHECKING, Any, Protocol

from ram_ray.drawn_scenes import ACTIONS, BACKGROUNDS, COLOURS, OBJECTS, Scene, draw, scene_of
from ram_ray.drawn_scenes.picture import Level
from ram_ray.runtime.storage import local_copy

if TYPE_CHECKING:
    from PIL.Image import Image

_DTYPES = ("float32", "bfloat16", "float16")
_TRIES = 4  # seeds tried for a picture that the pipeline's own safety check blanks
_ACTION_FORMS = {form: lemma for lemma, forms in ACTIONS.items() for form in (lemma, *forms)}
_Part = list[str | None]  # object, colour, action


class TextToImage(Protocol):
    """Anything that makes pictures of captions."""

    def generate(self, captions: list[str], *, seeds: list[int], size: int) -> list[Image]:
        """One RGB picture of `size` x `size` pixels a caption, each from its own seed, in order.

        Args:
            captions: what to draw.
            seeds: one a caption.
            size: pixels a side.
        """
        ...


class Refused(Exception):
    """The pipeline's safety check blanked every picture of some captions; `captions` names them."""

    def __init__(self, captions: list[str]) -> None:
        super().__init__(f"the safety check refused {len(captions)} captions with {_TRIES} seeds each: {captions[:3]}")
        self.captions = captions


class DrawnGenerator:
    """Draw what a caption names of the drawn scenes' vocabulary; every other word is passed over.

    What the caption leaves open (places, sizes, textures, colours, the background) comes from the seed. Of
    more than four things, four are drawn; a caption with no known word gives a background.
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
            draw(read_caption(text, seed=seed), size=size, level=self.level, seed=seed)
            for text, seed in zip(captions, seeds, strict=True)
        ]


def read_caption(text: str, *, seed: int) -> Scene:
    """Find the scene in a caption by matching words; what it leaves open is drawn from `seed`.

    A colour goes to the noun after it ("a red sun", "something red"), an action to the noun before it, or to
    the next one where none came yet.
    """
    parts: list[_Part] = []
    background = colour = action = None
    before = ""
    for word in re.findall(r"[a-z]+", text.lower()):
        name = next((form for form in (word, word.removesuffix("s")) if form in OBJECTS), None)
        if word in COLOURS and before == "something":
            parts[-1][1] = word
        elif word in COLOURS:
            colour = word
        elif name or word == "something":
            parts.append([name, colour, action])
            colour = action = None
        elif word in BACKGROUNDS:
            background, colour = background or word, None
        elif word in _ACTION_FORMS:
            if parts and parts[-1][2] is None:
                parts[-1][2] = _ACTION_FORMS[word]
            else:
                action = _ACTION_FORMS[word]
        before = word
    known = [(part[0], part[1], part[2]) for part in parts if any(part)]  # a bare "something" says nothing
    return scene_of(known, background=background, rng=random.Random(f"{seed}/{text}"))


class DiffusersGenerator:
    """Any diffusers text-to-image pipeline, by Hugging Face id and revision or by local path.

    Defaults are StableRep's: guidance 2.5, 50 steps. Pictures are made at the model's own size (Stable
    Diffusion draws badly at others) and resized. Only safetensors weights are read. The noise is drawn on the
    CPU, so a seed means the same on every device. Where the pipeline has a safety check, which blanks a
    picture, other seeds are tried instead of training on black.

    Args:
        model: path, URI or id.
        revision: of an id: pin it.
        guidance: classifier-free guidance scale.
        steps: denoising steps.
        device: "cuda", "cpu", ...
        dtype: "float32", "bfloat16" or "float16".
        native_size: pixels a side to generate at, a multiple of 8; None: the model's own.
        batch_size: pictures at a time.

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
        dtype: str = "float32",
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

        self.guidance, self.steps, self.batch_size = guidance, steps, batch_size
        folder = str(local_copy(model)) if "://" in model else model  # of an id diffusers takes the files it needs
        self.pipeline: Any = DiffusionPipeline.from_pretrained(
            folder, revision=revision, dtype=getattr(torch, dtype), use_safetensors=True
        ).to(device)
        self.pipeline.set_progress_bar_config(disable=True)
        self.native_size = native_size or _own_size(self.pipeline)

    def generate(self, captions: list[str], *, seeds: list[int], size: int) -> list[Image]:
        """See `TextToImage.generate`.

        Raises:
            ValueError: if there are not as many seeds as captions, or `size` is not positive.
            Refused: if the safety check blanks a caption's picture with every seed tried.
        """
        _check_seeds(captions, seeds)
        if size < 1:
            raise ValueError(f"size {size} must be at least 1")
        pictures: list[Image | None] = [None] * len(captions)
        for attempt in range(_TRIES):
            missing = [place for place, picture in enumerate(pictures) if picture is None]
            for start in range(0, len(missing), self.batch_size):
                places = missing[start : start + self.batch_size]
                tried = [(seeds[place] + attempt * 0x9E3779B9) % 2**63 for place in places]
                made = self._make([captions[place] for place in places], tried, size)
                for place, picture in zip(places, made, strict=True):
                    pictures[place] = picture
        done = [picture for picture in pictures if picture is not None]
        if len(done) < len(pictures):
            raise Refused([text for text, picture in zip(captions, pictures, strict=True) if picture is None])
        return done

    def _make(self, captions: list[str], seeds: list[int], size: int) -> list[Image | None]:
        """Pictures of one batch; None where the safety check blanked one."""
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
        blank = getattr(result, "nsfw_content_detected", None) or [False] * len(captions)
        return [
            None if hidden else picture.convert("RGB").resize((size, size), Resampling.LANCZOS)
            for picture, hidden in zip(result.images, blank, strict=True)
        ]


def make_generator(name: str, *, level: Level = "plain", **options: Any) -> TextToImage:
    """The generator of a config: "drawn", or the id or path of a diffusers pipeline.

    `level` is for drawn scenes; `options` are those of `DiffusersGenerator`.

    Args:
        name: "drawn", or the id or path of a pipeline.
        level: of drawn scenes.
        **options: of `DiffusersGenerator`.
    """
    return DrawnGenerator(level=level) if name == "drawn" else DiffusersGenerator(name, **options)


def _own_size(pipeline: Any) -> int | None:
    """Pixels a side that the pipeline's model was trained at, if its config says."""
    network = getattr(pipeline, "unet", None) or getattr(pipeline, "transformer", None)
    side = getattr(getattr(network, "config", None), "sample_size", None)
    factor = getattr(pipeline, "vae_scale_factor", None)
    return side * factor if isinstance(side, int) and isinstance(factor, int) else None


def _check_seeds(captions: list[str], seeds: list[int]) -> None:
    if len(captions) != len(seeds):
        raise ValueError(f"{len(captions)} captions came with {len(seeds)} seeds; give one seed a caption")
