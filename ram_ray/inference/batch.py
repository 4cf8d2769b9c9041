"""Tag many pictures in batch: a folder of pictures, or shards, to Parquet and JSONL, on Ray Data.

    list (tasks) -> read and decode (tasks, CPU) -> Predictor (actor pool) -> write parts (tasks)

Pictures need no captions here. Every picture gives one row, in any order; one that cannot be read gives a row
with `error` set. Each part is written by the task that holds it under a name that its keys give, so a task
that Ray runs again writes the same file again, and nothing passes through the driver.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator
from typing import Any

import fsspec
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from pydantic import BaseModel, Field

from ram_ray.config import RunConfig
from ram_ray.models.bundle_config import read_config
from ram_ray.records import Reject
from ram_ray.runtime.actors import model_actors
from ram_ray.runtime.storage import make_folder
from ram_ray.settings.data import DataConfig
from ram_ray.settings.runtime import ResourcesConfig

IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png", ".webp", ".gif", ".bmp")
FILES_PER_BLOCK = 5000  # plain pictures that one row of work lists
BLOCKS_PER_ACTOR = 4  # at least, so that no actor has done its share long before the others
# What is wrong with a row's text is no matter here.
_ABOUT_TEXT = ("no_caption", "bad_metadata", "duplicate_key")

TAGGED = pa.schema(
    [
        ("key", pa.string()),
        ("tags", pa.list_(pa.string())),  # highest score first
        ("scores", pa.list_(pa.float32())),
        ("error", pa.string()),  # null where the picture was tagged
    ]
)


class Query(BaseModel, frozen=True, extra="forbid"):
    """What is asked of every picture."""

    top_k: int | None = Field(None, ge=1)
    threshold: float | None = Field(None, ge=0, le=1)
    tags: tuple[str, ...] | None = Field(None, min_length=1)


def tag_to_folder(
    model: str,
    data: list[str],
    out: str,
    *,
    query: Query,
    config: RunConfig,
    backend: str = "torch",
    precision: str | None = None,
) -> dict[str, int]:
    """Tag all pictures that `data` names into `out/part-*.parquet` and `out/part-*.jsonl`.

    Args:
        model: a bundle's folder, URI or Hugging Face id, readable from every node.
        data: folders of pictures, pictures, shards, or globs of them; paths or URIs.
        out: folder or URI; must hold no parts yet.
        query: which tags are wanted, and how many.
        config: of resources and data.
        backend: as in `Predictor.from_pretrained`.
        precision: as in `Predictor.from_pretrained`; None: bf16 on a GPU, else fp32.

    Returns:
        {"images": rows written, "errors": rows of them that could not be tagged}.

    Raises:
        ValueError: if there are no pictures, `out` is used, or the cluster is too small for the resources asked.
    """
    import ray.data

    from ram_ray.runtime.progress import progress

    resources = config.resources
    size = read_config(model).image_size  # the weights are the actors' matter
    work = find_work(data, shard_folders=config.data.shard_folders)
    fs, root = fsspec.url_to_fs(out)
    if fs.glob(f"{root}/part-*"):
        raise ValueError(f"{out} already holds tagged parts; name another folder or empty it")
    make_folder(fs, root)
    cpus = resources.task_cpus
    pieces = ray.data.from_items([{"work": json.dumps(one)} for one in work], override_num_blocks=len(work))
    rows = pieces.flat_map(Lister(config.data), num_cpus=cpus).materialize()
    num_images = rows.count()  # rows are small: places, not pictures
    if not num_images:
        raise ValueError(f"no pictures among {', '.join(data)}")
    per_block = min(config.data.rows_per_block, -(-num_images // (BLOCKS_PER_ACTOR * resources.most_actors)))
    rows = rows.repartition(target_num_rows_per_block=per_block).materialize()  # by tasks that ask for a whole CPU
    with progress("tag", total=num_images) as add:
        tagged = rows.map_batches(Decoder(config.data, size=size), batch_size=None, num_cpus=cpus).map_batches(
            TagActor,
            fn_constructor_args=(model, query, resources, backend, precision),
            fn_constructor_kwargs={"add": add},
            batch_size=config.evaluate.batch_size,
            **model_actors(resources),
        )
        parts = tagged.map_batches(Writer(out), batch_size=None, batch_format="pyarrow", num_cpus=cpus)
        counts = list(parts.iter_rows())  # one small row a part
    images, errors = (sum(int(part[name]) for part in counts) for name in ("images", "errors"))
    assert images == num_images, f"{num_images} pictures went in but {images} came out"
    return {"images": images, "errors": errors}


def find_work(data: list[str], *, shard_folders: int = 1) -> list[dict[str, Any]]:
    """Pieces of work for `Lister`: shards, and plain pictures with their sizes.

    Args:
        data: paths, URIs or globs of pictures, folders and shards.
        shard_folders: how many of the folders above a shard are a part of its name.

    Raises:
        ValueError: if a path or glob matches nothing, or holds neither pictures nor shards; if two shards share a name.
    """
    from ram_ray.data.shards import make_shards, recognise

    files: dict[str, tuple[str, int]] = {}  # uri: (key, bytes)
    shards: dict[str, Any] = {}
    for pattern in data:
        fs, path = fsspec.url_to_fs(pattern)
        found = 0
        for root, infos in _matches(fs, path):
            for info in infos:
                if info["name"].lower().endswith(IMAGE_SUFFIXES):
                    key = info["name"].removeprefix(root).lstrip("/")
                    files[_uri(fs, pattern, info["name"])] = key, int(info["size"])
                    found += 1
            archives = [info for info in infos if info["name"].endswith((".tar", ".parquet"))]
            for name, format, info in recognise(fs, archives, named=False, nested=False):
                shards[_uri(fs, pattern, name)] = format, info
                found += 1
        if not found:
            raise ValueError(f"{pattern}: no pictures ({', '.join(IMAGE_SUFFIXES)}) and no .tar or .parquet there")
    used: set[str] = set()
    rows = []
    for uri, (key, size) in files.items():
        unique = uri if key in used else key
        used.add(unique)
        rows.append({"key": unique, "uri": uri, "offset": 0, "nbytes": size, "error": ""})
    work = [{"shard": None, "rows": rows[i : i + FILES_PER_BLOCK]} for i in range(0, len(rows), FILES_PER_BLOCK)]
    listed = make_shards(shards, folders=shard_folders)
    return work + [{"shard": (one.name, one.uri, one.format), "rows": None} for one in listed]


def _matches(fs: Any, path: str) -> Iterator[tuple[str, list[dict[str, Any]]]]:
    """For what a path or glob matches: the folder above it, and fsspec's infos of the files in it, or of itself."""
    try:
        matches = {path: fs.info(path)}
    except FileNotFoundError:
        matches = fs.glob(path, detail=True)
    for name, info in sorted(matches.items()):
        inside = fs.find(name, detail=True) if info["type"] == "directory" else {name: info}
        yield name.rstrip("/").rpartition("/")[0], [{**one, "name": file} for file, one in sorted(inside.items())]


def _uri(fs: Any, pattern: str, path: str) -> str:
    return fs.unstrip_protocol(path) if "://" in pattern else path


class Lister:
    """A task: one piece of work to rows of `key, uri, offset, nbytes, error`; `error` is "" where there is none."""

    def __init__(self, config: DataConfig) -> None:
        self._config = config

    def __call__(self, piece: dict[str, Any]) -> list[dict[str, Any]]:
        """Rows with key, uri, offset, nbytes and error ("" for none) of one piece of work."""
        from ram_ray.data.shards import Shard, scan_shard

        work = json.loads(piece["work"])
        if work["shard"] is None:
            return list(work["rows"])
        shard = Shard(*work["shard"])
        rows = scan_shard(shard, limits=self._config.limits(min_side=1), check="header")
        return [
            {
                **{name: row[name] for name in ("key", "uri", "offset", "nbytes")},
                "error": "" if row["reason"] in (None, *_ABOUT_TEXT) else f"{row['reason']}: {row['detail']}",
            }
            for row in rows
            if row["nbytes"] or row["reason"] not in _ABOUT_TEXT
        ]


class Decoder:
    """A task: rows of places to pixels of the model's size, uint8 (B, size, size, 3), or an error a row.

    Args:
        config: section `data`, with the limits of pictures.
        size: S, pixels a side.
    """

    def __init__(self, config: DataConfig, *, size: int) -> None:
        self._config, self._size = config, size

    def __call__(self, batch: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        """Read and decode the pictures of a batch.

        Args:
            batch: columns key, uri, offset, nbytes and error ("" for none).

        Returns:
            Columns key, error, and pixels uint8 (B, S, S, 3), zeros for a picture with an error.
        """
        from ram_ray.data.fetch import read_bytes

        errors = batch["error"].tolist()
        wanted = [row for row, error in enumerate(errors) if not error]
        places = [batch[name][wanted].tolist() for name in ("uri", "offset", "nbytes")]
        size = self._size
        pixels = np.zeros((len(errors), size, size, 3), dtype=np.uint8)
        for row, data in zip(wanted, read_bytes(*places), strict=True):
            try:
                pixels[row] = self._decode(data)
            except Reject as reject:
                errors[row] = str(reject)
        return {"key": batch["key"], "pixels": pixels, "error": np.array(errors)}

    def _decode(self, data: bytes | Reject) -> np.ndarray:
        from ram_ray.data.preprocess import to_square

        if isinstance(data, Reject):
            raise data
        return to_square(data, size=self._size, limits=self._config.limits(min_side=1))


class TagActor:
    """An actor: holds one model; pixels to tags and scores. Rows with an error pass through.

    Args:
        model: path, URI or id of a bundle.
        query: which tags are wanted, and how many.
        resources: GPUs and threads of an actor.
        backend: as in `Predictor.from_pretrained`.
        precision: None: bf16 on a GPU, else fp32.
        add: told how many pictures are done.
    """

    def __init__(
        self,
        model: str,
        query: Query,
        resources: ResourcesConfig,
        backend: str = "torch",
        precision: str | None = None,
        *,
        add: Callable[[int], None] | None = None,  # told how many pictures are done
    ) -> None:
        from ram_ray.inference.predictor import Predictor

        gpu = resources.actor_gpus > 0
        self._query, self._add = query, add
        self._predictor = Predictor.from_pretrained(
            model,
            device="cuda" if gpu else "cpu",
            precision=precision or ("bf16" if gpu else "fp32"),
            backend=backend,
            threads=None if gpu else resources.threads,
        )

    def __call__(self, batch: dict[str, np.ndarray]) -> pa.Table:
        """Tag a batch.

        Args:
            batch: columns key, error ("" for none) and pixels uint8 (B, S, S, 3).

        Returns:
            TAGGED rows; those with an error have no tags.
        """
        errors = [error or None for error in batch["error"].tolist()]
        good = [row for row, error in enumerate(errors) if error is None]
        images = batch["pixels"][good]
        own = list(self._query.tags) if self._query.tags else None
        found = self._predictor.tag(images, top_k=self._query.top_k, threshold=self._query.threshold, tags=own)
        tags: list[list[str]] = [[] for _ in errors]
        scores: list[list[float]] = [[] for _ in errors]
        for row, result in zip(good, found, strict=True):
            tags[row] = [one.tag for one in result]
            scores[row] = [one.score for one in result]
        if self._add:
            self._add(len(errors))
        columns = {"key": batch["key"].tolist(), "tags": tags, "scores": scores, "error": errors}
        return pa.Table.from_pydict(columns, schema=TAGGED)


class Writer:
    """A task: one block to one Parquet part and one JSONL part of the same rows.

    Args:
        out: folder or URI, there already.
    """

    def __init__(self, out: str) -> None:
        self._out = out.rstrip("/")

    def __call__(self, batch: pa.Table) -> pa.Table:
        """Write a batch of TAGGED rows as .parquet and .jsonl, and return one row with its counts."""
        table = batch.select(TAGGED.names).cast(TAGGED)
        rows = table.to_pylist()
        name = f"{self._out}/part-{hashlib.sha256(json.dumps([row['key'] for row in rows]).encode()).hexdigest()[:16]}"
        with fsspec.open(f"{name}.parquet", "wb") as file:
            pq.write_table(table, file)
        with fsspec.open(f"{name}.jsonl", "w", encoding="utf-8") as file:
            for row in rows:
                row["scores"] = [round(score, 5) for score in row["scores"]]
                file.write(json.dumps(row, ensure_ascii=False) + "\n")
        errors = sum(row["error"] is not None for row in rows)
        return pa.table({"images": [len(rows)], "errors": [errors]})
