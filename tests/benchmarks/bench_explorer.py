"""How the explorer feels: paint, change of frame, threshold, tabs, taps, size of the cache, memory.

Drives a served cache of 2048 x 1024 frames in headless Chromium and prints each time beside its target::

    python tests/benchmarks/bench_explorer.py [--frames 6] [--many 1000] [--sessions 20]

Times are what a person waits for, measured in the page: from the event to the model that holds what it brings. The
server has served one session before. Where it was left alone for a moment it has made the next page ahead; in a dark
theme, or soon after another, a page is made when it is asked for. "1,000 frames" are copies (links) of the six.
"""

from __future__ import annotations

import argparse
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

from frame_files import copy_frame
from playwright.sync_api import Page, sync_playwright
from synthetic import write_cache

FLAGS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]

SIZE = (1024, 2048)

# the page's clock when every pane, its pictures decoded, has been painted
PAINTED = """
() => {
  if (typeof Bokeh == 'undefined' || Bokeh.documents.length == 0) return false
  const panes = [...Bokeh.documents[0]._all_models.values()].filter(m => m.type == 'Figure' && /^pane/.test(m.name))
  const views = panes.map(pane => Bokeh.index.find_one_by_id(pane.id))
  return views.length > 0 && views.every(view => view?._render_count > 0 && view.has_finished()) && performance.now()
}
"""

LINK = "?tab=frames&frame=frame0003&score=entropy&threshold=0.7&panes=A%3Aimage,A%3Aentropy,A%3Alabel"

MODELS = """
window.bench = {
  all: () => [...Bokeh.documents[0]._all_models.values()],
  pane: name => bench.all().find(m => m.type == 'Figure' && m.name == name),
  url: () => bench.pane('pane0')?.renderers[0]?.data_source.data.url[0] ?? '',
  low: () => bench.pane('pane0').renderers.find(r => r.name == 'found').glyph.color_mapper.low,
  drawn: () => [...document.querySelectorAll('*')].length,
}
"""


def build(folder: Path, frames: int, many: int) -> tuple[Path, Path]:
    """A cache of real size, and one of many frames that are copies of it."""
    small, large = folder / "small", folder / "large"
    write_cache(small, [f"frame{i:04}" for i in range(frames)], [SIZE])
    shutil.copytree(small, large, copy_function=os.link)
    for number in range(frames, many):
        source = large / "frames" / f"frame{number % frames:04}"
        copy_frame(source, large / "frames" / f"frame{number:04}")
    from gradunc_viz import open_cache

    print(f"{len(open_cache(large).summary['frame'])} frames summarised", flush=True)
    return small, large


def serve(cache: Path) -> tuple[subprocess.Popen[str], str]:
    code = f"from gradunc_viz.explorer import serve; serve({str(cache)!r}, open_browser=False)"
    server = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)
    assert server.stdout is not None
    found = re.search(r"http://127\.0\.0\.1:\d+/", server.stdout.readline())
    assert found
    return server, found[0]


def memory(pid: int) -> float:
    """Resident megabytes of a process."""
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("VmRSS"):
            return int(line.split()[1]) / 1024
    return float("nan")


def paint(page: Page, url: str) -> float:
    """Seconds from asking for the page to the screen's first frame with a picture in the panes, by the page's clock."""
    page.goto(url, timeout=20_000, wait_until="commit")
    found = page.wait_for_function(PAINTED, timeout=20_000).json_value()
    page.evaluate(MODELS)
    return float(found) / 1000


def paint_ahead(page: Page, url: str) -> float:
    """The same after a while in which the server was left alone, as when a page is opened or loaded again."""
    page.goto("about:blank")
    page.wait_for_timeout(12_000)
    return paint(page, url)


def waited(page: Page, action, condition: str, before: object = None) -> float:
    """Seconds from an action to a condition in the page."""
    start = time.perf_counter()
    action()
    page.wait_for_function(condition, arg=before, timeout=60_000, polling=5)
    return time.perf_counter() - start


def median(values: list[float]) -> float:
    return sorted(values)[len(values) // 2]


def measure(page: Page, url: str) -> Iterator[tuple[str, float, float]]:
    """Everything about one session, as name, seconds and target."""
    yield "first useful paint", median([paint_ahead(page, url) for _ in range(5)]), 2.0
    yield "of a permanent link", median([paint_ahead(page, url + LINK) for _ in range(3)]), 2.0
    yield "of a page not made ahead", median([paint(page, url + "?theme=dark") for _ in range(5)]), 2.0
    paint(page, url)
    page.wait_for_timeout(3000)
    change = []
    for step in range(6):
        before = page.evaluate("bench.url()")
        by = "ArrowRight" if step < 3 else "ArrowLeft"
        change.append(waited(page, lambda key=by: page.keyboard.press(key), "b => bench.url() != b", before))
        page.wait_for_timeout(700)
    yield "change of frame, first time", median(change[:3]), 0.4
    yield "change of frame, back", median(change[3:]), 0.4
    handle = page.locator(".noUi-handle:visible").first.bounding_box()
    assert handle
    x, y = handle["x"] + handle["width"] / 2, handle["y"] + handle["height"] / 2
    page.mouse.move(x, y)
    page.mouse.down()
    steps = []
    for step in range(1, 9):
        before = page.evaluate("bench.low()")
        steps.append(waited(page, lambda at=x - 15 * step: page.mouse.move(at, y), "b => bench.low() != b", before))
    page.mouse.up()
    yield "threshold, each step", median(steps), 0.15
    page.wait_for_timeout(1500)

    def tab(name: str) -> None:
        page.locator(".bk-tab").get_by_text(name, exact=True).click()

    first, again = [], []
    for name, words in (("Curves", "Predicted classes"), ("Classes", "Metrics per class"), ("Failures", "Kind of")):
        for times in (first, again):
            start = time.perf_counter()
            tab(name)
            page.get_by_text(words).first.wait_for(timeout=60_000)
            times.append(time.perf_counter() - start)
            page.wait_for_timeout(4000)
            tab("Frames")
            page.wait_for_timeout(800)
    yield "switch of tab, first visit", median(first), 0.5
    yield "switch of tab, again", median(again), 0.5
    tab("Curves")
    page.wait_for_timeout(2500)
    figure = page.locator(".bk-Figure:visible").first
    figure.wait_for(timeout=60_000)
    taps = []
    for share in (0.2, 0.3, 0.45):
        before, box = page.evaluate("bench.low()"), figure.bounding_box()
        assert box
        at = (box["x"] + share * box["width"], box["y"] + 0.35 * box["height"])
        taps.append(waited(page, lambda at=at: page.mouse.click(*at), "b => bench.low() != b", before))
        page.wait_for_timeout(1200)
    yield "tap on a curve to mask", median(taps), 0.3


def tell(name: str, value: str, target: str) -> None:
    print(f"{name:34} {value:>22}   {target}", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--frames", type=int, default=6)
    parser.add_argument("--many", type=int, default=1000)
    parser.add_argument("--sessions", type=int, default=20)
    arguments = parser.parse_args()
    chromium = shutil.which("chromium") or shutil.which("google-chrome")
    if chromium is None:
        print("no chromium: nothing measured")
        return
    with tempfile.TemporaryDirectory() as folder, sync_playwright() as p:
        small, large = build(Path(folder), arguments.frames, arguments.many)
        browser = p.chromium.launch(executable_path=chromium, args=FLAGS)
        page = browser.new_page(viewport={"width": 1600, "height": 1000})
        servers = []
        try:
            server, url = serve(small)
            servers.append(server)
            paint(page, url + "?tab=frames")  # the server loads what it needs in its first session
            for name, seconds, target in measure(page, url):
                tell(name, f"{seconds:.3f} s", f"<= {target:g} s")
            few = median([paint_ahead(page, url) for _ in range(5)])
            page.goto("about:blank")
            for count in range(arguments.sessions + 4):
                if count == 4:  # what all sessions share is there by now
                    page.wait_for_timeout(8000)
                    start = memory(server.pid)
                paint(page, url + "?tab=frames")
                page.keyboard.press("ArrowRight")
                page.wait_for_timeout(300)
                page.goto("about:blank")
            page.wait_for_timeout(40_000)  # sessions without a page end after a while
            end = memory(server.pid)
            tell(f"memory over {arguments.sessions} sessions", f"{end / start - 1:+.1%} of {start:.0f} MB", "+-10 %")
            server, url = serve(large)
            servers.append(server)
            paint(page, url)
            lots = median([paint_ahead(page, url) for _ in range(5)])
            tell(f"paint of {arguments.many:,} frames", f"{lots:.3f} s", f"as {arguments.frames} frames: {few:.3f} s")
        finally:
            for one in servers:
                one.terminate()
            browser.close()


if __name__ == "__main__":
    main()
