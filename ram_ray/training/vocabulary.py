"""The stage `vocabulary`: a WordPiece tokenizer, trained on the run's captions or copied from a published one.

At most `MAX_CAPTIONS` captions are read; a single task streams them from Parquet.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator

import fsspec
import pyarrow.parquet as pq

from ram_ray.config import RunConfig
from ram_ray.models.tokenizer import TextTokenizer
from ram_ray.results import Samples, Vocabulary
from ram_ray.runtime.artifacts import Run
from ram_ray.runtime.storage import make_folder
from ram_ray.runtime.tasks import Task
from ram_ray.settings.section import StageSettings

MAX_CAPTIONS = 1_000_000


class VocabularySettings(StageSettings):
    """All that the tokenizer depends on, beside the captions."""

    tokenizer: str
    revision: str | None
    size: int
    prompt: str

    @classmethod
    def from_config(cls, config: RunConfig) -> VocabularySettings:
        """Take the settings out of the configuration of the run."""
        return cls(
            tokenizer=config.tokenizer,
            revision=config.tokenizer_revision,
            size=config.model.vocab_size,
            prompt=config.model.prompt,
        )


def build_vocabulary(run: Run, config: RunConfig, samples: Samples) -> Vocabulary:
    """Write `tokenizer.json` to the stage's path.

    Args:
        run: gets the stage's folder.
        config: configuration of the run.
        samples: SAMPLE rows; the tokenizer "trained" is trained on their captions.

    Returns:
        The tokenizer.
    """
    settings = VocabularySettings.from_config(config)
    stage = run.stage("vocabulary", Vocabulary, settings=settings, inputs=[samples])
    if stage.result:
        return stage.result
    size = Task(_make, num_cpus=config.execution.task_cpus).run(samples.path, stage.path, settings)
    return stage.finish(words=size)


def _make(samples: str, path: str, settings: VocabularySettings) -> int:
    if settings.tokenizer == "trained":
        prompts = [settings.prompt] * 100
        tokenizer = TextTokenizer.train(_captions(samples, prompts), vocab_size=settings.size)
    else:
        tokenizer = TextTokenizer.load(settings.tokenizer, revision=settings.revision)
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
