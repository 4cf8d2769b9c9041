"""Contract: CLIP, SigLIP, BLIP and detectors of transformers' own classes are systems as bundles are: named by a path,
asked for every class by its text, and scored on the images of a set."""

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
from ram_ray.evaluation.sets.prepare import EvalSet, SetReading, prepare_set
from ram_ray.evaluation.sets.rows import look_up_sizes
from ram_ray.evaluation.systems import matching
from ram_ray.evaluation.systems.detector import DetectorSystem
from ram_ray.evaluation.systems.registry import SystemSpec, make_system
from ram_ray.evaluation.systems.system import System
from ram_ray.evaluation.systems.zero_shot import ZeroShotSystem
from ram_ray.models.teacher import Teacher
from ram_ray.settings.prompts import ensemble, fill
from tests.gpu.tiny_clip import save_clip
from tests.tiny import jpeg
from tests.tiny_grounding_dino import save_grounding_dino
from tests.tiny_owlv2 import save_owlv2
from tests.tiny_siglip import MAX_TOKENS, save_siglip

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
    return prepare_set(spec, str(folder / "prepared"), reading=SetReading.from_config(RunConfig()))


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


def test_siglip(tmp_path: Path, eval_set: EvalSet) -> None:
    """The cosines are those of transformers' own forward passes with texts padded to the full length."""
    from PIL import Image
    from transformers import AutoTokenizer, SiglipImageProcessor, SiglipModel

    save_siglip(tmp_path, words=["a", "photo", "of", "the", *TEXTS])
    system = make_system(SystemSpec.parse(f"siglip={tmp_path}"))
    assert isinstance(system, ZeroShotSystem) and system.image_size == 32
    batch, scores = score(eval_set, system)
    model, words = SiglipModel.from_pretrained(tmp_path).eval(), AutoTokenizer.from_pretrained(tmp_path)
    images = [Image.fromarray(batch["pixels"][row]) for row in (0, 1, 3)]
    pixels = SiglipImageProcessor.from_pretrained(tmp_path)(images, return_tensors="pt")["pixel_values"]
    with torch.no_grad():
        seen = torch.nn.functional.normalize(model.vision_model(pixels).pooler_output, dim=-1)
        for column, text in enumerate(TEXTS):
            prompts = [fill(template, text) for template in ensemble()]
            ids = words(prompts, padding="max_length", truncation=True, max_length=MAX_TOKENS, return_tensors="pt")
            vectors = torch.nn.functional.normalize(model.text_model(ids["input_ids"]).pooler_output, dim=-1)
            expected = seen @ torch.nn.functional.normalize(vectors.mean(0), dim=0)
            np.testing.assert_allclose(scores[:, column], expected.numpy(), atol=1e-5)
    assert scores.std() > 1e-4


def test_owlv2(tmp_path: Path, eval_set: EvalSet) -> None:
    """The score of a class is the highest probability of its query over the boxes of transformers' forward pass, but
    for those in the padding that makes the image a square."""
    from transformers import Owlv2ForObjectDetection, Owlv2Processor

    save_owlv2(tmp_path)
    system = make_system(SystemSpec.parse(f"owl={tmp_path}"))
    assert isinstance(system, DetectorSystem) and system.model_type == "owlv2"
    batch, scores = score(eval_set, system)
    model, processor = (
        Owlv2ForObjectDetection.from_pretrained(tmp_path).eval(),
        Owlv2Processor.from_pretrained(tmp_path),
    )
    prompts = [f"a photo of a {text}" for text in TEXTS]
    text = processor.tokenizer(prompts, padding="max_length", max_length=40, return_tensors="pt")
    for row, image in enumerate(to_images(batch, [0, 1, 3])):
        pixels = processor.image_processor(images=[image], return_tensors="pt")["pixel_values"]
        with torch.no_grad():
            output = model(input_ids=text["input_ids"], attention_mask=text["attention_mask"], pixel_values=pixels)
        tops = (output.pred_boxes[0, :, 1] - output.pred_boxes[0, :, 3] / 2) * 90  # pixels; below 60 is padding
        on_image = output.logits[0].sigmoid()[tops < 60]
        np.testing.assert_allclose(scores[row], on_image.amax(0).numpy(), atol=1e-5)
    assert (scores > 0).all() and scores.std() > 1e-5


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


def save_blip(folder: Path, *, matching: bool = True) -> None:
    """A BLIP of one layer each, with the words of the tests."""
    from transformers import (
        BertTokenizerFast,
        BlipConfig,
        BlipForConditionalGeneration,
        BlipForImageTextRetrieval,
        BlipImageProcessor,
    )

    torch.manual_seed(0)
    size = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 32}
    ids = {"bos_token_id": 2, "sep_token_id": 3}
    text = {**size, **ids, "vocab_size": 20, "max_position_embeddings": 16, "encoder_hidden_size": 16}
    vision = {**size, "image_size": 32, "patch_size": 16}
    config = BlipConfig(text_config={**text}, vision_config=vision, image_text_hidden_size=8)
    kind = BlipForImageTextRetrieval if matching else BlipForConditionalGeneration
    kind(config).save_pretrained(folder)
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "a", "photo", "of", *TEXTS]
    (folder / "vocab.txt").write_text("\n".join(words))
    BertTokenizerFast(vocab=str(folder / "vocab.txt"), model_max_length=16).save_pretrained(folder)
    BlipImageProcessor(size={"height": 32, "width": 32}).save_pretrained(folder)


def test_blip(tmp_path: Path, eval_set: EvalSet, monkeypatch: pytest.MonkeyPatch) -> None:
    """The probabilities are those of the model's own forward pass, however many texts go at once."""
    from PIL import Image
    from transformers import AutoTokenizer, BlipForImageTextRetrieval, BlipImageProcessor

    monkeypatch.setattr(matching, "TEXTS_AT_ONCE", 2)
    save_blip(tmp_path)
    system = make_system(SystemSpec.parse(f"blip={tmp_path}"))
    assert isinstance(system, matching.MatchingSystem) and system.image_size == 32
    batch, scores = score(eval_set, system)
    model = BlipForImageTextRetrieval.from_pretrained(tmp_path).eval()
    images = [Image.fromarray(batch["pixels"][row]) for row in (0, 1, 3)]
    pixels = BlipImageProcessor.from_pretrained(tmp_path)(images, return_tensors="pt")["pixel_values"]
    for column, text in enumerate(TEXTS):
        tokens = AutoTokenizer.from_pretrained(tmp_path)([f"a photo of a {text}"] * 3, return_tensors="pt")
        with torch.no_grad():
            output = model(tokens["input_ids"], pixels, attention_mask=tokens["attention_mask"], use_itm_head=True)
        expected = output.itm_score.softmax(-1)[:, 1].numpy()
        np.testing.assert_allclose(scores[:, column], expected, atol=1e-5)
    assert scores.std(axis=1).min() > 1e-5


def test_a_blip_for_captions_is_refused(tmp_path: Path, eval_set: EvalSet) -> None:
    save_blip(tmp_path, matching=False)
    system = make_system(SystemSpec.parse(f"blip={tmp_path}"))
    with pytest.raises(ValueError, match="this BLIP has no head for matching"):
        system.load(make_plan(system, eval_set), device="cpu", precision="fp32", threads=None)


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
