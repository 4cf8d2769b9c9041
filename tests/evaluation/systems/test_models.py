"""Contract: CLIP and detectors of transformers' own classes are systems as bundles are: named by a path, asked for
every class by its text, and scored on the images of a set."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
import torch

from ram_ray.cli.compare import parse_sets
from ram_ray.config import RunConfig
from ram_ray.data.pixels import add_pixels, to_images
from ram_ray.detectors.zero_shot import GroundingDinoDetector
from ram_ray.evaluation.score_set import SystemActor, make_plan
from ram_ray.evaluation.sets.prepare import EvalSet, prepare_set
from ram_ray.evaluation.sets.rows import look_up_sizes
from ram_ray.evaluation.systems.detector import DetectorSystem
from ram_ray.evaluation.systems.registry import SystemSpec, make_system
from ram_ray.evaluation.systems.system import System
from ram_ray.evaluation.systems.zero_shot import ZeroShotSystem
from ram_ray.models.teacher import Teacher
from ram_ray.settings.prompts import ensemble
from tests.gpu.tiny_clip import save_clip
from tests.tiny import jpeg
from tests.tiny_grounding_dino import save_grounding_dino

CLASSES = ["dog", "tree-merged", "kite (bird of prey)"]
TEXTS = ["dog", "tree", "kite"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("set")
    for number in range(3):
        (folder / f"{number}.jpg").write_bytes(jpeg(number, size=(90, 60)))
    (folder / "broken.jpg").write_bytes(jpeg(9)[:300])
    (folder / "truth.txt").write_text("0,dog\n1,dog,tree-merged\nbroken,dog\n2\nnone,dog")
    (folder / "classes.txt").write_text("\n".join(CLASSES))
    return folder


@pytest.fixture(scope="module")
def eval_set(folder: Path) -> EvalSet:
    spec = parse_sets([f"s={folder}/truth.txt,images={folder},classes={folder}/classes.txt"])[0]
    return prepare_set(spec, str(folder / "prepared"), config=RunConfig())


def read_batch(eval_set: EvalSet, system: System) -> dict[str, np.ndarray]:
    """The images as the tasks of `score_set` hand them to an actor."""
    (path,) = Path(eval_set.folder).glob("rows-*.parquet")
    rows = look_up_sizes(pa.parquet.read_table(path))
    limits = RunConfig().data.limits(min_side=1)
    table = add_pixels(rows, size=system.image_size, limits=limits, bounds=system.bounds)
    plain = [name for name in table.column_names if name != "pixels"]
    frame = table.select(plain).to_pandas()
    pixels = table["pixels"].combine_chunks().to_numpy_ndarray()
    return {**{name: frame[name].to_numpy() for name in frame}, "pixels": pixels}


def score(eval_set: EvalSet, system: System) -> tuple[dict[str, np.ndarray], np.ndarray]:
    plan = make_plan(system, eval_set)
    assert [item.text for item in plan.classes] == TEXTS and {item.matched_by for item in plan.classes} == {"open"}
    assert plan.thresholds is None and plan.unsupported == ()
    batch = read_batch(eval_set, system)
    table = SystemActor(system, plan, eval_set.entries, device="cpu", precision="fp32")(batch)
    (row,) = table.to_pylist()
    assert row["keys"] == ["0", "1", "2"], "what cannot be read is not scored"
    assert row["targets"] == [1, 0, 0, 1, 1, 0, 0, 0, 0]
    return batch, np.array(row["scores"]).reshape(3, 3)


def test_clip(tmp_path: Path, eval_set: EvalSet) -> None:
    save_clip(tmp_path)
    system = make_system(SystemSpec.parse(f"clip={tmp_path}"))
    assert isinstance(system, ZeroShotSystem) and system.image_size == 64
    batch, scores = score(eval_set, system)
    teacher = Teacher.from_pretrained(str(tmp_path))
    texts = teacher.label_embeddings(TEXTS, list(ensemble())).numpy()
    np.testing.assert_allclose(scores, teacher.encode_images(batch["pixels"][[0, 1, 3]]) @ texts.T, atol=1e-6)
    assert scores.std() > 1e-4
    before = system.identity()
    (tmp_path / "preprocessor_config.json").write_text("{}")
    assert system.identity() != before


def test_a_detector(tmp_path: Path, eval_set: EvalSet) -> None:
    torch.manual_seed(0)
    save_grounding_dino(tmp_path, words=("dog", "tree", "kite"))
    system = make_system(SystemSpec.parse(f"dino={tmp_path}"))
    assert isinstance(system, DetectorSystem) and system.model_type == "grounding-dino"
    batch, scores = score(eval_set, system)
    detector = GroundingDinoDetector(str(tmp_path), device="cpu", threshold=-1.0)
    found = detector.detect(to_images(batch, [0, 1, 3]), tags=[TEXTS] * 3, tag_ids=[[0, 1, 2]] * 3)
    for row, regions in enumerate(found):
        for region in regions:
            assert scores[row, region.tag_id] == pytest.approx(region.score, abs=1e-6)
    assert (scores > 0).all()


def test_models_that_are_no_systems(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text('{"model_type": "gpt2"}')
    with pytest.raises(ValueError, match="a model of the type 'gpt2' cannot be scored"):
        make_system(SystemSpec.parse(f"gpt={tmp_path}"))
    with pytest.raises(ValueError, match="is no detector that we know"):
        make_system(SystemSpec.parse(f"gpt={tmp_path},kind=detector"))
    with pytest.raises(ValueError, match="vocabulary= is for a predictions file"):
        make_system(SystemSpec.parse(f"gpt={tmp_path},kind=bundle,vocabulary=x"))
    with pytest.raises(ValueError, match="kind=magic: use bundle"):
        SystemSpec.parse("a=b,kind=magic")
    with pytest.raises(ValueError, match="write NAME=MODEL"):
        SystemSpec.parse("a=")
