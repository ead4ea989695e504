from __future__ import annotations

from pathlib import Path

import pytest
from tiny_images import mask, picture

from gradunc_viz.datasets.frames import Frames, open_frames


@pytest.fixture
def trio(tmp_path: Path) -> Frames:
    for name in ("c", "a", "b"):
        picture(tmp_path / "images" / f"{name}.png")
    mask(tmp_path / "labels" / "a.png", 0, 1, 255)
    return open_frames(tmp_path)
