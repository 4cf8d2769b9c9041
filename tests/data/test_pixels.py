"""Contract: a table of locations becomes the same table with pixels; what cannot be read stays, with its reason."""

from __future__ import annotations

import dataclasses
import io
import os
import time
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from ram_ray.config import load
from ram_ray.data.images import Limits
from ram_ray.data.pixels import add_pixels, rows_of_pixels, shrink, to_images, with_pixels
from ram_ray.data.preprocess import to_square
from ram_ray.records import ANNOTATION, to_table
from ram_ray.runtime.actors import model_actors
from tests.tiny import jpeg, photo

LIMITS = Limits(min_side=8, max_pixels=100_000, max_bytes=100_000)


def _row(key: str, uri: Path, data: bytes, offset: int = 0) -> dict:
    return {
        "key": key,
        "shard": "s",
        "uri": str(uri),
        "offset": offset,
        "nbytes": len(data),
        "captions": [],
        "tags": [],
    }


def _png(image: Image.Image) -> bytes:
    data = io.BytesIO()
    image.save(data, "PNG")
    return data.getvalue()


@pytest.fixture()
def rows(tmp_path: Path) -> list[dict]:
    """Two good images in one file, a good one in Parquet, and four that cannot be used."""
    first, second, third = _png(photo(0)), _png(photo(1, size=(20, 64))), jpeg(2)
    (tmp_path / "archive.tar").write_bytes(b"x" * 100 + first + b"y" * 7 + second)
    pq.write_table(pa.table({"image": [third]}), tmp_path / "t.parquet")
    (tmp_path / "bad.jpg").write_bytes(b"this is no image, though it is long enough to be an image")
    (tmp_path / "cut.jpg").write_bytes(third[: len(third) // 2])
    (tmp_path / "small.png").write_bytes(_png(photo(3, size=(40, 4))))
    return [
        _row("s/0", tmp_path / "archive.tar", first, 100),
        _row("s/bad", tmp_path / "bad.jpg", (tmp_path / "bad.jpg").read_bytes()),
        _row("s/1", tmp_path / "archive.tar", second, 107 + len(first)),
        _row("s/cut", tmp_path / "cut.jpg", third[: len(third) // 2]),
        _row("s/small", tmp_path / "small.png", (tmp_path / "small.png").read_bytes()),
        _row("s/gone", tmp_path / "gone.jpg", b"123"),
        _row("s/2", tmp_path / "t.parquet", third, 0),
    ]


def test_good_rows_hold_their_image_and_bad_rows_their_reason(rows: list[dict]) -> None:
    table = add_pixels(to_table(rows, ANNOTATION), size=24, limits=LIMITS)
    assert table.column_names == [*ANNOTATION.names, "pixels"]
    assert table.select(["key", "uri", "captions"]).equals(
        to_table(rows, ANNOTATION).select(["key", "uri", "captions"])
    )
    reasons = dict(zip(table["key"].to_pylist(), table["reason"].to_pylist(), strict=True))
    assert reasons == {
        "s/0": None, "s/1": None, "s/2": None,
        "s/bad": "undecodable", "s/cut": "truncated", "s/small": "too_small", "s/gone": "broken_archive",
    }  # fmt: skip
    details = table["detail"].to_pylist()
    assert [bool(detail) for detail in details] == [reason is not None for reason in table["reason"].to_pylist()]
    pixels = table["pixels"].combine_chunks().to_numpy_ndarray()
    assert pixels.shape == (7, 24, 24, 3) and pixels.dtype == np.uint8
    for index, image in [(0, photo(0)), (2, photo(1, size=(20, 64)))]:
        expected = np.asarray(image.resize((24, 24), Image.Resampling.BILINEAR))
        np.testing.assert_array_equal(pixels[index], expected)
    assert np.abs(pixels[6].astype(int) - np.asarray(photo(2).resize((24, 24)))).mean() < 8
    assert not pixels[[1, 3, 4, 5]].any()


def test_a_reason_of_an_earlier_stage_is_kept(rows: list[dict]) -> None:
    rows[0] |= {"reason": "no_caption", "detail": "before"}
    table = add_pixels(to_table(rows[:3], ANNOTATION), size=16, limits=LIMITS)
    assert table["reason"].to_pylist() == ["no_caption", "undecodable", None]
    assert table["detail"].to_pylist()[0] == "before"
    assert table.schema.field("reason").type == pa.string()


def test_an_empty_block_stays_empty() -> None:
    table = add_pixels(to_table([], ANNOTATION), size=16, limits=LIMITS)
    assert len(table) == 0 and table.column_names == [*ANNOTATION.names, "pixels"]


def test_images_in_their_own_proportions_beside_the_squares(rows: list[dict], tmp_path: Path) -> None:
    """A large image is shrunk into the bounds, a small one stays, and EXIF turns each of both once."""
    upright = photo(4, size=(90, 40))
    exif = Image.Exif()
    exif[0x0112] = 6  # stored turned to the left
    stored = io.BytesIO()
    upright.transpose(Image.Transpose.ROTATE_90).save(stored, "PNG", exif=exif)
    (tmp_path / "turned.png").write_bytes(stored.getvalue())
    rows.append(_row("s/turned", tmp_path / "turned.png", stored.getvalue()))
    table = add_pixels(to_table(rows, ANNOTATION), size=24, limits=LIMITS, bounds=(32, 60))
    plain = add_pixels(to_table(rows, ANNOTATION), size=24, limits=LIMITS)
    assert table.column_names == [*plain.column_names, "width", "height", "rgb"]
    assert table.select(plain.column_names).equals(plain), "the tagger sees what it sees without them"
    batch = {name: table[name].to_numpy() for name in ("rgb", "width", "height")}
    assert [content is None for content in batch["rgb"]] == [
        reason is not None for reason in plain["reason"].to_pylist()
    ]
    small, turned = to_images(batch, [2, 7])
    assert small.tobytes() == shrink(photo(1, size=(20, 64)), bounds=(32, 60)).tobytes() and small.size == (19, 60)
    assert turned.size == (60, 27) and turned.tobytes() == shrink(upright, bounds=(32, 60)).tobytes()
    squares = plain["pixels"].combine_chunks().to_numpy_ndarray()
    np.testing.assert_array_equal(squares[7], to_square(stored.getvalue(), size=24, limits=LIMITS))


@pytest.mark.parametrize(
    ("size", "bounds", "expected"),
    [
        ((640, 480), (800, 1333), (640, 480)),
        ((4000, 3000), (800, 1333), (1067, 800)),
        ((3000, 9000), (800, 1333), (444, 1333)),
        ((9000, 10), (800, 1333), (1333, 1)),
    ],
)
def test_an_image_is_shrunk_until_both_sides_are_in_their_bounds(
    size: tuple[int, int], bounds: tuple[int, int], expected: tuple[int, int]
) -> None:
    assert shrink(Image.new("RGB", size), bounds=bounds).size == expected


def test_blocks_of_large_images_are_batches_that_fit_into_the_object_store() -> None:
    stores = {None: 300, 0.5: 16, 1.0: 48, 20.0: 300}
    for store, expected in stores.items():
        execution = load(sets=[f"resources.object_store_gb={'null' if store is None else store}"]).execution
        execution = dataclasses.replace(execution, rows_per_block=300)
        assert rows_of_pixels(size=288, batch_size=16, execution=execution) == expected, store
        assert rows_of_pixels(size=288, batch_size=400, execution=execution) == 300, "not more than before"


def test_all_actors_work_where_a_block_of_images_fills_the_object_store(ray_cluster: None, tmp_path: Path) -> None:
    """300 images of 288 px are 75 MB; the tests' cluster has 500 MB."""
    import ray.data

    started = tmp_path / "started"
    started.mkdir()

    class Model:
        def __init__(self) -> None:
            (started / str(os.getpid())).touch()
            self.deadline = time.monotonic() + 60

        def __call__(self, batch: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
            while len(list(started.iterdir())) < 2 and time.monotonic() < self.deadline:
                time.sleep(0.05)
            return {"key": batch["key"]}

    data = jpeg()
    (tmp_path / "a.jpg").write_bytes(data)
    table = to_table([_row(f"{number:04d}", tmp_path / "a.jpg", data) for number in range(320)], ANNOTATION)
    config = load(sets=["resources.object_store_gb=0.5", "resources.actors=2", "data.rows_per_block=300"])
    rows = ray.data.from_arrow(table).repartition(target_num_rows_per_block=300)
    pixels = with_pixels(rows, size=288, batch_size=16, execution=config.execution)
    answers = pixels.map_batches(Model, batch_size=16, **model_actors(config.resources))
    assert answers.count() == 320
    assert len(list(started.iterdir())) == 2, "the second actor is started while the first has work"
