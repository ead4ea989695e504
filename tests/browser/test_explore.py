"""The dashboard as a person uses it, on the embedded demo: every item of what it promises."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlparse

import pytest
from driving import (
    choose,
    chromium,
    go_to,
    ids_on_screen,
    load,
    marks,
    opened,
    pane_box,
    panes,
    pick_option,
    playwright,
    row,
    served,
    show,
    shown,
    until,
)
from synthetic import write_cache

import gradunc_viz as gv
from gradunc_viz.datasets.catalog import data_path

pytestmark = marks

expect = playwright.expect

HOSTILE = "<img src=x onerror=alert(1)>"


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> gv.Cache:
    frames = gv.open_frames(data_path("demo"), "folder")
    out = tmp_path_factory.mktemp("browser") / "demo"
    return gv.compute(gv.load_model("demo"), frames, out, limit=6, progress=False)


@pytest.fixture(scope="module")
def address(cache: gv.Cache) -> Iterator[str]:
    with served(cache.path) as url:
        yield url


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with chromium() as found:
        yield found


@pytest.fixture
def page(browser: Any, address: str) -> Iterator[Any]:
    with opened(browser, address + "?tab=frames") as found:
        yield found


# ---- 2: frames


def test_frames_are_filtered_sorted_and_stepped_through(page: Any, cache: gv.Cache) -> None:
    assert ids_on_screen(page) == list(cache.ids)
    show(page, cache.ids[2])
    before = panes(page)[0]["url"]
    page.keyboard.press("ArrowRight")
    shown(page, cache.ids[3])
    assert panes(page)[0]["url"] != before
    page.get_by_text("◀ Previous").click()
    shown(page, cache.ids[2])
    assert panes(page)[0]["url"] == before
    page.locator(".tabulator-col[tabulator-field=error_rate] .tabulator-col-sorter").first.click()
    page.wait_for_timeout(400)
    order = [cache.ids[i] for i in cache.summary["error_rate"].values.argsort()]
    assert ids_on_screen(page) in (order, order[::-1])
    page.locator(".tabulator-header-filter input").first.press_sequentially(cache.ids[4])
    until(page, lambda: ids_on_screen(page) == [cache.ids[4]])
    row(page, cache.ids[4]).click()
    shown(page, cache.ids[4])


def test_table_sorts_by_quantiles_and_auprc(page: Any, cache: gv.Cache) -> None:
    page.locator("select:visible").filter(has=page.locator("option", has_text="99 % quantile")).first.select_option(
        label="columns: 99 % quantile"
    )
    wanted = cache.summary["score_quantile"].sel(score="msp", quantile=0.99, frame=cache.ids[0])
    expect(row(page, cache.ids[0], "msp")).to_have_text(f"{float(wanted):.3f}", timeout=20_000)
    expect(row(page, cache.ids[0], "auprc")).to_have_text(re.compile(r"\d+\.\d\d"), timeout=20_000)


# ---- 3: panes


def test_panes_show_what_is_chosen_with_shared_zoom(page: Any, cache: gv.Cache) -> None:
    show(page, cache.ids[0])
    assert [pane["layers"] for pane in panes(page)] == [
        ["picture", "found"],
        ["score"],
        ["classes"],
        ["classes", "marks"],
    ]
    for title, layers in (("Error map", ["marks"]), ("entropy", ["score"]), ("Prediction", ["classes"])):
        pick_option(page, 1, title)
        until(page, lambda wanted=layers: panes(page)[1]["layers"] == wanted)
    box = pane_box(page)
    page.mouse.move(box["x"] + box["width"] / 3, box["y"] + box["height"] / 2)
    home = panes(page)[0]["x"]
    page.mouse.wheel(0, -400)
    until(page, lambda: panes(page)[0]["x"][0] > home[0])
    page.wait_for_timeout(500)
    zoomed = panes(page)
    assert len({tuple(pane["x"]) for pane in zoomed}) == 1
    show(page, cache.ids[1])
    assert panes(page)[0]["x"] == zoomed[0]["x"]


def test_range_overlay_and_norms_are_switched(page: Any) -> None:
    own = panes(page)[1]["limits"]
    choose(page, "set")
    until(page, lambda: panes(page)[1]["limits"] != own)
    fixed = panes(page)[1]["limits"]
    choose(page, "fixed")
    page.get_by_text("Colours of pgn_oh_p0.5 from and to").wait_for()
    page.keyboard.press("ArrowRight")
    page.wait_for_timeout(700)
    assert panes(page)[1]["limits"] == fixed
    choose(page, "frame")
    choose(page, "linear")
    until(page, lambda: panes(page)[1]["bar"] == "norm, linear")
    choose(page, "TP FP FN")
    until(page, lambda: panes(page)[0]["layers"] == ["picture", "found", "alarms"])
    assert panes(page)[0]["missed"] == "#648fff"
    choose(page, "hidden")
    until(page, lambda: "hide_ignored" in parse_qs(urlparse(page.url).query))


def test_difference_swipe_and_flip(page: Any) -> None:
    pick_option(page, 1, "entropy", "− msp")
    until(page, lambda: panes(page)[1]["bar"].startswith("difference"))
    low, high = panes(page)[1]["limits"]
    assert low == -high
    choose(page, "swipe")
    page.get_by_text("Swipe: first pane").wait_for()
    until(page, lambda: "50%" in panes(page)[1]["clip"])
    handle = page.locator(".noUi-handle:visible").nth(1).bounding_box()
    page.mouse.move(handle["x"] + 5, handle["y"] + 5)
    page.mouse.down()
    page.mouse.move(handle["x"] - 150, handle["y"] + 5, steps=4)
    page.mouse.up()
    until(page, lambda: "50%" not in panes(page)[1]["clip"])
    boxes = [f.bounding_box() for f in page.locator(".bk-Figure:visible").all()]
    boxes = [b for b in boxes if b and b["width"] > 500]
    assert len(boxes) == 2
    assert abs(boxes[0]["y"] - boxes[1]["y"]) < 3
    choose(page, "flip")
    page.get_by_text("⇄ Flip").click()
    until(page, lambda: "100%" in panes(page)[1]["clip"])
    page.get_by_text("⇄ Flip").click()
    until(page, lambda: "100%" not in panes(page)[1]["clip"])
    choose(page, "grid")
    until(page, lambda: panes(page)[1]["clip"] == "")


def test_hover_and_click_read_a_pixel(page: Any, cache: gv.Cache) -> None:
    show(page, cache.ids[0])
    box = pane_box(page)
    page.mouse.move(box["x"] + 0.5 * box["width"], box["y"] + 0.7 * box["height"])
    page.mouse.move(box["x"] + 0.5 * box["width"] + 3, box["y"] + 0.7 * box["height"])
    card = page.locator(".card").filter(has_text="Under the mouse")
    expect(card).to_contain_text("prediction", timeout=20_000)
    for name in cache.scores:
        expect(card).to_contain_text(name)
    x, y = (int(v) for v in re.search(r"x (\d+), y (\d+)", card.inner_text()).groups())
    frame = cache[cache.ids[0]]
    assert cache.classes[int(frame["prediction"][y, x])] in card.inner_text()
    assert f"{float(gv.score(frame, 'msp')[y, x]):.4g}" in card.inner_text()
    page.mouse.click(box["x"] + 0.5 * box["width"] + 3, box["y"] + 0.7 * box["height"])
    expect(page.locator(".card").filter(has_text="Class probabilities")).to_be_visible(timeout=20_000)
    expect(page.locator(".sum")).to_contain_text("label part")
    assert panes(page)[0]["pin"] == 1


def test_threshold_moves_in_the_browser_and_numbers_follow(page: Any) -> None:
    page.get_by_text("Kind of failure").wait_for(state="attached", timeout=20_000)  # all tabs were built ahead
    received: list[int] = []
    before = panes(page)[0]["threshold"]
    readout = page.locator(".readout:visible").inner_text()
    box = page.locator(".noUi-handle:visible").first.bounding_box()
    client = page.context.new_cdp_session(page)
    client.send("Network.enable")
    client.on("Network.webSocketFrameReceived", lambda e: received.append(len(e["response"]["payloadData"])))
    page.mouse.move(box["x"] + box["width"] / 2, box["y"] + box["height"] / 2)
    page.mouse.down()
    for step in range(1, 9):
        page.mouse.move(box["x"] + box["width"] / 2 - 12 * step, box["y"] + box["height"] / 2)
    until(page, lambda: panes(page)[0]["threshold"] < before)
    expect(page.locator(".readout:visible")).not_to_have_text(readout, timeout=20_000, use_inner_text=True)
    assert max(received, default=0) < 20_000, "dragging brought more than numbers"
    page.mouse.up()
    until(page, lambda: float(parse_qs(urlparse(page.url).query).get("threshold", ["inf"])[0]) < before)


# ---- 1, 4, 5, 6: the other tabs


def test_overview_tells_the_set_and_leads_to_a_frame(page: Any, cache: gv.Cache) -> None:
    go_to(page, "Overview", "How well each score finds them")
    expect(page.locator(".cells")).to_contain_text("mIoU")
    cells = page.locator(".tabulator-cell[tabulator-field=score]:visible")
    expect(cells.first).to_be_visible(timeout=30_000)
    assert set(cells.all_inner_texts()) == set(cache.scores)
    worst = cache.ids[int(cache.summary["error_rate"].values.argmax())]
    page.locator("button").filter(has_text=worst).first.click()
    shown(page, worst)


def test_tap_on_a_curve_sets_mask_numbers_and_link(page: Any, cache: gv.Cache) -> None:
    before = panes(page)[0]["threshold"]
    go_to(page, "Curves", "Predicted classes")
    figure = page.locator(".bk-Figure:visible").first
    figure.wait_for(timeout=30_000)
    page.wait_for_timeout(800)
    numbers = page.locator(".readout").last.inner_text()
    box = figure.bounding_box()
    page.mouse.click(box["x"] + 0.25 * box["width"], box["y"] + 0.35 * box["height"])
    until(page, lambda: panes(page)[0]["threshold"] != before)
    expect(page.locator(".readout").last).not_to_have_text(numbers, timeout=20_000, use_inner_text=True)
    until(page, lambda: "threshold" in parse_qs(urlparse(page.url).query))
    page.wait_for_timeout(500)
    query = parse_qs(urlparse(page.url).query)
    from gradunc_viz.explorer.charts import curves
    from gradunc_viz.store.choice import Selection

    counts = curves.counts_at(
        Selection.of(cache, query["task"][0], scores=query["score"][0]), float(query["threshold"][0])
    )
    expect(page.locator(".readout").last).to_contain_text(f"{counts.tp:,}")
    for kind in ("Precision and recall", "Sparsification", "Reliability"):
        choose(page, kind)
        page.wait_for_timeout(700)
        assert page.locator(".bk-Figure:visible").count() >= 1


def test_a_class_filters_curves(page: Any, cache: gv.Cache) -> None:
    go_to(page, "Classes", "Metrics per class")
    cell = page.locator(".tabulator-cell[tabulator-field=class]:visible").get_by_text("road", exact=True)
    cell.wait_for(timeout=30_000)
    cell.click()
    until(page, lambda: "classes" in parse_qs(urlparse(page.url).query))
    go_to(page, "Curves", "Predicted classes")
    expect(page.get_by_text("pixels predicted as road")).to_be_visible(timeout=20_000)


def test_a_failure_zooms_the_panes(page: Any) -> None:
    home = panes(page)[0]["x"]
    go_to(page, "Failures", "Kind of failure")
    choose(page, "Needless doubt")
    first = page.locator("button:visible").filter(has_text=" px").first
    first.wait_for(timeout=60_000)
    page.wait_for_timeout(8_000)  # the list is sorted anew while frames are searched
    frame = first.inner_text().splitlines()[-1]
    first.click()
    shown(page, frame)
    until(page, lambda: panes(page)[0]["x"] != home)
    assert "view" in parse_qs(urlparse(page.url).query)


# ---- 7: take away


def test_link_code_files_and_selection_are_taken_away(page: Any, browser: Any, cache: gv.Cache, tmp_path: Path) -> None:
    show(page, cache.ids[3])
    for name in (cache.ids[1], cache.ids[3]):
        row(page, name, "pick").click()
    choose(page, "TP FP FN")
    page.get_by_text("Take away").click()
    expect(page.locator("pre").first).to_contain_text("gv.open_cache", timeout=20_000)
    expect(page.locator("pre").nth(1)).to_have_text(
        f"frames = {[cache.ids[1], cache.ids[3]]!r}\n", use_inner_text=False
    )
    page.get_by_text("Copy Python").click()
    page.wait_for_timeout(300)
    copied = page.evaluate("navigator.clipboard.readText()")
    assert compile(copied, "view", "exec")
    assert repr(cache.ids[3]) in copied
    page.get_by_text("Copy link").click()
    page.wait_for_timeout(300)
    link = page.evaluate("navigator.clipboard.readText()")
    assert link == page.url
    with page.expect_download() as found:
        page.locator("a:visible, button:visible").filter(has_text="CSV").first.click()
    lines = Path(found.value.path()).read_text().splitlines()
    assert len(lines) == 1 + len(cache)
    assert "error_rate" in lines[0]
    wanted = panes(page)
    with opened(browser, link) as other:
        shown(other, cache.ids[3])
        until(other, lambda: panes(other)[0]["layers"] == wanted[0]["layers"])
        assert panes(other)[0]["threshold"] == wanted[0]["threshold"]
        expect(other.get_by_text("2 selected")).to_be_visible()


def test_png_of_a_pane(page: Any) -> None:
    box = pane_box(page)
    page.mouse.move(box["x"] + box["width"] / 2, box["y"] + box["height"] / 2)
    with page.expect_download() as found:
        page.locator(".bk-ToolButton[title^=Save]:visible, .bk-tool-icon-save:visible").first.click()
    content = Path(found.value.path()).read_bytes()
    assert content.startswith(b"\x89PNG")
    assert len(content) > 10_000


# ---- looks and safety


@pytest.mark.parametrize("size", [(1366, 768), (2560, 1440)])
@pytest.mark.parametrize("theme", ["default", "dark"])
def test_nothing_is_cut_off(browser: Any, address: str, size: tuple[int, int], theme: str) -> None:
    with opened(browser, f"{address}?tab=frames&theme={theme}", size) as page:
        for tab, words in (
            ("Frames", "Score, thresholded"),
            ("Overview", "Worst frames"),
            ("Curves", "Predicted classes"),
            ("Classes", "Confusion"),
            ("Failures", "Kind of failure"),
        ):
            go_to(page, tab, words)
            page.wait_for_timeout(300)
            assert page.evaluate("document.documentElement.scrollWidth <= window.innerWidth"), tab
        color = page.evaluate("getComputedStyle(document.body).backgroundColor")
        assert color == ("rgb(26, 32, 40)" if theme == "dark" else "rgb(255, 255, 255)")


def test_hostile_names_and_links_are_text(browser: Any, tmp_path: Path) -> None:
    write_cache(tmp_path / "cache", [HOSTILE, "b"], [(64, 128), (50, 40)])
    with served(tmp_path / "cache") as url, opened(browser, url + "?tab=frames") as page:
        show(page, HOSTILE)
        assert "synthetic <i>net</i>" in page.locator(".header").inner_text()
        box = pane_box(page)
        page.mouse.click(box["x"] + 0.2 * box["width"], box["y"] + 0.6 * box["height"])
        expect(page.get_by_text("car <b>& co</b>").first).to_be_visible(timeout=20_000)
        page.get_by_text("Take away").click()
        for tab, words in (
            ("Overview", "Worst"),
            ("Curves", "Predicted"),
            ("Classes", "Confusion"),
            ("Failures", "Kind"),
        ):
            go_to(page, tab, words)
            page.wait_for_timeout(1000)
        assert page.locator("img[src=x]").count() == 0
        load(
            page, url + "?tab=frames&frame=../../etc/passwd&score=<script>alert(1)</script>&panes=A:/etc/passwd,A:image"
        )
        expect(page.get_by_text("link: frame is not used")).to_be_visible()
        page.wait_for_timeout(500)
        assert page.locator("script").filter(has_text="alert(1)").count() == 0
