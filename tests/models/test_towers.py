"""Contract: a SigLIP, and a text and an image encoder apart, give what their own libraries give, also after a copy."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import timm
import torch
from torch.nn.functional import normalize

from ram_ray.label_system import Label, LabelSystem
from ram_ray.models.bundle import load_bundle, save_bundle
from ram_ray.models.image_encoder import normalise
from ram_ray.models.teacher import Teacher
from ram_ray.settings.models import TimmConfig
from tests.tiny import NAMES, photo, tagger, tokenizer
from tests.tiny_siglip import save_siglip

TEXTS = ["a red dog", "beach", "a traffic light and a person"]
LETTERS = [chr(code) for code in range(ord("a"), ord("z") + 1)]


def pixels(size: int = 32) -> torch.Tensor:
    return torch.from_numpy(np.stack([np.asarray(photo(seed, size=(size, size))) for seed in range(3)]))


def write_bert(folder: Path, *, pooling: dict[str, object] | None, limit: int = 12) -> Path:
    """A BERT of one layer with a vocabulary of words and letters; without `pooling`, no sentence-transformers files."""
    from transformers import BertConfig, BertModel, BertTokenizerFast

    torch.manual_seed(3)
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "a", "red", "dog", "beach", "and", "traffic", "light"]
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "vocab.txt").write_text("\n".join([*words, *LETTERS, *(f"##{letter}" for letter in LETTERS)]))
    size = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 32}
    BertModel(BertConfig(vocab_size=len(words) + 52, max_position_embeddings=32, **size)).save_pretrained(folder)
    BertTokenizerFast(vocab=str(folder / "vocab.txt"), model_max_length=32).save_pretrained(folder)
    if pooling is not None:
        types = {"": "Transformer", "1_Pooling": "Pooling", "2_Normalize": "Normalize"}
        modules = [{"path": path, "type": f"sentence_transformers.models.{name}"} for path, name in types.items()]
        (folder / "modules.json").write_text(json.dumps(modules))
        (folder / "1_Pooling").mkdir()
        (folder / "1_Pooling" / "config.json").write_text(json.dumps(pooling))
        (folder / "sentence_bert_config.json").write_text(json.dumps({"max_seq_length": limit}))
    return folder


@pytest.fixture(scope="module")
def sentences(tmp_path_factory: pytest.TempPathFactory) -> Path:
    pooling = {"pooling_mode_mean_tokens": True, "pooling_mode_cls_token": False, "word_embedding_dimension": 16}
    return write_bert(tmp_path_factory.mktemp("sentences"), pooling=pooling)


@pytest.fixture(scope="module")
def image(tmp_path_factory: pytest.TempPathFactory) -> TimmConfig:
    file = tmp_path_factory.mktemp("image") / "encoder.pth"
    torch.manual_seed(4)
    torch.save(timm.create_model("test_efficientnet").state_dict(), file)
    return TimmConfig(name="test_efficientnet", weights=str(file))


@pytest.fixture(scope="module")
def siglip(tmp_path_factory: pytest.TempPathFactory) -> str:
    folder = tmp_path_factory.mktemp("siglip")
    save_siglip(folder, words=" ".join(TEXTS).split())
    return str(folder)


def test_loading_draws_no_bar(sentences: Path, capfd: pytest.CaptureFixture) -> None:
    from transformers.utils import logging

    enabled = logging.is_progress_bar_enabled()
    Teacher.from_pretrained(str(sentences))
    assert not capfd.readouterr().err and logging.is_progress_bar_enabled() == enabled


def test_a_siglip_encodes_as_transformers_does(siglip: str, tmp_path: Path) -> None:
    from transformers import AutoTokenizer, SiglipImageProcessor, SiglipModel

    model, processor = SiglipModel.from_pretrained(siglip).eval(), SiglipImageProcessor.from_pretrained(siglip)
    inputs = AutoTokenizer.from_pretrained(siglip)(TEXTS, padding="max_length", max_length=9, return_tensors="pt")
    images = [photo(seed, size=(32, 32)) for seed in range(3)]
    with torch.no_grad():
        outputs = model(input_ids=inputs["input_ids"], **processor(images, return_tensors="pt"))
    teacher = Teacher.from_pretrained(siglip)
    assert teacher.is_dual and (teacher.embed_dim, teacher.image_size) == (16, 32) and teacher.backbone() is None
    np.testing.assert_allclose(teacher.encode_texts(TEXTS), outputs.text_embeds.numpy(), atol=1e-5)
    np.testing.assert_allclose(teacher.encode_images(images), outputs.image_embeds.numpy(), atol=1e-5)
    teacher.save(tmp_path)
    copy = Teacher.from_pretrained(str(tmp_path))
    np.testing.assert_allclose(copy.encode_texts(TEXTS), teacher.encode_texts(TEXTS), atol=1e-6)
    assert not list(tmp_path.rglob("*.bin"))


def test_a_text_encoder_pools_as_its_files_say(tmp_path: Path, sentences: Path) -> None:
    from transformers import AutoModel, AutoTokenizer

    model, words = AutoModel.from_pretrained(sentences).eval(), AutoTokenizer.from_pretrained(sentences)
    texts = [*TEXTS, "a very long text " * 9]
    with torch.no_grad():  # single texts have no padding
        hidden = [
            model(**words([text], truncation=True, max_length=12, return_tensors="pt")).last_hidden_state
            for text in texts
        ]
    mean = normalize(torch.cat([state.mean(1) for state in hidden]), dim=-1).numpy()
    first = normalize(torch.cat([state[:, 0] for state in hidden]), dim=-1).numpy()
    teacher = Teacher.from_pretrained(str(sentences))
    assert not teacher.is_dual and teacher.embed_dim == 16
    np.testing.assert_allclose(teacher.encode_texts(texts), mean, atol=1e-5)
    for name, pooling in {"old": {"pooling_mode_cls_token": True}, "new": {"pooling_mode": "cls"}}.items():
        folder = write_bert(tmp_path / name, pooling=pooling)
        np.testing.assert_allclose(Teacher.from_pretrained(str(folder)).encode_texts(texts), first, atol=1e-5)
    plain = Teacher.from_pretrained(str(write_bert(tmp_path / "plain", pooling=None)))
    np.testing.assert_allclose(plain.encode_texts(TEXTS[:2]), mean[:2], atol=1e-5)
    with pytest.raises(ValueError, match="embeds no images"):
        teacher.encode_images(pixels().numpy())


def test_parts_that_are_not_supported_are_one_clear_error(tmp_path: Path) -> None:
    folder = write_bert(tmp_path / "max", pooling={"pooling_mode_max_tokens": True})
    with pytest.raises(ValueError, match="pools by max_tokens; mean and first token are supported"):
        Teacher.from_pretrained(str(folder))
    modules = json.loads((folder / "modules.json").read_text())
    modules[2]["type"] = "sentence_transformers.models.Dense"
    (folder / "modules.json").write_text(json.dumps(modules))
    (folder / "1_Pooling" / "config.json").write_text(json.dumps({"pooling_mode_mean_tokens": True}))
    with pytest.raises(ValueError, match="has a part 'Dense'") as caught:
        Teacher.from_pretrained(str(folder))
    assert "\n" not in str(caught.value)


def test_encoders_apart_give_the_same_after_a_copy(sentences: Path, image: TimmConfig, tmp_path: Path) -> None:
    teacher = Teacher.apart(str(sentences), image=image, image_size=64)
    model = timm.create_model("test_efficientnet", num_classes=0).eval()
    state = torch.load(str(image.weights))
    model.load_state_dict({key: value for key, value in state.items() if not key.startswith("classifier")})
    with torch.no_grad():
        maps = model.forward_features(normalise(pixels(64), (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)))
    torch.testing.assert_close(teacher.features(pixels(64)), maps.mean((2, 3)), atol=1e-5, rtol=1e-4)
    assert not teacher.is_dual and (teacher.embed_dim, teacher.image_size) == (16, 64)
    teacher.save(tmp_path)
    copy = Teacher.from_pretrained(str(tmp_path))
    np.testing.assert_array_equal(copy.encode_texts(TEXTS), teacher.encode_texts(TEXTS))
    np.testing.assert_array_equal(copy.encode_images(pixels(48).numpy()), teacher.encode_images(pixels(48).numpy()))
    assert not copy.is_dual and copy.backbone() is None
    for tower in (copy.text, copy.image):
        assert tower is not None and not any(weight.requires_grad for weight in tower.model.parameters())
    assert Teacher.apart(str(sentences), image=image).image_size == 160, "the size that timm names"


def test_a_bundle_takes_the_text_encoder_alone(sentences: Path, image: TimmConfig, tmp_path: Path) -> None:
    teacher = Teacher.apart(str(sentences), image=image)
    model = tagger(label_width=16, vocab_size=len(tokenizer()))
    labels = LabelSystem([Label(id, text, "object") for id, text in enumerate(NAMES)])
    save_bundle(tmp_path, model, labels=labels, tokenizer=tokenizer(), teacher=teacher)
    assert not (tmp_path / "text_encoder" / "image").exists()
    loaded = load_bundle(str(tmp_path)).teacher()
    np.testing.assert_allclose(loaded.encode_texts(TEXTS), teacher.encode_texts(TEXTS), atol=1e-6)
    assert {path.suffix for path in tmp_path.rglob("*") if path.is_file()} <= {".safetensors", ".json", ".md", ".txt"}


def test_a_dual_encoder_is_no_text_encoder(siglip: str) -> None:
    with pytest.raises(ValueError, match="is a dual encoder: set represent.clip"):
        Teacher.apart(siglip, image=None)


def test_models_are_loaded_and_written_without_a_bar(tmp_path: Path, capfd: pytest.CaptureFixture) -> None:
    folder = write_bert(tmp_path / "bert", pooling={"pooling_mode_mean_tokens": True})
    (tmp_path / "siglip").mkdir()
    save_siglip(tmp_path / "siglip", words=LETTERS)
    capfd.readouterr()
    for name, source in (("text", folder), ("dual", tmp_path / "siglip")):
        Teacher.from_pretrained(str(source)).save(tmp_path / name)
    assert capfd.readouterr().err == ""
