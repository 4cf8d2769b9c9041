"""Score a caption parser against captions that a person annotated: precision, recall, F1, and the worst errors.

    python -m ram_ray.captions.training.score_parser tests/captions/gold.jsonl [--split dev] [--model NAME] [--errors N]

A line of the gold file is `{"id", "source", "split", "caption", "objects", "attributes", "actions", "optional"}`.
A name may give its equals ("surfboard|surf board"); what stands under "optional" is neither asked nor punished, and
so is the head of an asked compound ("sign" beside "street sign"). Errors are listed for the part "dev" alone: whoever
reads the errors of the measured part begins to fit it.
"""

from __future__ import annotations

import argparse
import json
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ram_ray.captions.parser import SHIPPED, CaptionParser
from ram_ray.captions.rules import Tag

KINDS = {"objects": ("object", "scene"), "attributes": ("attribute",), "actions": ("action",)}


@dataclass
class Score:
    """Counts of one kind over many captions."""

    hits: int = 0
    wrong: Counter[str] = field(default_factory=Counter)  # names found that nobody asked for
    missed: Counter[str] = field(default_factory=Counter)  # names asked for and not found

    @property
    def precision(self) -> float:
        """Share of right names among those found; 1 where none was found."""
        found = self.hits + self.wrong.total()
        return self.hits / found if found else 1.0

    @property
    def recall(self) -> float:
        """Share of found names among those asked for; 1 where none was asked for."""
        asked = self.hits + self.missed.total()
        return self.hits / asked if asked else 1.0

    @property
    def f1(self) -> float:
        """Harmonic mean of precision and recall."""
        both = self.precision + self.recall
        return 2 * self.precision * self.recall / both if both else 0.0


def read_gold(path: Path, *, split: str | None = None) -> list[dict[str, Any]]:
    """Rows of a gold file, of one part or of all.

    Args:
        path: of the JSON lines.
        split: name of the part; None: all.

    Raises:
        ValueError: if the file is not there, or has no row of this part.
    """
    if not path.is_file():
        raise ValueError(f"{path}: there is no such file; the one of this repository is tests/captions/gold.jsonl")
    rows = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines() if line.strip()]
    parts = sorted({row["split"] for row in rows})
    rows = [row for row in rows if split is None or row["split"] == split]
    if not rows:
        raise ValueError(f"{path} has no rows of the part {split!r}; it has {parts}")
    return rows


def compare(found: Iterable[str], asked: list[str], optional: list[str]) -> tuple[int, list[str], list[str]]:
    """Hits, names found wrongly and names missed, for one kind of one caption.

    Args:
        found: names that the parser gave.
        asked: names that the gold asks for; "a|b" is met by either.
        optional: names that are right, and not missed.
    """
    names = list(dict.fromkeys(found))
    groups = [one.split("|") for one in asked]
    allowed = {other for one in [*asked, *optional] for other in one.split("|")}
    hits = sum(any(name in group for name in names) for group in groups)
    missed = [one for one, group in zip(asked, groups, strict=True) if not any(name in group for name in names)]
    heads = {" ".join(name.split()[place:]) for name in allowed for place in range(1, len(name.split()))}
    return hits, [name for name in names if name not in allowed | heads], missed


def score(rows: list[dict[str, Any]], tags: list[list[Tag]]) -> tuple[dict[str, Score], list[tuple[int, str]]]:
    """Scores by kind, and captions with errors as (number of errors, description), worst first.

    Args:
        rows: of the gold.
        tags: of each row's caption, as the parser gave them.
    """
    totals = {kind: Score() for kind in KINDS}
    errors = []
    for row, found in zip(rows, tags, strict=True):
        count, lines = 0, []
        for kind, kinds in KINDS.items():
            names = [tag.name for tag in found if tag.kind in kinds]
            hits, wrong, missed = compare(names, row[kind], row["optional"].get(kind, []))
            totals[kind].hits += hits
            totals[kind].wrong.update(wrong)
            totals[kind].missed.update(missed)
            if wrong or missed:
                count += len(wrong) + len(missed)
                lines.append(f"  {kind}: " + ", ".join([f"+{one}" for one in wrong] + [f"-{one}" for one in missed]))
        if lines:
            errors.append((count, "\n".join([f"{row['id']}  {row['caption']}", *lines])))
    return totals, sorted(errors, key=lambda one: -one[0])


def main() -> None:
    """Command line of this module."""
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("gold", type=Path)
    options.add_argument("--split", help="one part of the file; without it, every part by itself")
    options.add_argument("--model", default=SHIPPED, help="the shipped spaCy pipeline, or an installed one")
    options.add_argument("--errors", type=int, default=20, help="so many of the worst captions of the part dev")
    chosen = options.parse_args()
    try:
        rows, parser = read_gold(chosen.gold, split=chosen.split), CaptionParser(chosen.model)
    except ValueError as error:
        options.error(str(error))
    for part in sorted({row["split"] for row in rows}):
        of_part = [row for row in rows if row["split"] == part]
        totals, errors = score(of_part, parser.parse([row["caption"] for row in of_part]))
        print(f"{part}: {len(of_part)} captions\n{'':12}{'precision':>10}{'recall':>10}{'F1':>10}")
        for kind, one in totals.items():
            print(f"{kind:12}{one.precision:10.3f}{one.recall:10.3f}{one.f1:10.3f}")
        if part == "dev":
            print("\n".join(text for _, text in errors[: chosen.errors]))


if __name__ == "__main__":
    main()
