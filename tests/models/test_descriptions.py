"""Contract: labels are embedded as their model needs them: by templates, or for RAM++ by descriptions of a file."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from ram_ray.models.bundle import load_bundle
from ram_ray.models.descriptions import embed_labels, read_descriptions
from ram_ray.settings.models import ModelConfig

RAM_PLUS = ModelConfig(
    architecture="ram_plus", captions=False, descriptions=3, label_width=16, templates=("a photo of a {}.", "{}")
)


def test_new_labels_of_ram_are_embedded_with_its_templates(tiny_bundle: str) -> None:
    bundle = load_bundle(tiny_bundle)
    embedded = embed_labels(bundle.model.config, bundle.labels.names, bundle.teacher())
    torch.testing.assert_close(embedded, bundle.model.label_embed)


def test_ram_plus_takes_descriptions_of_a_file_or_its_templates(tiny_bundle: str, tmp_path: Path) -> None:
    (tmp_path / "texts.json").write_text(json.dumps([{"Zebra": ["a horse with stripes", "a zebra", "black", "white"]}]))
    teacher = load_bundle(tiny_bundle).teacher()
    descriptions = read_descriptions(f"{tmp_path}/texts.json")
    embedded = embed_labels(RAM_PLUS, ["zebra", "cup"], teacher, descriptions=descriptions)
    expected = [
        teacher.encode_texts(["a horse with stripes", "a zebra", "black"]),
        teacher.encode_texts(["a photo of a cup.", "cup", "a photo of a cup."]),
    ]
    torch.testing.assert_close(embedded, torch.stack([torch.from_numpy(texts) for texts in expected]))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "is no JSON of texts by name"),
        ("[1]", "is no JSON of texts by name"),
        ('{"dog": []}', "descriptions of 'dog' are not"),
        ('{"dog": [1]}', "descriptions of 'dog' are not"),
        (None, "is no JSON of texts by name: .*No such file"),
    ],
)
def test_another_file_is_a_clear_error(text: str | None, message: str, tmp_path: Path) -> None:
    if text is not None:
        (tmp_path / "texts.json").write_text(text)
    with pytest.raises(ValueError, match=message) as raised:
        read_descriptions(f"{tmp_path}/texts.json")
    assert "texts.json" in str(raised.value) and "\n" not in str(raised.value)
