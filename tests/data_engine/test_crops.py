"""Contract: every tag of every image and some negatives are cropped, embedded and scored; a tag without a region is
scored on the whole image, and a box is scored once. The detector sees the image in its own proportions, and crops are
cut out of it. Labels that are not selected cost nothing."""

import numpy as np
import pytest
from PIL import Image

from ram_ray.data.pixels import to_images
from ram_ray.data.preprocess import resize_square
from ram_ray.data_engine.crops import IMAGE_REGIONS, REGIONS, RegionEmbedder, embeddings_of, explode_regions
from ram_ray.data_engine.cut_crops import crop, to_pixels
from ram_ray.data_engine.stage_settings import RegionSettings
from ram_ray.detectors.regions import Region
from tests.data_engine.test_generate import annotation, numpy_batch
from tests.tiny import count_encodings

BEACH, RED = 1, 2  # of the tiny bundle: a scene and an attribute


def tag(id: int, origin: str = "parsed", score: float = 1.0) -> dict:
    return {"id": id, "origin": origin, "score": score}


def settings(*, num_negatives: int, seed: int, labels: tuple[int, ...] | None = None) -> RegionSettings:
    return RegionSettings(
        detector="attention",
        revision=None,
        detector_precision=None,
        image_bounds=(80, 100),
        doubt_share=None,
        labels=labels,
        num_negatives=num_negatives,
        seed=seed,
        batch_size=4,
    )


@pytest.fixture(scope="module")
def embedder(tiny_bundle) -> RegionEmbedder:
    return RegionEmbedder(tiny_bundle, f"{tiny_bundle}/../teacher", settings(num_negatives=2, seed=0), device="cpu")


def image_batch(rows: list[dict]) -> dict[str, np.ndarray]:
    """A batch of noise images of 72 x 56 pixels, as `add_pixels` makes it; the tagger's input has 32."""
    batch = numpy_batch(rows)
    noise = np.random.default_rng(1).integers(0, 256, (len(rows), 56, 72, 3), dtype=np.uint8)
    batch["rgb"] = np.array([image.tobytes() for image in noise] + [None], dtype=object)[:-1]
    batch |= {"width": np.full(len(rows), 72), "height": np.full(len(rows), 56)}
    batch["pixels"] = np.stack([resize_square(image, size=32) for image in to_images(batch, range(len(rows)))])
    return batch


def rows_of(embedder: RegionEmbedder, rows: list[dict]) -> tuple[list[dict], dict[str, np.ndarray]]:
    batch = image_batch(rows)
    images = embedder(batch)
    assert images.schema.equals(IMAGE_REGIONS) and images["key"].to_pylist() == [row["key"] for row in rows]
    regions = explode_regions(images)
    assert regions.schema.equals(REGIONS)
    return regions.to_pylist(), batch


def check_crops(embedder: RegionEmbedder, regions: list[dict], batch: dict[str, np.ndarray]) -> None:
    """Scores and embeddings of the regions of ROWS are those of crops of the images, not of the tagger's squares."""
    images = dict(zip(("s/1", "s/4"), to_images(batch, [0, 3]), strict=True))
    thresholds, size = embedder.predictor.thresholds, embedder.teacher.image_size
    for row in regions:
        image = images[row["key"]]
        corners = to_pixels(row["box"], (56, 72))
        scored = np.stack([crop(image, corners, size=32), resize_square(image, size=32)])
        probabilities = embedder.predictor.probabilities(scored)[:, row["tag"]]
        assert [row["region_score"], row["image_score"]] == pytest.approx(probabilities.tolist(), abs=1e-5)
        assert row["predicted"] == (row["region_score"] >= thresholds[row["tag"]])
        embedding = embeddings_of([row["embedding"]])
        expected = embedder.teacher.encode_images(np.stack([crop(image, corners, size=size)]))
        assert np.allclose(embedding, expected, atol=2e-3)
        assert np.linalg.norm(embedding) == pytest.approx(1, abs=2e-3)


ROWS = [
    annotation("s/1", tags=[tag(0), tag(4), tag(2)]),
    annotation("s/2", tags=[]),
    annotation("s/3", tags=[tag(1)], reason="undecodable"),
    annotation("s/4", tags=[tag(5)]),
]


def test_every_tag_is_embedded_and_scored_on_its_own_crop(embedder):
    regions, batch = rows_of(embedder, ROWS)
    positives = [(row["key"], row["tag"]) for row in regions if row["positive"]]
    assert positives == [("s/1", 0), ("s/1", 4), ("s/1", 2), ("s/4", 5)]
    assert [row["other_mentions"] for row in regions if row["positive"]] == [[4, 2], [0, 2], [0, 4], []]
    assert all(
        row["other_mentions"] == ([0, 4, 2] if row["key"] == "s/1" else [5]) for row in regions if not row["positive"]
    )
    check_crops(embedder, regions, batch)


def test_a_zero_shot_detector_gets_the_images_and_crops_are_cut_out_of_them(embedder, monkeypatch):
    class Corner:
        """Finds tag 0 in a corner of each image, and keeps the images."""

        takes_tokens = False
        images: list[Image.Image] = []

        def detect(self, images, *, tags, tag_ids):
            self.images += images
            return [[Region(0, (0.5, 0.25, 1.0, 0.75), 0.4)] if 0 in ids else [] for ids in tag_ids]

    monkeypatch.setattr(embedder, "detector", Corner())
    regions, batch = rows_of(embedder, ROWS)
    assert [image.tobytes() for image in Corner.images] == [batch["rgb"][0], batch["rgb"][3]]
    check_crops(embedder, regions, batch)
    found = [row for row in regions if row["tag"] == 0]
    assert all(row["box"] == [0.5, 0.25, 1, 0.75] and row["region_score"] != row["image_score"] for row in found)
    assert found and all(row["box"] == [0, 0, 1, 1] for row in regions if row["tag"] != 0)


def test_a_detector_sees_only_images_with_a_tag_in_doubt(embedder: RegionEmbedder) -> None:
    """Here the box of `attention`; a tag that can have no region is never in doubt, however unsure the tagger is."""
    rows = [*ROWS, annotation("s/5", tags=[tag(BEACH), tag(RED)])]
    whole, _ = rows_of(embedder, rows)
    assert all(row["detected"] for row in whole)
    sure, limits = next(row for row in whole if (row["key"], row["tag"]) == ("s/4", 5)), np.full(6, np.inf)
    limits[5] = sure["image_score"]  # not below it
    models = {"predictor": embedder.predictor, "teacher": embedder.teacher}
    other = RegionEmbedder("", "", settings(num_negatives=2, seed=0), doubts=limits, **models)
    regions, batch = rows_of(other, rows)
    check_crops(other, [row for row in regions if row["key"] != "s/5"], batch)
    assert {row["key"] for row in regions if row["detected"]} == {"s/1"}
    first = [row for row in whole if row["key"] == "s/1"]
    assert [row["box"] for row in regions if row["detected"]] == [row["box"] for row in first]
    unseen = [row for row in regions if not row["detected"]]
    assert {row["key"] for row in unseen} == {"s/4", "s/5"}
    assert all(row["box"] == [0, 0, 1, 1] and row["detector_score"] == 0 for row in unseen)


def test_no_label_is_scored_that_is_not_asked_for(embedder, monkeypatch):
    class Corner:
        takes_tokens = False

        def detect(self, images, *, tags, tag_ids):
            return [[Region(id, (0.5, 0.25, 1.0, 0.75), 0.4) for id in ids if id in (0, 4)] for ids in tag_ids]

    asked, score = [], embedder.predictor.token_probabilities
    models = {"predictor": embedder.predictor, "teacher": embedder.teacher}
    other = RegionEmbedder("", "", settings(num_negatives=1, seed=0), **models)
    monkeypatch.setattr(other, "detector", Corner())
    with monkeypatch.context() as patch:
        patch.setattr(
            embedder.predictor,
            "token_probabilities",
            lambda tokens, *, ids: asked.append(set(ids)) or score(tokens, ids=ids),
        )
        regions, batch = rows_of(other, ROWS)
    assert asked == [{row["tag"] for row in regions}, {0, 4}], "the images, and the crops that are no whole image"
    check_crops(other, regions, batch)


def test_labels_that_are_not_selected_are_not_measured(embedder):
    labels = settings(num_negatives=9, seed=0, labels=(2, 4))
    other = RegionEmbedder("", "", labels, predictor=embedder.predictor, teacher=embedder.teacher)
    regions, _ = rows_of(other, [*ROWS, annotation("s/5", tags=[tag(2), tag(0)])])
    measured = {(row["key"], row["tag"]): row for row in regions}
    assert {place: row["positive"] for place, row in measured.items()} == {
        ("s/1", 4): True, ("s/1", 2): True, ("s/5", 2): True, ("s/5", 4): False,
    }  # fmt: skip
    assert measured["s/1", 4]["other_mentions"] == [2] and measured["s/5", 4]["other_mentions"] == [2]


def test_scores_and_boxes_of_an_image_share_one_encoding(embedder):
    with count_encodings(embedder.predictor) as counted:
        regions, batch = rows_of(embedder, ROWS)
    whole = (0, 0, 72, 56)
    boxes = {(row["key"], to_pixels(row["box"], (56, 72))) for row in regions}
    crops = [box for _, box in boxes if box != whole]
    assert counted[0] == 2 and sum(counted) == 2 + len(crops), "each image with tags once, and each of its crops"
    tagged = batch["pixels"][[0, 3]]
    ids = [[0, 4], [5]]
    detected = embedder.detector.detect(tagged, tags=[[]] * 2, tag_ids=ids)
    rows = {(row["key"], row["tag"]): row for row in regions}
    for key, image_regions in zip(("s/1", "s/4"), detected, strict=True):
        for region in image_regions:
            row = rows[key, region.tag_id]
            assert row["box"] == pytest.approx(region.box) and row["detector_score"] == pytest.approx(
                region.score, abs=1e-5
            )


def test_added_tags_are_marked_and_do_not_co_occur(embedder):
    rows = [annotation(tags=[tag(0), tag(4, "tagger", 0.9), tag(2, "matched"), tag(5, "generated_caption", 0.8)])]
    regions = {row["tag"]: row for row in rows_of(embedder, rows)[0]}
    assert {id for id, row in regions.items() if row["mentioned"]} == {0, 2}
    assert {id for id, row in regions.items() if row["positive"]} == {0, 2, 4, 5}
    assert [regions[id]["other_mentions"] for id in (0, 2, 4, 5)] == [[2], [0], [0, 2], [0, 2]]


def test_tags_without_a_region_are_scored_on_the_whole_image(embedder):
    regions, _ = rows_of(embedder, [annotation(tags=[tag(BEACH), tag(RED), tag(0)])])
    for row in regions:
        if row["tag"] in (BEACH, RED):
            assert (
                row["box"] == [0, 0, 1, 1] and row["region_score"] == row["image_score"] and row["detector_score"] == 0
            )
    whole = {row["embedding"] for row in regions if row["tag"] in (BEACH, RED)}
    assert len(whole) == 1


def test_negatives_follow_from_the_key_and_the_seed(embedder, tiny_bundle):
    def negatives(actor: RegionEmbedder, rows: list[dict]) -> set[tuple[str, int]]:
        return {(row["key"], row["tag"]) for row in rows_of(actor, rows)[0] if not row["positive"]}

    drawn = negatives(embedder, ROWS)
    assert len(drawn) == 4 and not drawn & {("s/1", 0), ("s/1", 4), ("s/1", 2), ("s/4", 5)}
    assert negatives(embedder, ROWS[::-1]) == drawn
    many = [annotation(f"s/{number}", tags=[tag(0)]) for number in range(40)]
    one_negative = settings(num_negatives=1, seed=1)
    other = RegionEmbedder("", "", one_negative, predictor=embedder.predictor, teacher=embedder.teacher)
    assert {id for _, id in negatives(other, many)} == {1, 2, 3, 4, 5}


def test_tags_that_a_human_label_confirms_are_marked(embedder):
    rows = [annotation(tags=[tag(0), tag(4)], truth=[0]), annotation("s/2", truth=None)]
    regions, _ = rows_of(embedder, rows)
    assert [(row["key"], row["tag"]) for row in regions if row["confirmed"]] == [("s/1", 0)]


def test_a_tag_that_the_detector_did_not_find_is_scored_on_the_whole_image(embedder, monkeypatch):
    monkeypatch.setattr(embedder.detector, "detect", lambda images, *, tags, tag_ids: [[] for _ in tag_ids])
    regions, _ = rows_of(embedder, [annotation(tags=[tag(0), tag(4)])])
    assert all(row["box"] == [0, 0, 1, 1] and row["detector_score"] == 0 for row in regions)


def test_a_batch_in_which_no_image_has_tags(embedder):
    assert rows_of(embedder, [annotation(tags=[])])[0] == []


def test_a_box_becomes_pixels_and_a_crop_fills_the_image():
    assert to_pixels((0.25, 0, 0.5, 1), (32, 32)) == (8, 0, 16, 32)
    assert to_pixels((0.999, 0.999, 1, 1), (32, 32)) == (31, 31, 32, 32)
    image = np.zeros((32, 48, 3), np.uint8)
    image[8:16, 16:24] = 200
    assert (crop(Image.fromarray(image), (16, 8, 24, 16), size=20) == 200).all()
    whole = crop(Image.fromarray(image), (0, 0, 48, 32), size=20)
    np.testing.assert_array_equal(whole, resize_square(Image.fromarray(image), size=20))


def test_embeddings_of_two_teachers_are_refused():
    with pytest.raises(ValueError, match="two teachers"):
        embeddings_of([b"\0" * 8, b"\0" * 16])


def test_a_human_label_is_marked_and_mentioned(embedder):
    regions, _ = rows_of(embedder, [annotation(tags=[tag(0, "human"), tag(4, "tagger"), tag(5)])])
    by_tag = {row["tag"]: row for row in regions if row["positive"]}
    assert {id: (row["human"], row["mentioned"]) for id, row in by_tag.items()} == {
        0: (True, True), 4: (False, False), 5: (False, True),
    }  # fmt: skip
    assert by_tag[4]["other_mentions"] == [0, 5]
