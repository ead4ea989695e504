"""Numbered images by a pattern."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import gradunc_viz as gv
from gradunc_viz.schema.errors import FrameError


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name in ("f1.png", "f2.png", "f10.png", "f0003.png", "other1.png", "f4.txt", "f5.png.bak", "[a]/x7.png"):
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        Image.fromarray(np.full((4, 6, 3), len(name), "u1")).save(path, format="PNG")
    return tmp_path


@pytest.mark.parametrize(
    ("pattern", "ids"),
    [
        ("f%d.png", ("f1", "f2", "f0003", "f10")),
        ("f%04d.png", ("f0003",)),
        ("f*.png", ("f1", "f2", "f0003", "f10")),
        ("f?.*", ("f1", "f2")),
        ("[a]/x%d.png", ("x7",)),
        ("*/x*.png", ("[a]__x7",)),
    ],
)
def test_images_in_the_order_of_their_numbers(folder: Path, pattern: str, ids: tuple[str, ...]) -> None:
    frames = gv.open_frames(folder / pattern)
    assert frames.layout == "sequence"
    assert frames.ids == ids


def test_a_pattern_of_nothing(folder: Path) -> None:
    with pytest.raises(FrameError, match=r"g%03d\.png: no image is called so, expected some such as g1\.png"):
        gv.open_frames(folder / "g%03d.png")


def test_a_file_of_that_name_comes_first(folder: Path) -> None:
    (folder / "f1.png").rename(folder / "50%d.png")
    with pytest.raises(FrameError, match="is a file, expected a folder"):
        gv.open_frames(folder / "50%d.png")
