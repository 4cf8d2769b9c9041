"""Prompts whose mean text embedding is a label query: CLIP's ensemble, and how a name is put into a prompt.

The ensemble is that of open-vocabulary detectors on CLIP (arXiv 2104.13921), which the reference averages for labels
that its training did not have. It is made of patterns here: a photo with a property, a thing with a property, a thing
of a material.
"""

from __future__ import annotations

from itertools import product

ENSEMBLE = "ensemble"  # value of `model.templates`

_OF_PHOTO = ("good", "bad", "bright", "dark", "low resolution", "cropped", "close-up", "jpeg corrupted", "blurry")
_OF_THING = ("nice", "cool", "weird", "small", "large", "clean", "dirty", "hard to see")


def ensemble() -> tuple[str, ...]:
    """Make the ensemble.

    Returns:
        63 prompts with "{}" for the name, some with "{article}" before it.
    """
    scenes = [f"There is {article} {{}} in the scene." for article in ("{article}", "the")]
    scenes += [f"This is a photo of {article} {{}} in the scene." for article in ("{article}", "the", "one")]
    photos = [f"This is a photo of {article} {{}}." for article in ("{article}", "my", "the", "one", "many")]
    photos += [f"itap of {article} {{}}." for article in ("{article}", "my", "the")]  # "I took a picture of"
    photos += [
        f"This is a {property_} photo of {article} {{}}."
        for property_, article in product((*_OF_PHOTO, "pixelated", "black and white"), ("{article}", "the"))
    ]
    things = [f"This is a photo of {article} {kind} {{}}." for kind, article in product(_OF_THING, ("a", "the"))]
    kinds = [("a", "plastic"), ("a", "toy"), ("a", "plushie"), ("a", "cartoon"), ("an", "embroidered")]
    made = [f"This is {article} {kind} {{}}." for own, kind in kinds for article in (own, "the")]
    painted = [f"This is a painting of {article} {{}}." for article in ("the", "a")]
    return (*scenes, *photos, *things, *made, *painted)


def fill(template: str, name: str) -> str:
    """Put a label's name into a prompt.

    Args:
        template: with "{}" for the name, and perhaps "{article}" for "a" or "an".
        name: of the label.

    Returns:
        The prompt.
    """
    return template.format(name, article="an" if name[:1].lower() in set("aeiou") else "a")
