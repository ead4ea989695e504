"""Driving the dashboard in the system's Chromium: a server, a page that may not fail, and what its panes hold."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")

FLAGS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]

marks = [
    pytest.mark.browser,
    pytest.mark.skipif(CHROMIUM is None, reason="no chromium is installed"),
]

# what the panes hold, found by walking the documents of the page
PANES = """
() => {
  const all = Bokeh.documents.flatMap(d => [...d._all_models.values()])
  const shown = all.filter(m => m.type == "Figure" && /^pane[0-9]$/.test(m.name))
  shown.sort((a, b) => a.name < b.name ? -1 : 1)
  return shown.map(f => {
    const layers = f.renderers.filter(r => r.name != null && r.visible).map(r => r.name)
    const data = f.renderers[0].data_source.data
    const bar = f.center.find(m => m.type == "ColorBar")
    const score = data.score[0]
    const mask = f.renderers.find(r => r.name == "found").glyph.color_mapper
    const pin = f.renderers.find(r => r.data_source.data.w == null).data_source.data
    return {
      layers, url: data.url[0], place: [data.x[0], data.y[0], data.dw[0], data.dh[0]],
      width: score.shape ? score.shape[1] : 0,
      limits: bar.visible ? [bar.color_mapper.low, bar.color_mapper.high] : null,
      palette: bar.color_mapper.palette.length, bar: bar.title,
      threshold: mask.low, missed: mask.low_color,
      x: [f.x_range.start, f.x_range.end], y: [f.y_range.start, f.y_range.end],
      clip: f.styles["clip-path"] ?? "", pin: [...pin.x].length, sum: [...score].reduce((s, v) => s + (v || 0), 0),
    }
  })
}
"""


@contextmanager
def served(*caches: Path) -> Iterator[str]:
    """Serve caches in a process of their own; yields the address."""
    paths = [str(path) for path in caches]
    code = f"from gradunc_viz.explorer import serve; serve({paths!r}, open_browser=False)"
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True) as server:
        try:
            assert server.stdout is not None
            found = re.search(r"http://127\.0\.0\.1:\d+/", server.stdout.readline())
            assert found, "the server printed no address"
            yield found[0]
        finally:
            server.terminate()


@contextmanager
def chromium() -> Iterator[Any]:
    with playwright.sync_playwright() as p:
        browser = p.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
        yield browser
        browser.close()


@contextmanager
def opened(browser: Any, address: str, size: tuple[int, int] = (1366, 768)) -> Iterator[Any]:
    """A page, drawn; it is an error if the console reports one or a dialog opens."""
    context = browser.new_context(viewport={"width": size[0], "height": size[1]}, accept_downloads=True)
    context.grant_permissions(["clipboard-read", "clipboard-write"])
    page = context.new_page()
    errors: list[str] = []
    page.on("console", lambda m: errors.append(m.text) if m.type == "error" else None)
    # Tabulator draws a table once more after it was taken off the page, and finds nothing there
    page.on("pageerror", lambda e: None if "tabulator" in (e.stack or "") else errors.append(f"{e}\n{e.stack}"))
    page.on("dialog", lambda d: (errors.append(f"dialog: {d.message}"), d.dismiss()))
    load(page, address)
    yield page
    context.close()
    assert not errors, "\n".join(errors)


def load(page: Any, address: str) -> None:
    """Open an address and wait until it is drawn."""
    page.goto(address, timeout=60_000)
    page.wait_for_selector(".bk-tab.bk-active", timeout=60_000)
    if "tab=" not in address or "tab=frames" in address:
        page.wait_for_selector(".tabulator-row", timeout=60_000)
        until(page, lambda: len(panes(page)) >= 2 and any(pane["url"] for pane in panes(page)))
        page.wait_for_timeout(400)


def panes(page: Any) -> list[dict[str, Any]]:
    """What each pane holds."""
    return page.evaluate(PANES)


def until(page: Any, condition: Any, seconds: float = 30) -> None:
    """Wait for a condition on this side."""
    for _ in range(int(seconds * 20)):
        if condition():
            return
        page.wait_for_timeout(50)
    raise AssertionError(f"not within {seconds} s")


def go_to(page: Any, tab: str, words: str) -> None:
    """Open a tab and wait for something that it shows."""
    page.locator(".bk-tab").get_by_text(tab, exact=True).click()
    page.get_by_text(words).first.wait_for(timeout=30_000)


def row(page: Any, frame_id: str, field: str = "frame") -> Any:
    """Cell of a frame's row."""
    # Tabulator's first cell is hidden: find the one of the field
    rows = page.locator(".tabulator-row").filter(
        has=page.locator(".tabulator-cell[tabulator-field=frame]").get_by_text(frame_id, exact=True)
    )
    return rows.locator(f".tabulator-cell[tabulator-field={field}]").first


def ids_on_screen(page: Any) -> list[str]:
    return page.locator(".tabulator-row .tabulator-cell[tabulator-field=frame]:visible").all_inner_texts()


def show(page: Any, frame_id: str) -> None:
    """Click a frame's row and wait until it is shown."""
    row(page, frame_id).click()
    shown(page, frame_id)


def shown(page: Any, frame_id: str) -> None:
    page.locator(".caption b").get_by_text(frame_id, exact=True).wait_for(timeout=30_000)
    page.wait_for_timeout(350)


def pane_box(page: Any, place: int = 0) -> dict[str, float]:
    """Where a pane is on the screen: figures that lie beside the table, in reading order."""
    boxes = [box for box in (f.bounding_box() for f in page.locator(".bk-Figure:visible").all()) if box]
    boxes = sorted((box for box in boxes if box["x"] > 405), key=lambda b: (round(b["y"] / 20), b["x"]))
    return boxes[place]


def choose(page: Any, label: str) -> None:
    """Press a small button of a group."""
    page.locator(".bk-btn-group .bk-btn:visible").get_by_text(label, exact=True).first.click()


def pick_option(page: Any, place: int, *titles: str) -> None:
    """Let a pane show something, and perhaps less something else, by their titles."""
    for title, own in zip(titles, ("Prediction", "− nothing"), strict=False):
        option = page.locator("option", has_text=own)
        choosers = page.locator("select:visible").filter(has=option)
        (choosers.nth(place) if own == "Prediction" else choosers.first).select_option(label=title)
