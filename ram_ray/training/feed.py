"""What training reads: a shuffled table of annotations, and a stream of decoded crops from it.

The question is how a run that died goes on with exactly the rows that it had not seen, on any number of
workers, without a list of seen keys. The answer is an order that can be computed: rows are put into buckets by
a hash of seed and key; an epoch visits the buckets in an order, and the rows of a bucket in an order, that
follow from seed and epoch. Row g of the whole run (all epochs one after another) is row i = g % batch_size of step
g // batch_size and belongs to worker i % workers, so the data position of a checkpoint is one number, the step. All
workers bring equal micro batches: what a share lacks is filled with rows of weight 0 (`micro_batches.share`).

Images are read where they lie, by byte range; only annotations are shuffled.
"""

from __future__ import annotations

import functools
import random
from abc import ABC, abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass

import fsspec
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from ram_ray.data.images import Limits, decode, read_bytes
from ram_ray.models.targets import UNKNOWN
from ram_ray.models.tokenizer import TextTokenizer
from ram_ray.records import Reject
from ram_ray.runtime.cluster import configure_data
from ram_ray.settings.training import TrainConfig
from ram_ray.training.augment import train_crop
from ram_ray.training.micro_batches import share
from ram_ray.training.rows import ROWS


def draw(weights: list[float], *, seed: str) -> list[int]:
    """As many places as there are weights, each about in proportion to its weight, at most one more or less.

    Systematic sampling: a bucket keeps its number of rows, so the position in the run stays one number.

    Args:
        weights: over 0.
        seed: of the draw.

    Returns:
        Places, ascending, as many as weights; a place may come several times.
    """
    total, place = sum(weights), 0
    step = total / len(weights)
    at, passed = random.Random(seed).random() * step, weights[0]
    places = []
    for _ in weights:
        while passed < at and place + 1 < len(weights):
            place += 1
            passed += weights[place]
        places.append(place)
        at += step
    return places


@dataclass(frozen=True)
class Table:
    """A written training table: its folder and the rows of each bucket."""

    path: str
    buckets: tuple[int, ...]

    @property
    def num_rows(self) -> int:
        """Rows of one epoch."""
        return sum(self.buckets)

    def read(self, bucket: int) -> pa.Table:
        """The rows of one bucket, in a fixed order."""
        fs, root = fsspec.url_to_fs(f"{self.path}/bucket={bucket}")
        files = [one for one in fs.ls(root, detail=False) if one.endswith(".parquet")] if fs.exists(root) else []
        names = [name for name in ROWS.names if name != "bucket"]
        parts = []
        for file in files:
            with fs.open(file, "rb") as handle:
                parts.append(pq.read_table(handle, columns=names, partitioning=None))
        table = pa.concat_tables(parts)
        assert len(table) == self.buckets[bucket], (bucket, len(table), self.buckets[bucket])
        return table.sort_by([("order", "ascending"), ("key", "ascending")])


@dataclass(frozen=True)
class Position:
    """A bucket's place in the run: rows start .. start + count of all epochs counted through."""

    epoch: int
    bucket: int
    start: int
    count: int


def plan(table: Table, *, seed: int, first_row: int, end_row: int) -> list[Position]:
    """The buckets of the run in order, those with no row in first_row .. end_row left out.

    Args:
        table: that is trained on.
        seed: of the order in each epoch.
        first_row: counted from the start of the run, over epochs.
        end_row: the row after the last.
    """
    positions, start, epoch = [], 0, 0
    while start < end_row:
        order = list(range(len(table.buckets)))
        random.Random(f"{seed}/{epoch}").shuffle(order)
        for bucket in order:
            count = table.buckets[bucket]
            if max(start, first_row) < min(start + count, end_row):
                positions.append(Position(epoch, bucket, start, count))
            start += count
        epoch += 1
    return positions


@dataclass(frozen=True)
class Feed(ABC):
    """Everything that a decode task needs to make crops of a part of the table; subclasses say what a row becomes."""

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
    def share(self) -> tuple[int, int]:
        """Rows of a micro batch, and micro batches of a step."""
        return share(self.config.batch_size, workers=self.world_size, limit=self.config.micro_batch_size)

    def rows(self, position: Position) -> Iterator[dict]:
        """This worker's rows of one bucket visit, in training order; those that only fill its share up have `fills`."""
        table = self.table.read(position.bucket)
        visit = f"{self.seed}/{position.epoch}/{position.bucket}"
        weighted = len(table) and table["weight"].null_count == 0
        order = draw(table["weight"].to_pylist(), seed=f"{visit}/draw") if weighted else list(range(len(table)))
        random.Random(visit).shuffle(order)
        step, (micro_batch, micro_batches) = self.config.batch_size, self.share
        lacking = micro_batch * micro_batches - len(range(self.rank, step, self.world_size))
        mine: list[tuple[int, bool]] = []
        for place, row in enumerate(order):
            g = position.start + place
            if not self.first_row <= g < self.end_row:
                continue
            if g % step % self.world_size == self.rank:
                mine.append((row, False))
            if g % step == step - 1:  # the step's last row stands in for those that lack
                mine += [(row, True)] * lacking
        picked = table.take(pa.array([row for row, _ in mine], pa.int64()))  # typed: there may be none
        for row, (_, fills) in zip(picked.to_pylist(), mine, strict=True):
            yield {**row, "fills": fills, "epoch": position.epoch}

    def batch(self, rows: list[dict]) -> dict[str, np.ndarray]:
        """A batch of rows, read, decoded and augmented.

        Args:
            rows: of the training table, B of them.

        Returns:
            pixels uint8 (B, V, S, S, 3), V views a row; weight float32 (B,), 0 for a row of which nothing is learnt;
            key, shard, reason and detail (B,) strings, the reason empty for a good row; and what the subclass adds.
            Rows with a reason have weight 0 and hold zeros where a picture could not be read. A row that fills a
            share up has no key.
        """
        views = [self.views(row) for row in rows]
        flat = [picture for row in views for picture in row]
        data = iter(read_bytes(*([one[name] for one in flat] for name in ("uri", "offset", "nbytes"))))
        size = self.config.image_size
        pixels = np.zeros((len(rows), len(views[0]), size, size, 3), dtype=np.uint8)
        reasons, details = [""] * len(rows), [""] * len(rows)
        for place, row in enumerate(rows):
            for view in range(len(views[place])):
                one = next(data)
                try:
                    if isinstance(one, Reject):
                        raise one
                    image = decode(one, limits=self.limits, size=size)
                except Reject as reject:
                    reasons[place], details[place] = reject.reason, reject.detail
                    continue
                seed = f"{self.seed}/{row['epoch']}/{row['key']}/{view}"
                pixels[place, view] = train_crop(image, size=size, config=self.config.augment, seed=seed)
        filling = [row.get("fills", False) for row in rows]
        good = [not reason and not fills for reason, fills in zip(reasons, filling, strict=True)]
        return {
            "pixels": pixels,
            "weight": np.array(good, dtype=np.float32),
            "key": np.array(["" if fills else row["key"] for row, fills in zip(rows, filling, strict=True)]),
            "shard": np.array([row["shard"] for row in rows]),
            "reason": np.array(reasons),
            "detail": np.array(details),
            **self.texts(rows),
        }

    def stream(self, *, num_cpus: float) -> Iterator[dict[str, np.ndarray]]:
        """This worker's batches, decoded by Ray Data tasks anywhere in the cluster, in training order.

        Args:
            num_cpus: of each task.

        Yields:
            A batch, see `batch`.
        """
        import ray

        configure_data()
        positions = plan(self.table, seed=self.seed, first_row=self.first_row, end_row=self.end_row)
        if not positions:
            return
        size, _ = self.share
        dataset = (
            ray.data.from_items([vars(one) for one in positions], override_num_blocks=min(len(positions), 1000))
            .flat_map(lambda item: self.rows(Position(**item)), num_cpus=num_cpus)
            .map_batches(
                lambda block: self.batch(block.to_pylist()), batch_format="pyarrow", batch_size=size, num_cpus=num_cpus
            )
        )
        yield from dataset.iter_batches(batch_size=size, batch_format="numpy", prefetch_batches=2)

    def views(self, row: dict) -> list[dict]:
        """The pictures of a row to be decoded, the same number for every row."""
        return row["pictures"][:1]

    @abstractmethod
    def texts(self, rows: list[dict]) -> dict[str, np.ndarray]:
        """What goes with the pictures.

        Args:
            rows: of the training table, B of them.

        Returns:
            Columns of B rows by name.
        """

    def random(self, row: dict, what: str) -> random.Random:
        """A generator for one decision about a row in an epoch.

        Args:
            row: of the training table, with its epoch.
            what: name of the decision.
        """
        return random.Random(f"{self.seed}/{row['epoch']}/{row['key']}/{what}")


@dataclass(frozen=True)
class TaggerFeed(Feed):
    """One crop a row, its tags, and one of its captions."""

    tag_names: tuple[str, ...] = ()
    prompt: str = ""
    max_caption_tokens: int = 40
    max_tag_tokens: int = 40

    def texts(self, rows: list[dict]) -> dict[str, np.ndarray]:
        """Targets and token ids of a batch of training rows.

        Args:
            rows: of the training table.

        Returns:
            targets uint8 (B, N) as of `asymmetric_loss`; caption_ids, tag_ids int32 (B, T) where captions are learnt.
        """
        targets = np.zeros((len(rows), len(self.tag_names)), dtype=np.uint8)
        texts, tags = [], []
        for place, row in enumerate(rows):
            if self.config.removed == "unknown":
                targets[place, row["removed"] or []] = UNKNOWN
            targets[place, row["tags"]] = 1
            captions = row["captions"] or [{"text": "", "tags": []}]
            caption = self.random(row, "caption").choice(captions)
            texts.append(caption["text"])
            tags.append([self.tag_names[id] for id in caption["tags"]])
        if not self.config.caption_loss:
            return {"targets": targets}
        tokenizer = load_tokenizer(self.tokenizer)
        captions = tokenizer.encode_captions(texts, prompt=self.prompt, max_tokens=self.max_caption_tokens)
        tag_ids = tokenizer.encode_tags(tags, max_tokens=self.max_tag_tokens)
        return {"targets": targets, "caption_ids": captions.astype(np.int32), "tag_ids": tag_ids.astype(np.int32)}


@functools.lru_cache(maxsize=2)
def load_tokenizer(folder: str) -> TextTokenizer:
    """The tokenizer of a folder, kept in this process."""
    return TextTokenizer.load(folder)
