"""Filters of images and captions (`data.filters`); each has its own reason, and one that is not set is off.

A filter of images rejects a row. A filter of captions takes away a caption; a row is rejected if that leaves it without
captions, and it has no labels.

Sharpness and brightness are scored as CleanVision does, so that its thresholds can be used:
    sharpness   1 - exp(-v / 100), with v the variance of the edges of the image shrunk to 64 pixels, here without its
                outermost pixels, which Pillow's edge filter only copies
    brightness  of a pixel sqrt(0.241 R^2 + 0.691 G^2 + 0.068 B^2) / 255; of an image, the 99th percentile
"""

from __future__ import annotations

import math
import re
from functools import lru_cache
from urllib.parse import urlsplit

import fsspec
import numpy as np
from PIL import Image, ImageFilter, ImageStat

from ram_ray.captions.language import NOT_ENGLISH, why_rejected
from ram_ray.captions.tables import load_lemmas
from ram_ray.records import Reason, Reject, Row
from ram_ray.settings.curation import FiltersConfig

SHARPNESS_SIDE, BRIGHTNESS_SIDE = 64, 256  # pixels of the longer side in which they are measured


def score_sharpness(image: Image.Image) -> float:
    """Score how sharp an image is.

    Args:
        image: RGB.

    Returns:
        0 to 1; CleanVision calls an image below 0.29 blurry.
    """
    grey = image.convert("L")
    grey.thumbnail((SHARPNESS_SIDE, SHARPNESS_SIDE))
    edges = grey.filter(ImageFilter.FIND_EDGES)
    if min(edges.size) > 2:
        edges = edges.crop((1, 1, edges.width - 1, edges.height - 1))
    return 1 - math.exp(-0.01 * ImageStat.Stat(edges).var[0])


def score_brightness(image: Image.Image) -> float:
    """Score how bright the brightest parts of an image are.

    Args:
        image: RGB.

    Returns:
        0 to 1; CleanVision calls an image below 0.32 dark.
    """
    small = image.copy()
    small.thumbnail((256, 256))
    squares = np.asarray(small, np.float32) ** 2
    return float(np.percentile(np.sqrt(squares @ np.array([0.241, 0.691, 0.068], np.float32)), 99)) / 255


def check_row(row: Row, filters: FiltersConfig, *, opt_out: frozenset[str] = frozenset()) -> None:
    """Apply the filters that need no pixels.

    Args:
        row: a SAMPLE row.
        filters: which are set.
        opt_out: lines of the opt-out list, in lower case.

    Raises:
        Reject: opted_out or aspect_ratio.
    """
    if opt_out:
        url, sha256 = (row["url"] or "").strip(), (row["sha256"] or "").lower()
        if match := next((name for name in (url.lower(), sha256, *_hosts(url)) if name and name in opt_out), None):
            raise Reject("opted_out", f"{match} is in the opt-out list")
    if filters.max_aspect and row["width"] and row["height"]:
        aspect = max(row["width"], row["height"]) / min(row["width"], row["height"])
        if aspect > filters.max_aspect:
            raise Reject("aspect_ratio", f"{row['width']} x {row['height']} is {aspect:.2f} to 1")


def check_pixels(image: Image.Image, filters: FiltersConfig) -> None:
    """Apply the filters of decoded images.

    Args:
        image: RGB.
        filters: which are set.

    Raises:
        Reject: blurred or dark.
    """
    if filters.min_sharpness is not None and (score := score_sharpness(image)) < filters.min_sharpness:
        raise Reject("blurred", f"sharpness {score:.3f} is below {filters.min_sharpness}")
    if filters.min_brightness is not None and (score := score_brightness(image)) < filters.min_brightness:
        raise Reject("dark", f"brightness {score:.3f} is below {filters.min_brightness}")


@lru_cache(maxsize=2)
def read_opt_out(uri: str) -> frozenset[str]:
    """Read an opt-out list.

    Args:
        uri: of a text file: on each line a url, a sha256 sum, or a host, which stands for all its urls.

    Returns:
        The lines in lower case, without blank ones and those that begin with "#".
    """
    with fsspec.open(uri, "r", encoding="utf-8", errors="replace") as file:
        lines = (line.strip().lower() for line in file)
        return frozenset(line for line in lines if line and not line.startswith("#"))


def find_reason(text: str, filters: FiltersConfig) -> Reason | None:
    """Apply the filters of captions.

    Args:
        text: a caption.
        filters: which are set.

    Returns:
        Why the caption is taken away: caption_length, watermark or language; None: it stays.
    """
    num_words = len(text.split())
    if num_words < (filters.min_caption_words or 0) or num_words > (filters.max_caption_words or num_words):
        return "caption_length"
    if filters.watermark and _watermark(tuple(filters.watermark)).search(text):
        return "watermark"
    if filters.english and why_rejected(text, load_lemmas().known_word) == NOT_ENGLISH:
        return "language"
    return None


@lru_cache(maxsize=2)
def _watermark(words: tuple[str, ...]) -> re.Pattern[str]:
    return re.compile("|".join(rf"(?<!\w){re.escape(word)}(?!\w)" for word in words), re.IGNORECASE)


def _hosts(url: str) -> list[str]:
    """The host of a url, and the domains that it is in."""
    try:
        parts = (urlsplit(url).hostname or "").split(".")
    except ValueError:
        return []
    return [".".join(parts[start:]) for start in range(len(parts) - 1)]
