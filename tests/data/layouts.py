"""Folders, tars and Parquet files as people have them: what each holds, and what must come out of it.

`LAYOUTS` is the table: a writer for each, the images that the recipe can use, the captions of each of them, the rows
that are rejected, and what batch tagging makes of the same files. `docs/data-formats.md` shows it to users.
"""

from __future__ import annotations

import base64
import csv
import gzip
import io
import json
import os
import tarfile
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pillow_heif
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image, PngImagePlugin

from tests.data.defects import image_bytes

N = 3  # images of a layout
LONG = "l" * 150
BYTES_AND_PATH = pa.struct([("bytes", pa.binary()), ("path", pa.string())])


@dataclass(frozen=True)
class Layout:
    """What a layout holds, by the name of its folder or file."""

    name: str
    write: Callable[[Path], None]
    usable: int = N
    captions: int = 1  # of each usable image
    rejected: dict[str, int] = field(default_factory=dict)  # reason -> rows
    tagged: int | None = None  # images that batch tagging reads; None: the usable ones
    errors: dict[str, int] = field(default_factory=dict)  # reason -> rows of batch tagging


def caption(index: int) -> str:
    return f"a brown dog on beach number {index}"


def heic(seed: int, *, size: tuple[int, int] = (72, 56)) -> bytes:
    stream = io.BytesIO()
    pillow_heif.from_pillow(Image.open(io.BytesIO(image_bytes(seed, "PNG", size=size)))).save(stream, format="HEIF")
    return stream.getvalue()


def encode(image: Image.Image, format: str, **options: object) -> bytes:
    stream = io.BytesIO()
    image.save(stream, format, **options)
    return stream.getvalue()


def images(folder: Path, *names: str, seed: int = 0) -> None:
    for index, name in enumerate(names or [f"{index}.jpg" for index in range(N)]):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(image_bytes(seed + index))


def texts(folder: Path, *names: str) -> None:
    for index, name in enumerate(names or [f"{index}.txt" for index in range(N)]):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(caption(index))


def json_lines(path: Path, field: str, *more: dict) -> None:
    rows = [{"file_name": f"{index}.jpg", field: caption(index)} for index in range(N)]
    path.write_text("".join(json.dumps(row) + "\n" for row in [*rows, *more]))


def write_csv(path: Path, rows: list[list[str]], **options: str) -> None:
    with path.open("w", newline="") as file:
        csv.writer(file, **options).writerows(rows)  # type: ignore[arg-type]


def coco(path: Path, *, kind: str) -> None:
    entries = [{"id": index, "file_name": f"{index}.jpg"} for index in range(N)]
    annotations = [
        {"id": 9 * index + part, "image_id": index, **({"caption": caption(part)} if kind == "captions" else {
            "category_id": part, "segmentation": [[1, 2, 3, 4]], "bbox": [0, 0, 1, 1]})}
        for part in range(2) for index in range(N)
    ]  # fmt: skip
    categories = {"categories": [{"id": 0, "name": "dog"}, {"id": 1, "name": "beach"}]} if kind == "instances" else {}
    path.parent.mkdir(exist_ok=True)
    path.write_text(json.dumps({"info": {"year": 2017}, "images": entries, "annotations": annotations, **categories}))


def tar(path: Path, members: list[tuple[str, bytes | str]], *, format: int = tarfile.GNU_FORMAT) -> None:
    with tarfile.open(path, "w", format=format) as archive:
        for name, data in members:
            raw = data.encode() if isinstance(data, str) else data
            info = tarfile.TarInfo(name)
            info.size = len(raw)
            archive.addfile(info, io.BytesIO(raw))


def pairs(image: str = "{}.jpg", text: str = "{}.txt", *, num: int = N) -> list[tuple[str, bytes | str]]:
    return [
        member
        for index in range(num)
        for member in ((image.format(index), image_bytes(index)), (text.format(index), caption(index)))
    ]


def apart(image: str = "{}.jpg", text: str = "{}.txt", *, num: int = N) -> list[tuple[str, bytes | str]]:
    members = pairs(image, text, num=num)
    return members[::2] + members[1::2]


def masked() -> list[tuple[str, bytes | str]]:
    """Samples of three members, one of them a mask."""
    return [
        member
        for index in range(N)
        for member in (*pairs()[2 * index : 2 * index + 2], (f"{index}.seg.png", image_bytes(index, "PNG")))
    ]


def linked_tar(path: Path) -> None:
    with tarfile.open(path, "w") as archive:
        for name, data in pairs(num=1):
            info = tarfile.TarInfo(name)
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data.encode() if isinstance(data, str) else data))
        for name, kind, target in (
            ("1.jpg", tarfile.LNKTYPE, "0.jpg"),
            ("1.txt", tarfile.SYMTYPE, "0.txt"),
            ("deep/2.jpg", tarfile.SYMTYPE, "../0.jpg"),
            ("deep/2.txt", tarfile.LNKTYPE, "0.txt"),
            ("passwords.txt", tarfile.SYMTYPE, "/etc/passwd"),
        ):
            info = tarfile.TarInfo(name)
            info.type, info.linkname = kind, target
            archive.addfile(info)


def parquet(**columns: object) -> Callable[[Path], None]:
    """A writer of a file with these columns, and a caption if there is none."""

    def write(path: Path) -> None:
        named = columns if any(name in columns for name in ("caption", "txt", "json", "captions")) else {
            **columns, "caption": [caption(index) for index in range(N)]
        }  # fmt: skip
        pq.write_table(pa.table(named), path)

    return write


def structs(contents: list[bytes | None], paths: list[str] | None = None) -> pa.Array:
    paths = paths or [f"{index}.jpg" for index in range(len(contents))]
    return pa.array([{"bytes": data, "path": path} for data, path in zip(contents, paths, strict=True)], BYTES_AND_PATH)


JPEGS = [image_bytes(index) for index in range(N)]
CAPTIONS = [caption(index) for index in range(N)]


def formats(folder: Path) -> None:
    """A file of every format, with its caption, and files that are none."""
    image = Image.open(io.BytesIO(image_bytes(1, "PNG")))
    long_text = PngImagePlugin.PngInfo()
    long_text.add_text("comment", "x" * (2 << 20), zip=True)
    grey = Image.fromarray(np.asarray(image.convert("L")).astype(np.uint16) * 257)
    files = {
        "a.HEIC": heic(1),
        "b.heif": heic(2),
        "c.avif": encode(image, "AVIF"),
        "d.tif": encode(image, "TIFF", save_all=True, append_images=[image.rotate(90)]),
        "e.tiff": encode(grey, "TIFF"),
        "f.jfif": image_bytes(3),
        "g.jpe": image_bytes(4),
        "no_ending": image_bytes(5),
        "wrong.jpg": heic(6),
        "text.png": encode(image, "PNG", pnginfo=long_text),
        "profile.png": encode(image, "PNG", icc_profile=os.urandom(1_500_000)),
        "phone.jpg": encode(Image.new("RGB", (12_000, 9_000), (90, 140, 40)), "JPEG", quality=60),  # 108 megapixels
    }
    for name, data in files.items():
        (folder / name).write_bytes(data)
        (folder / f"{name.partition('.')[0]}.txt").write_text(caption(1))
    (folder / "Thumbs.db").write_bytes(b"x")
    (folder / "scan.jp2").write_bytes(b"x")
    (folder / "._a.HEIC").write_bytes(b"\0\5\x16\7" + bytes(100))


NAMES = (
    "a::b",
    "[2024] trip/t",
    "new\nline",
    "\U0001f600",
    "e\u0301te\u0301",
    "100%",
    "a*",
    "q?",
    "#1",
    "C:x",
    r"\xe9",
)


def names(folder: Path) -> None:
    """Names that a URI, a glob or Unicode would understand otherwise."""
    for index, name in enumerate(NAMES):
        images(folder, f"{name}.jpg", seed=index)
        texts(folder, f"{name}.txt")
    for ending, data in (("jpg", image_bytes(50)), ("txt", caption(50).encode())):
        Path(os.fsdecode(os.fsencode(folder) + b"/caf\xe9." + ending.encode())).write_bytes(data)


def links(folder: Path) -> None:
    images(folder / "real")
    texts(folder / "real")
    outside = folder.parent.parent / "outside"
    images(outside, "out.jpg", seed=9)
    texts(outside, "out.txt")
    for name, target in (("linked", "real"), ("loop", "."), ("out", str(outside)), ("gone.jpg", "nowhere.jpg")):
        (folder / name).symlink_to(target)


def listed(folder: Path) -> None:
    images(folder, *(f"{index}.jpg" for index in range(N + 1)))
    json_lines(folder / "captions.jsonl", "caption", {"file_name": "gone.jpg", "caption": "a dog"})


def img2dataset_files(folder: Path) -> None:
    for part in ("00000", "00001"):
        images(folder / part)
        texts(folder / part)
        pq.write_table(pa.table({"url": ["http://x/1.jpg"], "caption": ["a dog"]}), folder / f"{part}.parquet")
        (folder / f"{part}_stats.json").write_text("{}")


def missing_tar(folder: Path) -> None:
    tar(folder / "00000.tar", pairs())
    for part in ("00000", "00001"):
        pq.write_table(pa.table({"url": ["http://x/1.jpg"], "caption": ["a dog"]}), folder / f"{part}.parquet")


def in_folder(write: Callable[[Path], object]) -> Callable[[Path], None]:
    def make(path: Path) -> None:
        path.mkdir(parents=True)
        write(path)

    return make


def both(*writers: Callable[[Path], object]) -> Callable[[Path], None]:
    return in_folder(lambda folder: [write(folder) for write in writers])


LAYOUTS = [
    Layout("f_captions_jsonl", in_folder(listed), rejected={"no_caption": 1, "bad_metadata": 1}, tagged=N + 1),
    Layout("f_metadata_jsonl", both(images, lambda folder: json_lines(folder / "metadata.jsonl", "text"))),
    Layout("f_metadata_csv", both(images, lambda folder: write_csv(
        folder / "metadata.csv", [["file_name", "text"], *([f"{i}.jpg", caption(i)] for i in range(N))]))),
    Layout("f_csv_of_paths", both(images, lambda folder: write_csv(folder / "all.csv", [["filepath", "title"],
        *([f"{folder}/{i}.jpg", f'{caption(i)}, "part" {k}\nand more'] for i in range(N) for k in range(5))])),
        captions=5),
    Layout("f_tsv", both(images, lambda folder: (folder / "all.tsv").write_text(
        "image\tcaption\n" + "".join(f'{i}.jpg\t"{caption(i)}" on 12" paper\n' for i in range(N))))),
    Layout("f_coco_captions", both(images, lambda folder: coco(folder / "captions.json", kind="captions")), captions=2),
    Layout("f_coco_instances", both(lambda folder: images(folder / "train2017"),
        lambda folder: coco(folder / "annotations/instances_train2017.json", kind="instances")), captions=0),
    Layout("f_pairs", both(lambda folder: images(folder, "1.jpg", "2020/2.JPG", "2020/may/3.jpeg"),
        lambda folder: texts(folder, "1.txt", "2020/2.JPG.txt", "2020/may/3.caption", "none.txt")),
        rejected={"unsupported_format": 1}),
    Layout("f_images_and_captions", both(lambda folder: images(folder / "images"),
        lambda folder: texts(folder / "captions"))),
    Layout("f_img2dataset", in_folder(img2dataset_files), usable=2 * N),
    Layout("f_missing_tar", in_folder(missing_tar), rejected={"bad_metadata": 1}, errors={"bad_metadata": 1}),
    Layout("f_formats", in_folder(formats), usable=12, rejected={"unsupported_format": 3}),
    Layout("f_names", in_folder(names), usable=len(NAMES) + 1),
    Layout("f_links", in_folder(links), usable=N + 1, rejected={"unsupported_format": 1}, errors={"bad_metadata": 1}),
    Layout("f_upper", in_folder(lambda folder: tar(folder / "A.TAR", pairs("./{}.JPG", "./{}.TXT")))),
    Layout("t_apart.tar", lambda path: tar(path, apart())),
    Layout("t_folders.tar", lambda path: tar(path, apart("set/images/{}.jpg", "set/captions/{}.txt"))),
    Layout("t_dots.tar", lambda path: tar(path, pairs("22.0{}.png", "22.0{}.txt")), usable=0,
        rejected={"bad_metadata": 1}, errors={"bad_metadata": 1}),
    Layout("t_masks.tar", lambda path: tar(path, [*masked(), ("README", "x")]), rejected={"unsupported_format": 2}),
    Layout("t_captions.tar", lambda path: tar(path, pairs("{}.jpeg", "{}.caption"))),
    Layout("t_heic.tar", lambda path: tar(path, [(name, heic(1) if name.endswith("heic") else data)
        for name, data in pairs("{}.heic", "{}.cap")])),
    Layout("t_no_ending.tar", lambda path: tar(path, pairs("{}"))),
    Layout("t_unknown.tar", lambda path: tar(path, [*pairs("{}.img"), ("9.raw", "x")]), usable=0,
        rejected={"bad_metadata": N, "unsupported_format": 1}, errors={"bad_metadata": N, "unsupported_format": 1}),
    Layout("t_links.tar", linked_tar, rejected={"unsupported_format": 1}, errors={"unsupported_format": 1}),
    Layout("t_pax.tar", lambda path: tar(path, pairs("d\u00e9/" + LONG + "/{}.jpg", "d\u00e9/" + LONG + "/{}.txt"),
        format=tarfile.PAX_FORMAT)),
    Layout("t_gnu.tar", lambda path: tar(path, pairs(LONG + "/{}.jpg", LONG + "/{}.txt"))),
    Layout("t_empty.tar", lambda path: tar(path, []), usable=0, rejected={"broken_archive": 1},
        errors={"broken_archive": 1}),
    Layout("t_zero.tar", lambda path: path.write_bytes(b"") and None, usable=0, rejected={"broken_archive": 1},
        errors={"broken_archive": 1}),
    Layout("t_gzip.tar", lambda path: path.write_bytes(gzip.compress(bytes(10240))) and None, usable=0,
        rejected={"broken_archive": 1}, errors={"broken_archive": 1}),
    Layout("of_parquet", in_folder(images), usable=0, rejected={"no_caption": N}, tagged=N),
    Layout("p_hub.parquet", parquet(__key__=list("abc"), jpg=structs(JPEGS), txt=CAPTIONS,
        json=[json.dumps({"caption": text, "url": "x"}) for text in CAPTIONS])),
    Layout("p_hub_struct.parquet", parquet(__key__=list("abc"), jpg=structs(JPEGS),
        json=pa.array([{"caption": text, "width": 1} for text in CAPTIONS]))),
    Layout("p_path.parquet", parquet(image=structs([None] * N, [f"of_parquet/{i}.jpg" for i in range(N)]))),
    Layout("p_path_text.parquet", parquet(file_name=[f"of_parquet/{i}.jpg" for i in range(N)])),
    Layout("p_dictionary.parquet", parquet(image=pa.array(JPEGS, pa.binary()).dictionary_encode(),
        caption=pa.array(CAPTIONS).dictionary_encode())),
    Layout("p_view.parquet", parquet(image=pa.array(JPEGS, pa.binary_view()),
        caption=pa.array(CAPTIONS, pa.string_view()))),
    Layout("p_large.parquet", parquet(image=pa.array(JPEGS, pa.large_binary()),
        caption=pa.array(CAPTIONS, pa.large_string()))),
    Layout("p_fixed.parquet", parquet(image=pa.array([data.ljust(4096, b"\0") for data in JPEGS], pa.binary(4096)))),
    Layout("p_numbers.parquet", parquet(image=pa.array([list(data) for data in JPEGS], pa.list_(pa.uint8())))),
    Layout("p_base64.parquet", parquet(image=[base64.b64encode(data).decode() for data in JPEGS])),
    Layout("p_list.parquet", parquet(images=pa.array([[{"bytes": data, "path": None}] for data in JPEGS],
        pa.list_(BYTES_AND_PATH)))),
    Layout("p_two_images.parquet", parquet(images=pa.array([JPEGS[:2]] * N, pa.list_(pa.binary()))),
        rejected={"duplicate_key": N}, errors={"duplicate_key": N}),
    Layout("p_columns.parquet", parquet(image=structs(JPEGS), caption=[""] * N, caption_1=CAPTIONS,
        caption_2=["another"] * N, text=["a text"] * N), captions=3),
    Layout("p_objects.parquet", parquet(image=structs(JPEGS), captions=pa.array([[{"raw": text, "id": 1},
        {"raw": "another", "id": 2}] for text in CAPTIONS])), captions=2),
    Layout("p_type.parquet", parquet(image=structs(JPEGS), caption=[1, 2, 3]), usable=0,
        rejected={"bad_metadata": N}, tagged=N),
    Layout("p_only_images.parquet", lambda path: pq.write_table(pa.table({"image": structs(JPEGS), "label": [0, 1, 2]}),
        path), usable=0, rejected={"bad_metadata": 1}, tagged=N),
    Layout("p_addresses.parquet", lambda path: pq.write_table(pa.table({"url": ["http://x/1.jpg"], "TEXT": ["a dog"]}),
        path), usable=0, rejected={"bad_metadata": 1}, errors={"bad_metadata": 1}),
]  # fmt: skip


def write_layouts(root: Path) -> None:
    """Write all layouts into a folder."""
    root.mkdir(parents=True)
    for layout in LAYOUTS:
        layout.write(root / layout.name)
