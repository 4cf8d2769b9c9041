"""The input of training: a stream of decoded crops of the training table's rows, in the order of training (`order`).

Row g of the run (all epochs in sequence) is row i = g % batch_size of step g // batch_size, and belongs to worker
i % workers. So the step alone is the data position of a checkpoint. All workers have micro batches of one size; padding
rows of weight 0 fill them up (`micro_batches.split_step`).

Images are read by byte range from the files of the data; only annotations are shuffled.

Letters: B rows of a batch, V views of a row, S pixels a side, N tags, T tokens.
"""

from __future__ import annotations

import math
import random
from abc import ABC, abstractmethod
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa

from ram_ray.data.images import Limits
from ram_ray.models.targets import UNKNOWN
from ram_ray.records import Reject
from ram_ray.runtime.cluster import configure_data
from ram_ray.settings.training import TrainConfig
from ram_ray.training.caption_text import clean_caption, load_tokenizer
from ram_ray.training.feed_blocks import fit_into_store
from ram_ray.training.image_columns import (
    FETCHED_BYTES,
    Contents,
    make_crops,
    read_contents,
    split_by_size,
    unpack_tokens,
)
from ram_ray.training.micro_batches import split_step
from ram_ray.training.order import EpochOrder, Span, Table, list_spans, shuffle_neighbours
from ram_ray.training.rows import ROWS
from ram_ray.training.systematic_sample import systematic_sample
from ram_ray.training.text_column import write_texts

if TYPE_CHECKING:
    import ray.data

READS_AT_ONCE = 16  # buckets
DECODED_ROWS = 256  # of a task, where it does not read them itself
EMPTY = pa.schema([field for field in ROWS if field.name != "bucket"]).empty_table()


@dataclass(frozen=True)
class Feed(ABC):
    """Everything that a decode task needs to make batches of a part of the table; subclasses add the targets."""

    table: Table
    config: TrainConfig
    seed: int
    limits: Limits
    tokenizer: str  # folder with tokenizer.json
    rank: int = 0
    world_size: int = 1
    first_row: int = 0
    end_row: int = 0

    @property
    def micro_batch_layout(self) -> tuple[int, int]:
        """Rows of a micro batch, and micro batches of a step."""
        return split_step(self.config.batch_size, workers=self.world_size, limit=self.config.micro_batch_size)

    def read(self, span: Span) -> pa.Table:
        """Read this worker's rows of a span, in the order of training; a bucket is read once.

        Args:
            span: the rows.

        Returns:
            Rows of the table with `epoch` and `is_padding`: True for a row that only fills up a micro batch.
        """
        order, start = EpochOrder(self.table, self.seed, span.epoch), span.epoch * self.table.num_rows
        rows = np.arange(max(start + span.first, self.first_row), min(start + span.end, self.end_row))
        mine, is_padding = self.own_rows(rows)
        visits, places = order.find(mine - start)

        def take(visit: int) -> pa.Table:
            bucket = order.visits[visit]
            table = self.table.read(bucket)
            name = f"{self.seed}/{span.epoch}/{bucket}"
            weighted = len(table) and table["weight"].null_count == 0
            shuffled = (
                systematic_sample(table["weight"].to_pylist(), seed=f"{name}/draw")
                if weighted
                else list(range(len(table)))
            )
            if self.table.keeps_neighbours:
                shuffled = shuffle_neighbours(shuffled, table, seed=name)
            else:
                random.Random(name).shuffle(shuffled)
            return table.take(pa.array(np.array(shuffled)[places[visits == visit]], pa.int64()))

        wanted = np.unique(visits).tolist()
        with ThreadPoolExecutor(max(1, min(READS_AT_ONCE, len(wanted)))) as pool:
            parts = list(pool.map(take, wanted))
        table = pa.concat_tables(parts) if parts else EMPTY
        table = table.take(pa.array(np.argsort(np.argsort(visits, kind="stable")), pa.int64()))
        table = table.append_column("is_padding", pa.array(is_padding, pa.bool_()))
        return table.append_column("epoch", pa.array(np.full(len(table), span.epoch), pa.int64()))

    def own_rows(self, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Select this worker's rows, with those that fill up its micro batches behind the last row of each step.

        Args:
            rows: consecutive rows of the run.

        Returns:
            The selected rows, int64 (n,); and bool (n,), True for padding: the worker's last row of the step that is
            here, or that of the step.
        """
        step, (micro_batch, micro_batches) = self.config.batch_size, self.micro_batch_layout
        own = rows[rows % step % self.world_size == self.rank]
        num_padding = micro_batch * micro_batches - len(range(self.rank, step, self.world_size))
        ends = rows[rows % step == step - 1] if num_padding else rows[:0]
        before = np.searchsorted(own, ends, side="right")  # own rows up to the end of each step
        last = own[before - 1] if len(own) else ends
        padding = np.where((before > 0) & (last > ends - step), last, ends)
        selected = np.insert(own, np.repeat(before, num_padding), np.repeat(padding, num_padding))
        is_padding = np.insert(np.zeros(len(own), bool), np.repeat(before, num_padding), True)
        return selected, is_padding

    def batches(self, rows: list[dict]) -> Iterator[dict[str, np.ndarray]]:
        """Make the micro batches of rows; images of several of them are fetched together.

        Args:
            rows: of the training table.

        Yields:
            A batch, see `batch`; the last may have fewer rows than a micro batch.
        """
        size, _ = self.micro_batch_layout
        micro_batches = [rows[start : start + size] for start in range(0, len(rows), size)]
        locations = [[self.views(row) for row in batch] for batch in micro_batches]
        nbytes = [sum(location["nbytes"] for views in batch for location in views) for batch in locations]
        for group in split_by_size(nbytes, limit=FETCHED_BYTES):
            contents = iter(read_contents([views for index in group for views in locations[index]]))
            for index in group:
                yield self.batch(micro_batches[index], [next(contents) for _ in micro_batches[index]])

    def batch(self, rows: list[dict], contents: Contents | None = None) -> dict[str, np.ndarray]:
        """Make the batch of rows.

        Args:
            rows: B rows of the training table.
            contents: of the images of each row, see `read_contents`; None: they are read.

        Returns:
            The columns of `image_columns`; weight float32 (B,), 0 for a row that must not be learned;
            key, shard, reason and detail (B,) strings, with an empty reason for a usable row; and the columns of
            `target_columns`. A row with a reason has weight 0, and zeros for an image that could not be read. A
            padding row has an empty key.
        """
        contents = read_contents([self.views(row) for row in rows]) if contents is None else contents
        columns, rejects = self.image_columns(rows, contents)
        reasons = [reject.reason if reject else "" for reject in rejects]
        padding = [row.get("is_padding", False) for row in rows]
        usable = [not reason and not is_padding for reason, is_padding in zip(reasons, padding, strict=True)]
        keys = ["" if is_padding else row["key"] for row, is_padding in zip(rows, padding, strict=True)]
        return {
            **columns,
            "weight": np.array(usable, dtype=np.float32),
            "key": np.array(keys),
            "shard": np.array([row["shard"] for row in rows]),
            "reason": np.array(reasons),
            "detail": np.array([reject.detail if reject else "" for reject in rejects]),
            **self.target_columns(rows),
        }

    def stream(self, *, num_cpus: float) -> Iterator[dict[str, np.ndarray]]:
        """Stream this worker's batches in training order; Ray Data tasks anywhere in the cluster decode them.

        Args:
            num_cpus: CPUs of each task.

        Yields:
            A batch, see `batch`.
        """
        dataset = self.dataset(num_cpus=num_cpus)
        if dataset is not None:
            size, _ = self.micro_batch_layout
            yield from dataset.iter_batches(batch_size=size, batch_format="numpy", prefetch_batches=2)

    def dataset(self, *, num_cpus: float) -> ray.data.Dataset | None:
        """This worker's rows as a lazy dataset of batches.

        Args:
            num_cpus: CPUs of each task.

        Returns:
            The dataset, in training order; None: there are no rows.
        """
        import ray

        configure_data()
        spans = list_spans(self.table, seed=self.seed, first_row=self.first_row, end_row=self.end_row)
        if not spans:
            return None
        size, _ = self.micro_batch_layout

        def read(block: pa.Table) -> Iterator[pa.Table]:
            return (self.read(Span(**item)) for item in block.to_pylist())

        items = ray.data.from_items([vars(span) for span in spans], override_num_blocks=min(len(spans), 1000))
        rows = items.map_batches(read, batch_format="pyarrow", batch_size=1, num_cpus=num_cpus)
        if self.table.lanes > 1:  # a span has more rows than a task should decode
            rows = rows.repartition(target_num_rows_per_block=max(size, DECODED_ROWS // size * size))
        dataset = rows.map_batches(
            lambda block: self.batches(block.to_pylist()), batch_format="pyarrow", batch_size=None, num_cpus=num_cpus
        )
        fit_into_store(dataset, workers=self.world_size, batch_bytes=size * self.row_bytes)
        return dataset

    @property
    def row_bytes(self) -> int:
        """Bytes of what a batch has of a row's images."""
        return self.config.image_size**2 * 3

    def views(self, row: dict) -> list[dict]:
        """Select the images of a row that are decoded.

        Args:
            row: row of the training table.

        Returns:
            V image locations (uri, offset, nbytes); V is the same for every row.
        """
        return row["images"][:1]

    def image_columns(self, rows: list[dict], contents: Contents) -> tuple[dict[str, np.ndarray], list[Reject | None]]:
        """Decode and augment the images of rows.

        Args:
            rows: B rows of the training table.
            contents: V of each row, see `read_contents`.

        Returns:
            pixels uint8 (B, V, S, S, 3); and why a row's images cannot be read, None for a usable row.
        """
        crops, rejects = [], []
        for row, files in zip(rows, contents, strict=True):
            seeds = [f"{self.seed}/{row['epoch']}/{row['key']}/{view}" for view in range(len(files))]
            size, augment = self.config.image_size, self.config.augment
            pixels, reject = make_crops(files, seeds, size=size, limits=self.limits, augment=augment)
            crops.append(pixels)
            rejects.append(reject)
        return {"pixels": np.stack(crops)}, rejects

    @abstractmethod
    def target_columns(self, rows: list[dict]) -> dict[str, np.ndarray]:
        """Make the columns of a batch that are learned from the images.

        Args:
            rows: B rows of the training table.

        Returns:
            Columns of B rows by name.
        """

    def row_rng(self, row: dict, decision: str) -> random.Random:
        """Make the generator of a random decision about a row in an epoch.

        Args:
            row: row of the training table, with its epoch.
            decision: name of the decision.

        Returns:
            A generator that depends only on the seed, the epoch, the key and the decision.
        """
        return random.Random(f"{self.seed}/{row['epoch']}/{row['key']}/{decision}")


@dataclass(frozen=True)
class TaggerFeed(Feed):
    """A crop of each row, its tags, and a random caption of the row."""

    tag_names: tuple[str, ...] = ()
    prompt: str = ""
    max_caption_tokens: int = 40
    max_tag_tokens: int = 40
    aligns: bool = False  # whether images are aligned with captions (RAM++)
    token_shape: tuple[int, int] | None = None  # of the stored tokens of a view; None: images are read

    def views(self, row: dict) -> list[dict]:
        """The image of a row, or the stored view whose turn it is in the row's epoch."""
        return super().views(row) if self.token_shape is None else [row["images"][row["epoch"] % len(row["images"])]]

    @property
    def row_bytes(self) -> int:
        """As `Feed.row_bytes`; with stored views the bytes of the tokens."""
        return super().row_bytes if self.token_shape is None else 2 * math.prod(self.token_shape)

    def image_columns(self, rows: list[dict], contents: Contents) -> tuple[dict[str, np.ndarray], list[Reject | None]]:
        """As `Feed.image_columns`; with stored views tokens float16 (B, 1 + L, C) in place of pixels."""
        if self.token_shape is None:
            return super().image_columns(rows, contents)
        tokens, rejects = zip(*(unpack_tokens(data, self.token_shape) for (data,) in contents), strict=True)
        return {"tokens": np.stack(tokens)}, list(rejects)

    def target_columns(self, rows: list[dict]) -> dict[str, np.ndarray]:
        """Make targets and token ids of a batch.

        Args:
            rows: B rows of the training table.

        Returns:
            targets uint8 (B, N) for `asymmetric_loss`; with the caption loss also caption_ids and tag_ids int32 (B, T);
            with the alignment loss caption_text, see `text_column`.
        """
        targets = np.stack([self._targets(row) for row in rows])
        texts, tags = [], []
        for row in rows:
            captions = row["captions"] or [{"text": "", "tags": []}]
            caption = self.row_rng(row, "caption").choice(captions)
            texts.append(clean_caption(caption["text"]) if self.config.clean_captions else caption["text"])
            # In the order of their ids, as inference gives them: in the order of the caption they would tell its words.
            tags.append([self.tag_names[id] for id in sorted(caption["tags"])])
        columns = {"targets": targets} | ({"caption_text": write_texts(texts)} if self.aligns else {})
        if not self.config.caption_loss:
            return columns
        tokenizer = load_tokenizer(self.tokenizer)
        caption_ids = tokenizer.encode_captions(texts, prompt=self.prompt, max_tokens=self.max_caption_tokens)
        for index, row in enumerate(rows):
            if not row["captions"]:  # without its end, the prompt alone has no token to learn
                caption_ids[index, np.count_nonzero(caption_ids[index]) - 1] = 0
        tag_ids = tokenizer.encode_tags(tags, max_tokens=self.max_tag_tokens)
        return {**columns, "caption_ids": caption_ids.astype(np.int32), "tag_ids": tag_ids.astype(np.int32)}

    def _targets(self, row: dict) -> np.ndarray:
        """The targets of a row's labels, (N,) uint8: what a person says comes before what cleaning says."""
        targets = np.full(len(self.tag_names), UNKNOWN if row["partial"] else 0, np.uint8)
        targets[row["removed"] or []] = UNKNOWN if self.config.removed == "unknown" else 0
        targets[row["absent"] or []] = 0
        targets[row["tags"]] = 1
        return targets
