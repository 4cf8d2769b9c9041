"""Tags read off a corrected dependency parse; `triples` adds the relations between them.

The part of speech gives the kind of a tag, the relations give its extent. An object is a noun with its compound
modifiers, an attribute is an adjective or a participle before its noun, an action is any other verb. Negated words give
no tags.
"""

from __future__ import annotations

from functools import lru_cache
from itertools import pairwise
from operator import itemgetter
from typing import TYPE_CHECKING, NamedTuple

from ram_ray.captions.boilerplate import reasons
from ram_ray.captions.lemmas import Lemmatizer
from ram_ray.captions.names import mark_names, read_capitals
from ram_ray.captions.negation import find_negated
from ram_ray.captions.relations import MODIFIERS, NO_WORD, Word, next_word, previous_word, read_words
from ram_ray.captions.repair import fixed_pair, repair
from ram_ray.captions.titles import read_titles
from ram_ray.captions.triples import Triple, find_described, find_triples
from ram_ray.captions.words import (
    ACRONYMS,
    BEINGS,
    BODY_CARE,
    COLOURS,
    COMPOUNDS,
    DRAWINGS,
    DRINKS,
    IMAGE_WORDS,
    KIND_WORDS,
    MEASURES,
    NEVER_DESCRIBING,
    NOT_ACTIONS,
    NOT_ATTRIBUTES,
    NOT_OBJECTS,
    POSTED,
    POSTURES,
    SCENES,
    SHORT_NOUNS,
    SPEAKERS,
    STATES,
    TALK,
    TOLD,
)

if TYPE_CHECKING:
    from spacy.tokens import Doc


class Tag(NamedTuple):
    """A tag read in a caption: lower-case lemmas joined by one space, and its kind (`records.KINDS`)."""

    name: str
    kind: str


class Reading(NamedTuple):
    """Tags in the order of the text, each once; relations of the actions; attributes with the nouns they describe."""

    tags: list[Tag]
    relations: list[Triple]
    described: list[tuple[str, str]]


def find_tags(doc: Doc, lemmas: Lemmatizer, caption: str | None = None) -> list[Tag]:
    """Find the tags of a parsed caption.

    Args:
        doc: spaCy's Doc of a caption.
        lemmas: dictionary forms.
        caption: the text of `doc` with its capitals; None: it has none.

    Returns:
        Tags in the order of the text, each once.
    """
    words = read_words(doc, caption)
    return list(dict.fromkeys(tag for _, tag in _locate_tags(words, lemmas)))


def read_caption(doc: Doc, lemmas: Lemmatizer, caption: str | None = None) -> Reading:
    """Find the tags and relations of a parsed caption.

    Args:
        doc: spaCy's Doc of a caption.
        lemmas: dictionary forms.
        caption: the text of `doc` with its capitals; None: it has none.

    Returns:
        Tags, relations, and attributes with the nouns they describe.
    """
    words = read_words(doc, caption)
    located = _locate_tags(words, lemmas)
    things = {index: tag.name for index, tag in located if tag.kind in ("object", "scene")}
    actions = {index: tag.name for index, tag in located if tag.kind == "action"}
    attributes = {index: tag.name for index, tag in located if tag.kind == "attribute"}
    return Reading(
        list(dict.fromkeys(tag for _, tag in located)),
        find_triples(words, things, actions),
        find_described(words, things, attributes),
    )


def _locate_tags(words: list[Word], lemmas: Lemmatizer) -> list[tuple[int, Tag]]:
    """Tags with their index (of a compound, the index of its head), in the order of the text; corrects the words."""
    capitals = read_capitals(words)
    mark_names(words, capitals, lemmas)
    read_titles(words, capitals, lemmas)
    repair(words, lemmas)
    negated = find_negated(words)
    located: list[tuple[int, Tag]] = []
    phrases, compound_indices = _noun_phrases(words, lemmas)
    for last, parts in phrases:
        if not negated[last]:
            located += [(last, tag) for tag in _objects(words, last, parts, lemmas)]
    for word in words:
        if negated[word.index] or word.index in compound_indices:
            continue
        if word.pos == "A" or (word.pos == "V" and _is_attributive_participle(words, word)):
            name = _attribute(words, word, lemmas)
            if name:
                located.append((word.index, Tag(name, "attribute")))
        elif word.pos == "V" and (name := _action(words, word, lemmas)):
            located.append((word.index, Tag(name, "action")))
    return [(index, tag) for index, tag in sorted(located, key=itemgetter(0)) if _is_name(tag.name)]


def _noun_phrases(words: list[Word], lemmas: Lemmatizer) -> tuple[list[tuple[int, list[int]]], set[int]]:
    """Heads with the indices of their compound modifiers, and the indices of all compound modifiers."""
    phrases, compound_indices = [], set()
    for word in reversed(words):
        if word.pos != "N" or word.index in compound_indices:
            continue
        parts: list[int] = []
        first = word.index
        while first > 0 and _is_compound_part(words, words[first - 1], words[first], lemmas, len(parts)):
            first -= 1
            parts.insert(0, first)
        compound_indices.update(parts)
        phrases.append((word.index, parts))
    return phrases, compound_indices


def _is_compound_part(words: list[Word], left: Word, right: Word, lemmas: Lemmatizer, length: int) -> bool:
    """True if `left` is a compound modifier of `right`."""
    if fixed_pair(words, left, right, lemmas):
        return True
    if left.tag == "NNS" and lemmas(left.text, "noun") in IMAGE_WORDS:
        return False  # "hotel photos room"
    if left.pos != "N" or len(left.text) < 2 or length >= 3 or lemmas(left.text, "noun") in NOT_OBJECTS - KIND_WORDS:
        return False
    if right.text in ("rock", "bungee", "kite", "wind", "wake", "paddle") and next_word(words, right).pos == "V":
        return False  # "a man rock climbing"
    if right.rel == "flat" and right.head <= left.index:
        return True
    if left.rel in MODIFIERS and words[left.head].pos == "N" and left.head != left.index:
        return lemmas(left.text, "noun") == left.text or left.tag != "NNS"
    # Two adjacent nouns are a compound, whatever the parse says, unless the first is plural, a being or a scene.
    name = lemmas(left.text, "noun")
    return name == left.text and name not in BEINGS and name not in SCENES


def _objects(words: list[Word], last: int, parts: list[int], lemmas: Lemmatizer) -> list[Tag]:
    """The object or scene of a noun phrase; no tag for measures, places and times."""
    head, boilerplate = lemmas(words[last].text, "noun"), reasons()
    names = [lemmas(words[part].text, "noun") for part in parts]
    if head == "glasses" and (set(names) & DRINKS or next_word(words, words[last]).text == "of"):
        head = "glass"
    following = next_word(words, words[last])
    if len(head) < 3 and head not in ACRONYMS and head not in SHORT_NOUNS:
        return []  # "nv", "sw"
    if boilerplate.get(head) == "organisations":
        return []  # "sports association": neither of them
    if head in MEASURES and (following.text == "of" or following.pos == "N"):
        return []
    held = words[last].rel == "obj" and words[words[last].head].pos == "V"
    if head in boilerplate and head in IMAGE_WORDS and held and not names:
        return [Tag(head, "object")]  # "a man holds a photo"
    if head in IMAGE_WORDS and names[-1:] == [
        "stock"
    ]:  # "a red car on a beach stock photo": the last two words are an agency's
        if len(names) == 1:
            return []
        head, names = names[-2], names[:-2]
    verb = words[words[last].head]
    tells = words[last].rel == "subj" and verb.pos == "V" and lemmas(verb.text, "verb") not in POSTURES
    if head in IMAGE_WORDS and tells:
        return []  # "pictures like this make it obvious"
    if head in ("picture", "photo", "photograph") and any(word.head == last and word.text == "in" for word in words):
        return []
    name = " ".join([*names, head])
    garment = head == "top" and _is_garment(words, words[last])
    if (head in NOT_OBJECTS or head in boilerplate) and name not in SCENES and name not in COMPOUNDS and not garment:
        *names, head = [part for part in names if part not in NOT_OBJECTS and part not in boilerplate] or [""]
        name = " ".join([*names, head])
    if not name:
        return []
    tag = Tag(name, "scene" if name in SCENES or (head in SCENES and names) else "object")
    in_sentence = previous_word(words, words[parts[0] if parts else last]).pos in ("DET", "ADP", "PRON", "V", "NUM")
    if len(names) > 1 and head not in NOT_OBJECTS and not in_sentence:
        *_, before, _ = [*names, head]
        short = f"{before} {head}" if f"{before} {head}" in COMPOUNDS else head
        short_tag = Tag(short, "scene" if short in SCENES else "object")
        is_known = any(" ".join(pair) in COMPOUNDS for pair in pairwise([*names, head]))
        # So long a compound is rare, and mostly a heap of nouns: its head is what it names.
        return [tag, short_tag] if is_known and len(names) == 2 and short == head else [short_tag]
    return [tag]


def _is_garment(words: list[Word], word: Word) -> bool:
    """True for a "top" that is a garment: "in a white top", "wearing a top"."""
    if next_word(words, word).text == "of":
        return False
    prepositions = [child.text for child in words if child.head == word.index and child.rel == "case"]
    return prepositions == ["in"] or (not prepositions and word.rel in ("obj", "conj", "root"))


def _is_attributive_participle(words: list[Word], word: Word) -> bool:
    """True for a participle before its noun: "a parked car", "two smiling children"."""
    if word.tag not in ("VBG", "VBN", "JJ", "VBD"):
        return False
    if word.text in STATES and word.tag == "VBN" and previous_word(words, word).text in ("is", "are", "was", "were"):
        return next_word(words, word).text != "by"
    following = next_word(words, word)
    begins = previous_word(words, word).pos in ("", "PUNCT")
    if begins and word.tag in ("VBN", "VBD") and word.text.endswith(("ed", "en")) and following.pos == "N":
        return True  # "roasted oysters"
    if previous_word(words, word).text in ("while", "when", "by") or word.text in NEVER_DESCRIBING:
        return False
    if (
        previous_word(words, word).pos in ("PUNCT", "CCONJ")
        and previous_word(words, previous_word(words, word)).pos == "V"
    ):
        return False  # "laughing, drinking water"
    if word.tag == "VBN" and previous_word(words, word).text.endswith("ly") and following.pos in ("N", "A"):
        return previous_word(words, previous_word(words, word)).pos not in ("AUX", "N")  # "newly built houses"
    if word.rel in ("amod", "compound") and word.head > word.index:
        return word.tag != "VBG" or previous_word(words, word).pos != "N"  # "an officer directing traffic"
    if word.tag == "VBN" and previous_word(words, word).pos in ("A", "NUM") and following.pos == "N":
        return True
    return (
        previous_word(words, word).pos == "DET"
        and following.pos in ("N", "A")
        and previous_word(words, word).text != "that"
    )


def _attribute(words: list[Word], word: Word, lemmas: Lemmatizer) -> str:
    """Name of the attribute, or "" if the word counts, compares, or describes the image itself."""
    if word.rel in ("det", "case", "mark", "fixed", "cc", "aux", "num", "advmod") and word.text not in COLOURS:
        return ""
    name = lemmas(word.text, "adj") if word.pos == "A" else word.text
    if word.pos == "V" and word.tag in ("VBN", "VBD") and lemmas(word.text, "verb") in TOLD:
        return ""  # "recently released tables"
    if (
        {name, word.text} & NOT_ATTRIBUTES
        or word.text in reasons()
        or name in reasons()
        or fixed_pair(words, word, next_word(words, word), lemmas)
    ):
        return ""
    first = word  # of a list of attributes: "a black and white photo of"
    while first.rel == "conj" and words[first.head].pos == "A" and first.head < first.index:
        first = words[first.head]
    head = words[first.head]
    describes_image = (
        head.pos == "N" and lemmas(head.text, "noun") in IMAGE_WORDS and next_word(words, head).text == "of"
    )
    return "" if describes_image and first.rel == "amod" else name


def _action(words: list[Word], word: Word, lemmas: Lemmatizer) -> str:
    """Lemma of the verb, or "" for auxiliaries, light verbs, and verbs used as prepositions ("including")."""
    if word.rel in ("aux", "case", "mark", "fixed", "cc"):
        return ""
    begins = previous_word(words, word).pos in ("", "PUNCT") and next_word(words, word).pos not in ("", "PUNCT")
    if word.tag in ("VB", "VBP") and word.rel == "root" and begins:
        return ""  # an invitation: "Pick one", "Check out"
    name = lemmas(word.text, "verb")
    if not word.text.endswith(("ing", "ed", "s")) and not lemmas.known(word.text, "verb"):
        return ""  # "keto"
    if name == "go" and next_word(words, word).text == "to":
        follower = words[word.index + 2] if word.index + 2 < len(words) else NO_WORD
        return "" if follower.pos == "V" else name
    first = all(before.pos in ("ADV", "PUNCT", "INTJ") for before in words[: word.index])
    if first and name in POSTED and word.rel == "root":
        return ""
    if next_word(words, word).text in ("like", "for") and name == "look":
        return ""
    if any(child.head == word.index and child.rel == "subj" and child.text in SPEAKERS for child in words):
        return ""
    subject = _subject(words, word, lemmas)
    told = name in ("show", "contain", "make", "include") or word.rel != "acl"
    if (name == "show" and subject in DRAWINGS) or (subject in IMAGE_WORDS and told and name not in POSTURES):
        return ""  # "a map that shows a river", "this picture makes me smile", "image may contain a tree"
    if name == "get" and lemmas(_object(words, word), "noun") not in BODY_CARE:
        return ""
    if name in NOT_ACTIONS or (name in TALK and not _is_acted(words, word, lemmas)):
        return ""
    return name


def _object(words: list[Word], word: Word) -> str:
    """Text of the noun that is the object of a verb; "" if there is none."""
    return next((child.text for child in words if child.head == word.index and child.rel == "obj"), "")


def _subject(words: list[Word], word: Word, lemmas: Lemmatizer) -> str:
    """Lemma of the noun that is the subject of a verb, or that it describes; "" if there is none."""
    subject = next((child for child in words if child.head == word.index and child.rel == "subj"), NO_WORD)
    if word.rel == "acl" and subject.pos in ("", "PRON"):
        subject = words[word.head]  # "a map that shows a river"
    return lemmas(subject.text, "noun")


def _is_acted(words: list[Word], word: Word, lemmas: Lemmatizer) -> bool:
    """True for a verb that somebody in the image does: its subject is a noun, and no name ("a man buys fruit")."""
    if subject := _subject(words, word, lemmas):
        return subject in BEINGS
    if word.rel in ("conj", "comp", "advcl") and word.head != word.index:
        head = words[word.head]
        return (
            head.pos == "V"
            and head.head != word.index
            and (head.rel in ("root", "acl") and _is_acted(words, head, lemmas))
        )
    return False


@lru_cache(maxsize=1 << 16)
def _is_name(name: str) -> bool:
    """Letters, with hyphens and apostrophes inside: no numbers, no symbols, no other scripts."""
    plain = name.replace("-", "").replace("'", "").replace(" ", "")
    return (
        len(plain) > 1
        and name[0].isalpha()
        and name[-1].isalpha()
        and len(name) <= 60
        and plain.isalpha()
        and all(ord(char) < 0x250 for char in plain)
    )
