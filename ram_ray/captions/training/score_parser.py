"""Score a caption parser against captions that a person annotated: precision, recall, F1, and the worst errors.

    python -m ram_ray.captions.training.score_parser tests/captions/gold.jsonl [--split dev] [--model NAME] [--errors N]
    python -m ram_ray.captions.training.score_parser tests/captions/web/gold.jsonl --captions FOLDER

A line of the gold file is `{"id", "source", "split", "caption", "objects", "attributes", "actions", "optional"}`.
Where "line" and "sha" stand in place of "caption", the caption is that line of FOLDER/captions-web-SOURCE.txt.gz.
A name may have alternatives ("surfboard|surf board"). A name under "optional" counts neither as a hit nor as an error,
nor does the head of an expected compound ("sign" of "street sign"). Errors are listed for the splits to develop on
alone, so that rules are not fitted to the test split.
"""

from __future__ import annotations

import argparse
import gzip
import hashlib
import json
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

from ram_ray.captions.parser import SHIPPED, CaptionParser
from ram_ray.captions.rules import Tag
from ram_ray.records import Row

DEVELOPED = ("dev", "develop2")  # splits whose errors may be read
KINDS = {"objects": ("object", "scene"), "attributes": ("attribute",), "actions": ("action",)}


@dataclass
class Score:
    """Counts of a kind of tags over many captions."""

    hits: int = 0
    wrong: Counter[str] = field(default_factory=Counter)  # predicted names that are not expected
    missed: Counter[str] = field(default_factory=Counter)  # expected names that are not predicted

    @property
    def precision(self) -> float:
        """Share of hits among predicted names; 1 where there are none."""
        predicted = self.hits + self.wrong.total()
        return self.hits / predicted if predicted else 1.0

    @property
    def recall(self) -> float:
        """Share of hits among expected names; 1 where there are none."""
        expected = self.hits + self.missed.total()
        return self.hits / expected if expected else 1.0

    @property
    def f1(self) -> float:
        """Harmonic mean of precision and recall."""
        total = self.precision + self.recall
        return 2 * self.precision * self.recall / total if total else 0.0


def read_gold(path: Path, *, split: str | None = None) -> list[Row]:
    """Read the rows of a gold file.

    Args:
        path: of the JSON lines.
        split: name of a split; None: all rows.

    Returns:
        The rows.

    Raises:
        ValueError: if the file does not exist, or has no row of this split.
    """
    if not path.is_file():
        raise ValueError(f"{path}: no such file; this repository's gold file is tests/captions/gold.jsonl")
    rows = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines() if line.strip()]
    splits = sorted({row["split"] for row in rows})
    rows = [row for row in rows if split is None or row["split"] == split]
    if not rows:
        raise ValueError(f"{path} has no rows of the split {split!r}; it has {splits}")
    return rows


def add_captions(rows: list[Row], folder: Path) -> None:
    """Add the captions to rows that have only the place of theirs.

    Args:
        rows: of a gold file, with "source", "line" (from 0) and "sha" (the start of the caption's SHA-256); changed.
        folder: of the files `captions-web-SOURCE.txt.gz`.

    Raises:
        ValueError: if a caption is another one than the annotated.
    """
    lines: dict[str, list[str]] = {}
    for row in rows:
        source = row["source"]
        if source not in lines:
            with gzip.open(folder / f"captions-web-{source}.txt.gz", "rt", encoding="utf-8", newline="\n") as file:
                lines[source] = file.read().split("\n")
        row["caption"] = lines[source][row["line"]]
        if not hashlib.sha256(row["caption"].encode()).hexdigest().startswith(row["sha"]):
            raise ValueError(f"{folder}: line {row['line']} of the source {source} is not the caption of {row['id']}")


def compare(predicted: Iterable[str], expected: list[str], optional: list[str]) -> tuple[int, list[str], list[str]]:
    """Compare the names of one kind of a caption.

    Args:
        predicted: names that the parser returned.
        expected: names of the gold; "a|b" is met by either name.
        optional: names that count neither as a hit nor as an error.

    Returns:
        Number of hits, predicted names that are wrong, and expected names that are missed.
    """
    names = list(dict.fromkeys(predicted))
    groups = [name.split("|") for name in expected]
    allowed = {alternative for name in [*expected, *optional] for alternative in name.split("|")}
    hits = sum(any(name in group for name in names) for group in groups)
    missed = ["|".join(group) for group in groups if not any(name in group for name in names)]
    heads = {" ".join(name.split()[start:]) for name in allowed for start in range(1, len(name.split()))}
    return hits, [name for name in names if name not in allowed | heads], missed


def score(rows: list[Row], tags: list[list[Tag]]) -> tuple[dict[str, Score], list[tuple[int, str]]]:
    """Score the tags of captions.

    Args:
        rows: of the gold file.
        tags: of each row's caption, as returned by the parser.

    Returns:
        Scores by kind, and captions with errors as (number of errors, description), most errors first.
    """
    totals = {kind: Score() for kind in KINDS}
    errors = []
    for row, predicted in zip(rows, tags, strict=True):
        count, lines = 0, []
        for kind, kinds in KINDS.items():
            names = [tag.name for tag in predicted if tag.kind in kinds]
            hits, wrong, missed = compare(names, row[kind], row["optional"].get(kind, []))
            totals[kind].hits += hits
            totals[kind].wrong.update(wrong)
            totals[kind].missed.update(missed)
            if wrong or missed:
                count += len(wrong) + len(missed)
                lines.append(
                    f"  {kind}: " + ", ".join([f"+{name}" for name in wrong] + [f"-{name}" for name in missed])
                )
        if lines:
            errors.append((count, "\n".join([f"{row['id']}  {row['caption']}", *lines])))
    return totals, sorted(errors, key=lambda error: -error[0])


def main() -> None:
    """Command line of this module."""
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("gold", type=Path)
    arguments.add_argument("--split", help="a split of the file (default: each split)")
    arguments.add_argument("--model", default=SHIPPED, help="the shipped or an installed spaCy pipeline")
    arguments.add_argument("--captions", type=Path, help="folder of the captions, for a file that has only their lines")
    arguments.add_argument(
        "--errors", type=int, default=20, help="number of captions of each split to develop on that are listed"
    )
    options = arguments.parse_args()
    try:
        rows, parser = read_gold(options.gold, split=options.split), CaptionParser(options.model)
        if options.captions:
            add_captions(rows, options.captions)
    except ValueError as error:
        arguments.error(str(error))
    for split in sorted({row["split"] for row in rows}):
        split_rows = [row for row in rows if row["split"] == split]
        tags = parser.parse([row["caption"] for row in split_rows])
        totals, errors = score(split_rows, tags)
        print(f"{split}: {len(split_rows)} captions\n{'':12}{'precision':>10}{'recall':>10}{'F1':>10}")
        for kind, total in totals.items():
            print(f"{kind:12}{total.precision:10.3f}{total.recall:10.3f}{total.f1:10.3f}")
        for source in sorted({row["source"] for row in split_rows}):
            pairs = [(row, names) for row, names in zip(split_rows, tags, strict=True) if row["source"] == source]
            of_source, _ = score([row for row, _ in pairs], [names for _, names in pairs])
            print(
                f"  {source:14}" + "  ".join(f"{kind} {total.f1:.3f}" for kind, total in of_source.items()) + "  (F1)"
            )
        if split in DEVELOPED:
            print("\n".join(text for _, text in errors[: options.errors]))


if __name__ == "__main__":
    main()
