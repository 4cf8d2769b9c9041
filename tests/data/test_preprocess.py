"""Contract: one preprocessing from a path, bytes, a PIL image or an array to the model's square: the same pixels from
each, as people see the image, and never through a JPEG's scaled decoding; `as_stored` is the released models' own."""

from __future__ import annotations

import io
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from ram_ray.data.images import Limits, decode
from ram_ray.data.preprocess import LARGE_PIXELS, preprocess, to_square, to_squares
from ram_ray.records import Reject
from tests.data.odd_images import odd_images
from tests.tiny import config, photo

ODD = odd_images()
SIZE = 48


@pytest.mark.parametrize("name", ODD)
def test_path_bytes_and_pil_image_give_the_same_square(name: str, tmp_path: Path) -> None:
    path = tmp_path / name
    path.write_bytes(ODD[name])
    for as_stored in (False, True):
        square = to_square(ODD[name], size=SIZE, as_stored=as_stored)
        assert square.shape == (SIZE, SIZE, 3) and square.dtype == np.uint8
        for same in (path, str(path), path.as_uri(), Image.open(path), square):
            np.testing.assert_array_equal(to_square(same, size=SIZE, as_stored=as_stored), square)


@pytest.mark.parametrize(
    ("name", "twin"),
    [
        ("alpha.png", "on_white.png"),
        ("clear.png", "white.png"),
        ("palette_transparent.png", "palette_on_white.png"),
        ("grey_alpha.png", "grey_on_white.png"),
        ("grey16.png", "grey8.png"),
        ("exif6.png", "upright.png"),
    ],
)
def test_an_image_is_prepared_as_people_see_it(name: str, twin: str) -> None:
    np.testing.assert_array_equal(to_square(ODD[name], size=SIZE), to_square(ODD[twin], size=SIZE))
    stored = to_square(ODD[name], size=SIZE, as_stored=True)
    assert not np.array_equal(stored, to_square(ODD[twin], size=SIZE)), "the released code does not see it so"


def test_a_large_jpeg_is_not_decoded_at_a_fraction() -> None:
    data = ODD["large.jpg"]
    whole = Image.open(io.BytesIO(data)).convert("RGB").resize((SIZE, SIZE), Image.Resampling.BILINEAR)
    np.testing.assert_array_equal(to_square(data, size=SIZE), np.asarray(whole))
    drafted = decode(data, limits=Limits(1, 10**8, 10**8), size=SIZE).resize((SIZE, SIZE), Image.Resampling.BILINEAR)
    assert not np.array_equal(np.asarray(drafted), np.asarray(whole)), "a draft is another image"


def test_one_image_several_and_a_batch_array_are_the_same() -> None:
    images = [photo(seed, size=(60, 40)) for seed in range(3)]
    squares = to_squares(images, size=SIZE)
    assert squares.shape == (3, SIZE, SIZE, 3)
    assert to_squares(squares, size=SIZE) is squares
    np.testing.assert_array_equal(to_squares(tuple(np.asarray(image) for image in images), size=SIZE), squares)
    np.testing.assert_array_equal(to_squares(images[1], size=SIZE), squares[1:2])
    np.testing.assert_array_equal(to_squares(np.asarray(images[1]), size=SIZE), squares[1:2])
    assert to_squares([], size=SIZE).shape == (0, SIZE, SIZE, 3)


def test_grey_and_rgba_arrays() -> None:
    grey = np.asarray(photo(1).convert("L"))
    np.testing.assert_array_equal(to_square(grey, size=SIZE), to_square(photo(1).convert("L"), size=SIZE))
    clear = np.zeros((20, 20, 4), np.uint8)
    assert (to_square(clear, size=SIZE) == 255).all()


def test_the_models_input_is_the_square_normalised() -> None:
    model = config()
    square = to_square(photo(1), size=32)
    expected = (square / 255 - np.float32(model.mean)) / np.float32(model.std)
    pixels = preprocess(photo(1), model)
    assert pixels.shape == (1, 3, 32, 32) and pixels.dtype == torch.float32
    np.testing.assert_allclose(pixels[0].permute(1, 2, 0).numpy(), expected, atol=1e-5)


def test_a_batch_that_may_not_be_written_to_is_no_warning() -> None:
    """Ray gives arrays of its object store as they are."""
    batch = np.random.default_rng(0).integers(0, 256, (2, 32, 32, 3), np.uint8)
    expected = preprocess(batch, config())
    batch.flags.writeable = False
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert torch.equal(preprocess(batch, config()), expected)


def test_an_error_names_the_image(tmp_path: Path) -> None:
    (tmp_path / "text.jpg").write_bytes(b"no image")
    (tmp_path / "cut.jpg").write_bytes(ODD["large.jpg"][:3000])
    for name, reason in (("text.jpg", "undecodable"), ("cut.jpg", "truncated")):
        with pytest.raises(Reject, match=name) as caught:
            to_square(tmp_path / name, size=SIZE)
        assert caught.value.reason == reason
    with pytest.raises(Reject) as caught:
        to_square(ODD["rgb.png"], size=SIZE, limits=Limits(1, 100, 10**6))
    assert caught.value.reason == "too_large"
    with pytest.raises(Reject):
        to_square(Image.open(tmp_path / "cut.jpg"), size=SIZE)
    with pytest.raises(ValueError, match=r"gone\.jpg cannot be read"):
        to_square(tmp_path / "gone.jpg", size=SIZE)
    for wrong in (np.zeros((8, 8, 3)), np.zeros((3, 8, 8), np.uint8), np.zeros((8, 8), np.complex64), 7, None):
        with pytest.raises(ValueError, match="an image"):
            to_square(wrong, size=SIZE)  # type: ignore[arg-type]


def test_a_name_is_not_a_pattern(tmp_path: Path) -> None:
    for name in ("a::b.png", "a*.png", "[2024] q?.png", "#1 100%.png", "new\nline.png"):
        photo(2).save(tmp_path / name)
        np.testing.assert_array_equal(to_square(str(tmp_path / name), size=SIZE), to_square(photo(2), size=SIZE))


def test_a_large_transparent_image_is_shrunk_first_with_the_same_result() -> None:
    rng = np.random.default_rng(0)
    image = Image.fromarray(rng.integers(0, 256, (50, 40, 4), np.uint8)).resize((2500, 2000))
    assert image.width * image.height > LARGE_PIXELS
    white = Image.new("RGBA", image.size, (255, 255, 255, 255))
    whole = Image.alpha_composite(white, image).convert("RGB").resize((32, 32), Image.Resampling.BILINEAR)
    shrunk = to_square(image, size=32)
    assert np.abs(shrunk.astype(int) - np.asarray(whole)).max() <= 2
