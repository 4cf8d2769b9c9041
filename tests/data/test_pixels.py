"""Contract: a table of locations becomes the same table with pixels; what cannot be read stays, with its reason."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from ram_ray.data.images import Limits
from ram_ray.data.pixels import add_pixels
from ram_ray.records import ANNOTATION, to_table
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
