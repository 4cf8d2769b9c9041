"""Each tag's region cut out of its picture and looked at twice: by the teacher, and by the tagger.

    `RegionEmbedder`   a batch of pictures -> for each tag its box, the teacher's embedding of the crop, and the
                       tagger's probability of the tag on the crop ("agreement") and on the whole picture ("whole")

Pictures end here: what goes on is one small row an image. Four choices:

    tags without a place   A scene or an attribute has no region ("beach", "red"). It is judged on the whole picture and
                           costs no pass of its own, since the whole picture is looked at anyway. So is a tag that the
                           detector did not find.
    tags that are absent   A probability alone says little: the asymmetric loss leaves absent tags near 0.6, another
                           value for each tag, and a region is cut out where the tag scores best, be it there or not. So
                           a few tags that the image does not carry are drawn (by its key and the seed), found, cut out
                           and looked at in the same way. Over all images they say, for each tag, what its signals look
                           like where it is absent, by which wrong is told from right (`data_engine.doubt`).
    one encoding an image  The scores of the whole image and the boxes from attention share one pass of the encoder.
    one look a crop        Crops of all images of the batch go through the models together, and a box that several tags
                           share is looked at once.

Letters: B images, S pixels, C crops, N tags, D width of an embedding.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from ram_ray.data.ground_truth import truth_ids
from ram_ray.data_engine.generate import to_rows
from ram_ray.detectors.make import make_detector
from ram_ray.detectors.regions import WHOLE_IMAGE, Box
from ram_ray.labels.match import MATCHED, PARSED
from ram_ray.records import to_table
from ram_ray.runtime.key_hash import hash_key
from ram_ray.settings.data_engine import CleanConfig

if TYPE_CHECKING:
    from torch import Tensor

    from ram_ray.inference.predictor import Predictor
    from ram_ray.models.dual_encoder import Teacher

KINDS_WITH_PLACE = ("object", "action")
SAID = (PARSED, MATCHED)  # origins of the tags that captions say

# One row a tag of an image.
REGIONS = pa.schema(
    [
        ("key", pa.string()),
        ("shard", pa.string()),
        ("tag", pa.int32()),
        ("carried", pa.bool_()),  # false: the image does not carry the tag, which is here to compare with
        ("said", pa.bool_()),  # a caption says it; false where the engine added it
        ("labelled", pa.bool_()),  # a human label of the image says so too
        ("box", pa.list_(pa.float32())),  # x0, y0, x1, y1 as shares
        ("score", pa.float32()),  # the detector's; 0 where it found nothing and the box is the whole picture
        ("whole", pa.float32()),  # the tagger's probability of the tag on the whole picture
        ("agreement", pa.float32()),  # and on the crop
        ("others", pa.list_(pa.int32())),  # the tags that the image carries besides and a caption says
        ("embedding", pa.binary()),  # float16 (D,), little-endian: one value a row, never boxed number by number
    ]
)
# The same rows, one an image: what a stage that resumes by `key` writes.
IMAGE_REGIONS = pa.schema(
    [
        ("key", pa.string()),
        ("shard", pa.string()),
        ("regions", pa.list_(pa.struct([field for field in REGIONS if field.name not in ("key", "shard")]))),
    ]
)


class RegionEmbedder:
    """Actor: pictures and their annotations -> IMAGE_REGIONS rows.

    A batch holds `pixels` (B, S, S, 3) uint8 and the ANNOTATION columns, as numpy. Rows with a `reason` and rows
    without tags get no regions.

    Args:
        bundle_uri: path, URI or id of the tagger.
        teacher_uri: path, URI or id of the CLIP that embeds crops.
        config: section `engine.clean`.
        absent: tags an image that it does not carry, looked at to compare with.
        seed: of their choice.
        teacher_revision: commit of a Hugging Face id.
        device: as in `Predictor.from_pretrained`, as are precision and threads.
        precision: "fp32" or "bf16".
        threads: of torch.
        predictor: a tagger that is loaded already, in place of the bundle.
        teacher: a CLIP that is loaded already.
    """

    def __init__(
        self,
        bundle_uri: str,
        teacher_uri: str,
        config: CleanConfig,
        *,
        absent: int = 1,
        seed: int = 0,
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
        self.predictor, self.teacher, self.config = predictor, teacher, config
        self.absent, self.seed = absent, seed
        self.detector = make_detector(config, predictor=predictor, device=device)

    def __call__(self, batch: Mapping[str, np.ndarray]) -> pa.Table:
        """Boxes and embeddings of the tags of a batch.

        Args:
            batch: ANNOTATION rows as numpy columns, with `pixels` uint8 (B, S, S, 3).

        Returns:
            IMAGE_REGIONS rows; a rejected row, or one without tags, has no regions.
        """
        rows = to_rows(batch)
        tagged = [place for place, row in enumerate(rows) if row["tags"] and not row["reason"]]
        regions: list[list[dict[str, Any]]] = [[] for _ in rows]
        if tagged:
            found = self._look([rows[place] for place in tagged], np.stack([batch["pixels"][one] for one in tagged]))
            for place, of_image in zip(tagged, found, strict=True):
                regions[place] = of_image
        pairs = zip(rows, regions, strict=True)
        images = [{"key": row["key"], "shard": row["shard"], "regions": found} for row, found in pairs]
        return to_table(images, IMAGE_REGIONS)

    def _look(self, rows: list[dict[str, Any]], pixels: np.ndarray) -> list[list[dict[str, Any]]]:
        """The regions of tagged images (B, S, S, 3)."""
        import torch

        carried = [[tag["id"] for tag in row["tags"]] for row in rows]
        said = [[tag["id"] for tag in row["tags"] if tag["origin"] in SAID] for row in rows]
        absent = [self._absent(row["key"], ids) for row, ids in zip(rows, carried, strict=True)]
        labelled = [self._labelled(row["labels"]) for row in rows]
        # Encoded once: for the scores of the whole images, and for the boxes where attention is the detector.
        tokens = [self.predictor.encode(part) for part in self._parts(pixels)]
        whole = np.concatenate([self.predictor.token_probabilities(part) for part in tokens])  # (B, N)
        asked = [[*one, *other] for one, other in zip(carried, absent, strict=True)]
        boxes = self._boxes(torch.cat(tokens) if self.detector.takes_tokens else pixels, asked)
        crops = _Crops(pixels)
        regions: list[list[dict[str, Any]]] = [[] for _ in rows]
        places: list[list[int]] = [[] for _ in rows]
        for image, found in enumerate(boxes):
            for id, (box, score) in found.items():
                region: dict[str, Any] = {"tag": id, "carried": id in carried[image], "said": id in said[image]}
                region |= {"labelled": id in labelled[image], "box": list(box), "score": score}
                region |= {"whole": float(whole[image, id]), "others": [one for one in said[image] if one != id]}
                regions[image].append(region)
                places[image].append(crops.add(image, box))
        self._judge(crops, whole, regions, places)
        return regions

    def _boxes(self, images: np.ndarray | Tensor, tag_ids: list[list[int]]) -> list[dict[int, tuple[Box, float]]]:
        """The box and the detector's score of each tag of each image; `images` as in `RegionDetector.detect`."""
        labels = self.predictor.labels
        asked = [[id for id in ids if labels[id].kind in KINDS_WITH_PLACE] for ids in tag_ids]
        names = [[labels[id].name for id in ids] for ids in asked]
        found = self.detector.detect(images, tags=names, tag_ids=asked)
        best = [{one.tag_id: (one.box, one.score) for one in of_image} for of_image in found]
        return [{id: of_image.get(id, (WHOLE_IMAGE, 0.0)) for id in ids} for ids, of_image in zip(tag_ids, best, strict=True)]

    def _judge(
        self, crops: _Crops, whole: np.ndarray, regions: list[list[dict[str, Any]]], places: list[list[int]]
    ) -> None:
        """Add `agreement` and `embedding` to the regions."""
        embeddings = np.concatenate([self.teacher.encode_images(np.stack(part)) for part in self._parts(crops.pixels)])
        cut = [place for place, is_whole in enumerate(crops.is_whole) if not is_whole]
        seen = [
            self.predictor.probabilities(np.stack([crops.pixels[one] for one in part])) for part in self._parts(cut)
        ]
        row_of = {place: row for row, place in enumerate(cut)}
        probabilities = np.concatenate(seen) if seen else whole[:0]  # (C, N)
        for image, (of_image, of_places) in enumerate(zip(regions, places, strict=True)):
            for region, place in zip(of_image, of_places, strict=True):
                row = whole[image] if crops.is_whole[place] else probabilities[row_of[place]]
                region["agreement"] = float(row[region["tag"]])
                region["embedding"] = embeddings[place].astype("<f2").tobytes()

    def _absent(self, key: str, carried: list[int]) -> list[int]:
        """Tags that the image does not carry, the same ones whenever it is looked at."""
        others = np.setdiff1d(np.arange(len(self.predictor.labels)), carried)
        drawn = np.random.default_rng(hash_of(key, self.seed)).choice(
            others, min(self.absent, len(others)), replace=False
        )
        return sorted(int(one) for one in drawn)

    def _labelled(self, names: list[str] | None) -> set[int]:
        return truth_ids(names, None, self.predictor.labels)[0] or set() if names else set()

    def _parts(self, values: Any) -> Iterator[Any]:
        size = self.config.batch_size
        return (values[start : start + size] for start in range(0, len(values), size))


@functools.lru_cache(maxsize=1)
def _load_teacher(uri: str, revision: str | None, device: str | None) -> Teacher:
    """One a process: the models of all parts of the images (`data_engine.folds`) share it."""
    from ram_ray.models.dual_encoder import Teacher as Loader

    return Loader.from_pretrained(uri, revision=revision, device=device)


class _Crops:
    """The crops of a batch of pictures (B, S, S, 3), each cut once."""

    def __init__(self, pictures: np.ndarray) -> None:
        self.pictures = pictures
        self.pixels: list[np.ndarray] = []
        self.is_whole: list[bool] = []
        self._place: dict[tuple[int, tuple[int, int, int, int]], int] = {}

    def add(self, image: int, box: Box) -> int:
        """The place of this crop among all."""
        height, width = self.pictures.shape[1:3]
        corners = to_pixels(box, (height, width))
        place = self._place.setdefault((image, corners), len(self.pixels))
        if place == len(self.pixels):
            self.pixels.append(crop(self.pictures[image], corners))
            self.is_whole.append(corners == (0, 0, width, height))
        return place


def hash_of(key: str, seed: int) -> int:
    """64 bits that look random, the same on every machine."""
    return hash_key(f"{seed}/{key}", byteorder="little")


def to_pixels(box: Box, size: tuple[int, int]) -> tuple[int, int, int, int]:
    """A box in shares as x0, y0, x1, y1 in pixels of a picture of (height, width), at least one pixel each way.

    Args:
        box: x0, y0, x1, y1 in shares of width and height, 0 to 1.
        size: (height, width) in pixels.
    """
    height, width = size
    x0, y0 = min(int(box[0] * width), width - 1), min(int(box[1] * height), height - 1)
    return x0, y0, max(x0 + 1, min(width, round(box[2] * width))), max(y0 + 1, min(height, round(box[3] * height)))


def crop(picture: np.ndarray, corners: tuple[int, int, int, int]) -> np.ndarray:
    """The part of a picture between the corners, stretched to the picture's size as in training.

    Args:
        picture: (S, S, 3) uint8.
        corners: x0, y0, x1, y1 in pixels.

    Returns:
        (S, S, 3) uint8.
    """
    from PIL import Image

    height, width = picture.shape[:2]
    if corners == (0, 0, width, height):
        return picture
    # not `resize(box=)`, which blends in the pixels around the box
    return np.asarray(Image.fromarray(picture).crop(corners).resize((width, height), Image.Resampling.BILINEAR))


def explode_regions(table: pa.Table) -> pa.Table:
    """REGIONS rows, one a tag, of IMAGE_REGIONS rows; images without tags give none."""
    table = table.select(IMAGE_REGIONS.names).combine_chunks()
    lists = table["regions"].combine_chunks() if table.num_rows else pa.array([], IMAGE_REGIONS.field("regions").type)
    parents = pc.list_parent_indices(lists)
    regions = lists.flatten()
    columns = {"key": table["key"].take(parents), "shard": table["shard"].take(parents)}
    columns |= {name: pc.struct_field(regions, name) for name in REGIONS.names[2:]}
    return pa.table(columns).cast(REGIONS)


def embeddings_of(embeddings: Sequence[bytes]) -> np.ndarray:
    """The embeddings of REGIONS rows.

    Args:
        embeddings: of each row, float16 in little-endian bytes.

    Returns:
        (N, D) float32; (0, 0) without rows.

    Raises:
        ValueError: if the rows hold embeddings of different lengths.
    """
    if not embeddings:
        return np.zeros((0, 0), np.float32)
    if len({len(one) for one in embeddings}) > 1:
        raise ValueError("the embeddings have different lengths; they come from two teachers: run clean again")
    return np.frombuffer(b"".join(embeddings), "<f2").reshape(len(embeddings), -1).astype(np.float32)
