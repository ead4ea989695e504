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

    Threads last for one call: those of a pool that is kept would be missing in a process that was forked.
    """
    todo = list(items)
    threads = min(torch.get_num_threads(), len(todo))
    if threads <= 1:
        return [run(item) for item in todo]
    with ThreadPoolExecutor(threads, "gradunc") as pool:
        return list(pool.map(run, todo))


def empty(shape: tuple[int, ...], dtype: torch.dtype) -> Tensor:
    """Memory from numpy, which asks the system for large pages: touching small ones can cost as much as all sums."""
    return torch.from_numpy(np.empty(shape, str(dtype).removeprefix("torch.")))
