"""BLIP as a tagger: the probability of its matching head that an image and a class's text belong together.

The text encoder looks at the image for each pair of the two, so the cost grows with images x classes. Images are
stretched to the encoder's square, as for every system here.

Letters: B images, C classes, S pixels a side, L image tokens, D their width.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from ram_ray.evaluation.systems.system import Batch, Plan, Scorer, System, open_plan
from ram_ray.labels.lists import Entry
from ram_ray.records import Json
from ram_ray.runtime.allocator import prepare_model_process
from ram_ray.runtime.content import content_digest
from ram_ray.runtime.storage import local_copy

MATCHERS = ("blip",)  # `model_type` of config.json
FILES = ("config.json", "*.safetensors", "*.json", "*.txt")
TEMPLATE = "a photo of a {}"
TEXTS_AT_ONCE = 128  # pairs of an image and a text: the memory of a batch


class MatchingSystem(System):
    """A BLIP with a head for image-text matching.

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
        self._image_size = int(tree.get("vision_config", {}).get("image_size", 384))

    @property
    def image_size(self) -> int:
        """Pixels a side of the square images that it takes."""
        return self._image_size

    def identity(self) -> Json:
        """All that its scores depend on beside the images and the classes."""
        digest = content_digest(self.source, revision=self.revision, files=FILES)
        return {"matching": digest, "template": TEMPLATE}

    def plan(self, classes: Sequence[Entry], mapping: Mapping[str, str] | None, *, exact: bool = False) -> Plan:
        """Every class is asked for by its name, see `System.plan`; it has no labels that a mapping could name."""
        return open_plan(classes)

    def load(self, plan: Plan, *, device: str, precision: str, threads: int | None) -> Scorer:
        """Load the model, see `System.load`; it computes in fp32.

        Raises:
            ValueError: if the weights are of a BLIP without the head, such as one for captions.
        """
        import torch
        from transformers import AutoImageProcessor, AutoTokenizer, BlipForImageTextRetrieval

        from ram_ray.models.image_encoder import normalise
        from ram_ray.models.towers import without_progress_bar

        prepare_model_process(device, threads=threads)
        folder = local_copy(self.source, revision=self.revision)
        loader: Any = BlipForImageTextRetrieval
        with without_progress_bar():
            model, loaded = loader.from_pretrained(folder, output_loading_info=True)
        if any(name.startswith("itm_head") for name in loaded["missing_keys"]):
            raise ValueError(f"{self.source}: this BLIP has no head for matching; use one such as blip-itm-base-coco")
        model = model.eval().to(device)
        prompts = [TEMPLATE.format(item.text) for item in plan.classes]
        tokens = AutoTokenizer.from_pretrained(folder)(prompts, padding=True, truncation=True, return_tensors="pt")
        ids, mask = tokens["input_ids"].to(device), tokens["attention_mask"].to(device)
        processor = AutoImageProcessor.from_pretrained(folder)
        mean, std = tuple(processor.image_mean), tuple(processor.image_std)

        def match(image: torch.Tensor) -> torch.Tensor:
            """Probabilities (C,) of one image's tokens (1, L, D)."""
            parts = []
            for start in range(0, len(ids), TEXTS_AT_ONCE):
                part = slice(start, start + TEXTS_AT_ONCE)
                seen = image.expand(len(ids[part]), -1, -1)
                output = model.text_encoder(ids[part], attention_mask=mask[part], encoder_hidden_states=seen)
                parts.append(model.itm_head(output.last_hidden_state[:, 0]).softmax(-1)[:, 1])
            return torch.cat(parts)

        @torch.inference_mode()
        def score(batch: Batch, rows: Sequence[int]) -> np.ndarray:
            pixels = torch.from_numpy(np.stack([batch["pixels"][row] for row in rows])).to(device)
            encoded = model.vision_model(pixel_values=normalise(pixels, mean, std)).last_hidden_state
            return torch.stack([match(encoded[index : index + 1]) for index in range(len(encoded))]).cpu().numpy()

        return score
