"""Released checkpoints to model bundles: `ram-ray import`, and `ram-ray download` with the files of `releases`.

A checkpoint holds weights only, so names of tags, thresholds and the vocabulary of captions come from other files. For
files that the user does not name, the reference's folder layout is tried: `configs/` and `data/` in one folder. What is
still missing is reported in a note and replaced by the reference's defaults.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from ram_ray.label_system import Label, LabelSystem
from ram_ray.runtime.storage import local_copy

if TYPE_CHECKING:
    from ram_ray.models.ram import RAM
    from ram_ray.models.tokenizer import TextTokenizer

BERT = ("google-bert/bert-base-uncased", "86b5e0934494bd15c9632b12f734a8a67f723594")
MAX_LIST_BYTES = 1 << 24
TAG2TEXT_THRESHOLDS = {2701: 0.7, 2828: 0.7, 1167: 0.7}  # person, man, woman
NAMES = {"ram": "RAM", "ram_plus": "RAM++", "tag2text": "Tag2Text"}
LISTS = {  # name of the file in the reference's data folder, by option and architecture
    "tag_list": {"ram": "ram_tag_list.txt", "ram_plus": "ram_tag_list.txt", "tag2text": "tag2text_ori_tag_list.txt"},
    "thresholds": {"ram": "ram_tag_list_threshold.txt", "ram_plus": "ram_tag_list_threshold.txt"},
    "chinese": {"ram": "ram_tag_list_chinese.txt", "ram_plus": "ram_tag_list_chinese.txt"},
}


@dataclass(frozen=True)
class Sources:
    """Files and models that a checkpoint does not hold: paths or ids, None where the user named nothing."""

    configs: str | None = None
    tag_list: str | None = None
    thresholds: str | None = None
    chinese: str | None = None
    tokenizer: str | None = None
    text_encoder: str | None = None
    text_encoder_revision: str | None = None
    image_size: int | None = None


@dataclass
class Imported:
    """A line about the bundle, and notes on what was missing or taken from the reference's folders."""

    summary: str
    notes: list[str] = field(default_factory=list)


def import_checkpoint(checkpoint: str, out: str, *, sources: Sources, origin: str | None = None) -> Imported:
    """Turn a checkpoint file of RAM, RAM++ or Tag2Text into a model bundle in the folder `out`.

    Args:
        checkpoint: path or URI of the file.
        out: a new or empty folder.
        sources: lists, configs and models that the checkpoint does not hold.
        origin: where the file comes from, for the bundle's README.md; None: its name.

    Returns:
        A summary and notes for the user.

    Raises:
        ValueError: if the checkpoint or one of the sources cannot be used, or `out` holds files already.
    """
    from ram_ray.interop.checkpoint import load_checkpoint, read_state, recognise
    from ram_ray.models.bundle import save_bundle
    from ram_ray.models.teacher import Teacher

    target = check_new_folder(out)
    source = local_copy(checkpoint) if "://" in checkpoint else Path(checkpoint)
    architecture = recognise(read_state(source), source=checkpoint)
    notes: list[str] = []
    names = _lines("tag_list", architecture, sources, notes)
    model = load_checkpoint(
        source,
        configs=sources.configs,
        num_tags=None if names is None else len(names),
        image_size=sources.image_size,
    )
    labels = _labels(model, names, architecture, sources, notes)
    tokenizer = _tokenizer(model, sources, notes)
    teacher = None
    if sources.text_encoder is not None:
        teacher = Teacher.from_pretrained(sources.text_encoder, revision=sources.text_encoder_revision)
        if teacher.embed_dim != model.config.label_width:
            raise ValueError(
                f"--text-encoder {sources.text_encoder} makes vectors of {teacher.embed_dim} values, but the label "
                f"embeddings have {model.config.label_width}: name the model that made them (CLIP ViT-B/16)"
            )
    card: dict[str, object] = {"model": NAMES[architecture], "imported from": origin or source.name}
    save_bundle(target, model, labels=labels, tokenizer=tokenizer, teacher=teacher, card=card)
    millions = sum(parameter.numel() for parameter in model.parameters()) / 1e6
    size = model.config.image_size
    return Imported(f"{NAMES[architecture]}: {len(labels)} tags, {size} px, {millions:.0f}M parameters -> {out}", notes)


def check_new_folder(out: str) -> Path:
    """Check that a folder can be made, or is empty, so that nothing in it is overwritten.

    Args:
        out: path of the folder.

    Returns:
        The path.

    Raises:
        ValueError: if it holds files, or is one.
    """
    target = Path(out)
    if target.exists() and (not target.is_dir() or any(target.iterdir())):
        raise ValueError(f"{out} is there already: name a new or an empty folder")
    return target


def _lines(option: str, architecture: str, sources: Sources, notes: list[str]) -> list[str] | None:
    """The lines of the list that the user named, else of the list near the reference's configs; None: there is none."""
    path = getattr(sources, option)
    file = None if path is None else Path(path)
    if file is None:
        name = LISTS[option].get(architecture)
        folders = [] if sources.configs is None else [Path(sources.configs).parent, Path(sources.configs)]
        candidates = [folder / "data" / name for folder in folders if name]
        file = next((candidate for candidate in candidates if candidate.is_file()), None)
        if file is None:
            return None
        notes.append(f"{option.replace('_', ' ')}: {file}")
    try:
        if file.stat().st_size > MAX_LIST_BYTES:
            raise ValueError(f"more than {MAX_LIST_BYTES} bytes")
        return [line.strip() for line in file.read_text(encoding="utf-8-sig").splitlines()]
    except (OSError, ValueError) as error:
        raise ValueError(f"{file} cannot be read as a list, one entry a line: {error}") from None


def _labels(model: RAM, names: list[str] | None, architecture: str, sources: Sources, notes: list[str]) -> LabelSystem:
    num_tags = len(model.label_embed)
    thresholds = _lines("thresholds", architecture, sources, notes)
    chinese = _lines("chinese", architecture, sources, notes)
    for option, lines in (("tag list", names), ("thresholds", thresholds), ("Chinese tag list", chinese)):
        if lines is not None and len(lines) != num_tags:
            raise ValueError(f"the {option} has {len(lines)} lines, but the checkpoint has {num_tags} tags")
    if names is None:
        notes.append("no --tag-list: tags are called tag 0, tag 1, ...")
        names = [f"tag {id}" for id in range(num_tags)]
    elif "" in names:
        raise ValueError(f"line {names.index('') + 1} of the tag list is empty")
    limits: list[float | None] = [None] * num_tags
    if thresholds is not None:
        limits = [_threshold(line, number) for number, line in enumerate(thresholds, start=1)]
    elif architecture == "tag2text":
        limits = [TAG2TEXT_THRESHOLDS.get(id) for id in range(num_tags)]
    else:
        notes.append(f"no --thresholds: every tag has the threshold {model.config.threshold}")
    return LabelSystem(
        [
            Label(id, name, "object", threshold=limits[id], chinese=chinese[id] if chinese else None)
            for id, name in enumerate(names)
        ],
        unique=len(set(names)) == num_tags,
    )


def _threshold(line: str, number: int) -> float:
    try:
        value = float(line)
    except ValueError:
        value = math.nan
    if not 0 <= value <= 1:
        raise ValueError(f"line {number} of the thresholds, {line[:40]!r}, is not a probability")
    return value


def _tokenizer(model: RAM, sources: Sources, notes: list[str]) -> TextTokenizer | None:
    """The captioner's vocabulary. Without it the captioner is left out of the bundle."""
    from ram_ray.models.tokenizer import TextTokenizer

    if not model.config.captions:
        return None
    wanted = model.config.vocab_size
    if sources.tokenizer is not None:
        tokenizer = TextTokenizer.load(sources.tokenizer)
        if len(tokenizer) != wanted:
            raise ValueError(f"--tokenizer has {len(tokenizer)} words, but the checkpoint has {wanted}")
        return tokenizer
    try:
        tokenizer = TextTokenizer.load(BERT[0], revision=BERT[1])
        if len(tokenizer) == wanted:
            return tokenizer
        reason = f"{BERT[0]} has {len(tokenizer)} words, the checkpoint {wanted}"
    except ValueError as error:
        reason = str(error)
    notes.append(f"no captions: give --tokenizer, the folder of the BERT vocabulary ({reason})")
    model.drop_captioner()
    return None
