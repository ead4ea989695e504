"""A page made before it is asked for, as making it takes as long as a browser takes to draw it."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from bokeh.application.handlers import Handler
from bokeh.document import Document
from bokeh.server.session import ServerSession
from bokeh.util.token import generate_session_id
from tornado.httputil import HTTPHeaders, HTTPServerRequest, RequestStartLine

from .jobs import Jobs

__all__ = ["Arguments", "ReadyPage"]

_log = logging.getLogger(__name__)

Arguments = Mapping[str, Sequence[bytes]]
Fit = Callable[[Document, Arguments], Callable[[], None] | None]

_SESSION = "Bokeh-Session-Id"
"""The header in which a request may name its session."""

_QUIET = 5.0
"""Seconds after which nobody is taken to wait for the server."""

_GRACE = 30.0
"""Seconds that a browser has to connect to the page it was given."""


# Not `reuse_sessions` of Panel: that shows whoever comes the page of the first visitor, whatever the link asks for and
# whatever the cache has gained since, and still makes a session for each.


class ReadyPage(Handler):
    """Keeps one session ready, and gives it to whoever asks for the page next.

    Parameters
    ----------
    stamp : callable
        Tells the state of what the page shows: if it has changed since a page was made, that page is not given away.
    fit : callable
        Returns what makes a document show what the arguments of a request ask for; None where nothing can.
    path : str
        Where the page is asked for.
    """

    def __init__(self, stamp: Callable[[], object], fit: Fit, path: str = "/") -> None:
        super().__init__()
        self._stamp, self._fit, self._path = stamp, fit, path
        self._made: tuple[ServerSession | None, object] | None = None

    def modify_document(self, doc: Document) -> None:
        """Leave every page as the application makes it."""

    def on_server_loaded(self, server_context: Any) -> None:
        """Begin to make pages."""
        self._context = server_context.application_context
        self._loop = self._context.io_loop
        self._loop.add_callback(self._watch)

    async def _watch(self) -> None:
        if self._made is None and Jobs.quiet() > _QUIET:
            self._made = await self._make()
        self._loop.call_later(_QUIET / 2, self._watch)

    async def _make(self) -> tuple[ServerSession | None, object]:
        stamp = self._stamp()
        line, headers = RequestStartLine("GET", self._path, "HTTP/1.1"), HTTPHeaders(Host="127.0.0.1")
        request = HTTPServerRequest(start_line=line, headers=headers)
        try:
            session = await self._context.create_session_if_needed(generate_session_id(), request)
        except Exception as error:  # the next request makes its own page, and tells what is wrong
            _log.warning("no page could be made ahead", exc_info=error)
            return None, stamp
        session.block_expiration()
        return session, stamp

    def process_request(self, request: HTTPServerRequest) -> dict[str, Any]:
        """Name the session that is ready in a request for the page, before its handler looks for one."""
        if self._made and request.path == self._path and _SESSION not in request.headers:
            (session, stamp), self._made = self._made, None
            if session is not None:
                self._loop.call_later(_GRACE, session.unblock_expiration)
                change = self._change(session, request) if stamp == self._stamp() else None
                if change is not None:
                    request.headers[_SESSION] = session.id
                    # done before the browser, which has yet to load scripts, asks for the document
                    self._loop.add_callback(session.with_document_locked, change)
        return {}

    def _change(self, session: ServerSession, request: HTTPServerRequest) -> Callable[[], None] | None:
        try:
            return self._fit(session.document, request.arguments)
        except Exception as error:  # a page made on request tells what is wrong
            _log.warning("the page made ahead cannot be used", exc_info=error)
            return None
