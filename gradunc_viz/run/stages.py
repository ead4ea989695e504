"""Where the time of a run goes: seconds per stage, added up over threads."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

__all__ = ["STAGES", "Stage", "Stages"]

STAGES = {
    "decode": "read and decode images and labels",
    "prepare": "resize and normalise the network's input",
    "wait for frames": "the network has nothing to do",
    "forward": "the network",
    "score": "norms and pixel scores",
    "wait for writing": "the network is ahead of the disk",
    "count": "counts for evaluation, assembling the frame",
    "encode": "compress",
    "write": "the file, synced, and the link that commits it",
}
"""Stages of a run, in the order in which a frame goes through them, and what each does."""


@dataclass
class Stage:
    """Time that one stage took.

    Attributes
    ----------
    seconds : float
        On the clock, of all its calls; calls in several threads at once count each.
    cpu_seconds : float
        What the calling threads computed meanwhile; not the threads that torch starts.
    calls : int
    """

    seconds: float = 0.0
    cpu_seconds: float = 0.0
    calls: int = 0


class Stages(dict[str, Stage]):
    """Seconds per stage of a run; ``with stages("decode"):`` adds to one, from any thread.

    Parameters
    ----------
    settle : callable, optional
        Called before a clock is stopped: waits for a device that computes on its own.
    """

    def __init__(self, settle: Callable[[], None] | None = None) -> None:
        super().__init__({name: Stage() for name in STAGES})
        self._settle = settle
        self._lock = threading.Lock()

    @contextmanager
    def __call__(self, name: str) -> Iterator[None]:
        """Add the time until the block's end to the stage `name`."""
        started, computed = time.perf_counter(), time.thread_time()
        try:
            yield
            if self._settle is not None:
                self._settle()
        finally:
            stage = self[name]
            with self._lock:
                stage.seconds += time.perf_counter() - started
                stage.cpu_seconds += time.thread_time() - computed
                stage.calls += 1
