"""Contract: rows of one image become one row with all captions, across shards; copies and near duplicates are left
out; nothing that is held out is trained on; rows in = rows out + rejected + merged; the result does not depend on how
the work is divided, and a stage that was killed leaves the same rows."""

from __future__ import annotations

import io
import json
import tarfile
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image, ImageOps

from ram_ray.config import RunConfig, load
from ram_ray.runtime.artifacts import Run, write_table
from tests.test_pipeline import Log
from tests.tiny import photo

SIZE = (96, 72)


def encode(image: Image.Image, kind: str = "PNG", **options: Any) -> bytes:
    data = io.BytesIO()
    image.save(data, kind, **options)
    return data.getvalue()


def write_tar(path: Path, members: list[tuple[str, bytes, dict[str, Any]]]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w") as tar:
        for key, image, fields in members:
            for name, data in ((f"{key}.jpg", image), (f"{key}.json", json.dumps(fields).encode())):
                info = tarfile.TarInfo(name)
                info.size = len(data)
                tar.addfile(info, io.BytesIO(data))


def image(seed: int) -> Image.Image:
    return photo(seed, size=SIZE)


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two shards of a source `coco` with a row a caption, one of `web`, and one that is held out."""
    folder = tmp_path_factory.mktemp("data")
    rows = [
        (f"{number:03d}", encode(image(number % 10), quality=90, kind="JPEG"), number) for number in range(30)
    ]  # 10 images of 3 captions, each again downloaded
    for shard, part in (("00000", rows[:15]), ("00001", rows[15:])):
        members = [
            (key, content, {"caption": f"caption {number}", "url": f"http://coco/{number % 10}.jpg"})
            for key, content, number in part
        ]
        write_tar(folder / f"coco/{shard}.tar", members)
    write_tar(
        folder / "web/00000.tar",
        [
            ("same", encode(image(0), kind="JPEG", quality=90), {"caption": "a copy of an image of coco"}),
            ("pixels", encode(image(20)), {"caption": "first"}),
            ("bmp", encode(image(20), kind="BMP"), {"caption": "second", "labels": ["dog"]}),
            ("mirror", encode(ImageOps.mirror(image(1))), {"caption": "near an image of coco"}),
            ("leak", encode(image(30).resize((80, 60))), {"caption": "near a held-out image"}),
            ("own", encode(image(21)), {"caption": "an image of its own"}),
            ("long", encode(image(22)), {"caption": ["one two", "one two three four five six seven eight nine"]}),
            ("longer", encode(image(23)), {"caption": "one two three four five six seven eight nine ten"}),
            ("plain", encode(Image.new("RGB", SIZE, "red")), {"caption": "red"}),
            ("plainer", encode(Image.new("RGB", SIZE, "darkred")), {"caption": "dark red"}),
            ("cut", encode(image(24))[:-60], {"caption": "cut"}),
            ("out", encode(image(25)), {"caption": "opted out", "url": "https://a.example.net/x.png"}),
        ],
    )
    held_out = [("a", image(30), 30), ("b", image(31), 31), ("c", image(30), 30)]
    members = [
        (key, encode(content), {"caption": f"held out {key}", "url": f"u{number}"}) for key, content, number in held_out
    ]
    write_tar(folder / "held/00000.tar", members)
    (folder / "opt_out.txt").write_text("example.net\n")
    return folder


def run(folder: Path, data: Path, *sets: str, train: tuple[str, ...] = ("coco/*.tar", "web/*.tar")) -> Log:
    from ram_ray.pipeline import run_recipe

    log = Log()
    run_recipe(log.open(str(folder), last="shards"), configure(data, *sets, train=train), log)
    return log


def configure(data: Path, *sets: str, train: tuple[str, ...] = ("coco/*.tar", "web/*.tar")) -> RunConfig:
    fixed = [
        f"data.train={json.dumps([str(data / glob) for glob in train])}",
        f"data.eval={[str(data / 'held/*.tar')]}",
    ]
    prefer = ["data.rows_per_block=7", "data.duplicates.prefer=['coco/*']"]
    filters = ["data.filters.max_caption_words=8", f"data.filters.opt_out={data / 'opt_out.txt'}"]
    return load(None, sets=[*fixed, *prefer, *filters, "resources={shuffle_partitions: 2, task_cpus: 0.5}", *sets])


def rows_of(result: Any) -> dict[str, dict[str, Any]]:
    tables = [pq.read_table(file, partitioning=None) for file in sorted(Path(result.path).rglob("*.parquet"))]
    return {row["key"]: row for table in tables for row in table.to_pylist()}


@pytest.fixture(scope="module")
def log(ray_cluster: None, data: Path, tmp_path_factory: pytest.TempPathFactory) -> Log:
    return run(tmp_path_factory.mktemp("run"), data)


def test_rows_of_an_image_become_one_with_all_captions(log: Log) -> None:
    rows = rows_of(log.results["images"])
    usable = {key: row for key, row in rows.items() if row["reason"] is None}
    coco = [row for key, row in usable.items() if key.startswith("coco/")]
    assert len(coco) == 10 and len({row["url"] for row in coco}) == 10
    for row in coco:
        number = int(row["url"].rpartition("/")[2].partition(".")[0])
        assert sorted(row["captions"]) == sorted(f"caption {number + step}" for step in (0, 10, 20))
    assert sorted(key for key in usable if not key.startswith("coco/")) in (
        ["web/00000/bmp", "web/00000/long", "web/00000/own", "web/00000/plain", "web/00000/plainer"],
        ["web/00000/long", "web/00000/own", "web/00000/pixels", "web/00000/plain", "web/00000/plainer"],
    )
    (united,) = [row for key, row in usable.items() if key in ("web/00000/bmp", "web/00000/pixels")]
    assert sorted(united["captions"]) == ["first", "second"] and united["labels"] == ["dog"]


def test_what_goes_has_a_reason_and_names_what_it_is_a_duplicate_of(log: Log) -> None:
    rows = rows_of(log.results["images"])
    assert rows["web/00000/same"]["reason"] == "duplicate_image" and "coco/" in rows["web/00000/same"]["detail"]
    assert rows["web/00000/mirror"]["detail"].startswith("near, ") and "coco/" in rows["web/00000/mirror"]["detail"]
    assert "held-out held/00000/" in rows["web/00000/leak"]["detail"]
    assert rows["web/00000/long"]["captions"] == ["one two"]
    assert rows["web/00000/long"]["filtered_captions"] == [
        {"text": "one two three four five six seven eight nine", "reason": "caption_length"}
    ]
    assert rows["web/00000/longer"]["reason"] == "caption_length"
    before = rows_of(log.results["fingerprints"])
    assert before["web/00000/cut"]["reason"] == "truncated" and before["web/00000/out"]["reason"] == "opted_out"


def test_rows_reconcile(log: Log) -> None:
    result, before = log.results["images"], log.results["fingerprints"]
    assert before.rows_in == 42 == before.rows_out + before.rejected and before.rejected == 2
    assert result.rows_in == 40 == result.rows_out + result.rejected + result.merged
    assert (result.rows_out, result.rejected, result.merged) == (15, 4, 21)
    assert result.filtered_captions == {"caption_length": 2}
    folder = Path(result.path).parents[2] / "rejected/images"
    reasons = [reason for file in folder.glob("*.parquet") for reason in pq.read_table(file)["reason"].to_pylist()]
    assert len(reasons) == 25 and reasons.count("merged") == 21
    assert log.results["images_eval"].merged == 1 and log.results["images_eval"].rows_out == 2


def test_the_run_says_what_was_found(log: Log) -> None:
    (note,) = log.notes
    assert "of 40 training rows 21 merged into one row an image" in note
    assert "2 left out as copies of other training images" in note
    assert "1 left out as copies of held-out images" in note


def test_the_page_shows_pairs(log: Log) -> None:
    page = (Path(log.results["images"].path).parents[2] / "evaluation/duplicates.html").read_text()
    assert page.count("data:image/jpeg") == 2 * (21 + 2 + 1) and "cannot be read" not in page
    assert "training rows that are copies of held-out images (near duplicates): left out" in page


def test_images_of_training_and_held_out_images_share_no_url(log: Log) -> None:
    urls = [
        {row["url"] for row in rows_of(log.results[name]).values() if row["reason"] is None} - {None}
        for name in ("images", "images_eval")
    ]
    assert urls[0] and urls[1] and not urls[0] & urls[1]


def test_the_division_of_the_work_does_not_change_the_rows(log: Log, data: Path, tmp_path: Path) -> None:
    """Many tasks, parts and slices, over the remains of a run that was killed."""
    import ray

    from ram_ray.curation.duplicates import DuplicateSettings, search, write_duplicates
    from ram_ray.results import Duplicates

    config = configure(data)
    settings, sets = (
        DuplicateSettings.from_config(config),
        [log.results[f"fingerprints{name}"] for name in ("", "_eval")],
    )
    stage = Run(str(tmp_path)).stage("duplicates", Duplicates, settings=settings, inputs=sets)
    remains = Path(stage.path) / "set=0/shard=x/part.parquet"
    remains.parent.mkdir(parents=True)
    remains.write_bytes(b"half a file")
    options = {"execution": config.execution}
    num_rows, decisions = search(stage, sets, settings.duplicates, rows_per_slice=15, **options)
    assert len(list(Path(stage.work, "pairs").glob("*.parquet"))) > 90
    assert num_rows == log.results["duplicates"].rows == len(ray.get(decisions).id)
    duplicates = settings.duplicates
    counts = write_duplicates(stage, sets, decisions, duplicates, num_rows=num_rows, rows_per_part=5, **options)
    assert counts == log.results["duplicates"].counts and sum(counts.values()) > 5

    def read(path: str) -> list[str]:
        tables = [pq.read_table(file, partitioning=None) for file in Path(path).rglob("*.parquet")]
        return sorted(repr(row) for table in tables for row in table.to_pylist())

    assert read(stage.path) == read(log.results["duplicates"].path)


def test_shuffled_hashes_give_the_same_decisions(
    log: Log, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As for more rows than tasks can read again and again; embeddings of cells with pairs are beside them."""
    import ray

    from ram_ray.curation import hash_table
    from ram_ray.curation.duplicates import DuplicateSettings, search
    from ram_ray.results import Duplicates

    monkeypatch.setattr(hash_table, "TABLES", hash_table.TABLES[:2])
    config = configure(data)
    settings = DuplicateSettings.from_config(config)
    duplicates = settings.duplicates.model_copy(update={"embedding": 0.99})
    sets = []
    for name in ("", "_eval"):
        fingerprints = log.results[f"fingerprints{name}"]
        folder = tmp_path / f"fingerprints{name}"
        for file in Path(fingerprints.path).rglob("*.parquet"):
            table = pq.read_table(file, partitioning=None)
            vectors = [np.eye(8, dtype=np.float16)[number % 8].tobytes() for number in range(len(table))]
            column = table.schema.get_field_index("embedding")
            write_table(
                table.set_column(column, "embedding", pa.array(vectors, pa.binary())),
                f"{folder}/{file.relative_to(fingerprints.path)}",
            )
        sets.append(fingerprints.model_copy(update={"path": str(folder)}))
    found = []
    for max_slices in (100, 1):
        stage = Run(str(tmp_path / str(max_slices))).stage("duplicates", Duplicates, settings=settings, inputs=sets)
        options: dict[str, Any] = {"rows_per_slice": 15, "max_slices": max_slices, "execution": config.execution}
        _, decisions = search(stage, sets, duplicates, **options)
        found.append(ray.get(decisions))
        assert Path(stage.work, "distinct_pairs").is_dir() == (max_slices == 1)
    for name in ("id", "target", "action", "kind", "distance"):
        read, shuffled = (getattr(decided, name) for decided in found)
        assert np.array_equal(read, shuffled) and len(read) > 10, name
    assert len(set(found[0].kind.tolist())) > 1


def test_all_data_held_out_is_one_line(ray_cluster: None, data: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="^data.train: all of the 3 rows show images that are also in data.eval"):
        run(tmp_path, data, train=("held/*.tar",))


def test_nothing_to_change_gives_the_rows_of_shards(ray_cluster: None, data: Path, tmp_path: Path) -> None:
    log = run(
        tmp_path,
        data,
        "data.duplicates={same: [], near: null}",
        "data.filters.max_caption_words=null",
        "data.filters.opt_out=null",
    )
    assert set(log.results) == {"shards", "shards_eval"}
