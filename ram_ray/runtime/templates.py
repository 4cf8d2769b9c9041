"""The environment of the jinja2 templates of a package's pages.

Autoescape is on: a text from data is shown as text and is never read as HTML. A name that a template misspells is an
error.
"""

from __future__ import annotations

from jinja2 import Environment, PackageLoader, StrictUndefined


def make_environment(package: str) -> Environment:
    """Make the environment of the templates in the folder `templates` of a package.

    Args:
        package: dotted name of the package.

    Returns:
        The environment; filters and globals are the caller's to add.
    """
    return Environment(
        loader=PackageLoader(package),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
