"""From files to arrays: what is turned upright, scaled or refused, and masks as they were stored."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageFile
from tiny_images import HEIGHT, WIDTH, fails, mask, picture

from gradunc_viz.datasets.frames import Frames, check_classes, open_frames
from gradunc_viz.schema.errors import FrameError


def test_mixed_sizes_and_formats(tmp_path: Path) -> None:
    expected = {
        "a": picture(tmp_path / "a.png", 4, 5),
        "b": picture(tmp_path / "b.webp", 7, 3, lossless=True),
        "c": picture(tmp_path / "c.bmp", 2, 8),
    }
    picture(tmp_path / "d.JPG", 5, 6)
    frames = open_frames(tmp_path)
    for name, pixels in expected.items():
        np.testing.assert_array_equal(frames[name].image, pixels)
        assert frames[name].size == pixels.shape[:2]
    assert [frame.image_format for frame in frames] == ["png", "webp", "bmp", "jpeg"]
    assert frames["d"].image.shape == (5, 6, 3)
    assert frames["d"].image_bytes == (tmp_path / "d.JPG").read_bytes()
    assert frames["d"].label is frames["d"].anomaly is frames["d"].label_path is None


@pytest.mark.parametrize("suffix", ["jpg", "png", "webp", "tif"])
@pytest.mark.parametrize("orientation", [1, 3, 6])
def test_exif_orientation(tmp_path: Path, suffix: str, orientation: int) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    pixels = np.zeros((16, 32, 3), np.uint8)
    pixels[:, :16] = 255
    Image.fromarray(pixels).save(tmp_path / f"a.{suffix}", exif=exif)
    frame = open_frames(tmp_path)[0]
    upright = {1: pixels, 3: pixels[::-1, ::-1], 6: np.rot90(pixels, -1)}[orientation]
    assert frame.size == frame.image.shape[:2] == upright.shape[:2]
    np.testing.assert_array_equal(frame.image > 127, upright > 127)


@pytest.mark.parametrize("suffix", ["jpg", "webp"])
@pytest.mark.parametrize("exif", [b"Exif\0\0no EXIF", b"Exif\0\0II*\0\x08\0\0\0\xff\xff\x12\x01\x03\0"])
@pytest.mark.filterwarnings("ignore:Corrupt EXIF")
def test_broken_exif_is_passed_over(tmp_path: Path, suffix: str, exif: bytes) -> None:
    picture(tmp_path / f"a.{suffix}", exif=exif)
    frame = open_frames(tmp_path)[0]
    assert frame.size == frame.image.shape[:2] == (HEIGHT, WIDTH)


def test_modes_become_rgb(tmp_path: Path) -> None:
    grey = np.arange(HEIGHT * WIDTH, dtype=np.uint8).reshape(HEIGHT, WIDTH) * 4
    Image.fromarray(grey).save(tmp_path / "grey.png")
    Image.fromarray(grey.astype(np.uint16) * 257).save(tmp_path / "grey16.png")
    Image.fromarray(grey.astype(np.uint16) * 257).save(tmp_path / "grey16tiff.tif")
    Image.fromarray(grey.astype(np.int32) * 257).save(tmp_path / "grey32.tif")
    Image.fromarray(grey.astype(np.float32) / 255).save(tmp_path / "floating.tif")
    Image.fromarray(np.dstack([grey, 255 - grey, grey, grey])).save(tmp_path / "rgba.png")
    Image.fromarray(np.dstack([grey, grey])).save(tmp_path / "la.png")
    palette = Image.fromarray(grey % 2).convert("P")
    palette.putpalette([10, 20, 30, 40, 50, 60])
    palette.save(tmp_path / "palette.png")
    palette.save(tmp_path / "seethrough.png", transparency=bytes([0, 128]))
    Image.fromarray(grey > 99).save(tmp_path / "bits.png")
    images = {frame.id: frame.image for frame in open_frames(tmp_path)}
    assert all(image.dtype == np.uint8 and image.shape == (HEIGHT, WIDTH, 3) for image in images.values())
    for name in ("grey", "grey16", "grey16tiff", "grey32", "floating", "la"):
        np.testing.assert_array_equal(images[name], np.dstack([grey] * 3), err_msg=name)
    np.testing.assert_array_equal(images["rgba"], np.dstack([grey, 255 - grey, grey]))
    colours = np.array([[10, 20, 30], [40, 50, 60]], np.uint8)[grey % 2]
    np.testing.assert_array_equal(images["palette"], colours)
    np.testing.assert_array_equal(images["seethrough"], colours)
    np.testing.assert_array_equal(images["bits"][:, :, 0], (grey > 99) * np.uint8(255))


@pytest.mark.parametrize(
    "values",
    [
        np.full((2, 2), 70000, np.int32),
        np.full((2, 2), 200, np.float32),
        np.full((2, 2), -0.5, np.float32),
        np.full((2, 2), np.nan, np.float32),
    ],
)
def test_pixels_that_are_no_picture(tmp_path: Path, values: np.ndarray) -> None:
    Image.fromarray(values).save(tmp_path / "a.tif")
    fails(lambda: open_frames(tmp_path)[0].image, tmp_path / "a.tif", "expected")


@pytest.mark.parametrize("suffix", ["jpg", "png", "webp"])
@pytest.mark.parametrize("elsewhere_lenient", [False, True])
def test_truncated_image(tmp_path: Path, suffix: str, elsewhere_lenient: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / f"a.{suffix}"
    picture(path, 64, 64)
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    monkeypatch.setattr(ImageFile, "LOAD_TRUNCATED_IMAGES", elsewhere_lenient)
    fails(lambda: open_frames(tmp_path)[0].image, path, "cannot be decoded")
    assert ImageFile.LOAD_TRUNCATED_IMAGES is elsewhere_lenient


def test_truncated_image_in_threads(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    picture(tmp_path / "a.jpg", 64, 64)
    (tmp_path / "b.jpg").write_bytes((tmp_path / "a.jpg").read_bytes()[:1500])
    monkeypatch.setattr(ImageFile, "LOAD_TRUNCATED_IMAGES", True)
    frames = open_frames(tmp_path)

    def decodes(position: int) -> bool:
        try:
            return frames[position % 2].image is not None
        except FrameError:
            return False

    with ThreadPoolExecutor(4) as pool:
        assert list(pool.map(decodes, range(100))) == [True, False] * 50
    assert ImageFile.LOAD_TRUNCATED_IMAGES is True


@pytest.mark.parametrize("pixels", [100, 10])  # above Pillow's limit, and above six times the limit
def test_decompression_bomb(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, pixels: int) -> None:
    picture(tmp_path / "a.png", 12, 10)
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", pixels)
    frame = open_frames(tmp_path)[0]
    if pixels == 100:  # aerial images are
        assert frame.size == (12, 10)
        assert frame.image.shape == (12, 10, 3)
        assert pixels == Image.MAX_IMAGE_PIXELS
        return
    for name in ("image", "size"):
        fails(lambda name=name: getattr(frame, name), tmp_path / "a.png", "too large", "120 pixels")


def test_file_that_vanished(trio: Frames) -> None:
    frame = trio["a"]
    frame.image_path.unlink()
    for name in ("image", "size", "image_bytes"):
        fails(lambda name=name: getattr(frame, name), frame.image_path, "cannot be read", "No such file")


def test_32_bit_mask(tmp_path: Path) -> None:
    picture(tmp_path / "images" / "a.png")
    path = tmp_path / "labels" / "a.png"
    mask(path, 0)
    for value in (3, -1):
        stored = np.full((HEIGHT, WIDTH), value, np.int32)
        Image.fromarray(stored).save(path, format="TIFF")  # what a file holds counts, not its suffix
        if value < 0:
            fails(lambda: open_frames(tmp_path, labels={3: 2})[0].label, path, "id -1")
            assert (open_frames(tmp_path, labels={-1: 2, 3: 0})[0].label == 2).all()
            assert (open_frames(tmp_path, labels={-1: None, 3: 0})[0].label == 255).all()
        else:
            np.testing.assert_array_equal(open_frames(tmp_path)[0].label, stored)


def test_palette_masks_are_indices(tmp_path: Path) -> None:
    picture(tmp_path / "images" / "a.png")
    stored = np.resize(np.array([0, 1, 2, 3], np.uint8), (HEIGHT, WIDTH))
    image = Image.fromarray(stored).convert("P")
    image.putpalette([200, 0, 0, 0, 200, 0, 0, 0, 200, 9, 9, 9])
    for bits in (8, 4, 2):
        (tmp_path / "labels").mkdir(exist_ok=True)
        image.save(tmp_path / "labels" / "a.png", bits=bits)
        np.testing.assert_array_equal(open_frames(tmp_path)[0].label, stored)


def test_one_bit_mask(tmp_path: Path) -> None:
    picture(tmp_path / "images" / "a.png")
    stored = np.resize(np.array([0, 1, 1], bool), (HEIGHT, WIDTH))
    (tmp_path / "anomalies").mkdir()
    Image.fromarray(stored).save(tmp_path / "anomalies" / "a.png")
    np.testing.assert_array_equal(open_frames(tmp_path)[0].anomaly, stored.astype(np.uint8))


@pytest.mark.parametrize("bits", [2, 4])
def test_low_bit_grey_masks_are_not_stretched(tmp_path: Path, bits: int) -> None:
    import struct
    import zlib

    def chunk(name: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))

    ids = [0, 1, 2, 3]
    row = sum(value << bits * (3 - place) for place, value in enumerate(ids)).to_bytes(bits // 2, "big")
    header = struct.pack(">IIBBBBB", 4, 1, bits, 0, 0, 0, 0)
    (tmp_path / "labels").mkdir()
    (tmp_path / "labels" / "a.png").write_bytes(
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"\0" + row)) + chunk(b"IEND", b"")
    )
    picture(tmp_path / "images" / "a.png", 1, 4)
    np.testing.assert_array_equal(open_frames(tmp_path)[0].label, [ids])


def test_rgb_mask(tmp_path: Path) -> None:
    picture(tmp_path / "images" / "a.png")
    path = tmp_path / "labels" / "a.png"
    path.parent.mkdir()
    Image.fromarray(np.zeros((HEIGHT, WIDTH, 3), np.uint8)).save(path)
    fails(lambda: open_frames(tmp_path)[0].label, path, "mode RGB", "one channel")


def test_mask_of_another_size(tmp_path: Path) -> None:
    picture(tmp_path / "images" / "a.jpg", 6, 9)
    mask(tmp_path / "labels" / "a.png", 0, height=9, width=6)
    fails(
        lambda: open_frames(tmp_path)[0].label,
        tmp_path / "labels" / "a.png",
        "9 x 6",
        "expected 6 x 9",
        "a.jpg",
    )


def test_damaged_mask(tmp_path: Path) -> None:
    picture(tmp_path / "images" / "a.png")
    mask(tmp_path / "anomalies" / "a.png", 0, 1)
    path = tmp_path / "anomalies" / "a.png"
    path.write_bytes(path.read_bytes()[:-30])
    fails(lambda: open_frames(tmp_path)[0].anomaly, path, "cannot be decoded")


def test_unknown_anomaly_id(tmp_path: Path) -> None:
    picture(tmp_path / "images" / "a.png")
    mask(tmp_path / "anomalies" / "a.png", 0, 7, 1, 9)
    fails(lambda: open_frames(tmp_path)[0].anomaly, tmp_path / "anomalies" / "a.png", "ids 7, 9", "0 (known)")


def test_check_classes(trio: Frames) -> None:
    frame = trio["a"]
    label = frame.label
    assert label is not None
    check_classes(label, 2, frame)
    fails(lambda: check_classes(label, 1, frame), frame.label_path, "class id 1", "expected 0..0 or 255")
