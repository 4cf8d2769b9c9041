"""The stage `synthesize`: generate images of captions before training (StableRep: ten for each caption).

The images are written to tars of the run, and a row has their locations, so training reads them like real images.
"""

from __future__ import annotations

import hashlib
import io
import tarfile
from typing import Any

import fsspec
import pyarrow as pa
from ray.data import Dataset

from ram_ray.config import RunConfig
from ram_ray.runtime.actors import model_actors
from ram_ray.runtime.annotate import annotate, read_rows, sum_blocks
from ram_ray.runtime.artifacts import Manifest, Run
from ram_ray.runtime.key_hash import hash_key
from ram_ray.runtime.storage import make_folder
from ram_ray.settings.synthesis import RepresentConfig
from ram_ray.synthesis.generators import make_generator
from ram_ray.training.rows import IMAGE_LOCATION

SYNTHETIC = pa.schema(
    [
        ("key", pa.string()),
        ("shard", pa.string()),
        ("captions", pa.list_(pa.string())),
        ("pictures", pa.list_(IMAGE_LOCATION)),
    ]
)


def synthesize(run: Run, config: RunConfig, samples: Manifest) -> Manifest:
    """Generate images of about `represent.num_captions` captions, which are selected by hash.

    Args:
        run: gets the stage's folder.
        config: configuration of the run.
        samples: manifest of SAMPLE rows.

    Returns:
        The manifest of the SYNTHETIC rows.
    """
    settings, resources = config.represent, config.resources
    fields = {"generator", "generator_revision", "num_captions", "pictures_made"}
    identity = {
        "synthesis": settings.model_dump(include=fields),
        "size": settings.train.image_size,
        "seed": config.seed,
    }
    stage = run.stage("synthesize", kind="annotations", config=identity, inputs=[samples])
    if stage.manifest:
        return stage.manifest
    share = min(1.0, settings.num_captions / samples.counts["rows_out"])

    def select(block: pa.Table) -> pa.Table:
        rows = zip(block["key"].to_pylist(), block["captions"].to_pylist(), strict=True)
        selected = [bool(captions) and hash_key(f"{config.seed}/{key}") < share * 2**64 for key, captions in rows]
        return block.filter(pa.array(selected, pa.bool_()))

    def transform(dataset: Dataset) -> Dataset:
        selected = dataset.map_batches(select, batch_format="pyarrow", batch_size=None, num_cpus=resources.task_cpus)
        return selected.map_batches(
            Synthesizer,
            fn_constructor_args=(settings,),
            fn_constructor_kwargs={
                "folder": f"{stage.path}-pictures",
                "seed": config.seed,
                "device": "cuda" if resources.actor_gpus else "cpu",
            },
            batch_format="pyarrow",
            batch_size=256,
            **model_actors(resources),
        )

    rows_in = int(share * samples.counts["rows_out"])
    annotate(stage, transform, source=samples.path, schema=SYNTHETIC, run=config, rows_in=rows_in)
    counts = sum_blocks(
        read_rows(stage.path, run=config, columns=["key"]), lambda block: {"rows": len(block)}, run=config
    )
    rows = int(counts["rows"])
    return stage.finish(rows_out=rows, images=rows * settings.pictures_made)


class Synthesizer:
    """Ray Data actor that generates the images of captions and writes a tar for each batch.

    Args:
        config: section `represent`.
        folder: URI of the tars.
        seed: seed of all images, combined with the row's key.
        device: device of a diffusers pipeline.
    """

    def __init__(self, config: RepresentConfig, *, folder: str, seed: int, device: str) -> None:
        self._config, self._folder, self._seed = config, folder, seed
        options: dict[str, Any] = {}
        if config.generator != "drawn":
            options = {"revision": config.generator_revision, "device": device}
        self._generator = make_generator(config.generator, **options)

    def __call__(self, block: pa.Table) -> pa.Table:
        """Generate the images of each row's first caption and write them to a tar.

        Args:
            block: rows with key, shard and captions.

        Returns:
            SYNTHETIC rows.
        """
        rows = [
            {"key": row["key"], "shard": row["shard"], "captions": row["captions"][:1]} for row in block.to_pylist()
        ]
        num_images = self._config.pictures_made
        captions = [row["captions"][0] for row in rows for _ in range(num_images)]
        seeds = [hash_key(f"{self._seed}/{row['key']}/{i}") >> 33 for row in rows for i in range(num_images)]
        images = self._generator.generate(captions, seeds=seeds, size=self._config.train.image_size)
        keys = "\n".join(row["key"] for row in rows)  # all keys, because a resumed run may have other batches
        name = hashlib.blake2b(keys.encode(), digest_size=6).hexdigest()
        locations = _write_tar(f"{self._folder}/{name}.tar", images)
        for index, row in enumerate(rows):
            row["pictures"] = locations[index * num_images : (index + 1) * num_images]
        return pa.Table.from_pylist(rows, schema=SYNTHETIC)


def _write_tar(uri: str, images: list[Any]) -> list[dict]:
    """Write images to a tar in a transaction; return the location of each image."""
    fs, path = fsspec.url_to_fs(uri)
    make_folder(fs, fs._parent(path))
    buffer = io.BytesIO()
    locations = []
    with tarfile.open(fileobj=buffer, mode="w", format=tarfile.USTAR_FORMAT) as tar:
        for index, image in enumerate(images):
            data = io.BytesIO()
            image.save(data, "JPEG", quality=95)
            info = tarfile.TarInfo(f"{index:06d}.jpg")
            info.size = data.tell()
            data.seek(0)
            locations.append({"uri": uri, "offset": buffer.tell() + tarfile.BLOCKSIZE, "nbytes": info.size})
            tar.addfile(info, data)
    with fs.transaction, fs.open(path, "wb") as file:
        file.write(buffer.getvalue())
    return locations
