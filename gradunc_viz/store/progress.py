"""How far a long pass is, for whoever wants to know: a bar in the terminal, or a page that asked.

A pass over frames says where it is by `followed`. Whoever wants to know wraps it in `reported`, or in `progress_bar` to
see a bar. Work that is no pass over frames draws its own bar by `counted` or `tracked`. No other module shows one.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from typing import TypeVar

from tqdm import tqdm

__all__ = ["Report", "counted", "downloading", "followed", "progress_bar", "reported", "tracked"]

T = TypeVar("T")

Report = Callable[[int, int], None]
"""Called with the number of things done, and of all."""

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
def progress_bar(shown: bool = True, *, what: str | None = None, unit: str = "frame") -> Iterator[None]:
    """Draw a bar in the terminal for each pass made inside; none where there is no terminal.

    Parameters
    ----------
    shown : bool
        If not, whoever has asked within `reported` is told as before.
    what : str, optional
        What is done, in front of the bar.
    unit : str
        Of what is gone through.
    """
    if not shown:
        yield
        return
    bars: list[tqdm[None]] = []

    def report(done: int, total: int) -> None:
        if done == 0:
            close()
            # None: no bar where stderr is no terminal
            bars.append(tqdm(total=total, desc=what, unit=unit, leave=False, disable=None))
        bars[-1].update(done - bars[-1].n)

    def close() -> None:
        while bars:
            bars.pop().close()

    try:
        with reported(report):
            yield
    finally:
        close()


@contextmanager
def counted(total: int, what: str, *, unit: str = "frame", shown: bool = True) -> Iterator[Callable[..., None]]:
    """Draw a bar, also where stderr is no terminal, for work that counts by itself.

    Parameters
    ----------
    total : int
        No bar is drawn for nothing.
    what : str
        What is done, in front of the bar.
    unit : str
        Of what is counted.
    shown : bool

    Yields
    ------
    callable
        To be called with how many more are done, 1 by default.
    """
    with tqdm(total=total, desc=what, unit=unit, disable=not shown or not total) as bar:

        def more(count: int = 1) -> None:
            bar.update(count)

        yield more


@contextmanager
def downloading(shown: bool = True) -> Iterator[Callable[[str, int, int | None], None]]:
    """Draw a bar for one file after the other.

    Yields
    ------
    callable
        To be called with the name of a file, how many bytes of it are there, and of how many if that is known.
    """
    bars: dict[str, tqdm[None]] = {}

    def more(name: str, have: int, whole: int | None) -> None:
        if name not in bars:
            bars[name] = tqdm(desc=name, total=whole, unit="B", unit_scale=True, disable=not shown, initial=have)
        bars[name].update(have - bars[name].n)

    try:
        yield more
    finally:
        for bar in bars.values():
            bar.close()


def tracked(
    items: Sequence[T], what: str | Callable[[T], str], *, unit: str = "frame", shown: bool = True
) -> Iterator[T]:
    """Go through items with a bar of their own.

    Parameters
    ----------
    items : sequence
    what : str or callable
        What is done, in front of the bar; or what is done with an item, which needs a terminal.
    unit : str
        Of the items.
    shown : bool
    """
    disable = None if shown and callable(what) else not shown  # None: no bar where stderr is no terminal
    with tqdm(items, desc=None if callable(what) else what, unit=unit, disable=disable) as bar:
        for item in bar:
            if callable(what):
                bar.set_description(what(item))
            yield item
