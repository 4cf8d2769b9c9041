"""Names of persons, brands and places: they give no tag, and they end the compounds that they stand in.

    "pitcher David Price throws a ball"    pitcher, ball
    "the Ritz hotel", "Hyndman Peak"       hotel, peak: a named thing gives its kind

A capital inside a sentence marks a name. In a title every word has one, and many captions have none; there the word
itself decides, by how often people write it with a capital (`names.txt`, made by `training.make_names`), and by the
name beside it. Nationalities ("asian") and holidays ("christmas tree") are not names.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from functools import cache
from importlib import resources
from typing import Literal, NamedTuple

from ram_ray.captions.lemmas import Lemmatizer
from ram_ray.captions.relations import NO_WORD, Word, next_word, previous_word
from ram_ray.captions.sections import read_sections
from ram_ray.captions.words import (
    ACRONYMS,
    BEFORE_MONTHS,
    BEFORE_NAMES,
    BRANDED,
    BUYERS,
    COMMON_BRANDS,
    CREATURES,
    NAME_PARTICLES,
    NEW_PLACES,
    PLACES,
    SCENES,
    SMALL_WORDS,
)

NAME = "NAME"  # `Word.pos` of a name
# What the capitals of a caption tell: those inside a sentence are names'; a title has one at each word; or none has.
Capitals = Literal["sentence", "title", "none"]
_PLACES = SCENES | PLACES
_OPEN = frozenset(("N", "A", "V", "X", "INTJ", "ADV"))  # classes of words that can be names
_ENDS = frozenset('.!?:;"|')
_CAMEL = re.compile(r"[a-z]{2}[A-Z]|[a-z][A-Z][a-z]")  # capitals inside a word
_TOKEN = re.compile(r"[^\W\d_]+(?:['-][^\W\d_]+)*|[.!?:;|\"]")


class _Names(NamedTuple):
    name: frozenset[str]
    likely: frozenset[str]
    given: frozenset[str]
    surname: frozenset[str]
    after_given: frozenset[str]  # surnames, and likely names
    kept: frozenset[str]  # nationalities and holidays: a capital tells nothing


@cache
def _names() -> _Names:
    words = read_sections((resources.files("ram_ray.captions") / "names.txt").read_text(encoding="utf-8"))
    return _Names(
        **{section: words[section] for section in ("name", "likely", "given", "surname")},
        after_given=words["surname"] | words["likely"],
        kept=words["adjectives"] | words["holidays"],
    )


def sentence_words(caption: str) -> dict[str, bool]:
    """Words inside the sentences of a caption whose capitals tell something; for the whole corpus.

    Args:
        caption: as people wrote it.

    Returns:
        Word, in lower case -> whether it is written with a capital; empty for a title, or where nothing has one. Words
        after another one with a capital are left out.
    """
    tokens = _TOKEN.findall(caption)
    if _capitals_of(tokens) != "sentence":
        return {}
    inside = {}
    for before, word, after in zip(tokens, tokens[1:], [*tokens[2:], ""], strict=False):
        part_of_name = before[0].isupper() or after == "of"  # "Stanford University": a kind, not a name
        if word[0].isalpha() and before[-1] not in _ENDS and not part_of_name:
            inside[word.lower()] = word[0].isupper() and word[1:2].islower()  # neither "TV" nor "T-shirt"
    return inside


def is_kept(word: str) -> bool:
    """Whether a word is a nationality or a holiday: English writes it with a capital, and it is no name.

    Args:
        word: in lower case.

    Returns:
        True if it is.
    """
    return word in _names().kept


def is_listed(word: str) -> bool:
    """Whether a word is in the list of names.

    Args:
        word: in lower case.

    Returns:
        True if it is.
    """
    return word in _names().name or word in _names().likely


def read_capitals(words: list[Word]) -> Capitals:
    """What the capitals of a caption tell.

    Args:
        words: of the caption.

    Returns:
        "sentence" if most of its longer words are in lower case and others begin with a capital.
    """
    return _capitals_of(word.written for word in words)


def _capitals_of(words: Iterable[str]) -> Capitals:
    longer = [word for word in words if len(word) > 2 and word.isalpha() and word.lower() not in SMALL_WORDS]
    upper = sum(written[0].isupper() for written in longer)
    if not upper:
        return "none"
    lower = len(longer) - upper
    return "sentence" if lower > 1 and 4 * lower >= len(longer) else "title"


def mark_names(words: list[Word], capitals: Capitals, lemmas: Lemmatizer) -> None:
    """Set `pos` of all names to NAME.

    Args:
        words: of a caption; changed.
        capitals: as `read_capitals` returns.
        lemmas: the known words.
    """
    for word in words:
        if word.pos in ("N", "X") and any(char.isdigit() for char in word.text):
            word.pos = "NUM"  # a code ends a compound: "Dial Watch NY8299"
    if capitals == "sentence":
        _mark_runs(words, lemmas)
    else:
        for word in words:  # what no table has was tagged by its shape: "Bendre" is no verb
            if word.pos in ("V", "X", "INTJ", "ADV") and word.text.isalpha() and not lemmas.known_word(word.text):
                word.pos = (
                    "N" if capitals == "title" and word.written[:1].isupper() and len(word.text) > 3 else word.pos
                )
    for word in words:
        if (
            word.text in NAME_PARTICLES
            and word.pos != "DET"
            or word.pos in _OPEN
            and (word.text in _names().name or _is_written_as_name(words, word, capitals, lemmas))
        ):
            word.pos = NAME
    for word in reversed(words):
        if word.pos in _OPEN and _is_beside_name(words, word, capitals, lemmas):
            word.pos = NAME
    for word in words:
        if word.pos in _OPEN and _is_beside_name(words, word, capitals, lemmas):
            word.pos = NAME
    if capitals == "title":
        _mark_parts_of_names(words, lemmas)
    elif capitals == "none":
        _mark_listed_places(words, lemmas)


def _mark_listed_places(words: list[Word], lemmas: Lemmatizer) -> None:
    """What names the first of several places, from the smallest to the largest: "hurricane ridge, washington"."""
    if any(word.pos in ("V", "AUX", "DET", "PRON") for word in words):
        return
    for word in words:
        is_listed_place = lemmas(word.text, "noun") in _PLACES and next_word(words, word).text == ","
        if not is_listed_place or not any(later.pos == NAME for later in words[word.index + 2 :]):
            continue
        named = previous_word(words, word)
        while named.pos == "N":
            named.pos = NAME
            named = previous_word(words, named)


def _mark_parts_of_names(words: list[Word], lemmas: Lemmatizer) -> None:
    """The last word of a part that has only names and words that no table has: "Mrunal Thakur"."""
    part: list[Word] = []
    for word in [*words, NO_WORD]:
        if word.pos not in ("", "PUNCT", "CCONJ", "ADP"):
            part.append(word)
            continue
        last = part[-1] if len(part) > 1 else NO_WORD
        only_names = all(member.pos == NAME for member in part[:-1])
        if only_names and last.pos in _OPEN and last.text.isalpha() and not lemmas.known_word(last.text):
            last.pos = NAME
        part = []


def _mark_runs(words: list[Word], lemmas: Lemmatizer) -> None:
    """Runs of words with a capital inside a sentence; the last word of a run may tell the kind of what is named."""
    run: list[Word] = []
    for word in [*words, NO_WORD]:
        if _has_capital(words, word):
            run.append(word)
            continue
        if run and _goes_on(words, run[0]):
            for member in run:
                member.pos = NAME
        elif run and not _is_common_run(words, run, lemmas):
            tells_kind = _tells_kind(run, lemmas)
            if tells_kind and run[-1].pos in ("V", "X"):
                run[-1].pos = "N"  # "of Rays Mill"
            for member in run[: -1 if tells_kind else None]:
                member.pos = NAME
        run = []


def _goes_on(words: list[Word], first: Word) -> bool:
    """True for what follows "of" in a name: "the Museum of Modern Art" has no art, but "Photo of Ludlow Castle"."""
    joint = previous_word(words, first)
    return joint.text == "of" and _has_capital(words, previous_word(words, joint))


def _has_capital(words: list[Word], word: Word) -> bool:
    """True for a word with a capital that it does not have as the first of a sentence."""
    if not word.written[:1].isupper() or len(word.text) < 2 or word.text in SMALL_WORDS or word.text in _names().kept:
        return False
    previous = previous_word(words, word)
    return previous is not NO_WORD and previous.text[-1] not in _ENDS


def _is_common_run(words: list[Word], run: list[Word], lemmas: Lemmatizer) -> bool:
    """True for a single common word, and for common words with which a sentence begins: "Old Man rides"."""
    begins = run[0].index == 1
    if len(run) > 1 and not begins:
        return False
    return all(_is_common(word, lemmas) for word in [*(words[:1] if begins and len(run) > 1 else []), *run])


def _is_common(word: Word, lemmas: Lemmatizer) -> bool:
    """True for a word that people mostly write without a capital: "a T-shirt", "the Bridge"."""
    if word.text in _names().name or word.text in _names().likely:
        return False
    return "-" in word.text or lemmas.known_word(word.text)


def _tells_kind(run: list[Word], lemmas: Lemmatizer) -> bool:
    """True if the last word of a name tells its kind: "Hyndman Peak", but neither "David Price" nor "Red Wings"."""
    last, names = run[-1], _names()
    if len(run) < 2 or last.text in names.name or not lemmas.known(last.text, "noun"):
        return False
    noun = lemmas(last.text, "noun")
    person = run[-2].text in names.given and (run[-2].text in names.name or run[-2].text in names.likely)
    if (person and noun not in SCENES) or (run[-2].text in names.given and last.text in names.surname):
        return False
    return noun == last.text or noun in SCENES


def _is_written_as_name(words: list[Word], word: Word, capitals: Capitals, lemmas: Lemmatizer) -> bool:
    """True for a word with a capital that its place, or its absence from all tables, makes a name."""
    names, previous, following = _names(), previous_word(words, word), next_word(words, word)
    if _CAMEL.search(word.written) or (word.text in COMMON_BRANDS and lemmas(following.text, "noun") in BRANDED):
        return True  # "UltraViolet", "Apple Watch"
    is_unknown = word.pos == "N" and word.text.isalpha() and not lemmas.known_word(word.text)
    if is_unknown and previous.text == "by" and previous_word(words, previous).pos in ("", "N", "NUM", "PUNCT"):
        return True  # "bowl by nickelcurry"
    if is_unknown and previous.text in BEFORE_NAMES:
        return True  # "st alban's church"
    if is_unknown and capitals != "title" and word.text not in names.kept and previous.text in CREATURES:
        return any(before.tag == "PRP$" for before in words[max(0, word.index - 4) : word.index])  # "my boy xolotl"
    if not word.written[:1].isupper() or len(word.text) < 2 or word.text in names.kept:
        return False
    if capitals == "title" and word.text in names.likely and previous.pos in ("", "PUNCT"):
        return following.pos not in ("", "PUNCT")  # a brand: "Puma Shoes"
    if previous.pos == NAME and previous.text in names.given and word.text in names.after_given:
        return True
    if capitals == "title" and (previous.text == "by" and previous_word(words, previous).tag != "VBN"):
        return True  # an author or a maker
    if word.written.isupper() and len(word.text) < 4 and word.text not in ACRONYMS and capitals != "title":
        return True
    if "-" in word.text:
        parts = [part for part in word.text.split("-") if len(part) > 1]
        return len(parts) > 1 and all(is_listed(part) or not lemmas.known_word(part) for part in parts)
    if lemmas.known_word(word.text) or not word.text.isalpha():
        return False
    if previous.pos in ("", "PUNCT") and following.pos in ("V", "AUX") and not word.text.endswith("s"):
        return True  # "Bonebrake playing percussion"
    is_acronym = word.written.isupper() and len(word.text) > 2 and word.text not in ACRONYMS
    is_head = following.pos not in ("N", "A", "NUM")
    if is_acronym or not is_head:
        return True
    # The head of a listing may be a thing that no table has: "Navy Kurta", "Women Kurti".
    is_thing = capitals != "title" or previous.pos == "A" or any(other.text in BUYERS for other in words)
    return not is_thing or (previous.pos == NAME and capitals != "title")


def _is_beside_name(words: list[Word], word: Word, capitals: Capitals, lemmas: Lemmatizer) -> bool:
    """True for a word beside a name that belongs to it: "vince guaraldi", "Mark Allen"."""
    previous, following, capital = previous_word(words, word), next_word(words, word), word.written[:1].isupper()
    if following.pos == NAME and word.text in _names().given and (capital or capitals == "none"):
        return True
    if capital and len(word.text.rstrip(".")) == 1 and word.pos == "N" and previous.text in _names().given:
        return following.text in _names().after_given  # "Mark A. Chambers"
    if capital and previous.pos == NAME and len(previous.text.rstrip(".")) == 1 and word.text in _names().after_given:
        return True
    if word.text == "new" and following.pos == NAME and following.text in NEW_PLACES:
        return True
    if word.text in BEFORE_NAMES and following.pos == NAME:
        return True
    if word.text in ("march", "may") and previous.pos in ("NUM", "ADP", "PUNCT", "A", ""):
        return "NUM" in (previous.pos, following.pos) or previous.text in BEFORE_MONTHS
    if not word.text.isalpha() or lemmas.known_word(word.text) or word.text in _names().kept:
        return False
    if capitals == "none":
        listed = following.text == "," and next_word(words, following).pos == NAME  # "storsteinen, norway"
        is_place = lemmas(following.text, "noun") in _PLACES  # "goygol lake"
        return listed or is_place or NAME in (previous.pos, following.pos)
    return capital and (following.pos == NAME or (previous.pos == NAME and previous.text in _names().given))
