"""Wrong tags: each tag's region is cut out, and what does not look like its category goes (paper, section 3.3).

Two halves, because one needs pictures and the other needs categories:

    `RegionEmbedder`   a batch of pictures -> for each tag its box, the teacher's embedding of the crop, and the
                       tagger's probability of the tag on the crop ("agreement"). REGIONS rows: pictures end here.
    `decide`           all crops of one category -> which images lose the tag: the farthest share by clustering
                       (`ram_ray.engine.clustering`), and the crops on which the tagger does not see the tag.
    `apply_removals`   takes the tags out of the annotations and keeps the reason, the score and the round.

Categories with fewer than `min_images` images are left alone by both tests: with few crops "far from the rest" means
nothing, and a rare tag is the one that the tagger is the worst judge of. A tag that fails both is recorded once, as an
outlier: that test comes first in the paper, and its count is then exactly the share that was asked for.
A tag whose region was not found is judged on the whole picture.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from ram_ray.config import CleanConfig
from ram_ray.engine.clustering import cluster_outliers, num_clusters
from ram_ray.engine.generate import to_rows
from ram_ray.engine.regions import WHOLE, Box, make_detector
from ram_ray.records import ANNOTATION, to_table

if TYPE_CHECKING:
    from ram_ray.inference import Predictor
    from ram_ray.models.dual_encoder import Teacher

# One row a tag of an image.
REGIONS = pa.schema(
    [
        ("key", pa.string()),
        ("shard", pa.string()),
        ("tag", pa.int32()),
        ("box", pa.list_(pa.float32())),  # x0, y0, x1, y1 as shares
        ("score", pa.float32()),  # the detector's; 0 where it found nothing and the box is the whole picture
        ("agreement", pa.float32()),  # the tagger's probability of the tag on the crop
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
REMOVALS = pa.schema(
    [
        ("key", pa.string()),
        ("shard", pa.string()),
        ("tag", pa.int32()),
        ("reason", pa.string()),  # outlier | disagreement
        ("score", pa.float32()),  # 1 - cosine to the centre, or the probability on the region
    ]
)


class RegionEmbedder:
    """Actor: pictures and their annotations -> IMAGE_REGIONS rows.

    A batch holds `pixels` (B, S, S, 3) uint8 and the ANNOTATION columns, as numpy. The tagger and the teacher see
    every crop at the size S, many images' crops in one batch; a box that several tags of an image share (the whole
    picture, above all) is looked at once.
    """

    def __init__(
        self,
        bundle_uri: str,
        teacher_uri: str,
        config: CleanConfig,
        *,
        teacher_revision: str | None = None,
        device: str | None = None,
        precision: str = "fp32",
        threads: int | None = None,
        predictor: Predictor | None = None,
        teacher: Teacher | None = None,
    ) -> None:
        if predictor is None:
            from ram_ray.inference import Predictor as PredictorLoader

            predictor = PredictorLoader.from_pretrained(bundle_uri, device=device, precision=precision, threads=threads)
        if teacher is None:
            from ram_ray.models.dual_encoder import Teacher as TeacherLoader

            teacher = TeacherLoader.from_pretrained(teacher_uri, revision=teacher_revision, device=device)
        self.predictor, self.teacher, self.config = predictor, teacher, config
        self.detector = make_detector(config, predictor=predictor, device=device, precision=precision)

    def __call__(self, batch: Mapping[str, np.ndarray]) -> pa.Table:
        rows = to_rows(batch)
        wanted = [[] if row["reason"] else [tag["id"] for tag in row["tags"] or []] for row in rows]
        tagged = [place for place, ids in enumerate(wanted) if ids]
        regions: list[list[dict[str, Any]]] = [[] for _ in rows]
        if tagged:
            pixels = np.stack([batch["pixels"][place] for place in tagged])
            for place, found in zip(tagged, self._regions(pixels, [wanted[one] for one in tagged]), strict=True):
                regions[place] = found
        pairs = zip(rows, regions, strict=True)
        images = [{"key": row["key"], "shard": row["shard"], "regions": found} for row, found in pairs]
        return to_table(images, IMAGE_REGIONS)

    def _regions(self, pixels: np.ndarray, tag_ids: list[list[int]]) -> list[list[dict[str, Any]]]:
        names = [[self.predictor.labels[id].name for id in ids] for ids in tag_ids]
        found = self.detector.detect(pixels, tags=names, tag_ids=tag_ids)
        regions: list[tuple[int, int, dict[str, Any]]] = []  # image, place of its crop, region
        crops: list[np.ndarray] = []
        crop_of: dict[tuple[int, tuple[int, int, int, int]], int] = {}
        for image, (ids, of_image) in enumerate(zip(tag_ids, found, strict=True)):
            best = {one.tag_id: one for one in of_image}
            for id in ids:
                box, score = (best[id].box, best[id].score) if id in best else (WHOLE, 0.0)
                corners = to_pixels(box, pixels.shape[1:3])
                place = crop_of.setdefault((image, corners), len(crops))
                if place == len(crops):
                    crops.append(crop(pixels[image], corners))
                regions.append((image, place, {"tag": id, "box": list(box), "score": score}))
        seen = [self._look(np.stack(part)) for part in _parts(crops, self.config.batch_size)]
        probabilities, embeddings = (np.concatenate(one) for one in zip(*seen, strict=True))
        answer: list[list[dict[str, Any]]] = [[] for _ in tag_ids]
        for image, place, region in regions:
            agreement = float(probabilities[place, region["tag"]])
            embedding = embeddings[place].astype("<f2").tobytes()
            answer[image].append({**region, "agreement": agreement, "embedding": embedding})
        return answer

    def _look(self, crops: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        return self.predictor.probabilities(crops), self.teacher.encode_images(crops)


def to_pixels(box: Box, size: tuple[int, int]) -> tuple[int, int, int, int]:
    """A box in shares as x0, y0, x1, y1 in pixels of a picture of (height, width), at least one pixel each way."""
    height, width = size
    x0, y0 = min(int(box[0] * width), width - 1), min(int(box[1] * height), height - 1)
    return x0, y0, max(x0 + 1, min(width, round(box[2] * width))), max(y0 + 1, min(height, round(box[3] * height)))


def crop(picture: np.ndarray, corners: tuple[int, int, int, int]) -> np.ndarray:
    """The part of a picture (S, S, 3) uint8 between the corners, stretched to (S, S, 3) as in training."""
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


def embeddings_of(group: pa.Table) -> np.ndarray:
    """The embeddings (N, D) float32 of REGIONS rows.

    Raises:
        ValueError: if the rows hold embeddings of different lengths.
    """
    values = group["embedding"].to_pylist()
    if len({len(one) for one in values}) > 1:
        raise ValueError("the embeddings have different lengths; they come from two teachers: run clean again")
    return np.frombuffer(b"".join(values), "<f2").reshape(len(values), -1).astype(np.float32)


def decide(group: pa.Table, *, config: CleanConfig, seed: int = 0) -> pa.Table:
    """REMOVALS rows of one category, whose REGIONS rows `group` holds, whatever order they came in.

    Raises:
        ValueError: if an embedding is not finite.
    """
    if group.num_rows < config.min_images:
        return REMOVALS.empty_table()
    group = group.sort_by("key")
    tag = group["tag"][0].as_py()
    assert pc.count_distinct(group["tag"]).as_py() == 1, "a group holds one category"
    clusters = num_clusters(
        group.num_rows, images_per_cluster=config.images_per_cluster, max_clusters=config.max_clusters
    )
    found = cluster_outliers(embeddings_of(group), clusters=clusters, outliers=config.outliers, seed=seed + tag)
    agreement = group["agreement"].to_numpy()
    removed = np.flatnonzero(found.outlier | (agreement < config.disagreement))
    outlier = found.outlier[removed]
    return pa.table(
        {
            "key": group["key"].take(removed),
            "shard": group["shard"].take(removed),
            "tag": group["tag"].take(removed),
            "reason": np.where(outlier, "outlier", "disagreement").astype(object),
            "score": np.where(outlier, found.distance[removed], agreement[removed]),
        }
    ).cast(REMOVALS)


def apply_removals(annotations: pa.Table, removals: pa.Table, *, round: int) -> pa.Table:
    """ANNOTATION rows without the tags that the REMOVALS rows name; each is added to the row's `removed`.

    The tags listed under each caption stay as they were: they say what the caption says, and what is trained on is
    `tags`. A removal of a tag that a row does not carry changes nothing, so applying the same removals twice is safe.
    """
    of_key: dict[str, dict[int, dict[str, Any]]] = {}
    for one in removals.select(REMOVALS.names).to_pylist():
        of_key.setdefault(one["key"], {})[one["tag"]] = one
    rows = annotations.select(ANNOTATION.names).to_pylist()
    for row in rows:
        going = of_key.get(row["key"])
        if not going or not row["tags"]:
            continue
        gone = [going[tag["id"]] for tag in row["tags"] if tag["id"] in going]
        row["tags"] = [tag for tag in row["tags"] if tag["id"] not in going]
        row["removed"] = list(row["removed"] or [])
        for one in gone:
            row["removed"].append({"id": one["tag"], "reason": one["reason"], "score": one["score"], "round": round})
    return to_table(rows, ANNOTATION)


def _parts(values: list[Any], size: int) -> list[list[Any]]:
    return [values[start : start + size] for start in range(0, len(values), size)]
