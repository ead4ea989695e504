"""Folders of frames: every layout from tiny trees, what goes wrong, the real sets where they are at hand."""

from __future__ import annotations

import json
import os
import pickle
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image, ImageFile

from gradunc_viz.datasets.catalog import known_classes
from gradunc_viz.datasets.frames import Frames, check_classes, open_frames
from gradunc_viz.datasets.layouts import LAYOUTS
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


# ----------------------------------------------------------------------------------------------------------
# the sequence


@pytest.fixture
def trio(tmp_path: Path) -> Frames:
    for name in ("c", "a", "b"):
        picture(tmp_path / "images" / f"{name}.png")
    mask(tmp_path / "labels" / "a.png", 0, 1, 255)
    return open_frames(tmp_path)


def test_sequence(trio: Frames) -> None:
    assert trio.ids == ("a", "b", "c")
    assert len(trio) == 3
    assert [frame.id for frame in trio] == ["a", "b", "c"]
    assert trio[1].id == trio["b"].id == trio[-2].id == trio[np.int64(1)].id == "b"
    assert trio[1:].ids == ("b", "c")
    assert isinstance(trio[1:], Frames)
    assert trio[:0].ids == ()
    assert "a" in trio
    assert "z" not in trio
    assert trio[0] in trio
    assert trio.index(trio["c"]) == 2
    assert trio.layout == "folder"
    assert trio.classes is None
    assert trio.colors is None
    assert "3 frames" in repr(trio)
    fails(lambda: trio["z"], trio.path, "'z'", "'a' .. 'c'")
    with pytest.raises(IndexError):
        trio[3]
    with pytest.raises(TypeError):
        trio[1.0]  # type: ignore[call-overload]


def test_is_immutable(trio: Frames) -> None:
    for target, name in ((trio, "classes"), (trio[0], "id"), (trio[0], "files")):
        with pytest.raises(AttributeError):
            setattr(target, name, None)
    with pytest.raises(TypeError):
        trio[0] = trio[1]  # type: ignore[index]


def test_survives_pickling(trio: Frames) -> None:
    copy = pickle.loads(pickle.dumps(trio))
    assert copy.ids == trio.ids
    np.testing.assert_array_equal(copy["a"].label, trio["a"].label)


def test_arrays_are_fresh_and_writable(trio: Frames) -> None:
    frame = trio["a"]
    for name in ("image", "label"):
        first = getattr(frame, name)
        first[:] = 7
        assert (getattr(frame, name) != 7).any()


def test_opening_decodes_nothing(tmp_path: Path) -> None:
    (tmp_path / "broken.png").write_bytes(b"no image at all")
    picture(tmp_path / "fine.png")
    frames = open_frames(tmp_path)
    assert frames.ids == ("broken", "fine")
    for name in ("image", "size", "image_format"):
        fails(lambda name=name: getattr(frames["broken"], name), tmp_path / "broken.png", "cannot be decoded")
    assert frames["broken"].image_bytes == b"no image at all"
    assert frames["fine"].image.shape == (HEIGHT, WIDTH, 3)


def test_size_reads_only_the_header(tmp_path: Path) -> None:
    picture(tmp_path / "a.png", 200, 300)
    whole = (tmp_path / "a.png").read_bytes()
    (tmp_path / "a.png").write_bytes(whole[:200])
    frame = open_frames(tmp_path)[0]
    assert frame.size == (200, 300)
    fails(lambda: frame.image, tmp_path / "a.png")


def test_does_not_import_torch() -> None:
    code = (
        "import sys, gradunc_viz.datasets.frames; print({'torch', 'panel', 'matplotlib', 'xarray'} & set(sys.modules))"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout.strip() == "set()"


# ----------------------------------------------------------------------------------------------------------
# images


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
    Image.fromarray(grey.astype(np.int32) * 257).save(tmp_path / "grey32.tif")
    Image.fromarray(np.dstack([grey, 255 - grey, grey, grey])).save(tmp_path / "rgba.png")
    Image.fromarray(np.dstack([grey, grey])).save(tmp_path / "la.png")
    palette = Image.fromarray(grey % 2).convert("P")
    palette.putpalette([10, 20, 30, 40, 50, 60])
    palette.save(tmp_path / "palette.png")
    palette.save(tmp_path / "seethrough.png", transparency=bytes([0, 128]))
    Image.fromarray(grey > 99).save(tmp_path / "bits.png")
    images = {frame.id: frame.image for frame in open_frames(tmp_path)}
    assert all(image.dtype == np.uint8 and image.shape == (HEIGHT, WIDTH, 3) for image in images.values())
    for name in ("grey", "grey16", "grey32", "la"):
        np.testing.assert_array_equal(images[name], np.dstack([grey] * 3), err_msg=name)
    np.testing.assert_array_equal(images["rgba"], np.dstack([grey, 255 - grey, grey]))
    colours = np.array([[10, 20, 30], [40, 50, 60]], np.uint8)[grey % 2]
    np.testing.assert_array_equal(images["palette"], colours)
    np.testing.assert_array_equal(images["seethrough"], colours)
    np.testing.assert_array_equal(images["bits"][:, :, 0], (grey > 99) * np.uint8(255))


@pytest.mark.parametrize("values", [np.full((2, 2), 70000, np.int32), np.zeros((2, 2), np.float32)])
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


@pytest.mark.parametrize("pixels", [100, 40])  # above Pillow's limit, and above twice the limit
def test_decompression_bomb(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, pixels: int) -> None:
    picture(tmp_path / "a.png", 12, 10)
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", pixels)
    frame = open_frames(tmp_path)[0]
    if pixels * 2 > 120:  # only a warning, unless warnings are errors
        with pytest.warns(Image.DecompressionBombWarning):
            assert frame.size == (12, 10)
        return
    for name in ("image", "size"):
        fails(lambda name=name: getattr(frame, name), tmp_path / "a.png", "too large", "120 pixels")


def test_file_that_vanished(trio: Frames) -> None:
    frame = trio["a"]
    frame.image_path.unlink()
    for name in ("image", "size", "image_bytes"):
        fails(lambda name=name: getattr(frame, name), frame.image_path, "cannot be read", "No such file")


# ----------------------------------------------------------------------------------------------------------
# masks


def test_16_bit_masks(tmp_path: Path) -> None:
    picture(tmp_path / "images" / "a.png")
    stored = mask(tmp_path / "labels" / "a.png", 0, 18, 254, 255, dtype=np.uint16)
    label = open_frames(tmp_path)[0].label
    assert label is not None
    assert label.dtype == np.uint8
    np.testing.assert_array_equal(label, stored)
    mask(tmp_path / "labels" / "a.png", 0, 300, dtype=np.uint16)
    fails(lambda: open_frames(tmp_path)[0].label, tmp_path / "labels" / "a.png", "id 300", "0..254")
    mapped = open_frames(tmp_path, labels={0: 1, 300: 2})[0].label
    np.testing.assert_array_equal(np.unique(mapped), [1, 2])


def test_32_bit_mask(tmp_path: Path) -> None:
    picture(tmp_path / "images" / "a.png")
    path = tmp_path / "labels" / "a.png"
    mask(path, 0)
    for value in (3, -1):
        stored = np.full((HEIGHT, WIDTH), value, np.int32)
        Image.fromarray(stored).save(path, format="TIFF")  # what a file holds counts, not its suffix
        if value < 0:
            fails(lambda: open_frames(tmp_path, labels={-1: 2, 3: 2})[0].label, path, "id -1")
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


# ----------------------------------------------------------------------------------------------------------
# label mappings and class names


def test_mapping_replaces_the_layouts(tmp_path: Path) -> None:
    picture(tmp_path / "val" / "a.png")
    stored = mask(tmp_path / "valannot" / "a.png", *range(12))
    plain = open_frames(tmp_path, "camvid")
    np.testing.assert_array_equal(plain[0].label, convert(stored, {11: 255}))
    table = {0: 10, 1: 2, 2: 5, 3: 0, 4: 1, 5: 8, 6: 7, 7: 4, 8: 13, 9: 11, 10: 18, 11: 255}
    (tmp_path / "map.json").write_text(json.dumps(table))
    for labels in (table, tmp_path / "map.json", str(tmp_path / "map.json")):
        frames = open_frames(tmp_path, "camvid", labels=labels)
        np.testing.assert_array_equal(frames[0].label, convert(stored, table))
        assert frames.classes is None  # the convention's names would name the wrong ids
    del table[11]
    fails(lambda: open_frames(tmp_path, "camvid", labels=table)[0].label, "valannot", "a.png", "id 11", "maps")


def test_mapping_leaves_ignored_pixels(tmp_path: Path) -> None:
    picture(tmp_path / "images" / "a.png")
    stored = mask(tmp_path / "labels" / "a.png", 3, 255)
    np.testing.assert_array_equal(open_frames(tmp_path, labels={3: 0})[0].label, convert(stored, {3: 0}))
    np.testing.assert_array_equal(
        open_frames(tmp_path, labels={3: 0, 255: 1})[0].label, convert(stored, {3: 0, 255: 1})
    )


@pytest.mark.parametrize(
    ("content", "parts"),
    [
        ("{", ["not JSON"]),
        ("\x80", ["not JSON"]),
        ("[1, 2]", ["expected an object", "list"]),
        ("{}", ["maps no id"]),
        ('{"road": 1}', ["key 'road'", "integer"]),
        ('{"1": 256}', ["id 1", "256", "0..254"]),
        ('{"1": -1}', ["id 1", "-1"]),
        ('{"1": "2"}', ["id 1", "'2'"]),
        ('{"1": true}', ["id 1", "True"]),
        ('{"1": 2.0}', ["id 1", "2.0"]),
    ],
)
def test_bad_mapping_file(trio: Frames, content: str, parts: list[str]) -> None:
    path = trio.path / "map.json"
    path.write_bytes(content.encode("latin-1"))
    fails(lambda: open_frames(trio.path, labels=path), path, *parts)


def test_bad_mappings(trio: Frames) -> None:
    fails(lambda: open_frames(trio.path, labels=trio.path / "none.json"), "none.json", "cannot be read")
    fails(lambda: open_frames(trio.path, labels={1.5: 2}), "1.5")
    (trio.path / "labels" / "a.png").unlink()
    (trio.path / "labels").rmdir()
    fails(lambda: open_frames(trio.path, labels={1: 2}), trio.path, "no class labels")


def test_classes_file(trio: Frames) -> None:
    path = trio.path / "classes.json"
    entries = [
        {"id": 1, "name": "car", "color": [1, 2, 3]},
        {"id": 0, "name": "road", "color": [4, 5, 6]},
        {"id": 255, "name": "void", "color": [0, 0, 0]},
    ]
    path.write_text(json.dumps(entries))
    frames = open_frames(trio.path)
    assert frames.classes == frames[1:].classes == ("road", "car")
    assert frames.colors == ((4, 5, 6), (1, 2, 3))
    assert frames["a"].label is not None
    path.write_text(json.dumps([{"id": 0, "name": "road"}]))
    frames = open_frames(trio.path)
    assert (frames.classes, frames.colors) == (("road",), None)
    fails(lambda: frames["a"].label, frames["a"].label_path, "class id 1", "0..0")


@pytest.mark.parametrize(
    ("entries", "part"),
    [
        ({"road": 0}, '{"road": 0}'),
        ("road", "expected a list"),
        (["road", 1], '["road", 1]'),
        ({"0": "road", "2": "car"}, "ids 0, 2"),
        ({"0": 7}, "name 7"),
        ([{"id": 0}], "expected a list"),
        ([], "expected 0..n-1"),
        ([{"id": 0, "name": "a"}, {"id": 2, "name": "b"}], "ids 0, 2"),
        ([{"id": "0", "name": "a"}], "expected 0..n-1"),
        ([{"id": 0, "name": "a"}, {"id": 1, "name": "a"}], "different"),
        ([{"id": 0, "name": "a", "color": [1, 2]}], "[1, 2]"),
        ([{"id": 0, "name": "a", "color": [1, 2, 256]}], "[1, 2, 256]"),
        ([{"id": 0, "name": "a", "color": [1, 2, 3]}, {"id": 1, "name": "b"}], "None"),
    ],
)
def test_bad_classes_file(trio: Frames, entries: Any, part: str) -> None:
    (trio.path / "classes.json").write_text(json.dumps(entries))
    fails(lambda: open_frames(trio.path), trio.path / "classes.json", part)


# ----------------------------------------------------------------------------------------------------------
# layouts


def test_folder_nested(tmp_path: Path) -> None:
    for name in ("x/1.png", "x/2.jpg", "y/z/1.webp"):
        picture(tmp_path / "images" / name)
    picture(tmp_path / "images" / ".thumbs" / "hidden.png")
    picture(tmp_path / "images" / "._x.png")
    (tmp_path / "images" / "notes.txt").write_text("no image")
    label = mask(tmp_path / "labels" / "x" / "2.png", 5, 255)
    anomaly = mask(tmp_path / "anomalies" / "y" / "z" / "1.png", 0, 1, 255)
    frames = open_frames(tmp_path)
    assert frames.ids == ("x__1", "x__2", "y__z__1")
    np.testing.assert_array_equal(frames["x__2"].label, label)
    np.testing.assert_array_equal(frames["y__z__1"].anomaly, anomaly)
    assert frames["x__2"].anomaly is frames["x__1"].label is frames["y__z__1"].label is None
    assert frames["x__2"].label_path == tmp_path / "labels" / "x" / "2.png"
    assert frames["y__z__1"].anomaly_path == tmp_path / "anomalies" / "y" / "z" / "1.png"


@pytest.mark.parametrize("name", ["labels", "masks", "annotations"])
@pytest.mark.parametrize("images", ["images", "."])
def test_folder_names_of_labels(tmp_path: Path, name: str, images: str) -> None:
    picture(tmp_path / images / "a.b.png")
    label = mask(tmp_path / name / "a.b.png", 1, 2)
    frames = open_frames(tmp_path)
    assert frames.ids == ("a.b",)
    np.testing.assert_array_equal(frames[0].label, label)


def test_folder_follows_links_but_not_in_circles(tmp_path: Path) -> None:
    picture(tmp_path / "elsewhere" / "a.png")
    (tmp_path / "set" / "images").mkdir(parents=True)
    (tmp_path / "set" / "images" / "part").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "elsewhere" / "again").symlink_to(tmp_path / "set" / "images")
    assert open_frames(tmp_path / "set").ids == ("part__a",)


def test_folder_with_two_label_folders(trio: Frames) -> None:
    mask(trio.path / "masks" / "a.png", 0)
    fails(lambda: open_frames(trio.path), trio.path, "labels, masks", "only one")


def test_folder_of_foreign_labels(trio: Frames) -> None:
    (trio.path / "labels" / "a.png").rename(trio.path / "labels" / "other.png")
    fails(lambda: open_frames(trio.path), trio.path / "labels", "no mask fits")


def test_two_files_of_one_id(tmp_path: Path) -> None:
    picture(tmp_path / "images" / "a.png")
    picture(tmp_path / "images" / "a.jpg")
    fails(lambda: open_frames(tmp_path), "a.png", "a.jpg")
    (tmp_path / "images" / "a.jpg").unlink()
    picture(tmp_path / "images" / "x" / "a.png")
    picture(tmp_path / "images" / "x__a.png")
    fails(lambda: open_frames(tmp_path), Path("x") / "a.png", "x__a.png", "'x__a'")


def test_file_name_that_is_no_id(tmp_path: Path) -> None:
    picture(tmp_path / "__a.png")
    fails(lambda: open_frames(tmp_path), tmp_path / "__a.png", "frame id '__a'")


def test_smiyc(tmp_path: Path) -> None:
    picture(tmp_path / "images" / "validation0000.jpg")
    picture(tmp_path / "images" / "validation_1.webp")
    picture(tmp_path / "images" / "test0000.png")
    stored = mask(tmp_path / "labels_masks" / "validation0000_labels_semantic.png", 0, 1, 255)
    mask(tmp_path / "labels_masks" / "validation_1_labels_semantic.png", 0, 7)
    picture(tmp_path / "labels_masks" / "validation0000_labels_semantic_color.png")
    frames = open_frames(tmp_path, layout="smiyc")
    assert frames.ids == ("test0000", "validation0000", "validation_1")
    np.testing.assert_array_equal(frames["validation0000"].anomaly, stored)
    assert frames["validation0000"].label is frames["test0000"].anomaly is None
    fails(lambda: frames["validation_1"].anomaly, "validation_1_labels_semantic.png", "id 7")
    fails(lambda: open_frames(tmp_path, "smiyc", labels={0: 0}), "'smiyc'", "no class labels")


def test_camvid(tmp_path: Path) -> None:
    for split in ("val", "test"):
        picture(tmp_path / split / f"{split}1.png")
        mask(tmp_path / f"{split}annot" / f"{split}1.png", 3, 11)
    frames = open_frames(tmp_path, "camvid")
    assert frames.ids == ("val1",)
    assert open_frames(tmp_path, "camvid", split="test").ids == ("test1",)
    np.testing.assert_array_equal(np.unique(frames[0].label), [3, 255])
    assert frames.classes is not None
    assert frames.classes[3] == "road"
    assert frames.colors is not None
    assert frames.colors[3] == (128, 64, 128)
    fails(lambda: open_frames(tmp_path, "camvid", split="train"), "trainannot", "found entries test/")
    mask(tmp_path / "valannot" / "val1.png", 12)
    fails(lambda: frames[0].label, "id 12", "0..10 or 11 (void)")


# the 30 evaluated and ignored ids of the official table, written out
CITYSCAPES = dict(
    zip(
        range(34),
        [255] * 7 + [0, 1, 255, 255, 2, 3, 4, 255, 255, 255, 5, 255, *range(6, 16), 255, 255, 16, 17, 18],
        strict=True,
    )
)


def test_cityscapes(tmp_path: Path) -> None:
    for city in ("lindau", "munster"):
        picture(tmp_path / "leftImg8bit" / "val" / city / f"{city}_000000_000019_leftImg8bit.png", 6, 6)
    truth = tmp_path / "gtFine" / "val"
    stored = mask(truth / "lindau" / "lindau_000000_000019_gtFine_labelIds.png", *range(34), height=6, width=6)
    mask(truth / "lindau" / "lindau_000000_000019_gtFine_labelTrainIds.png", 5, height=6, width=6)
    only = mask(
        truth / "munster" / "munster_000000_000019_gtFine_labelTrainIds.png",
        *range(19),
        255,
        height=6,
        width=6,
    )
    frames = open_frames(tmp_path, "cityscapes")
    assert frames.ids == ("lindau_000000_000019", "munster_000000_000019")
    np.testing.assert_array_equal(frames[0].label, convert(stored, CITYSCAPES))
    np.testing.assert_array_equal(frames[1].label, only)
    assert frames.classes == tuple(name for name, _ in known_classes("cityscapes"))
    assert frames[0].anomaly is None
    identity = open_frames(tmp_path, "cityscapes", labels={value: value for value in range(34)})
    np.testing.assert_array_equal(identity[0].label, stored)


def test_lost_and_found(tmp_path: Path) -> None:
    scene = Path("test", "02_Hanns_Klemm_Str_44")
    names = [f"02_Hanns_Klemm_Str_44_000000_0000{number}" for number in (10, 20)]
    for name in names:
        picture(tmp_path / "leftImg8bit" / scene / f"{name}_leftImg8bit.png")
    truth = tmp_path / "gtCoarse" / scene
    ids = mask(truth / f"{names[0]}_gtCoarse_labelIds.png", 0, 1, 2, 31, 43, 255)
    train_ids = mask(truth / f"{names[1]}_gtCoarse_labelTrainIds.png", 0, 1, 2, 255)
    frames = open_frames(tmp_path, "lostandfound")
    assert frames.ids == tuple(names)
    np.testing.assert_array_equal(frames[0].anomaly, convert(ids, {0: 255, 1: 0, 2: 1, 31: 1, 43: 1}))
    np.testing.assert_array_equal(frames[1].anomaly, convert(train_ids, {0: 255, 1: 0, 2: 1}))
    assert frames[0].label is None
    mask(truth / f"{names[0]}_gtCoarse_labelIds.png", 44)
    fails(lambda: frames[0].anomaly, "id 44", "0..43")


@pytest.mark.parametrize("masks", ["fishyscapes_lostandfound", "."])
@pytest.mark.parametrize(
    "image",
    [
        "lostandfound/leftImg8bit/test/{street}/{scene}_leftImg8bit.png",
        "leftImg8bit/train/{street}/{scene}_leftImg8bit.png",
        "laf_images/{scene}_leftImg8bit.png",
        "images/{scene}.png",
        "images/0000_{scene}.png",
    ],
)
def test_fishyscapes_beside_lost_and_found(tmp_path: Path, masks: str, image: str) -> None:
    street, scene = "04_Maurener_Weg_8", "04_Maurener_Weg_8_000000_000030"
    path = tmp_path / image.format(street=street, scene=scene)
    picture(path)
    picture(path.with_name(path.name.replace(scene, f"{street}_000000_000040")))  # not in the set
    stored = mask(tmp_path / masks / f"0000_{scene}_labels.png", 0, 1, 255)
    frames = open_frames(tmp_path, "fishyscapes")
    assert frames.ids == (scene,)
    assert frames[0].image_path == path
    np.testing.assert_array_equal(frames[0].anomaly, stored)
    mask(tmp_path / masks / "0001_05_Elsewhere_000000_000010_labels.png", 0)
    fails(
        lambda: open_frames(tmp_path, "fishyscapes"),
        "0001_05_Elsewhere",
        "image is missing",
        "05_Elsewhere_000000_000010_leftImg8bit.png",
    )


@pytest.mark.parametrize("folder", ["LostAndFound", "."])
def test_fishyscapes_as_pairs(tmp_path: Path, folder: str) -> None:
    picture(tmp_path / folder / "original" / "0.png")
    stored = mask(tmp_path / folder / "labels" / "0.png", 0, 1, 255)
    picture(tmp_path / "Static" / "original" / "s.png")
    mask(tmp_path / "Static" / "labels" / "s.png", 0, 1)
    frames = open_frames(tmp_path, "fishyscapes")
    np.testing.assert_array_equal(frames["0"].anomaly, stored)
    assert open_frames(tmp_path, "fishyscapes", split="Static").ids == ("s",)
    Image.fromarray(np.dstack([stored] * 3)).save(tmp_path / folder / "labels" / "0.png")
    np.testing.assert_array_equal(frames["0"].anomaly, stored)
    Image.fromarray(np.dstack([stored, stored, stored // 2])).save(tmp_path / folder / "labels" / "0.png")
    fails(lambda: frames["0"].anomaly, "mode RGB", "equal channels")


def test_road_anomaly_release(tmp_path: Path) -> None:
    for name in ("sheep", "cow", "extra"):
        picture(tmp_path / "frames" / f"{name}.jpg")
    stored = mask(tmp_path / "frames" / "sheep.labels" / "labels_semantic.png", 0, 1, 2, 255)
    assert open_frames(tmp_path, "roadanomaly").ids == ("cow", "extra", "sheep")
    index = tmp_path / "frame_list.json"
    index.write_text(json.dumps(["sheep.jpg", "cow.webp"]))
    frames = open_frames(tmp_path, "roadanomaly")
    assert frames.ids == ("cow", "sheep")
    np.testing.assert_array_equal(frames["sheep"].anomaly, convert(stored, {1: 0, 2: 1}))
    assert frames["cow"].anomaly is None
    index.write_text(json.dumps(["sheep.jpg", "goat.jpg"]))
    fails(lambda: open_frames(tmp_path, "roadanomaly"), index, "image goat.jpg", "frames")
    index.write_text('{"a": 1}')
    fails(lambda: open_frames(tmp_path, "roadanomaly"), index, "list of file names")


def test_road_anomaly_copy(tmp_path: Path) -> None:
    picture(tmp_path / "original" / "sheep.jpg")
    stored = mask(tmp_path / "labels" / "sheep.png", 0, 1)
    frames = open_frames(tmp_path, "roadanomaly")
    np.testing.assert_array_equal(frames["sheep"].anomaly, stored)
    mask(tmp_path / "labels" / "sheep.png", 0, 2)
    fails(lambda: frames["sheep"].anomaly, "sheep.png", "id 2")


# ----------------------------------------------------------------------------------------------------------
# folders that are not as they should be


@pytest.mark.parametrize("layout", LAYOUTS)
def test_wrong_folders(tmp_path: Path, layout: str) -> None:
    fails(lambda: open_frames(tmp_path / "none", layout), tmp_path / "none", "does not exist")
    (tmp_path / "empty").mkdir()
    fails(lambda: open_frames(tmp_path / "empty", layout), tmp_path / "empty", f"'{layout}'", "found nothing")
    (tmp_path / "strange" / "things").mkdir(parents=True)
    (tmp_path / "strange" / "readme.txt").write_text("")
    fails(lambda: open_frames(tmp_path / "strange", layout), "expected", "found entries readme.txt, things/")
    fails(lambda: open_frames(tmp_path / "strange" / "readme.txt", layout), "readme.txt", "is a file")


@pytest.mark.parametrize("layout", [name for name in LAYOUTS if name not in ("folder", "smiyc", "roadanomaly")])
def test_images_without_their_masks_folder_are_another_layout(tmp_path: Path, layout: str) -> None:
    for folder in ("val", "leftImg8bit/val/city", "leftImg8bit/test/city", "images"):
        picture(tmp_path / folder / "a_leftImg8bit.png")
    fails(lambda: open_frames(tmp_path, layout), tmp_path, f"layout '{layout}', expected")


def test_unknown_layout(tmp_path: Path) -> None:
    fails(lambda: open_frames(tmp_path, "kitti"), "'kitti'", *LAYOUTS)


@pytest.mark.parametrize("split", ["", "..", "a/b"])
def test_bad_split(tmp_path: Path, split: str) -> None:
    fails(lambda: open_frames(tmp_path, "camvid", split=split), repr(split), "'val'")


def test_split_of_a_layout_without(trio: Frames) -> None:
    fails(lambda: open_frames(trio.path, split="val"), "'val'", "no split")


def test_folder_that_cannot_be_listed(trio: Frames, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(path: str) -> None:
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr(os, "scandir", refuse)
    fails(lambda: open_frames(trio.path), trio.path / "images", "cannot be listed (Permission denied)")


# ----------------------------------------------------------------------------------------------------------
# content hash


def test_digest(tmp_path: Path) -> None:
    for place in ("one", "two"):
        picture(tmp_path / place / "images" / f"{place}.png")
        mask(tmp_path / place / "labels" / f"{place}.png", 0, 1)
    frame = open_frames(tmp_path / "one")[0]
    same = frame.digest()
    assert same == frame.digest() == open_frames(tmp_path / "two")[0].digest()
    assert len(bytes.fromhex(same)) == 16
    seen = {same, open_frames(tmp_path / "one", labels={0: 1, 1: 0})[0].digest()}
    (tmp_path / "one" / "labels").rename(tmp_path / "one" / "anomalies")
    seen.add(open_frames(tmp_path / "one")[0].digest())
    mask(tmp_path / "one" / "anomalies" / "one.png", 1, 0)
    seen.add(open_frames(tmp_path / "one")[0].digest())
    (tmp_path / "one" / "anomalies" / "one.png").unlink()
    (tmp_path / "one" / "anomalies").rmdir()
    seen.add(open_frames(tmp_path / "one")[0].digest())
    picture(tmp_path / "one" / "images" / "one.png", 5, 5)
    seen.add(open_frames(tmp_path / "one")[0].digest())
    assert len(seen) == 6


# ----------------------------------------------------------------------------------------------------------
# real frames


def real(name: str, layout: str) -> Frames:
    """Open a real set, or skip."""
    root = os.environ.get("GRADUNC_REAL_DATA")
    if not root:
        pytest.skip("GRADUNC_REAL_DATA is not set: no real frames")
    return open_frames(Path(root) / name, layout)


@pytest.mark.parametrize(
    ("name", "count", "size", "suffix", "labelled", "anomalous"),
    [
        ("dataset_AnomalyTrack", 10, (720, 1280), "jpeg", 8_895_093, 0.1481),
        ("dataset_ObstacleTrack", 15, (1080, 1920), "webp", 10_600_662, 0.0034),
    ],
)
def test_real_anomalies(
    name: str, count: int, size: tuple[int, int], suffix: str, labelled: int, anomalous: float
) -> None:
    frames = real(name, "smiyc")
    assert len(frames) == count
    assert {frame.size for frame in frames} == {size}
    assert {frame.image_format for frame in frames} == {suffix}
    assert frames[0].image.shape == (*size, 3)
    pixels = np.zeros(256, np.int64)
    for frame in frames:
        assert frame.anomaly is not None
        assert frame.label is None
        pixels += np.bincount(frame.anomaly.ravel(), minlength=256)
    assert set(np.flatnonzero(pixels)) == {0, 1, 255}
    assert pixels[0] + pixels[1] == labelled
    assert pixels[1] / labelled == pytest.approx(anomalous, abs=5e-5)
    assert len({frame.digest() for frame in frames}) == count


def test_real_camvid() -> None:
    frames = real("CamVid", "camvid")
    assert len(frames) == 34
    assert {frame.size for frame in frames} == {(360, 480)}
    pixels = np.zeros(256, np.int64)
    for frame in frames:
        assert frame.label is not None
        pixels += np.bincount(frame.label.ravel(), minlength=256)
    assert set(np.flatnonzero(pixels)) == {*range(11), 255}
    assert pixels[:11].sum() == 5_778_956
    assert frames[0].image.shape == (360, 480, 3)
