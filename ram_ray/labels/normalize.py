"""Text clean-up before parsing: web captions become plain lower-case English words.

Everything is lower-cased because capitals carry no meaning that survives captions ("Broccoli On A Plate",
"STOP SIGN") and half of the shipped parser's training text is lower-cased too. The text is cut before any
pattern runs, so that the time spent is bounded by `max_chars` whatever is sent.
"""

from __future__ import annotations

import html
import re

# Patterns have no nested repeats: their time is linear in the text.
_URL = re.compile(r"\b(?:https?://|www\.)\S+|\b\S+@\S+\.\S+")
_FILE = re.compile(r"\b[\w-]{1,100}\.(?:jpe?g|png|gif|webp|bmp|tiff?|pdf|mp4)\b", re.IGNORECASE)
_TAG = re.compile(r"</?[a-zA-Z][^<>]{0,200}>")
_HASHTAG = re.compile(r"[#@](\w{1,100})")
_CAMEL = re.compile(r"(?<=[a-z])(?=[A-Z])|_+|(?<=[A-Za-z])(?=\d)")
_NOT_TEXT = re.compile(r"[^\w\s.,;:!?'&()/\"%-]+")
_LOOSE_HYPHEN = re.compile(r"(?<!\w)-|-(?!\w)")
_REPEATED = re.compile(r"([^\w\s])\1+")
_SPACES = re.compile(r"\s+")
_T_SHIRT = re.compile(r"\bt(?:ee)?[ -]?shirt(s?)\b")
_HYPHENS = str.maketrans({"‐": "-", "‑": "-", "–": " - ", "—": " - ", "’": "'", "‘": "'", "“": '"', "”": '"'})


def clean(text: str, *, max_chars: int) -> str:
    """Return `text` in lower case, without URLs, markup, control characters and symbols, on one line.

    Hashtags become words ("#SunnyDay" -> "sunny day"); a text over `max_chars` characters is cut at the end
    of a word. Lone surrogates and U+FFFD are dropped. The result may be empty.
    """
    text = _cut(text, max_chars)
    if "&" in text:
        text = html.unescape(text)
    text = text.encode("utf-8", "ignore").decode("utf-8").replace("\ufffd", "").translate(_HYPHENS)
    text = "".join(one if one.isprintable() else " " for one in text)
    for pattern in (_URL, _FILE, _TAG):
        text = pattern.sub(" ", text)
    text = _HASHTAG.sub(lambda match: " " + _CAMEL.sub(" ", match[1]) + " ", text).lower()
    text = _REPEATED.sub(r"\1", _NOT_TEXT.sub(" ", text))
    text = _LOOSE_HYPHEN.sub(" ", text)
    text = _T_SHIRT.sub(r"t-shirt\1", text)
    return _cut(_SPACES.sub(" ", text).strip(), max_chars)


def _cut(text: str, max_chars: int) -> str:
    """At most `max_chars` characters, ending where a word ends if there is a space to cut at."""
    if len(text) <= max_chars:
        return text
    head = text[: max_chars + 1]
    end = max(head.rfind(" "), head.rfind("\n"))
    return head[:end] if end > 0 else head[:max_chars]
