"""The drawn scenes as WebDataset shards: `web` (captions with errors), `clean` (complete captions), `eval` (held out).

A shard is a tar of `<6 digits>.jpg` and `<6 digits>.json` with `captions` and `labels`: all tags of the scene, as human
labels. Nothing is trained on labels; they score the tags of each stage. The images are JPEG of quality 95 without
colour subsampling.

Every shard has its own seed, made of the run's seed, its kind and its index, and fixed times and owners in its headers:
shards can be written concurrently on any machine, and a shard that is written again has the same bytes.
"""

from __future__ import annotations

import io
import json
import os
import random
import tarfile
from contextlib import suppress
from dataclasses import dataclass
from typing import Literal

import fsspec

from ram_ray.drawn_scenes.caption import draw_mentions, write_captions
from ram_ray.drawn_scenes.drawing import draw
from ram_ray.drawn_scenes.scene import sample_scene
from ram_ray.runtime.storage import is_local, make_folder
from ram_ray.settings.data import DrawnConfig

Kind = Literal["web", "clean", "eval"]


@dataclass(frozen=True)
class Shard:
    """A shard to write: its URI, its kind and its index within the kind."""

    uri: str
    kind: Kind
    index: int


def plan_corpus(folder_uri: str, *, config: DrawnConfig) -> list[Shard]:
    """List the shards of the corpus, without writing them.

    Args:
        folder_uri: URI of the folder of the shards.
        config: section `data.drawn`.

    Returns:
        The shards: web, then clean, then eval.
    """
    kinds: tuple[Kind, ...] = ("web", "clean", "eval")
    return [
        Shard(f"{folder_uri.rstrip('/')}/{kind}-{index:05d}.tar", kind, index)
        for kind in kinds
        for index in range(-(-_num_scenes(kind, config) // config.scenes_per_shard))
    ]


def write_corpus(folder_uri: str, *, config: DrawnConfig, seed: int) -> dict[str, list[str]]:
    """Write all shards, in order.

    Args:
        folder_uri: URI of the folder of the shards.
        config: section `data.drawn`.
        seed: seed of all scenes.

    Returns:
        URIs of the shards: "train" (web and clean) and "eval".

    Raises:
        ValueError: if the config asks for shares that captions cannot have (see `mention`).
    """
    uris: dict[str, list[str]] = {"train": [], "eval": []}
    for shard in plan_corpus(folder_uri, config=config):
        write_shard(shard.uri, kind=shard.kind, index=shard.index, config=config, seed=seed)
        uris["eval" if shard.kind == "eval" else "train"].append(shard.uri)
    return uris


def write_shard(uri: str, *, kind: Kind, index: int, config: DrawnConfig, seed: int) -> int:
    """Write a shard of the corpus in one step: a reader never sees a part of it.

    Args:
        uri: URI of the shard.
        kind: "web", "clean" or "eval".
        index: index of the shard among those of its kind, from 0.
        config: section `data.drawn`.
        seed: seed of all scenes.

    Returns:
        Number of scenes in the shard.

    Raises:
        ValueError: if the corpus has no shard of this index.
    """
    first = index * config.scenes_per_shard
    count = min(config.scenes_per_shard, _num_scenes(kind, config) - first)
    if index < 0 or count <= 0:
        raise ValueError(f"there is no {kind} shard {index}: {_num_scenes(kind, config)} scenes are asked for")
    rng = random.Random(f"{seed}/{kind}/{index}")
    fs, path = fsspec.url_to_fs(uri)
    make_folder(fs, fs._parent(path))
    local = is_local(fs)
    target = f"{path}.{os.getpid()}.part" if local else path  # object stores publish a file when it is closed
    try:
        with fs.open(target, "wb") as file, tarfile.open(fileobj=file, mode="w|", format=tarfile.USTAR_FORMAT) as tar:
            for number in range(first, first + count):
                jpeg, annotations = _make_scene(rng, kind, config)
                _add(tar, f"{number:06d}.jpg", jpeg)
                _add(tar, f"{number:06d}.json", json.dumps(annotations).encode())
        if local:
            os.replace(target, path)
    except BaseException:
        if local:
            with suppress(FileNotFoundError):
                os.remove(target)
        raise
    return count


def _num_scenes(kind: Kind, config: DrawnConfig) -> int:
    return {"web": config.num_web, "clean": config.num_clean, "eval": config.num_eval}[kind]


def _make_scene(rng: random.Random, kind: Kind, config: DrawnConfig) -> tuple[bytes, dict[str, list[str]]]:
    """A JPEG and its JSON."""
    scene = sample_scene(rng)
    faults = {"unmentioned": config.unmentioned, "false": config.false} if kind == "web" else {}
    annotations = {
        "captions": write_captions(draw_mentions(scene, rng, **faults), rng),
        "labels": scene.truth,
    }
    image = draw(scene, size=config.image_size, level=config.level, seed=rng.getrandbits(32))
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=95, subsampling=0)
    return buffer.getvalue(), annotations


def _add(tar: tarfile.TarFile, name: str, data: bytes) -> None:
    member = tarfile.TarInfo(name)  # time, owner and group are zero: the same scenes are the same bytes
    member.size = len(data)
    tar.addfile(member, io.BytesIO(data))
