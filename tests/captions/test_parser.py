"""Contract: the caption parser finds the tags of a table of captions, in every form of a caption. Its results are
deterministic and the same for both label schemes.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from ram_ray.captions.lemmas import Lemmatizer
from ram_ray.captions.normalize import clean
from ram_ray.captions.parser import CaptionParser, load_pipeline
from ram_ray.captions.rules import Tag, find_tags, read_caption
from ram_ray.captions.triples import Triple
from ram_ray.records import KINDS

REPO = Path(__file__).resolve().parents[2]

# caption | objects and scenes | attributes | actions
CAPTIONS = """
a red umbrella and a blue anchor stand on the beach | umbrella, anchor, beach | red, blue | stand
a green snowman is jumping in the snow | snowman, snow | green | jump
a yellow airplane flies in the sky | airplane, sky | yellow | fly
two black scissors lie on the grass | scissors, grass | black | lie
a purple star and an orange sun | star, sun | purple, orange |
a pink snowflake and a gray heart sleep in the desert | snowflake, heart, desert | pink, gray | sleep
a blue chess king dances on the grass | chess king, grass | blue | dance
a dog runs | dog | | run
two dogs run in the park | dog, park | | run
a man surfing on a wave | man, wave | | surf
a group of dogs | dog | |
a picture of a bunch of bananas | banana | |
a pair of scissors and a cup of coffee | scissors, cup, coffee | |
a bike in front of a brick wall | bike, brick wall | |
a hot dog on a plate | hot dog, plate | |
a white truck parked next to a traffic light | truck, traffic light | white | park
a parked car | car | parked |
a fire hydrant on the side of the road | fire hydrant, road | |
there are no people in the kitchen | kitchen | |
a man without a hat | man | |
a man is not wearing a shirt | man | |
the car is red and shiny | car | red, shiny |
she is smiling | | | smile
children playing with their toys | child, toy | | play
men surf big waves | man, wave | big | surf
three women and two mice | woman, mouse | |
a cake has been cut by the bride | cake, bride | | cut
his dog's mouth is open | dog, mouth | open |
several people and many other birds | people, bird | |
a larger dog and the biggest cat | dog, cat | large, big |
a woman in black riding a brown horse | woman, horse | black, brown | ride
a snow covered mountain | mountain | snow-covered |
a black and white photo of a train | train | |
a train passes through the station | train, station | | pass
kids train for a race | kid, race | | train
a girl in a plaid shirt wears a mask | girl, shirt, mask | plaid | wear
Broccoli on a plate | broccoli, plate | |
STOP SIGN AT NIGHT | stop sign, night | |
A Brown Dog Running On The Beach | dog, beach | brown | run
a bus, two glasses and a pair of jeans | bus, glasses, jeans | |
people playing tennis on a tennis court | people, tennis, tennis court | | play
a boy in a white t-shirt | boy, t-shirt | white |
a boy in a white tee shirt | boy, t-shirt | white |
#SunnyDay at the beach http://example.org/abc | beach | sunny |
a cat &amp; a dog | cat, dog | |
a hiking backpack and a smiling girl | backpack OR hiking backpack, girl | smiling |
a man is going to ride a bike | man, bike | | ride
the man has a guitar | man, guitar | |
a building under construction near a railing | building, construction, railing | |
a teddy bear sitting on a wooden chair | teddy bear, chair | wooden | sit
four brown stacked suitcases | suitcase | brown, stacked |
an older couple jogging by the water | couple, water | old | jog
a street with no cars | street | |
a man without a shirt or shoes | man | |
nobody is sitting on the bench | bench | |
a dog that isn't wearing a collar | dog | |
a kitchen missing a sink | kitchen | |
a black, white and brown dog | dog | black, white, brown |
dogs and cats sleeping and playing on a bed | dog, cat, bed | | sleep, play
a cat is in front of a television | cat, television | |
a park bench near a parked car | park bench, car | parked |
a man parks his car in a park | man, car, park | | park
she watches a watch | watch | | watch
a swimming dog near a swimming pool | dog, swimming pool | swimming |
an orange cat eats an orange | cat, orange | orange | eat
a boy rides a bike as another rides a scooter | boy, bike, scooter | | ride
a plate of food and two glasses of wine | plate, food, glass, wine | |
a woman in a white top sitting on top of a car | woman, top, car | white | sit
a girl with long hair wearing glasses | girl, hair, glasses | long | wear
newly built houses | house | built |
the window is broken | window | broken |
a well-dressed man in a short-sleeved shirt | man, shirt | well-dressed, short-sleeved |
A MAN  RIDING A HORSE.on the beach | man, horse, beach | | ride
vintage red car on a beach stock photo | car, beach | vintage, red |
#dog #beach #SunnyDay #igers | dog, beach | sunny |
IMG_2041.JPG | | |
red_car-on-beach_02.jpg | car, beach | red |
a close up of a sliced pizza | pizza | sliced |
un perro corriendo en la playa | | |
a dog 🐶 on www.dogs.com @friend | dog | |
"""
ROWS = [line.split("|") for line in CAPTIONS.strip().splitlines()]


@pytest.fixture(scope="module")
def parser() -> CaptionParser:
    return CaptionParser(max_chars=1000)


def _names(tags: list[Tag], *kinds: str) -> set[str]:
    return {tag.name for tag in tags if tag.kind in kinds}


def _expected(cell: str) -> list[set[str]]:
    return [set(name.strip().split(" OR ")) for name in cell.split(",") if name.strip()]


@pytest.mark.parametrize("row", ROWS, ids=[row[0].strip() for row in ROWS])
def test_table(parser: CaptionParser, row: list[str]) -> None:
    caption, objects, attributes, actions = row
    (tags,) = parser.parse([caption.strip()])
    for cell, kinds in ((objects, ("object", "scene")), (attributes, ("attribute",)), (actions, ("action",))):
        names, expected = _names(tags, *kinds), _expected(cell)
        assert len(names) == len(expected), (names, expected)
        assert all(names & alternatives for alternatives in expected), (names, expected)


def test_scenes_are_a_kind_of_their_own(parser: CaptionParser) -> None:
    (tags,) = parser.parse(["a dog on the beach"])
    assert tags == [Tag("dog", "object"), Tag("beach", "scene")]
    assert {tag.kind for tag in tags} <= set(KINDS)


def test_order_duplicates_and_batches_do_not_matter(parser: CaptionParser) -> None:
    captions = [row[0].strip() for row in ROWS]
    alone = [parser.parse([caption])[0] for caption in captions]
    assert parser.parse(captions * 3) == alone * 3
    assert parser.parse(captions[::-1]) == alone[::-1]
    assert parser.parse([]) == []


def test_answers_can_be_changed_without_changing_others(parser: CaptionParser) -> None:
    first, second = parser.parse(["a dog", "a dog"])
    first.clear()
    assert second == [Tag("dog", "object")]


RELATIONS = """
a man is riding a horse on the beach | man ride horse; man ride beach on
a cake has been cut by the bride | bride cut cake
a car parked by a curb | car park curb by
a group of people sitting in front of a brick wall | people sit brick wall in front of
a boy and a girl play soccer | boy play soccer; girl play soccer
a woman who is holding an umbrella | woman hold umbrella
a dog runs | dog run
a dog not wearing a collar |
"""


@pytest.mark.parametrize("line", RELATIONS.strip().splitlines())
def test_who_does_what(parser: CaptionParser, line: str) -> None:
    caption, expected = line.split("|")
    (reading,) = parser.read([caption.strip()])
    relations = {" ".join(part for part in triple if part) for triple in reading.relations}
    assert relations == {relation.strip() for relation in expected.split(";") if relation.strip()}


def test_what_attributes_describe(parser: CaptionParser) -> None:
    (reading,) = parser.read(["the shiny car is red and a dog sits beside it"])
    assert reading.described == [("shiny", "car"), ("red", "car")]


def test_a_rejected_caption_has_a_reason(parser: CaptionParser) -> None:
    captions = ["", "12 34", "ein Hund rennt am Strand", "a dog"]
    assert [caption.reason for caption in parser.read(captions)] == ["empty", "no_words", "not_english", None]
    assert parser.read(captions)[2].tags == []


def test_clean_cuts_at_a_word_and_keeps_hyphens() -> None:
    assert clean("A well-dressed   Man", max_chars=100) == "A well-dressed Man"
    assert clean("one two three", max_chars=9) == "one two"
    assert clean("IMG_0042.JPG of a dog", max_chars=100) == "of a dog"
    assert clean("<b>dog</b> &amp;amp; cat", max_chars=100) == "dog & cat"
    assert clean("#dog #cat", max_chars=100) == "dog, cat"
    assert clean("nice #dogs", max_chars=100, known=lambda word: False) == "nice"
    assert clean("DSC_01.jpg brown_dog-02.png", max_chars=100) == "brown dog"
    assert clean("mail me@here.org or see rees.com/x", max_chars=100) == "mail or see"
    assert clean("a man - a peach - colored hat", max_chars=100) == "a man, a peach-colored hat"


def test_lemmas_follow_the_kind_of_tag(parser: CaptionParser) -> None:
    lemmas: Lemmatizer = parser._lemmas
    nouns = {"grass": "grass", "buses": "bus", "bus": "bus", "men": "man", "snowmen": "snowman", "knives": "knife",
             "jeans": "jeans", "tennis": "tennis", "people": "people", "dresses": "dress", "cookies": "cookie",
             "geese": "goose", "leaves": "leaf", "t-shirts": "t-shirt", "fishermen": "fisherman",
             "skis": "ski"}  # fmt: skip
    verbs = {"surfs": "surf", "running": "run", "singing": "sing", "ridden": "ride", "skateboarding": "skateboard",
             "riding": "ride", "lies": "lie", "standing": "stand", "swimming": "swim", "carries": "carry"}  # fmt: skip
    assert {word: lemmas(word, "noun") for word in nouns} == nouns
    assert {word: lemmas(word, "verb") for word in verbs} == verbs
    assert lemmas("larger", "adj") == "large"


def test_model_that_is_not_installed() -> None:
    with pytest.raises(ValueError, match="en_core_web_none.*spacy download en_core_web_none"):
        CaptionParser("en_core_web_none")


def test_model_without_a_parser(tmp_path: Path) -> None:
    import spacy

    spacy.blank("en").to_disk(tmp_path / "blank")
    with pytest.raises(ValueError, match="dependency parser"):
        CaptionParser(str(tmp_path / "blank"))


def test_model_by_path(tmp_path: Path) -> None:
    load_pipeline().to_disk(tmp_path / "copy")
    (tags,) = CaptionParser(str(tmp_path / "copy")).parse(["a red car"])
    assert tags == [Tag("red", "attribute"), Tag("car", "object")]


def _doc(vocab, rows: str):
    """A parsed Doc from "text/POS/TAG/relation/head index" tokens."""
    from spacy.tokens import Doc

    words, pos, tags, deps, heads = zip(*(token.split("/") for token in rows.split()), strict=True)
    return Doc(vocab, words=words, pos=pos, tags=tags, deps=deps, heads=[int(head) for head in heads])


CLEAR_AND_UD = [
    (
        "the/DET/DT/det/1 dog/NOUN/NN/nsubjpass/4 is/AUX/VBZ/auxpass/4 not/PART/RB/neg/4 washed/VERB/VBN/ROOT/4 "
        "by/ADP/IN/agent/4 a/DET/DT/det/8 tall/ADJ/JJ/amod/8 man/NOUN/NN/pobj/5",
        "the/DET/DT/det/1 dog/NOUN/NN/nsubj/4 is/AUX/VBZ/aux/4 not/PART/RB/advmod/4 washed/VERB/VBN/ROOT/4 "
        "by/ADP/IN/case/8 a/DET/DT/det/8 tall/ADJ/JJ/amod/8 man/NOUN/NN/obl/4",
    ),
    (
        "a/DET/DT/det/1 man/NOUN/NN/ROOT/1 without/ADP/IN/prep/1 a/DET/DT/det/5 red/ADJ/JJ/amod/5 hat/NOUN/NN/pobj/2 "
        "holding/VERB/VBG/acl/1 a/DET/DT/det/9 traffic/NOUN/NN/compound/9 light/NOUN/NN/dobj/6",
        "a/DET/DT/det/1 man/NOUN/NN/ROOT/1 without/ADP/IN/case/5 a/DET/DT/det/5 red/ADJ/JJ/amod/5 hat/NOUN/NN/nmod/1 "
        "holding/VERB/VBG/acl/1 a/DET/DT/det/9 traffic/NOUN/NN/compound/9 light/NOUN/NN/obj/6",
    ),
    (
        "the/DET/DT/det/1 car/NOUN/NN/nsubj/2 is/AUX/VBZ/ROOT/2 red/ADJ/JJ/acomp/2 and/CCONJ/CC/cc/3 "
        "shiny/ADJ/JJ/conj/3",
        "the/DET/DT/det/1 car/NOUN/NN/nsubj/3 is/AUX/VBZ/cop/3 red/ADJ/JJ/ROOT/3 and/CCONJ/CC/cc/5 "
        "shiny/ADJ/JJ/conj/3",
    ),
]  # fmt: skip


def test_clear_and_ud_passives_read_alike(parser: CaptionParser) -> None:
    clear = "a/DET/DT/det/1 ball/NOUN/NN/nsubjpass/3 is/AUX/VBZ/auxpass/3 held/VERB/VBN/ROOT/3 by/ADP/IN/agent/3 "
    ud = "a/DET/DT/det/1 ball/NOUN/NN/nsubj:pass/3 is/AUX/VBZ/aux:pass/3 held/VERB/VBN/ROOT/3 by/ADP/IN/case/6 "
    ends = ("a/DET/DT/det/6 man/NOUN/NN/pobj/4", "a/DET/DT/det/6 man/NOUN/NN/obl/3")
    for start, end in zip((clear, ud), ends, strict=True):
        reading = read_caption(_doc(parser._nlp.vocab, start + end), parser._lemmas)
        assert reading.relations == [Triple("man", "hold", "ball")]


READINGS = [
    {("dog", "object"), ("tall", "attribute"), ("man", "object")},
    {("man", "object"), ("hold", "action"), ("traffic light", "object")},
    {("car", "object"), ("red", "attribute"), ("shiny", "attribute")},
]


@pytest.mark.parametrize("number", range(len(READINGS)))
def test_clear_and_ud_labels_read_alike(parser: CaptionParser, number: int) -> None:
    clear, ud = (_doc(parser._nlp.vocab, rows) for rows in CLEAR_AND_UD[number])
    assert set(find_tags(clear, parser._lemmas)) == READINGS[number]
    assert read_caption(ud, parser._lemmas) == read_caption(clear, parser._lemmas)


def test_memory_zones_remove_words_and_tags_stay_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ram_ray.captions.parser.CAPTIONS_PER_ZONE", 3)
    monkeypatch.setattr("ram_ray.captions.parser.CAPTIONS_CACHED", 1)
    parser, captions = CaptionParser(), ["two dogs run on the beach", "a red zorblat near a tree"]
    first = parser.parse(captions)
    assert "zorblat" in parser._nlp.vocab.strings
    assert [parser.parse([f"a dog sits on chair{letter}"]) for letter in "abcdef"]
    assert "zorblat" not in parser._nlp.vocab.strings
    assert parser.parse(captions) == first


def test_words_of_the_first_captions_stay_and_those_of_later_ones_go(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ram_ray.captions.parser.CAPTIONS_PER_ZONE", 3)
    monkeypatch.setattr("ram_ray.captions.parser.CAPTIONS_CACHED", 2)
    parser = CaptionParser()
    parser.parse(["a red zorblat near a tree", "two dogs run on the beach"])
    assert parser.parse(["a man holds a quimble"])
    assert [parser.parse([f"a dog sits on chair{letter}"]) for letter in "abcdef"]
    assert "zorblat" in parser._nlp.vocab.strings
    assert "quimble" not in parser._nlp.vocab.strings
