"""What was computed from a cache, kept for every session of a server: bounded in bytes, forgotten when a cache changes.

Data is shared, never plots: a plot belongs to the document of one session.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable, Hashable
from typing import Any, TypeVar

import numpy as np
import pandas as pd

from ...store.cache import Cache

__all__ = ["Memo", "cache_version", "nbytes", "remember", "shared"]

_LIMIT = 96 << 20

T = TypeVar("T")


class Memo:
    """A least-recently-used store of at most `limit` bytes; safe to use from several threads."""

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self.size = 0
        self._kept: OrderedDict[Hashable, tuple[Any, int]] = OrderedDict()
        self._lock = threading.Lock()

    def __len__(self) -> int:
        return len(self._kept)

    def get(self, key: Hashable) -> Any:
        """Return what is kept for `key`, or None."""
        with self._lock:
            if key not in self._kept:
                return None
            self._kept.move_to_end(key)
            return self._kept[key][0]

    def put(self, key: Hashable, value: Any) -> None:
        """Keep `value`, and drop what was not used for longest; a value larger than the limit is not kept."""
        size = nbytes(value)
        with self._lock:
            self.size -= self._kept.pop(key, (None, 0))[1]
            if size > self.limit:
                return
            self._kept[key] = value, size
            self.size += size
            while self.size > self.limit:
                self.size -= self._kept.popitem(last=False)[1][1]

    def clear(self) -> None:
        """Forget everything."""
        with self._lock:
            self._kept.clear()
            self.size = 0


shared = Memo(_LIMIT)
"""The store of this process."""


def nbytes(value: Any) -> int:
    """Estimate the bytes of arrays, tables, texts and containers of these."""
    if isinstance(value, np.ndarray):
        return value.nbytes + 128
    if isinstance(value, bytes):
        return len(value) + 64
    if isinstance(value, pd.DataFrame):
        return int(value.memory_usage(deep=True).sum()) + 1024
    if isinstance(value, dict):
        return sum(nbytes(part) for part in value.values()) + 256
    if isinstance(value, (list, tuple)):
        return sum(nbytes(part) for part in value) + 64
    if hasattr(value, "__dict__"):
        return nbytes(vars(value))
    return 64


def cache_version(cache: Cache) -> Hashable:
    """What changes whenever a cache on disk does: its path, its frames, and when they were last published."""
    return cache.version


def remember(cache: Cache, key: Hashable, compute: Callable[[], T], memo: Memo | None = None) -> T:
    """Return what `compute` returns, from the store if it is there for this state of the cache."""
    memo = shared if memo is None else memo
    full = (cache_version(cache), key)
    found = memo.get(full)
    if found is None:
        found = compute()
        memo.put(full, found)
    return found
