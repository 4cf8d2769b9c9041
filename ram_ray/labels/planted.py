"""Plants false tags in annotations, to measure which tags cleaning removes (see `ram_ray.data.hidden_captions`)."""

from __future__ import annotations

from ram_ray.data.hidden_captions import seeded_random
from ram_ray.label_system import LabelSystem
from ram_ray.records import HUMAN, Row


class Planter:
    """Adds false tags to annotations, sampled in proportion to the labels' counts.

    Args:
        system: the labels that are sampled.
        share: planted tags for each tag of an image; the fractional part of an image's number is the probability of
            another tag.
        seed: of the random numbers, together with the image's key.
    """

    def __init__(self, system: LabelSystem, *, share: float, seed: int) -> None:
        self.share, self.seed = share, seed
        self._counts = {label.id: label.count for label in system.labels if label.count}

    def sample(self, key: str, *, num_tags: int, true_ids: set[int]) -> list[int]:
        """Sample the false tags of an image.

        Args:
            key: of the image.
            num_tags: number of its tags.
            true_ids: ids that are never sampled.

        Returns:
            Label ids without repetition.
        """
        rng = seeded_random(key, self.seed, "number")
        num_planted = int(self.share * num_tags + rng.random())
        candidates = {id: count for id, count in self._counts.items() if id not in true_ids} if num_planted else {}
        sampled = []
        for _ in range(min(num_planted, len(candidates))):
            (id,) = rng.choices(list(candidates), list(candidates.values()))
            del candidates[id]
            sampled.append(id)
        return sampled

    def plant(self, row: Row, *, true_ids: set[int]) -> None:
        """Add false tags to a row's captions and tags, each at a random index.

        Args:
            row: a `records.ANNOTATION` row; changed in place.
            true_ids: ids that are never sampled.
        """
        rng = seeded_random(row["key"], self.seed, "place")
        if not row["captions"]:
            return  # false tags stand for a caption's errors
        num_tags = sum(tag["origin"] != HUMAN for tag in row["tags"])
        for id in self.sample(row["key"], num_tags=num_tags, true_ids=true_ids):
            caption = rng.choice(row["captions"])
            index = rng.randint(0, len(caption["tags"]))
            caption["tags"].insert(index, id)
            caption["sources"].insert(index, "parsed")
            row["tags"].insert(rng.randint(0, len(row["tags"])), {"id": id, "origin": "parsed", "score": 1.0})
