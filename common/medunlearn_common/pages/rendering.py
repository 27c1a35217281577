"""The template environment of every page: all text is escaped, an unknown name is an error."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Callable, Mapping
from functools import cache
from importlib import resources
from types import MappingProxyType

from jinja2 import ChoiceLoader, Environment, PackageLoader, StrictUndefined, select_autoescape

from medunlearn_common.pages import formatting

_HERE = "medunlearn_common.pages"
FILTERS: Mapping[str, Callable[..., str]] = MappingProxyType({
    "percent": formatting.percent,
    "fine_percent": formatting.fine_percent,
    "points": formatting.points,
    "decimal": formatting.decimal,
    "scientific": formatting.scientific,
    "count": formatting.count,
    "bytes": formatting.byte_size,
    "duration": formatting.duration,
    "plain": formatting.plain,
})


@cache
def environment(package: str) -> Environment:
    """Templates of ``package``, then the shared ones (``charts.html.j2``).

    Guarantees:
        Whatever a name or a figure holds, it is text on the page: every value is escaped, in
        templates from files and from strings alike.
    """
    made = Environment(
        loader=ChoiceLoader([PackageLoader(package), PackageLoader(_HERE)]),
        autoescape=select_autoescape(default=True, default_for_string=True),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    made.filters.update(FILTERS)
    return made


@cache
def asset(name: str, package: str = _HERE) -> str:
    """A style or script beside the templates of ``package``."""
    return (resources.files(package) / "templates" / name).read_text(encoding="utf-8")


def content_digest(text: str) -> str:
    """Digest of an inline element's text, as a content security policy names it."""
    return f"sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}"
