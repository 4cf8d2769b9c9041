"""Contract: with other labels, a model scores the labels that it keeps exactly as before; new ones are beside them."""

from __future__ import annotations

import pytest
import torch

from ram_ray.label_system import Label, LabelSystem
from ram_ray.models.label_match import match_labels
from ram_ray.models.relabel import relabel
from tests.tiny import NAMES, tagger

BUNDLE = LabelSystem(Label(id, name, "object") for id, name in enumerate(NAMES))
LABELS = LabelSystem(Label(id, name, "object") for id, name in enumerate(("person", "zebra", "dog", "cup", "beach")))


@pytest.mark.parametrize("sizes", [{}, {"architecture": "tag2text", "label_width": 16}], ids=["ram", "tag2text"])
def test_kept_labels_have_the_same_logits(sizes: dict) -> None:
    model, pixels = tagger(spread=3.0, muted=(0, 2), **sizes), torch.randn(2, 3, 32, 32)
    before = model.logits(model.encode(pixels))
    match = match_labels(BUNDLE, LABELS)
    relabel(model, match, None if sizes else torch.randn(2, 10))
    after = model.logits(model.encode(pixels))
    assert after.shape == (2, 5) and after.isfinite().all()
    torch.testing.assert_close(after[:, [0, 2, 4]], before[:, [5, 0, 1]])
    assert model.config.muted == (2,), "of the muted tags, dog is kept and has another id"


def test_a_new_label_of_tag2text_has_the_mean_classifier_and_a_query_of_its_own() -> None:
    model = tagger(architecture="tag2text", label_width=16)
    weight, queries = model.recognition.fc.weight.clone(), model.label_embed.clone()
    relabel(model, match_labels(BUNDLE, LABELS), None)
    for new in (1, 3):
        torch.testing.assert_close(model.recognition.fc.weight[new], weight.mean(0))
    spread = (model.label_embed[[1, 3]] - queries.mean(0)).abs()
    assert (spread < 6 * queries.std(0)).all() and not torch.equal(model.label_embed[1], model.label_embed[3])
