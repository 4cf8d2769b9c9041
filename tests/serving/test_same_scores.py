"""Contract: an image has the same scores, or the same reason why not, whichever way it comes: path, bytes, PIL image or
array to `Predictor`, the command line, batch tagging, HTTP, the data engine's and evaluation's rows, an ONNX export."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
import pytest
from fastapi.testclient import TestClient
from PIL import Image

from ram_ray.cli.main import main
from ram_ray.data.images import decode
from ram_ray.data.pixels import add_pixels
from ram_ray.data.preprocess import LIMITS, preprocess
from ram_ray.evaluation.scorer import Scorer
from ram_ray.inference.batch import Decoder, Query, TagActor
from ram_ray.inference.predictor import Predictor
from ram_ray.label_system import Label, LabelSystem
from ram_ray.models.bundle import save_bundle
from ram_ray.records import ANNOTATION, Reject, to_table
from ram_ray.serving.api import create_api
from ram_ray.serving.tagger import LocalTagger
from ram_ray.settings.data import MAX_PIXELS, DataConfig
from ram_ray.settings.runtime import ResourcesConfig
from ram_ray.settings.serving import ServeConfig
from tests.data.defects import bomb
from tests.data.odd_images import odd_images
from tests.data_engine.test_generate import annotation
from tests.tiny import NAMES, tagger

Answer = np.ndarray | str  # scores (N,), or "reason: detail"
Way = Callable[[Mapping[str, Path]], dict[str, Answer]]
MAX_BYTES = LIMITS.max_bytes  # the same everywhere, so that the reasons agree; the pixels are so by default
DATA = DataConfig(min_side=1)
ALL = len(NAMES)  # tags of the model


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A model whose scores differ much between images: by 0.4 between a JPEG and its draft."""
    folder = tmp_path_factory.mktemp("same_scores") / "bundle"
    model = tagger(spread=3.0, init_std=None)
    model.drop_captioner()
    labels = LabelSystem(Label(id, name, "object") for id, name in enumerate(NAMES))
    save_bundle(folder, model, labels=labels, tokenizer=None, teacher=None)
    return str(folder)


@pytest.fixture(scope="module")
def predictor(bundle: str) -> Predictor:
    return Predictor.from_pretrained(bundle, device="cpu")


def by_predictor(predictor: Predictor, kind: Callable[[Path], object]) -> Way:
    def ask(path: Path) -> Answer:
        try:
            return predictor.probabilities(kind(path))[0]  # type: ignore[arg-type]
        except Reject as reject:
            return str(reject)

    return lambda files: {name: ask(path) for name, path in files.items()}


def by_command_line(bundle: str, capsys: pytest.CaptureFixture) -> Way:
    def ask(files: Mapping[str, Path]) -> dict[str, Answer]:
        paths = [str(path) for path in files.values()]
        capsys.readouterr()
        main(["tag", *paths, "--model", bundle, "--top-k", str(ALL), "--json"])
        lines = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
        assert [line["image"] for line in lines] == paths
        return {name: answer_of(line.get("tags"), line.get("error")) for name, line in zip(files, lines, strict=True)}

    return ask


def by_batch(bundle: str, predictor: Predictor) -> Way:
    def ask(files: Mapping[str, Path]) -> dict[str, Answer]:
        nbytes = [path.stat().st_size for path in files.values()]
        batch = {"key": list(files), "uri": [str(path) for path in files.values()], "offset": [0] * len(files)}
        columns = {name: np.array(values) for name, values in {**batch, "nbytes": nbytes}.items()}
        columns |= {name: np.array([""] * len(files), object) for name in ("member", "version", "error")}
        pixels = Decoder(DATA, size=predictor.image_size)(columns)
        rows = TagActor(bundle, Query(top_k=ALL), ResourcesConfig())(pixels).to_pylist()
        ids = {name: id for id, name in enumerate(predictor.labels.names)}
        tags = [
            [{"id": ids[tag], "score": score} for tag, score in zip(row["tags"], row["scores"], strict=True)]
            for row in rows
        ]
        return {row["key"]: answer_of(row_tags, row["error"]) for row, row_tags in zip(rows, tags, strict=True)}

    return ask


def by_http(predictor: Predictor) -> Way:
    config = ServeConfig(max_image_bytes=MAX_BYTES, max_request_bytes=2 * MAX_BYTES)

    def ask(files: Mapping[str, Path]) -> dict[str, Answer]:
        answers = {}
        with TestClient(create_api(LocalTagger(predictor, model="tiny"), config)) as client:
            for name, path in files.items():
                sent = [("images", ("image", path.read_bytes()))]
                (image,) = client.post("/v1/tag", files=sent, data={"top_k": str(ALL)}).json()["images"]
                answers[name] = answer_of(
                    image["tags"], image["error"] and "{code}: {message}".format(**image["error"])
                )
        return answers

    return ask


def by_rows(score: Callable[[np.ndarray, int], np.ndarray], size: int) -> Way:
    """Over the rows that the data engine and evaluation score."""

    def ask(files: Mapping[str, Path]) -> dict[str, Answer]:
        rows = [
            {**annotation(name, truth=[0]), "uri": str(path), "offset": 0, "nbytes": path.stat().st_size}
            for name, path in files.items()
        ]
        table = add_pixels(to_table(rows, ANNOTATION), size=size, limits=DATA.limits())
        pixels = table["pixels"].combine_chunks().to_numpy_ndarray()
        reasons, details = table["reason"].to_pylist(), table["detail"].to_pylist()
        return {
            name: f"{reasons[row]}: {details[row]}" if reasons[row] else score(pixels, row)
            for row, name in enumerate(files)
        }

    return ask


def by_scorer(predictor: Predictor) -> Way:
    scorer = Scorer("", predictor=predictor)

    def score(pixels: np.ndarray, row: int) -> np.ndarray:
        batch = {"pixels": pixels[[row]], "reason": [None], "truth": [[0]], "captions": [[]]}
        return np.array(scorer(batch)["scores"][0].as_py())  # type: ignore[arg-type]

    return by_rows(score, predictor.image_size)


def answer_of(tags: list[dict] | None, error: str | None) -> Answer:
    """Scores in the order of ids, or the reason and its detail."""
    if error:
        return error
    assert tags is not None and len(tags) == ALL
    return np.array([tag["score"] for tag in sorted(tags, key=lambda tag: tag["id"])])


def reason_of(answer: Answer) -> str | None:
    return answer.partition(":")[0] if isinstance(answer, str) else None


def write(folder: Path, images: Mapping[str, bytes]) -> dict[str, Path]:
    """Name -> file."""
    for name, data in images.items():
        (folder / name).write_bytes(data)
    return {name: folder / name for name in images}


@pytest.fixture
def ways(predictor: Predictor, bundle: str, capsys: pytest.CaptureFixture) -> dict[str, Way]:
    return {
        "path": by_predictor(predictor, lambda path: path),
        "bytes": by_predictor(predictor, lambda path: path.read_bytes()),
        "command line": by_command_line(bundle, capsys),
        "batch": by_batch(bundle, predictor),
        "HTTP": by_http(predictor),
        "data engine": by_rows(lambda pixels, row: predictor.probabilities(pixels[[row]])[0], predictor.image_size),
        "evaluation": by_scorer(predictor),
    }


def check_same(ways: dict[str, Way], predictor: Predictor, files: Mapping[str, Path]) -> dict[str, Answer]:
    """All ways give the same answers, which are returned."""
    answers = {way: ask(files) for way, ask in ways.items()}
    first = answers["path"]
    for way, way_answers in answers.items():
        for name, answer in first.items():
            if isinstance(answer, str) or isinstance(way_answers[name], str):
                assert reason_of(way_answers[name]) == reason_of(answer), (way, name)
            else:
                np.testing.assert_allclose(way_answers[name], answer, atol=1e-4, err_msg=f"{way}: {name}")
    for name, answer in first.items():
        if not isinstance(answer, str):
            try:
                image = Image.open(files[name])  # of a user who opens images without our limits
            except ValueError:  # a PNG with long texts, which Pillow by itself does not open
                continue
            np.testing.assert_allclose(predictor.probabilities(image)[0], answer, atol=1e-4, err_msg=name)
            if "A" not in image.mode and "transparency" not in image.info and image.mode in ("RGB", "L"):
                array = np.asarray(image)  # which knows no orientation
                upright = image.getexif().get(0x0112, 1) == 1
                same = np.allclose(predictor.probabilities(array)[0], answer, atol=1e-4)
                assert same or not upright, name
    return first


def test_the_suites_own_odd_images(ways: dict[str, Way], predictor: Predictor, tmp_path: Path) -> None:
    files = write(tmp_path, odd_images() | {"text.jpg": b"text", "empty.png": b""})
    answers = check_same(ways, predictor, files)
    reasons = {name: reason_of(answer) for name, answer in answers.items() if isinstance(answer, str)}
    assert reasons == {"text.jpg": "undecodable", "empty.png": "undecodable"}
    for name in ("large.jpg", "large_grey.jpg"):
        draft = decode(files[name].read_bytes(), limits=LIMITS, size=predictor.image_size)
        assert np.abs(predictor.probabilities(draft)[0] - answers[name]).max() > 0.1, "what a draft would do"


def test_all_refuse_the_same_image_for_its_pixels_with_the_same_words(
    ways: dict[str, Way], tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    assert DataConfig().max_pixels == ServeConfig().max_pixels == LIMITS.max_pixels == MAX_PIXELS
    files = write(tmp_path, {"large.png": bomb(8_000), "bomb.png": bomb(30_000)})
    for way, ask in ways.items():
        answers = ask(files)
        for name, pixels in (("large.png", "8000 x 8000 pixels"), ("bomb.png", "too many pixels")):
            answer = answers[name]
            assert isinstance(answer, str) and reason_of(answer) == "too_large", (way, name)
            assert answer.endswith(f"{pixels}; an image may have 50,000,000 (max_pixels)"), (way, answer)


def test_the_odd_images_of_shared(
    ways: dict[str, Way], predictor: Predictor, shared: Path, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    scripts = shared / "cases" / "inputs"
    if not (scripts / "photos.py").is_file():
        pytest.skip("../shared/cases/inputs is not here")
    for script in ("photos.py", "base.py"):  # they name modules as they were called before the move
        text = (scripts / script).read_text()
        text = text.replace("ram_ray.data.drawn.picture", "ram_ray.drawn_scenes.drawing")
        text = text.replace("ram_ray.data.drawn", "ram_ray.drawn_scenes")
        (tmp_path / script).write_text(text)
    subprocess.run([sys.executable, tmp_path / "photos.py", tmp_path / "made"], check=True, capture_output=True)
    paths = [Path(root, name) for root, _, names in os.walk(tmp_path / "made") for name in names]
    files = {}
    for number, path in enumerate(
        sorted(path for path in paths if path.is_file())
    ):  # odd file names are not tested here
        name = f"{number:03} {os.fsencode(path.relative_to(tmp_path / 'made')).decode('ascii', 'replace')}"
        files[name] = tmp_path / f"{number:03}"
        files[name].write_bytes(path.read_bytes())
    answers = check_same(ways, predictor, files)
    assert sum(not isinstance(answer, str) for answer in answers.values()) > 80


def test_an_exported_model_given_the_same_input(predictor: Predictor, bundle: str, tmp_path: Path) -> None:
    onnxruntime = pytest.importorskip("onnxruntime", reason="the extra onnx is not installed")
    from ram_ray.interop.onnx_export import export_onnx

    files = write(tmp_path, odd_images())
    exported = export_onnx(bundle, str(tmp_path / "out"), images=list(files.values()))
    assert exported.num_images == len(files) and exported.difference < 1e-4
    session = onnxruntime.InferenceSession(str(exported.file), providers=["CPUExecutionProvider"])
    embed = np.load(exported.file.with_suffix(".label_embed.npy"))
    for name, path in files.items():
        pixels = preprocess(path, predictor.config).numpy()
        (logits,) = session.run(None, {"pixel_values": pixels, "label_embed": embed})
        np.testing.assert_allclose(1 / (1 + np.exp(-logits)), predictor.probabilities(path), atol=1e-4, err_msg=name)
