"""CLIP and SigLIP as taggers without training: the cosine of the image and the mean text vector of a class's prompts.

Where a file has texts for the class, their mean is taken in place of that of the prompts.

Images are stretched to the encoder's square, as for every system here, and not cropped at the centre as the encoders'
own evaluations do: a class may be at the edge.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np

from ram_ray.evaluation.label_queries import described_text, digest_of
from ram_ray.evaluation.systems.system import Batch, Plan, Scorer, System, open_plan
from ram_ray.inference.custom_tags import mean_texts
from ram_ray.labels.lists import Entry
from ram_ray.models.descriptions import read_descriptions
from ram_ray.models.dual_encoder import DUAL_ENCODER
from ram_ray.records import Json
from ram_ray.runtime.allocator import prepare_model_process
from ram_ray.runtime.content import content_digest
from ram_ray.runtime.storage import local_copy
from ram_ray.settings.prompts import ensemble

FILES = ("config.json", "*.safetensors", "*.json", "*.txt", "*.model")


class ZeroShotSystem(System):
    """A dual encoder: CLIP, SigLIP, or that of our stage `represent`.

    Args:
        name: in tables.
        source: path, URI or Hugging Face id.
        revision: commit of an id.
        descriptions: JSON file of texts by class, whose mean is taken; None, or a class that it does not have: prompts.
    """

    def __init__(self, name: str, source: str, *, revision: str | None = None, descriptions: str | None = None) -> None:
        super().__init__(name)
        self._descriptions = read_descriptions(descriptions, setting=name) if descriptions else None
        self.source, self.revision = source, revision
        folder = local_copy(source, revision=revision, files=("config.json",))
        tree = json.loads((folder / "config.json").read_text(encoding="utf-8"))
        is_own = tree.get("kind") == DUAL_ENCODER
        self._image_size = int(tree["image_size"] if is_own else tree["vision_config"].get("image_size", 224))

    @property
    def image_size(self) -> int:
        """Pixels a side of the square images that it takes."""
        return self._image_size

    def identity(self) -> Json:
        """All that its scores depend on beside the images and the classes."""
        digest = content_digest(self.source, revision=self.revision, files=FILES)
        identity = {"dual encoder": digest, "templates": len(ensemble())}
        return identity if self._descriptions is None else {**identity, "descriptions": digest_of(self._descriptions)}

    def plan(self, classes: Sequence[Entry], mapping: Mapping[str, str] | None, *, exact: bool = False) -> Plan:
        """Every class is asked for by its name, see `System.plan`; it has no labels that a mapping could name."""
        plan = open_plan(classes)
        texts = [described_text(item.name, item.text, self._descriptions) for item in plan.classes]
        return replace(
            plan,
            classes=tuple(
                replace(item, text=text, matched_by="described") if text else item
                for item, text in zip(plan.classes, texts, strict=True)
            ),
        )

    def load(self, plan: Plan, *, device: str, precision: str, threads: int | None) -> Scorer:
        """Load both encoders, see `System.load`; they compute in fp32."""
        from ram_ray.models.teacher import Teacher

        prepare_model_process(device, threads=threads)
        teacher = Teacher.from_pretrained(self.source, revision=self.revision, device=device)
        texts = teacher.label_embeddings([item.text for item in plan.classes], list(ensemble())).cpu().numpy()
        if described := [column for column, item in enumerate(plan.classes) if item.matched_by == "described"]:
            assert self._descriptions is not None
            known = [self._descriptions[plan.classes[column].text.strip().lower()] for column in described]
            texts[described] = mean_texts(teacher, known).numpy()

        def score(batch: Batch, rows: Sequence[int]) -> np.ndarray:
            images = teacher.encode_images(np.stack([batch["pixels"][row] for row in rows]))
            return (images @ texts.T).astype(np.float32)

        return score
