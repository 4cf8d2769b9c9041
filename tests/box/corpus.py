"""A corpus in the shape that img2dataset writes: four sources of drawn scenes, and a held-out set with labels.

    SOURCE/00000.tar            000000000.jpg, .txt (the caption), .json (url, sha256, status, sizes, ...)
    SOURCE/00000.parquet        the same metadata, no images
    SOURCE/00000_stats.json     counts of the download

Every source has the same file names, as four downloads have. One image is truncated at 60%: its header is whole, so
only decoding finds the error.
"""

from __future__ import annotations

import hashlib
import io
import json
import random
import tarfile
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from ram_ray.drawn_scenes import draw, draw_mentions, sample_scene, write_captions

SOURCES = ("coco", "vg", "cc3m", "sbu")
NUM_IMAGES = 32  # of a source
HELD_OUT = 24
SIDE = 64
CUT = ("sbu", 5)  # source and number of the truncated image


def write_corpus(folder: Path) -> None:
    """Write `folder/<source>/` for each of `SOURCES`, and `folder/eval/`."""
    for index, source in enumerate(SOURCES):
        write_source(folder / source, random.Random(index), cut=CUT[1] if source == CUT[0] else None)
    write_held_out(folder / "eval", random.Random(99))


def write_source(folder: Path, rng: random.Random, *, cut: int | None) -> None:
    """Write one shard of img2dataset, its table and its statistics."""
    folder.mkdir(parents=True)
    rows: list[dict[str, Any]] = []
    with tarfile.open(folder / "00000.tar", "w") as tar:
        for number in range(NUM_IMAGES):
            image, texts, _ = scene(rng, unmentioned=0.35, false=0.1)
            row = metadata(f"{number:09d}", image, texts[0], url=f"https://example.org/{folder.name}/{number}.jpg")
            if number == cut:
                image = image[: len(image) * 6 // 10]
            add(tar, f"{row['key']}.jpg", image)
            add(tar, f"{row['key']}.txt", texts[0].encode())
            add(tar, f"{row['key']}.json", json.dumps(row).encode())
            rows.append(row)
    pq.write_table(pa.Table.from_pylist(rows), folder / "00000.parquet")
    counts = {"count": NUM_IMAGES, "successes": NUM_IMAGES, "failed_to_download": 0, "failed_to_resize": 0}
    (folder / "00000_stats.json").write_text(
        json.dumps({**counts, "duration": 1.0, "status_dict": {"success": NUM_IMAGES}})
    )


def write_held_out(folder: Path, rng: random.Random) -> None:
    """Write a shard of labelled images."""
    folder.mkdir(parents=True)
    with tarfile.open(folder / "held-out.tar", "w") as tar:
        for number in range(HELD_OUT):
            image, texts, labels = scene(rng)
            add(tar, f"{number:04d}.jpg", image)
            add(tar, f"{number:04d}.json", json.dumps({"captions": texts, "labels": labels}).encode())


def scene(rng: random.Random, **faults: float) -> tuple[bytes, list[str], list[str]]:
    """A drawn image as JPEG, its captions, and the tags that are present."""
    drawn = sample_scene(rng)
    texts = write_captions(draw_mentions(drawn, rng, **faults), rng)
    buffer = io.BytesIO()
    draw(drawn, size=SIDE, level="plain", seed=rng.getrandbits(32)).save(buffer, "JPEG", quality=95, subsampling=0)
    return buffer.getvalue(), texts, drawn.truth


def metadata(key: str, image: bytes, caption: str, *, url: str) -> dict[str, Any]:
    """Metadata of an image, as img2dataset writes it."""
    return {
        "key": key,
        "url": url,
        "caption": caption,
        "status": "success",
        "error_message": None,
        "width": SIDE,
        "height": SIDE,
        "original_width": SIDE,
        "original_height": SIDE,
        "exif": "{}",
        "sha256": hashlib.sha256(image).hexdigest(),
    }


def add(tar: tarfile.TarFile, name: str, data: bytes) -> None:
    """Add one file; time and owner are zero, so the same corpus is the same bytes."""
    member = tarfile.TarInfo(name)
    member.size = len(data)
    tar.addfile(member, io.BytesIO(data))
