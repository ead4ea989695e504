"""Files of any names, by patterns of their paths."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from tiny_images import HEIGHT, WIDTH, fails, mask, picture

import gradunc_viz as gv
from gradunc_viz.cli.main import main
from gradunc_viz.datasets.bands import as_picture, read_bands
from gradunc_viz.datasets.frames import open_frames
from gradunc_viz.datasets.layouts import pattern_layout


@pytest.fixture
def field(tmp_path: Path) -> Path:
    root = tmp_path / "field [1]"
    for part, name in (("north", "7"), ("north", "10"), ("south", "x y")):
        picture(root / "a" / part / f"x_{name}.tif")
        mask(root / "masks" / f"{name}_gt.png", 0, 1, 2)
        mask(root / "odd" / f"{name}.png", 0, 1)
        mask(root / "cloud" / part / f"{name}.png", 0, 0, 0, 7)
    return root


def test_images_and_masks(field: Path) -> None:
    layout = pattern_layout(
        "a/*/x_{id}.tif", "masks/{id}_gt.png", "odd/{id}.p?g", ignore="**/cloud/*/{id}.png", region=None
    )
    frames = open_frames(field, layout)
    assert frames.ids == ("7", "10", "x y")
    assert frames.layout == "pattern"
    clouds = np.resize([0, 0, 0, 7], (HEIGHT, WIDTH)) != 0
    label = np.resize([0, 1, 2], (HEIGHT, WIDTH))
    np.testing.assert_array_equal(frames["7"].label, np.where(clouds, 255, label))
    np.testing.assert_array_equal(frames["7"].anomaly, np.where(clouds, 255, np.resize([0, 1], (HEIGHT, WIDTH))))
    before = frames["7"].digest()
    mask(field / "cloud/north/7.png", 0)
    assert frames["7"].digest() != before
    region = open_frames(field, pattern_layout("a/*/x_{id}.tif", "masks/{id}_gt.png", region="odd/{id}.png"))
    np.testing.assert_array_equal(region["10"].label == 255, np.resize([True, False], (HEIGHT, WIDTH)))
    assert region["10"].anomaly is None


def test_patterns_that_lead_elsewhere(field: Path, tmp_path: Path) -> None:
    images = tmp_path / "{id} *"
    for name in ("7", "10", "x y"):
        picture(images / f"{name}.png")
    said = open_frames(images, pattern_layout("{id}.png", "../field [1]/masks/{id}_gt.png"))
    assert said.ids == ("7", "10", "x y")
    assert said["7"].label_path == field / "masks" / "7_gt.png"
    assert open_frames(images, pattern_layout("./{id}.png", f"{field}/masks/{{id}}_gt.png"))["10"].label is not None


def test_an_id_that_stands_twice(tmp_path: Path) -> None:
    for path in ("s1/s1_img.png", "s2/s2_img.png", "s2/s3_img.png"):
        picture(tmp_path / path)
    assert open_frames(tmp_path, pattern_layout("{id}/{id}_img.png")).ids == ("s1", "s2")


@pytest.mark.parametrize(
    ("pattern", "parts"),
    [
        ("a/*.tif", ("'a/*.tif'", "says nowhere", "expected {id}")),
        ("a/{name}/{id}.tif", ("placeholder {name}", "expected {id}")),
        ("a/{id.tif", ("placeholder {id.tif",)),
    ],
)
def test_patterns_that_are_none(pattern: str, parts: tuple[str, ...]) -> None:
    fails(lambda: pattern_layout(pattern), *parts)
    fails(lambda: pattern_layout("{id}.png", pattern), "labels", *parts)


def test_patterns_that_match_twice_or_never(field: Path) -> None:
    picture(field / "a" / "south" / "x_7.tif")
    fails(
        lambda: open_frames(field, pattern_layout("a/*/x_{id}.tif")),
        *("'a/*/x_{id}.tif'", "files a/north/x_7.tif, a/south/x_7.tif", "frame '7'", "expected one"),
    )
    (field / "a" / "south" / "x_7.tif").unlink()
    mask(field / "masks" / "7_gt.tif", 0)
    fails(
        lambda: open_frames(field, pattern_layout("a/*/x_{id}.tif", "masks/{id}_gt.*")),
        *("files masks/7_gt.png, masks/7_gt.tif", "frame '7'"),
    )
    fails(
        lambda: open_frames(field, pattern_layout("b/{id}.tif")), "layout 'pattern'", "b/{id}.tif", "found entries a/"
    )
    fails(
        lambda: open_frames(field, pattern_layout("a/*/x_{id}.tif", "masks/{id}.png")),
        *("labels 'masks/{id}.png'", "no image such as '7'", "found ids 7_gt, 10_gt"),
    )
    fails(lambda: open_frames(field, pattern_layout("a/*/x_{id}.tif", "no/{id}.png")), "matches no file")


def test_masks_without_an_image_are_named(field: Path) -> None:
    mask(field / "masks" / "99_gt.png", 0)
    with pytest.warns(UserWarning, match=r"labels 'masks/\{id\}_gt.png': mask 99 without an image not used"):
        open_frames(field, pattern_layout("a/*/x_{id}.tif", "masks/{id}_gt.png"))


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
@pytest.mark.parametrize("planes", ["contig", "separate"])
def test_bands_of_a_geotiff(planes: str, dtype: type, tmp_path: Path) -> None:
    tifffile = pytest.importorskip("tifffile")
    (tmp_path / "scenes").mkdir()
    path = tmp_path / "scenes" / "s2_T32.tif"
    pixels = np.random.default_rng(0).integers(0, 256, (32, 48, 6)).astype(dtype)
    stored_as = pixels if planes == "contig" else np.moveaxis(pixels, 2, 0)
    tifffile.imwrite(path, stored_as, photometric="minisblack", planarconfig=planes, tile=(16, 16))
    stored = mask(tmp_path / "truth" / "T32.tif", 0, 4, 255, height=32, width=48)
    frame = open_frames(tmp_path, pattern_layout("scenes/s2_{id}.tif", "truth/{id}.tif"))["T32"]
    assert frame.size == (32, 48)
    np.testing.assert_array_equal(frame.label, stored)
    np.testing.assert_array_equal(read_bands(path, 6), pixels)
    for channels in (1, 3):
        fails(lambda channels=channels: read_bands(path, channels), path, f"expected (height, width, {channels})")
    shown = as_picture(path, pixels)
    assert shown is not None
    assert shown[0].shape == (32, 48, 3)


def test_on_the_command_line(field: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    net = tmp_path / "net.py"
    net.write_text("from tiny import TinyNet\ndef make():\n    return TinyNet().eval()\n")
    mapping = tmp_path / "labels.json"
    mapping.write_text('{"0": 1, "1": 0, "2": null}')
    command = ["compute", "--data", field, "--images", "a/*/x_{id}.tif", "--model", f"{net}:make", "--scores", "msp"]
    said = ["--labels", "masks/{id}_gt.png", "--labels", mapping, "--anomaly-ids", "2", "--quiet"]
    assert main(list(map(str, [*command, *said, "--out", tmp_path / "cache"]))) == 0
    frame = gv.open_cache(tmp_path / "cache")["7"]
    np.testing.assert_array_equal(frame["label"], np.resize([1, 0, 255], (HEIGHT, WIDTH)))
    np.testing.assert_array_equal(frame["anomaly"], np.resize([0, 0, 1], (HEIGHT, WIDTH)))

    def error(*options: object) -> str:
        capsys.readouterr()
        assert main(list(map(str, [*command, *options, "--out", tmp_path / "other"]))) == 1
        return capsys.readouterr().err

    assert "masks/{id}_gt.png and masks/{id}.png: expected one file of a mapping" in error(
        *("--labels", "masks/{id}_gt.png", "--labels", "masks/{id}.png")
    )
    assert "--layout smiyc beside --images" in error("--layout", "smiyc")
    command[3:5] = []
    assert "--region r/{id}.png: a pattern of masks, expected --images" in error("--region", "r/{id}.png")
    assert "--labels l/{id}.png: a pattern of masks, expected --images" in error("--labels", "l/{id}.png")
