"""How captions of held-out drawn scenes read: repeated words, repeated objects, and objects that are not there.

    python tests/bench/captions.py MODEL --shards 'RUN/annotations/scenes/*/drawn/eval-*.tar' [--show 10]

Every caption is written as the endpoint writes it, guided by the tags that the model sees. Prints the share of captions
with a word twice in a row, the share that names an object twice, and of the objects named the share that is in the
scene. Names of objects are read by their words: the captions' grammar (`drawn_scenes/caption.py`) has no plurals.
"""

from __future__ import annotations

import argparse
import json
import re
from collections import Counter
from pathlib import Path

from ram_ray.data.images import decode, read_bytes
from ram_ray.data.shards import list_shards, scan_shard
from ram_ray.drawn_scenes.scene import OBJECTS
from ram_ray.inference.predictor import Predictor
from ram_ray.settings.data import DataConfig

BATCH = 64
LIMITS = DataConfig().limits(min_side=1)


def measure(captions: list[str], truths: list[set[str]]) -> dict[str, float]:
    """Shares over captions, and over the objects that they name.

    Args:
        captions: one of each scene.
        truths: true tags of each scene.

    Returns:
        `repeated_word`, `repeated_object` and `repeated` (either) over captions; `correct` over named objects;
        `objects_per_caption`.
    """
    counts: Counter[str] = Counter()
    for caption, truth in zip(captions, truths, strict=True):
        words = re.findall(r"[a-z]+", caption.lower())
        objects = [word for word in words if word in OBJECTS]
        word_twice = any(word == following for word, following in zip(words, words[1:], strict=False))
        object_twice = len(objects) != len(set(objects))
        counts["repeated_word"] += word_twice
        counts["repeated_object"] += object_twice
        counts["repeated"] += word_twice or object_twice
        counts["objects"] += len(objects)
        counts["correct"] += sum(name in truth for name in objects)
    shares = {name: counts[name] / len(captions) for name in ("repeated_word", "repeated_object", "repeated")}
    correct = counts["correct"] / counts["objects"] if counts["objects"] else float("nan")
    return {**shares, "correct": correct, "objects_per_caption": counts["objects"] / len(captions)}


def main() -> None:
    """See the module."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", help="folder of the bundle")
    parser.add_argument("--shards", required=True, help="path, URI or glob of the held-out shards")
    parser.add_argument("--show", type=int, default=10, help="captions to print")
    options = parser.parse_args()
    predictor = Predictor.from_pretrained(str(Path(options.model)), threads=2)
    rows = [row for shard in list_shards([options.shards]) for row in scan_shard(shard, limits=LIMITS, check="header")]
    captions: list[str] = []
    for start in range(0, len(rows), BATCH):
        batch = rows[start : start + BATCH]
        columns = ([row[name] for row in batch] for name in ("uri", "offset", "nbytes"))
        captions += predictor.caption([decode(data, limits=LIMITS) for data in read_bytes(*columns)])
    truths = [set(row["labels"]) for row in rows]
    for caption, truth in list(zip(captions, truths, strict=True))[: options.show]:
        print(f"  {caption}\n    {', '.join(sorted(truth))}")
    print(json.dumps({name: round(value, 4) for name, value in measure(captions, truths).items()}))


if __name__ == "__main__":
    main()
