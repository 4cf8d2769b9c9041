"""Rules of which tags are shown and by what names, as a user gives them: lists, chains, translations; and their files.

`tag_selection` applies them.
"""

from __future__ import annotations

import fsspec
from pydantic import BaseModel

from ram_ray.settings.models import ModelConfig

BEST_OWN_TAGS = 5  # of an image, where nothing says from which score on a user's own tag is present
MAX_LIST_BYTES = 16 << 20


class TagRules(BaseModel, frozen=True, extra="forbid"):
    """Rules by name. A name is a label's name or synonym, or `kind:name` for the label of one kind."""

    allow: tuple[str, ...] | None = None  # the only labels that are shown; None: all
    deny: tuple[str, ...] = ()  # labels that are never shown
    rename: dict[str, str] = {}  # label -> name that is shown
    names: dict[str, str] = {}  # label, or its new name -> name in another language
    broader: dict[str, tuple[str, ...]] = {}  # name of a label -> names of all labels that are more general
    chinese: bool = False  # show the Chinese names of the label system, where it has them


def best_own_tags(config: ModelConfig, *, top_k: int | None, threshold: float | None) -> int | None:
    """Number of own tags that an image gets whatever their score.

    The threshold of a model's labels says nothing about other tags. So without a threshold of the user, or of the
    model for own tags (`own_threshold`), the best are given.

    Args:
        config: of the model.
        top_k: as the user asks.
        threshold: as the user asks.

    Returns:
        The number; None if own tags are compared with a threshold.
    """
    if threshold is not None or (top_k is None and config.own_threshold is not None):
        return None
    return top_k or BEST_OWN_TAGS


def own_threshold(config: ModelConfig, threshold: float | None) -> float:
    """Threshold that takes the place of those of the labels.

    Args:
        config: of the model.
        threshold: as the user asks; None: that of own tags.

    Returns:
        A probability.
    """
    if threshold is not None:
        return threshold
    return config.threshold if config.own_threshold is None else config.own_threshold


def check_query(*, top_k: int | None, threshold: float | None, tags: object, embeddings: object = None) -> None:
    """Check what a user asks of a model.

    Args:
        top_k: most tags of an image.
        threshold: one probability in place of each tag's own.
        tags: own tags.
        embeddings: of own tags.

    Raises:
        ValueError: if one of them means nothing.
    """
    if top_k is not None and top_k < 1:
        raise ValueError(f"top_k is {top_k}; use 1 or more, or None for all tags from their threshold on")
    if threshold is not None and not 0 <= threshold <= 1:
        raise ValueError(f"threshold is {threshold}; a probability is from 0 to 1")
    if tags is not None and (isinstance(tags, str) or not tags):
        raise ValueError(f"tags is {tags!r}; give a list of at least one tag, or None for the bundle's own")
    if embeddings is not None and tags is None:
        raise ValueError("embeddings need tags: the names that they stand for")


def read_names(uri: str) -> tuple[str, ...]:
    """Read a list of names, one a line; what follows a `#` is a comment.

    Args:
        uri: path or URI of a text file in UTF-8.

    Returns:
        The names, in order.

    Raises:
        ValueError: if the file cannot be read, or has no name.
    """
    return tuple(dict.fromkeys(line for _, line in _read_lines(uri)))


def read_pairs(uri: str) -> dict[str, str]:
    """Read a list of pairs of names, one a line: `name = other name`, or with a tab between them.

    Args:
        uri: path or URI of a text file in UTF-8.

    Returns:
        Name -> other name.

    Raises:
        ValueError: if the file cannot be read, a line is no pair, or a name has two others.
    """
    pairs: dict[str, str] = {}
    for number, line in _read_lines(uri):
        name, other = _split_pair(line)
        if not (name and other):
            raise ValueError(f"{uri}, line {number}: {line[:60]!r} is no pair; write `name = other name`")
        if pairs.setdefault(name, other) != other:
            raise ValueError(f"{uri}, line {number}: {name!r} has two other names, {pairs[name]!r} and {other!r}")
    return pairs


def read_broader(uri: str) -> dict[str, tuple[str, ...]]:
    """Read chains of labels, `dog = animal` on each line: the more general name stands on the right.

    Args:
        uri: path or URI of a text file in UTF-8.

    Returns:
        Name -> all names that are more general.

    Raises:
        ValueError: if the file cannot be read, a line is no pair, or a name is more general than itself.
    """
    above: dict[str, set[str]] = {}
    for number, line in _read_lines(uri):
        name, general = _split_pair(line)
        if not (name and general):
            raise ValueError(f"{uri}, line {number}: {line[:60]!r} is no pair; write `dog = animal`")
        above.setdefault(name, set()).add(general)
    broader: dict[str, tuple[str, ...]] = {}
    for name in above:
        reached: set[str] = set()
        waiting = [name]
        while waiting:
            new = above.get(waiting.pop(), set()) - reached
            reached |= new
            waiting += new
        if name in reached:
            raise ValueError(f"{uri}: {name!r} is more general than itself")
        broader[name] = tuple(sorted(reached))
    return broader


def _split_pair(line: str) -> tuple[str, str]:
    name, _, other = line.partition("\t" if "\t" in line else "=")
    return name.strip(), other.strip()


def _read_lines(uri: str) -> list[tuple[int, str]]:
    """Numbers and texts of the lines that hold something."""
    try:
        with fsspec.open(uri, "rb") as file:
            data = file.read(MAX_LIST_BYTES + 1)
        if len(data) > MAX_LIST_BYTES:
            raise ValueError(f"{uri} has more than {MAX_LIST_BYTES:,} bytes and is no list of names")
        text = data.decode("utf-8-sig")
    except (OSError, ImportError, UnicodeDecodeError) as error:
        raise ValueError(f"{uri}: cannot be read as a list of names in UTF-8 ({type(error).__name__})") from None
    lines = [(number, line.partition("#")[0].strip()) for number, line in enumerate(text.splitlines(), start=1)]
    lines = [(number, line) for number, line in lines if line]
    if not lines:
        raise ValueError(f"{uri}: there is no name in it")
    return lines
