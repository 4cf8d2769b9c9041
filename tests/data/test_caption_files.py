"""Contract: every line of a text file is a row or a rejected row; on Ray the same lines give the same label system,
byte for byte, whatever the blocks, hand edits are applied at a rebuild, and what is done is not done again."""

from __future__ import annotations

import gzip
import json
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from ram_ray.config import RunConfig, load
from ram_ray.data import caption_files
from ram_ray.data.caption_files import list_files, read_lines
from ram_ray.labels import evidence
from ram_ray.records import SAMPLE, to_table

LINES = [
    "a red dog runs on the beach",
    "two men hold a stop sign",
    "a gray cat",
    "a grey dog on a couch",
    "a cat on a sofa",
]


def test_every_line_is_a_row(tmp_path: Path) -> None:
    path = tmp_path / "web captions.txt"
    path.write_bytes(b"a dog\r\n\n \xe9\n" + b"x" * 2_500_000 + b"\nlast line")
    rows = list(read_lines("web", str(path)))
    assert [(row["key"], row["captions"], row.get("reason")) for row in rows] == [
        ("web/1", ["a dog"], None), ("web/2", [], "no_caption"), ("web/3", [], "bad_metadata"),
        ("web/4", [], "bad_metadata"), ("web/5", ["last line"], None),
    ]  # fmt: skip
    assert to_table(rows, SAMPLE).num_rows == 5
    with gzip.open(tmp_path / "more.txt.gz", "wb") as file:
        file.write(b"a cat\n")
    assert list_files([str(tmp_path / "*.txt*")]) == {
        "more": str(tmp_path / "more.txt.gz"), "web_captions": str(path)
    }  # fmt: skip
    with pytest.raises(ValueError, match="no text file"):
        list_files([str(tmp_path / "nothing.txt")])
    (tmp_path / "more.txt").write_text("x")
    with pytest.raises(ValueError, match="one name"):
        list_files([str(tmp_path / "more.*")])


def test_a_large_file_is_written_in_parts_and_the_same_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(caption_files, "ROWS_A_FILE", 2)
    (tmp_path / "a.txt").write_text("\n".join(LINES) + "\n")
    (tmp_path / "empty.txt").write_text("")
    for _ in range(2):
        reported: list[int] = []
        caption_files._write_rows("a", str(tmp_path / "a.txt"), str(tmp_path / "shard=a"), reported.append)
        caption_files._write_rows("b", str(tmp_path / "empty.txt"), str(tmp_path / "shard=b"), reported.append)
        assert reported == [2, 2, 1, 0]
        rows = [pq.read_table(path, partitioning=None).to_pylist() for path in sorted(tmp_path.glob("shard=a/*"))]
        assert [len(part) for part in rows] == [2, 2, 1] and len(list(tmp_path.glob("shard=b/*"))) == 1
        assert [row["captions"][0] for part in rows for row in part] == LINES


def _config(*sets: str, rows: int = 20) -> RunConfig:
    small = ["resources.task_cpus=0.5", "resources.shuffle_partitions=2"]
    return load(sets=[*small, f"data.rows_per_block={rows}", "labels.min_count=2", "labels.wordnet=none", *sets])


def _build(run_uri: str, files: list[str], config: RunConfig, *, label: bool = False) -> dict[str, dict]:
    from ram_ray.data.caption_files import collect_captions
    from ram_ray.labels import stages
    from ram_ray.labels.parse_stage import parse
    from ram_ray.runtime.artifacts import Run

    results: dict[str, dict] = {}
    run = Run(
        run_uri,
        on_result=lambda result, reused: results.update({result.stage: {**result.model_dump(), "reused": reused}}),
    )
    captions = collect_captions(run, config, files)
    parsed = parse(run, config, captions)
    labels = stages.build_labels(run, config, parsed)
    if label:
        stages.label_captions(run, config, parsed, labels)
    return results


def test_captions_become_a_label_system_and_annotations(
    ray_cluster: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    files = []
    for source in ("a", "b"):
        (tmp_path / f"{source}.txt").write_text("\n".join([*(LINES * 10), ""]) + "\n")
        files.append(str(tmp_path / f"{source}.txt"))
    first = _build(str(tmp_path / "run"), files, _config(), label=True)
    assert first["captions"]["rows_in"] == 102 == first["captions"]["rows_out"] + first["captions"]["rejected"]
    assert first["parse"]["rows_out"] == first["labels"]["rows_out"] == 100
    system = json.loads((tmp_path / "run" / "label_system.json").read_text())
    labels = {label["name"]: label for label in system["labels"]}
    assert labels["dog"]["count"] == labels["cat"]["count"] == 40
    assert labels["couch"]["count"] == 40 and "sofa" in labels["couch"]["synonyms"]
    report = json.loads((tmp_path / "run" / "label_report.json").read_text())
    assert report["captions"] == {"a": 50, "b": 50}
    reported = {label["name"]: label for label in report["labels"]}
    assert reported["couch"]["sources"] == {"a": 20, "b": 20} and "a cat on a sofa" in reported["couch"]["examples"]
    assert "stop sign" in (tmp_path / "run" / "label_system.html").read_text()
    rows = [
        row
        for file in Path(first["labels"]["path"]).rglob("*.parquet")
        for row in pq.read_table(file, partitioning=None).to_pylist()
    ]
    assert len({row["key"] for row in rows}) == 100
    assert {source for row in rows for caption in row["captions"] for source in caption["sources"]} <= {
        "parsed",
        "matched",
        "both",
    }

    names = ("label_system.json", "label_report.json", "label_system.html")
    contents = {name: (tmp_path / "run" / name).read_bytes() for name in names}
    for manifest in (tmp_path / "run" / "annotations" / "label_system").glob("*.json"):
        manifest.unlink()
    rebuilt = _build(str(tmp_path / "run"), files[::-1], _config(rows=7))
    assert rebuilt["parse"]["reused"] and not rebuilt["label_system"]["reused"]
    assert {name: (tmp_path / "run" / name).read_bytes() for name in names} == contents

    (tmp_path / "run" / "label_edits.yaml").write_text("apart: [[couch, sofa]]\ndrop: [dog]\n")
    edited = _build(str(tmp_path / "run"), files, _config())
    assert [edited[name]["reused"] for name in ("captions", "parse", "label_system")] == [True, True, False]
    names = {label["name"] for label in json.loads((tmp_path / "run" / "label_system.json").read_text())["labels"]}
    assert {"couch", "sofa"} <= names and "dog" not in names

    (tmp_path / "run" / "label_edits.yaml").unlink()
    pruned = _build(str(tmp_path / "run"), files, _config("labels.min_name_count=21", "labels.min_count=21"))
    system = json.loads((tmp_path / "run" / "label_system.json").read_text())
    kept = {label["name"]: label["count"] for label in system["labels"]}
    assert pruned["label_system"]["names"] == first["label_system"]["names"] and "couch" not in kept
    assert 0 < pruned["label_system"]["rare_names"] < pruned["label_system"]["names"]
    assert kept["dog"] == kept["cat"] == 40, "20 captions mention a couch, 20 a sofa, 40 a dog"
    report = json.loads((tmp_path / "run" / "label_report.json").read_text())
    assert report["captions"] == {"a": 50, "b": 50}
    assert sum("names of fewer than 21 captions were not counted" in note for note in report["notes"]) == 1

    monkeypatch.setattr(evidence, "MAX_ROWS", 50)  # as if there were millions of images
    _build(str(tmp_path / "sampled"), files, _config())
    sampled = json.loads((tmp_path / "sampled" / "label_report.json").read_text())
    assert "matched and agreed captions, and examples, are those of 50.0% of the shards" in sampled["notes"]
    for label in sampled["labels"]:
        whole = reported[label["name"]]
        assert label["sources"] == whole["sources"], "names are counted in all captions"
        assert {word: [2 * count for count in counts] for word, counts in label["words"].items()} == whole["words"]
