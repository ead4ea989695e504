"""Published sets in miniature: where files lie, what ids mean, what is ignored."""

from __future__ import annotations

import json
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
from tiny_images import HEIGHT, WIDTH, fails, mask, picture

from gradunc_viz.datasets.frames import open_frames
from gradunc_viz.datasets.layouts import LAYOUTS

IGNORE = 255


class Tree(NamedTuple):
    """One frame of a set: its files, the id it gets, and stored id -> id."""

    layout: str
    image: str
    mask: str
    id: str
    labels: dict[int, int] | None = None
    anomalies: dict[int, int] | None = None
    unknown: int | None = None  # an id that is an error
    split: str | None = None


SAME = {id: id for id in range(19)} | {IGNORE: IGNORE}
CITY = {0: IGNORE, 7: 0, 8: 1, 26: 13, 33: 18, IGNORE: IGNORE}
TREES = (
    Tree(
        *("streethazards", "test/images/test/t5/300.png", "test/annotations/test/t5/300.png", "t5__300"),
        {0: IGNORE, 1: 0, 13: 12, 14: IGNORE},
        {0: IGNORE, 1: 0, 13: 0, 14: 1},
        15,
    ),
    Tree(
        *("streethazards", "train/images/validation/t1/7.png", "train/annotations/validation/t1/7.png", "t1__7"),
        {2: 1},
        {2: 0},
        split="validation",
    ),
    Tree(
        *("bddanomaly", "images/10k/val/a-1.jpg", "labels/sem_seg/masks/val/a-1.png", "a-1"),
        {0: 0, 15: 15, 16: IGNORE, 17: IGNORE, 18: IGNORE, IGNORE: IGNORE},
        {0: 0, 15: 0, 16: 1, 17: 1, 18: 1, IGNORE: IGNORE},
        19,
    ),
    Tree("bdd100k", "bdd100k/images/10k/val/a.jpg", "bdd100k/labels/sem_seg/masks/val/a.png", "a", SAME, unknown=19),
    Tree("bdd100k", "seg/images/train/a.jpg", "seg/labels/train/a_train_id.png", "a", SAME, split="train"),
    Tree(
        *("muad", "test_ood/leftImg8bit/01_leftImg8bit.png", "test_ood/leftLabel/01_leftLabel.png", "01"),
        {0: 0, 11: 11, 12: IGNORE, 13: 12, 15: 14, 16: IGNORE, 20: IGNORE, 21: IGNORE, IGNORE: IGNORE},
        {0: 0, 11: 0, 12: 1, 13: 0, 15: 0, 16: 1, 20: 1, 21: IGNORE, IGNORE: IGNORE},
        22,
    ),
    Tree("muad", "test_sets/test_OOD/leftImg8bit/x.png", "test_sets/test_OOD/leftLabel/x.png", "x", {0: 0}, {0: 0}),
    Tree("kitti", "training/image_2/000000_10.png", "training/semantic/000000_10.png", "000000_10", CITY, unknown=34),
    Tree("kitti", "data_semantics/training/image_2/1.png", "data_semantics/training/semantic/1.png", "1", CITY),
    Tree(
        *("mapillary", "validation/images/x.jpg", "validation/v1.2/labels/x.png", "x"),
        {0: 0, 64: 64, 65: IGNORE},
        unknown=66,
    ),
    Tree("mapillary", "validation/images/x.jpg", "validation/labels/x.png", "x", {0: 0, 65: IGNORE}),
    Tree(
        *("mapillary2", "training/images/x.jpg", "training/v2.0/labels/x.png", "x"),
        {0: 0, 122: 122, 123: IGNORE},
        unknown=124,
        split="training",
    ),
    Tree(
        *("ade20k", "images/validation/ADE_val_1.jpg", "annotations/validation/ADE_val_1.png", "ADE_val_1"),
        {0: IGNORE, 1: 0, 150: 149},
        unknown=151,
    ),
    Tree(
        "ade20k",
        "ADEChallengeData2016/images/training/ADE_train_1.jpg",
        "ADEChallengeData2016/annotations/training/ADE_train_1.png",
        "ADE_train_1",
        {0: IGNORE, 2: 1},
        split="training",
    ),
    Tree(
        *("cocostuff", "images/val2017/1.jpg", "annotations/val2017/1.png", "1"),
        {0: 0, 181: 181, IGNORE: IGNORE},
        unknown=182,
    ),
    Tree("cocostuff", "train2017/1.jpg", "stuffthingmaps/train2017/1.png", "1", {0: 0}, split="train2017"),
    Tree(
        *("loveda", "Val/Rural/images_png/3.png", "Val/Rural/masks_png/3.png", "Rural__3"),
        {0: IGNORE, 1: 0, 7: 6},
        unknown=8,
    ),
    Tree(
        *("loveda", "Train/Train/Urban/images_png/3.png", "Train/Train/Urban/masks_png/3.png", "Urban__3"),
        {1: 0},
        split="Train",
    ),
    Tree("mmseg", "img_dir/val/a/1.jpg", "ann_dir/val/a/1.png", "a__1", {0: 0, 200: 200, IGNORE: IGNORE}),
    Tree("mmseg", "images/test/1.tif", "annotations/test/1.png", "1", {0: 0}, split="test"),
    Tree(
        *("fishyscapes", "fs_static_val/0001_rgb.jpg", "fs_static_val/0001_labels.png", "0001"),
        anomalies={0: 0, 1: 1, IGNORE: IGNORE},
        unknown=2,
    ),
)


def converted(stored: np.ndarray, table: dict[int, int]) -> np.ndarray:
    return np.vectorize(table.__getitem__)(stored)


@pytest.mark.parametrize("tree", TREES, ids=lambda tree: f"{tree.layout}-{tree.mask}")
def test_files_and_ids(tree: Tree, tmp_path: Path) -> None:
    picture(tmp_path / tree.image)
    stored = mask(tmp_path / tree.mask, *(tree.labels or tree.anomalies or {}))
    frames = open_frames(tmp_path, tree.layout, split=tree.split)
    assert frames.ids == (tree.id,)
    frame = frames[0]
    for found, table in ((frame.label, tree.labels), (frame.anomaly, tree.anomalies)):
        assert (found is None) == (table is None)
        if found is not None and table is not None:
            np.testing.assert_array_equal(found, converted(stored, table))
    assert (frame.label_path or frame.anomaly_path) == tmp_path / tree.mask
    assert (frame.anomaly_path is None) == (tree.anomalies is None)
    if tree.unknown is not None:
        mask(tmp_path / tree.mask, 0, tree.unknown)
        fails(lambda: (frame.label, frame.anomaly), tmp_path / tree.mask, f"id {tree.unknown}")


def test_every_layout_has_a_miniature() -> None:
    elsewhere = {"folder", "smiyc", "course", "camvid", "cityscapes", "lostandfound", "roadanomaly", "drive", "voc"}
    elsewhere |= {"video", "sequence", "table"}
    assert {tree.layout for tree in TREES} | elsewhere == set(LAYOUTS)


@pytest.mark.parametrize("below", [".", "VOC2012", "VOCdevkit/VOC2012"])
def test_voc(below: str, tmp_path: Path) -> None:
    root = tmp_path / below
    for name in ("2007_000033", "2007_000042", "2008_000001"):
        picture(root / "JPEGImages" / f"{name}.jpg")
    from PIL import Image

    for name in ("2007_000033", "2008_000001"):
        stored = np.resize(np.array([0, 1, 20, 255], np.uint8), (HEIGHT, WIDTH))
        image = Image.fromarray(stored, "P")
        image.putpalette([value for index in range(256) for value in (index, 255 - index, 7)])
        (root / "SegmentationClass").mkdir(exist_ok=True)
        image.save(root / "SegmentationClass" / f"{name}.png")
    listed = root / "ImageSets" / "Segmentation" / "val.txt"
    listed.parent.mkdir(parents=True)
    listed.write_text("2007_000033\n")
    frames = open_frames(tmp_path, "voc")
    assert frames.ids == ("2007_000033",)
    np.testing.assert_array_equal(frames[0].label, stored)
    listed.write_text("2007_000033\n2011_000003\n")
    fails(lambda: open_frames(tmp_path, "voc"), listed, "image 2011_000003", "JPEGImages")
    fails(lambda: open_frames(tmp_path, "voc", split="train"), "Segmentation/train.txt")


def test_what_mapillary_itself_does_not_evaluate(tmp_path: Path) -> None:
    picture(tmp_path / "validation/images/x.jpg")
    mask(tmp_path / "validation/v1.2/labels/x.png", 0, 63, 65)
    config = tmp_path / "config_v1.2.json"
    config.write_text(json.dumps({"labels": [{"evaluate": id < 63} for id in range(66)]}))
    label = open_frames(tmp_path, "mapillary")[0].label
    np.testing.assert_array_equal(label, np.resize([0, IGNORE, IGNORE], (HEIGHT, WIDTH)))
    config.write_text(json.dumps({"labels": [{"evaluate": True}]}))
    fails(lambda: open_frames(tmp_path, "mapillary"), config, "66 labels")


def test_frames_that_bdd_anomaly_lists(tmp_path: Path) -> None:
    for split, name in (("train", "a"), ("train", "b"), ("val", "c")):
        picture(tmp_path / f"images/10k/{split}/{name}.jpg")
        mask(tmp_path / f"labels/sem_seg/masks/{split}/{name}.png", 0, 16)
    assert open_frames(tmp_path, "bddanomaly").ids == ("c",)
    listed = tmp_path / "anom.odgt"
    entries = [{"fpath_img": f"seg/images/train/{name}.jpg", "fpath_segm": "x"} for name in "bc"]
    listed.write_text(json.dumps(entries))
    frames = open_frames(tmp_path, "bddanomaly")
    assert frames.ids == ("b", "c")
    assert set(np.unique(frames["b"].anomaly)) == {0, 1}
    listed.write_text(json.dumps([*entries, {"fpath_img": "seg/images/val/d.jpg"}]))
    fails(lambda: open_frames(tmp_path, "bddanomaly"), listed, "image d")
    listed.write_text("{}")
    fails(lambda: open_frames(tmp_path, "bddanomaly"), listed, "fpath_img")


def test_lost_and_found_without_known_objects(tmp_path: Path) -> None:
    kept = "02_Hanns_Klemm_Str_44_000000_000010"
    known = ("15_Rechbergstr_Deckenpfronn_000002_000040", "01_Hanns_Klemm_Str_45_000006_000050")
    for name in (kept, *known, "01_Hanns_Klemm_Str_45_000005_000050"):
        folder = name[: -len("_000000_000010")]
        picture(tmp_path / "leftImg8bit/test" / folder / f"{name}_leftImg8bit.png")
        mask(tmp_path / "gtCoarse/test" / folder / f"{name}_gtCoarse_labelIds.png", 0, 1, 2)
    assert len(open_frames(tmp_path, "lostandfound")) == 4
    frames = open_frames(tmp_path, "lostandfound", split="testNoKnown")
    assert frames.ids == ("01_Hanns_Klemm_Str_45_000005_000050", kept)
    np.testing.assert_array_equal(frames[kept].anomaly, np.resize([IGNORE, 0, 1], (HEIGHT, WIDTH)))


# --- what may be said of labels in any layout


def test_ids_that_count_from_one(tmp_path: Path) -> None:
    picture(tmp_path / "images/a.jpg")
    path = tmp_path / "labels/a.png"
    stored = mask(path, 0, 1, 150, IGNORE)
    frame = open_frames(tmp_path, reduce_zero_label=True)[0]
    np.testing.assert_array_equal(frame.label, converted(stored, {0: IGNORE, 1: 0, 150: 149, IGNORE: IGNORE}))
    fails(lambda: open_frames(tmp_path, reduce_zero_label=True, labels={0: 1}), "a mapping", "no reduce_zero_label")
    picture(tmp_path / "images/validation/x.jpg")
    mask(tmp_path / "annotations/validation/x.png", 0)
    fails(lambda: open_frames(tmp_path, "ade20k", reduce_zero_label=True), "'ade20k'", "no reduce_zero_label")
    path.unlink()
    (tmp_path / "labels").rmdir()
    (tmp_path / "annotations/validation/x.png").unlink()


def test_anomalies_as_classes_of_labels(tmp_path: Path) -> None:
    picture(tmp_path / "images/a.jpg")
    stored = mask(tmp_path / "labels/a.png", 0, 3, 13, 14, IGNORE)
    plain = open_frames(tmp_path)[0]
    frame = open_frames(tmp_path, anomaly_ids=(13, 14))[0]
    np.testing.assert_array_equal(frame.label, converted(stored, {0: 0, 3: 3, **dict.fromkeys((13, 14, 255), IGNORE)}))
    np.testing.assert_array_equal(frame.anomaly, converted(stored, {0: 0, 3: 0, 13: 1, 14: 1, IGNORE: IGNORE}))
    assert frame.digest() != plain.digest()
    assert frame.anomaly_path == frame.label_path
    mapped = open_frames(tmp_path, anomaly_ids=[14], labels={0: 5, 3: None, 13: 2})[0]
    np.testing.assert_array_equal(mapped.label, converted(stored, {0: 5, 3: 255, 13: 2, 14: 255, 255: 255}))
    np.testing.assert_array_equal(mapped.anomaly, converted(stored, {0: 0, 3: 255, 13: 0, 14: 1, 255: 255}))
    mask(tmp_path / "anomalies/a.png", 0)
    fails(lambda: open_frames(tmp_path, anomaly_ids=[14]), "anomalies/a.png", "expected one of them")
    picture(tmp_path / "other/a.jpg")
    fails(lambda: open_frames(tmp_path / "other", anomaly_ids=[14]), "no class labels")


def test_anomalies_of_labels_of_more_than_255_ids(tmp_path: Path) -> None:
    picture(tmp_path / "images/a.jpg")
    stored = mask(tmp_path / "labels/a.png", 0, 300, 400, 65535, dtype=np.uint16)
    frame = open_frames(tmp_path, anomaly_ids=[300])[0]
    np.testing.assert_array_equal(frame.label, np.where(stored == 300, 65535, stored))
    np.testing.assert_array_equal(frame.anomaly, converted(stored, {0: 0, 300: 1, 400: 0, 65535: IGNORE}))
