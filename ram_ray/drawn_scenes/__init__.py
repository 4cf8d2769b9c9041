"""Drawn scenes: the embedded corpus, made of a font's pictographs, whose truth is known to the last tag.

A scene (`scene.py`) says what is there; `picture.py` draws it, `caption.py` talks about it, leaving things
out and inventing others at set rates, and `corpus.py` writes WebDataset shards of it. Everything comes from
seeds: the same seed gives the same bytes.
"""

from ram_ray.drawn_scenes.caption import Mentions, caption, captions, mention, say
from ram_ray.drawn_scenes.corpus import plan_corpus, write_corpus, write_shard
from ram_ray.drawn_scenes.picture import draw
from ram_ray.drawn_scenes.scene import ACTIONS, BACKGROUNDS, COLOURS, OBJECTS, Scene, Thing, sample_scene, scene_of

__all__ = [
    "ACTIONS",
    "BACKGROUNDS",
    "COLOURS",
    "OBJECTS",
    "Mentions",
    "Scene",
    "Thing",
    "caption",
    "captions",
    "draw",
    "mention",
    "plan_corpus",
    "sample_scene",
    "say",
    "scene_of",
    "write_corpus",
    "write_shard",
]
