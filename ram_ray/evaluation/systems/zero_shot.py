"""CLIP and SigLIP as taggers without training: the cosine of the image and the mean text vector of a class's prompts.

Images are stretched to the encoder's square, as for every system here, and not cropped at the centre as the encoders'
own evaluations do: a class may be at the edge.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence

import numpy as np

from ram_ray.evaluation.systems.system import Batch, Plan, Scorer, System, open_plan
from ram_ray.labels.lists import Entry
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
    """

    def __init__(self, name: str, source: str, *, revision: str | None = None) -> None:
        super().__init__(name)
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
        return {"dual encoder": digest, "templates": len(ensemble())}

    def plan(self, classes: Sequence[Entry], mapping: Mapping[str, str] | None) -> Plan:
        """Every class is asked for by its name, see `System.plan`; it has no labels that a mapping could name."""
        return open_plan(classes)

    def load(self, plan: Plan, *, device: str, precision: str, threads: int | None) -> Scorer:
        """Load both encoders, see `System.load`; they compute in fp32."""
        from ram_ray.models.teacher import Teacher

        prepare_model_process(device, threads=threads)
        teacher = Teacher.from_pretrained(self.source, revision=self.revision, device=device)
        texts = teacher.label_embeddings([item.text for item in plan.classes], list(ensemble())).cpu().numpy()

        def score(batch: Batch, rows: Sequence[int]) -> np.ndarray:
            images = teacher.encode_images(np.stack([batch["pixels"][row] for row in rows]))
            return (images @ texts.T).astype(np.float32)

        return score
