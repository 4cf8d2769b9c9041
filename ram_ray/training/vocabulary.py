"""The stage `vocabulary`: WordPiece trained on the run's own captions, or a published one copied into the run.

At most so many captions are read as a vocabulary needs; they stream from Parquet inside one task.
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
    """Leave `tokenizer.json` at the stage's path.

    Args:
        run: gets the stage's folder.
        config: of the run.
        samples: stage that left SAMPLE rows, whose captions are learnt from where the tokenizer is "trained".
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
        prompt = [config.model.prompt] * 100
        tokenizer = TextTokenizer.train(_captions(samples, prompt), vocab_size=config.model.vocab_size)
    else:
        tokenizer = TextTokenizer.load(config.tokenizer, revision=config.tokenizer_revision)
    fs, root = fsspec.url_to_fs(path)
    make_folder(fs, root)
    with tempfile.TemporaryDirectory() as folder:
        tokenizer.save(folder)
        fs.put(f"{folder}/tokenizer.json", f"{root}/tokenizer.json")
    return len(tokenizer)


def _captions(samples: str, first: list[str]) -> Iterator[str]:
    yield from first
    fs, root = fsspec.url_to_fs(samples)
    left = MAX_CAPTIONS
    for file in sorted(fs.glob(f"{root}/**/*.parquet")):
        with fs.open(file, "rb") as handle:
            for batch in pq.ParquetFile(handle).iter_batches(columns=["captions"]):
                for captions in batch.column(0).to_pylist():
                    yield from captions or []
                    left -= len(captions or [])
                if left <= 0:
                    return
