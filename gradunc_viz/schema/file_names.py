"""Names in a folder: which are not the user's, and in which order people count the others."""

from __future__ import annotations

import re

__all__ = ["is_foreign", "natural_key"]

_FOREIGN = frozenset((
    "@eadir", "@recycle", "@recently-snapshot", "@tmp", "#recycle", "#snapshot", "~snapshot",  # network storage
    "lost+found", "found.000", "__macosx", "__pycache__",
    "$recycle.bin", "system volume information", "thumbs.db", "ehthumbs.db", "ehthumbs_vista.db", "desktop.ini",
    "icon\r", "network trash folder", "temporary items",  # macOS
))  # fmt: skip
"""In lower case, beside all that begins with a dot: ``.DS_Store``, ``._NAME``, ``.snapshot``, ``.Trash-1000`` ..."""


def is_foreign(name: str) -> bool:
    """Whether a file or folder of this name is hidden, or was put there by the system: it is passed over everywhere."""
    return name.startswith(".") or name.lower() in _FOREIGN


def natural_key(name: str) -> tuple[list[str | int], str]:
    """Key to sort names as people count: ``a2`` before ``a10``, and what lies in ``a/`` before ``a-1``."""
    parts: list[str | int] = list(re.split(r"(\d+)", name.replace("/", "\0")))
    parts[1::2] = map(int, parts[1::2])  # text and numbers take turns, so that like is compared with like
    return parts, name
