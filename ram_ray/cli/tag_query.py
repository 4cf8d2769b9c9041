"""What `ram-ray tag` is asked for, from its options: the rules of tags, what else is written, and what to say of it."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from ram_ray.cli.options import absolute

if TYPE_CHECKING:
    from ram_ray.inference.tag_rules import TagRules
    from ram_ray.interop.sidecars import SidecarWriter
    from ram_ray.label_system import LabelSystem
    from ram_ray.settings.models import ModelConfig


def split_list(text: str | None, *, option: str) -> list[str] | None:
    """Split a list with commas.

    Args:
        text: the value of the option.
        option: its name.

    Returns:
        The items without white space around them; None without the option.

    Raises:
        ValueError: if there is no item, or one that is no text.
    """
    if text is None:
        return None
    items = [item.strip() for item in text.split(",") if item.strip()]
    if not items:
        raise ValueError(f"{option} is empty; write names with commas between them")
    if any(0xD800 <= ord(letter) < 0xE000 for letter in text):  # bytes that are not UTF-8
        raise ValueError(f"{option} {text!r} has characters that are no text; write it in UTF-8")
    return items


def make_rules(
    labels: LabelSystem,
    *,
    allow: str | None,
    deny: str | None,
    rename: str | None,
    names: str | None,
    most_specific: str | None,
    chinese: bool,
) -> tuple[TagRules, list[str]]:
    """Read the files of the rules.

    Args:
        labels: of the model.
        allow: file of the labels to give.
        deny: file of labels that are never given.
        rename: file of other names.
        names: file of names in another language.
        most_specific: "wordnet", a folder of WordNet, or a file of chains.
        chinese: whether the Chinese names of the model are given.

    Returns:
        The rules; and a line for each file with names that the model does not have.

    Raises:
        ValueError: if a file cannot be read.
    """
    from ram_ray.inference.tag_rules import TagRules, read_names, read_pairs
    from ram_ray.inference.tag_selection import unknown_names

    rules = TagRules(
        allow=read_names(allow) if allow else None,
        deny=read_names(deny) if deny else (),
        rename=read_pairs(rename) if rename else {},
        names=read_pairs(names) if names else {},
        broader=_read_broader(labels, most_specific) if most_specific else {},
        chinese=chinese,
    )
    notes = []
    listed_names = (
        (allow, rules.allow),
        (deny, rules.deny),
        (rename, tuple(rules.rename)),
        (names, tuple(rules.names)),
    )
    for file, listed in listed_names:
        if file and (unknown := unknown_names(listed or (), labels)):
            some = ", ".join(unknown[:5]) + (", ..." if len(unknown) > 5 else "")
            notes.append(f"{file}: {len(unknown)} of {len(listed or ())} names are no labels of the model: {some}")
    return rules, notes


def _read_broader(labels: LabelSystem, where: str) -> dict[str, tuple[str, ...]]:
    from ram_ray.inference.tag_rules import read_broader
    from ram_ray.labels.broader import find_broader
    from ram_ray.labels.wordnet import INSTALLED, WordNet

    if where == "wordnet" or os.path.isdir(where):
        return find_broader(labels, WordNet(INSTALLED if where == "wordnet" else where))
    return read_broader(where)


def split_formats(write: str | None) -> tuple[list[str], list[str]]:
    """Split the formats of `--write` into those of each image and those of the archive.

    Args:
        write: names with commas.

    Returns:
        Formats of `sidecars` and of `tag_exports`.

    Raises:
        ValueError: if a name is unknown.
    """
    from ram_ray.interop import sidecars, tag_exports

    formats = split_list(write, option="--write") or []
    known = (*sidecars.FORMATS, *tag_exports.FORMATS)
    if unknown := [name for name in formats if name not in known]:
        raise ValueError(f"--write {unknown[0]}: use some of {', '.join(known)}, with commas")
    return tuple([name for name in formats if name in module.FORMATS] for module in (sidecars, tag_exports))  # type: ignore[return-value]


def make_sink(formats: list[str], *, folder: str | None, overwrite: bool) -> SidecarWriter | None:
    """Make the writer of sidecars.

    Args:
        formats: of `sidecars.FORMATS`.
        folder: value of `--sidecars`.
        overwrite: value of `--overwrite`.

    Returns:
        The writer; None without formats.

    Raises:
        ValueError: if an option has no effect, or exiftool is missing.
    """
    from ram_ray.interop.sidecars import SidecarWriter

    if (folder or overwrite) and not {"txt", "xmp"} & set(formats):
        raise ValueError("--sidecars and --overwrite are about the files of --write txt,xmp")
    return SidecarWriter(formats, folder=absolute(folder) if folder else None, overwrite=overwrite) if formats else None


def check_shards(image_formats: list[str], archive_formats: list[str], *, sidecars: str | None) -> None:
    """Check that what is written needs no image files where there are images in shards.

    Args:
        image_formats: of `sidecars.FORMATS`.
        archive_formats: of `tag_exports.FORMATS`.
        sidecars: value of `--sidecars`.

    Raises:
        ValueError: if it does.
    """
    from ram_ray.interop.tag_exports import NEED_FILES

    if needed := [name for name in archive_formats if name in NEED_FILES] + (
        ["jpeg"] if "jpeg" in image_formats else []
    ):
        raise ValueError(f"--write {','.join(needed)}: it names or writes image files, and there are shards")
    if image_formats and sidecars is None:
        raise ValueError(
            f"--write {','.join(image_formats)}: images in shards have no place beside them; add --sidecars DIR"
        )


def explain_own_tags(config: ModelConfig, *, top_k: int | None, threshold: float | None) -> list[str]:
    """Say that own tags are given whatever their score, where nobody asked for this.

    Args:
        config: of the model.
        top_k: as the user asks.
        threshold: as the user asks.

    Returns:
        A line; none if there is nothing to say.
    """
    from ram_ray.inference.tag_rules import best_own_tags

    best = best_own_tags(config, top_k=top_k, threshold=threshold)
    if best is None or top_k is not None:
        return []
    return [
        f"the model has no threshold for your own tags: each image gets the best {best} of them, whatever their score; "
        "choose with --top-k or --threshold"
    ]


def check_extras(config: ModelConfig, *, caption: bool, boxes: bool, own_tags: bool) -> None:
    """Check that a model can give what is asked.

    Args:
        config: of the model.
        caption: whether captions are asked for.
        boxes: whether boxes are asked for.
        own_tags: whether the tags are the user's own.

    Raises:
        ValueError: if it cannot.
    """
    if caption and not config.captions:
        raise ValueError("--caption: this model writes no captions")
    if boxes and own_tags:
        raise ValueError("--boxes: only for the model's own tags; leave out --tags or --boxes")
    if boxes and not config.recognition.layers:
        raise ValueError("--boxes: they come from the recognition layers, and this model has none")
