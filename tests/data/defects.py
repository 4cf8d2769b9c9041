"""A set of shards with 50 planted defects among good rows: what reading them must reject, and why.

Used by the tests of shards and by any test that wants a corpus as the web gives it. Each `Defect` names the key
that its one rejected row has, its reason, and whether a reader of headers alone can see it.
"""

from __future__ import annotations

import io
import json
import random
import struct
import tarfile
import zlib
from dataclasses import dataclass, field
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

from ram_ray.data.images import Limits

LIMITS = Limits(min_side=32, max_pixels=50_000_000, max_bytes=200_000)
NUM_DEFECTS = 50


@dataclass(frozen=True)
class Defect:
    key: str  # of the rejected row
    reason: str
    header: bool = True  # seen by a reader of headers alone


@dataclass
class Planted:
    uris: list[str] = field(default_factory=list)
    good: set[str] = field(default_factory=set)
    defects: list[Defect] = field(default_factory=list)


def image_bytes(seed: int, format: str = "JPEG", *, size: tuple[int, int] = (72, 56)) -> bytes:
    """A file of a small image of smooth colours, different for every seed."""
    rng = random.Random(seed)
    corners = bytes(rng.randrange(256) for _ in range(3 * 16))
    image = Image.frombytes("RGB", (4, 4), corners).resize(size, Image.Resampling.BICUBIC)
    stream = io.BytesIO()
    image.save(stream, format)
    return stream.getvalue()


def bomb(side: int = 30_000) -> bytes:
    """A whole and valid PNG of side x side black pixels, one bit each, in some 100 kB."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    lines = bytes((1 + -(-side // 8)) * 1000)
    packer = zlib.compressobj(9, wbits=-15)
    block = packer.compress(lines) + packer.flush(zlib.Z_FULL_FLUSH)  # packed once, written side / 1000 times
    total = 1
    for _ in range(side // 1000):
        total = zlib.adler32(lines, total)
    packed = b"\x78\xda" + block * (side // 1000) + packer.flush() + struct.pack(">I", total)
    head = struct.pack(">IIBBBBB", side, side, 1, 0, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", packed) + chunk(b"IEND", b"")


def write_tar(path: Path, members: list[tuple[str, bytes]], **options) -> dict[str, tarfile.TarInfo]:
    """Write members in order; returns the member of each name, the last if a name occurs twice."""
    with tarfile.open(path, "w", **options) as tar:
        for name, data in members:
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    with tarfile.open(path) as tar:
        return {info.name: info for info in tar.getmembers()}


def sample(key: str, seed: int, *, text: str | None = None) -> list[tuple[str, bytes]]:
    """A good sample of a tar: image and caption."""
    return [(f"{key}.jpg", image_bytes(seed)), (f"{key}.txt", (text or f"caption of {key}").encode("utf-8", "replace"))]


def plant(folder: Path) -> Planted:
    """Write the shards into `folder`."""
    planted = Planted()
    _web_tar(folder, planted)
    _broken_tars(folder, planted)
    _parquet(folder, planted)
    _folder(folder, planted)
    assert len(planted.defects) == NUM_DEFECTS, len(planted.defects)
    return planted


def _noise(side: int, format: str) -> bytes:
    stream = io.BytesIO()
    Image.frombytes("RGB", (side, side), random.Random(side).randbytes(3 * side * side)).save(stream, format)
    return stream.getvalue()


def _bad_images() -> list[tuple[str, str, bytes, str, bool]]:
    """(name, extension, bytes, reason, seen by header)."""
    jpeg, png, webp = image_bytes(1), image_bytes(2, "PNG"), image_bytes(3, "WEBP")
    flipped = bytearray(_noise(64, "PNG"))
    for index in range(500, 3000, 7):
        flipped[index] ^= 0x55
    gif = bytearray(image_bytes(4, "GIF"))
    gif[6:10] = struct.pack("<HH", 60_000, 60_000)
    return [
        ("jpeg-cut-60", "jpg", jpeg[: len(jpeg) * 6 // 10], "truncated", False),
        ("jpeg-cut-80", "jpeg", jpeg[: len(jpeg) * 8 // 10], "truncated", False),
        ("jpeg-cut-end", "jpg", jpeg[:-6], "truncated", False),
        ("png-cut", "png", png[: len(png) // 2], "truncated", False),
        ("webp-cut", "webp", webp[: len(webp) * 2 // 3], "truncated", False),
        ("jpeg-cut-in-header", "jpg", jpeg[:24], "truncated", True),
        ("zero-bytes", "jpg", b"", "undecodable", True),
        ("text", "jpg", b"this is not an image", "undecodable", True),
        ("page", "jpg", b"<!DOCTYPE html><title>404 Not Found</title>" * 40, "undecodable", True),
        ("random", "png", random.Random(5).randbytes(4000), "undecodable", True),
        ("png-flipped", "png", bytes(flipped), "undecodable", False),
        ("pixmap", "jpg", image_bytes(6, "PPM"), "undecodable", True),
        ("bomb", "png", bomb(), "too_large", True),
        ("gif-bomb", "png", bytes(gif), "too_large", True),
        ("too-many-bytes", "png", _noise(300, "PNG"), "too_large", True),
        ("tiny", "jpg", image_bytes(7, size=(8, 8)), "too_small", True),
        ("ribbon", "jpg", image_bytes(8, size=(400, 20)), "too_small", True),
    ]


def _bad_texts() -> list[tuple[str, list[tuple[str, bytes]], str]]:
    """(name, members beside the image, reason)."""
    return [
        ("no-text", [], "no_caption"),
        ("empty-text", [("txt", b"")], "no_caption"),
        ("white-text", [("txt", b" \n\t ")], "no_caption"),
        ("null-caption", [("json", b'{"caption": null}')], "no_caption"),
        ("empty-captions", [("json", b'{"captions": []}')], "no_caption"),
        ("latin-1", [("txt", "un caf\xe9 ferm\xe9".encode("latin-1"))], "bad_metadata"),
        ("utf-16", [("json", '{"caption": "a dog"}'.encode("utf-16"))], "bad_metadata"),
        ("json-cut", [("json", b'{"caption": "a do')], "bad_metadata"),
        ("json-list", [("json", b'["a dog"]')], "bad_metadata"),
        ("json-number", [("json", b'{"caption": 7}')], "bad_metadata"),
        ("json-surrogate", [("json", b'{"caption": "a \\ud800 dog"}')], "bad_metadata"),
        ("json-labels", [("json", b'{"caption": "a dog", "labels": "dog"}')], "bad_metadata"),
    ]


def _web_tar(folder: Path, planted: Planted) -> None:
    members: list[tuple[str, bytes]] = []

    def good(count: int) -> None:
        for _ in range(count):
            key = f"good-{len(planted.good):03d}"
            members.extend(sample(key, 100 + len(planted.good)))
            planted.good.add(f"web/{key}")

    for name, extension, data, reason, header in _bad_images():
        good(1)
        members += [(f"{name}.{extension}", data), (f"{name}.txt", b"a caption")]
        planted.defects.append(Defect(f"web/{name}", reason, header))
    for index, (name, texts, reason) in enumerate(_bad_texts()):
        good(index % 2)
        members += [(f"{name}.jpg", image_bytes(200 + index)), *((f"{name}.{kind}", data) for kind, data in texts)]
        planted.defects.append(Defect(f"web/{name}", reason))
    members += [("orphan-text.txt", b"a caption"), ("orphan-json.json", b'{"caption": "a dog"}')]
    planted.defects += [Defect("web/orphan-text", "bad_metadata"), Defect("web/orphan-json", "bad_metadata")]
    members += sample("twice", 300) + sample("twice", 301)
    planted.good.add("web/twice")
    good(2)
    members += sample("good-000", 302) + sample("good-000", 303)
    planted.defects += [Defect(f"web/{key}", "duplicate_key") for key in ("twice#2", "good-000#2", "good-000#3")]
    good(1)
    write_tar(folder / "web.tar", members)
    planted.uris.append(str(folder / "web.tar"))


def _broken_tars(folder: Path, planted: Planted) -> None:
    def write(name: str) -> tuple[Path, bytearray, dict[str, tarfile.TarInfo]]:
        path = folder / f"{name}.tar"
        keys = [f"part/{index}" for index in range(8)]
        infos = write_tar(path, [member for index, key in enumerate(keys) for member in sample(key, 400 + index)])
        planted.uris.append(str(path))
        return path, bytearray(path.read_bytes()), infos

    def expect(name: str, lost: set[int], broken: list[int]) -> None:
        planted.good |= {f"{name}/part/{index}" for index in range(8) if index not in lost}
        planted.defects += [Defect(f"{name}/#broken-{offset}", "broken_archive") for offset in broken]

    path, data, infos = write("cut-in-image")
    path.write_bytes(data[: infos["part/6.jpg"].offset_data + 200])
    expect("cut-in-image", {6, 7}, [infos["part/6.jpg"].offset])

    path, data, infos = write("cut-before-text")
    path.write_bytes(data[: infos["part/5.txt"].offset + 100])
    expect("cut-before-text", {5, 6, 7}, [infos["part/5.txt"].offset])

    path, data, infos = write("scratched")
    for name in ("part/2.jpg", "part/5.txt"):
        start = infos[name].offset
        data[start : start + 160] = random.Random(start).randbytes(160)
    path.write_bytes(data)
    expect("scratched", {2, 5}, [infos["part/2.jpg"].offset, infos["part/5.txt"].offset])

    for name, content in (("no-tar", b"Not found\n" * 200), ("empty", b"")):
        (folder / f"{name}.tar").write_bytes(content)
        planted.uris.append(str(folder / f"{name}.tar"))
        planted.defects.append(Defect(f"{name}/#broken-0", "broken_archive"))


def _parquet(folder: Path, planted: Planted) -> None:
    jpeg = image_bytes(500)
    rows = [(f"row-{index}", image_bytes(501 + index), f"caption {index}".encode()) for index in range(6)]
    planted.good |= {f"table/row-{index}" for index in range(6)}
    rows[2:2] = [("null-image", None, b"a dog"), ("cut-image", jpeg[:-30], b"a dog"), ("empty", jpeg, b"  ")]
    rows[6:6] = [("latin-1", jpeg, b"un caf\xe9"), ("row-0", jpeg, b"a dog")]
    keys, images, captions = zip(*rows, strict=True)
    raw = pa.array(captions, pa.binary())
    text = pa.Array.from_buffers(pa.string(), len(raw), raw.buffers())  # strings that are not UTF-8, as writers leave
    table = pa.table({"key": pa.array(keys), "jpg": pa.array(images, pa.binary()), "caption": text})
    pq.write_table(table, folder / "table.parquet", row_group_size=4)
    planted.uris.append(str(folder / "table.parquet"))
    planted.defects += [
        Defect("table/null-image", "undecodable"),
        Defect("table/cut-image", "truncated", header=False),
        Defect("table/empty", "no_caption"),
        Defect("table/latin-1", "bad_metadata"),
        Defect("table/row-0#2", "duplicate_key"),
    ]


def _folder(folder: Path, planted: Planted) -> None:
    root = folder / "album"
    (root / "deep").mkdir(parents=True)
    lines: list[bytes] = []

    def line(**tree) -> None:
        lines.append(json.dumps(tree).encode())

    for index in range(4):
        name = f"deep/{index}.png"
        (root / name).write_bytes(image_bytes(600 + index, "PNG"))
        line(file_name=name, captions=[f"caption {index}", "another"])
        planted.good.add(f"album/{name}")
    (root / "no-caption.jpg").write_bytes(image_bytes(610))
    (root / "nothing.jpg").write_bytes(b"")
    line(file_name="../web.tar", caption="a dog")
    line(image="gone.jpg", text="a dog")
    lines.append(b'{"file_name": "deep/0.png", ')
    line(image="no-caption.jpg", text="")
    line(file_name="nothing.jpg", caption="a dog")
    (root / "captions.jsonl").write_bytes(b"\n".join(lines) + b"\n")
    planted.uris.append(str(root))
    planted.defects += [
        Defect("album/line-5", "bad_metadata"),
        Defect("album/gone.jpg", "bad_metadata"),
        Defect("album/line-7", "bad_metadata"),
        Defect("album/no-caption.jpg", "no_caption"),
        Defect("album/nothing.jpg", "undecodable"),
    ]
