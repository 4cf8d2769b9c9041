"""One copy of something for all processes of a machine, which goes when the last of them ends, however it ends.

    FOLDER/NAME/       the copy, whole
    FOLDER/NAME.part   a copy that is being made
    FOLDER/NAME.lock   who uses it: every process that was given the copy holds a shared flock, as long as it lives

Who finds no copy takes the lock alone, makes NAME.part and renames it: a copy is whole or is not there, and the kernel
gives the lock up for a process that is killed. Who can take the lock alone knows that nobody uses the copy. So for each
copy a small process waits for the lock, removes the copy, and ends: Ray kills its workers in the end, and what is to be
done at a process's exit would not be done. Should that process be killed as well, `remove_unused` does it.

This file is that process's program, too: it needs nothing but the standard library.
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

_held: dict[Path, int] = {}  # the copies that this process uses: file descriptors of their locks
_guard = threading.RLock()


def share(target: Path, make: Callable[[Path], None]) -> None:
    """Use the copy at `target` until this process ends; where there is none, `make` is called with a path to fill.

    Args:
        target: path of the copy.
        make: fills a path.
    """
    with _guard:
        if target in _held:
            return
        if not _held:
            remove_unused(target.parent)
        _held[target], made = _lock(target, make)
        if made:
            _remove_when_unused(target)


def remove_unused(folder: Path) -> None:
    """Remove the copies in `folder` that no living process uses, and what killed ones left."""
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
        except FileNotFoundError:  # the folder went in between
            continue
        try:
            fcntl.flock(descriptor, fcntl.LOCK_SH)
            if _is_file(lock, descriptor) and not target.is_dir():
                fcntl.flock(descriptor, fcntl.LOCK_EX)  # waits for another that makes it
                if _is_file(lock, descriptor) and not target.is_dir():
                    shutil.rmtree(part, ignore_errors=True)  # of one that was killed
                    _make(part, make)
                    part.rename(target)
                    made = True
                fcntl.flock(descriptor, fcntl.LOCK_SH)  # gives the lock up for a moment: check again
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
    """The folder of copies and the one above it: this user's alone, since what is loaded from there is trusted."""
    for one in (folder.parent, folder):
        one.mkdir(mode=0o700, exist_ok=True)
        status = one.lstat()
        if status.st_uid != os.getuid() or not stat.S_ISDIR(status.st_mode) or status.st_mode & 0o022:
            raise ValueError(f"{one} can be written by others; remove it, or set TMPDIR to a folder of your own")


def _is_file(lock: Path, descriptor: int) -> bool:
    """Whether the opened lock is still the one at its path: who removes a copy removes its lock as well."""
    try:
        return os.path.samestat(os.stat(lock), os.fstat(descriptor))
    except FileNotFoundError:
        return False


def _remove(lock: Path, how: int) -> None:
    target, part = lock.with_suffix(""), lock.with_suffix(".part")
    descriptor = os.open(lock, os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW)
    try:
        fcntl.flock(descriptor, how)
        if _is_file(lock, descriptor):
            shutil.rmtree(part, ignore_errors=True)
            if target.is_dir():
                target.rename(part)  # or who is killed here leaves half a copy that looks whole
            shutil.rmtree(part, ignore_errors=True)
            lock.unlink()
    finally:
        os.close(descriptor)
    with contextlib.suppress(OSError):  # another copy is there
        lock.parent.rmdir()
        lock.parent.parent.rmdir()


def _remove_when_unused(target: Path) -> None:
    """Start the process that waits; a shell starts it and ends, so that it is nobody's child."""
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
