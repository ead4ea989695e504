"""The page: header, tabs and what can be taken away, for one or more caches."""

from __future__ import annotations

import os
import time
from collections.abc import Iterable, Mapping
from typing import Any
from urllib.parse import parse_qsl

import panel as pn
from bokeh.models import ColumnDataSource
from bokeh.models.callbacks import CustomJS

from ..schema.errors import GraduncError
from ..store.cache import Cache
from ..store.choice import listed_caches, opened
from . import text
from .css import tabs_css
from .jobs import Jobs
from .state.pane import letter_of
from .state.permalink import read_query, to_query
from .state.reproduce import python_code, selection_code
from .state.state import ExplorerState
from .state.tabs import tabs
from .tabs.parts import alert, html, is_dark

__all__ = ["CacheLike", "Desk", "Explorer", "opened_caches"]

CacheLike = Cache | str | os.PathLike[str]

# the address is kept in step with the state, so that it can be copied, kept as a bookmark and loaded again
_ADDRESS_JS = """
const theme = new URL(window.location).searchParams.get('theme')
const query = link.data.query[0] + (theme ? `&theme=${theme}` : '')
history.replaceState(null, '', `${window.location.pathname}?${query}`)
"""

_THEME_JS = """
const address = new URL(window.location)
address.searchParams.set('theme', theme)
window.location = address
"""

_COPY_JS = """
const text = what == 'link' ? window.location.href : texts.data[what][0]
const old = cb_obj.label
const copied = () => {
  cb_obj.label = 'Copied'
  setTimeout(() => { cb_obj.label = old }, 1200)
}
const fallback = () => {
  const area = document.createElement('textarea')
  area.value = text
  document.body.appendChild(area)
  area.select()
  document.execCommand('copy')
  area.remove()
  copied()
}
if (navigator.clipboard) navigator.clipboard.writeText(text).then(copied, fallback)
else fallback()
"""


_IDLE = 700
"""Milliseconds without a change after which a tab is built ahead."""


class Desk:
    """Everything about one main cache: its state, and tabs that are built when first looked at.

    On a served page the others are built, empty, while nobody does anything, so that they are there at once.
    """

    def __init__(self, state: ExplorerState, jobs: Jobs) -> None:
        self.state, self.jobs = state, jobs
        self.changed = time.monotonic()
        self.built: dict[str, Any] = {}
        self.entries = tabs()
        self._names = list(self.entries)
        self._columns = {name: pn.Column(sizing_mode="stretch_width", margin=(4, 0)) for name in self.entries}
        self.tabs = pn.Tabs(
            *((tab.title, self._columns[name]) for name, tab in self.entries.items()),
            active=self._names.index(state.tab),
            sizing_mode="stretch_width",
            margin=0,
            stylesheets=[tabs_css(is_dark())],
        )
        self.tabs.param.watch(lambda event: setattr(state, "tab", self._names[event.new]), "active")
        self._watcher = state.param.watch(lambda _: self._visit(), "tab")
        self._visit()
        if jobs.served:
            jobs.soon(self._build_ahead, _IDLE)

    def _visit(self) -> None:
        self._build(self.state.tab)
        self.tabs.active = self._names.index(self.state.tab)

    def _build(self, name: str) -> None:
        if name in self.built:
            return
        column, tab = self._columns[name], self.entries[name]
        try:
            self.built[name] = tab.build(self.state, self.jobs)
            column[:] = [html(text.help_text(tab.help), margin=(0, 2)), self.built[name].view()]
        except GraduncError as error:
            column[:] = [alert(text.message(str(error)))]

    def _build_ahead(self) -> None:
        """Build one more tab, unless a message came a moment ago."""
        missing = [name for name in self._names if name not in self.built and name != "frames"]
        if not missing:
            return
        if time.monotonic() - self.changed > _IDLE / 1000:
            self._build(missing[0])
        self.jobs.soon(self._build_ahead, _IDLE)

    @property
    def frames(self) -> Any:
        """The tab of frames, built if it was not."""
        if "frames" not in self.built:
            self.state.tab = "frames"
        return self.built["frames"]

    def close(self) -> None:
        """Let go of everything."""
        self.state.param.unwatch(self._watcher)
        for tab in self.built.values():
            tab.close()
        self.built.clear()


class Explorer(pn.viewable.Viewer):
    """The page.

    Parameters
    ----------
    caches : sequence of Cache
        Named A, B, ...; frames are matched by id.
    title : str
    view : str or mapping
        What is looked at first, as the query string of a permanent link or its decoded pairs.
    """

    def __init__(self, caches: Iterable[Cache], title: str = "gradunc-viz", view: str | Mapping[str, str] = "") -> None:
        super().__init__()
        self.caches = tuple(caches)
        if not self.caches:
            raise GraduncError("no cache to explore: expected at least one")
        self.title = title
        self.jobs = Jobs()
        self._desks: dict[int, Desk] = {}
        self._watchers: dict[int, Any] = {}
        query = _decoded(view)
        main, self._first, problems = read_query(query, self.caches) if query else (0, {}, [])
        names = {
            f"{letter_of(number)}: {cache.name}" if len(self.caches) > 1 else cache.name: number
            for number, cache in enumerate(self.caches)
        }
        self.select = pn.widgets.Select(
            options=names, value=main, width=220, visible=len(self.caches) > 1, margin=(4, 6),
            description="Whose frames are listed and whose curves are drawn",
        )  # fmt: skip
        self._make_tools()
        self._problems = alert()
        self._tell(problems)
        self._header = html("", margin=(6, 0))
        self._body = pn.Column(sizing_mode="stretch_width")
        self.select.param.watch(lambda _: self._show(), "value")
        self._show()

    def _make_tools(self) -> None:
        self._link = ColumnDataSource({"query": [""]})
        self._texts = ColumnDataSource({"code": [""], "frames": [""]})
        if self.jobs.served:
            self._link.js_on_change("data", CustomJS(args={"link": self._link}, code=_ADDRESS_JS))
        self.take = pn.widgets.Toggle(label="Take away", width=100, margin=(4, 4))
        self.take.param.watch(lambda _: self._show_texts(), "value")
        dark = is_dark()
        self.theme = pn.widgets.Button(
            label="☀ Light" if dark else "☾ Dark", width=80, margin=(4, 4), visible=self.jobs.served
        )
        self.theme.jscallback(clicks=_THEME_JS, args={"theme": "default" if dark else "dark", "link": self._link})
        # text alone: any other change, as in the spinner of Panel, makes the browser lay out the whole page
        self.busy = html(text.spinner(False), width=24, height=20, sizing_mode="fixed", margin=(12, 4, 0, 4))
        self.jobs.on_busy = lambda _busy: self._show_busy()
        self._busy_watcher = pn.state.param.watch(lambda _: self._show_busy(), "busy")
        self._code, self._frames = html(""), html("")
        self._away = pn.Column(visible=False, sizing_mode="stretch_width", margin=(0, 0, 8, 0))

    def _show_busy(self) -> None:
        if self.jobs.closed:
            return
        self.jobs.hear()
        self.busy.object = text.spinner(pn.state.busy or self.jobs.busy)
        for desk in self._desks.values():
            desk.changed = time.monotonic()

    # ---- what is shown

    @property
    def desk(self) -> Desk:
        """Everything about the main cache."""
        number = self.select.value
        if number not in self._desks:
            first, self._first = self._first, {}
            state = ExplorerState(self.caches, number, **first)
            self._desks[number] = Desk(state, self.jobs)
            watched = [name for name in state.param if name not in ("name", "frame", "values", "message")]
            self._watchers[number] = state.param.watch(lambda *_: self._on_state(), watched)
        return self._desks[number]

    @property
    def state(self) -> ExplorerState:
        """State of the main cache."""
        return self.desk.state

    @property
    def selection(self) -> list[str]:
        """Ids of the frames selected in the table."""
        return list(self.state.selection)

    @property
    def link(self) -> str:
        """The state as a query string, for `view`."""
        return to_query(self.state)

    @property
    def code(self) -> str:
        """Python that reproduces the view."""
        return python_code(self.state)

    def can_show(self, view: str | Mapping[str, str]) -> bool:
        """Whether `restore` leads to what a new page with this `view` would show: it stays with its main cache."""
        main = self.select.value
        return read_query(_decoded(view), self.caches)[0] == main and len(self.caches[main]) > 0

    def restore(self, view: str | Mapping[str, str]) -> None:
        """Look at what a new page with this `view` would show."""
        _, wanted, problems = read_query(_decoded(view), self.caches)
        self._tell(problems)
        self.state.restore(**wanted)

    def _tell(self, problems: list[str]) -> None:
        self._problems.param.update(object=text.problem_lines(problems), visible=bool(problems))

    def _show(self) -> None:
        cache = self.caches[self.select.value]
        network = str(cache.key["network"]["name"])
        with pn.io.hold():
            self._header.object = text.page_header(self.title, list(self.select.options), network, len(cache))
            if len(cache):
                self._body[:] = [self.desk.tabs]
                self._on_state()
            else:
                self._body[:] = [html(text.empty_cache(str(cache.path)))]

    def _on_state(self) -> None:
        self.desk.changed = time.monotonic()
        self._link.data = {"query": [self.link]}
        if self.take.value:
            self._show_texts()

    def _show_texts(self) -> None:
        self._away.visible = self.take.value and bool(len(self.caches[self.select.value]))
        if not self._away.visible:
            return
        code, frames = self.code, selection_code(self.state)
        self._texts.data = {"code": [code], "frames": [frames]}
        self._code.object = text.listing(code)
        self._frames.object = text.listing(frames)
        if not len(self._away):
            self._away[:] = self._take_away()

    def _take_away(self) -> list[Any]:
        def copy(what: str, words: str) -> pn.widgets.Button:
            button = pn.widgets.Button(label=words, width=150, margin=(4, 6))
            args = {"texts": self._texts, "link": self._link, "what": what}
            button.jscallback(clicks=_COPY_JS, args=args)
            return button

        buttons = [copy("code", "Copy Python"), copy("frames", "Copy frames")]
        words = "Python that reads what the panes show, selected frames as a list."
        if self.jobs.served:
            buttons.insert(0, copy("link", "Copy link"))
            words = f"The address of this page is a permanent link to what it shows. {words}"
        words += " A PNG of a pane: the disk in its toolbar. Tables: the CSV buttons."
        return [
            pn.Row(*buttons, html(text.note(words), margin=(8, 4)), sizing_mode="stretch_width"),
            pn.Row(self._code, self._frames, sizing_mode="stretch_width"),
        ]

    def close(self) -> None:
        """Let go of everything that a session holds."""
        self.jobs.close()
        pn.state.param.unwatch(self._busy_watcher)
        for number, desk in self._desks.items():
            desk.state.param.unwatch(self._watchers[number])
            desk.close()
        self._desks.clear()

    def __panel__(self) -> pn.viewable.Viewable:
        tools = pn.Row(self.busy, self.select, self.take, self.theme, margin=0)
        return pn.Column(
            pn.Row(self._header, tools, sizing_mode="stretch_width"),
            self._problems,
            self._away,
            self._body,
            sizing_mode="stretch_width",
            margin=(2, 12),
        )


def _decoded(view: str | Mapping[str, str]) -> dict[str, str]:
    return dict(parse_qsl(view.lstrip("?"))) if isinstance(view, str) else dict(view)


def opened_caches(caches: CacheLike | Iterable[CacheLike] | Mapping[str, CacheLike]) -> tuple[Cache, ...]:
    """Open one or more caches, called as a mapping says."""
    if isinstance(caches, Mapping) and not isinstance(caches, Cache):
        return tuple(opened(cache).reopened(str(name)) for name, cache in caches.items())
    return tuple(listed_caches(caches))  # type: ignore[arg-type]
