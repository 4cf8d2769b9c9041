"""The cluster in a box, with its corpus and models in the bucket: one for each file of tests, and no longer than it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.box.cluster import BUCKET, Box
from tests.box.corpus import write_corpus
from tests.box.models import write_models
from tests.box.runs import RUN_TIMEOUT_S, RunFolder, command


@pytest.fixture(scope="module")
def box(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Box]:
    """A running cluster whose bucket holds `data/<source>`, `data/eval` and `models/<name>`."""
    cluster = Box()
    try:
        bring_up(cluster, tmp_path_factory.mktemp("bucket"))
        yield cluster
    finally:
        cluster.close()


@pytest.fixture(scope="module")
def unbroken(box: Box) -> RunFolder:
    """The promised command, run once from the first stage to the last with nothing in its way."""
    box.run(*command("full_pipeline", "unbroken"), name="unbroken", timeout_s=RUN_TIMEOUT_S)
    return RunFolder(box, "unbroken")


def bring_up(cluster: Box, folder: Path) -> None:
    """Start a cluster, write the corpus and the models meanwhile, and put them into its bucket."""
    cluster.start()
    write_corpus(folder / "data")
    write_models(folder / "models")
    cluster.join()
    cluster.fs.put(f"{folder}/", f"{BUCKET}/", recursive=True)
    cluster.wait_ready()
