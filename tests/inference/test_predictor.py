"""Contract: a Predictor gives the bundle's tags, the user's own tags, and captions; the same from every thread."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from ram_ray.inference import Predictor  # as users write it
from ram_ray.inference.custom_tags import OWN_TAG_SETS
from ram_ray.label_system import Label, LabelSystem
from tests.tiny import count_encodings, photo

PICTURES = [photo(seed, size=(60, 40)) for seed in range(3)]


@pytest.fixture(scope="module")
def predictor(tiny_bundle: str) -> Predictor:
    return Predictor.from_pretrained(tiny_bundle, device="cpu")


@pytest.fixture(scope="module")
def thresholded(tiny_bundle: str, tmp_path_factory: pytest.TempPathFactory) -> Predictor:
    """The same model, every second tag with a threshold of its own: of 0 and of 0.999 in turn."""
    import shutil

    folder = tmp_path_factory.mktemp("thresholds") / "bundle"
    shutil.copytree(tiny_bundle, folder)
    labels = LabelSystem.load(str(folder / "label_system.json")).labels
    own = [None, 0.0, None, 0.999, None, 0.0]
    changed = [Label(one.id, one.name, one.kind, threshold=own[one.id]) for one in labels]
    LabelSystem(changed).save(str(folder / "label_system.json"))
    return Predictor.from_pretrained(str(folder), device="cpu")


def test_logits_are_the_models_own(predictor: Predictor) -> None:
    pixels = predictor.preprocess(PICTURES)
    assert pixels.shape == (3, 3, 32, 32) and pixels.dtype == torch.float32
    with torch.no_grad():
        expected = predictor.model.logits(predictor.model.encode(pixels))
    torch.testing.assert_close(predictor.logits(pixels), expected)
    np.testing.assert_allclose(predictor.probabilities(PICTURES), expected.sigmoid().numpy(), atol=1e-6)
    np.testing.assert_allclose(
        predictor.token_probabilities(predictor.encode(PICTURES)), expected.sigmoid().numpy(), atol=1e-6
    )


def test_pictures_and_arrays_of_the_models_size_are_the_same(predictor: Predictor) -> None:
    arrays = np.stack([np.asarray(one.resize((32, 32), Image.Resampling.BILINEAR)) for one in PICTURES])
    torch.testing.assert_close(predictor.preprocess(PICTURES), predictor.preprocess(arrays))
    mean, std = (np.array(one, np.float32) for one in (predictor.config.mean, predictor.config.std))
    expected = (arrays / 255 - mean) / std
    np.testing.assert_allclose(predictor.preprocess(arrays).permute(0, 2, 3, 1).numpy(), expected, atol=1e-4)


@pytest.mark.parametrize(
    "images",
    [
        np.zeros((2, 31, 32, 3), np.uint8),
        np.zeros((2, 3, 32, 32), np.uint8),
        np.zeros((2, 32, 32, 3), np.float32),
    ],
)
def test_arrays_of_another_shape_or_type_are_one_clear_error(predictor: Predictor, images: np.ndarray) -> None:
    with pytest.raises(ValueError, match=r"expected uint8 \(B, 32, 32, 3\), or a list of images"):
        predictor.probabilities(images)


def test_tags_from_their_threshold_on_come_highest_first(thresholded: Predictor) -> None:
    scores = thresholded.probabilities(PICTURES)
    for row, found in zip(scores, thresholded.tag(PICTURES), strict=True):
        wanted = [i for i in np.argsort(-row, kind="stable") if row[i] >= thresholded.thresholds[i]]
        assert [one.id for one in found] == wanted
        assert {1, 5} <= set(wanted) and 3 not in wanted
        for one in found:
            assert one.tag == thresholded.labels[one.id].name
            assert one.score == pytest.approx(row[one.id]) and one.threshold == thresholded.thresholds[one.id]


def test_one_threshold_stands_in_place_of_all(thresholded: Predictor) -> None:
    scores = thresholded.probabilities(PICTURES)
    limit = float(np.sort(scores[0])[2])  # the third lowest: a tag at its threshold is there
    found = thresholded.tag(PICTURES[:1], threshold=limit)[0]
    assert len(found) == 4 and all(one.score >= limit and one.threshold == np.float32(limit) for one in found)
    assert min(one.score for one in found) == limit
    assert thresholded.tag(PICTURES, threshold=1.0) == [[], [], []]
    assert [len(row) for row in thresholded.tag(PICTURES, threshold=0.0)] == [6, 6, 6]


def test_top_k_alone_is_the_k_best_and_with_a_threshold_at_most_k(thresholded: Predictor) -> None:
    scores = thresholded.probabilities(PICTURES)
    best = thresholded.tag(PICTURES, top_k=4)
    assert [[one.id for one in row] for row in best] == np.argsort(-scores, axis=1, kind="stable")[:, :4].tolist()
    assert 3 in {one.id for one in thresholded.tag(PICTURES[:1], top_k=99)[0]}, "whatever its own threshold says"
    limit = float(np.sort(scores[0])[-3])
    assert len(thresholded.tag(PICTURES[:1], top_k=4, threshold=limit)[0]) == 3
    assert len(thresholded.tag(PICTURES[:1], top_k=1, threshold=limit)[0]) == 1


@pytest.mark.parametrize("options", [{"top_k": 0}, {"top_k": -1}, {"tags": []}, {"tags": "dog"}])
def test_options_that_mean_nothing_are_one_clear_error(predictor: Predictor, options: dict) -> None:
    with pytest.raises(ValueError, match="top_k|tags"):
        predictor.tag(PICTURES, **options)


def test_own_tags_are_scored_in_place_of_the_label_system(predictor: Predictor) -> None:
    own = ["a purple dog", "dog", "beach"]
    found = predictor.tag(PICTURES, tags=own, top_k=3)
    scores = predictor.probabilities(PICTURES)
    for row, tags in zip(scores, found, strict=True):
        assert {one.tag for one in tags} == set(own) and all(one.id is None for one in tags)
        by_name = {one.tag: one.score for one in tags}
        assert by_name["dog"] == pytest.approx(row[0], abs=1e-6) and by_name["beach"] == pytest.approx(row[1], abs=1e-6)
        assert by_name["a purple dog"] != by_name["dog"]
    assert all(one.threshold == predictor.config.threshold for row in found for one in row)
    turned = predictor.tag(PICTURES, tags=own[::-1], top_k=3)
    assert [{(one.tag, round(one.score, 6)) for one in row} for row in turned] == [
        {(one.tag, round(one.score, 6)) for one in row} for row in found
    ]


def test_only_so_many_label_sets_are_kept(tiny_bundle: str) -> None:
    predictor = Predictor.from_pretrained(tiny_bundle, device="cpu")
    for number in range(OWN_TAG_SETS + 5):
        predictor.tag(PICTURES[:1], tags=[f"tag {number}", "dog"])
    assert len(predictor._own) == OWN_TAG_SETS


def test_a_caption_is_guided_by_the_tags_that_are_given(thresholded: Predictor) -> None:
    scores = thresholded.probabilities(PICTURES)
    named = [[one.tag for one in sorted(row, key=lambda one: one.id or 0)] for row in thresholded.tag(PICTURES)]
    assert thresholded.present_names(scores) == named
    limit = float(np.sort(scores[0])[2])
    assert len(thresholded.present_names(scores, threshold=limit)[0]) == 4


def test_an_image_is_encoded_once_whatever_is_asked_of_it(tiny_bundle: str) -> None:
    predictor = Predictor.from_pretrained(tiny_bundle, device="cpu")
    with count_encodings(predictor) as counted:
        tokens = predictor.encode(PICTURES)
        answers = predictor.tag(tokens, top_k=3), predictor.caption(tokens), predictor.probabilities(tokens)
        maps = predictor.attention(tokens, [[0], [1], [2]])
        assert counted == [3]
        assert answers[0] == predictor.tag(PICTURES, top_k=3) and answers[1] == predictor.caption(PICTURES)
        np.testing.assert_array_equal(answers[2], predictor.probabilities(PICTURES))
        np.testing.assert_array_equal(maps, predictor.attention(PICTURES, [[0], [1], [2]]))
        assert counted == [3] * 5
    with pytest.raises(ValueError, match="image tokens have shape"):
        predictor.tag(predictor.preprocess(PICTURES))  # type: ignore[arg-type]


def test_nothing_in_nothing_out(predictor: Predictor) -> None:
    assert predictor.tag([]) == [] and predictor.caption([]) == []
    assert predictor.probabilities([]).shape == (0, 6)


def test_one_image_is_a_batch_of_one(predictor: Predictor, tmp_path: Path) -> None:
    PICTURES[0].save(tmp_path / "a.png")
    together = predictor.probabilities(PICTURES[:1])
    for one in (PICTURES[0], np.asarray(PICTURES[0]), tmp_path / "a.png", (tmp_path / "a.png").read_bytes()):
        np.testing.assert_array_equal(predictor.probabilities(one), together)


def test_a_picture_does_not_depend_on_its_batch(predictor: Predictor) -> None:
    together = predictor.probabilities(PICTURES)
    for place, picture in enumerate(PICTURES):
        np.testing.assert_allclose(predictor.probabilities([picture])[0], together[place], atol=1e-6)
    assert predictor.caption(PICTURES) == [predictor.caption([one])[0] for one in PICTURES]


def test_captions_are_text_without_prompt_and_special_words(predictor: Predictor) -> None:
    for text in predictor.caption(PICTURES, max_tokens=5):
        assert isinstance(text, str) and "[" not in text and not text.startswith("a picture of")
    tokens = predictor.encode(PICTURES)
    names = [["dog"], [], ["red", "beach"]]
    assert len(predictor.caption_tokens(tokens, names, max_tokens=3)) == 3


def test_attention_is_one_map_a_tag(predictor: Predictor) -> None:
    asked = [[0, 3], [], [5]]
    maps = predictor.attention(PICTURES, asked)
    assert [one.shape for one in maps] == [(2, 4, 4), (0, 4, 4), (1, 4, 4)]
    for one in maps:
        np.testing.assert_allclose(one.sum((1, 2)), 1, atol=1e-5)
    np.testing.assert_allclose(predictor.attention(PICTURES[2:], [[1, 5]])[0][1], maps[2][0], atol=1e-6)
    assert all(len(one) == 0 for one in predictor.attention(PICTURES, [[], [], []]))


def test_bf16_is_close_to_fp32(tiny_bundle: str, predictor: Predictor) -> None:
    half = Predictor.from_pretrained(tiny_bundle, device="cpu", precision="bf16")
    np.testing.assert_allclose(half.probabilities(PICTURES), predictor.probabilities(PICTURES), atol=0.02)
    with pytest.raises(ValueError, match="'fp32' or 'bf16'"):
        Predictor.from_pretrained(tiny_bundle, precision="int4")


def test_threads_do_not_disturb_one_another(tiny_bundle: str) -> None:
    predictor = Predictor.from_pretrained(tiny_bundle, device="cpu")
    alone = Predictor.from_pretrained(tiny_bundle, device="cpu")

    def ask(number: int) -> tuple:
        picture = [photo(number % 5)]
        own = [f"tag {number % 3}", "dog"]
        return predictor.tag(picture, top_k=6), predictor.tag(picture, tags=own, top_k=2), predictor.caption(picture)

    with ThreadPoolExecutor(4) as pool:
        answers = list(pool.map(ask, range(12)))
    predictor = alone
    assert answers == [ask(number) for number in range(12)]


def test_what_is_no_bundle_is_one_clear_error(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="not a model bundle"):
        Predictor.from_pretrained(str(tmp_path))
