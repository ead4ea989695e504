"""Images of any number of channels, as networks take them and as they are shown."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import gradunc_viz as gv
from gradunc_viz.datasets.bands import as_picture, frame_size, read_bands
from gradunc_viz.schema.errors import FrameError


def values(channels: int, dtype: str = "u1", size: tuple[int, int] = (16, 20)) -> np.ndarray:
    top = {"u1": 256, "u2": 65536}.get(dtype, 5)
    return np.random.default_rng(channels).integers(0, top, (*size, channels)).astype(dtype)


def saved(path: Path, pixels: np.ndarray) -> Path:
    """As the file's suffix and the number of channels want it; several pages where Pillow knows no such image."""
    if path.suffix == ".npy":
        np.save(path, pixels)
    elif pixels.shape[2] in (1, 2, 3, 4) and pixels.dtype == np.uint8:
        Image.fromarray(pixels[:, :, 0] if pixels.shape[2] == 1 else pixels).save(path)
    else:
        pages = [Image.fromarray(page) for page in np.moveaxis(pixels, 2, 0)]
        pages[0].save(path, save_all=len(pages) > 1, append_images=pages[1:])
    return path


@pytest.mark.parametrize(
    ("name", "channels", "dtype"),
    [
        ("a.png", 1, "u1"),
        ("a.png", 1, "u2"),
        ("a.tif", 1, "f4"),
        ("a.png", 2, "u1"),
        ("a.png", 4, "u1"),
        ("a.tif", 4, "u1"),
        ("a.tif", 4, "u2"),
        ("a.tif", 6, "u2"),
        ("a.npy", 1, "u1"),
        ("a.npy", 3, "u1"),
        ("a.npy", 13, "u2"),
        ("a.npy", 5, "f4"),
        ("a.npy", 5, ">f4"),
        ("a.npy", 5, "f8"),
        ("a.npy", 5, "i2"),
    ],
)
def test_pixels_are_those_of_the_file(tmp_path, name, channels, dtype):
    pixels = values(channels, dtype)
    path = saved(tmp_path / name, pixels)
    found = read_bands(path, channels)
    assert found.dtype == (dtype if dtype in ("u1", "u2") else np.float32)
    np.testing.assert_array_equal(found, pixels)
    assert frame_size(path) == (16, 20)


def test_channels_may_come_first_or_be_left_out(tmp_path):
    pixels = values(13)
    np.testing.assert_array_equal(read_bands(saved(tmp_path / "a.npy", np.moveaxis(pixels, 2, 0)), 13), pixels)
    assert frame_size(tmp_path / "a.npy") == (16, 20)
    np.save(tmp_path / "b.npy", pixels[:, :, 0])
    np.testing.assert_array_equal(read_bands(tmp_path / "b.npy", 1), pixels[:, :, :1])


def test_tiff_of_many_bands(tmp_path):
    tifffile = pytest.importorskip("tifffile")
    pixels = values(7, "u2")
    tifffile.imwrite(tmp_path / "a.tif", pixels, photometric="minisblack", planarconfig="contig")
    np.testing.assert_array_equal(read_bands(tmp_path / "a.tif", 7), pixels)
    assert frame_size(tmp_path / "a.tif") == (16, 20)


def test_colours_become_grey_and_are_turned_upright(tmp_path):
    image = Image.fromarray(values(3))
    exif = image.getexif()
    exif[274] = 6
    image.save(tmp_path / "a.png", exif=exif)
    found = read_bands(tmp_path / "a.png", 1)
    assert found.shape == (20, 16, 1)
    assert frame_size(tmp_path / "a.png") == (20, 16)
    np.testing.assert_array_equal(found[:, :, 0], np.rot90(np.array(image.convert("L")), -1))


@pytest.mark.parametrize(
    ("name", "pixels", "channels", "text"),
    [
        ("a.png", values(3), 4, r"a\.png: an image of 3 channels, expected 4"),
        ("a.npy", values(5), 6, r"shape \(16, 20, 5\), expected \(height, width, 6\)"),
        ("a.npy", values(5).astype(complex), 5, "holds complex128, expected numbers"),
        ("a.npy", np.full((2, 2, 5), np.nan), 5, "NaN or infinity"),
        ("a.npy", np.array([None, 1]), 5, "expected an array"),
    ],
)
def test_other_images_are_refused(tmp_path, name, pixels, channels, text):
    path = tmp_path / name
    if pixels.dtype == object:
        np.save(path, pixels, allow_pickle=True)
    else:
        saved(path, pixels)
    with pytest.raises(FrameError, match=text):
        read_bands(path, channels)


@pytest.mark.parametrize("name", ["a.npy", "a.tif", "a.png"])
def test_damaged_files_are_named(tmp_path, name):
    (tmp_path / name).write_bytes(b"nonsense")
    with pytest.raises(FrameError, match=rf"{name}: "):
        read_bands(tmp_path / name, 5)
    with pytest.raises(FrameError, match=rf"{name}: "):
        frame_size(tmp_path / name)


def test_pictures_are_shown_as_they_are_and_others_as_pictures(tmp_path):
    pixels = values(4)
    assert as_picture(saved(tmp_path / "a.png", pixels), pixels) is None
    shown, encoded, kind = as_picture(saved(tmp_path / "a.npy", pixels), pixels)
    np.testing.assert_array_equal(shown, pixels[:, :, :3])
    np.testing.assert_array_equal(np.array(Image.open(io.BytesIO(encoded))), shown)
    assert kind == "png"
    deep = values(2, "u2")
    shown, _, _ = as_picture(saved(tmp_path / "b.npy", deep), deep)
    assert (shown.min(), shown.max(), shown.shape) == (0, 255, (16, 20, 3))
    flat = np.zeros((2, 2, 5), np.float32)
    assert not as_picture(saved(tmp_path / "c.npy", flat), flat)[0].any()


def test_arrays_are_images_where_there_are_no_others(tmp_path):
    (tmp_path / "images").mkdir()
    saved(tmp_path / "images/a.npy", values(5))
    assert gv.open_frames(tmp_path).ids == ("a",)
    saved(tmp_path / "images/b.png", values(3))
    assert gv.open_frames(tmp_path).ids == ("b",)
