"""Draws the captions of `gold.jsonl` from the web captions beside the repository: which ones is decided by a seed.

    python -m tests.captions.web.sample CAPTIONS_DIR

prints 40 captions of each source, half of them `dev` and half `test`, with the line each stands on, and then 20 more of
each source with another seed, `develop2`: drawn later, when the rules for `dev` were made. Their annotations were then
written by hand, those of `develop2` before any rule was changed for them.
"""

from __future__ import annotations

import gzip
import json
import random
import sys
from collections.abc import Iterator
from pathlib import Path

SOURCES = ("cc3m", "laion2b", "laion400m", "redcaps", "shop-titles", "wikipedia-alt")
NUM_OF_SOURCE = 40
NUM_OF_SECOND = 20
SEED, SECOND_SEED = 19, 1119


def lines_of(folder: Path, source: str) -> list[str]:
    """All captions of a source, by line number from 0."""
    with gzip.open(folder / f"captions-web-{source}.txt.gz", "rt", encoding="utf-8") as file:
        return file.read().split("\n")[:-1]


def sample(folder: Path) -> Iterator[dict[str, object]]:
    """Rows `source`, `line`, `split` and `caption`."""
    for source in SOURCES:
        lines = lines_of(folder, source)
        selected = random.Random(f"{SEED} {source}").sample(range(len(lines)), NUM_OF_SOURCE)
        for index, line in enumerate(selected):
            split = "dev" if index < NUM_OF_SOURCE // 2 else "test"
            yield {"source": source, "line": line, "split": split, "caption": lines[line]}


def second_sample(folder: Path) -> Iterator[dict[str, object]]:
    """Rows of the split `develop2`: none with a caption of the first sample, and no caption twice."""
    drawn = {row["caption"] for row in sample(folder)}
    for source in SOURCES:
        lines, count = lines_of(folder, source), 0
        for line in random.Random(f"{SECOND_SEED} {source}").sample(range(len(lines)), 3 * NUM_OF_SECOND):
            if lines[line] in drawn or count == NUM_OF_SECOND:
                continue
            drawn.add(lines[line])
            count += 1
            yield {"source": source, "line": line, "split": "develop2", "caption": lines[line]}


if __name__ == "__main__":
    captions = Path(sys.argv[1])
    for row in [*sample(captions), *second_sample(captions)]:
        print(json.dumps(row, ensure_ascii=False))
