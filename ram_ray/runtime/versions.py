"""A warning if an installed package is not the version that our code was written for."""

from __future__ import annotations

import functools
import logging
from importlib import metadata

logger = logging.getLogger(__name__)


@functools.cache  # a line a process
def warn_if_other_version(package: str, *, written_for: str, module: str) -> None:
    """Log a warning if another version of a package is installed.

    Args:
        package: name of the installed package.
        written_for: the version that `module` was written for and tested with.
        module: the module that depends on it, for the message.
    """
    installed = metadata.version(package)
    if installed != written_for:
        logger.warning(
            "%s %s is installed, but %s uses internals of %s: if something fails there, install that version",
            package,
            installed,
            module,
            written_for,
        )
