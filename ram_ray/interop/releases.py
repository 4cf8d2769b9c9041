"""The authors' released models, each file pinned: `ram-ray download`.

    hub       NAME.pth at a commit                       -> checkpoint
    hub       BERT's vocab.txt at a commit               -> tokenizer of captions; RAM++ has none
    GitHub    ram/configs, ram/data of the reference     -> sizes, names of tags, thresholds

Each file has its size and sha256 here, as the hub and the reference's repository have them at that commit, so a mirror
needs no trust. Files are kept in one folder, below the server's path of each, which has the commit: a file that is
whole is not fetched again.
"""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from pathlib import Path

from ram_ray.interop.importing import BERT, Sources
from ram_ray.runtime.web_files import WebFile, fetch

REFERENCE = ("xinyu1205/recognize-anything", "7cb804a8609e9f4b1a50b7f31436d2df40bb9481")


@dataclass(frozen=True)
class Content:
    """What a file is known by: sha256 and size in bytes."""

    sha256: str
    num_bytes: int


@dataclass(frozen=True)
class HubFile:
    """A file of the Hugging Face hub: repository, commit, name."""

    repository: str
    revision: str
    name: str
    content: Content | None  # None: not known


@dataclass(frozen=True)
class Release:
    """A released model: checkpoint, files of the reference's folder `ram`, vocabulary of the captions."""

    checkpoint: HubFile
    reference: dict[str, Content]
    vocabulary: HubFile | None


@dataclass(frozen=True)
class Download:
    """Files of a release on this machine; `origin` says where the checkpoint comes from."""

    checkpoint: Path
    sources: Sources
    origin: str
    notes: tuple[str, ...]


_STACKS = {
    "configs/med_config.json": Content("8ff4c73e6781e9597714670d13551129a712cecb8effa71ad1968e93ba2f8a2d", 524),
    "configs/q2l_config.json": Content("e3bbbefc4011d577b58b67e155f7d67f38554f2797ddb7a29a6516a423ab578b", 557),
}
_RAM_FILES = {
    **_STACKS,
    "configs/swin/config_swinL_384.json": Content(
        "f07de971155ff50dfe13e5e34b0211133f602934e7fe230febe60b5a93700f9a", 233
    ),
    "data/ram_tag_list.txt": Content("5d96d2f7225527480ad773aaac76b6e5c08a18adf6eae9ca7d2ab923d5e7bd8b", 41904),
    "data/ram_tag_list_chinese.txt": Content("c912657a0f30be7b2f5df6ccffa17e1d84561d0bea508528e38b6d0d711bcfbe", 44181),
    "data/ram_tag_list_threshold.txt": Content(
        "b6f81d0de1bc7f9c251af512c413eae976c77dbfbadf700d4e3d90510f4c6447", 22016
    ),
}
_TAG2TEXT_FILES = {
    **_STACKS,
    "configs/swin/config_swinB_384.json": Content(
        "fda66c6e525eff268b2bcf4184e9d944babd1619b60745aa34fc6ce4dd379ee4", 230
    ),
    "data/tag2text_ori_tag_list.txt": Content(
        "7d05c7cb88ed46a2aee1434776964f6bdbda0c0f4233c8633e109084382d3a45", 29062
    ),
}
_VOCABULARY = HubFile(
    *BERT, "vocab.txt", Content("07eced375cec144d27c900241f3e339478dec958f92fddbc551f295c992038a3", 231508)
)
# The commit that added Tag2Text to the repository of RAM; its parent has RAM.
_RAM_AND_TAG2TEXT = ("xinyu1205/recognize_anything_model", "2dd9b40d587d367e99bd2a61215f194e1b666336")
RELEASES = {
    "ram": Release(
        HubFile(
            *_RAM_AND_TAG2TEXT,
            "ram_swin_large_14m.pth",
            Content("15c729c793af28b9d107c69f85836a1356d76ea830d4714699fb62e55fcc08ed", 5_625_634_877),
        ),
        _RAM_FILES,
        _VOCABULARY,
    ),
    "ram-plus": Release(
        HubFile(
            "xinyu1205/recognize-anything-plus-model",
            "6afd703f04b23e1c18d4c7d9882c4f5f954848f8",
            "ram_plus_swin_large_14m.pth",
            Content("497c178836ba66698ca226c7895317e6e800034be986452dbd2593298d50e87d", 3_010_210_801),
        ),
        _RAM_FILES,
        None,
    ),
    "tag2text": Release(
        HubFile(
            *_RAM_AND_TAG2TEXT,
            "tag2text_swin_14m.pth",
            Content("4ce96f0ce98f940a6680d567f66a38ccc9ca8c4e638e5f5c5c2e881a0e3502ac", 4_478_705_095),
        ),
        _TAG2TEXT_FILES,
        _VOCABULARY,
    ),
}
# Of `Sources`: the file of a release, where it has it.
_LISTS = {
    "tag_list": ("data/ram_tag_list.txt", "data/tag2text_ori_tag_list.txt"),
    "thresholds": ("data/ram_tag_list_threshold.txt",),
    "chinese": ("data/ram_tag_list_chinese.txt",),
}


def default_cache() -> Path:
    """The folder of this user's downloads, as the XDG rules say."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "ram_ray" / "downloads"


def download(release: Release, *, hub: str, github: str, cache: Path, revision: str | None = None) -> Download:
    """Fetch all files of a release that are not in the cache.

    Args:
        release: one of `RELEASES`.
        hub: URL of the Hugging Face hub or a mirror.
        github: URL of GitHub's raw files or a mirror.
        cache: folder of the files.
        revision: commit of the checkpoint's repository; None: the pinned one.

    Returns:
        What `import_checkpoint` needs.

    Raises:
        ValueError: if a file cannot be fetched, or is not the pinned one.
    """
    wanted = _at(release.checkpoint, revision)
    repository, commit = REFERENCE
    root = cache / "github" / repository / commit / "ram"
    for path, content in release.reference.items():
        url = f"{github.rstrip('/')}/{repository}/{commit}/ram/{path}"
        file = WebFile(url, content.sha256, content.num_bytes)
        fetch(file, root / path, advice="run it again, or name a mirror with --github")
    vocabulary = None
    if release.vocabulary is not None:
        vocabulary, _ = _fetch_from_hub(release.vocabulary, hub, cache)
    checkpoint, digest = _fetch_from_hub(wanted, hub, cache)

    def list_of(option: str) -> str | None:
        return next((str(root / path) for path in _LISTS[option] if path in release.reference), None)

    sources = Sources(
        configs=str(root / "configs"),
        tag_list=list_of("tag_list"),
        thresholds=list_of("thresholds"),
        chinese=list_of("chinese"),
        tokenizer=None if vocabulary is None else str(vocabulary),
    )
    notes = [f"the checkpoint is kept at {checkpoint}; the bundle does not need it"]
    if wanted.content is None:
        notes.append(f"{wanted.name} at {wanted.revision} has sha256 {digest}; none is known to compare it with")
    origin = f"{wanted.repository} at {wanted.revision}: {wanted.name}, sha256 {digest}"
    return Download(checkpoint, sources, origin, tuple(notes))


def _at(file: HubFile, revision: str | None) -> HubFile:
    if revision is None or revision == file.revision:
        return file
    if not re.fullmatch(r"[0-9a-f]{40}", revision):
        raise ValueError(f"--revision {revision}: give a commit of {file.repository}, 40 hexadecimal digits")
    return HubFile(file.repository, revision, file.name, None)


def _fetch_from_hub(file: HubFile, hub: str, cache: Path) -> tuple[Path, str]:
    """Path of the file on this machine, and its sha256."""
    url = f"{hub.rstrip('/')}/{file.repository}/resolve/{file.revision}/{file.name}"
    content = file.content
    wanted = WebFile(url) if content is None else WebFile(url, content.sha256, content.num_bytes)
    target = cache / "hub" / file.repository / file.revision / file.name
    return target, fetch(wanted, target, advice="run it again, or name a mirror with --hub")
