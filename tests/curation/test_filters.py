"""Contract: each filter has its own reason, and one that is not set rejects nothing."""

from __future__ import annotations

from pathlib import Path

import pytest
from PIL import Image, ImageFilter

from ram_ray.curation.filters import check_pixels, check_row, find_reason, read_opt_out, score_sharpness
from ram_ray.records import Reject
from ram_ray.settings.curation import FiltersConfig
from tests.tiny import photo

ROW = {"url": "https://img.Example.org/a.jpg?x=1", "sha256": "AB" * 32, "width": 300, "height": 100}


def reason_of_row(opt_out: set[str] | None = None, **filters: object) -> str | None:
    try:
        check_row(ROW, FiltersConfig(**filters), opt_out=frozenset(opt_out or ()))
    except Reject as reject:
        return reject.reason
    return None


@pytest.mark.parametrize("line", ["https://img.example.org/a.jpg?x=1", "ab" * 32, "img.example.org", "example.org"])
def test_a_url_a_sum_and_a_host_can_be_opted_out(tmp_path: Path, line: str) -> None:
    path = tmp_path / "list.txt"
    path.write_text(f"# no images of\n{line.upper()}\n\n")
    assert reason_of_row(set(read_opt_out(str(path)))) == "opted_out"
    assert reason_of_row({"ample.org", "org", "other.org"}) is None


def test_the_aspect_ratio() -> None:
    assert reason_of_row(max_aspect=2.9) == "aspect_ratio"
    assert reason_of_row(max_aspect=3.0) is None and reason_of_row() is None


def test_blurred_and_dark_images() -> None:
    sharp = photo(1, size=(160, 120))
    blurred, dark = sharp.filter(ImageFilter.GaussianBlur(9)), sharp.point(lambda value: value // 8)
    filters = FiltersConfig(min_sharpness=0.29, min_brightness=0.32)
    check_pixels(sharp, filters)
    for image, reason in ((blurred, "blurred"), (dark, "dark")):
        with pytest.raises(Reject) as caught:
            check_pixels(image, filters if reason == "blurred" else FiltersConfig(min_brightness=0.32))
        assert caught.value.reason == reason
        check_pixels(image, FiltersConfig())
    assert score_sharpness(Image.new("RGB", (500, 400))) == 0


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("a dog on a beach", None),
        ("dog", "caption_length"),
        ("a dog and a cat and a horse and a bird", "caption_length"),
        ("a dog, Getty Images photo", "watermark"),
        ("a spaghetti imagestrip", None),
        ("un perro en la playa con los niños", "language"),
    ],
)
def test_captions(text: str, reason: str | None) -> None:
    filters = FiltersConfig(min_caption_words=2, max_caption_words=8, watermark=["getty images"], english=True)
    assert find_reason(text, filters) == reason
    assert find_reason(text, FiltersConfig()) is None
