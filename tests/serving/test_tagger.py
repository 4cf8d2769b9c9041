"""Contract: a batch of mixed requests gives each picture what it would get alone, and a failure stays in its group."""

from __future__ import annotations

import io

import numpy as np
import pytest
from PIL import Image

from ram_ray.detectors.attention import AttentionDetector
from ram_ray.inference.predictor import Predictor
from ram_ray.serving.messages import Options
from ram_ray.serving.tagger import model_info, model_name, tag_batch
from tests.serving.pictures import photo
from tests.tiny import count_encodings


@pytest.fixture(scope="module")
def predictor(tiny_bundle: str) -> Predictor:
    return Predictor.from_pretrained(tiny_bundle, device="cpu", threads=1)


def picture(seed: int) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(photo(seed))).convert("RGB"))


def test_mixed_options_in_one_batch(predictor: Predictor) -> None:
    options = [
        Options(top_k=2),
        Options(tags=("red", "blue sea"), threshold=0.0),
        Options(top_k=2),
        Options(caption=True, top_k=1),
        Options(regions=True, threshold=0.0),
        Options(tags=("red", "blue sea"), threshold=0.0),
    ]
    jobs = [(picture(seed), one) for seed, one in enumerate(options)]
    together = tag_batch(predictor, jobs)
    for job, result in zip(jobs, together, strict=True):
        alone = tag_batch(predictor, [job])[0]
        assert [one.tag for one in result.tags] == [one.tag for one in alone.tags]
        assert np.allclose([one.score for one in result.tags], [one.score for one in alone.tags], atol=1e-4)
        assert result.caption == alone.caption and result.error is None
    assert [len(one.tags) for one in together] == [2, 2, 2, 1, 6, 2]
    assert all(one.box is not None for one in together[4].tags)


def test_tags_caption_and_boxes_of_a_request_share_one_encoding(predictor: Predictor) -> None:
    options = Options(caption=True, regions=True, top_k=6)
    jobs = [(picture(seed), options) for seed in range(3)]
    with count_encodings(predictor) as counted:
        results = tag_batch(predictor, jobs)
    assert counted == [3], "one call with the three images"
    images = [picture(seed) for seed in range(3)]
    assert [one.caption for one in results] == predictor.caption(images)
    ids = [[tag.id for tag in one.tags if tag.id is not None] for one in results]
    regions = AttentionDetector(predictor).detect(images, tags=[[]] * 3, tag_ids=ids)
    assert [[tag.box for tag in one.tags] for one in results] == [[one.box for one in row] for row in regions]


def test_a_group_that_fails_does_not_take_the_others_along(predictor: Predictor) -> None:
    odd = np.zeros((1, 1), np.complex64)  # nothing that a picture can be made of
    results = tag_batch(predictor, [(picture(1), Options(top_k=3)), (odd, Options(top_k=4))])
    assert len(results[0].tags) == 3 and results[0].error is None
    assert results[1].error is not None and results[1].error.code == "internal"


def test_the_model_names_its_labels_and_hides_its_place(predictor: Predictor) -> None:
    info = model_info(predictor, model=model_name("/srv/secret/runs/models/finetune/abc/"))
    assert info.model == "finetune/abc"
    assert [one.id for one in info.tags] == list(range(len(predictor.labels)))
    assert model_name("org/name") == "org/name"
