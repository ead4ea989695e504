"""What was computed from a cache, kept for every session of a server: bounded in bytes, forgotten when a cache changes.

Data is shared, never plots: a plot belongs to the document of one session.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Hashable
from typing import Any, TypeVar

import numpy as np
import pandas as pd
from cachetools import LRUCache, cached

from ...store.cache import Cache

__all__ = ["keep", "kept", "nbytes", "remember", "shared"]

_LIMIT = 96 << 20

T = TypeVar("T")


def nbytes(value: Any) -> int:
    """Estimate the bytes of arrays, tables, texts and containers of these.

    Containers are copied before they are walked over, which is one step for every other thread: what is kept may hold
    values that are computed when first asked for.
    """
    if isinstance(value, np.ndarray):
        return value.nbytes + 128
    if isinstance(value, bytes):
        return len(value) + 64
    if isinstance(value, pd.DataFrame):
        return int(value.memory_usage(deep=True).sum()) + 1024
    if isinstance(value, dict):
        return sum(nbytes(part) for part in value.copy().values()) + 256
    if isinstance(value, (list, tuple)):
        return sum(nbytes(part) for part in tuple(value)) + 64
    if hasattr(value, "__dict__"):
        return nbytes(vars(value))
    return 64


shared: LRUCache[Hashable, Any] = LRUCache(_LIMIT, getsizeof=nbytes)
"""The store of this process; a value larger than all of it is not kept."""

_lock = threading.Condition()


def _key(cache: Cache, key: Hashable, *_: object) -> Hashable:
    return cache.version, key


@cached(shared, key=_key, condition=_lock)
def _computed(cache: Cache, key: Hashable, compute: Callable[[], Any]) -> Any:
    return compute()


def remember(cache: Cache, key: Hashable, compute: Callable[[], T]) -> T:
    """Return what `compute` returns, from the store if it is there for this state of the cache.

    It is computed once: who asks for the same meanwhile waits.
    """
    value: T = _computed(cache, key, compute)
    return value


def kept(cache: Cache, key: Hashable) -> Any:
    """Return what the store has for this state of the cache, None if nothing."""
    full = _key(cache, key)
    with _lock:
        return shared.get(full)


def keep(cache: Cache, key: Hashable, value: Any) -> None:
    """Put something into the store."""
    full = _key(cache, key)
    with _lock:
        shared.pop(full, None)
        if nbytes(value) <= shared.maxsize:
            shared[full] = value
