"""Trying the endpoint as a client would: some held-out pictures, the answers in words and on a sheet."""

from __future__ import annotations

import base64
import json
import textwrap
import urllib.request
from typing import Any

import fsspec
from PIL import Image, ImageDraw

from ram_ray.data.images import decode, read_bytes
from ram_ray.data.shards import list_shards, scan_shard
from ram_ray.runtime.screen import print_line
from ram_ray.settings.data import DataConfig

LIMITS = DataConfig().limits(min_side=1)
TIMEOUT_S = 60.0
SIDE = 256  # pixels of a picture on the sheet
PER_REQUEST = 8  # pictures
LINES = 12  # tags beside it
CHARACTERS = 56  # a line of text beside it


def request_tags(url: str, pictures: list[bytes], **options: Any) -> dict[str, Any]:
    """`POST /v1/tag` with JSON; returns the answer.

    Args:
        url: of the server.
        pictures: bytes of each file.
        **options: fields of the request, such as top_k.
    """
    body = {"images": [{"content": base64.b64encode(one).decode()} for one in pictures], **options}
    request = urllib.request.Request(
        f"{url}/v1/tag", data=json.dumps(body).encode(), headers={"Content-Type": "application/json"}
    )
    with urllib.request.urlopen(request, timeout=TIMEOUT_S) as answer:
        return json.load(answer)


def try_out(url: str, shard_uri: str, *, folder: str, count: int = 3) -> None:
    """Tag the first pictures of a shard over HTTP, print what comes back, and leave a sheet in `folder`.

    Args:
        url: of the server.
        shard_uri: of the shard.
        folder: local or URI.
        count: pictures that are tagged.
    """
    rows = []
    for row in scan_shard(list_shards([shard_uri])[0], limits=LIMITS, check="header"):
        if row.get("reason") is None:
            rows.append(row)
        if len(rows) == count:
            break
    places = ([row[name] for row in rows] for name in ("uri", "offset", "nbytes"))
    pictures = [one for one in read_bytes(*places) if isinstance(one, bytes)]
    parts = [pictures[start : start + PER_REQUEST] for start in range(0, len(pictures), PER_REQUEST)]
    answers = [image for part in parts for image in request_tags(url, part, caption=True)["images"]]
    for row, image in zip(rows, answers, strict=True):
        tags = ", ".join(f"{tag['tag']} {tag['score']:.2f}" for tag in image["tags"]) or "no tag"
        print_line(f"  {row['key']}: {tags}")
        print_line(f"    caption: {image['caption']}")
        print_line(f"    human:   {'; '.join(row['labels'] or row['captions'])}")
    sheet = draw_sheet(pictures, rows, answers)
    fs, root = fsspec.url_to_fs(folder)
    fs.makedirs(root, exist_ok=True)
    with fs.open(f"{root}/sheet.png", "wb") as file:
        sheet.save(file, "PNG")
    print_line(f"  pictures and tags on one sheet: {folder}/sheet.png")


def draw_sheet(pictures: list[bytes], rows: list[dict], answers: list[dict]) -> Image.Image:
    """Pictures with their tags and captions beside them, four in a column.

    Args:
        pictures: bytes of each file.
        rows: SAMPLE rows of the pictures.
        answers: the server's, of each picture.
    """
    columns = -(-len(pictures) // 4)
    sheet = Image.new("RGB", (columns * (SIDE + 360), min(4, len(pictures)) * (SIDE + 16)), "white")
    draw = ImageDraw.Draw(sheet)
    for place, (data, row, answer) in enumerate(zip(pictures, rows, answers, strict=True)):
        left, top = place // 4 * (SIDE + 360) + 8, place % 4 * (SIDE + 16) + 8
        image = decode(data, limits=LIMITS)
        scale = SIDE / max(image.size)
        sheet.paste(image.resize((round(image.width * scale), round(image.height * scale))), (left, top))
        lines = [f"{tag['score']:.2f}  {tag['tag']}" for tag in answer["tags"][:LINES]]
        said = {"caption": answer["caption"], "human": "; ".join(row["labels"] or row["captions"])}
        caption, human = (
            textwrap.wrap(f"{name}: {text}", CHARACTERS, max_lines=2, placeholder=" ...") for name, text in said.items()
        )
        draw.multiline_text((left + SIDE + 10, top), "\n".join([*lines, "", *caption, *human]), fill="black")
    return sheet
