"""Tag many images in batch: a folder of images, or shards, to Parquet and JSONL, on Ray Data.

    list (tasks) -> read and decode (tasks, CPU) -> Predictor (actor pool) -> write parts (tasks)

Images need no captions here. Every image gives one row, in any order; an image that cannot be read gives a row with
`error` set. The task that has a block writes it under a name made from the hash of its keys, so a task that Ray runs
again overwrites the same file, and no tags pass through the driver.
"""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Callable

import fsspec
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from pydantic import BaseModel, Field

from ram_ray.config import RunConfig
from ram_ray.data.unread import BESIDE, Unread
from ram_ray.inference.image_files import find_work
from ram_ray.models.bundle_config import read_config
from ram_ray.records import Reject, Row
from ram_ray.runtime.actors import model_actors
from ram_ray.runtime.storage import make_folder
from ram_ray.settings.data import DataConfig
from ram_ray.settings.runtime import ResourcesConfig

logger = logging.getLogger(__name__)

BLOCKS_PER_ACTOR = 4  # at least, so that all actors finish at about the same time

TAGGED = pa.schema(
    [
        ("key", pa.string()),
        ("tags", pa.list_(pa.string())),  # highest score first
        ("scores", pa.list_(pa.float32())),
        ("error", pa.string()),  # null if the image was tagged
    ]
)


class Query(BaseModel, frozen=True, extra="forbid"):
    """Which tags to return for each image, as in `Predictor.tag`."""

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
    """Tag all images of `data` into `out/part-*.parquet` and `out/part-*.jsonl`.

    Args:
        model: a bundle's folder, URI or Hugging Face id, readable from every node.
        data: folders of images, images, shards, or globs of them; paths or URIs.
        out: folder or URI; must hold no parts yet.
        query: which tags to return, and how many.
        config: of resources and data.
        backend: as in `Predictor.from_pretrained`.
        precision: as in `Predictor.from_pretrained`; None: bf16 on a GPU, else fp32.

    Returns:
        {"images": rows written, "errors": rows of them that could not be tagged}.

    Raises:
        ValueError: if there are no images, `out` has parts, or the cluster is too small for the resources asked.
    """
    import ray.data

    from ram_ray.runtime.progress import progress

    resources = config.resources
    size = read_config(model).image_size  # only the actors load the weights
    unread = Unread()
    work = find_work(data, shard_folders=config.data.shard_folders, layout=config.data.layout, unread=unread)
    if unread:
        logger.warning("not read: %s", unread)
    fs, root = fsspec.url_to_fs(out)
    if fs.glob(f"{root}/part-*"):
        raise ValueError(f"{out} already holds tagged parts; name another folder or empty it")
    make_folder(fs, root)
    cpus = resources.task_cpus
    items = ray.data.from_items([{"work": json.dumps(item)} for item in work], override_num_blocks=len(work))
    rows = items.flat_map(Lister(config.data), num_cpus=cpus).materialize()
    num_images = rows.count()  # rows are small: they locate images and hold no pixels
    if not num_images:
        raise ValueError(f"no images in {', '.join(data)}")
    rows_per_block = min(config.data.rows_per_block, -(-num_images // (BLOCKS_PER_ACTOR * resources.most_actors)))
    rows = rows.repartition(target_num_rows_per_block=rows_per_block).materialize()  # by tasks that ask for a whole CPU
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
    num_tagged, num_errors = (sum(int(part[name]) for part in counts) for name in ("images", "errors"))
    assert num_tagged == num_images, f"{num_images} images went in but {num_tagged} came out"
    return {"images": num_tagged, "errors": num_errors}


class Lister:
    """A task: turns an item of work into rows that locate images.

    Args:
        config: section `data`, with the limits of images.
    """

    def __init__(self, config: DataConfig) -> None:
        self._config = config

    def __call__(self, row: Row) -> list[Row]:
        """List the images of an item of work.

        Args:
            row: `work`, an item of `find_work` as JSON.

        Returns:
            Rows with key, uri, offset, nbytes and error ("" for none).
        """
        from ram_ray.data.shards import Shard, scan_shard

        item = json.loads(row["work"])
        if item["shard"] is None:
            return list(item["rows"])
        shard, config = Shard(*item["shard"]), self._config
        samples = scan_shard(
            shard, limits=config.limits(min_side=1), check="header", layout=config.layout, needs_text=False
        )
        return [
            {
                **{name: sample[name] for name in ("key", "uri", "offset", "nbytes")},
                # An image that was read has a size: what is wrong with its texts does not matter here.
                "error": "" if sample["width"] else f"{sample['reason']}: {sample['detail']}",
            }
            for sample in samples
            if not sample["key"].startswith(f"{shard.name}/#{BESIDE}")
        ]


class Decoder:
    """A task: reads and decodes images to pixels of the model's size, or to an error.

    Args:
        config: section `data`, with the limits of images.
        size: S, pixels a side.
    """

    def __init__(self, config: DataConfig, *, size: int) -> None:
        self._config, self._size = config, size

    def __call__(self, batch: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        """Read and decode the images of a batch.

        Args:
            batch: columns key, uri, offset, nbytes and error ("" for none).

        Returns:
            Columns key, error, and pixels uint8 (B, S, S, 3), zeros for an image with an error.
        """
        from ram_ray.data.fetch import read_bytes

        errors = batch["error"].tolist()
        readable = [index for index, error in enumerate(errors) if not error]
        columns = [batch[name][readable].tolist() for name in ("uri", "offset", "nbytes")]
        size = self._size
        pixels = np.zeros((len(errors), size, size, 3), dtype=np.uint8)
        for index, data in zip(readable, read_bytes(*columns), strict=True):
            try:
                pixels[index] = self._decode(data)
            except Reject as reject:
                errors[index] = str(reject)
        return {"key": batch["key"], "pixels": pixels, "error": np.array(errors)}

    def _decode(self, data: bytes | Reject) -> np.ndarray:
        from ram_ray.data.preprocess import to_square

        if isinstance(data, Reject):
            raise data
        return to_square(data, size=self._size, limits=self._config.limits(min_side=1))


class TagActor:
    """An actor: holds one model and tags pixels. Rows with an error get no tags.

    Args:
        model: path, URI or id of a bundle.
        query: which tags to return, and how many.
        resources: GPUs and threads of an actor.
        backend: as in `Predictor.from_pretrained`.
        precision: None: bf16 on a GPU, else fp32.
        add: called with the number of images after each batch.
    """

    def __init__(
        self,
        model: str,
        query: Query,
        resources: ResourcesConfig,
        backend: str = "torch",
        precision: str | None = None,
        *,
        add: Callable[[int], None] | None = None,
    ) -> None:
        from ram_ray.inference.predictor import Predictor

        use_gpu = resources.actor_gpus > 0
        self._query, self._add = query, add
        self._predictor = Predictor.from_pretrained(
            model,
            device="cuda" if use_gpu else "cpu",
            precision=precision or ("bf16" if use_gpu else "fp32"),
            backend=backend,
            threads=None if use_gpu else resources.threads,
        )

    def __call__(self, batch: dict[str, np.ndarray]) -> pa.Table:
        """Tag a batch.

        Args:
            batch: columns key, error ("" for none) and pixels uint8 (B, S, S, 3).

        Returns:
            TAGGED rows; those with an error have no tags.
        """
        errors = [error or None for error in batch["error"].tolist()]
        decoded = [index for index, error in enumerate(errors) if error is None]
        images = batch["pixels"][decoded]
        query = self._query
        own_tags = list(query.tags) if query.tags else None
        results = self._predictor.tag(images, top_k=query.top_k, threshold=query.threshold, tags=own_tags)
        tags: list[list[str]] = [[] for _ in errors]
        scores: list[list[float]] = [[] for _ in errors]
        for index, result in zip(decoded, results, strict=True):
            tags[index] = [score.tag for score in result]
            scores[index] = [score.score for score in result]
        if self._add:
            self._add(len(errors))
        columns = {"key": batch["key"].tolist(), "tags": tags, "scores": scores, "error": errors}
        return pa.Table.from_pydict(columns, schema=TAGGED)


class Writer:
    """A task: writes a block as a Parquet part and a JSONL part with the same rows.

    Args:
        out: path or URI of an existing folder.
    """

    def __init__(self, out: str) -> None:
        self._out = out.rstrip("/")

    def __call__(self, batch: pa.Table) -> pa.Table:
        """Write a batch as .parquet and .jsonl.

        Args:
            batch: TAGGED rows.

        Returns:
            One row with the number of `images` and of `errors`.
        """
        table = batch.select(TAGGED.names).cast(TAGGED)
        rows = table.to_pylist()
        name = f"{self._out}/part-{hashlib.sha256(json.dumps([row['key'] for row in rows]).encode()).hexdigest()[:16]}"
        with fsspec.open(f"{name}.parquet", "wb") as file:
            pq.write_table(table, file)
        with fsspec.open(f"{name}.jsonl", "w", encoding="utf-8") as file:
            for row in rows:
                row["scores"] = [round(score, 5) for score in row["scores"]]
                file.write(json.dumps(row, ensure_ascii=False) + "\n")
        num_errors = sum(row["error"] is not None for row in rows)
        return pa.table({"images": [len(rows)], "errors": [num_errors]})
