"""Held-out images tagged over HTTP at the end of a run: the answers as text and on a contact sheet."""

from __future__ import annotations

import logging
import textwrap

import fsspec
from PIL import Image, ImageDraw

from ram_ray.data.images import decode, read_bytes
from ram_ray.data.preprocess import LIMITS
from ram_ray.data.shards import DEFAULT_LAYOUT, Shard, scan_shard
from ram_ray.serving.client import Client
from ram_ray.settings.data import LayoutConfig

logger = logging.getLogger(__name__)

IMAGE_SIZE = 256  # pixels of the longer side of an image on the sheet
MAX_TAG_LINES = 12  # beside an image
TEXT_WIDTH = 56  # characters of a line beside an image


def tag_examples(
    url: str, shard: Shard, *, folder: str, num_images: int = 3, layout: LayoutConfig = DEFAULT_LAYOUT
) -> None:
    """Tag the first images of a shard over HTTP, log the answers, and write a contact sheet.

    Args:
        url: of the server.
        shard: the shard of the images.
        folder: path or URI of the folder for `sheet.png`.
        num_images: number of images to tag.
        layout: how images and captions lie in the shard.
    """
    rows = []
    for row in scan_shard(shard, limits=LIMITS, check="header", layout=layout):
        if row.get("reason") is None:
            rows.append(row)
        if len(rows) == num_images:
            break
    columns = ([row[name] for row in rows] for name in ("uri", "offset", "nbytes"))
    images = [data for data in read_bytes(*columns) if isinstance(data, bytes)]
    answers = Client(url).tag(images, caption=True)
    for row, answer in zip(rows, answers, strict=True):
        tags = ", ".join(f"{tag['tag']} {tag['score']:.2f}" for tag in answer["tags"]) or "no tag"
        logger.info("  %s: %s", row["key"], tags)
        logger.info("    caption: %s", answer["caption"])
        logger.info("    human:   %s", "; ".join(row["labels"] or row["captions"]))
    sheet = draw_sheet(images, rows, answers)
    fs, root = fsspec.url_to_fs(folder)
    fs.makedirs(root, exist_ok=True)
    with fs.open(f"{root}/sheet.png", "wb") as file:
        sheet.save(file, "PNG")
    logger.info("  images and tags on one sheet: %s/sheet.png", folder)


def draw_sheet(images: list[bytes], rows: list[dict], answers: list[dict]) -> Image.Image:
    """Draw images with their tags and captions beside them, four in a column.

    Args:
        images: bytes of each file.
        rows: SAMPLE rows of the images.
        answers: of the server, an `ImageResult` as JSON for each image.

    Returns:
        The contact sheet, RGB.
    """
    num_columns = -(-len(images) // 4)
    sheet = Image.new("RGB", (num_columns * (IMAGE_SIZE + 360), min(4, len(images)) * (IMAGE_SIZE + 16)), "white")
    draw = ImageDraw.Draw(sheet)
    for index, (data, row, answer) in enumerate(zip(images, rows, answers, strict=True)):
        left, top = index // 4 * (IMAGE_SIZE + 360) + 8, index % 4 * (IMAGE_SIZE + 16) + 8
        image = decode(data, limits=LIMITS)
        scale = IMAGE_SIZE / max(image.size)
        sheet.paste(image.resize((round(image.width * scale), round(image.height * scale))), (left, top))
        lines = [f"{tag['score']:.2f}  {tag['tag']}" for tag in answer["tags"][:MAX_TAG_LINES]]
        texts = {"caption": answer["caption"], "human": "; ".join(row["labels"] or row["captions"])}
        caption, human = (
            textwrap.wrap(f"{name}: {text}", TEXT_WIDTH, max_lines=2, placeholder=" ...")
            for name, text in texts.items()
        )
        draw.multiline_text((left + IMAGE_SIZE + 10, top), "\n".join([*lines, "", *caption, *human]), fill="black")
    return sheet
