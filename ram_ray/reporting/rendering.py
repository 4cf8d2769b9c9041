"""Fill the jinja2 templates of `templates/`, which hold the markup of the report and of the data engine's page."""

from __future__ import annotations

import math
from functools import cache
from importlib import resources

from jinja2 import Environment
from markupsafe import Markup

from ram_ray.runtime.templates import make_environment

MISSING = "–"  # a value that was not measured


def render(template: str, page: object) -> str:
    """Fill a template.

    Args:
        template: name of a file in `templates/`.
        page: the data, as the template's variable `page`.

    Returns:
        HTML.
    """
    return _environment().get_template(template).render(page=page)


def number(value: float | None, digits: int = 0) -> str:
    """Format a number with thousands separators.

    Args:
        value: None or not finite: not measured.
        digits: after the decimal point.

    Returns:
        The number, or a dash.
    """
    return MISSING if value is None or not math.isfinite(value) else f"{value:,.{digits}f}"


def percent(value: float | None, digits: int = 0) -> str:
    """Format a share as a percentage.

    Args:
        value: 0 to 1; None or not finite: not measured.
        digits: after the decimal point.

    Returns:
        The percentage, or a dash.
    """
    return MISSING if value is None or not math.isfinite(value) else f"{100 * value:.{digits}f}%"


def signed(value: int) -> str:
    """Format a difference with its sign and thousands separators.

    Args:
        value: the difference.

    Returns:
        The number.
    """
    return f"{value:+,}"


@cache
def _environment() -> Environment:
    environment = make_environment("ram_ray.reporting")
    environment.filters |= {"number": number, "percent": percent, "signed": signed}
    environment.globals["style"] = _style
    return environment


def _style(name: str) -> Markup:
    """A style sheet of `templates/`, which the page holds as it is."""
    return Markup((resources.files("ram_ray.reporting") / "templates" / name).read_text(encoding="utf-8"))
