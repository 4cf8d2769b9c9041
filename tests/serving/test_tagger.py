"""Contract: a batch of mixed requests gives each image its result alone, and a failure stays in its group."""

from __future__ import annotations

import io

import numpy as np
import pytest
from PIL import Image

from ram_ray.detectors.attention import AttentionDetector
from ram_ray.inference.predictor import Predictor
from ram_ray.serving.messages import Options
from ram_ray.serving.tagger import model_info, model_name, tag_batch
from tests.serving.image_files import image_file
from tests.tiny import count_encodings


@pytest.fixture(scope="module")
def predictor(tiny_bundle: str) -> Predictor:
    return Predictor.from_pretrained(tiny_bundle, device="cpu", threads=1)


def make_image(seed: int) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(image_file(seed))).convert("RGB"))


def test_mixed_options_in_one_batch(predictor: Predictor) -> None:
    options = [
        Options(top_k=2),
        Options(tags=("red", "blue sea"), threshold=0.0),
        Options(top_k=2),
        Options(caption=True, top_k=1),
        Options(regions=True, threshold=0.0),
        Options(tags=("red", "blue sea"), threshold=0.0),
    ]
    jobs = [(make_image(seed), image_options) for seed, image_options in enumerate(options)]
    together = tag_batch(predictor, jobs)
    for job, result in zip(jobs, together, strict=True):
        alone = tag_batch(predictor, [job])[0]
        assert [tag.tag for tag in result.tags] == [tag.tag for tag in alone.tags]
        assert np.allclose([tag.score for tag in result.tags], [tag.score for tag in alone.tags], atol=1e-4)
        assert result.caption == alone.caption and result.error is None
    assert [len(result.tags) for result in together] == [2, 2, 2, 1, 6, 2]
    assert all(tag.box is not None for tag in together[4].tags)


def test_tags_caption_and_boxes_of_a_request_share_one_encoding(predictor: Predictor) -> None:
    options = Options(caption=True, regions=True, top_k=6)
    jobs = [(make_image(seed), options) for seed in range(3)]
    with count_encodings(predictor) as counted:
        results = tag_batch(predictor, jobs)
    assert counted == [3], "one call with the three images"
    images = [make_image(seed) for seed in range(3)]
    assert [result.caption for result in results] == predictor.caption(images)
    ids = [[tag.id for tag in result.tags if tag.id is not None] for result in results]
    regions = AttentionDetector(predictor).detect(images, tags=[[]] * 3, tag_ids=ids)
    assert [[tag.box for tag in result.tags] for result in results] == [
        [region.box for region in image_regions] for image_regions in regions
    ]


def test_a_group_that_fails_does_not_fail_the_others(predictor: Predictor) -> None:
    odd = np.zeros((1, 1), np.complex64)  # cannot be converted to an image
    results = tag_batch(predictor, [(make_image(1), Options(top_k=3)), (odd, Options(top_k=4))])
    assert len(results[0].tags) == 3 and results[0].error is None
    assert results[1].error is not None and results[1].error.code == "internal"


def test_the_model_names_its_labels_and_hides_its_path(predictor: Predictor) -> None:
    info = model_info(predictor, model=model_name("/srv/secret/runs/models/finetune/abc/"))
    assert info.model == "finetune/abc"
    assert [label.id for label in info.tags] == list(range(len(predictor.labels)))
    assert model_name("org/name") == "org/name"
