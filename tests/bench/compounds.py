"""How well own tags of two words ("red umbrella") are scored, against the product of their parts' scores.

    python tests/bench/compounds.py MODEL --data photos-dev.tar [--count 50] [--show 10]

The compounds are the pairs of attribute and noun that most captions of the data describe, where both parts are labels
of the model and the pair is none. An image has the compound if one of its captions says so; where a caption only omits
it, the image counts as without. Prints the mean AP of both ways, of both parts alone, and the mean prevalence.
"""

from __future__ import annotations

import argparse
import json
from collections import Counter
from pathlib import Path

import numpy as np

from ram_ray.captions.parser import CaptionParser
from ram_ray.data.images import decode, read_bytes
from ram_ray.data.shards import list_shards, scan_shard
from ram_ray.evaluation.metrics import average_precision
from ram_ray.inference.predictor import Predictor
from ram_ray.settings.data import DataConfig

BATCH = 64
LIMITS = DataConfig().limits(min_side=1)
Pair = tuple[str, str]  # attribute and noun


def read_pairs(captions: list[list[str]]) -> list[set[Pair]]:
    """Read the described nouns of each image's captions.

    Args:
        captions: of each image.

    Returns:
        The pairs of each image.
    """
    parser = CaptionParser()
    flat = iter(parser.read([text for texts in captions for text in texts]))
    return [{pair for _ in texts for pair in next(flat).described if all(pair)} for texts in captions]


def measure(compound: np.ndarray, product: np.ndarray, parts: np.ndarray, truth: np.ndarray) -> dict[str, float]:
    """Compare the ways to score compounds.

    Args:
        compound: (B, N) scores of N compounds as own tags.
        product: (B, N) products of the scores of their parts.
        parts: (2, B, N) scores of the attributes and of the nouns.
        truth: (B, N) bool.

    Returns:
        Mean AP by way, and `prevalence`.
    """
    ways = {"compound": compound, "product": product, "attribute_alone": parts[0], "noun_alone": parts[1]}
    columns = range(truth.shape[1])
    means = {
        name: float(np.mean([average_precision(scores[:, column], truth[:, column]) for column in columns]))
        for name, scores in ways.items()
    }
    return {**means, "prevalence": float(truth.mean()), "compounds": truth.shape[1], "images": len(truth)}


def main() -> None:
    """See the module."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", help="folder of the bundle")
    parser.add_argument("--data", required=True, help="path, URI or glob of held-out shards")
    parser.add_argument("--count", type=int, default=50, help="number of compounds")
    parser.add_argument("--show", type=int, default=10, help="compounds to print")
    options = parser.parse_args()
    predictor = Predictor.from_pretrained(str(Path(options.model)), threads=2)
    ids = {label.name: label.id for label in predictor.labels}
    rows = [row for shard in list_shards([options.data]) for row in scan_shard(shard, limits=LIMITS, check="header")]
    described = read_pairs([row["captions"] for row in rows])
    counts = Counter(pair for pairs in described for pair in pairs if pair[0] in ids and pair[1] in ids)
    pairs = [pair for pair, _ in counts.most_common() if " ".join(pair) not in ids][: options.count]
    names = [" ".join(pair) for pair in pairs]
    compound, labels = [], []
    for start in range(0, len(rows), BATCH):
        batch = rows[start : start + BATCH]
        columns = ([row[name] for row in batch] for name in ("uri", "offset", "nbytes"))
        tokens = predictor.encode([decode(data, limits=LIMITS) for data in read_bytes(*columns)])
        labels.append(predictor.token_probabilities(tokens))
        for scored in predictor.tag(tokens, tags=names, threshold=0.0):
            by_name = {tag.tag: tag.score for tag in scored}
            compound.append([by_name[name] for name in names])
    scores = np.concatenate(labels)
    parts = np.stack([scores[:, [ids[pair[part]] for pair in pairs]] for part in (0, 1)])
    truth = np.array([[pair in pairs_of_image for pair in pairs] for pairs_of_image in described])
    own, product = np.array(compound), parts.prod(0)
    for column, name in enumerate(names[: options.show]):
        aps = (average_precision(way[:, column], truth[:, column]) for way in (own, product))
        print(
            f"  {name}: {truth[:, column].sum()} images, AP {' as own tag, '.join(f'{ap:.3f}' for ap in aps)} product"
        )
    print(json.dumps({name: round(value, 4) for name, value in measure(own, product, parts, truth).items()}))


if __name__ == "__main__":
    main()
