"""How far a pass over the frames of a cache is, for whoever wants to know."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from typing import TypeVar

from tqdm import tqdm

__all__ = ["followed", "progress_bar", "reported"]

T = TypeVar("T")
Report = Callable[[int, int], None]

_report: ContextVar[Report | None] = ContextVar("report", default=None)


@contextmanager
def reported(report: Report) -> Iterator[None]:
    """Call `report` with the number of frames done and of all frames, at each frame of the passes made inside."""
    token = _report.set(report)
    try:
        yield
    finally:
        _report.reset(token)


def followed(frames: Sequence[T]) -> Iterator[T]:
    """Go through frames, telling whoever has asked within `reported`."""
    report = _report.get()
    for done, frame in enumerate(frames):
        if report is not None:
            report(done, len(frames))
        yield frame
    if report is not None and len(frames):
        report(len(frames), len(frames))


@contextmanager
def progress_bar(shown: bool = True) -> Iterator[None]:
    """Draw a bar in the terminal for each pass made inside; none where there is no terminal."""
    bars: list[tqdm[None]] = []

    def report(done: int, total: int) -> None:
        if done == 0:
            close()
            bars.append(tqdm(total=total, unit="frame", leave=False, disable=None if shown else True))
        bars[-1].update(done - bars[-1].n)

    def close() -> None:
        while bars:
            bars.pop().close()

    try:
        with reported(report):
            yield
    finally:
        close()
