"""The dashboard as a person sees it, in the system's Chromium."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from collections.abc import Iterator

import pytest
from synthetic import write_cache

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

pytestmark = [
    pytest.mark.browser,
    pytest.mark.skipif(CHROMIUM is None, reason="no chromium is installed"),
]

HOSTILE = "<img src=x onerror=alert(1)>"
IDS = [HOSTILE, *(f"frame{number:02}" for number in range(14))]

# what the panes hold, found by walking the documents of the page
MODELS = """
() => {
  const doc = Bokeh.documents[0]
  const all = [...doc._all_models.values()]
  const pane = name => all.find(m => m.type == "Figure" && m.name == name)
  const source = pane("score").renderers[0].data_source
  const mask = pane("image").renderers.find(r => r.name == "mask").glyph.color_mapper
  return {
    url: source.data.url[0], low: source.data.low[0], step: source.data.step[0], mask: mask.low,
    size: [source.data.width[0], source.data.height[0]],
    x: [pane("image").x_range.start, pane("image").x_range.end],
    span: pane("color_bar").center.find(m => m.type == "Span").location,
  }
}
"""


@pytest.fixture(scope="module")
def address(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    folder = tmp_path_factory.mktemp("browser") / "cache"
    write_cache(folder, IDS, [(64, 128), (64, 128), (50, 40)])
    code = f"from gradunc_viz.app import serve; serve({str(folder)!r}, open_browser=False)"
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True) as server:
        try:
            assert server.stdout is not None
            found = re.search(r"http://127\.0\.0\.1:\d+/", server.stdout.readline())
            assert found, "the server printed no address"
            yield found[0]
        finally:
            server.terminate()


@pytest.fixture(scope="module")
def browser() -> Iterator[playwright.Browser]:
    with playwright.sync_playwright() as p:
        chromium = p.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
        yield chromium
        chromium.close()


@pytest.fixture
def page(browser: playwright.Browser, address: str) -> Iterator[playwright.Page]:
    """The page, drawn; the test fails if the console reports an error or a dialog opens."""
    page = browser.new_page(viewport={"width": 1366, "height": 768})
    errors: list[str] = []
    page.on("console", lambda m: errors.append(m.text) if m.type == "error" else None)
    page.on("pageerror", lambda e: errors.append(str(e)))
    page.on("dialog", lambda d: (errors.append(f"dialog: {d.message}"), d.dismiss()))
    page.goto(address, timeout=60_000)
    page.wait_for_selector(".tabulator-row", timeout=60_000)
    page.wait_for_selector(".bk-Figure canvas", state="attached", timeout=60_000)
    yield page
    page.close()
    assert errors == []


def row(page: playwright.Page, frame_id: str) -> playwright.Locator:
    # Tabulator's first cell is hidden: find the one of the field
    return page.locator(".tabulator-cell[tabulator-field=frame]").filter(has_text=frame_id).first


def ids_on_screen(page: playwright.Page) -> list[str]:
    return page.locator(".tabulator-row .tabulator-cell[tabulator-field=frame]").all_inner_texts()


def wait_for_frame(page: playwright.Page, frame_id: str) -> None:
    page.locator(".caption b").get_by_text(frame_id, exact=True).wait_for(timeout=30_000)
    page.wait_for_timeout(300)


def inside_image(page: playwright.Page, across: float, down: float) -> tuple[float, float]:
    """A point of the image pane, which is the figure below its heading."""
    heading = page.get_by_text("Image, pixels at or above").bounding_box()
    assert heading
    boxes = [figure.bounding_box() for figure in page.locator(".bk-Figure").all()]
    box = next(b for b in boxes if b and abs(b["x"] - heading["x"]) < 5 and b["y"] > heading["y"])
    return box["x"] + across * box["width"], box["y"] + down * box["height"]


def test_page_shows_table_panes_and_legend(page: playwright.Page) -> None:
    assert "15 frames" in page.locator(".header").inner_text()
    assert "synthetic <i>net</i>" in page.locator(".header").inner_text()
    assert len(ids_on_screen(page)) == 12
    assert page.locator(".bk-Figure").count() >= 5
    assert "car <b>& co</b>" in page.locator(".legend").inner_text()
    for words in ("Prediction", "Annotation", "Precision", "larger means more uncertain"):
        assert page.get_by_text(words).count()


def test_hostile_id_is_text(page: playwright.Page) -> None:
    assert row(page, HOSTILE).inner_text() == HOSTILE
    row(page, HOSTILE).click()
    wait_for_frame(page, HOSTILE)
    assert page.locator("img[src=x]").count() == 0


def test_row_under_filter_and_sort_changes_the_frame(page: playwright.Page) -> None:
    row(page, "frame00").click()
    wait_for_frame(page, "frame00")
    before = page.evaluate(MODELS)
    page.locator(".tabulator-col[tabulator-field=frame] .tabulator-col-sorter").first.click()
    page.locator(".tabulator-col[tabulator-field=frame] .tabulator-col-sorter").first.click()
    page.locator(".tabulator-header-filter input").first.press_sequentially("frame1")
    page.wait_for_timeout(800)
    assert ids_on_screen(page) == ["frame13", "frame12", "frame11", "frame10"]
    row(page, "frame12").click()
    wait_for_frame(page, "frame12")
    after = page.evaluate(MODELS)
    assert after["url"] != before["url"]
    page.get_by_text("Next ▶").click()
    wait_for_frame(page, "frame11")


def test_sorting_by_a_score(page: playwright.Page) -> None:
    cells = page.locator(".tabulator-row .tabulator-cell[tabulator-field=msp]")
    page.locator(".tabulator-col[tabulator-field=msp] .tabulator-col-sorter").first.click()
    page.wait_for_timeout(500)
    values = [float(text) for text in cells.all_inner_texts()]
    assert len(values) == 12
    assert values in (sorted(values), sorted(values, reverse=True))


def test_score_selector_changes_codes_only(page: playwright.Page) -> None:
    before = page.evaluate(MODELS)
    page.locator("select:visible").first.select_option(label="entropy [nats]")
    page.get_by_text("Score entropy").wait_for(timeout=30_000)
    page.wait_for_timeout(300)
    after = page.evaluate(MODELS)
    assert after["url"] == before["url"]
    assert after["step"] != before["step"]


def test_threshold_moves_in_the_browser_without_payload(page: playwright.Page) -> None:
    received: list[int] = []
    before = page.evaluate(MODELS)
    readout = page.locator(".readout").inner_text()
    handle = page.locator(".noUi-handle").first
    box = handle.bounding_box()
    assert box
    client = page.context.new_cdp_session(page)
    client.send("Network.enable")
    client.on("Network.webSocketFrameReceived", lambda e: received.append(len(e["response"]["payloadData"])))
    page.mouse.move(box["x"] + box["width"] / 2, box["y"] + box["height"] / 2)
    page.mouse.down()
    for step in range(1, 9):
        page.mouse.move(box["x"] + box["width"] / 2 - 12 * step, box["y"] + box["height"] / 2)
    page.wait_for_timeout(500)
    during = page.evaluate(MODELS)
    assert during["mask"] < before["mask"]
    assert during["mask"] == pytest.approx((during["span"] - during["low"]) / during["step"], abs=1)
    assert max(received, default=0) < 300, "dragging brought more than acknowledgements from the server"
    assert page.locator(".readout").inner_text() == readout
    page.mouse.up()
    playwright.expect(page.locator(".readout")).not_to_have_text(readout, timeout=30_000, use_inner_text=True)
    assert page.evaluate(MODELS)["mask"] == during["mask"]


def test_zoom_survives_a_frame_of_the_same_size_only(page: playwright.Page) -> None:
    row(page, "frame02").click()
    wait_for_frame(page, "frame02")
    page.mouse.move(*inside_image(page, 0.5, 0.5))
    page.mouse.wheel(0, -300)
    page.wait_for_timeout(500)
    zoomed = page.evaluate(MODELS)
    assert zoomed["x"][1] - zoomed["x"][0] < zoomed["size"][0]
    row(page, "frame03").click()
    wait_for_frame(page, "frame03")
    same = page.evaluate(MODELS)
    assert same["size"] == zoomed["size"]
    assert same["x"] == zoomed["x"]
    row(page, "frame01").click()
    wait_for_frame(page, "frame01")
    other = page.evaluate(MODELS)
    assert other["size"] != zoomed["size"]
    assert other["x"] != zoomed["x"]


def test_hover_names_class_and_score(page: playwright.Page) -> None:
    row(page, "frame02").click()
    wait_for_frame(page, "frame02")
    page.mouse.move(*inside_image(page, 0.2, 0.6))
    tip = page.locator(".bk-Tooltip").filter(has_text="prediction").first
    # the tooltip is drawn anew as numbers arrive, so each expectation waits by itself
    for expected in ("car <b>& co</b>", re.compile(r"score:?\s*-?\d"), "known"):
        playwright.expect(tip).to_contain_text(expected, timeout=30_000)


def test_page_is_no_wider_than_the_window(page: playwright.Page) -> None:
    assert page.evaluate("document.documentElement.scrollWidth <= window.innerWidth")
