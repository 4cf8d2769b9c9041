"""Contract: a Predictor gives the bundle's tags, the user's own tags, and captions; the same from every thread."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from ram_ray.inference import Predictor  # as users write it
from ram_ray.inference.custom_tags import MAX_LABEL_SETS
from ram_ray.label_system import Label, LabelSystem
from tests.tiny import count_encodings, photo

IMAGES = [photo(seed, size=(60, 40)) for seed in range(3)]


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
    thresholds = [None, 0.0, None, 0.999, None, 0.0]
    changed = [Label(label.id, label.name, label.kind, threshold=thresholds[label.id]) for label in labels]
    LabelSystem(changed).save(str(folder / "label_system.json"))
    return Predictor.from_pretrained(str(folder), device="cpu")


def test_logits_are_the_models_own(predictor: Predictor) -> None:
    pixels = predictor.preprocess(IMAGES)
    assert pixels.shape == (3, 3, 32, 32) and pixels.dtype == torch.float32
    with torch.no_grad():
        expected = predictor.model.logits(predictor.model.encode(pixels))
    torch.testing.assert_close(predictor.logits(pixels), expected)
    np.testing.assert_allclose(predictor.probabilities(IMAGES), expected.sigmoid().numpy(), atol=1e-6)
    np.testing.assert_allclose(
        predictor.token_probabilities(predictor.encode(IMAGES)), expected.sigmoid().numpy(), atol=1e-6
    )


def test_some_tags_are_scored_as_among_all(predictor: Predictor, monkeypatch: pytest.MonkeyPatch) -> None:
    tokens = predictor.encode(IMAGES)
    scores = predictor.token_probabilities(tokens)
    for ids in ([4, 1], [3], list(range(6))):
        some = predictor.token_probabilities(tokens, ids=ids)
        np.testing.assert_allclose(some, scores[:, ids], atol=1e-6)
    monkeypatch.setattr(predictor, "config", predictor.config.model_copy(update={"architecture": "tag2text"}))
    np.testing.assert_array_equal(predictor.token_probabilities(tokens, ids=[4, 1]), scores[:, [4, 1]])


def test_images_and_arrays_of_the_models_size_are_the_same(predictor: Predictor) -> None:
    arrays = np.stack([np.asarray(image.resize((32, 32), Image.Resampling.BILINEAR)) for image in IMAGES])
    torch.testing.assert_close(predictor.preprocess(IMAGES), predictor.preprocess(arrays))
    mean, std = (np.array(values, np.float32) for values in (predictor.config.mean, predictor.config.std))
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
    scores = thresholded.probabilities(IMAGES)
    for row, tags in zip(scores, thresholded.tag(IMAGES), strict=True):
        expected = [id for id in np.argsort(-row, kind="stable") if row[id] >= thresholded.thresholds[id]]
        assert [tag.id for tag in tags] == expected
        assert {1, 5} <= set(expected) and 3 not in expected
        for tag in tags:
            assert tag.tag == thresholded.labels[tag.id].name
            assert tag.score == pytest.approx(row[tag.id]) and tag.threshold == thresholded.thresholds[tag.id]


def test_one_threshold_replaces_all(thresholded: Predictor) -> None:
    scores = thresholded.probabilities(IMAGES)
    threshold = float(np.sort(scores[0])[2])  # the third lowest: a tag at its threshold is present
    tags = thresholded.tag(IMAGES[:1], threshold=threshold)[0]
    assert len(tags) == 4 and all(tag.score >= threshold and tag.threshold == np.float32(threshold) for tag in tags)
    assert min(tag.score for tag in tags) == threshold
    assert thresholded.tag(IMAGES, threshold=1.0) == [[], [], []]
    assert [len(row) for row in thresholded.tag(IMAGES, threshold=0.0)] == [6, 6, 6]


def test_top_k_alone_is_the_k_best_and_with_a_threshold_at_most_k(thresholded: Predictor) -> None:
    scores = thresholded.probabilities(IMAGES)
    best = thresholded.tag(IMAGES, top_k=4)
    assert [[tag.id for tag in tags] for tags in best] == np.argsort(-scores, axis=1, kind="stable")[:, :4].tolist()
    assert 3 in {tag.id for tag in thresholded.tag(IMAGES[:1], top_k=99)[0]}, "whatever its own threshold says"
    threshold = float(np.sort(scores[0])[-3])
    assert len(thresholded.tag(IMAGES[:1], top_k=4, threshold=threshold)[0]) == 3
    assert len(thresholded.tag(IMAGES[:1], top_k=1, threshold=threshold)[0]) == 1


@pytest.mark.parametrize("options", [{"top_k": 0}, {"top_k": -1}, {"tags": []}, {"tags": "dog"}])
def test_options_that_mean_nothing_are_one_clear_error(predictor: Predictor, options: dict) -> None:
    with pytest.raises(ValueError, match="top_k|tags"):
        predictor.tag(IMAGES, **options)


def test_own_tags_are_scored_in_place_of_the_label_system(predictor: Predictor) -> None:
    own_tags = ["a purple dog", "dog", "beach"]
    results = predictor.tag(IMAGES, tags=own_tags, top_k=3)
    scores = predictor.probabilities(IMAGES)
    for row, tags in zip(scores, results, strict=True):
        assert {tag.tag for tag in tags} == set(own_tags) and all(tag.id is None for tag in tags)
        by_name = {tag.tag: tag.score for tag in tags}
        assert by_name["dog"] == pytest.approx(row[0], abs=1e-6) and by_name["beach"] == pytest.approx(row[1], abs=1e-6)
        assert by_name["a purple dog"] != by_name["dog"]
    assert all(tag.threshold == predictor.config.threshold for tags in results for tag in tags)
    reversed_results = predictor.tag(IMAGES, tags=own_tags[::-1], top_k=3)
    assert [{(tag.tag, round(tag.score, 6)) for tag in tags} for tags in reversed_results] == [
        {(tag.tag, round(tag.score, 6)) for tag in tags} for tags in results
    ]


def test_the_cache_of_label_sets_is_bounded(tiny_bundle: str) -> None:
    predictor = Predictor.from_pretrained(tiny_bundle, device="cpu")
    for number in range(MAX_LABEL_SETS + 5):
        predictor.tag(IMAGES[:1], tags=[f"tag {number}", "dog"])
    assert len(predictor._custom_tags) == MAX_LABEL_SETS


def test_a_caption_is_guided_by_the_tags_at_their_threshold(thresholded: Predictor) -> None:
    scores = thresholded.probabilities(IMAGES)
    names = [[tag.tag for tag in sorted(tags, key=lambda tag: tag.id or 0)] for tags in thresholded.tag(IMAGES)]
    assert thresholded.present_names(scores) == names
    threshold = float(np.sort(scores[0])[2])
    assert len(thresholded.present_names(scores, threshold=threshold)[0]) == 4


def test_an_image_is_encoded_once_whatever_is_asked_of_it(tiny_bundle: str) -> None:
    predictor = Predictor.from_pretrained(tiny_bundle, device="cpu")
    with count_encodings(predictor) as counted:
        tokens = predictor.encode(IMAGES)
        answers = predictor.tag(tokens, top_k=3), predictor.caption(tokens), predictor.probabilities(tokens)
        maps = predictor.attention(tokens, [[0], [1], [2]])
        assert counted == [3]
        assert answers[0] == predictor.tag(IMAGES, top_k=3) and answers[1] == predictor.caption(IMAGES)
        np.testing.assert_array_equal(answers[2], predictor.probabilities(IMAGES))
        np.testing.assert_array_equal(maps, predictor.attention(IMAGES, [[0], [1], [2]]))
        assert counted == [3] * 5
    with pytest.raises(ValueError, match="image tokens have shape"):
        predictor.tag(predictor.preprocess(IMAGES))  # type: ignore[arg-type]


def test_no_images_give_no_results(predictor: Predictor) -> None:
    assert predictor.tag([]) == [] and predictor.caption([]) == []
    assert predictor.probabilities([]).shape == (0, 6)


def test_one_image_is_a_batch_of_one(predictor: Predictor, tmp_path: Path) -> None:
    IMAGES[0].save(tmp_path / "a.png")
    together = predictor.probabilities(IMAGES[:1])
    for image in (IMAGES[0], np.asarray(IMAGES[0]), tmp_path / "a.png", (tmp_path / "a.png").read_bytes()):
        np.testing.assert_array_equal(predictor.probabilities(image), together)


def test_an_image_does_not_depend_on_its_batch(predictor: Predictor) -> None:
    together = predictor.probabilities(IMAGES)
    for image, row in zip(IMAGES, together, strict=True):
        np.testing.assert_allclose(predictor.probabilities([image])[0], row, atol=1e-6)
    assert predictor.caption(IMAGES) == [predictor.caption([image])[0] for image in IMAGES]


def test_captions_are_text_without_prompt_and_special_words(predictor: Predictor) -> None:
    for text in predictor.caption(IMAGES, max_tokens=5):
        assert isinstance(text, str) and "[" not in text and not text.startswith("a picture of")
    tokens = predictor.encode(IMAGES)
    names = [["dog"], [], ["red", "beach"]]
    assert len(predictor.caption_tokens(tokens, names, max_tokens=3)) == 3


def test_attention_is_one_map_a_tag(predictor: Predictor) -> None:
    tag_ids = [[0, 3], [], [5]]
    maps = predictor.attention(IMAGES, tag_ids)
    assert [image_maps.shape for image_maps in maps] == [(2, 4, 4), (0, 4, 4), (1, 4, 4)]
    for image_maps in maps:
        np.testing.assert_allclose(image_maps.sum((1, 2)), 1, atol=1e-5)
    np.testing.assert_allclose(predictor.attention(IMAGES[2:], [[1, 5]])[0][1], maps[2][0], atol=1e-6)
    assert all(len(image_maps) == 0 for image_maps in predictor.attention(IMAGES, [[], [], []]))


def test_bf16_is_close_to_fp32(tiny_bundle: str, predictor: Predictor) -> None:
    half = Predictor.from_pretrained(tiny_bundle, device="cpu", precision="bf16")
    np.testing.assert_allclose(half.probabilities(IMAGES), predictor.probabilities(IMAGES), atol=0.02)
    with pytest.raises(ValueError, match="'fp32' or 'bf16'"):
        Predictor.from_pretrained(tiny_bundle, precision="int4")


def test_threads_do_not_change_results(tiny_bundle: str) -> None:
    predictor = Predictor.from_pretrained(tiny_bundle, device="cpu")
    alone = Predictor.from_pretrained(tiny_bundle, device="cpu")

    def ask(number: int) -> tuple:
        images = [photo(number % 5)]
        own_tags = [f"tag {number % 3}", "dog"]
        return predictor.tag(images, top_k=6), predictor.tag(images, tags=own_tags, top_k=2), predictor.caption(images)

    with ThreadPoolExecutor(4) as pool:
        answers = list(pool.map(ask, range(12)))
    predictor = alone
    assert answers == [ask(number) for number in range(12)]


def test_a_folder_without_a_bundle_is_one_clear_error(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="not a model bundle"):
        Predictor.from_pretrained(str(tmp_path))
