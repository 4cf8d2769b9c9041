"""Contract: `Teacher` wraps our dual encoder or a Hugging Face CLIP, and gives the results of that model."""

from __future__ import annotations

from pathlib import Path

import fsspec
import numpy as np
import pytest
import torch

from ram_ray.models.dual_encoder import DualEncoder
from ram_ray.models.image_encoder import normalise
from ram_ray.models.teacher import Teacher
from ram_ray.settings.models import DualEncoderConfig, ModelConfig
from ram_ray.settings.prompts import fill
from tests.s3 import S3Proxy
from tests.tiny import NAMES, STACK, SWIN, photo, tokenizer
from tests.tiny_clip import save_clip


def _encoder() -> DualEncoder:
    torch.manual_seed(0)
    config = DualEncoderConfig(
        image_size=32, swin=SWIN, text=STACK, embed_dim=12, vocab_size=len(tokenizer()), max_text_tokens=10
    )
    return DualEncoder(config).eval()


def _pixels(size: int = 32) -> torch.Tensor:
    return torch.from_numpy(np.stack([np.asarray(photo(seed, size=(size, size))) for seed in range(3)]))


@pytest.fixture(scope="module")
def own(tmp_path_factory: pytest.TempPathFactory) -> str:
    folder = tmp_path_factory.mktemp("dual")
    _encoder().save(folder, tokenizer())
    return str(folder)


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A saved CLIP of transformers' own classes with random weights, a byte-pair vocabulary of letters, 32 px."""
    return save_clip(tmp_path_factory.mktemp("clip"))


def test_text_features_do_not_depend_on_padding() -> None:
    model = _encoder()
    ids = torch.from_numpy(tokenizer().encode(["a red dog"], first=tokenizer().enc, max_tokens=10))
    used = int((ids != 0).sum())
    torch.testing.assert_close(model.text_features(ids), model.text_features(ids[:, :used]))


def test_image_features_are_the_projected_mean_token() -> None:
    model = _encoder()
    pixels = torch.randn(2, 3, 32, 32)
    tokens = model.image_encoder(pixels)
    torch.testing.assert_close(model.pooled(pixels), tokens[:, 1:].mean(1))
    torch.testing.assert_close(model.image_features(pixels), model.image_proj(tokens[:, 1:].mean(1)))


def test_our_dual_encoder_gives_the_same_results_after_loading(own: str) -> None:
    model, teacher = _encoder(), Teacher.from_pretrained(own)
    assert (teacher.embed_dim, teacher.image_size) == (12, 32)
    config = model.config
    with torch.no_grad():
        raw = model.image_features(normalise(_pixels(), config.mean, config.std))
        ids = torch.from_numpy(tokenizer().encode(["a red dog", "run"], first=tokenizer().enc, max_tokens=10))
        texts = model.text_features(ids)
    torch.testing.assert_close(teacher.features(_pixels()), raw)
    images = teacher.encode_images(_pixels().numpy())
    np.testing.assert_allclose(images, torch.nn.functional.normalize(raw, dim=-1).numpy(), atol=1e-6)
    np.testing.assert_allclose(
        teacher.encode_texts(["a red dog", "run"]), torch.nn.functional.normalize(texts, dim=-1).numpy(), atol=1e-6
    )


def test_a_clip_encodes_images_as_transformers_does(clip: str) -> None:
    from transformers import CLIPImageProcessor, CLIPModel

    model, processor = CLIPModel.from_pretrained(clip), CLIPImageProcessor.from_pretrained(clip)
    images = [photo(seed, size=(32, 32)) for seed in range(3)]
    with torch.no_grad():
        output = model.get_image_features(**processor(images, return_tensors="pt"))
    expected = output if isinstance(output, torch.Tensor) else output.pooler_output
    teacher = Teacher.from_pretrained(clip)
    assert (teacher.embed_dim, teacher.image_size) == (12, 32)
    torch.testing.assert_close(teacher.features(_pixels()), expected, atol=1e-5, rtol=1e-4)
    unit = torch.nn.functional.normalize(expected, dim=-1).numpy()
    np.testing.assert_allclose(teacher.encode_images(images), unit, atol=1e-5)


def test_a_clip_encodes_texts_as_transformers_does(clip: str) -> None:
    from transformers import CLIPModel, CLIPTokenizer

    model, clip_tokenizer = CLIPModel.from_pretrained(clip), CLIPTokenizer.from_pretrained(clip)
    texts = ["a dog", "x", "a very long text that does not fit into twenty four tokens"]
    teacher = Teacher.from_pretrained(clip)
    for row, text in zip(teacher.encode_texts(texts), texts, strict=True):  # single texts have no padding
        with torch.no_grad():
            output = model.get_text_features(
                **clip_tokenizer([text], return_tensors="pt", truncation=True, max_length=24)
            )
        expected = output if isinstance(output, torch.Tensor) else output.pooler_output
        np.testing.assert_allclose(row, torch.nn.functional.normalize(expected, dim=-1)[0].numpy(), atol=1e-5)


def test_only_our_dual_encoder_gives_a_backbone(own: str, clip: str) -> None:
    backbone = Teacher.from_pretrained(own).backbone()
    assert backbone is not None and set(backbone) == {
        name for name in _encoder().state_dict() if name.startswith("image_encoder.")
    }
    assert Teacher.from_pretrained(clip).backbone() is None


@pytest.mark.parametrize("which", ["own", "clip"])
def test_a_teacher_is_frozen_and_its_copy_gives_the_same(which: str, request, tmp_path: Path) -> None:
    teacher = Teacher.from_pretrained(request.getfixturevalue(which))
    assert not any(parameter.requires_grad for parameter in teacher.text.model.parameters())
    assert not teacher.features(_pixels()).requires_grad
    teacher.save(tmp_path)
    copy = Teacher.from_pretrained(str(tmp_path))
    assert not list(tmp_path.rglob("*.bin"))
    torch.testing.assert_close(copy.features(_pixels()), teacher.features(_pixels()))
    np.testing.assert_allclose(copy.encode_texts(["a dog"]), teacher.encode_texts(["a dog"]), atol=1e-6)


@pytest.mark.parametrize("which", ["own", "clip"])
def test_crops_are_resized_to_the_teachers_size(which: str, request) -> None:
    teacher = Teacher.from_pretrained(request.getfixturevalue(which))
    small, large = (
        torch.stack([torch.full((size, size, 3), 40 * n, dtype=torch.uint8) for n in (1, 3, 5)]) for size in (32, 56)
    )
    torch.testing.assert_close(teacher.features(large), teacher.features(small))
    assert teacher.features(_pixels(56)).shape == (3, 12)


def test_the_ensemble_has_an_article_where_the_name_needs_one() -> None:
    prompts = ModelConfig(templates="ensemble").templates
    assert len(set(prompts)) == 63 and all(prompt.count("{}") == 1 for prompt in prompts)
    assert ModelConfig(templates=prompts).templates == prompts
    texts = {fill(prompt, "apple") for prompt in prompts}
    assert "There is an apple in the scene." in texts and "This is a painting of a apple." in texts
    assert fill("a photo of {article} {}.", "dog") == "a photo of a dog."


def test_label_embeddings_are_the_unit_mean_over_templates_whatever_the_batch(own: str) -> None:
    teacher, templates = Teacher.from_pretrained(own), ["a photo of a {}.", "{}"]
    mean = sum(teacher.encode_texts([template.format(name) for name in NAMES]) for template in templates)
    expected = mean / np.linalg.norm(mean, axis=1, keepdims=True)
    for batch in (256, 4, 1):
        embeddings = teacher.label_embeddings(list(NAMES), templates, batch=batch)
        assert embeddings.shape == (len(NAMES), 12) and embeddings.dtype == torch.float32
        np.testing.assert_allclose(embeddings.numpy(), expected, atol=1e-6)


@pytest.mark.parametrize("kind", ["own", "clip"])
def test_a_teacher_on_s3_is_the_one_on_disk(kind: str, s3: S3Proxy, request: pytest.FixtureRequest) -> None:
    folder, uri = request.getfixturevalue(kind), f"{s3.bucket}/{kind}"
    fsspec.filesystem("s3").put(f"{folder}/", uri, recursive=True)
    local, remote = Teacher.from_pretrained(folder), Teacher.from_pretrained(uri)
    np.testing.assert_array_equal(remote.encode_texts(list(NAMES)), local.encode_texts(list(NAMES)))
    np.testing.assert_array_equal(remote.encode_images(_pixels().numpy()), local.encode_images(_pixels().numpy()))


def test_a_missing_model_is_a_clear_error(tmp_path: Path) -> None:
    for source in (str(tmp_path), str(tmp_path / "nowhere")):
        with pytest.raises(ValueError, match="the encoder .* cannot be loaded as a CLIP") as caught:
            Teacher.from_pretrained(source)
        assert "\n" not in str(caught.value)
