"""One Ray cluster and one tiny model bundle for the whole test run: real parts, small sizes."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from tests.s3 import S3Proxy

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
os.environ.setdefault("HF_HUB_OFFLINE", "1")  # no test asks a hub; each try would wait for seconds
os.environ.setdefault("RAY_ENABLE_UV_RUN_RUNTIME_ENV", "0")

BOX = "box/test_promised_command.py"
# The longest files that use Ray. Those that train are apart from each other: two trainings at once take several times
# as long as one after the other, for the workers of each wait for one another in every step.
LONGEST = (
    *("test_pipeline.py", "serving/test_app.py", "data/test_layouts.py", "runtime/test_storage_errors.py"),
    *("inference/test_batch.py", "curation/test_images.py", "data_engine/test_generate_stages.py"),
    *("data/test_caption_files.py", "training/test_trainer.py", "evaluation/test_open_set.py"),
    *("training/test_elastic.py", "labels/test_labelled_data.py"),
)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The box first, and beside it what needs no Ray, for idle processes of Ray take CPU too; then the longest files.

    So no process is left alone with a long file at the end.
    """
    root = Path(__file__).parent
    with_ray = {item.path for item in items if "ray_cluster" in getattr(item, "fixturenames", ())}
    order = {path: 2 + len(LONGEST) for path in with_ray}  # others have 1
    order |= {root / name: number for number, name in enumerate(LONGEST, 2)} | {root / BOX: 0}
    items.sort(key=lambda item: order.get(item.path, 1))


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder of real data beside the checkout."""
    folder = Path(__file__).resolve().parents[2] / "shared"
    if not folder.is_dir():
        pytest.skip("../shared with real photos, captions and reference outputs is not here")
    return folder


@pytest.fixture(scope="session")
def ray_cluster() -> Iterator[None]:
    """A Ray cluster of the run's own, as the jobs start one, that every test of the run shares."""
    from ram_ray.runtime import cluster

    cluster.start(num_cpus=3, object_store_gb=0.5)
    yield
    cluster.stop()


@pytest.fixture(scope="session")
def s3_server() -> Iterator[str]:
    """URL of an S3 server that every test of the run shares."""
    from tests.s3 import serve_s3

    with serve_s3() as url:
        yield url


@pytest.fixture(scope="module")
def s3(s3_server: str, request: pytest.FixtureRequest) -> Iterator[S3Proxy]:
    """The S3 server, found by the usual variables through a proxy of this module's own, with a bucket of its own."""
    from tests.s3 import S3Proxy, environment

    with S3Proxy(s3_server) as proxy, environment(proxy.url):
        proxy.make_bucket(request.module.__name__)
        yield proxy


@pytest.fixture(scope="session")
def tiny_bundle(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Path of a saved bundle: random weights, six tags, 32 px."""
    import torch

    from ram_ray.label_system import Label, LabelSystem
    from ram_ray.models.bundle import save_bundle
    from ram_ray.models.dual_encoder import DualEncoder
    from ram_ray.models.ram import RAM
    from ram_ray.models.teacher import Teacher
    from ram_ray.models.tokenizer import TextTokenizer
    from ram_ray.settings.models import DualEncoderConfig, ModelConfig, SwinConfig, TransformerConfig

    folder = tmp_path_factory.mktemp("tiny_bundle")
    torch.manual_seed(0)
    names = ["dog", "beach", "red", "run", "traffic light", "person"]
    kinds = ["object", "scene", "attribute", "action", "object", "object"]
    labels = LabelSystem(Label(i, name, kind) for i, (name, kind) in enumerate(zip(names, kinds, strict=True)))
    tokenizer = TextTokenizer.train([f"a picture of a {name} | {name}" for name in names] * 3, vocab_size=200)
    swin = SwinConfig(patch_size=4, window_size=4, embed_dim=8, depths=(2, 2), num_heads=(1, 2), drop_path=0.0)
    size = TransformerConfig(width=16, layers=2, heads=2, ffn=32, dropout=0.0)
    dual = DualEncoder(
        DualEncoderConfig(
            image_size=32, swin=swin, text=size, embed_dim=16, vocab_size=len(tokenizer), max_text_tokens=16
        )
    )
    dual.save(folder / "teacher", tokenizer)
    teacher = Teacher.from_pretrained(str(folder / "teacher"))
    config = ModelConfig(
        image_size=32,
        swin=swin,
        image_proj=16,
        label_width=16,
        recognition=size,
        tag_encoder=size,
        caption_decoder=size,
        vocab_size=len(tokenizer),
        max_positions=32,
        max_tag_tokens=16,
        max_caption_tokens=16,
        threshold=0.5,
    )
    model = RAM(config, teacher.label_embeddings(names, list(config.templates)))
    save_bundle(folder / "bundle", model, labels=labels, tokenizer=tokenizer, teacher=teacher)
    return str(folder / "bundle")
