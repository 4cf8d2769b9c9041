"""Contract: tiny models of the real transformers classes, saved and loaded from disk, answer for every tag, and
each tag's box and score are those that the model itself gives that tag's tokens or query."""

import json

import fsspec
import numpy as np
import pytest
import torch
from PIL import Image

from ram_ray.detectors.registry import make_detector
from ram_ray.detectors.zero_shot import GroundingDinoDetector, Owlv2Detector
from tests.tiny_grounding_dino import save_grounding_dino
from tests.tiny_owlv2 import save_owlv2

TAGS = [["dog", "traffic light"], ["red", "dog", "beach"], []]
IDS = [[0, 4], [2, 0, 1], []]


@pytest.fixture(scope="module")
def images() -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (3, 64, 64, 3), dtype=np.uint8)


@pytest.fixture(scope="module")
def dino(tmp_path_factory) -> str:
    folder = tmp_path_factory.mktemp("dino")
    torch.manual_seed(0)
    save_grounding_dino(folder, words=("dog", "traffic", "light", "red", "beach"))
    return str(folder)


@pytest.fixture(scope="module")
def owl(tmp_path_factory) -> str:
    folder = tmp_path_factory.mktemp("owl")
    save_owlv2(folder)
    return str(folder)


@pytest.mark.parametrize("which, kind", [("dino", GroundingDinoDetector), ("owl", Owlv2Detector)])
def test_every_tag_gets_its_own_region_by_id(which, kind, request, images):
    path = request.getfixturevalue(which)
    assert type(make_detector(path, predictor=None, device="cpu")) is kind
    detector = kind(path, device="cpu", threshold=0.0, batch_size=2)
    detected = detector.detect(images, tags=TAGS, tag_ids=IDS)
    assert [sorted(region.tag_id for region in regions) for regions in detected] == [sorted(ids) for ids in IDS]
    for region in (region for regions in detected for region in regions):
        x0, y0, x1, y1 = region.box
        assert 0 <= x0 < x1 <= 1 and 0 <= y0 < y1 <= 1 and 0 < region.score < 1


@pytest.mark.parametrize("which, kind", [("dino", GroundingDinoDetector), ("owl", Owlv2Detector)])
def test_a_batch_gives_what_single_images_give(which, kind, request, images):
    detector = kind(request.getfixturevalue(which), device="cpu", threshold=0.0, batch_size=8)
    together = detector.detect(images, tags=TAGS, tag_ids=IDS)
    for index in range(2):
        alone = detector.detect(images[index : index + 1], tags=[TAGS[index]], tag_ids=[IDS[index]])[0]
        assert [region.tag_id for region in alone] == [region.tag_id for region in together[index]]
        for region, other in zip(alone, together[index], strict=True):
            assert region.score == pytest.approx(other.score, abs=1e-4)
            assert np.allclose(region.box, other.box, atol=1e-3)


@pytest.mark.parametrize("which, kind", [("dino", GroundingDinoDetector), ("owl", Owlv2Detector)])
def test_images_of_other_proportions_in_a_batch_change_nothing(which, kind, request, images):
    """The processor brings each image to the model's size; a result must not depend on the other images' padding."""
    detector = kind(request.getfixturevalue(which), device="cpu", threshold=0.0, batch_size=8)
    wide, high = (Image.fromarray(images[0]).resize(size) for size in ((120, 60), (50, 110)))
    together = detector.detect([wide, high], tags=TAGS[:2], tag_ids=IDS[:2])
    for index, image in enumerate((wide, high)):
        alone = detector.detect([image], tags=[TAGS[index]], tag_ids=[IDS[index]])[0]
        for region, other in zip(alone, together[index], strict=True):
            assert region.score == pytest.approx(other.score, abs=1e-4)
            assert np.allclose(region.box, other.box, atol=1e-3)


@pytest.mark.parametrize("which, kind", [("dino", GroundingDinoDetector), ("owl", Owlv2Detector)])
def test_half_precision_finds_nearly_the_same(which, kind, request, images):
    path = request.getfixturevalue(which)
    exact = kind(path, device="cpu", threshold=0.0).detect(images, tags=TAGS, tag_ids=IDS)
    for precision in ("fp16", "bf16"):
        half = kind(path, device="cpu", threshold=0.0, precision=precision).detect(images, tags=TAGS, tag_ids=IDS)
        ids = [[[region.tag_id for region in regions] for regions in detected] for detected in (half, exact)]
        assert ids[0] == ids[1]
        pairs = [
            (region.score, other.score)
            for regions, others in zip(half, exact, strict=True)
            for region, other in zip(regions, others, strict=True)
        ]
        assert np.allclose(*np.array(pairs).T, atol=0.02)


def test_a_detector_on_s3_is_the_one_on_disk(dino, images, s3):
    fsspec.filesystem("s3").put(f"{dino}/", f"{s3.bucket}/dino", recursive=True)
    local, remote = (make_detector(path, predictor=None, device="cpu") for path in (dino, f"{s3.bucket}/dino"))
    local.threshold = remote.threshold = 0.0
    detected = remote.detect(images, tags=TAGS, tag_ids=IDS)
    assert detected == local.detect(images, tags=TAGS, tag_ids=IDS) and detected[0]


def test_nothing_under_the_threshold(dino, images):
    detector = GroundingDinoDetector(dino, device="cpu", threshold=1.0)
    assert detector.detect(images, tags=TAGS, tag_ids=IDS) == [[], [], []]


def test_dino_scores_are_those_of_the_tags_own_tokens(dino, images):
    detector = GroundingDinoDetector(dino, device="cpu", threshold=0.0)
    processor, model = detector.processor, detector.model
    inputs = processor(images=Image.fromarray(images[0]), text="dog. traffic light.", return_tensors="pt")
    ids = inputs["input_ids"][0].tolist()
    assert ids == [101, 200, 1012, 201, 202, 1012, 102]
    with torch.no_grad():
        output = model(**inputs)
    probabilities = output.logits.sigmoid()[0]
    expected = {0: probabilities[:, 1].max().item(), 4: probabilities[:, 3:5].mean(dim=1).max().item()}
    regions = detector.detect(images[:1], tags=TAGS[:1], tag_ids=IDS[:1])[0]
    assert {region.tag_id: region.score for region in regions} == pytest.approx(expected, abs=1e-5)


def test_dino_prompts_are_packed_up_to_the_token_limit(dino, images):
    detector = GroundingDinoDetector(dino, device="cpu", threshold=0.0)  # 12 tokens: [CLS] + 10 + [SEP]
    assert detector.pack(["dog", "traffic light", "red", "beach", "dog"]) == [[0, 1, 2, 3], [4]]
    assert detector.pack(["dog " * 40, "red"]) == [[0], [1]]
    assert detector.pack([]) == []
    many = ["dog", "traffic light", "red", "beach", "dog"]
    detected = detector.detect(images[:1], tags=[many], tag_ids=[[0, 1, 2, 3, 4]])
    assert [region.tag_id for region in detected[0]] == [0, 1, 2, 3, 4]


def test_owl_agrees_with_transformers_own_post_processing(owl, images):
    detector = Owlv2Detector(owl, device="cpu", threshold=0.0)
    image = Image.fromarray(images[0]).resize((96, 48))  # padded to a square by the processor
    inputs = detector.processor(images=image, text=[["a photo of a dog"]], return_tensors="pt", max_length=40)
    with torch.no_grad():
        output = detector.model(**inputs)
    theirs = detector.processor.post_process_grounded_object_detection(output, threshold=0.0, target_sizes=[(48, 96)])[
        0
    ]
    best = theirs["scores"].argmax()
    ours = detector.detect([image], tags=[["dog"]], tag_ids=[[7]])[0][0]
    assert ours.score == pytest.approx(theirs["scores"][best].item(), abs=1e-5)
    x0, y0, x1, y1 = theirs["boxes"][best].tolist()
    assert np.allclose(ours.box, np.clip([x0 / 96, y0 / 48, x1 / 96, y1 / 48], 0, 1), atol=1e-4)


def test_a_model_of_another_kind_is_named(tmp_path):
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "bert"}))
    with pytest.raises(ValueError, match="'bert' model; use 'attention' or a model of grounding-dino"):
        make_detector(str(tmp_path), predictor=None)
