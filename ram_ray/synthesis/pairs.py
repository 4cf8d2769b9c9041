"""What `represent` is fed: captions with several views of their pictures. Free of torch, for decode tasks.

A row of the training table is a caption with its pictures: different synthetic ones, or one real picture of which
different crops are taken.

Letters: B captions in a batch, T tokens.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from ram_ray.runtime.key_hash import hash_key
from ram_ray.training.feed import Feed, load_tokenizer


@dataclass(frozen=True)
class PairFeed(Feed):
    """Several views of a caption's pictures, and the caption."""

    num_views: int = 2
    max_text_tokens: int = 40

    def views(self, row: dict) -> list[dict]:
        """Different pictures as long as there are some, then pictures again (another crop each)."""
        pictures = list(row["pictures"])
        self.random(row, "views").shuffle(pictures)
        return [pictures[i % len(pictures)] for i in range(self.num_views)]

    def texts(self, rows: list[dict]) -> dict[str, np.ndarray]:
        """Token ids of a caption of each row, drawn at random.

        Args:
            rows: of the training table.

        Returns:
            text_ids int32 (B, T), and caption int64 (B,): equal numbers are equal captions.
        """
        texts = [self.random(row, "caption").choice(row["captions"])["text"] for row in rows]
        tokenizer = load_tokenizer(self.tokenizer)
        ids = tokenizer.encode(texts, first=tokenizer.enc, max_tokens=self.max_text_tokens)
        captions = np.array([hash_key(text) >> 1 for text in texts], dtype=np.int64)
        return {"text_ids": ids.astype(np.int32), "caption": captions}


def real_rows(block: pa.Table) -> list[dict]:
    """Good rows of `records.SAMPLE` as captions with their one picture."""
    return [
        {
            "key": row["key"],
            "shard": row["shard"],
            "pictures": [{name: row[name] for name in ("uri", "offset", "nbytes")}],
            "tags": [],
            "captions": [{"text": text, "tags": []} for text in row["captions"]],
        }
        for row in block.to_pylist()
        if row["reason"] is None and row["captions"]
    ]


def synthetic_rows(block: pa.Table) -> list[dict]:
    """`SYNTHETIC` rows as captions with their pictures."""
    return [
        {
            "key": f"synthetic/{row['key']}",
            "shard": row["shard"],
            "pictures": row["pictures"],
            "tags": [],
            "captions": [{"text": text, "tags": []} for text in row["captions"]],
        }
        for row in block.to_pylist()
    ]
