"""Mappings of ids that a user writes, and class ids of any number."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from tiny_images import HEIGHT, WIDTH, convert, fails, mask, picture

from gradunc_viz.datasets.conventions import ANOMALY_IDS, CLASS_IDS, class_ids, read_mapping, some
from gradunc_viz.datasets.frames import Frames, open_frames
from gradunc_viz.schema.errors import FrameError


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
        ("\x80", ["not a text in UTF-8"]),
        ("[1, 2]", ["expected an object", "list"]),
        ("{}", ["maps no id"]),
        ('{"road": 1}', ["key 'road'", "integer"]),
        ('{"1": 65536}', ["id 1", "65536", "0..254"]),
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


def test_a_mapping_ignores_what_is_null_and_255(tmp_path: Path) -> None:
    picture(tmp_path / "images" / "a.png")
    stored = mask(tmp_path / "labels" / "a.png", 0, 1, 2, 255)
    frames = open_frames(tmp_path, labels={"0": 1, "1": None, "2": 255})
    np.testing.assert_array_equal(frames[0].label, convert(stored, {0: 1, 1: 255, 2: 255}))


def test_a_mapping_of_anomalies(tmp_path: Path) -> None:
    """Black and white masks: 255 is an unknown object where a mapping says so."""
    picture(tmp_path / "images" / "a.png")
    stored = mask(tmp_path / "anomalies" / "a.png", 0, 255)
    frames = open_frames(tmp_path, anomalies={0: 0, 255: 1})
    np.testing.assert_array_equal(frames[0].anomaly, convert(stored, {255: 1}))
    fails(lambda: open_frames(tmp_path, anomalies={0: 0, 255: 2}), "maps to id 2", "0 (known), 1 (anomaly)")
    fails(lambda: open_frames(tmp_path, labels={0: 0}), "no class labels")
    (tmp_path / "anomalies" / "a.png").unlink()
    (tmp_path / "anomalies").rmdir()
    fails(lambda: open_frames(tmp_path, anomalies={0: 0}), "no anomaly masks")


def test_a_mapping_to_many_classes(tmp_path: Path) -> None:
    """With ids beyond 254 the class 255 is one like any other, and 65535 is ignored."""
    picture(tmp_path / "images" / "a.png")
    stored = mask(tmp_path / "labels" / "a.png", 0, 1, 2)
    label = open_frames(tmp_path, labels={0: 255, 1: 847, 2: None})[0].label
    assert label is not None
    assert label.dtype == np.uint16
    np.testing.assert_array_equal(label, np.array([255, 847, 65535])[stored])


@pytest.mark.parametrize(("n_classes", "dtype"), [(19, np.uint8), (255, np.uint8), (256, np.uint16), (1000, np.uint16)])
def test_ids_of_any_number_of_classes(n_classes: int, dtype: type, tmp_path: Path) -> None:
    last = n_classes - 1
    for stored_type in (np.uint8, np.uint16):
        whole = np.iinfo(stored_type).max
        stored = np.array([[0, min(last, 254), whole]], stored_type)
        ids = class_ids(n_classes)(stored, tmp_path)
        assert ids.dtype == dtype
        np.testing.assert_array_equal(ids, [[0, min(last, 254), np.iinfo(dtype).max]])
    deep = np.array([[255, last]], np.uint16)
    ids = class_ids(n_classes)(deep, tmp_path)
    np.testing.assert_array_equal(ids, [[255, last]])  # ignored up to 255 classes, a class of more
    with pytest.raises(FrameError, match="id 1000, expected"):
        class_ids(n_classes)(np.array([[1000]], np.uint16), tmp_path)


def test_conversions_one_after_the_other(tmp_path: Path) -> None:
    swapped = read_mapping({4: 0, 7: 1, 9: 2}).then({0: 1, 1: None}, "what is left")
    stored = np.array([[4, 7, 255]], np.uint8)
    np.testing.assert_array_equal(swapped(stored, tmp_path), [[1, 255, 255]])
    with pytest.raises(FrameError, match="id 9, expected what is left"):
        swapped(np.array([[9]], np.uint8), tmp_path)


def test_hashes_of_conversions_stay() -> None:
    """They are part of the content hash of frames in caches."""
    assert CLASS_IDS.key == json.dumps([[value, value] for value in range(256)])
    assert ANOMALY_IDS.key == "[[0, 0], [1, 1], [255, 255]]"
    assert read_mapping({3: 0}).key == "[[3, 0], [255, 255]]"


def test_masks_of_16_bits(tmp_path: Path) -> None:
    picture(tmp_path / "images" / "a.png")
    for ids, dtype in (((0, 18, 254, 255, 65535), np.uint8), ((0, 255, 300, 65535), np.uint16)):
        stored = mask(tmp_path / "labels" / "a.png", *ids, dtype=np.uint16)
        label = open_frames(tmp_path)[0].label
        assert label is not None
        assert label.dtype == dtype
        assert label.shape == (HEIGHT, WIDTH)
        np.testing.assert_array_equal(label, np.minimum(stored, np.iinfo(dtype).max))
    names = [f"c{i}" for i in range(300)]
    (tmp_path / "classes.json").write_text(json.dumps(names))
    mask(tmp_path / "labels" / "a.png", 255, dtype=np.uint16)
    label = open_frames(tmp_path)[0].label
    assert label is not None
    assert label.dtype == np.uint16
    assert np.unique(label) == [255]
    (tmp_path / "classes.json").write_text(json.dumps(names[:20]))
    mask(tmp_path / "labels" / "a.png", 0, 20, dtype=np.uint16)
    fails(lambda: open_frames(tmp_path)[0].label, tmp_path / "labels" / "a.png", "class id 20", "0..19")


@pytest.mark.parametrize(
    ("noun", "several"), [("frame", "frames a, b"), ("class", "classes a, b"), ("copy", "copies a, b")]
)
def test_several_of_a_noun(noun, several):
    assert some(noun, ["a"]) == f"{noun} a"
    assert some(noun, ["a", "b"]) == several
