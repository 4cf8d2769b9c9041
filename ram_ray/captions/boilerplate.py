"""Boilerplate of web captions: what `boilerplate.txt` lists, prices, sizes, credits and the names of sites.

`cut` removes phrases from a text before it is parsed; the words of `reasons` give no tags. The label system uses the
same list, for tags that another parser read or a person gave, and its report names the reason.
"""

from __future__ import annotations

import hashlib
import re
from functools import cache
from importlib import resources

from ram_ray.captions.sections import read_sections

VERBS = "verbs"  # the section for actions alone
_IMAGES = r"(?:photo|photograph|image|picture|pic|shot|video)s?"
_UNITS = r"mm|cm|km|kg|ml|mg|ft|feet|foot|lbs?|oz|inch(?:es)?|in|yards?|yds?|pcs|pc|gb|mp|ct|k|qt|gallons?|miles?|sq"
_PATTERNS = (
    r"[$£€₹]\s?\d[\d,.]*",
    rf"\b\d[\d.,/]*\s?(?:x\s?\d[\d.,/]*\s?)*(?:{_UNITS})\b\.?(?!-)",
    r"\b\d[\d./]*(?:\s?x\s?\d[\d./]*)+\b",  # 5x7
    r"\bfig(?:ure|\.)?\s?\d+[a-z]?\b",
    r"^file\s?-\s",
    r"\b(?:key|tag|keyword|categorie)s?\s?:",
    rf"\bin this (?:[\w.,-]+ ){{0,6}}?{_IMAGES}\b(?: (?:taken|made|provided|released)\b)?",
    rf"\([^()]{{0,60}}\b(?:{_IMAGES}|courtesy|credit|file)\b[^()]{{0,80}}\)",
    rf"\b{_IMAGES}(?: taken| courtesy| credits?)?(?: by| of courtesy|:| ©)\s[^,:;|()]{{1,60}}",
    r"\b(?:image|photo) (?:courtesy|credit)\b[^,;|()]{0,60}",
    r"[-,(]\s*[\w ]{1,30}? (?:not )?included\b",
    r"©[^,;|()]{0,60}",
)
_QUOTE_MARKS = re.compile(r'"{2,}')
_QUOTED = re.compile(r'"[^"]{1,80}"')
_MIN_REST = 20  # characters beside a quotation that make it a part of the caption
_SITE = re.compile(r"^(.*\w.*)\s\|\s*([^|]{1,40})$")


_WORD = re.compile(r"\w+")
_PATTERN = re.compile("|".join(_PATTERNS), re.IGNORECASE)


@cache
def _phrases() -> tuple[re.Pattern[str], frozenset[str]]:
    """A pattern of all phrases, and their last words: most captions have none, and trying all phrases is slow."""
    phrases = [phrase for phrase in reasons() if " " in phrase or "-" in phrase]
    alternatives = "|".join(re.escape(phrase) for phrase in sorted(phrases, key=len, reverse=True))
    last_words = frozenset(_WORD.findall(phrase)[-1] for phrase in phrases)
    return re.compile(rf"\b(?:{alternatives})\b", re.IGNORECASE), last_words


@cache
def _sections() -> dict[str, frozenset[str]]:
    return read_sections((resources.files("ram_ray.captions") / "boilerplate.txt").read_text(encoding="utf-8"))


@cache
def reasons() -> dict[str, str]:
    """The words and phrases that are no tags.

    Returns:
        Word, in lower case -> reason, the section of `boilerplate.txt`.
    """
    return {word: reason for reason, words in _sections().items() if reason != VERBS for word in words}


@cache
def verbs() -> frozenset[str]:
    """The verbs that may be actions of a caption, but no labels."""
    return _sections()[VERBS]


def digest_of_list() -> str:
    """Digest of the list, for the identity of what is made with it.

    Returns:
        Hexadecimal digits.
    """
    rows = "\n".join(
        f"{reason} {word}" for word, reason in sorted([*reasons().items(), *((v, VERBS) for v in verbs())])
    )
    return hashlib.sha256(rows.encode()).hexdigest()[:12]


def cut(text: str) -> str:
    """Remove boilerplate from a caption.

    Args:
        text: a caption with its capitals, on one line.

    Returns:
        The text without it.
    """
    if "|" in text and (match := _SITE.match(text)) and _is_site(match[2]):
        text = match[1]
    if '"' in text:
        text = _without_quotes(_QUOTE_MARKS.sub('"', text))
    pattern, last_words = _phrases()
    if not last_words.isdisjoint(_WORD.findall(text.lower())):
        text = pattern.sub(" , ", text)
    return _PATTERN.sub(" , ", text)


def _without_quotes(text: str) -> str:
    """Remove what stands in quotation marks, a title or a slogan, unless it is most of the caption."""
    rest = _QUOTED.sub(" ", text)
    return rest if 2 * len(rest) > len(text) or len(rest) > _MIN_REST else text


def _is_site(part: str) -> bool:
    """True for the last part of a title that is the name of a site or a shop: at most four words with capitals."""
    words = part.split()
    return len(words) <= 4 and all(not word[0].islower() for word in words)
