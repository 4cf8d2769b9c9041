"""Contract: text of any kind causes the caption parser neither an error nor a long run."""

from __future__ import annotations

import random
import time

import pytest

from ram_ray.captions.language import REASONS
from ram_ray.captions.parser import CaptionParser
from ram_ray.captions.rules import Tag


@pytest.fixture(scope="module")
def parser() -> CaptionParser:
    return CaptionParser(max_chars=1000)


def hostile_strings(count: int) -> list[str]:
    """Random texts of all kinds of characters, the same in every run; most are short, some have a megabyte."""
    rng = random.Random(0)
    pieces = [
        "dog", "a man", " ", "\0", "\ud800", "\u202e", "&lt;", "&#x41;", "<b", ">", "((", "))", "#", "@x", "-", "'",
        "\u200d", "\u0301", "\U0001f600", "http://", ".jpg", "\n", "\t", "no ", "not ", "or ", "\ufffd", "\x1b[31m",
        "\u05db\u05dc", "\u72ac", "1,000", "%s", "\\", '"', "a-b-", "of the ", "and ", ",", "...",
    ]  # fmt: skip
    texts = ["".join(rng.choices(pieces, k=rng.randrange(60))) for _ in range(count - 2 * len(pieces))]
    texts += [piece * (1_000_000 // len(piece)) for piece in pieces]
    return texts + [f"{piece} " * 400 + "a dog" for piece in pieces]


def test_a_thousand_hostile_strings(parser: CaptionParser) -> None:
    texts = hostile_strings(1000)
    together = parser.read(texts)
    assert len(together) == len(texts) == 1000
    assert all(reading.reason in (None, *REASONS) for reading in together)
    assert all(reading.tags == [] for reading in together if reading.reason)
    slowest = 0.0
    for text, reading in zip(texts[::9] + texts[-80:], together[::9] + together[-80:], strict=True):
        started = time.process_time()
        assert parser.read([text]) == [reading]
        slowest = max(slowest, time.process_time() - started)
    assert slowest < 1


HOSTILE = {
    "empty": "",
    "spaces": " \t\r\n ",
    "nul": "a \0dog\0 runs",
    "one megabyte of words": "dog " * 250_000,
    "one megabyte without a space": "x" * 1_000_000,
    "one megabyte of signs": "<a#&@.-_" * 125_000,
    "right to left": "\u202ea dog runs \u05db\u05dc\u05d1",
    "lone surrogates": "a dog \ud800\udfff\udc00 runs",
    "replacement": "a dog \ufffd\ufffd runs",
    "nesting": "(" * 5000 + "dog" + ")" * 5000,
    "entities": "&lt;" * 5000 + "&#0;&#xD800;&#99999999999;",
    "emoji": "\U0001f600\U0001f468\u200d\U0001f469 a dog",
    "numbers": "1 22 333 4444",
    "hyphens": "-".join("ab" for _ in range(300)),
    "combining": "e" + "\u0301" * 900,
    "no english": "\u72ac\u304c\u8d70\u308b",
}


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_text(parser: CaptionParser, name: str) -> None:
    started = time.process_time()  # not wall time: the machine may be busy
    (tags,) = parser.parse([HOSTILE[name]])
    assert time.process_time() - started < 3
    assert all(tag.name and tag.name == tag.name.strip().lower() and tag.name.isprintable() for tag in tags)
    if name in ("empty", "spaces", "numbers", "no english"):
        assert tags == []
    if name in ("nul", "lone surrogates", "replacement"):
        assert tags == [Tag("dog", "object"), Tag("run", "action")]
