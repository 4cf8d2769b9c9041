"""A folder that all processes of a machine share, and that is removed when the last of them has ended or was killed.

    FOLDER/NAME/       the complete copy
    FOLDER/NAME.part   a copy that is being made
    FOLDER/NAME.lock   a shared flock of every process that uses the copy, until the process ends

A process without a copy takes the lock exclusively, makes NAME.part and renames it, so a copy is complete or does not
exist; the kernel frees the lock of a killed process. A process that gets the lock exclusively knows that nobody uses
the copy. So for each copy a small process waits for the exclusive lock and removes the copy: Ray kills its workers, and
their exit handlers do not run. If that process is killed too, `remove_unused_copies` removes the copy later.

This file is also the program of that process, so it imports only the standard library.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import shutil
import stat
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path

_held: dict[Path, int] = {}  # copy that this process uses -> file descriptor of its lock
_guard = threading.RLock()


def acquire_copy(target: Path, make: Callable[[Path], None]) -> None:
    """Use the copy at `target` until this process ends; make it if it does not exist.

    Args:
        target: path of the copy.
        make: function that writes the copy to a path.

    Raises:
        ValueError: if other users can write to the folder of copies.
    """
    with _guard:
        if target in _held:
            return
        if not _held:
            remove_unused_copies(target.parent)
        _held[target], made = _lock(target, make)
        if made:
            _remove_when_unused(target)


def remove_unused_copies(folder: Path) -> None:
    """Remove the copies in `folder` that no running process uses, and the unfinished copies of killed processes."""
    for lock in folder.glob("*.lock"):
        with contextlib.suppress(OSError):  # BlockingIOError: in use
            _remove(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)


def _lock(target: Path, make: Callable[[Path], None]) -> tuple[int, bool]:
    """The descriptor of a shared lock on a whole copy, and whether it was made here."""
    lock, part, made = target.with_suffix(".lock"), target.with_suffix(".part"), False
    while True:
        _make_folder(target.parent)
        try:
            descriptor = os.open(lock, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
        except FileNotFoundError:  # the folder was removed in between
            continue
        try:
            fcntl.flock(descriptor, fcntl.LOCK_SH)
            if _is_file(lock, descriptor) and not target.is_dir():
                fcntl.flock(descriptor, fcntl.LOCK_EX)  # waits for another process that makes it
                if _is_file(lock, descriptor) and not target.is_dir():
                    shutil.rmtree(part, ignore_errors=True)  # of a process that was killed
                    _make(part, make)
                    part.rename(target)
                    made = True
                fcntl.flock(descriptor, fcntl.LOCK_SH)  # the lock is free for a moment: check again
            if _is_file(lock, descriptor) and target.is_dir():
                return descriptor, made
        except BaseException:
            os.close(descriptor)
            raise
        os.close(descriptor)


def _make(part: Path, make: Callable[[Path], None]) -> None:
    try:
        make(part)
    except BaseException:
        shutil.rmtree(part, ignore_errors=True)
        raise


def _make_folder(folder: Path) -> None:
    """Make the folder of copies and its parent, writable by this user only, since the files in it are trusted."""
    for path in (folder.parent, folder):
        path.mkdir(mode=0o700, exist_ok=True)
        status = path.lstat()
        if status.st_uid != os.getuid() or not stat.S_ISDIR(status.st_mode) or status.st_mode & 0o022:
            raise ValueError(f"{path} can be written by others; remove it, or set TMPDIR to a folder of your own")


def _is_file(lock: Path, descriptor: int) -> bool:
    """Whether the opened lock is still the file at its path: a process that removes a copy also removes its lock."""
    try:
        return os.path.samestat(os.stat(lock), os.fstat(descriptor))
    except FileNotFoundError:
        return False


def _remove(lock: Path, operation: int) -> None:
    target, part = lock.with_suffix(""), lock.with_suffix(".part")
    descriptor = os.open(lock, os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW)
    try:
        fcntl.flock(descriptor, operation)
        if _is_file(lock, descriptor):
            shutil.rmtree(part, ignore_errors=True)
            if target.is_dir():
                target.rename(part)  # a process killed here must not leave half a copy under its final name
            shutil.rmtree(part, ignore_errors=True)
            lock.unlink()
    finally:
        os.close(descriptor)
    with contextlib.suppress(OSError):  # the folder has another copy
        lock.parent.rmdir()
        lock.parent.parent.rmdir()


def _remove_when_unused(target: Path) -> None:
    """Start the process that removes the copy; a shell starts it and ends, so that this process is not its parent."""
    program = [sys.executable, "-I", "-S", __file__, str(target.with_suffix(".lock"))]
    subprocess.run(
        ["/bin/sh", "-c", '"$@" &', "sh", *program],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
        cwd="/",
        check=False,
    )


if __name__ == "__main__":
    with contextlib.suppress(FileNotFoundError):
        _remove(Path(sys.argv[1]), fcntl.LOCK_EX)
