"""The pages' HTML: it stands in templates/ and nowhere else.

All that a template is given is escaped, without secrets and without control characters; only what another template made
goes in as it is. A name that a template is not given is an error.
"""

from __future__ import annotations

from functools import cache
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from lowregret.foreign_text import shown

NONE = "–"


def render(template: str, **values: Any) -> Markup:
    """A template of the folder, by its name without the suffix."""
    return Markup(_environment().get_template(f"{template}.html").render(**values))  # the environment escapes


@cache
def _environment() -> Environment:
    found = Environment(
        loader=PackageLoader("lowregret.report.pages"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        finalize=_said,
    )
    found.filters["prose"] = prose
    return found


def _said(value: Any) -> Any:
    if value is None:
        return NONE
    return value if isinstance(value, Markup) else shown(str(value))


def prose(text: str) -> str:
    """Text with a percent sign that stays with its number, and a rank with its word: not for what is copied."""
    return text.replace(" %", "\N{NO-BREAK SPACE}%").replace("(rank ", "(rank\N{NO-BREAK SPACE}")
