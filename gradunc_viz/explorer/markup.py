"""HTML of the page: what is put into a template is escaped by the template, so that text from a cache stays text."""

from __future__ import annotations

from functools import cache

import jinja2
from markupsafe import Markup, escape

__all__ = ["Markup", "escape", "render"]

_ENVIRONMENT = jinja2.Environment(autoescape=True, undefined=jinja2.StrictUndefined, cache_size=0)


@cache
def _compiled(template: str) -> jinja2.Template:
    return _ENVIRONMENT.from_string(template)


def render(template: str, **values: object) -> Markup:
    """Fill a template of Jinja; everything but `Markup`, what another template made, is escaped.

    Parameters
    ----------
    template : str
        Written in the code, never made of data.
    **values
        What its names stand for.
    """
    return Markup(_compiled(template).render(values))
