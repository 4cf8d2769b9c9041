"""Contract: copies are smaller, upright and in the order of training; a training with `copy_side` reads them in place
of the images, in the order in which it would have read these, and an image that cannot be read is a rejected row.
"""

from __future__ import annotations

import io
import itertools
import tarfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from PIL import Image, PngImagePlugin

from ram_ray.config import RunConfig, load
from ram_ray.data.images import Limits, decode
from ram_ray.records import SAMPLE, to_table
from ram_ray.results import Samples
from ram_ray.runtime.artifacts import Run
from ram_ray.settings.training import TrainConfig
from ram_ray.training import copies
from ram_ray.training.copies import COPIES, copy_bucket, copy_image, read_copies, with_copies
from ram_ray.training.copy_stage import copy_images
from ram_ray.training.order import list_spans, shuffle_neighbours
from ram_ray.training.rows import located_rows, to_training_table
from ram_ray.training.table import RowSelection, make_table
from tests.tiny import jpeg

TINY = Path(__file__).parents[1] / "tiny_run.yaml"
LIMITS = Limits(8, 1_000_000, 1_000_000)
SIDE = 48


def encode(image: Image.Image, kind: str, **options: object) -> bytes:
    data = io.BytesIO()
    image.save(data, kind, **options)
    return data.getvalue()


def gradient(width: int, height: int) -> Image.Image:
    """Red grows to the right, green downwards."""
    x, y = np.meshgrid(np.linspace(0, 255, width), np.linspace(0, 255, height))
    return Image.fromarray(np.stack([x, y, np.zeros_like(x)], -1).astype(np.uint8))


@pytest.mark.parametrize(
    ("size", "copied"), [((96, 144), (48, 72)), ((1000, 100), (480, 48)), ((48, 60), (48, 60)), ((400, 300), (64, 48))]
)
@pytest.mark.parametrize("kind", ["JPEG", "PNG"])
def test_a_copy_has_the_shorter_side_and_looks_the_same(
    size: tuple[int, int], copied: tuple[int, int], kind: str
) -> None:
    image = gradient(*size)
    copy = decode(copy_image(encode(image, kind), side=SIDE, limits=LIMITS), limits=LIMITS)
    assert copy.size == copied
    wanted = np.asarray(image.resize(copied, Image.Resampling.BICUBIC), np.float32)
    assert np.abs(np.asarray(copy, np.float32) - wanted).mean() < 4


def test_a_copy_is_upright_and_has_no_metadata() -> None:
    exif = Image.Exif()
    exif[0x0112] = 6  # the right side is the top
    exif[0x010F] = "a camera"
    data = encode(gradient(120, 96), "JPEG", exif=exif)
    copy = Image.open(io.BytesIO(copy_image(data, side=SIDE, limits=LIMITS)))
    assert copy.size == (48, 60) and not copy.getexif()
    assert np.abs(np.asarray(copy, np.float32) - np.asarray(decode(data, limits=LIMITS).resize((48, 60)))).mean() < 4


@pytest.mark.parametrize("kind", ["GIF", "PNG", "JPEG"])
def test_a_copy_has_no_comment(kind: str) -> None:
    comment = {"pnginfo": PngImagePlugin.PngInfo()} if kind == "PNG" else {"comment": b"x" * 60_000}
    if kind == "PNG":
        comment["pnginfo"].add_text("comment", "x" * 70_000)
    copy = copy_image(encode(gradient(96, 96), kind, **comment), side=SIDE, limits=LIMITS)
    assert len(copy) < 5000 and decode(copy, limits=LIMITS).size == (48, 48)


def test_an_image_that_is_too_long_for_a_jpeg_is_kept_as_it_is() -> None:
    data = encode(gradient(70_000, 12), "PNG")
    assert copy_image(data, side=12, limits=LIMITS) == data


@pytest.mark.parametrize(
    "mode", ["1", "L", "LA", "P", "RGBA", "CMYK", "I;16"], ids=["1", "L", "LA", "P", "RGBA", "CMYK", "16 bit"]
)
def test_images_of_every_mode_are_copied(mode: str) -> None:
    image = Image.new("I;16", (96, 60), 40_000) if mode == "I;16" else gradient(96, 60).convert(mode)
    copy = copy_image(encode(image, "TIFF"), side=SIDE, limits=LIMITS)
    assert decode(copy, limits=LIMITS).size == (77, 48)


def test_a_small_jpeg_is_kept_as_it_is_and_another_small_image_becomes_a_jpeg() -> None:
    small = gradient(40, 60)
    data = encode(small, "JPEG", quality=50)
    assert copy_image(data, side=SIDE, limits=LIMITS) == data
    copy = copy_image(encode(small, "PNG"), side=SIDE, limits=LIMITS)
    assert copy.startswith(b"\xff\xd8") and decode(copy, limits=LIMITS).size == small.size


@pytest.fixture(scope="module")
def shards(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """600 images in two tars; one of them is cut, and one is too small."""
    folder = tmp_path_factory.mktemp("shards")
    for shard in range(2):
        with tarfile.open(folder / f"{shard}.tar", "w") as tar:
            for number in range(300):
                data = encode(gradient(64 + number % 7, 64), "JPEG")
                data = {(0, 5): data[:300], (1, 7): encode(gradient(4, 4), "JPEG")}.get((shard, number), data)
                member = tarfile.TarInfo(f"{number:03d}.jpg")
                member.size = len(data)
                tar.addfile(member, io.BytesIO(data))
    return folder


@pytest.fixture(scope="module")
def samples(shards: Path, tmp_path_factory: pytest.TempPathFactory) -> Samples:
    """The SAMPLE rows of the images, as the stage `shards` leaves them."""
    folder, rows = tmp_path_factory.mktemp("samples"), 0
    for shard in sorted(shards.glob("*.tar")):
        with tarfile.open(shard) as tar:
            table = to_table(
                [
                    {
                        "key": f"{shard.stem}/{member.name}",
                        "shard": shard.stem,
                        "uri": str(shard),
                        "offset": member.offset_data,
                        "nbytes": member.size,
                    }
                    for member in tar
                ],
                SAMPLE,
            )
        (folder / f"shard={shard.stem}").mkdir()
        pq.write_table(table.drop_columns(["shard"]), folder / f"shard={shard.stem}" / "0.parquet")
        rows += len(table)
    counts = {"rows_in": rows, "rows_out": rows, "rejected": 0, "shards": 2}
    return Samples(stage="shards", digest="0", path=str(folder), seconds=1.0, **counts)


def config_of(**train: object) -> RunConfig:
    config = load(TINY)
    return config.model_copy(update={"pretrain": TrainConfig(image_size=32, copy_side=SIDE, **train)})


def test_a_training_reads_copies_in_the_order_of_the_images(
    ray_cluster: None, samples: Samples, tmp_path: Path
) -> None:
    config = config_of()
    run = Run(str(tmp_path / "run"))
    result = copy_images(run, config, config.pretrain, samples)
    assert (result.rows_in, result.rows_out, result.rejected, result.buckets) == (600, 598, 2, 3)
    written = {file.name: file.read_bytes() for file in Path(result.path, "images").iterdir()}
    assert result.nbytes == sum(map(len, written.values())) and len(written) == 3
    rejected = pq.read_table(run.path("rejected", "copies_48")).to_pylist()
    assert {(row["key"], row["reason"]) for row in rejected} == {
        ("0/005.jpg", "truncated"),
        ("1/007.jpg", "too_small"),
    }

    table = make_table(
        str(tmp_path / "table"),
        {samples.path: located_rows},
        selection=RowSelection(),
        num_rows=samples.rows_out,
        seed=config.seed,
        execution=config.execution,
    )
    copied = replace(table, copies=result.path)
    for bucket in range(3):
        rows, from_copies = table.read(bucket).to_pylist(), copied.read(bucket).to_pylist()
        assert [row["key"] for row in rows] == [row["key"] for row in from_copies]
        data = written[f"{bucket:06d}.bin"]
        for row, copy in zip(rows, from_copies, strict=True):
            (own,), (place,) = row["images"], copy["images"]
            if row["key"] in ("0/005.jpg", "1/007.jpg"):  # rejected by the training too
                assert place == own
                continue
            assert place["uri"] == f"{result.path}/images/{bucket:06d}.bin"
            image = decode(data[place["offset"] :][: place["nbytes"]], limits=config.execution.limits)
            assert min(image.size) == SIDE
    assert list_spans(table, seed=0, first_row=0, end_row=1200) == list_spans(copied, seed=0, first_row=0, end_row=1200)


def test_a_killed_call_goes_on_and_trainings_share_the_stage(
    ray_cluster: None, samples: Samples, tmp_path: Path
) -> None:
    config = config_of()
    run = Run(str(tmp_path / "run"))
    first = copy_images(run, config, config.pretrain, samples)
    files = {file: file.stat().st_mtime_ns for file in Path(first.path).rglob("*.*")}
    again = copy_images(run, config, config.pretrain.model_copy(update={"epochs": 1, "image_size": 24}), samples)
    assert again == first and {file: file.stat().st_mtime_ns for file in files} == files

    lost = Path(first.path, "index", "000001.parquet")
    lost.unlink()
    Path(f"{first.path}.json").unlink()
    resumed = copy_images(run, config, config.pretrain, samples)
    timed = {"seconds", "used"}
    assert resumed.model_dump(exclude=timed) == first.model_dump(exclude=timed)
    changed = {file for file in files if file.stat().st_mtime_ns != files[file]}
    assert changed == {lost, Path(first.path, "images", "000001.bin")}

    one = copy_images(run, config, config_of(shards="1").pretrain, samples)
    assert one.digest != first.digest and (one.rows_in, one.buckets) == (300, 3)


def test_rows_that_lie_together_in_the_copies_stay_together(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(copies, "NEIGHBOUR_BYTES", 2500)
    (tmp_path / "a.bin").write_bytes(jpeg(0) * 40)
    nbytes = len(jpeg(0))
    rows = [
        {
            "key": f"s/{number}",
            "shard": "s",
            "images": [{"uri": f"{tmp_path}/a.bin", "offset": number * nbytes, "nbytes": nbytes - 300 * (number == 7)}],
        }
        for number in range(40)
    ]
    table = to_training_table(rows, seed=0, num_buckets=1).drop_columns(["bucket"]).sort_by("order")
    made = copy_bucket(table, str(tmp_path), 0, side=8, limits=LIMITS)
    assert made.schema.equals(COPIES) and read_copies(str(tmp_path), 0).equals(made)
    own = table.filter(np.arange(40) % 5 > 0)  # a training leaves out what teaches nothing
    placed = with_copies(own, str(tmp_path), 0)
    assert placed.schema.equals(own.schema) and placed["key"].equals(own["key"])
    order, images = placed["order"].to_pylist(), placed["images"].to_pylist()
    for row, part, (image,) in zip(own.to_pylist(), order, images, strict=True):
        assert part == (-1 if row["key"] == "s/7" else image["offset"] // 2500)
        assert (image == row["images"][0]) == (row["key"] == "s/7")
    shuffled = shuffle_neighbours(range(len(placed)), placed, seed="x")
    assert sorted(shuffled) == list(range(len(placed))) != shuffled
    changes = sum(order[a] != order[b] for a, b in itertools.pairwise(shuffled))
    assert 3 < changes + 1 <= len(set(order)) + 1, "each part of the file is read once, or twice around a rejected row"

    with pytest.raises(AssertionError, match="1 of 1 images of bucket 0 have no copy"):
        with_copies(own.slice(0, 1).set_column(1, "key", [["t/0"]]), str(tmp_path), 0)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ("represent.train.copy_side=64", "only pretrain, retrain and finetune read copies"),
        ("finetune.copy_side=16", "is less than finetune.image_size"),
        ("retrain={copy_side: 64, views: 2, backbone_lr: 0}", "reads no images|needs represent.text_encoder"),
    ],
)
def test_what_copies_need_is_said(change: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        load(TINY, sets=[change])
