"""Contract: images are compared with their captions, classified and embedded by real models; each row that goes has a
reason; a quantile leaves out no more than its share; what is not asked for runs no model and changes no digest."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image
from pydantic import ValidationError

from ram_ray.config import load
from ram_ray.curation.image_models import Classifier
from ram_ray.curation.image_scores import BINS, ImageScorer, count_bins, find_quantile
from ram_ray.curation.score_settings import ImageScoreSettings
from ram_ray.data.pixels import add_pixels
from ram_ray.models.teacher import Teacher
from ram_ray.records import FINGERPRINT, to_table
from ram_ray.settings.data import DataConfig
from tests.curation.test_images import encode, run, write_tar
from tests.tiny import photo
from tests.tiny_clip import save_classifier, save_clip

CPU: dict[str, Any] = {"device": "cpu", "precision": "fp32", "threads": 1}


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> str:
    return save_clip(tmp_path_factory.mktemp("clip"))


@pytest.fixture(scope="module")
def classifier(tmp_path_factory: pytest.TempPathFactory) -> str:
    return save_classifier(tmp_path_factory.mktemp("classifier"))


def settings(*sets: str, held_out: bool = False) -> ImageScoreSettings:
    return ImageScoreSettings.from_config(load(None, sets=list(sets)), held_out=held_out)


def make_block(folder: Path) -> pa.Table:
    """A dark image, a bright one, a photo without captions, and a broken one."""
    images = [Image.new("RGB", (64, 64), (10, 12, 8)), Image.new("RGB", (64, 64), (250, 245, 255)), photo(3)]
    rows = []
    for index, content in enumerate([*(encode(image) for image in images), b"broken"]):
        path = folder / f"{index}.png"
        path.write_bytes(content)
        captions = [["a dark thing", "night"], ["a white wall"], [], ["lost"]][index]
        row = {"key": str(index), "shard": "s", "uri": str(path), "offset": 0, "nbytes": len(content)}
        rows.append({**row, "captions": captions})
    return add_pixels(to_table(rows, FINGERPRINT), size=64, limits=DataConfig().limits())


def test_scores_are_those_of_the_models(tmp_path: Path, clip: str, classifier: str) -> None:
    asked = settings(
        f"data.encoder.clip={clip}",
        "data.filters.min_similarity=-1",
        "data.duplicates.embedding=0.9",
        f"data.filters.unsafe_model={classifier}",
    )
    rows = ImageScorer(asked, **CPU)(make_block(tmp_path)).to_pylist()
    assert [row["reason"] for row in rows] == [None, "unsafe", None, "undecodable"]
    teacher = Teacher.from_pretrained(clip)
    pixels = np.asarray(Image.open(tmp_path / "0.png").resize((64, 64)))[None]
    vector = teacher.encode_images(pixels)[0]
    assert rows[0]["similarity"] == pytest.approx(
        float((teacher.encode_texts(["a dark thing", "night"]) @ vector).max()), abs=1e-5
    )
    assert np.frombuffer(rows[0]["embedding"], np.float16) == pytest.approx(vector, abs=1e-3)
    assert rows[2]["similarity"] is None and rows[2]["embedding"] and rows[3]["embedding"] is None
    least = f"data.filters.min_similarity={rows[0]['similarity'] + 0.001}"
    again = ImageScorer(settings(f"data.encoder.clip={clip}", least), **CPU)(make_block(tmp_path)).to_pylist()
    assert again[0]["reason"] == "dissimilar" and again[2]["reason"] is None and again[0]["embedding"] is None


def test_unsafe_classes_are_named(classifier: str, tmp_path: Path) -> None:
    pixels = np.stack([np.full((32, 32, 3), level, np.uint8) for level in (5, 250)])
    options: dict[str, Any] = {"revision": None, "device": "cpu", "precision": "fp32"}
    found = Classifier(classifier, unsafe=(), **options).unsafe(pixels)
    assert found[0] < 0.1 and found[1] > 0.9
    assert Classifier(classifier, unsafe=("Normal",), **options).unsafe(pixels) == pytest.approx(1 - found, abs=1e-5)
    with pytest.raises(ValueError, match=r"has the classes \['normal', 'nsfw'\]"):
        Classifier(classifier, unsafe=("bad",), **options)
    with pytest.raises(ValueError, match="cannot be loaded as an image classifier"):
        Classifier(str(tmp_path), unsafe=(), **options)


def test_a_quantile_leaves_out_no_more_than_its_share() -> None:
    values = np.random.default_rng(0).uniform(-0.2, 0.6, 1000).astype(np.float32)
    table = pa.table(
        {"reason": pa.nulls(1001, pa.string()), "similarity": pa.array([*values.tolist(), None], pa.float32())}
    )
    least = find_quantile(count_bins(table), 0.3)
    assert 0.3 - 2 * 2 / BINS / 0.8 - 0.002 <= (values < least).mean() <= 0.3
    assert find_quantile({}, 0.3) == -1


def test_settings() -> None:
    assert not settings().needs_model
    assert settings("data.duplicates.embedding=0.9", "represent.clip=some/clip", "represent.revision=abc").encoder
    assert not settings("data.filters.unsafe_model=x", held_out=True).needs_model
    with pytest.raises(ValueError, match=r"set data\.encoder\.clip"):
        settings("data.duplicates.embedding=0.9")
    timm = "data.encoder.image_encoder={name: resnet18, weights: x}"
    assert settings("data.duplicates.embedding=0.9", timm).encoder
    with pytest.raises(ValueError, match="embeds no captions"):
        settings("data.filters.min_similarity=0.2", timm)
    with pytest.raises((ValueError, ValidationError), match="not both"):
        settings("data.filters={min_similarity: 0.2, similarity_quantile: 0.1}")
    one, other = settings("data.filters.unsafe_model=x"), settings("data.filters={unsafe_model: x, max_unsafe: 0.9}")
    assert one.identity() != other.identity()


@pytest.mark.slow
def test_a_run(ray_cluster: None, tmp_path: Path, clip: str, classifier: str) -> None:
    """A copy in another format is found by its embedding alone, a bright image is unsafe, and a share is left out."""
    members = [(f"{seed}", encode(photo(seed)), {"caption": f"photo {'abcdef'[seed]}"}) for seed in range(6)]
    members += [("white", encode(Image.new("RGB", (64, 64), "white")), {"caption": "white"})]
    members += [("copy", encode(photo(2), kind="BMP"), {"caption": "a copy"})]
    write_tar(tmp_path / "data/web/00000.tar", members)
    write_tar(tmp_path / "data/held/00000.tar", [("leak", encode(photo(4), kind="BMP"), {"caption": "held out"})])
    (tmp_path / "data/opt_out.txt").write_text("")
    filters = [f"data.filters.unsafe_model={classifier}", "data.filters.similarity_quantile=0.3"]
    duplicates = ["data.duplicates={same: [], near: null, embedding: 1.0}", f"data.encoder.clip={clip}"]
    log = run(tmp_path / "run", tmp_path / "data", *filters, *duplicates, train=("web/*.tar",))
    scored, similar = log.results["image_scores"], log.results["similarity"]
    assert scored.rows_in == 8 == scored.rows_out + scored.rejected and scored.rejected >= 1
    rejected = pq.read_table(tmp_path / "run/rejected/image_scores").to_pylist()
    assert {"web/00000/white": "unsafe"}.items() <= {row["key"]: row["reason"] for row in rejected}.items()
    assert similar.rows_in == scored.rows_out == similar.rows_out + similar.rejected
    assert similar.rejected <= 0.3 * similar.rows_in
    rows = [
        row for file in Path(log.results["images"].path).rglob("*.parquet") for row in pq.read_table(file).to_pylist()
    ]
    details = sorted(row["detail"] for row in rows if row["reason"] == "duplicate_image")
    assert details and all(detail.startswith("embedding, cosine 1.000") for detail in details)
    counts = log.results["duplicates"].counts
    assert len(rows) == similar.rows_out and sum(counts.values()) == len(details)
    assert set(counts) <= {"train/left_out/embedding/train", "train/left_out/embedding/eval"}
