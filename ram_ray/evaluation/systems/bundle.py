"""A model bundle as a system: our own, or an imported RAM, RAM++ or Tag2Text.

A class is answered by the label that has its name, a synonym of it, or its spelling; any other by a label query from
the bundle's text encoder, if it has one: by templates, or by the texts of a file (`label_queries`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from ram_ray.evaluation.class_mapping import map_classes
from ram_ray.evaluation.label_queries import described_text, digest_of, query_texts
from ram_ray.evaluation.systems.system import NEVER, Batch, Plan, PlannedClass, Scorer, System
from ram_ray.label_system import LabelSystem
from ram_ray.labels.lists import Entry
from ram_ray.models.bundle import TEXT_ENCODER
from ram_ray.models.bundle_config import BUNDLE_FILES, read_config
from ram_ray.models.descriptions import read_descriptions
from ram_ray.records import Json
from ram_ray.runtime.content import content_digest
from ram_ray.runtime.storage import local_copy


class BundleSystem(System):
    """A bundle.

    Args:
        name: in tables.
        source: path, URI or Hugging Face id of the bundle.
        revision: commit of an id.
        descriptions: JSON file of texts by class, for label queries; None: the bundle's templates.

    Raises:
        ValueError: if it is no bundle, or the file cannot be read.
    """

    def __init__(self, name: str, source: str, *, revision: str | None = None, descriptions: str | None = None) -> None:
        super().__init__(name)
        self.source, self.revision = source, revision
        self._config = read_config(source, revision=revision)
        self._descriptions = read_descriptions(descriptions, setting=name) if descriptions else None

    @property
    def image_size(self) -> int:
        """Pixels a side of the square images that it takes."""
        return self._config.image_size

    def identity(self) -> Json:
        """All that its scores depend on beside the images and the classes."""
        bundle = {"bundle": content_digest(self.source, revision=self.revision, files=BUNDLE_FILES)}
        return bundle if self._descriptions is None else {**bundle, "descriptions": digest_of(self._descriptions)}

    def labels(self) -> LabelSystem:
        """The labels of the bundle.

        Returns:
            Its label system.
        """
        folder = local_copy(self.source, revision=self.revision, files=("label_system.json",))
        return LabelSystem.load(str(folder / "label_system.json"))

    def plan(self, classes: Sequence[Entry], mapping: Mapping[str, str] | None, *, exact: bool = False) -> Plan:
        """Match the classes with the labels of the bundle, see `System.plan`."""
        system, config = self.labels(), self._config
        own = system.thresholds(config.threshold)
        own[list(config.muted)] = NEVER
        matches = map_classes(classes, system, open_set=self._takes_texts(), mapping=mapping, exact=exact)
        planned = []
        for index, match in enumerate(matches):
            threshold = float(own[list(match.labels)].min()) if match.labels else config.threshold
            text = described_text(match.name, match.text, self._descriptions) if match.matched_by == "open" else None
            rule = "described" if text else match.matched_by
            planned.append(PlannedClass(index, match.name, rule, text or match.text, match.labels, threshold))
        return Plan(
            tuple(item for item in planned if item.matched_by != "unsupported"),
            tuple(item.name for item in planned if item.matched_by == "unsupported"),
        )

    def load(self, plan: Plan, *, device: str, precision: str, threads: int | None) -> Scorer:
        """Load the bundle, see `System.load`."""
        from ram_ray.inference.predictor import Predictor

        predictor = Predictor.from_pretrained(
            self.source, revision=self.revision, device=device, precision=precision, threads=threads
        )
        of_labels = [(column, list(item.labels)) for column, item in enumerate(plan.classes) if item.labels]
        of_texts = [column for column, item in enumerate(plan.classes) if not item.labels]
        texts = [plan.classes[column].text for column in of_texts]
        queries: list[str] | Mapping[str, list[str]] = texts
        if self._descriptions is not None and texts:
            by_name = query_texts(list(dict.fromkeys(texts)), self._descriptions, config=predictor.config)
            texts_at = [list(by_name).index(text) for text in texts]  # classes of one name have one query
            queries = by_name
        else:
            texts_at = list(range(len(texts)))

        def score(batch: Batch, rows: Sequence[int]) -> np.ndarray:
            tokens = predictor.encode(np.ascontiguousarray(np.stack([batch["pixels"][row] for row in rows])))
            scores = np.zeros((len(rows), len(plan.classes)), np.float32)
            if of_labels:
                probabilities = predictor.token_probabilities(tokens)
                for column, labels in of_labels:
                    scores[:, column] = probabilities[:, labels].max(axis=1)
            if of_texts:
                scores[:, of_texts] = predictor.token_probabilities(tokens, tags=queries)[:, texts_at]
            return scores

        return score

    def _takes_texts(self) -> bool:
        if not self._config.scores_any_label:
            return False
        files = ("config.json", f"{TEXT_ENCODER}/config.json")
        return (local_copy(self.source, revision=self.revision, files=files) / TEXT_ENCODER).is_dir()
