"""Work of compiled functions and numpy shared out among as many threads as torch uses."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

import torch

__all__ = ["in_threads"]

_T = TypeVar("_T")
_R = TypeVar("_R")


def in_threads(run: Callable[[_T], _R], items: Iterable[_T]) -> list[_R]:
    """Results of a function that lets other threads run, in the order of the items.

    Threads last for one call: those of a pool that is kept would be missing in a process that was forked.
    """
    todo = list(items)
    threads = min(torch.get_num_threads(), len(todo))
    if threads <= 1:
        return [run(item) for item in todo]
    with ThreadPoolExecutor(threads, "gradunc") as pool:
        return list(pool.map(run, todo))
