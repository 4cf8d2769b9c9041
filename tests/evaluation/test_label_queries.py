"""Contract: a class that is no label of a model is asked for by the model's templates or by the texts of a file: RAM
takes their mean, RAM++ weights them for each image; a class without texts is asked for by the templates."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from ram_ray.cli.compare import parse_systems
from ram_ray.evaluation.label_queries import described_text, query_texts
from ram_ray.evaluation.systems.bundle import BundleSystem
from ram_ray.evaluation.systems.registry import SystemSpec, make_system
from ram_ray.inference import Predictor
from ram_ray.labels.lists import Entry
from ram_ray.models.teacher import Teacher
from tests.gpu.tiny_clip import save_clip
from tests.tiny import config, jpeg

TEXTS = {"zebra": ["a striped horse", "an animal of the plains"], "Kite (bird of prey)": ["a bird that hovers"]}
CLASSES = [Entry("dog"), Entry("zebra"), Entry("Zebra"), Entry("kite (bird of prey)"), Entry("lamp")]


@pytest.fixture(scope="module")
def descriptions(tmp_path_factory: pytest.TempPathFactory) -> str:
    path = tmp_path_factory.mktemp("descriptions") / "texts.json"
    path.write_text(json.dumps(TEXTS))
    return str(path)


def test_a_bundle_is_asked_by_the_mean_of_the_texts(tiny_bundle: str, descriptions: str, tmp_path: Path) -> None:
    (tmp_path / "a.jpg").write_bytes(jpeg(1, size=(32, 32)))
    (tmp_path / "b.jpg").write_bytes(jpeg(2, size=(32, 32)))
    predictor = Predictor.from_pretrained(tiny_bundle, device="cpu")
    files = [str(tmp_path / "a.jpg"), str(tmp_path / "b.jpg")]
    system = make_system(parse_systems([f"ours={tiny_bundle},descriptions={descriptions}"])[0])
    assert isinstance(system, BundleSystem)
    plan = system.plan(CLASSES, None)
    rules = ["name", "described", "described", "described", "open"]
    assert [item.matched_by for item in plan.classes] == rules
    tokens = predictor.encode(files)
    teacher = predictor._custom_tags._bundle.teacher()
    unit = [teacher.encode_texts(TEXTS["zebra"]), teacher.encode_texts(TEXTS["Kite (bird of prey)"])]
    means = np.stack([rows.mean(axis=0) / np.linalg.norm(rows.mean(axis=0)) for rows in unit])
    import torch

    with torch.no_grad():
        expected = predictor.model.logits(tokens, torch.from_numpy(means)).sigmoid().numpy()
    from PIL import Image

    pixels = np.stack([np.asarray(Image.open(file).convert("RGB")) for file in files])
    scores = system.load(plan, device="cpu", precision="fp32", threads=None)({"pixels": pixels}, [0, 1])
    np.testing.assert_allclose(scores[:, 1], expected[:, 0], atol=2e-5)
    np.testing.assert_allclose(scores[:, 1], scores[:, 2], atol=1e-6)
    np.testing.assert_allclose(scores[:, 3], expected[:, 1], atol=2e-5)
    plain = BundleSystem("plain", tiny_bundle)
    without = plain.load(plain.plan(CLASSES, None), device="cpu", precision="fp32", threads=None)(
        {"pixels": pixels}, [0, 1]
    )
    np.testing.assert_allclose(scores[:, [0, 4]], without[:, [0, 4]], atol=1e-6)
    assert np.abs(scores[:, 1] - without[:, 1]).max() > 1e-5
    assert plain.identity() != system.identity()


def test_ram_plus_gets_as_many_texts_for_each_class() -> None:
    plus = config(architecture="ram_plus", captions=False, descriptions=3, templates=("a photo of {article} {}.", "{}"))
    lower = {name.lower(): texts for name, texts in TEXTS.items()}
    texts = query_texts(["Zebra", "owl"], lower, config=plus)
    assert texts == {
        "Zebra": ["a striped horse", "an animal of the plains", "a striped horse"],
        "owl": ["a photo of an owl.", "owl", "a photo of an owl."],
    }
    assert query_texts(["owl"], lower, config=config(templates=("a {}",))) == {"owl": ["a owl"]}
    assert described_text("kite (bird of prey)", "kite", lower) == "kite (bird of prey)"
    assert described_text("tree-merged", "zebra", lower) == "zebra" and described_text("a", "b", None) is None


def test_a_dual_encoder_takes_the_mean_of_the_texts(tmp_path: Path, descriptions: str) -> None:
    save_clip(tmp_path)
    system = make_system(SystemSpec.parse(f"clip={tmp_path},descriptions={descriptions}"))
    plan = system.plan(CLASSES, None)
    assert [item.matched_by for item in plan.classes] == ["open", "described", "described", "described", "open"]
    pixels = np.random.default_rng(0).integers(0, 255, (2, 64, 64, 3), dtype=np.uint8)
    scores = system.load(plan, device="cpu", precision="fp32", threads=None)({"pixels": pixels}, [0, 1])
    teacher = Teacher.from_pretrained(str(tmp_path))
    mean = teacher.encode_texts(TEXTS["zebra"]).mean(axis=0)
    np.testing.assert_allclose(scores[:, 1], teacher.encode_images(pixels) @ mean / np.linalg.norm(mean), atol=1e-6)
    with pytest.raises(ValueError, match="descriptions= is for bundles and dual encoders"):
        make_system(SystemSpec.parse(f"a={descriptions},kind=predictions,descriptions=x"))


def test_a_wrong_file_is_named(tiny_bundle: str, tmp_path: Path) -> None:
    (tmp_path / "bad.json").write_text('{"zebra": []}')
    with pytest.raises(ValueError, match=r"^ours: .*bad.json: the descriptions of 'zebra' are not a list of texts"):
        make_system(SystemSpec.parse(f"ours={tiny_bundle},descriptions={tmp_path}/bad.json"))


def test_an_exact_set_is_answered_by_names_alone(tiny_bundle: str) -> None:
    system = BundleSystem("ours", tiny_bundle)
    classes = [Entry("dog"), Entry("dogs"), Entry("light")]
    assert [item.matched_by for item in system.plan(classes, None).classes][:2] == ["name", "spelling"]
    assert [item.matched_by for item in system.plan(classes, None, exact=True).classes] == ["name", "open", "open"]
