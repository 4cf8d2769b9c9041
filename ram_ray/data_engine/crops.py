"""Crop each tag's region out of its image, embed it with the teacher, and score it with the tagger.

    own resolution         The detector gets the image in its own proportions, and crops are cut out of it: the tagger's
                           square of 224 pixels has too little of a small region. A crop is stretched to the input of
                           the tagger, which scores it, and of the teacher, which embeds it.
    tags without a region  A scene or an attribute ("beach", "red") has no region, and a detector may find none. The tag
                           is then measured on the whole image, which is scored anyway.
    images in doubt        With `engine.clean.doubt_share` the detector sees only the images with a tag in doubt that
                           can have a region; it gets all their tags. Of others a cheap one finds the regions.
    negatives              A probability alone means little: the asymmetric loss leaves negatives near 0.6, another
                           value for each tag. So a few tags that the image does not have are drawn (by key and seed)
                           and measured alike, for the comparison in `data_engine.wrong_tags`.
    selected labels        With `engine.clean.labels` or `max_labels` only these labels are searched for, drawn as
                           negatives, and counted as mentioned.
    shared passes          Scores of the whole image and attention boxes share an encoding. Crops of a batch go through
                           the models together, and a box that several tags share is cropped once. The pixels of at
                           most `batch_size` crops are held at once.
    few labels             Of the label system only the tags that are measured on the images or crops of a pass are
                           scored: the head costs more than the image encoder where it scores all of 4,585.

Pixels end here: the output is a small row an image.

Letters: B images, S pixels a side of the tagger's input, C crops, N tags, D width of an embedding.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from PIL import Image

from ram_ray.data.pixels import to_images
from ram_ray.data_engine.cut_crops import Crops
from ram_ray.data_engine.generate import to_rows
from ram_ray.data_engine.stage_settings import RegionSettings
from ram_ray.detectors.regions import WHOLE_IMAGE, Box
from ram_ray.detectors.registry import make_cheap_detector, make_detector
from ram_ray.label_system import is_present
from ram_ray.labels.match import MATCHED, PARSED
from ram_ray.records import HUMAN, Row, to_table
from ram_ray.runtime.key_hash import hash_key

if TYPE_CHECKING:
    from torch import Tensor

    from ram_ray.detectors.regions import RegionDetector
    from ram_ray.inference.predictor import Predictor
    from ram_ray.models.teacher import Teacher

KINDS_WITH_REGION = ("object", "action")
MENTIONED_ORIGINS = (PARSED, MATCHED, HUMAN)  # a caption or a person names the tag

# A row for each tag of an image.
REGIONS = pa.schema(
    [
        ("key", pa.string()),
        ("shard", pa.string()),
        ("tag", pa.int32()),
        ("positive", pa.bool_()),  # false: a negative, a tag that the image does not have
        ("mentioned", pa.bool_()),  # a caption or a human label names the tag; false if the engine added it
        ("confirmed", pa.bool_()),  # a human label of the image that is for scoring alone confirms the tag
        ("human", pa.bool_()),  # the tag is a human label: never removed
        ("box", pa.list_(pa.float32())),  # x0, y0, x1, y1 as shares of the image's sides
        ("detected", pa.bool_()),  # by the detector; false: by the cheap one (`engine.clean.doubt_share`)
        ("detector_score", pa.float32()),  # 0 if it found no region and the box is the whole image
        ("image_score", pa.float32()),  # the tagger's probability of the tag on the whole image
        ("region_score", pa.float32()),  # the tagger's probability of the tag on the crop
        ("predicted", pa.bool_()),  # whether the tagger predicts the tag on the crop: region_score >= its threshold
        ("other_mentions", pa.list_(pa.int32())),  # the image's other mentioned tags
        ("embedding", pa.binary()),  # float16 (D,), little-endian
    ]
)
# The same as a row for each image, since the stage resumes by `key`.
IMAGE_REGIONS = pa.schema(
    [
        ("key", pa.string()),
        ("shard", pa.string()),
        ("regions", pa.list_(pa.struct([field for field in REGIONS if field.name not in ("key", "shard")]))),
    ]
)


class RegionEmbedder:
    """Actor: images and their annotations -> IMAGE_REGIONS rows.

    A batch holds the ANNOTATION columns and those of `data.pixels.add_pixels`, as numpy. Rows with a `reason` and rows
    without tags of the selected labels get no regions.

    Args:
        bundle_uri: path, URI or id of the tagger.
        teacher_uri: path, URI or id of the CLIP that embeds crops.
        settings: of the stage.
        doubts: (T,) float, of each label the probability below which a tag is in doubt; None: the detector sees all
            images.
        teacher_revision: commit of a Hugging Face id.
        device: torch device, as in `Predictor.from_pretrained`.
        precision: "fp32" or "bf16".
        threads: number of torch threads.
        predictor: a loaded tagger, used in place of the bundle.
        teacher: a loaded CLIP, used in place of `teacher_uri`.
    """

    def __init__(
        self,
        bundle_uri: str,
        teacher_uri: str,
        settings: RegionSettings,
        *,
        doubts: np.ndarray | None = None,
        teacher_revision: str | None = None,
        device: str | None = None,
        precision: str = "fp32",
        threads: int | None = None,
        predictor: Predictor | None = None,
        teacher: Teacher | None = None,
    ) -> None:
        if predictor is None:
            from ram_ray.inference.predictor import Predictor as PredictorLoader

            predictor = PredictorLoader.from_pretrained(bundle_uri, device=device, precision=precision, threads=threads)
        if teacher is None:
            teacher = _load_teacher(teacher_uri, teacher_revision, device)
        self.predictor, self.teacher, self.settings = predictor, teacher, settings
        self._labels = np.arange(len(predictor.labels)) if settings.labels is None else np.array(settings.labels)
        self._selected = frozenset(self._labels.tolist())
        self.detector = make_detector(
            settings.detector,
            predictor=predictor,
            revision=settings.revision,
            precision=settings.detector_precision,
            device=device,
        )
        self._doubts = doubts
        self.cheap_detector = make_cheap_detector(settings.detector, predictor=predictor)

    def __call__(self, batch: Mapping[str, np.ndarray]) -> pa.Table:
        """Measure the tags of a batch.

        Args:
            batch: ANNOTATION rows as numpy columns, with `pixels` uint8 (B, S, S, 3), and `rgb`, `width` and `height`.

        Returns:
            IMAGE_REGIONS rows; a rejected row, or one without tags of selected labels, has no regions.
        """
        rows = to_rows(batch)
        images = [{"key": row["key"], "shard": row["shard"], "regions": []} for row in rows]
        tagged = [index for index, row in enumerate(rows) if not row["reason"] and self._selected_ids(row["tags"])]
        if tagged:
            pixels = np.stack([batch["pixels"][index] for index in tagged])
            regions = self._measure([rows[index] for index in tagged], pixels, to_images(batch, tagged))
            for index, image_regions in zip(tagged, regions, strict=True):
                images[index]["regions"] = image_regions
        return to_table(images, IMAGE_REGIONS)

    def _selected_ids(self, tags: list[Row] | None) -> list[int]:
        return [tag["id"] for tag in tags or () if tag["id"] in self._selected]

    def _measure(self, rows: list[Row], pixels: np.ndarray, images: list[Image.Image]) -> list[list[Row]]:
        """The regions of tagged images: `pixels` (B, S, S, 3) for the tagger, and B images for detector and crops."""
        import torch

        positives = [self._selected_ids(row["tags"]) for row in rows]
        mentioned = [
            self._selected_ids([tag for tag in row["tags"] if tag["origin"] in MENTIONED_ORIGINS]) for row in rows
        ]
        human = [{tag["id"] for tag in row["tags"] if tag["origin"] == HUMAN} for row in rows]
        negatives = [self._draw_negatives(row) for row in rows]
        confirmed = [set(row["truth"] or ()) for row in rows]
        # Encoded once, for the scores of the whole images and for attention boxes.
        tokens = [self.predictor.encode(part) for part in self._parts(pixels)]
        tag_ids = [[*ids, *negative_ids] for ids, negative_ids in zip(positives, negatives, strict=True)]
        asked = sorted(set().union(*tag_ids))
        whole = np.concatenate([self.predictor.token_probabilities(part, ids=asked) for part in tokens])  # (B, asked)
        column = {id: index for index, id in enumerate(asked)}
        seen = self._in_doubt(positives, whole, column)
        boxes: list[dict[int, tuple[Box, float]]] = [{} for _ in rows]
        for detector, part in ((self.detector, np.flatnonzero(seen)), (self.cheap_detector, np.flatnonzero(~seen))):
            indices = part.tolist()
            if indices:
                inputs = torch.cat(tokens)[indices] if detector.takes_tokens else [images[index] for index in indices]
                found = self._boxes(detector, inputs, [tag_ids[index] for index in indices])
                for index, image_boxes in zip(indices, found, strict=True):
                    boxes[index] = image_boxes
        crops = Crops(images)
        regions: list[list[Row]] = [[] for _ in rows]
        crop_indices: list[list[int]] = [[] for _ in rows]
        for image, image_boxes in enumerate(boxes):
            for id, (box, score) in image_boxes.items():
                region: Row = {"tag": id, "positive": id in positives[image], "mentioned": id in mentioned[image]}
                region |= {"confirmed": id in confirmed[image], "human": id in human[image]}
                region |= {"box": list(box), "detected": bool(seen[image]), "detector_score": score}
                region |= {
                    "image_score": float(whole[image, column[id]]),
                    "other_mentions": [tag for tag in mentioned[image] if tag != id],
                }
                regions[image].append(region)
                crop_indices[image].append(crops.add(image, box))
        self._score_crops(crops, regions, crop_indices)
        return regions

    def _in_doubt(self, positives: list[list[int]], whole: np.ndarray, column: dict[int, int]) -> np.ndarray:
        """Which images the detector sees, (B,) bool: those with a tag in doubt that can have a region.

        Args:
            positives: tags of each image.
            whole: (B, K) float, probabilities on the whole image.
            column: tag -> its column.
        """
        if self._doubts is None:
            return np.ones(len(positives), bool)
        labels = self.predictor.labels
        return np.array(
            [
                any(scores[column[id]] < self._doubts[id] for id in ids if labels[id].kind in KINDS_WITH_REGION)
                for ids, scores in zip(positives, whole, strict=True)
            ]
        )

    def _boxes(
        self, detector: RegionDetector, images: list[Image.Image] | Tensor, tag_ids: list[list[int]]
    ) -> list[dict[int, tuple[Box, float]]]:
        """The box and the detector's score of each tag of each image; `images` as in `RegionDetector.detect`."""
        labels = self.predictor.labels
        local_ids = [[id for id in ids if labels[id].kind in KINDS_WITH_REGION] for ids in tag_ids]
        names = [[labels[id].name for id in ids] for ids in local_ids]
        detected = detector.detect(images, tags=names, tag_ids=local_ids)
        boxes = [{region.tag_id: (region.box, region.score) for region in regions} for regions in detected]
        return [
            {id: image_boxes.get(id, (WHOLE_IMAGE, 0.0)) for id in ids}
            for ids, image_boxes in zip(tag_ids, boxes, strict=True)
        ]

    def _score_crops(self, crops: Crops, regions: list[list[Row]], crop_indices: list[list[int]]) -> None:
        """Add `region_score`, `predicted` and `embedding` to the regions."""
        parts = [
            self.teacher.encode_images(crops.cut(part, self.teacher.image_size))
            for part in self._parts(range(len(crops.corners)))
        ]
        embeddings = np.concatenate(parts)
        asked: dict[int, set[int]] = {}  # tags of each crop that is not the whole image, which is scored already
        for image_regions, indices in zip(regions, crop_indices, strict=True):
            for region, index in zip(image_regions, indices, strict=True):
                if not crops.is_whole[index]:
                    asked.setdefault(index, set()).add(region["tag"])
        scores: dict[tuple[int, int], float] = {}  # by crop and tag
        for part in self._parts(sorted(asked)):
            ids = sorted(set().union(*(asked[index] for index in part)))
            tokens = self.predictor.encode(crops.cut(part, self.predictor.image_size))
            found = self.predictor.token_probabilities(tokens, ids=ids)
            scores |= {
                (index, id): float(found[row, column])
                for row, index in enumerate(part)
                for column, id in enumerate(ids)
                if id in asked[index]
            }
        for image_regions, indices in zip(regions, crop_indices, strict=True):
            for region, index in zip(image_regions, indices, strict=True):
                score = scores.get((index, region["tag"]), region["image_score"])
                predicted = is_present(np.array(score, np.float32), self.predictor.thresholds[region["tag"]])
                region |= {"region_score": score, "predicted": bool(predicted)}
                region["embedding"] = embeddings[index].astype("<f2").tobytes()

    def _draw_negatives(self, row: Row) -> list[int]:
        """Selected labels that are no tags of the image, always the same for a key."""
        others = np.setdiff1d(self._labels, [tag["id"] for tag in row["tags"]])
        rng = np.random.default_rng(seeded_hash(row["key"], self.settings.seed))
        return sorted(
            int(id) for id in rng.choice(others, min(self.settings.num_negatives, len(others)), replace=False)
        )

    def _parts(self, values: Any) -> Iterator[Any]:
        size = self.settings.batch_size
        return (values[start : start + size] for start in range(0, len(values), size))


@functools.lru_cache(maxsize=1)
def _load_teacher(uri: str, revision: str | None, device: str | None) -> Teacher:
    """Load the teacher once a process; the scoring models of all folds share it (`data_engine.model_by_fold`)."""
    from ram_ray.models.teacher import Teacher as Loader

    return Loader.from_pretrained(uri, revision=revision, device=device)


def seeded_hash(key: str, seed: int) -> int:
    """Hash of a key and a seed.

    Args:
        key: of an image.
        seed: of the run or label.

    Returns:
        0 to 2^64 - 1, evenly distributed and the same on every machine.
    """
    return hash_key(f"{seed}/{key}", byteorder="little")


def explode_regions(table: pa.Table) -> pa.Table:
    """Turn rows of images into rows of tags.

    Args:
        table: IMAGE_REGIONS rows.

    Returns:
        REGIONS rows; an image without tags gives none.
    """
    table = table.select(IMAGE_REGIONS.names).combine_chunks()
    lists = table["regions"].combine_chunks() if table.num_rows else pa.array([], IMAGE_REGIONS.field("regions").type)
    parents = pc.list_parent_indices(lists)
    regions = lists.flatten()
    columns = {"key": table["key"].take(parents), "shard": table["shard"].take(parents)}
    columns |= {name: pc.struct_field(regions, name) for name in REGIONS.names[2:]}
    return pa.table(columns).cast(REGIONS)


def embeddings_of(embeddings: Sequence[bytes]) -> np.ndarray:
    """Decode the embeddings of REGIONS rows.

    Args:
        embeddings: for each row float16 values as little-endian bytes.

    Returns:
        (N, D) float32; (0, 0) without rows.

    Raises:
        ValueError: if the rows hold embeddings of different lengths.
    """
    if not embeddings:
        return np.zeros((0, 0), np.float32)
    if len({len(embedding) for embedding in embeddings}) > 1:
        raise ValueError("the embeddings have different lengths; they come from two teachers: run clean again")
    return np.frombuffer(b"".join(embeddings), "<f2").reshape(len(embeddings), -1).astype(np.float32)
