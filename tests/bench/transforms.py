"""Which changes of an image leave it a near duplicate of the original, as a table for docs/duplicates.md.

    python tests/bench/transforms.py [--images 300] [--photos TAR ...]

Of each image every change is made, and it is counted how many of the changed images are paired with their original, at
the default of `data.duplicates.near`. Without `--photos` the images are drawn scenes of 128 pixels.
"""

from __future__ import annotations

import argparse
import io
import sys
import tarfile
import tempfile
from collections.abc import Callable, Iterator
from itertools import islice
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageEnhance, ImageFilter, ImageFont, ImageOps

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))

from ram_ray.curation.lookup import pair_near  # noqa: E402
from ram_ray.curation.perceptual_hash import SIGNATURE, make_signature  # noqa: E402
from ram_ray.drawn_scenes import plan_corpus, write_shard  # noqa: E402
from ram_ray.settings.curation import DuplicatesConfig  # noqa: E402
from ram_ray.settings.data import DrawnConfig  # noqa: E402


def compress(image: Image.Image) -> Image.Image:
    """JPEG of quality 50."""
    data = io.BytesIO()
    image.save(data, "JPEG", quality=50)
    return Image.open(data).convert("RGB")


def crop(image: Image.Image, share: float) -> Image.Image:
    """Without this share of width and height, half of it on each side."""
    dx, dy = (round(side * share / 2) for side in image.size)
    return image.crop((dx, dy, image.width - dx, image.height - dy))


def write(image: Image.Image, *, bar: bool) -> Image.Image:
    """With a caption: over the image, or on a black bar over its lowest seventh."""
    copy, (width, height) = image.copy(), image.size
    draw = ImageDraw.Draw(copy)
    if bar:
        draw.rectangle((0, height * 6 // 7, width, height), fill="black")
    font = ImageFont.load_default(size=max(8, height // 10))
    draw.text((width // 20, height * 6 // 7), "a caption over it", fill="white", font=font)
    return copy


CHANGES: dict[str, Callable[[Image.Image], Image.Image]] = {
    "half the size": lambda image: image.resize((image.width // 2, image.height // 2), Image.Resampling.LANCZOS),
    "a square of 256 pixels": lambda image: image.resize((256, 256), Image.Resampling.BICUBIC),
    "JPEG of quality 50": compress,
    "mirrored": ImageOps.mirror,
    "brightness times 1.3": lambda image: ImageEnhance.Brightness(image).enhance(1.3),
    "contrast times 1.4": lambda image: ImageEnhance.Contrast(image).enhance(1.4),
    "a white border of 5%": lambda image: ImageOps.expand(image, round(0.05 * image.width), "white"),
    "blurred (radius 2)": lambda image: image.filter(ImageFilter.GaussianBlur(2)),
    "grey": lambda image: image.convert("L").convert("RGB"),
    "a caption over it": lambda image: write(image, bar=False),
    "cropped by 5%": lambda image: crop(image, 0.05),
    "turned by 2 degrees": lambda image: image.rotate(2),
    "a caption on a bar": lambda image: write(image, bar=True),
    "cropped by 10%": lambda image: crop(image, 0.10),
    "turned by 90 degrees": lambda image: image.rotate(90, expand=True),
}


def read_images(tars: list[str]) -> Iterator[Image.Image]:
    """The images of tars."""
    for path in tars:
        with tarfile.open(path) as tar:
            for member in tar:
                if member.name.endswith((".jpg", ".jpeg", ".png")):
                    file = tar.extractfile(member)
                    assert file
                    yield Image.open(io.BytesIO(file.read())).convert("RGB")


def draw_images(count: int, folder: str) -> Iterator[Image.Image]:
    """Drawn scenes of 128 pixels."""
    config = DrawnConfig(num_web=count, num_clean=0, num_eval=1, scenes_per_shard=count, image_size=128, level="hard")
    shard = plan_corpus(folder, config=config)[0]
    write_shard(shard.uri, kind=shard.kind, index=shard.index, config=config, seed=0)
    yield from read_images([shard.uri])


def main() -> None:
    """Print a row for each change."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=300)
    parser.add_argument("--photos", nargs="*", default=[], help="tars of photos")
    options = parser.parse_args()
    near = DuplicatesConfig().near
    assert near is not None
    with tempfile.TemporaryDirectory() as folder:
        source = read_images(options.photos) if options.photos else draw_images(options.images, folder)
        images = [image for image in islice(source, options.images) if make_signature(image)]
    originals = [make_signature(image) for image in images]
    print(f"| change | found of {len(images)} |\n|---|---|")
    for name, change in CHANGES.items():
        changed = [make_signature(change(image)) for image in images]
        raw = b"".join(signature or bytes(SIGNATURE.itemsize) for signature in (*originals, *changed))
        left, right, _ = pair_near(np.frombuffer(raw, SIGNATURE), max_distance=near)
        found = int(np.count_nonzero(right - left == len(images)))
        print(f"| {name} | {found / len(images):.0%} |", flush=True)


if __name__ == "__main__":
    main()
