"""Every layout from tiny trees, one from outside the package, what goes wrong, the real sets where they are at hand."""

from __future__ import annotations

import json
import os
import re
import unicodedata
from pathlib import Path

import numpy as np
import pytest
from foreign import litter
from PIL import Image
from tiny import TinyNet, write_set
from tiny_images import HEIGHT, WIDTH, convert, fails, mask, one_line, picture

import gradunc_viz as gv
from gradunc_viz.cli.main import main
from gradunc_viz.datasets.catalog import known_classes
from gradunc_viz.datasets.conventions import CLASS_IDS
from gradunc_viz.datasets.frames import Frames, open_frames
from gradunc_viz.datasets.layouts import LAYOUTS, FrameFiles, Layout, images_in, masks_of, register_layout
from gradunc_viz.schema.errors import FrameError

# --- what a user writes


def find(root: Path, split: str) -> list[FrameFiles]:
    images = images_in(root / split / "rgb")
    masks = masks_of(images, root / split / "ids", {"{}.png": CLASS_IDS})
    return [FrameFiles(name, image, masks.get(name)) for name, image in images.items()]


MINE = Layout("mine", "ours; class ids 0..3", "{split}/rgb/NAME.png, {split}/ids/NAME.png", find, split="night")

# ---


@pytest.fixture
def mine(monkeypatch: pytest.MonkeyPatch) -> Layout:
    monkeypatch.setattr(LAYOUTS, "_items", dict(LAYOUTS._items))
    return register_layout(MINE)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    made = write_set(tmp_path / "night", anomalies=False)
    (made / "images").rename(made / "rgb")
    (made / "labels").rename(made / "ids")
    return tmp_path


def test_a_layout_of_ones_own(mine: Layout, folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    frames = gv.open_frames(folder, "mine")
    assert frames.ids == ("f00", "f01", "f02", "f03")
    assert frames.layout == "mine"
    assert frames[0].label is not None
    cache = gv.compute(TinyNet().eval(), frames, tmp_path / "cache", scores="msp", progress=False)
    assert float(gv.evaluate(cache, "error", scores=["msp"])["auroc"].min()) > 0

    net = tmp_path / "net.py"
    net.write_text("from tiny import TinyNet\ndef make():\n    return TinyNet().eval()\n")
    command = ["compute", "--data", folder, "--layout", "mine", "--model", f"{net}:make", "--scores", "msp"]
    assert main(list(map(str, [*command, "--out", tmp_path / "other", "--quiet"]))) == 0
    assert gv.open_cache(tmp_path / "other").ids == frames.ids
    capsys.readouterr()
    assert main(["layouts"]) == 0
    assert "ours; class ids 0..3" in capsys.readouterr().out
    with pytest.raises(SystemExit):
        main(["compute", "--help"])
    assert "table, mine" in " ".join(capsys.readouterr().out.split())
    assert (
        main(list(map(str, ["import", tmp_path, "--data", folder, "--layout", "your", "--out", tmp_path / "no"]))) == 1
    )
    assert "table, mine" in capsys.readouterr().err


def test_a_name_is_taken_once(mine: Layout) -> None:
    with pytest.raises(FrameError, match="layout 'mine' is registered already"):
        register_layout(MINE)


def test_layouts_describe_themselves() -> None:
    for name, layout in LAYOUTS.items():
        assert layout.name == name
        assert layout.tree
        assert "\n" not in layout.tree + layout.description
        assert ("{split}" in layout.tree) == (layout.split is not None)


# --- the layouts of published sets


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


# --- folders that are not as they should be


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
    fails(lambda: open_frames(tmp_path, "semkitti"), "'semkitti'", *LAYOUTS)


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


# --- what is passed over, and in which order


@pytest.mark.parametrize("deep", [False, True], ids=["flat", "nested"])
def test_foreign_files_are_no_frames(tmp_path: Path, deep: bool) -> None:
    write_set(tmp_path / "set")
    for part in ("images", "labels", "anomalies") if deep else ():
        (tmp_path / "set" / part / "town").mkdir()
        (tmp_path / "set" / part / "f00.png").rename(tmp_path / "set" / part / "town/f00.png")
    before = open_frames(tmp_path / "set")
    litter(tmp_path / "set")
    after = open_frames(tmp_path / "set")
    assert after.ids == before.ids
    assert [frame.digest() for frame in after] == [frame.digest() for frame in before]


def test_frames_are_in_the_order_of_people(tmp_path: Path) -> None:
    for name in ("f10", "f9", "f1", "g2/1", "g10/2", "g10/10"):
        path = tmp_path / "images" / f"{name}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (2, 2)).save(path)
    assert open_frames(tmp_path).ids == ("f1", "f9", "f10", "g2__1", "g10__2", "g10__10")


def test_a_relative_folder_stays_where_it_was(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_set(tmp_path / "set")
    monkeypatch.chdir(tmp_path)
    frames = open_frames("set")
    monkeypatch.chdir("/")
    assert frames[0].image.shape == (48, 64, 3)
    assert frames[0].label is not None


# --- real frames


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


# --- masks, whatever they are called


def named(path: Path, *ids: int) -> np.ndarray:
    """A mask whose content is PNG, whatever its suffix."""
    pixels = np.resize(np.array(ids, np.uint8), (HEIGHT, WIDTH))
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path, "PNG")
    return pixels


@pytest.mark.parametrize("name", ["b.PNG", "b.tif", "b.TIFF", "b.bmp", "b.Bmp", "b.gif", "b.webp", "B.png", "b.pgm"])
def test_masks_of_any_suffix_and_case(name: str, tmp_path: Path) -> None:
    for image in ("a", "b"):
        picture(tmp_path / "images" / f"{image}.jpg")
    named(tmp_path / "labels" / "a.png", 0)
    stored = named(tmp_path / "labels" / name, 1, 255)
    named(tmp_path / "anomalies" / name, 1, 255)
    frames = open_frames(tmp_path)
    np.testing.assert_array_equal(frames["b"].label, stored)
    np.testing.assert_array_equal(frames["b"].anomaly, stored)


@pytest.mark.parametrize("suffix", ["gif", "bmp", "tif", "webp", "pgm"])
def test_ids_are_those_that_were_stored(suffix: str, tmp_path: Path) -> None:
    """Writers of GIF number the shades of grey anew."""
    picture(tmp_path / "images" / "a.jpg")
    stored = np.resize(np.array([3, 18, 255], np.uint8), (HEIGHT, WIDTH))
    (tmp_path / "labels").mkdir()
    if suffix == "webp":
        Image.fromarray(stored).save(tmp_path / "labels/a.webp", lossless=True)
        fails(lambda: open_frames(tmp_path)[0].label, "mode RGB")
    else:
        Image.fromarray(stored).save(tmp_path / f"labels/a.{suffix}")
        np.testing.assert_array_equal(open_frames(tmp_path)[0].label, stored)


def test_masks_in_another_unicode_form(tmp_path: Path) -> None:
    name = "Straßenübergang é"
    picture(tmp_path / "images" / f"{unicodedata.normalize('NFC', name)}.png")
    stored = named(tmp_path / "labels" / f"{unicodedata.normalize('NFD', name)}.png", 4)
    np.testing.assert_array_equal(open_frames(tmp_path)[0].label, stored)


def test_names_that_differ_in_case_alone_keep_their_masks(tmp_path: Path) -> None:
    for image in ("a", "A"):
        picture(tmp_path / "images" / f"{image}.jpg")
    lower = named(tmp_path / "labels" / "a.png", 1)
    frames = open_frames(tmp_path)
    assert frames["A"].label is None
    np.testing.assert_array_equal(frames["a"].label, lower)
    upper = named(tmp_path / "labels" / "A.tif", 2)
    np.testing.assert_array_equal(open_frames(tmp_path)["A"].label, upper)


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("c.png", "no image 'c'"),
        ("sub/c.tif", "no image 'sub/c'"),
        ("a.tif", "a.png is"),
        ("A.png", "a.png is"),
        ("b.jpg", "JPEG changes ids"),
        ("b.npy", "expected one of .png"),
        ("a2.png", "no image 'a2'"),
    ],
)
def test_masks_that_are_not_used_are_named(name: str, reason: str, tmp_path: Path) -> None:
    for image in ("a", "b"):
        picture(tmp_path / "images" / f"{image}.jpg")
    for folder in ("labels", "anomalies"):
        named(tmp_path / folder / "a.png", 0)
        named(tmp_path / folder / name, 0)
        with pytest.warns(UserWarning, match=rf"{folder}: mask {re.escape(name)} \({re.escape(reason)}.*\) not used"):
            assert open_frames(tmp_path)["a"].label_path == tmp_path / "labels" / "a.png"
        (tmp_path / folder / name).unlink()


def test_what_lies_beside_a_mask_is_no_mask(tmp_path: Path) -> None:
    for image in ("a", "b"):
        picture(tmp_path / "images" / f"{image}.jpg")
    for name in ("a.png", "a_color.png", "a-overlay.jpg", "a.json", "readme.txt"):
        named(tmp_path / "labels" / name, 0)
    assert open_frames(tmp_path)["b"].label is None


def test_no_mask_that_fits_says_what_was_found(tmp_path: Path) -> None:
    picture(tmp_path / "leftImg8bit" / "val" / "x" / "x_1_leftImg8bit.png")
    named(tmp_path / "gtFine" / "val" / "x" / "x_1_gtFine_color.png", 0)
    for layout in ("cityscapes",):
        with pytest.raises(FrameError) as error:
            open_frames(tmp_path, layout)
        one_line(error, "no mask fits", "x_1_gtFine_labelIds.png", "image 'x/x_1'", "found file x/x_1_gtFine_color.png")
        assert "{}" not in str(error.value)


def test_folders_in_any_case(tmp_path: Path) -> None:
    picture(tmp_path / "Images" / "a.JPG")
    label, anomaly = named(tmp_path / "Labels" / "a.png", 3), named(tmp_path / "Anomalies" / "a.png", 1)
    frames = open_frames(tmp_path)
    np.testing.assert_array_equal(frames["a"].label, label)
    np.testing.assert_array_equal(frames["a"].anomaly, anomaly)
    (tmp_path / "masks").mkdir()
    fails(lambda: open_frames(tmp_path), "folders Labels, masks")


def test_folders_that_may_hold_masks_are_named(tmp_path: Path) -> None:
    picture(tmp_path / "images" / "a.jpg")
    named(tmp_path / "GT" / "a.png", 3)
    named(tmp_path / "my_labels" / "a.png", 3)
    with pytest.warns(
        UserWarning, match=r"folders GT, my_labels not used; class labels are looked for in labels, masks"
    ):
        assert open_frames(tmp_path)[0].label is None
    named(tmp_path / "labels" / "a.png", 3)
    assert open_frames(tmp_path)[0].label is not None


def test_copies_of_smiyc_for_courses(tmp_path: Path) -> None:
    picture(tmp_path / "images" / "0.jpg")
    stored = named(tmp_path / "labels_masks" / "0.png", 0, 1, 255)
    np.testing.assert_array_equal(open_frames(tmp_path, "smiyc")[0].anomaly, stored)
    named(tmp_path / "labels_masks" / "0.png", 0, 2)
    fails(lambda: open_frames(tmp_path, "smiyc")[0].anomaly, "id 2", "0 (known), 1 (anomaly)")
    unknown = open_frames(tmp_path, "smiyc", anomalies={0: 0, 2: 1})[0].anomaly
    assert np.unique(unknown).tolist() == [0, 1]  # type: ignore[arg-type]


@pytest.mark.parametrize("folder", ["", "training"])
def test_drive(folder: str, tmp_path: Path) -> None:
    root = tmp_path / folder
    picture(root / "images" / "21_training.tif")
    picture(root / "images" / "22_training.tif")
    for path, pixels in (
        (root / "1st_manual" / "21_manual1.gif", [[0, 255, 0, 255]]),
        (root / "mask" / "21_training_mask.gif", [[255, 255, 0, 0]]),
    ):
        path.parent.mkdir()
        Image.fromarray(np.resize(np.array(pixels, np.uint8), (HEIGHT, WIDTH))).save(path)
    frames = open_frames(tmp_path, "drive", split="training")
    assert frames.ids == ("21_training", "22_training")
    assert frames.classes == ("background", "vessel")
    np.testing.assert_array_equal(frames[0].label, np.resize([0, 1, 255, 255], (HEIGHT, WIDTH)))
    assert frames[1].label is None
    before = frames[0].digest()
    Image.fromarray(np.full((HEIGHT, WIDTH), 255, np.uint8)).save(root / "mask" / "21_training_mask.gif")
    assert frames[0].digest() != before
    np.testing.assert_array_equal(frames[0].label, np.resize([0, 1], (HEIGHT, WIDTH)))
    Image.fromarray(np.full((HEIGHT, WIDTH + 1), 255, np.uint8)).save(root / "mask" / "21_training_mask.gif")
    fails(lambda: frames[0].label, "21_training_mask.gif", f"{HEIGHT} x {WIDTH + 1}")


def test_masks_that_are_jpeg(tmp_path: Path) -> None:
    picture(tmp_path / "images" / "a.jpg")
    (tmp_path / "labels").mkdir()
    Image.fromarray(np.zeros((HEIGHT, WIDTH), np.uint8)).save(tmp_path / "labels" / "a.png", "JPEG")
    fails(lambda: open_frames(tmp_path)[0].label, "a.png", "JPEG", "lossless")


@pytest.mark.parametrize("layout", ["smiyc", "camvid", "lostandfound", "roadanomaly"])
def test_every_layout_takes_masks_of_any_suffix(layout: str, tmp_path: Path) -> None:
    image, found = {
        "smiyc": ("images/a.jpg", "labels_masks/a_labels_semantic.TIF"),
        "camvid": ("val/a.png", "valannot/a.gif"),
        "lostandfound": ("leftImg8bit/test/x/a_leftImg8bit.png", "gtCoarse/test/x/a_gtCoarse_labelIds.bmp"),
        "roadanomaly": ("frames/a.jpg", "frames/a.labels/labels_semantic.PNG"),
    }[layout]
    picture(tmp_path / image)
    named(tmp_path / found, 1)
    frame = open_frames(tmp_path, layout)[0]
    assert (frame.label_path or frame.anomaly_path) == tmp_path / found
