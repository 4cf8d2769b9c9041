"""A bundle's model with the labels of a run: kept labels as they were, new ones beside them.

A label of RAM is its text embedding, so a new label is one more embedding of the text encoder that made the others.
RAM++ has several texts of a label. Tag2Text has a trained query and a classifier for each label: a new label starts
from the mean classifier, which scores it as it scores an average label, and from a random query.
An ML-Decoder with group queries keeps its labels: a label's classifier belongs to its group.
"""

from __future__ import annotations

import torch
from torch import Tensor

from ram_ray.models.label_match import LabelMatch
from ram_ray.models.ram import RAM
from ram_ray.models.recognition import PerTagLinear


def relabel(model: RAM, match: LabelMatch, queries: Tensor | None) -> None:
    """Give a model the labels of a run.

    Args:
        model: of the bundle, on the CPU; changed in place.
        match: of the run's labels with the bundle's.
        queries: of the new labels, as of `descriptions.embed_labels`; None: Tag2Text, or no label is new.

    Raises:
        ValueError: if the labels differ and the model has an ML-Decoder with group queries.
    """
    if model.config.head == "ml_decoder" and not model.config.scores_any_label:
        if match.bundle_ids != tuple(range(len(model.label_embed))):
            raise ValueError(
                "an ML-Decoder with group queries keeps the labels of its training, and the run has others: set "
                "labels.system to the label_system.json of its bundle, or start from a model with another head"
            )
        return
    kept, new = match.kept, match.new
    bundle_ids = [match.bundle_ids[id] for id in kept]
    if model.config.architecture == "tag2text":
        queries = _random_queries(model.label_embed, len(new))
        _relabel_classifiers(model, match)
    old = model.label_embed.detach()
    embed = old.new_empty(len(match.bundle_ids), *old.shape[1:])
    embed[kept] = old[bundle_ids]
    if new:
        assert queries is not None
        embed[new] = queries.to(old)
    if isinstance(model.label_embed, torch.nn.Parameter):
        model.label_embed = torch.nn.Parameter(embed, requires_grad=False)
    else:
        model.label_embed = embed
    muted = set(model.config.muted)
    ids = tuple(id for id in kept if match.bundle_ids[id] in muted)
    model.config = model.config.model_copy(update={"muted": ids})


def _random_queries(old: Tensor, count: int) -> Tensor:
    generator = torch.Generator().manual_seed(0)
    noise = torch.randn(count, old.shape[1], generator=generator)
    return old.detach().mean(0) + noise * old.detach().std(0, correction=0)


def _relabel_classifiers(model: RAM, match: LabelMatch) -> None:
    old = model.recognition.fc
    assert isinstance(old, PerTagLinear)
    kept, bundle_ids = match.kept, [id for id in match.bundle_ids if id is not None]
    classifiers = PerTagLinear(len(match.bundle_ids), old.weight.shape[1])
    with torch.no_grad():
        classifiers.weight[:] = old.weight.mean(0)
        classifiers.bias[:] = old.bias.mean()
        classifiers.weight[kept] = old.weight[bundle_ids]
        classifiers.bias[kept] = old.bias[bundle_ids]
    model.recognition.fc = classifiers.requires_grad_(False)
