"""Contract: the images of a batch share one encoding; a batch has the size that pays; a failure is said of each."""

from __future__ import annotations

import io

import numpy as np
import pytest
from PIL import Image

from ram_ray.detectors.attention import AttentionDetector
from ram_ray.inference.predictor import Predictor
from ram_ray.serving.messages import Options
from ram_ray.serving.tagger import measure_batch_size, model_info, model_name, tag_batch
from tests.serving.image_files import image_file
from tests.tiny import count_encodings


@pytest.fixture(scope="module")
def predictor(tiny_bundle: str) -> Predictor:
    return Predictor.from_pretrained(tiny_bundle, device="cpu", threads=1)


def make_image(seed: int) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(image_file(seed))).convert("RGB"))


def test_tags_caption_and_boxes_of_a_request_share_one_encoding(predictor: Predictor) -> None:
    options = Options(caption=True, regions=True, top_k=6)
    images = [make_image(seed) for seed in range(3)]
    with count_encodings(predictor) as counted:
        results = tag_batch(predictor, images, options)
    assert counted == [3], "one call with the three images"
    assert [result.caption for result in results] == predictor.caption(images)
    ids = [[tag.id for tag in result.tags if tag.id is not None] for result in results]
    regions = AttentionDetector(predictor).detect(images, tags=[[]] * 3, tag_ids=ids)
    assert [[tag.box for tag in result.tags] for result in results] == [
        [region.box for region in image_regions] for image_regions in regions
    ]


def test_a_batch_that_fails_gives_each_image_an_error(predictor: Predictor) -> None:
    odd = np.zeros((1, 1), np.complex64)  # cannot be converted to an image
    results = tag_batch(predictor, [make_image(1), odd], Options(top_k=3))
    assert [result.error and result.error.code for result in results] == ["internal", "internal"]


def test_a_batch_is_as_large_as_pays_and_a_broken_model_is_found(predictor: Predictor) -> None:
    assert 1 <= measure_batch_size(predictor, most=4) <= 4
    assert measure_batch_size(predictor, most=1) == 1

    class Broken:
        image_size = 32

        def probabilities(self, images: np.ndarray) -> np.ndarray:
            return np.full((len(images), 6), np.nan)

    with pytest.raises(ValueError, match="no numbers"):
        measure_batch_size(Broken(), most=4)  # type: ignore[arg-type]


def test_the_model_names_its_labels_and_hides_its_path(predictor: Predictor) -> None:
    info = model_info(predictor, model=model_name("/srv/secret/runs/models/finetune/abc/"))
    assert info.model == "finetune/abc"
    assert [label.id for label in info.tags] == list(range(len(predictor.labels)))
    assert model_name("org/name") == "org/name"
