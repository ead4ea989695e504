"""How objects show themselves in notebooks: small pieces of HTML that read well on light and on dark pages."""

from __future__ import annotations

import base64
from collections.abc import Iterable, Mapping, Sequence
from html import escape

__all__ = ["bar", "card", "chips", "code", "picture", "strip"]

# no colour of its own for text and background: the page's, and greys that are seen on both
_CARD = "border:1px solid rgba(128,128,128,.4);border-radius:6px;padding:8px 12px;display:inline-block;max-width:100%"
_SOFT = "opacity:.7"


def card(title: str, rows: Mapping[str, str], *more: str) -> str:
    """A titled list of facts, with more HTML below.

    Parameters
    ----------
    title : str
        Plain text.
    rows : mapping from str to str
        Plain names to HTML; empty ones are left out.
    *more : str
        HTML.
    """
    lines = "".join(
        f"<tr><td style='text-align:left;padding:1px 14px 1px 0;{_SOFT};vertical-align:top'>{escape(name)}</td>"
        f"<td style='text-align:left;padding:1px 0;overflow-wrap:anywhere'>{value}</td></tr>"
        for name, value in rows.items()
        if value
    )
    table = f"<table style='border-collapse:collapse;margin:4px 0 0'>{lines}</table>"
    return f"<div style='{_CARD}'><b>{escape(title)}</b>{table}{''.join(more)}</div>"


def code(text: str) -> str:
    """Text as code."""
    return f"<code style='background:none;color:inherit'>{escape(text)}</code>"


def bar(share: float, text: str, width: int = 90) -> str:
    """A bar from 0 to 1 with a text on it."""
    percent = 100 * min(max(share, 0.0), 1.0)
    fill = f"linear-gradient(90deg,rgba(224,108,0,.45) {percent:.1f}%,rgba(128,128,128,.18) {percent:.1f}%)"
    return (
        f"<span style='display:inline-block;width:{width}px;padding:0 4px;box-sizing:border-box;background:{fill}'>"
        f"{escape(text)}</span>"
    )


def chips(names: Sequence[str], colors: Sequence[tuple[int, int, int]]) -> str:
    """Names of classes with their colours."""
    return " ".join(
        f"<span style='white-space:nowrap'><span style='display:inline-block;width:10px;height:10px;border-radius:2px;"
        f"border:1px solid rgba(128,128,128,.5);background:rgb({r},{g},{b})'></span> {escape(name)}</span>"
        for name, (r, g, b) in zip(names, colors, strict=True)
    )


def picture(data: bytes, kind: str, title: str, height: int = 72) -> str:
    """An image with a tooltip; `kind` is ``png`` or ``jpeg``."""
    source = f"data:image/{kind};base64,{base64.b64encode(data).decode()}"
    name = escape(title, quote=True)
    return f"<img src='{source}' alt='{name}' title='{name}' style='height:{height}px;margin:0;display:block'>"


def strip(items: Iterable[tuple[str, str]]) -> str:
    """Pictures side by side, (HTML, HTML of the line below)."""
    cells = "".join(
        f"<div style='margin:6px 6px 0 0;font-size:85%'>{image}<div>{line}</div></div>" for image, line in items
    )
    return f"<div style='display:flex;flex-wrap:wrap'>{cells}</div>"
