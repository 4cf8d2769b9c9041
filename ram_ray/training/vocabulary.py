"""The stage `vocabulary`: a WordPiece tokenizer, trained on the run's captions or copied from a published one.

At most `MAX_CAPTIONS` captions are read; a single task streams them from Parquet.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator

import fsspec
import pyarrow.parquet as pq
import ray

from ram_ray.config import RunConfig
from ram_ray.models.tokenizer import TextTokenizer
from ram_ray.runtime.artifacts import Manifest, Run
from ram_ray.runtime.storage import TASK_RETRIES, make_folder

MAX_CAPTIONS = 1_000_000


def build_vocabulary(run: Run, config: RunConfig, samples: Manifest) -> Manifest:
    """Write `tokenizer.json` to the stage's path.

    Args:
        run: gets the stage's folder.
        config: configuration of the run.
        samples: manifest of SAMPLE rows; the tokenizer "trained" is trained on their captions.

    Returns:
        The manifest of the stage.
    """
    identity = {
        "tokenizer": config.tokenizer,
        "revision": config.tokenizer_revision,
        "size": config.model.vocab_size,
        "prompt": config.model.prompt,
    }
    stage = run.stage("vocabulary", kind="models", config=identity, inputs=[samples])
    if stage.manifest:
        return stage.manifest
    make = ray.remote(num_cpus=config.resources.task_cpus, **TASK_RETRIES)(_make)
    size = ray.get(make.remote(samples.path, stage.path, config))
    return stage.finish(words=size)


def _make(samples: str, path: str, config: RunConfig) -> int:
    if config.tokenizer == "trained":
        prompts = [config.model.prompt] * 100
        tokenizer = TextTokenizer.train(_captions(samples, prompts), vocab_size=config.model.vocab_size)
    else:
        tokenizer = TextTokenizer.load(config.tokenizer, revision=config.tokenizer_revision)
    fs, root = fsspec.url_to_fs(path)
    make_folder(fs, root)
    with tempfile.TemporaryDirectory() as folder:
        tokenizer.save(folder)
        fs.put(f"{folder}/tokenizer.json", f"{root}/tokenizer.json")
    return len(tokenizer)


def _captions(samples: str, prompts: list[str]) -> Iterator[str]:
    yield from prompts
    fs, root = fsspec.url_to_fs(samples)
    num_remaining = MAX_CAPTIONS
    for file in sorted(fs.glob(f"{root}/**/*.parquet")):
        with fs.open(file, "rb") as handle:
            for batch in pq.ParquetFile(handle).iter_batches(columns=["captions"]):
                for captions in batch.column(0).to_pylist():
                    yield from captions or []
                    num_remaining -= len(captions or [])
                if num_remaining <= 0:
                    return
