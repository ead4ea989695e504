"""Notebooks as a person uses them: opened in JupyterLab, in the system's Chromium, with all cells run there."""

from __future__ import annotations

import os
import re
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
FOLDER = Path(__file__).parent.parent.parent / "notebooks"
TOKEN = "for-tests"

pytestmark = [
    pytest.mark.browser,
    pytest.mark.slow,
    pytest.mark.skipif(CHROMIUM is None, reason="no chromium is installed"),
]


def free_port() -> int:
    """A port that Chromium does not refuse, as it does some below 10081."""
    while True:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = int(probe.getsockname()[1])
        if port > 10080:
            return port


@pytest.fixture(scope="module")
def lab(demo_cache: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Address of a JupyterLab in a copy of the notebooks and of the demo's cache, with settings of its own."""
    root = tmp_path_factory.mktemp("lab")
    shutil.copytree(FOLDER, root / "notebooks", ignore=shutil.ignore_patterns("runs", ".ipynb_checkpoints"))
    shutil.copytree(demo_cache, root / "notebooks" / "runs" / "demo")
    port = free_port()
    command = [
        sys.executable, "-m", "jupyterlab", "--no-browser", "--allow-root", "--ServerApp.ip=127.0.0.1",
        f"--ServerApp.port={port}", "--ServerApp.port_retries=0", f"--IdentityProvider.token={TOKEN}",
        f"--ServerApp.root_dir={root / 'notebooks'}",
    ]  # fmt: skip
    own = (
        "JUPYTER_CONFIG_DIR",
        "JUPYTER_DATA_DIR",
        "IPYTHONDIR",
        "JUPYTERLAB_SETTINGS_DIR",
        "JUPYTERLAB_WORKSPACES_DIR",
    )
    settings = {name: str(root / name.lower()) for name in own}
    lab_settings = {
        "notebook-extension/tracker": '{"windowingMode": "none"}',  # outputs that are out of view stay in the page
        "apputils-extension/notification": '{"fetchNews": "false"}',
    }
    for name, text in lab_settings.items():
        file = root / "jupyterlab_settings_dir" / "@jupyterlab" / f"{name}.jupyterlab-settings"
        file.parent.mkdir(parents=True)
        file.write_text(text)
    log = root / "log"
    with log.open("w") as file, subprocess.Popen(
        command, cwd=root, env={**os.environ, **settings}, stdout=file, stderr=subprocess.STDOUT
    ) as server:  # fmt: skip
        try:
            deadline = time.monotonic() + 60
            while "is running at" not in log.read_text():
                assert server.poll() is None, log.read_text()
                assert time.monotonic() < deadline, "JupyterLab did not start: " + log.read_text()
                time.sleep(0.2)
            yield f"http://127.0.0.1:{port}"
        finally:
            server.terminate()
            try:
                server.wait(20)
            except subprocess.TimeoutExpired:
                server.kill()


@pytest.fixture(scope="module")
def browser() -> Iterator[playwright.Browser]:
    with playwright.sync_playwright() as p:
        chromium = p.chromium.launch(
            executable_path=CHROMIUM, args=["--no-sandbox", "--disable-gpu", "--disable-background-networking"]
        )
        yield chromium
        chromium.close()


@pytest.fixture
def page(browser: playwright.Browser) -> Iterator[playwright.Page]:
    context = browser.new_context(viewport={"width": 1500, "height": 1000})
    page = context.new_page()
    page.set_default_timeout(30_000)
    yield page
    context.close()


def run_all(page: playwright.Page, lab: str, name: str, seconds: float = 240) -> None:
    """Open a notebook in JupyterLab, run all of its cells, and wait until the kernel is idle again."""
    page.goto(f"{lab}/lab/tree/{name}.ipynb?reset&token={TOKEN}")
    page.locator(".jp-Notebook .jp-Cell").first.wait_for(timeout=60_000)
    page.get_by_text("Python 3 (ipykernel) | Idle").wait_for(timeout=60_000)
    page.locator(".lm-MenuBar-itemLabel").get_by_text("Run", exact=True).click()
    page.locator(".lm-Menu-itemLabel").get_by_text("Run All Cells", exact=True).click()
    numbers = page.locator(".jp-CodeCell .jp-InputPrompt")
    deadline = time.monotonic() + seconds
    while True:
        prompts = numbers.all_inner_texts()
        if prompts and all(re.fullmatch(r"\[\d+\]:", prompt.strip()) for prompt in prompts):
            break
        assert errors(page) == []
        assert time.monotonic() < deadline, f"still running after {seconds} s: {prompts}"
        page.wait_for_timeout(500)


def errors(page: playwright.Page) -> list[str]:
    """Tracebacks shown in the notebook."""
    return page.locator('[data-mime-type="application/vnd.jupyter.error"]').all_inner_texts()


def dashboard(page: playwright.Page) -> playwright.Locator:
    """The output that holds the dashboard, scrolled to, with its table and panes drawn."""
    output = page.locator(".jp-OutputArea-output").filter(has=page.locator(".tabulator-row")).first
    output.wait_for(timeout=60_000)
    output.scroll_into_view_if_needed()
    output.locator(".bk-Figure canvas").first.wait_for(state="attached", timeout=60_000)
    page.wait_for_timeout(1000)
    return output


def test_quickstart(page: playwright.Page, lab: str, tmp_path: Path) -> None:
    run_all(page, lab, "01_quickstart")
    assert errors(page) == []
    output = dashboard(page)
    assert output.locator(".bk-Figure").count() >= 4
    assert page.locator(".jp-OutputArea-output img").count() >= 5, "pictures are missing"
    page.screenshot(path=tmp_path / "quickstart.png")


def test_explore_answers_to_code_and_to_clicks(page: playwright.Page, lab: str, tmp_path: Path) -> None:
    run_all(page, lab, "07_explore")
    assert errors(page) == []
    output = dashboard(page)
    caption = output.locator(".caption b").first
    # what the last cells set from code is what the dashboard shows
    shown = caption.inner_text()
    assert shown.startswith("city_")
    other = "city_009" if shown != "city_009" else "city_008"
    output.locator(".tabulator-cell[tabulator-field=frame]").filter(has_text=other).first.click()
    playwright.expect(caption).to_have_text(other, timeout=30_000)
    page.screenshot(path=tmp_path / "explore.png")
    # and what was clicked is what code reads
    page.locator(".jp-Notebook .jp-CodeCell .jp-InputArea-editor").last.click()
    page.keyboard.press("Control+A")
    page.keyboard.type("print('code reads', state.frame_id)")
    page.keyboard.press("Control+Enter")
    page.get_by_text(f"code reads {other}", exact=True).wait_for(timeout=30_000)
