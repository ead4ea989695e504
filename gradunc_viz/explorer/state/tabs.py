"""The tabs of the page: each is one entry, and page, links, titles and help ask it here."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache
from typing import Any, Protocol

from ...schema.errors import GraduncError
from ...schema.registry import loaded_entry_points, said_again

__all__ = ["Tab", "TabView", "find_tab", "register_tab", "tabs"]

ENTRY_POINTS = "gradunc_viz.tabs"
"""Group of the entry points of packages that bring tabs: each names a `Tab`."""


class TabView(Protocol):
    """What a tab builds for one page."""

    def view(self) -> Any:
        """What is shown, anything that Panel shows."""

    def close(self) -> None:
        """Let go of the state."""


Builder = Callable[[str, Any, Any], TabView]
"""Called with the tab's name, the `ExplorerState` and the `Jobs` of a page."""


@dataclass(frozen=True)
class Tab:
    """A tab of the page.

    Attributes
    ----------
    name : str
        In links.
    title : str
        On the page.
    help : str
        What the tab is for; the first sentence is always shown, the rest on demand.
    builder : callable or str
        Makes its view when it is first looked at, see `Builder`; ``module:name`` is imported only then.
    order : int
        Its place: those with smaller numbers come before.
    """

    name: str
    title: str
    help: str
    builder: Builder | str
    order: int = 100

    def load(self) -> Builder:
        """Return what makes its view, imported if it was not."""
        if not isinstance(self.builder, str):
            return self.builder
        module, _, name = self.builder.partition(":")
        builder: Builder = getattr(importlib.import_module(module), name)
        return builder

    def build(self, state: Any, jobs: Any) -> TabView:
        """Make the view of the tab for a page."""
        return self.load()(self.name, state, jobs)


_OURS = "gradunc_viz.explorer.tabs"

_TABS: dict[str, Tab] = {
    tab.name: tab
    for tab in (
        Tab(
            "overview",
            "Overview",
            "The whole set at a glance: what it holds, how well each score finds the pixels in question, and the "
            "frames that fare worst. A click on a thumbnail opens the frame.",
            f"{_OURS}.overview:OverviewTab",
            10,
        ),
        Tab(
            "frames",
            "Frames",
            "Choose a frame in the table or with the arrow keys and look at it side by side. Every score gives one "
            "number per pixel and is oriented: larger means more uncertain; gradient norms are log2, one unit more is "
            "a norm twice as large. Scroll to zoom, drag to pan: all panes move together. Move the mouse over a pane "
            "to read every score of a pixel, click to pin it. Hatched pixels are ignored.",
            f"{_OURS}.frames:FramesTab",
            20,
        ),
        Tab(
            "curves",
            "Curves",
            "How well scores separate the pixels to find from the rest, over all thresholds. Click on a curve to set "
            "the threshold there: masks, counts and the marks on all curves follow.",
            f"{_OURS}.curves:CurvesTab",
            30,
        ),
        Tab(
            "classes",
            "Classes",
            "The same questions class by class. Choose classes to restrict the curves, and the frames in the table, "
            "to them.",
            f"{_OURS}.classes:ClassesTab",
            40,
        ),
        Tab(
            "failures",
            "Failures",
            "Regions where score and truth disagree at the current threshold. A click on a crop opens its frame and "
            "zooms onto it.",
            f"{_OURS}.failures:FailuresTab",
            50,
        ),
    )
}


def register_tab(tab: Tab) -> Tab:
    """Add a tab to every page made from now on.

    Raises
    ------
    GraduncError
        If its name is taken, or cannot stand in a link.
    """
    if not tab.name.isidentifier():
        raise GraduncError(f"tab {tab.name!r}: expected a name of letters, digits and '_'")
    if tab.name in _TABS and not said_again(tab, _TABS[tab.name]):
        raise GraduncError(f"tab {tab.name!r} is registered already")
    _TABS[tab.name] = tab
    return tab


@cache
def _load_entry_points() -> None:
    for found in loaded_entry_points(ENTRY_POINTS):
        if isinstance(found, Tab) and found.name not in _TABS:
            register_tab(found)


def tabs() -> Mapping[str, Tab]:
    """Tabs by name, from left to right."""
    _load_entry_points()
    return {tab.name: tab for tab in sorted(_TABS.values(), key=lambda tab: tab.order)}


def find_tab(name: str) -> Tab:
    """Look up a tab by name.

    Raises
    ------
    GraduncError
        If there is no such tab.
    """
    known = tabs()
    if name not in known:
        raise GraduncError(f"unknown tab {name!r}; expected one of {', '.join(known)}")
    return known[name]
