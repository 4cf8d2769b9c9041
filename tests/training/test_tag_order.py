"""Contract: training gives the captioner the tags of a caption as inference gives them, in the order of their ids."""

from __future__ import annotations

from pathlib import Path

from ram_ray.data.images import Limits
from ram_ray.settings.training import TrainConfig
from ram_ray.training.feed import TaggerFeed
from ram_ray.training.order import Table
from tests.tiny import NAMES, tokenizer


def test_the_tags_of_a_caption_come_in_the_order_of_their_ids(tmp_path: Path) -> None:
    """In the order of the caption they would tell the decoder its words."""
    tokenizer().save(tmp_path)
    feed = TaggerFeed(
        table=Table(str(tmp_path), (1,)),
        config=TrainConfig(image_size=32, batch_size=1),
        seed=0,
        limits=Limits(8, 10_000, 100_000),
        tokenizer=str(tmp_path),
        tag_names=NAMES,
    )
    row = {"key": "s/1", "epoch": 0, "tags": [0], "captions": [{"text": "", "tags": [2, 0, 1]}]}
    row |= {"removed": [], "absent": [], "partial": False}
    (ids,) = feed.target_columns([row])["tag_ids"]
    (expected,) = tokenizer().encode_tags([list(NAMES[:3])], max_tokens=feed.max_tag_tokens)
    assert ids.tolist() == expected.tolist()
