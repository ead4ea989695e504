"""Two published sets with frames of different sizes, side by side."""

from __future__ import annotations

from pathlib import Path

import pytest
import real
from driving import chromium, go_to, marks, opened, panes, served, show, until

pytestmark = [*marks, pytest.mark.real, pytest.mark.slow]


def test_anomaly_and_obstacle_track_side_by_side(real_data: Path, tmp_path: Path) -> None:
    scores = ("pgn_oh_p0.5", "msp", "entropy")
    anomaly = real.compute(real_data, "anomaly", tmp_path / "ra21", "--limit", "3", scores=scores)
    obstacle = real.compute(real_data, "obstacle", tmp_path / "ro21", "--limit", "3", scores=scores)
    sizes = {tuple(cache[0]["prediction"].shape) for cache in (anomaly, obstacle)}
    assert len(sizes) == 2
    with chromium() as browser, served(anomaly.path, obstacle.path) as url:  # noqa: SIM117
        with opened(browser, f"{url}?tab=frames&main=B&panes=B:image,B:msp,B:label,B:entropy~B:msp") as page:
            for frame in obstacle.ids:
                show(page, frame)
                width = obstacle[frame]["prediction"].shape[1]
                found = panes(page)
                assert found[0]["place"][2] >= width
                assert found[0]["x"][0] <= 0 < width <= found[0]["x"][1]
                assert found[1]["limits"][0] < found[1]["limits"][1]
            page.locator("select:visible").first.select_option(label="A: ra21")
            page.locator(".caption b").get_by_text(anomaly.ids[0], exact=True).wait_for(timeout=30_000)
            width = anomaly[0]["prediction"].shape[1]
            until(page, lambda: any(pane["place"][2] - width in range(8) for pane in panes(page)))
            go_to(page, "Failures", "Kind of failure")
            first = page.locator("button:visible").filter(has_text=" px").first
            first.wait_for(timeout=60_000)
            go_to(page, "Curves", "Predicted classes")
            page.locator(".bk-Figure:visible").first.wait_for(timeout=30_000)
