"""The promised command on the box's bucket, and what a run's folder there says of it."""

from __future__ import annotations

import io
import json
from dataclasses import dataclass
from fnmatch import fnmatch
from typing import Any

import pyarrow.parquet as pq

from tests.box.cluster import BUCKET, Box
from tests.box.corpus import SOURCES

RUN_TIMEOUT_S = 1500  # of a whole run
DATA = [f"s3://{BUCKET}/data/{source}" for source in SOURCES]
HELD_OUT = f"s3://{BUCKET}/data/eval"
# Folders of the first stages, in the order in which a run makes them.
ORDER = (
    *("shards", "shards_eval", "vocabulary", "represent", "parse", "label_system", "labels", "parse_eval"),
    *("labels_eval", "pretrain", "evaluate_pretrain", "scores_1", "generate_1", "regions_1", "removals_1", "clean_1"),
)
COUNTS = ("rows_in", "rows_out", "rejected", "tags", "tp", "fp", "fn", "added", "steps", "labels", "system_version")


def command(job: str, run: str, *options: str, held_out: bool = True) -> list[str]:
    """`python jobs/<job>.py` with the preset in small, over the whole corpus; models are scored if `held_out`."""
    preset = ["--preset", "ram_4m", "--config", "tests/box/small.yaml"]
    scored = ["--eval", HELD_OUT] if held_out else []
    return ["python", f"jobs/{job}.py", *preset, "--data", *DATA, *scored, "--run", uri(run), *options]


def uri(run: str) -> str:
    """The folder of the run `run`."""
    return f"s3://{BUCKET}/{run}"


@dataclass(frozen=True)
class RunFolder:
    """A run's folder in the bucket."""

    box: Box
    run: str

    def files(self, *patterns: str) -> list[str]:
        """Paths inside the bucket that a glob inside the run matches."""
        fs = self.box.fs
        return sorted(path for pattern in patterns for path in fs.glob(f"{BUCKET}/{self.run}/{pattern}"))

    def has(self, pattern: str) -> bool:
        """Whether an object of the run matches: one request, where `files` sends one for each folder."""
        fixed = pattern.partition("*")[0]
        found = self.box.fs.find(f"{BUCKET}/{self.run}/{fixed}")
        return any(fnmatch(path, f"{BUCKET}/{self.run}/{pattern}") for path in found)

    def json(self, path: str) -> Any:
        """A JSON file of the run."""
        return json.loads(self.box.fs.cat_file(f"{BUCKET}/{self.run}/{path}"))

    def manifests(self) -> dict[str, dict[str, Any]]:
        """Manifests by stage."""
        fs = self.box.fs
        trees = [json.loads(fs.cat_file(path)) for path in self.files("*/*/*.json")]
        return {tree["stage"]: tree for tree in trees if isinstance(tree, dict) and "digest" in tree}

    def counts(self) -> dict[str, dict[str, Any]]:
        """What each stage counted, less what differs from run to run (seconds)."""
        return {
            name: {count: tree[count] for count in COUNTS if count in tree} for name, tree in self.manifests().items()
        }

    def rows(self, folder: str, columns: list[str]) -> list[dict[str, Any]]:
        """Rows of all Parquet files below a folder of the run."""
        fs, rows = self.box.fs, []
        for path in self.files(f"{folder}/**/*.parquet"):
            data = io.BytesIO(fs.cat_file(path))
            rows += pq.read_table(data, columns=columns, partitioning=None).to_pylist()
        return rows

    def rejected(self) -> list[tuple[str, str, str]]:
        """(stage, key, reason) of every rejected row, sorted."""
        rows = self.rows("rejected", ["stage", "key", "reason"])
        return sorted((row["stage"], row["key"], row["reason"]) for row in rows)

    def removed(self, stage: str) -> list[str]:
        """Every removal that a cleaned stage lists, as text; without the tag's probability."""
        rows = self.rows(f"annotations/{stage}", ["key", "removed"])
        return sorted(
            f"{row['key']} {removal['id']} {removal['reason']} {removal['round']}"
            for row in rows
            for removal in row["removed"] or []
        )

    def objects(self) -> dict[str, tuple[str, Any]]:
        """ETag and time of every object of the run, less the empty ones that stand for folders."""
        infos = self.box.fs.find(f"{BUCKET}/{self.run}", detail=True)
        return {path: (info["ETag"], info["LastModified"]) for path, info in infos.items() if not path.endswith("/")}

    def copy_before(self, first: str, target: str) -> RunFolder:
        """Another run in which the stages of `ORDER` before `first` are done: their folders and manifests."""
        fs, prefix = self.box.fs, f"{BUCKET}/{self.run}/"
        for name in ORDER[: ORDER.index(first)]:
            for path in self.files(f"*/{name}/**"):
                if fs.isfile(path):
                    fs.copy(path, f"{BUCKET}/{target}/{path.removeprefix(prefix)}")
        return RunFolder(self.box, target)
