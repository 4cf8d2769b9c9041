"""Contract: the sample is a uniform draw within bounds that does not depend on blocks. Images are cropped to their box.
An image that cannot be read is shown as such."""

from __future__ import annotations

import io

import numpy as np
import pyarrow as pa
from PIL import Image

from ram_ray.data.images import Limits
from ram_ray.data_engine.clean import SAMPLE_ROWS
from ram_ray.records import ANNOTATION, to_table
from ram_ray.reporting.engine_images import (
    Bounds,
    _limit_bytes,
    _outcomes,
    make_thumbnails,
    sample_crops,
    sample_tags,
    thumbnail,
)
from ram_ray.reporting.engine_rows import SAMPLE_IMAGE, SAMPLED_TAG
from tests.tiny import jpeg


def _row(index: int, **more) -> dict:
    caption = {"text": "a dog", "origin": "original", "tags": [0], "sources": ["both"]}
    tags = [{"id": 0, "origin": "parsed", "score": 1.0}, {"id": 1, "origin": "tagger", "score": 0.9}]
    return {"key": f"s/{index}", "shard": "s", "uri": "gone.jpg", "offset": 0, "nbytes": 9, "captions": [caption],
            "tags": tags, "removed": [], "truth": [0], **more}  # fmt: skip


def _keys(table: pa.Table, tag: int, outcome: str) -> list[str]:
    rows = [row for row in table.to_pylist() if (row["tag"], row["outcome"]) == (tag, outcome)]
    return [row["key"] for row in sorted(rows, key=lambda row: row["order"])]


def test_the_draw_is_bounded_and_does_not_depend_on_blocks() -> None:
    removed = [{"id": 0, "reason": "outlier", "score": 0.4, "round": 1}]
    rows = [_row(index) for index in range(60)] + [_row(index, tags=[], removed=removed) for index in range(60, 80)]
    table = to_table(rows, ANNOTATION)
    whole = sample_tags(table, tags=frozenset([0, 1]), each=4)
    assert whole.schema == SAMPLED_TAG and len(whole) == 12
    parts = pa.concat_tables(
        [sample_tags(table.slice(start, 16), tags=frozenset([0, 1]), each=4) for start in (0, 16, 32, 48, 64)]
    )
    for tag, outcome in ((0, "kept"), (1, "added"), (0, "removed")):
        assert _keys(whole, tag, outcome) == _keys(parts, tag, outcome)[:4]
    assert _keys(whole, 0, "kept") != _keys(whole, 1, "added"), "each tag has a draw of its own"
    assert {tag["reason"] for tag in whole.to_pylist()} == {"parsed", "tagger", "outlier"}
    only = sample_tags(table, tags=frozenset([1]), each=4, sampled=frozenset([0, 1]))
    assert {(tag["tag"], tag["outcome"]) for tag in only.to_pylist()} == {(1, "added")}
    assert len(sample_tags(to_table([_row(0, reason="truncated")], ANNOTATION), tags=frozenset([0]), each=4)) == 0


def test_cleaning_s_own_samples_bring_box_and_cluster() -> None:
    crops = [
        {"key": f"s/{index}", "shard": "s", "tag": index % 3, "box": [0, 0, 0.5, 1], "cluster": index,
         "removed": index > 6,
         "reason": "outlier" if index > 6 else None, "score": 0.1}
        for index in range(12)
    ]  # fmt: skip
    sampled_tags = sample_crops(to_table(crops, SAMPLE_ROWS), tags=frozenset([0]), each=2).to_pylist()
    assert [tag["outcome"] for tag in sampled_tags].count("kept") == 2 and {tag["tag"] for tag in sampled_tags} == {0}
    assert all(tag["box"] == [0, 0, 0.5, 1] and tag["cluster"] == int(tag["key"][2:]) for tag in sampled_tags)


def test_images_are_read_cropped_and_compared_with_the_truth(tmp_path) -> None:
    (tmp_path / "a.jpg").write_bytes(jpeg(size=(200, 100)))
    (tmp_path / "b.jpg").write_bytes(b"no image")
    rows = [
        _row(index, uri=str(tmp_path / name), offset=0, nbytes=(tmp_path / name).stat().st_size)
        for index, name in enumerate(["a.jpg", "b.jpg"])
    ]
    tag = {"tag": 0, "outcome": "kept", "order": 1, "box": None, "cluster": None, "reason": "parsed", "score": 1.0}
    sampled_tags = {
        "s/0": [
            {**tag, "key": "s/0"},
            {**tag, "key": "s/0", "tag": 1, "outcome": "removed", "box": [0.5, 0, 1, 1]},
            {**tag, "key": "s/0", "tag": 1},
        ],
        "s/1": [{**tag, "key": "s/1"}],
    }
    limits = Limits(8, 10**6, 10**6)
    images = make_thumbnails(
        to_table(rows, ANNOTATION), sampled_tags=sampled_tags, limits=limits, bounds=Bounds(side=50)
    )
    assert images.schema == SAMPLE_IMAGE
    first, second, broken = images.to_pylist()
    assert Image.open(io.BytesIO(first["jpeg"])).size == (50, 25)
    assert Image.open(io.BytesIO(second["jpeg"])).size == (50, 50)
    assert (first["true"], second["true"], first["caption"]) == (True, False, "a dog")
    assert broken["jpeg"] is None, "a tag that no caption mentions is not shown as kept; it has a strip of its own"


def test_a_box_of_no_width_is_a_pixel() -> None:
    data = thumbnail(Image.new("RGB", (40, 40)), [1.0, 1.0, 1.0, 1.0], bounds=Bounds(side=16))
    assert Image.open(io.BytesIO(data)).size == (16, 16)


def test_bytes_are_bounded_and_every_strip_has_its_first_image() -> None:
    images = [
        {"tag": tag, "outcome": outcome, "jpeg": bytes(100)}
        for tag in range(5)
        for outcome in ("kept", "added")
        for _ in range(6)
    ]
    selected = _limit_bytes(images, 2500)
    assert sum(len(image["jpeg"]) for image in selected) <= 2500 and len(selected) == 25
    strips = [{(image["tag"], image["outcome"]) for image in group} for group in (selected, images)]
    assert strips[0] == strips[1]
    bounds = Bounds()
    assert bounds.max_labels * 3 * bounds.per_outcome <= bounds.max_images
    noise = Image.fromarray(np.random.default_rng(0).integers(0, 255, (300, 300, 3), dtype=np.uint8))
    assert len(thumbnail(noise, None, bounds=bounds)) * bounds.max_images * 4 / 3 < 20e6


def test_a_human_label_is_kept_not_added() -> None:
    row = _row(0)
    row["tags"].append({"id": 5, "origin": "human", "score": 1.0})
    assert (row["tags"][-1], "kept", "human") in _outcomes(row)
