"""Drawn scenes: an embedded corpus of images made of a font's pictographs, with complete ground truth.

A scene (`scene.py`) is a list of things on a background; `drawing.py` draws it, `caption.py` writes captions that omit
true tags and add false tags at set rates, and `corpus.py` writes WebDataset shards. The same seed gives the same bytes.
"""

from ram_ray.drawn_scenes.caption import Mentions, draw_caption, draw_mentions, write_caption, write_captions
from ram_ray.drawn_scenes.corpus import plan_corpus, write_corpus, write_shard
from ram_ray.drawn_scenes.drawing import draw
from ram_ray.drawn_scenes.scene import ACTIONS, BACKGROUNDS, COLOURS, OBJECTS, Scene, Thing, sample_scene, scene_of

__all__ = [
    "ACTIONS",
    "BACKGROUNDS",
    "COLOURS",
    "OBJECTS",
    "Mentions",
    "Scene",
    "Thing",
    "draw_caption",
    "write_captions",
    "draw",
    "draw_mentions",
    "plan_corpus",
    "sample_scene",
    "write_caption",
    "scene_of",
    "write_corpus",
    "write_shard",
]
