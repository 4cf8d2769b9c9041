"""Contract: synthetic pictures lie where their rows say; several views of one caption teach one dual encoder."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
import torch

from ram_ray.data.images import Limits, decode, read_bytes
from ram_ray.models.dual_encoder import DualEncoder
from ram_ray.records import SAMPLE, to_table
from ram_ray.settings.models import DualEncoderConfig
from ram_ray.settings.synthesis import RepresentConfig
from ram_ray.settings.training import AugmentConfig, TrainConfig
from ram_ray.synthesis.pairs import PairFeed, real_rows, synthetic_rows
from ram_ray.synthesis.pictures import SYNTHETIC, Synthesizer
from ram_ray.synthesis.represent import PairStep
from ram_ray.training.feed import Table
from ram_ray.training.rows import ROWS
from ram_ray.training.rows import to_table as to_training
from tests.tiny import STACK, SWIN, tokenizer

LIMITS = Limits(1, 10_000, 100_000)
CAPTIONS = ["a red sun in the sky", "a blue umbrella on the beach", "a green anchor"]
TRAIN = TrainConfig(image_size=32, augment=AugmentConfig(crop_scale=(0.8, 1.0), randaugment=None))
CONFIG = RepresentConfig(pictures_made=3, pictures_per_caption=2, head=(16, 8), train=TRAIN)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> pa.Table:
    """Rows and pictures of three captions, drawn by the real generator."""
    folder = tmp_path_factory.mktemp("synthetic")
    rows = [{"key": f"s/{n}", "shard": "s", "captions": [text, "another caption"]} for n, text in enumerate(CAPTIONS)]
    return Synthesizer(CONFIG, folder=str(folder / "pictures"), seed=3, device="cpu")(to_table(rows, SAMPLE))


def _feed(folder: Path, *, views: int = 2) -> PairFeed:
    tokenizer().save(folder)
    return PairFeed(
        table=Table("", ()), config=TRAIN, seed=1, limits=LIMITS, tokenizer=str(folder), num_views=views,
        max_text_tokens=10,
    )  # fmt: skip


def test_places_point_at_pictures_that_decode(made: pa.Table) -> None:
    assert made.schema == SYNTHETIC and made["key"].to_pylist() == ["s/0", "s/1", "s/2"]
    assert made["captions"].to_pylist() == [[text] for text in CAPTIONS], "pictures are made of the first caption"
    places = [one for row in made["pictures"].to_pylist() for one in row]
    assert len(places) == 9 and len({(one["uri"], one["offset"]) for one in places}) == 9
    data = read_bytes(*([one[name] for one in places] for name in ("uri", "offset", "nbytes")))
    pixels = []
    for one in data:
        assert isinstance(one, bytes) and one.startswith(b"\xff\xd8") and one.endswith(b"\xff\xd9")
        image = decode(one, limits=LIMITS)
        assert image.size == (32, 32)
        pixels.append(np.asarray(image).astype(int))
    assert np.abs(pixels[0] - pixels[1]).mean() > 2, "another seed, another picture of the caption"


def test_the_tar_is_an_ordinary_one(made: pa.Table) -> None:
    import tarfile

    places = [one for row in made["pictures"].to_pylist() for one in row]
    with tarfile.open(places[0]["uri"]) as tar:
        members = tar.getmembers()
        assert [(one.offset_data, one.size) for one in members] == [(one["offset"], one["nbytes"]) for one in places]


def test_the_same_rows_and_seed_give_the_same_pictures(made: pa.Table, tmp_path: Path) -> None:
    source = to_table([{"key": f"s/{n}", "shard": "s", "captions": [t]} for n, t in enumerate(CAPTIONS)], SAMPLE)
    for seed, same in ((3, True), (4, False)):
        again = Synthesizer(CONFIG, folder=str(tmp_path / str(seed)), seed=seed, device="cpu")(source)
        one, two = (Path(table["pictures"][0][0]["uri"].as_py()).read_bytes() for table in (made, again))
        assert (one == two) == same


def test_another_batch_writes_another_tar(made: pa.Table, tmp_path: Path) -> None:
    """A run that goes on may see the first row of a batch again with other rows behind it."""
    rows = [{"key": f"s/{n}", "shard": "s", "captions": [text]} for n, text in enumerate(CAPTIONS)]
    make = Synthesizer(CONFIG, folder=str(tmp_path), seed=3, device="cpu")
    uris = [make(to_table(part, SAMPLE))["pictures"][0][0]["uri"].as_py() for part in (rows[:2], rows[::2], rows[:2])]
    assert uris[0] == uris[2] != uris[1]


def test_rows_become_training_rows(made: pa.Table) -> None:
    place = {"uri": "u", "offset": 1, "nbytes": 2}
    sample = {"key": "s/0", "shard": "s", **place, "captions": ["a", "b"], "labels": None}
    rows = [sample, {**sample, "key": "s/1", "reason": "truncated"}, {**sample, "key": "s/2", "captions": []}]
    (real,) = real_rows(to_table(rows, SAMPLE))
    assert real["pictures"] == [place] and [one["text"] for one in real["captions"]] == ["a", "b"]
    synthetic = synthetic_rows(made)
    assert [row["key"] for row in synthetic] == ["synthetic/s/0", "synthetic/s/1", "synthetic/s/2"]
    assert to_training([real, *synthetic], seed=0, num_buckets=2).schema.equals(ROWS)


def test_views_are_different_pictures_as_long_as_there_are_some(made: pa.Table, tmp_path: Path) -> None:
    (row, *_) = synthetic_rows(made)
    chosen = Counter()
    for epoch in range(40):
        views = _feed(tmp_path).views({**row, "epoch": epoch})
        offsets = [one["offset"] for one in views]
        assert len(set(offsets)) == 2
        chosen.update(offsets)
    assert len(chosen) == 3 and min(chosen.values()) > 10, "every picture has its turn"
    many = _feed(tmp_path, views=7).views({**row, "epoch": 0})
    assert sorted(Counter(one["offset"] for one in many).values()) == [2, 2, 3]
    assert row["pictures"] == synthetic_rows(made)[0]["pictures"], "the row is left as it was"


def test_a_batch_holds_views_texts_and_which_captions_are_equal(made: pa.Table, tmp_path: Path) -> None:
    rows = [{**row, "epoch": 0} for row in synthetic_rows(made)]
    real = {**rows[0], "key": "s/0", "pictures": rows[0]["pictures"][:1]}  # one picture: other crops of it
    batch = _feed(tmp_path).batch([*rows, real])
    assert batch["pixels"].shape == (4, 2, 32, 32, 3) and set(batch["reason"]) == {""}
    assert (batch["pixels"][:, 0] != batch["pixels"][:, 1]).any((1, 2, 3)).all()
    assert batch["text_ids"].shape == (4, 10) and batch["text_ids"].dtype == np.int32
    caption = batch["caption"].tolist()
    assert caption[0] == caption[3] and len(set(caption)) == 3 and min(caption) >= 0
    again = _feed(tmp_path).batch(rows[1:])
    np.testing.assert_array_equal(again["pixels"], batch["pixels"][1:3])


def test_the_losses_fall_and_pictures_find_their_caption(made: pa.Table, tmp_path: Path) -> None:
    rows = [{**row, "epoch": 0} for row in synthetic_rows(made)]
    made_batch = _feed(tmp_path).batch(rows)
    batch = {name: torch.from_numpy(made_batch[name]) for name in ("pixels", "text_ids", "caption")}
    torch.manual_seed(0)
    sizes = DualEncoderConfig(
        image_size=32, swin=SWIN, text=STACK, embed_dim=12, vocab_size=len(tokenizer()), max_text_tokens=10
    )
    step = PairStep(DualEncoder(sizes), CONFIG).train()
    optimizer = torch.optim.AdamW(step.parameters(), lr=3e-3)
    history = []
    for _ in range(40):
        losses = step(batch)
        history.append({name: one.item() for name, one in losses.items()})
        assert history[-1]["total"] == pytest.approx(
            history[-1]["stablerep"] + 0.5 * history[-1]["image_text"], rel=1e-5
        )
        optimizer.zero_grad()
        losses["total"].backward()
        optimizer.step()
    assert all(np.isfinite(list(one.values())).all() for one in history)
    assert history[-1]["stablerep"] < 0.5 * history[0]["stablerep"], (history[0], history[-1])
    assert history[-1]["image_text"] < 0.5 * history[0]["image_text"], (history[0], history[-1])
    assert all(one.grad is not None for name, one in step.named_parameters()), "everything is learnt"
