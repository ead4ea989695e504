"""Images and masks of a few pixels, and what is asked of errors about them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from gradunc_viz.schema.errors import FrameError, GraduncError

HEIGHT, WIDTH = 6, 9


def picture(path: Path, height: int = HEIGHT, width: int = WIDTH, **options: Any) -> np.ndarray:
    """Write an RGB image and return its pixels (exact for lossless formats)."""
    pixels = np.random.default_rng(height * width).integers(0, 256, (height, width, 3), np.uint8)
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path, **options)
    return pixels


def mask(path: Path, *ids: int, height: int = HEIGHT, width: int = WIDTH, dtype: type = np.uint8) -> np.ndarray:
    """Write a one-channel mask that cycles through `ids`, and return it."""
    pixels = np.resize(np.array(ids, dtype), (height, width))
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path)
    return pixels


def convert(stored: np.ndarray, table: dict[int, int]) -> np.ndarray:
    """Apply a table the slow way."""
    return np.vectorize(lambda value: table.get(value, value))(stored).astype(np.uint8)


def one_line(error: pytest.ExceptionInfo[GraduncError], *parts: object) -> None:
    """Check that the error is one line that names all `parts`."""
    text = str(error.value)
    assert "\n" not in text
    for part in parts:
        assert str(part) in text


def fails(action: Any, *parts: object) -> None:
    """Check that `action` raises a FrameError naming all `parts`."""
    with pytest.raises(FrameError) as error:
        action()
    one_line(error, *parts)
