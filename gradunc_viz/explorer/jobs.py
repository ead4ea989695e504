"""Work that may take longer than a moment: off the thread that talks to the browser, its outcome brought back to it."""

from __future__ import annotations

import functools
import logging
import queue
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache
from typing import Any, ClassVar

import panel as pn

from ..schema.errors import GraduncError

__all__ = ["LOADING", "Jobs"]

_log = logging.getLogger(__name__)

_WORKERS = 2

_counting = threading.Lock()

_QUIET = 1.0
"""Seconds after which work that is not urgent goes on."""

LOADING = 3.0
"""Seconds in which a browser draws a page that it was given."""


# Not asyncio: what was asked for last comes first here, a thread at work does not keep the server from ending, and what
# brings an outcome back is Bokeh's callback either way, as it alone holds the lock of the document.


@cache
def _queue() -> queue.LifoQueue[Callable[[], None]]:
    """What waits for a worker: what was asked for last comes first, as it is what somebody looks at now."""
    waiting: queue.LifoQueue[Callable[[], None]] = queue.LifoQueue()

    def serve() -> None:
        while True:
            waiting.get()()

    for number in range(_WORKERS):
        threading.Thread(target=serve, name=f"gradunc-viz-{number}", daemon=True).start()
    return waiting


class Jobs:
    """Background work of one session; what is started under a name replaces what is still waiting under it.

    `on_busy` is called with whether anything is under way.
    """

    _heard: ClassVar[float] = 0.0
    _urgent: ClassVar[int] = 0

    def __init__(self) -> None:
        self._document = pn.state.curdoc
        self._latest: dict[str, int] = {}
        self._lock = threading.Lock()
        self._under_way = 0
        self.hear(LOADING)
        self.on_busy: Callable[[bool], None] = lambda _busy: None
        self.closed = False

    @property
    def served(self) -> bool:
        """Whether a server's session waits for the outcome, rather than a notebook or a test."""
        return self._document is not None and self._document.session_context is not None

    def soon(self, action: Callable[[], None], milliseconds: int = 0) -> None:
        """Do something a little later, with the document's lock held, which not every callback has.

        What was changed before reaches the browser first, above all the page: nothing is changed between its making and
        its arrival, where a message would name what the browser has not got. In a notebook it is done at once.
        """

        def act() -> None:
            if not self.closed:
                action()

        def schedule() -> None:
            if milliseconds:
                self._document.add_timeout_callback(act, milliseconds)
            else:
                self._document.add_next_tick_callback(act)

        if not self.served:
            action()
        elif pn.state.loaded:
            schedule()
        else:
            pn.state.onload(schedule)

    def tell(self, action: Callable[[], None]) -> None:
        """Do something here that was called for elsewhere, where the document's lock is not held."""
        document = self._document
        if document is not None:
            document.add_next_tick_callback(functools.partial(self.soon, action))

    def run(
        self,
        name: str,
        work: Callable[[], Any],
        then: Callable[[Any], None],
        failed: Callable[[str], None],
        urgent: bool = True,
    ) -> None:
        """Call `work` elsewhere and then, here, `then` with what it returned or `failed` with what went wrong.

        Work that is not urgent calls `give_way` now and then. In a notebook, where nobody else could bring the outcome
        back, all of it happens at once.
        """
        with self._lock:
            ticket = self._latest[name] = self._latest.get(name, 0) + 1

        def current() -> bool:
            return not self.closed and self._latest.get(name) == ticket

        def outcome() -> tuple[bool, Any]:
            try:
                return True, work()
            except GraduncError as error:
                return False, str(error)
            except Exception as error:
                _log.warning("%s failed", name, exc_info=error)
                return False, f"{type(error).__name__}: {error}"

        def deliver(good: bool, value: Any) -> None:
            if current():
                (then if good else failed)(value)

        if not self.served:
            deliver(*outcome())
            return

        def arrive(good: bool, value: Any) -> None:
            self._count(-1)
            deliver(good, value)

        def away() -> None:
            with Jobs._working(urgent):
                good, value = outcome() if current() else (False, "")
            self.tell(lambda: arrive(good, value))

        self._count(+1)
        _queue().put(away)

    @classmethod
    def give_way(cls) -> None:
        """Wait, within work that is not urgent, for urgent work and browsers: they share one interpreter."""
        while cls.quiet() < _QUIET or cls._urgent > 0:
            time.sleep(_QUIET / 4)

    @classmethod
    @contextmanager
    def _working(cls, urgent: bool) -> Iterator[None]:
        with _counting:
            cls._urgent += urgent
        try:
            yield
        finally:
            with _counting:
                cls._urgent -= urgent

    @staticmethod
    def hear(ahead: float = 0.0) -> None:
        """Note that a browser was heard of, or will be within so many seconds."""
        Jobs._heard = max(Jobs._heard, time.monotonic() + ahead)

    @classmethod
    def quiet(cls) -> float:
        """Seconds since a browser was heard of, negative while one is expected."""
        return time.monotonic() - cls._heard

    @property
    def busy(self) -> bool:
        """Whether anything is under way."""
        return self._under_way > 0

    def _count(self, by: int) -> None:
        was, self._under_way = self.busy, self._under_way + by
        if was != self.busy and not self.closed:
            self.on_busy(self.busy)

    def stream(
        self,
        name: str,
        steps: Callable[[], Iterator[Any]],
        each: Callable[[Any], None],
        failed: Callable[[str], None],
        urgent: bool = True,
    ) -> None:
        """Go through `steps` elsewhere and show what they yield here, twice a second and at the end."""

        def work() -> Any:
            last, shown = None, time.monotonic()
            ticket = self._latest[name]
            for last in steps():
                if self.closed or self._latest.get(name) != ticket:
                    break
                if self.served and time.monotonic() - shown > 0.5:
                    shown = time.monotonic()
                    self.tell(functools.partial(self._still, name, ticket, each, last))
            return last

        self.run(name, work, each, failed, urgent)

    def _still(self, name: str, ticket: int, each: Callable[[Any], None], value: Any) -> None:
        if not self.closed and self._latest.get(name) == ticket:
            each(value)

    def close(self) -> None:
        """Forget what is still under way."""
        self.closed = True
        self._document = None
