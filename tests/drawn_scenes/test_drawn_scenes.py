"""Contract: drawn scenes follow from seeds alone; their truth is complete, and captions have errors at set rates."""

from __future__ import annotations

import io
import json
import random
import tarfile
import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from ram_ray.drawn_scenes import (
    ACTIONS,
    BACKGROUNDS,
    COLOURS,
    OBJECTS,
    Mentions,
    Scene,
    Thing,
    draw,
    draw_caption,
    draw_mentions,
    plan_corpus,
    sample_scene,
    scene_of,
    write_caption,
    write_captions,
    write_corpus,
    write_shard,
)
from ram_ray.drawn_scenes.caption import Phrase
from ram_ray.settings.data import DrawnConfig

SMALL = DrawnConfig(num_web=25, num_clean=10, num_eval=12, scenes_per_shard=10)


def words_of(text: str) -> set[str]:
    """Tags that a text mentions, by its words: independent of the code that writes captions."""
    forms = {form: lemma for lemma, forms in ACTIONS.items() for form in forms}
    vocabulary = {*OBJECTS, *COLOURS, *BACKGROUNDS}
    words = text.lower().replace(",", " ").replace(".", " ").split()
    return {forms.get(word, word) for word in words if word in forms or word in vocabulary}


def read_shard(path: str) -> tuple[dict[str, bytes], dict[str, dict]]:
    with tarfile.open(path) as tar:
        members = {member.name: tar.extractfile(member).read() for member in tar}
    texts = {name[:-5]: json.loads(data) for name, data in members.items() if name.endswith(".json")}
    return {name[:-4]: data for name, data in members.items() if name.endswith(".jpg")}, texts


def test_vocabulary_is_as_large_as_promised() -> None:
    assert len(OBJECTS) >= 40 and len(COLOURS) == 10 and len(BACKGROUNDS) == 6 and len(ACTIONS) >= 4
    names = [*OBJECTS, *COLOURS, *BACKGROUNDS, *ACTIONS]
    assert len(set(names)) == len(names), "a tag must have one meaning"
    assert all(name.isalpha() and name.islower() for name in names)


def test_every_pictograph_is_in_the_font_and_differs_from_all_others() -> None:
    def shape(name: str) -> np.ndarray:
        scene = Scene("wall", (Thing(name, "black"),))
        mean = sum(np.asarray(draw(scene, size=64, seed=seed).convert("L"), float) for seed in range(6))
        return mean[:34, :34].ravel() - mean[:34, :34].mean()

    shapes = np.stack([shape(name) for name in OBJECTS])
    shapes /= np.linalg.norm(shapes, axis=1, keepdims=True)
    alike = shapes @ shapes.T - np.eye(len(shapes))
    first, second = np.unravel_index(alike.argmax(), alike.shape)
    assert alike.max() < 0.9, f"{list(OBJECTS)[first]} and {list(OBJECTS)[second]} look alike"


def test_plain_things_stay_in_their_quarter_and_show_their_colour() -> None:
    for quarter in range(4):
        scene = Scene("snow", (Thing("heart", "red", None, quarter),))
        for seed in range(5):
            pixels = np.asarray(draw(scene, size=64, seed=seed), int)
            red = (pixels[..., 0] > 150) & (pixels[..., 1] < 90) & (pixels[..., 2] < 90)
            rows, columns = np.nonzero(red)
            assert 200 < len(rows) < 1200
            assert 18 <= max(np.ptp(rows), np.ptp(columns)) + 1 <= 40
            assert (rows.mean() > 32) == (quarter >= 2) and (columns.mean() > 32) == (quarter % 2 == 1)


@pytest.mark.parametrize("action", ACTIONS)
def test_every_action_changes_the_image_differently(action: str) -> None:
    def mean(doing: str | None) -> np.ndarray:
        scene = Scene("snow", (Thing("heart", "red", doing),))
        return sum(np.asarray(draw(scene, size=64, seed=seed), float) for seed in range(4)) / 4

    images = {other: mean(other) for other in (None, *ACTIONS)}
    for other, image in images.items():
        if other != action:
            assert np.abs(image - images[action]).max() > 60, f"{action} looks like {other}"


@pytest.mark.parametrize("level", ["plain", "hard"])
@pytest.mark.parametrize("size", [32, 64, 200])
def test_an_image_follows_from_its_seed(level: str, size: int) -> None:
    scene = sample_scene(random.Random(3))
    first = draw(scene, size=size, level=level, seed=1)
    assert first.size == (size, size) and first.mode == "RGB"
    assert first.tobytes() == draw(scene, size=size, level=level, seed=1).tobytes()
    assert first.tobytes() != draw(scene, size=size, level=level, seed=2).tobytes()


def test_scenes_are_checked() -> None:
    with pytest.raises(ValueError, match="object 'unicorn'"):
        Scene("wall", (Thing("unicorn", "red"),))
    with pytest.raises(ValueError, match="background 'moonbase'"):
        Scene("moonbase")
    with pytest.raises(ValueError, match="quarters"):
        Scene("wall", (Thing("cat", "red"), Thing("cow", "blue")))
    with pytest.raises(ValueError, match="size 9000"):
        draw(Scene("wall"), size=9000, seed=0)
    with pytest.raises(ValueError, match="level"):
        draw(Scene("wall"), size=64, level="mean", seed=0)
    with pytest.raises(ValueError, match="false"):
        draw_mentions(Scene("wall"), random.Random(0), false=0.9)


def test_sampled_scenes_use_the_whole_vocabulary_and_repeat_nothing_within_a_scene() -> None:
    rng = random.Random(0)
    seen: set[str] = set()
    for _ in range(800):
        scene = sample_scene(rng)
        assert 2 <= len(scene.things) <= 4
        tags = [tag for thing in scene.things for tag in (thing.name, thing.colour, thing.action) if tag]
        assert scene.truth == sorted({*tags, scene.background}) and len(set(tags)) == len(tags)
        seen |= set(scene.truth)
    assert seen == {*OBJECTS, *COLOURS, *BACKGROUNDS, *ACTIONS}


def test_scene_of_keeps_the_names_and_draws_the_rest() -> None:
    scene = scene_of([("cat", "red", None), (None, "blue", "jump")], background="lake", rng=random.Random(0))
    assert {"cat", "red", "blue", "jump", "lake"} <= set(scene.truth) and len(scene.truth) == 6
    assert len(scene_of([(name, None, None) for name in OBJECTS], rng=random.Random(0)).things) == 4


@pytest.mark.parametrize(("unmentioned", "false"), [(0.35, 0.1), (0.2, 0.25), (0.0, 0.3), (0.5, 0.0)])
def test_captions_have_errors_at_the_rates_asked_for(unmentioned: float, false: float) -> None:
    rng = random.Random(7)
    kinds = {"object": OBJECTS, "colour": COLOURS, "background": BACKGROUNDS, "action": ACTIONS}
    num_true, num_mentioned, num_tags, num_wrong = dict.fromkeys(kinds, 0), dict.fromkeys(kinds, 0), 0, 0
    for _ in range(4000):
        scene = sample_scene(rng)
        mentioned = words_of(draw_caption(scene, rng, unmentioned=unmentioned, false=false))
        assert mentioned & set(OBJECTS), "a caption must name an object"
        truth = set(scene.truth)
        num_tags, num_wrong = num_tags + len(mentioned), num_wrong + len(mentioned - truth)
        assert mentioned - truth <= set(OBJECTS), "only objects are invented"
        for kind, names in kinds.items():
            num_true[kind] += len(truth & set(names))
            num_mentioned[kind] += len(truth & mentioned & set(names))
    assert num_wrong / num_tags == pytest.approx(false, abs=0.012)
    for kind in kinds:
        assert 1 - num_mentioned[kind] / num_true[kind] == pytest.approx(unmentioned, abs=0.03), kind
    assert 1 - sum(num_mentioned.values()) / sum(num_true.values()) == pytest.approx(unmentioned, abs=0.015)


def test_clean_captions_name_all_that_is_drawn_and_nothing_else() -> None:
    rng = random.Random(1)
    for _ in range(500):
        scene = sample_scene(rng)
        assert sorted(words_of(draw_caption(scene, rng))) == scene.truth


def test_texts_have_exactly_the_tags_that_are_mentioned() -> None:
    rng = random.Random(2)
    allowed = {
        "a",
        "an",
        "the",
        "and",
        "is",
        "are",
        "there",
        "on",
        "in",
        "next",
        "to",
        "beside",
        "near",
        "with",
        "while",
    }
    allowed |= {"something", "nothing"}
    for _ in range(1000):
        mentions = draw_mentions(sample_scene(rng), rng, unmentioned=0.4, false=0.2)
        for text in write_captions(mentions, rng):
            assert sorted(words_of(text)) == mentions.tags
            plain = set(text.lower().replace(",", " ").replace(".", " ").split())
            rest = plain - allowed - {form for forms in ACTIONS.values() for form in forms}
            assert rest <= set(mentions.tags), f"{text!r} holds words that are no tags: {rest}"


def test_grammar() -> None:
    mentions = Mentions("beach", (Phrase("umbrella", "orange", "sleep"), Phrase(None, "red")))
    texts = {write_caption(mentions, random.Random(seed)) for seed in range(60)}
    assert "an orange umbrella is sleeping next to something red on the beach" in texts
    assert "An orange umbrella sleeps beside something red on the beach." in texts
    assert len(texts) > 10


def test_corpus_is_complete_labelled_and_the_same_again(tmp_path: Path) -> None:
    uris = write_corpus(str(tmp_path / "first"), config=SMALL, seed=5)
    names = [Path(uri).name for uri in uris["train"]], [Path(uri).name for uri in uris["eval"]]
    assert names == (
        ["web-00000.tar", "web-00001.tar", "web-00002.tar", "clean-00000.tar"],
        ["eval-00000.tar", "eval-00001.tar"],
    )
    assert sorted(file.name for file in (tmp_path / "first").iterdir()) == sorted(names[0] + names[1])
    keys: dict[str, list[str]] = {}
    for uri in uris["train"] + uris["eval"]:
        images, texts = read_shard(uri)
        assert images.keys() == texts.keys()
        keys.setdefault(Path(uri).name.split("-")[0], []).extend(images)
        for key, data in images.items():
            assert Image.open(io.BytesIO(data)).convert("RGB").size == (64, 64)
            text = texts[key]
            assert 1 <= len(text["captions"]) <= 2 and text["labels"] == sorted(text["labels"])
            if "web" not in uri:
                assert all(sorted(words_of(caption_text)) == text["labels"] for caption_text in text["captions"])
    assert {kind: len(all_keys) for kind, all_keys in keys.items()} == {"web": 25, "clean": 10, "eval": 12}
    assert all(len(set(all_keys)) == len(all_keys) for all_keys in keys.values())

    # In another order and in another folder the bytes are the same; with another seed they differ.
    for shard in reversed(plan_corpus(str(tmp_path / "second"), config=SMALL)):
        write_shard(shard.uri, kind=shard.kind, index=shard.index, config=SMALL, seed=5)
        assert Path(shard.uri).read_bytes() == (tmp_path / "first" / Path(shard.uri).name).read_bytes()
    write_shard(str(tmp_path / "other.tar"), kind="web", index=0, config=SMALL, seed=6)
    assert (tmp_path / "other.tar").read_bytes() != (tmp_path / "first" / "web-00000.tar").read_bytes()


def test_a_shard_that_fails_leaves_nothing_behind(tmp_path: Path) -> None:
    impossible = SMALL.model_copy(update={"false": 0.9})
    with pytest.raises(ValueError, match="false"):
        write_shard(str(tmp_path / "web-00000.tar"), kind="web", index=0, config=impossible, seed=0)
    assert list(tmp_path.iterdir()) == []
    with pytest.raises(ValueError, match="no web shard 3"):
        write_shard(str(tmp_path / "web-00003.tar"), kind="web", index=3, config=SMALL, seed=0)


def test_shards_go_to_any_file_system() -> None:
    import fsspec

    write_shard("memory://drawn/web-00000.tar", kind="web", index=0, config=SMALL, seed=0)
    with fsspec.open("memory://drawn/web-00000.tar", "rb") as file, tarfile.open(fileobj=file) as tar:
        assert len(tar.getnames()) == 20


def test_drawing_is_quick() -> None:
    rng = random.Random(0)
    scenes = [sample_scene(rng) for _ in range(500)]
    for scene in scenes[:250]:  # glyphs and textures are rendered once
        draw(scene, size=64, seed=0)
    start = time.process_time()
    for seed, scene in enumerate(scenes):
        draw(scene, size=64, seed=seed)
    assert len(scenes) / (time.process_time() - start) > 200  # 600 to 900 on an idle core
