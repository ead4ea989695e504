"""Class ids and names: mappings that a user writes, and one reader of class files, whoever asks."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tiny import write_set
from tiny_images import convert, fails, mask, picture

import gradunc_viz as gv
from gradunc_viz.datasets.catalog import known_classes
from gradunc_viz.datasets.class_files import find_classes, read_classes
from gradunc_viz.datasets.frames import Frames, open_frames
from gradunc_viz.schema.errors import FrameError, GraduncError

NAMES = ("road", "car", "sky", "tree")
COLORS = ((1, 2, 3), (4, 5, 6), (7, 8, 9), (10, 11, 12))

FORMS: dict[str, Any] = {
    "entries": [{"id": i, "name": n, "color": list(c)} for i, (n, c) in enumerate(zip(NAMES, COLORS, strict=True))],
    "entries without colours": [{"id": i, "name": n} for i, n in reversed(list(enumerate(NAMES)))],
    "names": list(NAMES),
    "names by id": {"3": "tree", "0": "road", "1": "car", "2": "sky", "255": "void"},
}


@pytest.mark.parametrize("form", FORMS)
def test_folders_and_the_command_line_read_the_same_files(form: str, tmp_path: Path) -> None:
    path = write_set(tmp_path / "set") / "classes.json"
    path.write_text(json.dumps(FORMS[form]))
    expected = (NAMES, COLORS if form == "entries" else None)
    assert read_classes(path) == find_classes(str(path)) == expected
    frames = gv.open_frames(path.parent)
    assert (frames.classes, frames.colors) == expected


def test_a_convention_by_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    names, colors = find_classes("camvid")
    assert tuple(zip(names, colors or (), strict=True)) == known_classes("camvid")
    monkeypatch.chdir(tmp_path)
    Path("mine").write_text('["a", "b"]')
    assert find_classes("mine") == (("a", "b"), None)


@pytest.mark.parametrize(
    ("content", "parts"),
    [
        ("{", ["not JSON"]),
        ('{"road": 0}', ['{"road": 0}', "expected a list"]),
        ('["road", "road"]', ["names road, road", "different"]),
        ('[{"id": 0, "name": "road", "color": [1, 2]}]', ["'road'", "[1, 2]"]),
    ],
)
def test_errors_name_the_file_and_the_value(content: str, parts: list[str], tmp_path: Path) -> None:
    path = tmp_path / "classes.json"
    path.write_text(content)
    with pytest.raises(FrameError) as error:
        find_classes(path)
    assert all(part in str(error.value) for part in [str(path), *parts])
    assert "\n" not in str(error.value)


def test_what_is_neither_a_name_nor_a_file() -> None:
    with pytest.raises(GraduncError, match="unknown label convention 'kitti': expected one of cityscapes"):
        find_classes("kitti")
    with pytest.raises(FrameError, match=r"none\.json: cannot be read"):
        find_classes("none.json")


# --- what opening a folder makes of them


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
