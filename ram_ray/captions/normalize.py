"""Text clean-up before parsing: web captions become plain lower-case words.

All text is lower-cased, because capitals have no stable meaning in captions ("Broccoli On A Plate", "STOP SIGN"), and
half of the shipped parser's training text is lower-cased too. The text is cut before any pattern runs, so the time is
bounded by `max_chars` for every input.
"""

from __future__ import annotations

import html
import re
from collections.abc import Callable

from ram_ray.captions.boilerplate import cut

# Patterns have no nested repeats: their time is linear in the text.
_PLAIN = re.compile(r"[\w\s,;:!?'\"()&-]*\.?\s*")  # no character of markup, file names or addresses
_DOMAINS = "com|org|net|edu|gov|info|co|io|tv|cc|uk|de|fr|us|eu"
_URL = re.compile(
    rf"\b(?:https?://|www\.)\S+|\b[\w.+-]{{1,60}}@[\w-]{{1,60}}\.[\w.-]{{1,60}}|\b[\w-]{{1,60}}\.(?:{_DOMAINS})\b\S*",
    re.IGNORECASE,
)
_FILE = re.compile(r"(?<![\w.])([\w%+()-]{1,100})\.(?:jpe?g|png|gif|webp|bmp|tiff?|heic|svg|pdf|mp4)\b", re.IGNORECASE)
# Words that cameras, phones and editors put into file names; they do not describe the image.
_FILE_NAME_WORDS = frozenset((
    "img", "image", "images", "dsc", "dscn", "dscf", "pxl", "mvimg", "photo", "photos", "picture", "pic", "screenshot",
    "screen", "shot", "copy", "final", "edit", "edited", "thumb", "thumbnail", "untitled", "scan", "file", "jpeg",
    "jpg", "whatsapp", "snapseed", "burst", "cover", "small", "large", "stock", "full", "hires", "version", "new",
    "crop", "cropped", "resized",
))  # fmt: skip
_TAG = re.compile(r"</?[a-zA-Z][^<>]{0,200}>")
_MENTION = re.compile(r"(?<!\w)@\w{1,100}")
_HASHTAG = re.compile(r"#(\w{1,100})")
_HASHTAGS = re.compile(r"(?:#\w{1,100}[\s,]{0,10}){2,}|#\w{1,100}[\s.!]{0,10}$")  # several, or one at the end
_CAMEL = re.compile(r"(?<=[a-z])(?=[A-Z])|_+|(?<=[A-Za-z])(?=\d)")
_NOT_TEXT = re.compile(r"[^\w\s.,;:!?'&()/\"%-]+")
_BROKEN_WORD = re.compile(r" - (?=(?:colou?red|haired|sleeved|air|shirt|old|sized|shaped|eyed)\b)", re.IGNORECASE)
_DASH = re.compile(r"\s-{1,3}\s")
_LOOSE_HYPHEN = re.compile(r"(?<!\w)-|-(?!\w)")
_NO_SPACE = re.compile(r"(?<=[a-z]{3})\.(?=(?:[a-z]{2,}|a)\b)", re.IGNORECASE)  # "on a street.a bus"
_REPEATED = re.compile(r"([^\w\s])\1+")
_SPACES = re.compile(r"\s+")
_COMMAS = re.compile(r"(?: ?,)+ ?")
_T_SHIRT = re.compile(r"\bt(?:ee)?[ -]?shirt(s?)\b", re.IGNORECASE)
_WORDS = re.compile(r"[A-Za-z\s,.'-]*")
_JOINED = (
    (re.compile(r"(?<=\w)_+(?=\w)"), " "),  # "long_hair"
    (re.compile(r"\b\d\+?(?=(?:girl|boy|other)s?\b)"), ""),  # "1girl"
    (re.compile(r"(?<=[A-Za-z])/(?=[A-Za-z])|[\[\](){}|]"), " , "),  # "grey/cream", alternatives in brackets, parts
    (re.compile(r"\bw/\s?"), "with "),
)
_HYPHENS = str.maketrans({"‐": "-", "‑": "-", "–": " - ", "—": " - ", "’": "'", "‘": "'", "“": '"', "”": '"'})


def clean(text: str, *, max_chars: int, known: Callable[[str], bool] | None = None) -> str:
    """Clean a caption: no URLs, markup, control characters and symbols.

    Hashtags and file names become words ("#SunnyDay" -> "sunny day", "red_car-02.jpg" -> "red car"). A hashtag of a
    single unknown word ("#igers") is left out. A text over `max_chars` characters is cut at the end of a word. Lone
    surrogates and U+FFFD are dropped.

    Args:
        text: a raw caption.
        max_chars: most characters that are read.
        known: whether a lower-case word is in the English tables; None: all words count as known.

    Returns:
        The text with its capitals, on one line; may be empty. In lower case it has the same length.
    """
    text = _cut(text, max_chars)
    for _ in range(2):  # web captions are often escaped twice
        if "&" in text:
            text = html.unescape(text)
    text = text.encode("utf-8", "ignore").decode("utf-8").replace("\ufffd", "").translate(_HYPHENS)
    if not text.isprintable():
        text = "".join(char if char.isprintable() else " " for char in text)
    if not _PLAIN.fullmatch(text):
        text = _without_markup(text, known)
    if " " not in text and text.count("-") > 1:
        text = text.replace("-", " ")  # the name of a page: "red-car-on-a-beach"
    text = cut(text)
    if len(text.lower()) != len(text):
        text = text.lower()  # of a few letters of other alphabets the small form is longer
    if "-" in text:
        text = _LOOSE_HYPHEN.sub(" ", _DASH.sub(" , ", _BROKEN_WORD.sub("-", text)))
    if not _WORDS.fullmatch(text):
        for pattern, replacement in _JOINED:
            text = pattern.sub(replacement, text)
    text = _NO_SPACE.sub(". ", _REPEATED.sub(r"\1", _NOT_TEXT.sub(" ", text)))
    text = _T_SHIRT.sub(r"t-shirt\1", text)
    text = _COMMAS.sub(", ", _SPACES.sub(" ", text)).strip(" ,")
    return _cut(text, max_chars)


def _without_markup(text: str, known: Callable[[str], bool] | None) -> str:
    """Remove URLs, markup tags and mentions; replace hashtags and file names by their words."""
    for pattern in (_URL, _TAG, _MENTION):
        text = pattern.sub(" ", text)
    text = _FILE.sub(lambda match: f" {_file_words(match[1])} ", text)
    text = _HASHTAGS.sub(lambda match: ", " + match[0].replace("#", ", #"), text)
    return _HASHTAG.sub(lambda match: f" {_hashtag_words(match[1], known)} ", text)


def _file_words(stem: str) -> str:
    """Words of a file name, or "" for a name that a camera wrote."""
    parts = [part for part in re.split(r"[\W\d_]+", _CAMEL.sub(" ", stem)) if len(part) > 1]
    words = [part for part in parts if part.lower() not in _FILE_NAME_WORDS]
    return " ".join(words) if sum(len(word) > 2 for word in words) > 1 else ""


def _hashtag_words(tag: str, known: Callable[[str], bool] | None) -> str:
    """Words of a hashtag, split at capitals and underscores, or "" for a single unknown word."""
    words = _CAMEL.sub(" ", tag).lower().split()
    return "" if known and len(words) == 1 and not known(tag.lower()) else " ".join(words)


def _cut(text: str, max_chars: int) -> str:
    """At most `max_chars` characters, ending where a word ends if there is a space to cut at."""
    if len(text) <= max_chars:
        return text
    prefix = text[: max_chars + 1]
    end = max(prefix.rfind(" "), prefix.rfind("\n"))
    return prefix[:end] if end > 0 else prefix[:max_chars]
