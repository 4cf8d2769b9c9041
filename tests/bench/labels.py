"""How stable a label system is, and what it covers: figures from the parsed captions of a run, without Ray.

    ram-ray labels build 'captions/*.txt.gz' --run runs/captions
    python tests/bench/labels.py --run runs/captions --lists coco80 coco133 ade20k.csv openimages.txt --out labels.json

Stability: the captions are split into two halves by a hash of their keys, a system is built from each, and the share
of the first N labels of one that are among the first N of the other is printed, by name and kind, and by meaning
(a synonym of the other's label counts). Counts are read one block at a time, so memory holds the vocabulary alone.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import resource
import time
from collections import Counter, defaultdict
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from ram_ray.captions.tables import load_lemmas
from ram_ray.config import load
from ram_ray.label_system import LabelSystem
from ram_ray.labels.build import build, source_totals
from ram_ray.labels.compare import agreement
from ram_ray.labels.counts import count_names
from ram_ray.labels.coverage import CoverageFinder, format_coverage
from ram_ray.labels.lists import read_list
from ram_ray.labels.names import Key
from ram_ray.labels.options import LabelSystemSettings, make_options
from ram_ray.labels.report import BuildReport
from ram_ray.labels.synonyms import shipped_synonyms
from ram_ray.labels.wordnet import WordNet

TOPS = (100, 500, 1000, 2000)
Counts = dict[Key, dict[str, int]]


def main() -> None:
    """Read the options, print the figures, write them as JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--run", required=True, type=Path, help="folder of a run with a finished stage `parse`")
    parser.add_argument("--lists", nargs="*", default=["coco80", "coco133"], help="lists to be covered")
    parser.add_argument("--set", action="append", default=[], metavar="SECTION.FIELD=VALUE", help="one setting")
    parser.add_argument("--pruned", nargs="*", type=int, default=[2, 3, 5], help="values of labels.min_name_count")
    parser.add_argument("--splits", type=int, default=3, help="random splits into halves")
    parser.add_argument("--out", type=Path, help="figures as JSON")
    options = parser.parse_args()
    settings = LabelSystemSettings.from_config(load(sets=options.set), run_uri=None)
    wordnet = WordNet.find(settings.wordnet.uri) if settings.wordnet else None
    start = time.monotonic()
    folder = newest(options.run / "annotations" / "parse")
    manifest = json.loads(folder.with_suffix(".json").read_text())
    halves, rows = read_halves(folder, splits=options.splits)
    assert rows == manifest["rows_out"], f"{rows} rows are there, {manifest['rows_out']} were written"
    print(f"{rows:,} parsed rows, all there; read in {time.monotonic() - start:.0f} s")

    def make(counts: Counts) -> tuple[LabelSystem, BuildReport]:
        return build(counts, make_options(settings, counts, lemmas=load_lemmas()))

    whole, report = make(add(*halves[0]))
    again, _ = make(add(*reversed(halves[0])))
    assert whole.to_json() == again.to_json(), "equal counts gave two systems"
    print(f"{len(whole):,} labels of {report.num_names:,} names, version {whole.version}; "
          f"{sum(report.merges.values()):,} merged {dict(report.merges)}, dropped {report.num_dropped}")  # fmt: skip
    pruned = {}
    for least in options.pruned:
        counts, rare = prune(add(*halves[0]), least=least)
        made = replace(make_options(settings, counts, lemmas=load_lemmas()), rare=source_totals(rare.values()))
        pruned[least] = compare_pruned(whole, counts, build(counts, made)[0])
        print(f"names of {least} captions: {pruned[least]}")
    stability = [compare(*(make(half)[0] for half in pair)) for pair in halves]
    for split, figures in enumerate(stability):
        print(
            f"split {split}: "
            + ", ".join(f"top {top} {by_name:.1%} ({by_meaning:.1%})" for top, (by_name, by_meaning) in figures.items())
        )
    print("two halves agree, by name and kind (by meaning)\n")
    covering = CoverageFinder(whole, lemmas=load_lemmas(), tables=shipped_synonyms(), senses=wordnet)
    coverages = [covering(Path(name).name, read_list(name)) for name in options.lists]
    print("\n\n".join(format_coverage(coverage) for coverage in coverages))
    memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print(f"\n{time.monotonic() - start:.0f} s, peak memory {memory:,.0f} MB")
    if options.out:
        figures = {
            "rows": rows, "labels": len(whole), "version": whole.version, "names": report.num_names,
            "pruned": pruned, "stability": stability, "coverage": [coverage.to_dict() for coverage in coverages],
        }  # fmt: skip
        options.out.write_text(json.dumps(figures, indent=1))


def newest(folder: Path) -> Path:
    """The newest finished output of a stage."""
    done = sorted(folder.glob("*.json"), key=lambda path: path.stat().st_mtime)
    if not done:
        raise SystemExit(f"{folder}: no finished stage; run `ram-ray labels build` first")
    return done[-1].with_suffix("")


def prune(counts: Counts, *, least: int) -> tuple[Counts, Counts]:
    """The counts that `labels.min_name_count` leaves, and the others."""
    captions: Counter[str] = Counter()  # of a name, whatever its kind
    for (name, _), sources in counts.items():
        captions[name] += sum(sources.values())
    kept, rare = (
        {key: counts[key] for key in counts if (captions[key[0]] < least) == which} for which in (False, True)
    )
    return kept, rare


def compare_pruned(whole: LabelSystem, counts: Counts, system: LabelSystem) -> dict[str, int]:
    """How many labels, and how many of their synonyms, a system of pruned counts shares with the whole one."""
    labels, all_labels = ({(label.name, label.kind): label for label in part.labels} for part in (system, whole))
    shared = labels.keys() & all_labels.keys()
    return {
        "names": len(counts),
        "labels": len(labels),
        "shared labels": len(shared),
        "synonyms": sum(len(all_labels[key].synonyms) for key in shared),
        "shared synonyms": sum(len(set(all_labels[key].synonyms) & set(labels[key].synonyms)) for key in shared),
    }


def read_halves(folder: Path, *, splits: int) -> tuple[list[tuple[Counts, Counts]], int]:
    """Counts of both halves of each split, and the rows read."""
    halves: list[tuple[Any, Any]] = [tuple(defaultdict(dict) for _ in range(2)) for _ in range(splits)]  # type: ignore
    rows = 0
    for file in sorted(folder.rglob("*.parquet")):
        shard = file.parent.name.removeprefix("shard=")
        for batch in pq.ParquetFile(file).iter_batches(columns=["key", "uri", "parsed", "reason"], batch_size=8192):
            block = pa.Table.from_batches([batch])
            block = block.append_column("shard", pa.array([shard] * len(block)))
            rows += len(block)
            hashes = [hashlib.blake2b(key.encode(), digest_size=2).digest() for key in block["key"].to_pylist()]
            for split, pair in enumerate(halves):
                side = pa.array([hash_bytes[split // 8] >> split % 8 & 1 for hash_bytes in hashes], pa.int8())
                for half, counts in enumerate(pair):
                    for row in count_names(block.filter(pc.equal(side, half))).to_pylist():
                        of_source = counts[row["name"], row["kind"]]
                        of_source[row["source"]] = of_source.get(row["source"], 0) + row["count"]
    return halves, rows


def add(first: Counts, other: Counts) -> Counts:
    """The sum of two counts."""
    total: Counts = {key: dict(sources) for key, sources in first.items()}
    for key, sources in other.items():
        mine = total.setdefault(key, {})
        for source, count in sources.items():
            mine[source] = mine.get(source, 0) + count
    return total


def compare(first: LabelSystem, other: LabelSystem) -> dict[int, tuple[float, float]]:
    """Agreement of two systems at several lengths, the worse of both directions."""
    return {
        top: min(agreement(first, other, top=top), agreement(other, first, top=top))
        for top in TOPS
        if top <= min(len(first), len(other))
    }


if __name__ == "__main__":
    main()
