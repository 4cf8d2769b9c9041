"""The image files of a folder, for `ram-ray tag`; batch tagging lists folders and shards (`inference.listing`)."""

from __future__ import annotations

from ram_ray.data.folder import is_image_file
from ram_ray.inference.listing import DEFAULT_LAYOUT
from ram_ray.runtime.location import UNREADABLE, locate_path, to_text, uri_of, walk
from ram_ray.runtime.storage import is_local, is_storage_error


def find_images(path: str) -> list[str]:
    """List the images below a folder.

    Args:
        path: folder or URI.

    Returns:
        Their paths, as they are, or URIs, by folder and name; also those of folders that may not be read.

    Raises:
        ValueError: if there is no image.
    """
    fs, root = locate_path(path)
    infos = [
        info
        for folder in (walk(fs, root) if fs.isdir(root) else ())
        for info in folder.files
        if is_image_file(fs, info, DEFAULT_LAYOUT) or info.get("destination") == UNREADABLE  # reading it tells
    ]
    if not infos:
        raise ValueError(f"{to_text(path)}: no images ({', '.join(DEFAULT_LAYOUT.image_suffixes)}) there")
    return [info["name"] if is_local(fs) else uri_of(fs, info["name"]) for info in infos]


def is_folder(path: str) -> bool:
    """Whether a path or URI is a folder; what cannot be reached is none, and is told when it is read.

    Args:
        path: may not exist.

    Returns:
        True for an existing folder.
    """
    try:
        fs, root = locate_path(path)
        return bool(fs.isdir(root))
    except Exception as error:
        if is_storage_error(error):
            return False
        raise
