"""Contract: `ram-ray import` writes a bundle that tags and captions as the released model, with its own lists. Missing
files are reported in notes. Files that do not fit are an error of one line, and nothing is written."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from ram_ray.cli.main import main
from ram_ray.inference.predictor import Predictor
from ram_ray.settings.models import Decoding, SwinConfig
from tests import released
from tests.models.parity import MODELS, Reference
from tests.tiny import photo


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return released.write(tmp_path_factory.mktemp("released") / "ram", released.model("ram"))


def _import(source: Path, out: Path, *options: str) -> int:
    return main(["import", str(source / "checkpoint.pth"), str(out), "--config", str(source / "configs"), *options])


def _from_fixture(shared: Path, name: str, out: Path) -> tuple[Reference, Predictor]:
    reference = Reference(shared / "fixtures" / name)
    lists = {"--tag-list": "ram_tag_list.txt", "--thresholds": "ram_tag_list_threshold.txt"}
    lists["--tag-list-chinese"] = "ram_tag_list_chinese.txt"
    if name == "tiny-tag2text":
        lists = {"--tag-list": "tag2text_ori_tag_list.txt"}
    options = [part for option, file in lists.items() for part in (option, str(reference.folder / "data" / file))]
    assert _import(reference.folder, out, *options, "--tokenizer", str(reference.folder / "tokenizer")) == 0
    return reference, Predictor.from_pretrained(str(out), device="cpu")


@pytest.mark.parametrize("name", MODELS)
def test_an_imported_release_answers_as_the_reference(name: str, shared: Path, tmp_path: Path) -> None:
    reference, predictor = _from_fixture(shared, name, tmp_path / "bundle")
    logits = predictor.logits(reference.input("images"))
    reference.check("logits", logits)
    scores = logits.sigmoid().numpy()
    np.testing.assert_array_equal(predictor.thresholds, reference.inputs["class_threshold"])
    np.testing.assert_array_equal(scores > predictor.thresholds, reference.expected["generate_tag_mask"])
    tags = predictor._select_tags(scores, None, top_k=None, threshold=None)
    by_id = [sorted(row, key=lambda tag: tag.id) for row in tags]
    if name == "tiny-tag2text":
        assert predictor.config.muted == tuple(reference.config["delete_tag_index"])
        assert [" | ".join(tag.tag for tag in row) for row in by_id] == reference.expected[
            "generate.beam3.tags"
        ].tolist()
        return
    assert [" | ".join(tag.tag for tag in row) for row in by_id] == reference.expected["generate_tag_en"].tolist()
    chinese = [[name.strip() for name in row.split(" | ")] for row in reference.expected["generate_tag_zh"].tolist()]
    assert [[tag.chinese for tag in row] for row in by_id] == chinese
    embed = reference.input("openset_label_embed")
    names = [f"thing {i}" for i in range(len(reference.expected["openset_logits"][0]))]
    images, descriptions = reference.input("images"), [-1] if predictor.model.reweighs else []
    own = predictor.logits(images, embeddings=embed.view(len(names), *descriptions, embed.shape[-1]))
    np.testing.assert_allclose(own.numpy(), reference.expected["openset_logits"], atol=2e-5)
    own_tags = predictor.tag(predictor._encode(images), tags=names, embeddings=embed)
    assert own_tags[0][0].threshold == reference.inputs["openset_threshold"]
    sorted_names = [[name for name in names if name in {tag.tag for tag in row}] for row in own_tags]
    assert [" | ".join(row) for row in sorted_names] == reference.expected["openset_tags"].tolist()


def test_captions_of_an_imported_tag2text_are_the_references(shared: Path, tmp_path: Path) -> None:
    reference, predictor = _from_fixture(shared, "tiny-tag2text", tmp_path / "bundle")
    tokens = predictor._encode(reference.input("images"))
    tags = [row.split(" | ") for row in reference.expected["generate.beam3.tags"].tolist()]
    assert predictor.caption_tokens(tokens, tags) == reference.expected["generate.beam3.captions"].tolist()
    greedy = predictor.caption_tokens(tokens, tags, decoding=Decoding(max_length=30, min_length=10))
    assert greedy == reference.expected["generate.beam1.captions"].tolist()
    own = [row.split(" | ") for row in reference.inputs["user_tag_input"].tolist()]
    assert predictor.caption_tokens(tokens, own) == reference.expected["generate.beam3_usertags.captions"].tolist()


MEAN, STD = (np.reshape(values, (3, 1, 1)) for values in ([0.485, 0.456, 0.406], [0.229, 0.224, 0.225]))


@pytest.mark.parametrize("size", [96, 384])
def test_preprocessing_is_the_references(size: int, shared: Path, tmp_path: Path) -> None:
    fixture = shared / "fixtures" / "preprocess"
    expected = np.load(fixture / "expected.npz")
    swin = SwinConfig(window_size=3, embed_dim=8, depths=(1, 1), num_heads=(1, 1))
    source = released.write(tmp_path / "it", released.model("ram", image_size=size, swin=swin))
    assert _import(source, tmp_path / "bundle", "--tokenizer", str(source / "tokenizer")) == 0
    predictor = Predictor.from_pretrained(str(tmp_path / "bundle"), device="cpu", exif=False)
    for file in sorted((fixture / "images").iterdir()):
        pixels = predictor.preprocess([Image.open(file)])[0].numpy()
        if size == 96:  # another libjpeg may differ by one step of 255
            tolerance = 1.02 / 255 / 0.224 if file.suffix == ".jpg" else 1e-6
            np.testing.assert_allclose(pixels, expected[f"{file.name}@96"], atol=tolerance, err_msg=file.name)
        elif f"{file.name}@384_uint8" in expected.files:
            resized = (pixels * STD + MEAN) * 255
            np.testing.assert_allclose(resized, expected[f"{file.name}@384_uint8"], atol=1.01)
            statistics = json.loads((fixture / "config.json").read_text())["images"][file.name]["at384"]
            np.testing.assert_allclose(pixels.mean((1, 2)), statistics["mean"], atol=1e-3)
            np.testing.assert_allclose(pixels.std((1, 2)), statistics["std"], atol=1e-3)


def test_images_are_turned_upright_unless_that_is_off(folder: Path, tmp_path: Path) -> None:
    assert _import(folder, tmp_path / "bundle", "--tokenizer", str(folder / "tokenizer")) == 0
    upright = photo(3, size=(60, 30))
    lying = upright.transpose(Image.Transpose.ROTATE_90)
    exif = Image.Exif()
    exif[0x0112] = 6  # turn by 270 degrees to see it right
    lying.save(tmp_path / "lying.png", exif=exif)
    stored = Image.open(tmp_path / "lying.png")
    turned = Predictor.from_pretrained(str(tmp_path / "bundle"), device="cpu")
    as_stored = Predictor.from_pretrained(str(tmp_path / "bundle"), device="cpu", exif=False)
    assert torch.equal(turned.preprocess([stored]), turned.preprocess([upright]))
    assert torch.equal(as_stored.preprocess([stored]), turned.preprocess([lying]))
    assert not torch.equal(as_stored.preprocess([stored]), turned.preprocess([stored]))


@pytest.mark.parametrize("kind", ["ram", "ram_plus", "tag2text"])
def test_an_imported_model_of_the_tests_is_the_same_model(kind: str, tmp_path: Path) -> None:
    model = released.model(kind)
    source = released.write(tmp_path / kind, model)
    assert _import(source, tmp_path / "bundle", "--tokenizer", str(source / "tokenizer")) == 0
    predictor = Predictor.from_pretrained(str(tmp_path / "bundle"), device="cpu")
    pixels = predictor.preprocess([photo(1), photo(2)])
    with torch.no_grad():
        torch.testing.assert_close(predictor.logits(pixels), model.logits(model.encode(pixels)), atol=1e-4, rtol=1e-4)
    assert predictor.labels.names == [f"tag {i}" for i in range(7)]
    if kind == "tag2text":
        assert predictor.labels[0].threshold is None and predictor.labels[0].chinese is None
    else:
        assert predictor.labels[3].threshold == 0.43 and predictor.labels[3].chinese == "标签3"
    if kind == "ram_plus":
        with pytest.raises(ValueError, match="no captions"):
            predictor.caption([photo(1)])
    else:
        assert [predictor.caption([photo(i)])[0] for i in (1, 2)] == predictor.caption([photo(1), photo(2)])
        if kind == "ram":  # of this model's random weights tags change a caption
            assert predictor.caption([photo(1)], tags=[["a", "b"]]) != predictor.caption([photo(1)], tags=[["z"]])
        with pytest.raises(ValueError, match="lists of tags"):
            predictor.caption([photo(1)], tags=["a"])
    message = "no text encoder" if kind != "tag2text" else "its own tags alone"
    with pytest.raises(ValueError, match=message):
        predictor.tag([photo(1)], tags=["snow"])


def test_ram_plus_takes_own_tags_with_their_descriptions(tmp_path: Path, tiny_bundle: str) -> None:
    model = released.model("ram_plus", label_width=16, image_proj=16)
    source = released.write(tmp_path / "plus", model)
    encoder = f"{tiny_bundle}/text_encoder"
    assert _import(source, tmp_path / "bundle", "--text-encoder", encoder) == 0
    predictor = Predictor.from_pretrained(str(tmp_path / "bundle"), device="cpu")
    own = {"dog": ["a dog with fur", "dog on a beach"], "light": ["a traffic light", "red light"]}
    tags = predictor.tag([photo(1)], tags=own, top_k=2)[0]
    texts = [text for row in own.values() for text in row]
    embed = torch.from_numpy(predictor._custom_tags._teacher.encode_texts(texts)).view(2, 2, 16)
    with torch.no_grad():
        expected = model.logits(model.encode(predictor.preprocess([photo(1)])), embed).sigmoid()[0]
    assert {tag.tag: tag.score for tag in tags} == pytest.approx(
        dict(zip(own, expected.tolist(), strict=True)), abs=1e-5
    )
    assert len(predictor.tag([photo(1)], tags=["dog", "snow"], top_k=2)[0]) == 2
    for wrong in ({"a": ["b"], "c": ["d", "e"]}, {"a": []}):
        with pytest.raises(ValueError, match="equally many descriptions"):
            predictor.tag([photo(1)], tags=wrong)
    with pytest.raises(ValueError, match="embeddings have shape"):
        predictor.tag([photo(1)], tags=["a"], embeddings=torch.zeros(1, 3, 5))


def test_missing_files_are_reported(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    shutil.copytree(folder, tmp_path / "bare")
    shutil.rmtree(tmp_path / "bare" / "data")
    assert _import(tmp_path / "bare", tmp_path / "bundle") == 0
    out, notes = capsys.readouterr()
    assert out.startswith("RAM: 7 tags, 48 px") and out.count("\n") == 1
    assert "no --tag-list" in notes and "no --thresholds" in notes and "no captions" in notes
    predictor = Predictor.from_pretrained(str(tmp_path / "bundle"), device="cpu")
    assert predictor.labels[2].name == "tag 2" and predictor.thresholds[0] == np.float32(0.68)
    with pytest.raises(ValueError, match="no captions"):
        predictor.caption([photo(1)])


@pytest.mark.parametrize(
    ("option", "text", "message"),
    [
        ("--tag-list", "a\nb\n", "has 2 lines, but the checkpoint has 7 tags"),
        ("--tag-list", "a\nb\n\nc\nd\ne\nf\n", "line 3 of the tag list is empty"),
        ("--thresholds", "0.5\n" * 6, "has 6 lines"),
        ("--thresholds", "0.5\n" * 6 + "1.5\n", "line 7 of the thresholds"),
        ("--thresholds", "0.5\n" * 6 + "much\n", "line 7 of the thresholds"),
        ("--thresholds", None, "cannot be read"),
        ("--tokenizer", "[PAD]\n[UNK]\n[CLS]\n[SEP]\n[MASK]\na\n", "8 words, but the checkpoint has 65"),
        ("--tokenizer", "a\n", "has no"),
    ],
)
def test_lists_that_do_not_fit_are_an_error(
    option: str, text: str | None, message: str, folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    file = tmp_path / "list.txt"
    if text is not None:
        file.write_text(text)
    options = ["--tokenizer", str(folder / "tokenizer"), option, str(file)]
    assert _import(folder, tmp_path / "bundle", *options) == 2
    error = capsys.readouterr().err.strip()
    assert message in error and "\n" not in error and not (tmp_path / "bundle").exists()


def test_an_import_overwrites_nothing(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    (tmp_path / "kept").write_text("mine")
    assert _import(folder, tmp_path) == 2 and "is there already" in capsys.readouterr().err


def test_of_equal_names_an_answer_has_the_best(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "tags.txt").write_text("train\ncat\ntrain\na\nb\nc\nd\n")
    options = ["--tag-list", str(tmp_path / "tags.txt"), "--tokenizer", str(folder / "tokenizer")]
    assert _import(folder, tmp_path / "bundle", *options) == 0
    predictor = Predictor.from_pretrained(str(tmp_path / "bundle"), device="cpu")
    scores = predictor.probabilities([photo(1)])[0]
    tags = {tag.tag: tag for tag in predictor.tag([photo(1)], top_k=7)[0]}
    assert len(tags) == 6 and tags["train"].id == (0 if scores[0] > scores[2] else 2)
    assert tags["train"].score == max(scores[0], scores[2])


def test_the_command_tags_images(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    assert _import(folder, tmp_path / "bundle", "--tokenizer", str(folder / "tokenizer")) == 0
    photo(1).save(tmp_path / "a.png")
    (tmp_path / "b.png").write_bytes(b"no image")
    capsys.readouterr()
    arguments = ["tag", str(tmp_path / "a.png"), "--model", str(tmp_path / "bundle"), "--top-k", "3"]
    assert main([*arguments, "--json", "--caption"]) == 0
    answer = json.loads(capsys.readouterr().out)
    expected = Predictor.from_pretrained(str(tmp_path / "bundle"), device="cpu").tag([photo(1)], top_k=3)[0]
    assert [tag["tag"] for tag in answer["tags"]] == [tag.tag for tag in expected] and "caption" in answer
    assert main([*arguments, "--chinese"]) == 0 and "标签" in capsys.readouterr().out
    assert main(["tag", str(tmp_path / "b.png"), *arguments[1:]]) == 1
    shown = capsys.readouterr()
    assert "b.png" in shown.err and "a.png" in shown.out and len(shown.out.splitlines()) == 1
    assert main([*arguments, "--backend", "abacus"]) == 2 and "torch, openvino" in capsys.readouterr().err
