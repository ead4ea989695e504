"""Threads for what torch does not run itself, and memory for large results."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

import numpy as np
import torch
from torch import Tensor

__all__ = ["empty", "in_threads"]

_T = TypeVar("_T")
_R = TypeVar("_R")


def in_threads(run: Callable[[_T], _R], items: Iterable[_T]) -> list[_R]:
    """Results of a function that lets other threads run, in the order of the items.

    Threads last for one call: those of a pool that is kept would be missing in a process that was forked. In each of
    them torch has one thread: its own would wait for each other at every operation.
    """
    todo = list(items)
    threads = min(torch.get_num_threads(), len(todo))
    if threads <= 1:
        return [run(item) for item in todo]
    every = torch.get_num_threads()
    try:
        with ThreadPoolExecutor(threads, "gradunc", _one_thread) as pool:
            return list(pool.map(run, todo))
    finally:
        torch.set_num_threads(every)  # what threads to come will use


def _one_thread() -> None:
    torch.set_num_threads(1)


def empty(shape: tuple[int, ...], dtype: torch.dtype) -> Tensor:
    """Memory from numpy, which asks the system for large pages: touching small ones can cost as much as all sums."""
    return torch.from_numpy(np.empty(shape, str(dtype).removeprefix("torch.")))
