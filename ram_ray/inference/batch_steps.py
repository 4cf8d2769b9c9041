"""The steps of batch tagging, each a function of a batch: decode, tag, write. `batch` puts them together."""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Callable
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from ram_ray.data.tagged_parts import group_of, tagged_schema, write_part
from ram_ray.inference.batch_query import FindBoxes, Query, RowSink
from ram_ray.inference.listing import file_version, is_image
from ram_ray.records import Reject, Row
from ram_ray.runtime.location import locate
from ram_ray.settings.data import DataConfig
from ram_ray.settings.runtime import ResourcesConfig

if TYPE_CHECKING:
    from torch import Tensor

    from ram_ray.inference.predictor import Predictor
    from ram_ray.inference.tag_score import TagScore

MAX_EXAMPLES = 5  # names of files that are no images, of each part
_PASSED_ON = ("key", "uri", "member", "version")


class Decoder:
    """A task: reads and decodes images to pixels of the model's size, or to an error.

    Args:
        config: section `data`, with the limits of images.
        size: S, pixels a side.
    """

    def __init__(self, config: DataConfig, *, size: int) -> None:
        self._limits, self._size = config.limits(min_side=1), size

    def __call__(self, batch: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        """Read and decode the images of a batch.

        Args:
            batch: columns of `listing.LISTED`.

        Returns:
            Columns key, uri, member, version; error ("" for none), is_image, width and height (0 for an error), and
            pixels uint8 (B, S, S, 3), zeros for an image with an error.
        """
        from ram_ray.data.fetch import read_bytes

        errors = batch["error"].tolist()
        readable = [index for index, error in enumerate(errors) if not error]
        columns = [batch[name][readable].tolist() for name in ("uri", "offset", "nbytes")]
        pixels = np.zeros((len(errors), self._size, self._size, 3), dtype=np.uint8)
        sizes = np.zeros((len(errors), 2), dtype=np.int32)
        images = np.ones(len(errors), dtype=bool)
        for index, data in zip(readable, read_bytes(*columns), strict=True):
            try:
                pixels[index], sizes[index] = self._decode(data)
            except Reject as reject:
                errors[index] = str(reject)
                if isinstance(data, bytes) and not batch["member"][index]:  # a sample of a shard has a row
                    images[index] = is_image(data)
        return {
            **{name: batch[name] for name in _PASSED_ON},
            "error": np.array(errors),
            "is_image": images,
            "width": sizes[:, 0],
            "height": sizes[:, 1],
            "pixels": pixels,
        }

    def _decode(self, data: bytes | Reject) -> tuple[np.ndarray, tuple[int, int]]:
        from ram_ray.data.colours import size_as_seen
        from ram_ray.data.images import open_image
        from ram_ray.data.preprocess import to_square

        if isinstance(data, Reject):
            raise data
        image = open_image(data, limits=self._limits)
        return to_square(image, size=self._size), size_as_seen(image)


class TagActor:
    """An actor: holds one model and tags pixels. Rows with an error get no tags.

    Args:
        model: path, URI or id of a bundle.
        query: what to write of each image.
        resources: GPUs and threads of an actor.
        backend: as in `Predictor.from_pretrained`.
        precision: None: bf16 on a GPU, else fp32.
        box_finder: makes what finds boxes.
        add: called with the number of images after each batch.
    """

    def __init__(
        self,
        model: str,
        query: Query,
        resources: ResourcesConfig,
        backend: str = "torch",
        precision: str | None = None,
        box_finder: Callable[[Predictor], FindBoxes] | None = None,
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
        self._find_boxes = box_finder(self._predictor) if box_finder and query.boxes else None

    def __call__(self, batch: dict[str, np.ndarray]) -> pa.Table:
        """Tag a batch.

        Args:
            batch: columns of `Decoder`.

        Returns:
            Rows of `tagged_schema` with the column `is_image`; those with an error have no tags.
        """
        query = self._query
        errors = [error or None for error in batch["error"].tolist()]
        decoded = [index for index, error in enumerate(errors) if error is None]
        tokens = self._predictor.encode(batch["pixels"][decoded])
        own_tags = list(query.tags) if query.tags else None
        scores = self._predictor.tag(
            tokens, top_k=query.top_k, threshold=query.threshold, tags=own_tags, rules=query.rules
        )
        columns: dict[str, list] = {name: [None] * len(errors) for name in ("width", "height", *query.extras)}
        columns |= {"tags": [[] for _ in errors], "scores": [[] for _ in errors], "error": errors}
        results: dict[str, list] = {"tags": [[score.tag for score in row] for row in scores]}
        results["scores"] = [[score.score for score in row] for row in scores]
        results |= {name: batch[name][decoded].tolist() for name in ("width", "height")}
        results |= self._extras(tokens, scores)
        for name, values in results.items():
            for index, value in zip(decoded, values, strict=True):
                columns[name][index] = value
        if self._add:
            self._add(len(errors))
        columns |= {name: batch[name].tolist() for name in _PASSED_ON}
        table = pa.Table.from_pydict(columns, schema=tagged_schema(query.extras))
        return table.append_column("is_image", pa.array(batch["is_image"]))

    def _extras(self, tokens: Tensor, scores: list[list[TagScore]]) -> dict[str, list]:
        query = self._query
        results: dict[str, list] = {}
        if query.caption:
            results["caption"] = self._predictor.caption(tokens)
        if query.boxes:
            assert self._find_boxes, "boxes need what finds them"
            results["boxes"] = self._find_boxes(tokens, scores)
        if query.embedding:
            mean = tokens[:, 0].float()
            results["embedding"] = (mean / mean.norm(dim=-1, keepdim=True).clamp(min=1e-12)).cpu().tolist()
        return results


class Writer:
    """A task: writes a block as a Parquet part and a JSONL part with the same rows.

    Args:
        out: path or URI of an existing folder.
        extras: columns of the query.
        sink: gets the rows before their part is written.
    """

    def __init__(self, out: str, *, extras: tuple[str, ...] = (), sink: RowSink | None = None) -> None:
        self._out, self._extras, self._sink = out.rstrip("/"), extras, sink

    def __call__(self, batch: pa.Table) -> pa.Table:
        """Write a batch as .parquet and .jsonl.

        Args:
            batch: rows of `TagActor`.

        Returns:
            One row with `part`, JSON: the number of `rows` and of `num_not_images`, these as `not_images` by folder and
            extension, `examples` of their names, and what the sink has `written`.
        """
        others = batch.filter(pc.invert(batch["is_image"]))["uri"].to_pylist()
        table = batch.filter(batch["is_image"]).select(tagged_schema(self._extras).names)
        table = table.cast(tagged_schema(self._extras))
        written: Counter[str] = Counter()
        if len(table):
            name = hashlib.sha256(json.dumps(table["key"].to_pylist()).encode()).hexdigest()[:16]
            if self._sink:
                written = self._sink(table.to_pylist())
                if self._sink.changes_images:
                    table = _with_new_versions(table)
            write_part(table, self._out, f"part-{name}")
        report = {
            "rows": len(table),
            "num_not_images": len(others),
            "not_images": [[*group, count] for group, count in Counter(map(group_of, others)).items()],
            "examples": others[:MAX_EXAMPLES],
            "written": dict(written),
        }
        return pa.table({"part": [json.dumps(report)]})


def _with_new_versions(table: pa.Table) -> pa.Table:
    """The rows with the versions that their files have now, after a sink wrote into them."""
    versions = [_version(row) for row in table.select(["uri", "member", "version"]).to_pylist()]
    return table.set_column(table.schema.get_field_index("version"), "version", pa.array(versions, pa.string()))


def _version(row: Row) -> str:
    if row["member"]:
        return row["version"]
    fs, path = locate(row["uri"])
    return file_version(fs.info(path))
