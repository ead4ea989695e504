"""A file of a cache, wherever it lies: what it holds, and what tells it from another of its name."""

from __future__ import annotations

from collections.abc import Callable, Hashable
from typing import Any, BinaryIO, NamedTuple

__all__ = ["Content", "Version"]

Content = bytes | Callable[[BinaryIO], Any]
"""Of a file: its bytes, or a function that writes them to a binary file."""


class Version(NamedTuple):
    """What tells a file from another of its name.

    Attributes
    ----------
    size : int
        Bytes.
    tag : hashable
        What changes whenever it is put anew: its time of modification, or an etag.
    """

    size: int
    tag: Hashable
