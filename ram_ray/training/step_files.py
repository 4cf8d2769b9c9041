"""Files that workers write before a checkpoint, so that what they hold survives restarts.

    FOLDER/<step>-<rank>.<ending>    what worker `rank` recorded between the previous checkpoint and that of `step`

A run that resumes from a checkpoint makes the later steps again, so it removes the files of later steps first.
"""

from __future__ import annotations

import re

import fsspec


def list_step_files(folder: str) -> list[tuple[str, int]]:
    """List the files with their steps.

    Args:
        folder: URI of the folder; it need not exist.

    Returns:
        (path in the file system of the folder, step), sorted by step and rank.
    """
    fs, root = fsspec.url_to_fs(folder)
    files = fs.ls(root, detail=False) if fs.exists(root) else []
    names = [(file, re.fullmatch(r"(\d+)-\d+\.\w+", file.rpartition("/")[2])) for file in sorted(files)]
    return [(file, int(match[1])) for file, match in names if match]


def remove_later_files(folder: str, step: int) -> None:
    """Remove the files of later steps; a run that resumes from this step writes them again.

    Args:
        folder: URI of the folder.
        step: step of the checkpoint.
    """
    fs, _ = fsspec.url_to_fs(folder)
    for file, file_step in list_step_files(folder):
        if file_step > step:
            fs.rm(file)
