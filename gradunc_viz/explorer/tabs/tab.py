"""What the tabs of analysis have in common: they are filled when first looked at, and again when something changed."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any, ClassVar

import panel as pn

from ...schema.errors import GraduncError
from ...store.progress import reported
from .. import text
from ..jobs import Jobs
from ..state.shared_counts import unreadable
from ..state.state import ExplorerState
from .parts import Html, alert, html

__all__ = ["AnalysisTab", "heading"]

_REPORTED = 0.5
"""Seconds between two reports of how far a computation is."""


class AnalysisTab:
    """The view of one tab; its parts are computed in the background, and only while it is in front.

    Subclasses name in `parts` which parameters of the state each part follows; a part is filled by the method
    ``_fill_PART``.

    Parameters
    ----------
    name : str
        Of the tab, see `gradunc_viz.explorer.state.tabs`.
    state : ExplorerState
    jobs : Jobs
    """

    parts: ClassVar[dict[str, tuple[str, ...]]] = {}

    def __init__(self, name: str, state: ExplorerState, jobs: Jobs) -> None:
        self.name, self.state, self.jobs = name, state, jobs
        self.alert = alert()
        self.working = html(text.working(busy=False))
        self._awaited: set[str] = set()
        self._stale = set(self.parts)
        self._make()
        watched = sorted({name for names in self.parts.values() for name in names} | {"tab"})
        self._watcher = state.param.watch(self._on_state, watched)
        # first an empty tab, drawn: what is computed would keep the processor from drawing it
        self._filled = False
        jobs.soon(self._first, 250)

    def _make(self) -> None:
        """Make widgets and panes."""

    def view(self) -> pn.viewable.Viewable:
        """Arrange everything."""
        raise NotImplementedError

    def close(self) -> None:
        """Let go of the state."""
        self.state.param.unwatch(self._watcher)

    def _on_state(self, *events: Any) -> None:
        changed = {event.name for event in events}
        self._stale |= {part for part, names in self.parts.items() if changed & set(names)}
        self.refresh()

    def _first(self) -> None:
        self._filled = True
        self.refresh()

    def refresh(self) -> None:
        """Fill what is out of date, if the tab is in front and was drawn."""
        if self.state.tab != self.name or not self._filled:
            return
        with pn.io.hold():
            for part in list(self.parts):
                if part in self._stale:
                    self._stale.discard(part)
                    self._guard(getattr(self, f"_fill_{part}"))

    def _guard(self, action: Callable[..., None], *args: Any) -> None:
        """Do something, or tell the reader of the page why not."""
        try:
            self._tell("")
            action(*args)
        except GraduncError as error:
            self._tell(str(error))

    def _tell(self, problem: str) -> None:
        words = text.message(problem) if problem else text.left_out(unreadable(self.state.cache))
        self.alert.param.update(object=words, visible=bool(words))

    def _later(self, part: str, work: Callable[[], Any], then: Callable[[Any], None]) -> None:
        """Compute a part in the background; a line on the page tells meanwhile that it is under way, and how far."""
        shown = time.monotonic()

        def report(done: int, total: int) -> None:
            nonlocal shown
            if self.jobs.served and time.monotonic() - shown > _REPORTED:
                shown = time.monotonic()
                self.jobs.tell(lambda: self._tell_progress(done, total))

        def counted() -> Any:
            with reported(report):
                return work()

        def settle() -> None:
            self._awaited.discard(part)
            self.working.object = text.working(busy=bool(self._awaited))

        def done(value: Any) -> None:
            settle()
            self._guard(then, value)  # which tells of frames that were left out

        def failed(problem: str) -> None:
            settle()
            self._tell(problem)

        self._awaited.add(part)
        self.working.object = text.working()
        self.jobs.run(f"{self.name}.{part}", counted, done, failed)

    def _tell_progress(self, done: int, total: int) -> None:
        if self._awaited:
            self.working.object = text.working(done, total)


def heading(words: str) -> Html:
    """A heading within a tab."""
    return html(text.title(words))
