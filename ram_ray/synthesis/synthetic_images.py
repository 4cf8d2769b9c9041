"""The stage `synthesize`: generate images of captions before training (StableRep: ten for each caption).

The images are written to tars of the run, and a row has their locations, so training reads them like real images. A
caption that the generator refuses is rejected with a reason.
"""

from __future__ import annotations

import hashlib
import io
import tarfile
from itertools import islice
from typing import Any

import fsspec
import pyarrow as pa
from PIL import Image
from ray.data import Dataset

from ram_ray.config import RunConfig
from ram_ray.results import Samples, Synthetic
from ram_ray.runtime.actors import model_actors
from ram_ray.runtime.annotate import annotate, reject_counted
from ram_ray.runtime.artifacts import Run
from ram_ray.runtime.key_hash import hash_key
from ram_ray.runtime.storage import make_folder
from ram_ray.settings.section import StageSettings
from ram_ray.settings.synthesis import GeneratorConfig
from ram_ray.synthesis.generators import make_generator
from ram_ray.synthesis.pairs import Selection
from ram_ray.training.rows import IMAGE_LOCATION

SYNTHETIC = pa.schema(
    [
        ("key", pa.string()),
        ("shard", pa.string()),
        ("captions", pa.list_(pa.string())),
        ("images", pa.list_(IMAGE_LOCATION)),  # empty for a rejected caption
        ("reason", pa.string()),
        ("detail", pa.string()),
    ]
)


class SyntheticSettings(StageSettings):
    """All that synthetic images depend on, beside the captions."""

    generator: str
    generator_revision: str | None
    generation: GeneratorConfig
    num_captions: int
    images_per_caption: int
    size: int  # pixels a side
    seed: int

    @classmethod
    def from_config(cls, config: RunConfig) -> SyntheticSettings:
        """Take the settings out of the configuration of the run."""
        represent = config.represent
        return cls(
            generator=represent.generator,
            generator_revision=represent.generator_revision,
            generation=represent.generation,
            num_captions=represent.num_captions,
            images_per_caption=represent.images_per_caption,
            size=represent.train.image_size,
            seed=config.seed,
        )


def synthesize(run: Run, config: RunConfig, samples: Samples) -> Synthetic:
    """Generate images of about `represent.num_captions` captions, which are selected by hash.

    Args:
        run: gets the stage's folder.
        config: configuration of the run.
        samples: SAMPLE rows.

    Returns:
        The SYNTHETIC rows.
    """
    settings, execution = SyntheticSettings.from_config(config), config.execution
    stage = run.stage("synthesize", Synthetic, settings=settings, inputs=[samples])
    if stage.result:
        return stage.result
    selection = select_captions(settings.num_captions, samples, seed=settings.seed)
    resources = execution.resources

    def select(block: pa.Table) -> pa.Table:
        rows = zip(block["key"].to_pylist(), block["captions"].to_pylist(), strict=True)
        selected = [bool(captions) and selection.has(key) for key, captions in rows]
        return block.filter(pa.array(selected, pa.bool_()))

    def transform(dataset: Dataset) -> Dataset:
        selected = dataset.map_batches(select, batch_format="pyarrow", batch_size=None, num_cpus=execution.task_cpus)
        return selected.map_batches(
            Synthesizer,
            fn_constructor_args=(settings,),
            fn_constructor_kwargs={
                "folder": f"{stage.path}-images",
                "device": "cuda" if resources.actor_gpus else "cpu",
            },
            batch_format="pyarrow",
            batch_size=256,
            **model_actors(resources),
        )

    rows_in = int(selection.share * samples.rows_out)
    counts = annotate(stage, transform, source=samples.path, schema=SYNTHETIC, execution=execution, rows_in=rows_in)
    rows, rejected = reject_counted(stage, counts, execution=execution)
    good = rows - rejected
    return stage.finish(rows_in=rows, rows_out=good, rejected=rejected, images=good * settings.images_per_caption)


def select_captions(num_captions: int, samples: Samples, *, seed: int) -> Selection:
    """Select the images of whose captions synthetic images are made.

    Args:
        num_captions: about as many.
        samples: SAMPLE rows.
        seed: of the run.

    Returns:
        The selection.
    """
    return Selection(min(1.0, num_captions / max(1, samples.rows_out)), seed)


class Synthesizer:
    """Ray Data actor that generates the images of captions and writes a tar for each batch.

    Args:
        settings: of the stage; its seed is combined with the row's key.
        folder: URI of the tars.
        device: device of a diffusers pipeline.
    """

    def __init__(self, settings: SyntheticSettings, *, folder: str, device: str) -> None:
        self._settings, self._folder = settings, folder
        options: dict[str, Any] = {}
        if settings.generator != "drawn":
            options = {"revision": settings.generator_revision, "device": device, **settings.generation.model_dump()}
        self._generator = make_generator(settings.generator, **options)

    def __call__(self, block: pa.Table) -> pa.Table:
        """Generate the images of each row's first caption and write them to a tar.

        Args:
            block: rows with key, shard and captions.

        Returns:
            SYNTHETIC rows; one of which an image is refused is rejected, and has none.
        """
        rows = [
            {"key": row["key"], "shard": row["shard"], "captions": row["captions"][:1]} for row in block.to_pylist()
        ]
        num_images = self._settings.images_per_caption
        captions = [row["captions"][0] for row in rows for _ in range(num_images)]
        seeds = [hash_key(f"{self._settings.seed}/{row['key']}/{i}") >> 33 for row in rows for i in range(num_images)]
        images = self._generator.generate(captions, seeds=seeds, size=self._settings.size)
        of_rows = [images[start : start + num_images] for start in range(0, len(images), num_images)]
        accepted = [[image for image in of_row if image is not None] for of_row in of_rows]
        usable = [part if len(part) == num_images else [] for part in accepted]
        keys = "\n".join(row["key"] for row in rows)  # all keys, because a resumed run may have other batches
        name = hashlib.blake2b(keys.encode(), digest_size=6).hexdigest()
        locations = iter(_write_tar(f"{self._folder}/{name}.tar", [image for part in usable for image in part]))
        for row, part in zip(rows, usable, strict=True):
            row |= {"images": list(islice(locations, len(part))), "reason": None, "detail": None}
            if not part:
                row |= {"reason": "refused_caption", "detail": f"the safety check refused {row['captions'][0]!r}"}
        return pa.Table.from_pylist(rows, schema=SYNTHETIC)


def _write_tar(uri: str, images: list[Image.Image]) -> list[dict]:
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
