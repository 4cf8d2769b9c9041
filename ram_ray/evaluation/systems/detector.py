"""Grounding-DINO and OWLv2 as taggers: the score of a class is that of its best box on the image.

Images come in their own proportions, at most as large as the detectors' own processors take them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from ram_ray.data.pixels import to_images
from ram_ray.evaluation.systems.system import Batch, Plan, Scorer, System, open_plan
from ram_ray.labels.lists import Entry
from ram_ray.records import Json
from ram_ray.runtime.allocator import prepare_model_process
from ram_ray.runtime.content import content_digest
from ram_ray.runtime.storage import local_copy

FILES = ("config.json", "*.safetensors", "*.json", "*.txt")


class DetectorSystem(System):
    """An open-vocabulary detector of transformers.

    Args:
        name: in tables.
        source: path, URI or Hugging Face id.
        model_type: of its config.json, one of `detectors.registry.detector_classes`.
        revision: commit of an id.
    """

    bounds = (800, 1333)

    def __init__(self, name: str, source: str, *, model_type: str, revision: str | None = None) -> None:
        super().__init__(name)
        self.source, self.revision, self.model_type = source, revision, model_type

    @property
    def image_size(self) -> int:
        """Pixels a side of the square images, which it does not use."""
        return 1

    def identity(self) -> Json:
        """All that its scores depend on beside the images and the classes."""
        return {"detector": content_digest(self.source, revision=self.revision, files=FILES)}

    def plan(self, classes: Sequence[Entry], mapping: Mapping[str, str] | None, *, exact: bool = False) -> Plan:
        """Every class is asked for by its name, see `System.plan`; it has no labels that a mapping could name."""
        return open_plan(classes)

    def load(self, plan: Plan, *, device: str, precision: str, threads: int | None) -> Scorer:
        """Load the detector, see `System.load`."""
        from ram_ray.detectors.registry import detector_classes

        prepare_model_process(device, threads=threads)
        folder = local_copy(self.source, revision=self.revision)
        detector = detector_classes()[self.model_type](str(folder), device=device, precision=precision, threshold=-1.0)
        names, ids = [item.text for item in plan.classes], list(range(len(plan.classes)))

        def score(batch: Batch, rows: Sequence[int]) -> np.ndarray:
            images = to_images(batch, rows)
            found = detector.detect(images, tags=[names] * len(images), tag_ids=[ids] * len(images))
            scores = np.zeros((len(images), len(names)), np.float32)
            for row, regions in enumerate(found):
                for region in regions:
                    scores[row, region.tag_id] = region.score
            return scores

        return score
