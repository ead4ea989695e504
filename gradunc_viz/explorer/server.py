"""The dashboard as a page of its own, on this machine alone."""

from __future__ import annotations

import asyncio
import gc
import threading
import webbrowser
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any
from weakref import WeakKeyDictionary

import panel as pn
from bokeh.document import Document
from bokeh.settings import settings as bokeh_settings
from panel.io.state import set_curdoc
from tornado.websocket import WebSocketClosedError

from ..schema.errors import SettingsError
from ..store.cache import Cache
from .css import page_css
from .jobs import LOADING
from .origins import TEMPLATE, explained_refusals, origin_hosts, path_prefix, usable_port
from .page import CacheLike, Explorer, opened_caches
from .ready import Arguments, ReadyPage
from .state.tabs import tabs
from .tabs.parts import is_dark

__all__ = ["explore", "serve"]

_pages: WeakKeyDictionary[Document, Explorer] = WeakKeyDictionary()
"""The page in the document of each session."""


def serve(
    caches: CacheLike | Iterable[CacheLike] | Mapping[str, CacheLike],
    port: int = 0,
    open_browser: bool = True,
    *,
    title: str = "gradunc-viz",
    allow_origin: str | Iterable[str] = (),
    prefix: str = "",
) -> None:
    """Serve the dashboard on this machine alone until interrupted; print its address once it answers.

    Behind a tunnel or a proxy the browser shows it at another address, which has to be named.

    Parameters
    ----------
    caches : Cache, path, a sequence of these, or a mapping from names to these
    port : int
        0 takes any free one.
    open_browser : bool
    title : str
    allow_origin : str, or several
        Where else browsers may show it: ``"https://hub.example.org"``, ``"localhost:8888"``.
    prefix : str
        Path in front of all addresses, where a proxy passes it on: ``"/user/me/gradunc"``.

    Raises
    ------
    CacheError
        If a path is no cache.
    SettingsError
        If an origin or the prefix is none.
    GraduncError
        If the port is taken.
    """
    hosts, path = origin_hosts(allow_origin), path_prefix(prefix)
    port = usable_port(port)
    server, url = _server(opened_caches(caches), port, title, hosts, path)
    # each session is made by the same code, whose tests build it with all checks
    bokeh_settings.perform_document_validation = False
    server.io_loop.asyncio_loop.set_exception_handler(_on_lost)  # type: ignore[attr-defined]
    server.start()
    gc.freeze()  # libraries do not become garbage: without looking at them again each session opens a tenth faster
    print(f"{title}: {url} (Ctrl-C to stop)", flush=True)
    if open_browser:
        # in a thread: a browser in the terminal would wait for the loop that it keeps from serving it
        threading.Thread(target=webbrowser.open, args=(url,), daemon=True).start()
    try:
        with explained_refusals():
            server.io_loop.start()
    except KeyboardInterrupt:
        pass
    finally:
        server.stop()


def _on_lost(loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
    """Report what nobody caught, but not that a page was left while something was sent to it."""
    if not isinstance(context.get("exception"), WebSocketClosedError):
        loop.default_exception_handler(context)


def _server(
    caches: tuple[Cache, ...], port: int, title: str, hosts: Sequence[str] = (), prefix: str = ""
) -> tuple[pn.io.server.Server, str]:
    """Make a server that listens on the loopback address, not started, and its URL."""
    port = usable_port(port)
    pn.extension("tabulator")
    for tab in tabs().values():
        tab.load()  # before the first visitor would wait for it
    apps = pn.io.application.build_applications(lambda: _session(caches, title), title=title)
    for app in apps.values():
        app.add(ReadyPage(lambda: [cache.version for cache in caches], _fit, f"{prefix}/"))
    server = pn.io.server.get_server(
        apps,
        port=port,
        address="127.0.0.1",
        websocket_origin=[f"127.0.0.1:{port}", f"localhost:{port}", *hosts],
        prefix=prefix,
    )
    _close_components(server)
    return server, f"http://127.0.0.1:{port}{prefix}/"


def _close_components(server: pn.io.server.Server) -> None:
    """Serve no files beside Python modules: Panel's route to them imports whatever module a request names."""
    rules = server._tornado.wildcard_router.rules  # which the page needs none of
    rules[:] = [rule for rule in rules if rule.target is not pn.io.server.ComponentResourceHandler]


def _session(caches: tuple[Cache, ...], title: str) -> pn.viewable.Viewable:
    """Make the page of one session."""
    pn.config.raw_css.append(page_css(is_dark()))
    # opened anew for every session, so that a reload shows the frames that came meanwhile
    page = Explorer([cache.reopened() for cache in caches], title, _query(pn.state.session_args))
    _pages[pn.state.curdoc] = page
    pn.state.curdoc.template = TEMPLATE
    pn.state.on_session_destroyed(lambda _context: page.close())
    return page


def _query(arguments: Arguments) -> dict[str, str]:
    return {name: values[0].decode("utf-8", "replace") for name, values in arguments.items() if values}


def _fit(document: Document, arguments: Arguments) -> Callable[[], None] | None:
    """Return what makes a page that was made for nobody in particular show what a request asks for."""
    query, page = _query(arguments), _pages.get(document)
    if page is None or query.get("theme", "default") != "default" or not page.can_show(query):
        return None
    page.jobs.hear(LOADING)

    def change() -> None:
        with set_curdoc(document):
            page.restore(query)

    return change


def explore(
    caches: CacheLike | Iterable[CacheLike] | Mapping[str, CacheLike],
    *,
    port: int | None = None,
    open_browser: bool = True,
    title: str = "gradunc-viz",
    view: str = "",
    allow_origin: str | Iterable[str] = (),
    prefix: str = "",
) -> Explorer | None:
    """Look at one or more caches: frames, scores, curves, classes and failures, side by side.

    As the last line of a notebook cell it shows the page there; in a file for ``panel serve``, call ``.servable()`` on
    what it returns.

    Parameters
    ----------
    caches : Cache, path, a sequence of these, or a mapping from names to these
        Several are compared frame by frame, matched by id.
    port : int, optional
        Serve the page on this port instead, until interrupted, and return None.
    open_browser : bool
        With `port`: whether a browser is opened.
    title : str
    view : str
        What to look at first: `Explorer.link`, or the query string of a permanent link.
    allow_origin : str, or several
        With `port`: where else browsers may show the page, behind a tunnel or a proxy: ``"https://hub.example.org"``.
    prefix : str
        With `port`: path in front of all addresses, where a proxy passes it on: ``"/user/me/gradunc"``.

    Raises
    ------
    CacheError
        If a path is no cache.
    SettingsError
        If an origin or the prefix is none, or given without `port`.
    """
    if port is not None:
        serve(caches, port, open_browser, title=title, allow_origin=allow_origin, prefix=prefix)
        return None
    if allow_origin or prefix:
        raise SettingsError("allow_origin and prefix are for a page that is served; expected a port as well")
    found = opened_caches(caches)
    if "tabulator" not in pn.extension._loaded_extensions:  # loading twice would add 8 MB to the notebook again
        pn.extension("tabulator", inline=True)
    return Explorer(found, title, view)
