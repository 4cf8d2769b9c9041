"""The feed of `represent`: captions with views of their images. It does not import torch, for decode tasks.

A row of the training table is a caption with its images: several synthetic images, or a real image, of which several
crops are taken.

Letters: B captions in a batch, V views of a caption, T tokens.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from ram_ray.runtime.key_hash import hash_key
from ram_ray.training.caption_text import load_tokenizer
from ram_ray.training.feed import Feed


@dataclass(frozen=True)
class PairFeed(Feed):
    """Views of a caption's images, and the caption; with `same_image` all views are crops of one image (SimCLR)."""

    num_views: int = 2
    same_image: bool = False
    max_text_tokens: int = 40

    @property
    def row_bytes(self) -> int:
        """As `Feed.row_bytes`, of all views."""
        return self.num_views * super().row_bytes

    def views(self, row: dict) -> list[dict]:
        """Select V images at random; if there are fewer, images are repeated (with another crop).

        Args:
            row: row of the training table.

        Returns:
            V image locations.
        """
        locations = list(row["images"])
        self.row_rng(row, "views").shuffle(locations)
        if self.same_image:
            locations = locations[:1]
        return [locations[i % len(locations)] for i in range(self.num_views)]

    def target_columns(self, rows: list[dict]) -> dict[str, np.ndarray]:
        """Make the token ids of a random caption of each row.

        Args:
            rows: B rows of the training table.

        Returns:
            text_ids int32 (B, T), and caption int64 (B,), a hash of the text: equal captions have equal hashes. With
            `same_image` it is a hash of the row's key.
        """
        texts = [self.row_rng(row, "caption").choice(row["captions"])["text"] for row in rows]
        tokenizer = load_tokenizer(self.tokenizer)
        ids = tokenizer.encode(texts, first=tokenizer.enc, max_tokens=self.max_text_tokens)
        named = [row["key"] for row in rows] if self.same_image else texts
        captions = np.array([hash_key(name) >> 1 for name in named], dtype=np.int64)
        return {"text_ids": ids.astype(np.int32), "caption": captions}


@dataclass(frozen=True)
class Selection:
    """The images of whose first captions synthetic images are made: a share of all, by a hash of seed and key."""

    share: float  # 0 to 1
    seed: int

    def has(self, key: str) -> bool:
        """Whether an image is selected.

        Args:
            key: of the image.

        Returns:
            True if it is.
        """
        return hash_key(f"{self.seed}/{key}") < self.share * 2**64


def real_rows(block: pa.Table, *, selection: Selection | None = None) -> list[dict]:
    """Make training rows of samples: captions with a single image.

    Args:
        block: rows of `records.SAMPLE`; rejected rows and rows without a caption are left out.
        selection: the images that are taken, with their first captions; None: all images with all captions.

    Returns:
        Rows for `to_table`.
    """
    return [
        {
            "key": row["key"],
            "shard": row["shard"],
            "images": [{name: row[name] for name in ("uri", "offset", "nbytes")}],
            "tags": [],
            "captions": [{"text": text, "tags": []} for text in row["captions"][: 1 if selection else None]],
        }
        for row in block.to_pylist()
        if row["reason"] is None and row["captions"] and (selection is None or selection.has(row["key"]))
    ]


def synthetic_rows(block: pa.Table) -> list[dict]:
    """Make training rows of synthetic images: captions with several images.

    Args:
        block: rows of `synthetic_images.SYNTHETIC`; rejected rows are left out.

    Returns:
        Rows for `to_table`.
    """
    return [
        {
            "key": f"synthetic/{row['key']}",
            "shard": row["shard"],
            "images": row["images"],
            "tags": [],
            "captions": [{"text": text, "tags": []} for text in row["captions"]],
        }
        for row in block.to_pylist()
        if row["reason"] is None
    ]
