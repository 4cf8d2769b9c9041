"""Makes `captions/names.txt`: the words that people write with a capital, from word counts of a large corpus.

    python -m ram_ray.captions.training.make_names LEXEME_PROB NAMES_FOLDER ram_ray/captions/names.txt

LEXEME_PROB is `en_lexeme_prob.json.gz` of the package spacy-lookups-data (MIT; log probabilities of the words of three
billion words of web comments, capitals kept), NAMES_FOLDER the folder of the package `names` (MIT; the given names and
surnames of the United States census of 1990, public domain). A word is a name if its share of capitals,

    P("Paris") / (P("Paris") + P("paris")),

is high: 0.93 for "paris", 0.06 for "dog". Words that begin many sentences have 0.1 to 0.4. `not_names.txt` has the
words with a high share that still name or describe something to be seen ("asian", "lily", "lego").
"""

from __future__ import annotations

import argparse
import gzip
import json
import math
import re
from collections import defaultdict
from collections.abc import Mapping
from pathlib import Path

from ram_ray.captions.sections import read_sections

NAME, LIKELY = 0.76, 0.6  # shares of capitals
MIN_PROBABILITY = 5e-8  # rarer words: "likely" ones are left out
NUM_GIVEN, NUM_SURNAMES = 1200, 1500  # the most frequent ones of each sex, and of all
_HEADER = (
    "# Made by ram_ray.captions.training.make_names from the packages",
    "# spacy-lookups-data (MIT licence, copyright ExplosionAI GmbH), the file en_lexeme_prob.json.gz, and",
    "# names (MIT licence, copyright Trey Hunner), the census files dist.*, which are in the public domain.",
)
_WORD = re.compile(r"[a-z]{2,20}|[A-Z][A-Za-z]{0,20}[a-z]")  # no acronyms


def shares(log_probabilities: Mapping[str, float]) -> dict[str, tuple[float, float]]:
    """Share of capitals, and probability, of each word.

    Args:
        log_probabilities: of words as written.

    Returns:
        Word in lower case -> (share, 0 to 1; probability of both forms).
    """
    capital: dict[str, float] = defaultdict(float)
    lower: dict[str, float] = defaultdict(float)
    for word, value in log_probabilities.items():
        if _WORD.fullmatch(word):
            (lower if word.islower() else capital)[word.lower()] += math.exp(value)
    sums = {word: capital[word] + lower[word] for word in capital.keys() | lower.keys()}
    return {word: (capital[word] / total, total) for word, total in sums.items()}


def sections(
    of_word: Mapping[str, tuple[float, float]], given: set[str], surnames: set[str], not_names: set[str]
) -> dict[str, list[str]]:
    """The words of each section of names.txt.

    Args:
        of_word: as `shares` returns.
        given: given names.
        surnames: surnames.
        not_names: words that are no names.

    Returns:
        Section -> its words, sorted.
    """

    def between(low: float, high: float) -> list[str]:
        return sorted(
            word
            for word, (share, probability) in of_word.items()
            if low <= share < high and probability >= MIN_PROBABILITY and word not in not_names
        )

    names = between(NAME, 2)
    return {
        "name": names,
        "likely": between(LIKELY, NAME),
        "given": sorted(given - not_names),
        "surname": sorted(surnames.difference(names)),
    }


def _census(path: Path, count: int) -> set[str]:
    return {line.split()[0].lower() for line in path.read_text(encoding="utf-8").splitlines()[:count]}


def main() -> None:
    """Command line of this module."""
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("lexeme_prob", type=Path)
    arguments.add_argument("names_folder", type=Path)
    arguments.add_argument("out", type=Path)
    options = arguments.parse_args()
    with gzip.open(options.lexeme_prob, "rt", encoding="utf-8") as file:
        of_word = shares(json.load(file))
    given = {
        name for sex in ("male", "female") for name in _census(options.names_folder / f"dist.{sex}.first", NUM_GIVEN)
    }
    surnames = _census(options.names_folder / "dist.all.last", NUM_SURNAMES)
    kept = read_sections(Path(__file__).with_name("not_names.txt").read_text(encoding="utf-8"))
    made = sections(of_word, given, surnames, set().union(*kept.values()))
    lines = [*_HEADER]
    for section, words in {**made, "adjectives": kept["adjectives"], "holidays": kept["holidays"]}.items():
        lines += [f"[{section}]", *sorted(words)]
    options.out.write_text("\n".join(lines) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
