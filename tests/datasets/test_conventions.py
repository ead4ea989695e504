"""One reader of class tables, whoever asks and in whatever form they are written."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from tiny import write_set

import gradunc_viz as gv
from gradunc_viz.datasets.catalog import known_classes
from gradunc_viz.datasets.conventions import class_table, read_classes
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
    assert read_classes(path) == class_table(str(path)) == expected
    frames = gv.open_frames(path.parent)
    assert (frames.classes, frames.colors) == expected


def test_a_convention_by_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    names, colors = class_table("camvid")
    assert tuple(zip(names, colors or (), strict=True)) == known_classes("camvid")
    monkeypatch.chdir(tmp_path)
    Path("mine").write_text('["a", "b"]')
    assert class_table("mine") == (("a", "b"), None)


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
        class_table(path)
    assert all(part in str(error.value) for part in [str(path), *parts])
    assert "\n" not in str(error.value)


def test_what_is_neither_a_name_nor_a_file() -> None:
    with pytest.raises(GraduncError, match="unknown label convention 'kitti': expected one of cityscapes"):
        class_table("kitti")
    with pytest.raises(FrameError, match=r"none\.json: cannot be read"):
        class_table("none.json")
