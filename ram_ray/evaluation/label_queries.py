"""Texts of label queries: what the text encoder is asked for where a class is no label of a model.

By default a class is asked for by its name in the templates of the model, as RAM does for labels that its training did
not have (arXiv 2306.03514, section 3.3: the mean over a prompt ensemble). A file of descriptions has texts for a class,
as RAM++ has them (arXiv 2310.15200, section 3.3): a RAM++ weights them for each image; of another model their mean is
taken, which is that paper's own baseline. A class that the file does not have is asked for by the templates.

Letters: C classes, K descriptions.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable

from ram_ray.models.descriptions import Descriptions, describe
from ram_ray.settings.models import ModelConfig
from ram_ray.settings.prompts import fill


def digest_of(descriptions: Descriptions) -> str:
    """Digest of descriptions.

    Args:
        descriptions: texts by name.

    Returns:
        12 hexadecimal digits.
    """
    return hashlib.sha256(json.dumps(dict(descriptions), sort_keys=True).encode()).hexdigest()[:12]


def described_text(name: str, text: str, descriptions: Descriptions | None) -> str | None:
    """Find the name by which a file describes a class.

    Args:
        name: of the class, as its list has it.
        text: that a text encoder is asked for otherwise.
        descriptions: of the file; None: there is none.

    Returns:
        The first of the two that the file has; None: neither.
    """
    return next((known for known in (name, text) if known.strip().lower() in (descriptions or ())), None)


def query_texts(names: Iterable[str], descriptions: Descriptions, *, config: ModelConfig) -> dict[str, list[str]]:
    """Write the texts of each class for a model.

    Args:
        names: of C classes, each once.
        descriptions: of the file.
        config: of the model.

    Returns:
        Name -> texts; for RAM++ K for each.
    """
    found = {name: descriptions.get(name.strip().lower()) for name in names}
    if config.architecture == "ram_plus":
        return {name: describe(name, config=config, texts=texts) for name, texts in found.items()}
    templates = config.templates
    return {name: texts or [fill(template, name) for template in templates] for name, texts in found.items()}
