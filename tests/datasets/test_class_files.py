"""One reader of class files, whoever asks, and masks that hold the colours of classes."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from tiny import write_set
from tiny_images import HEIGHT, WIDTH, fails, picture

import gradunc_viz as gv
from gradunc_viz.datasets.catalog import known_classes
from gradunc_viz.datasets.class_files import NamedClasses, find_classes, read_classes
from gradunc_viz.datasets.frames import Frames
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
    named = read_classes(path)
    assert named == find_classes(str(path)) == NamedClasses(NAMES, COLORS if form == "entries" else None)
    frames = gv.open_frames(path.parent)
    assert (frames.classes, frames.colors) == named[:2]


def test_a_convention_by_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    names, colors, void = find_classes("camvid")
    assert void == ((0, 0, 0),)
    assert tuple(zip(names, colors or (), strict=True)) == known_classes("camvid")
    monkeypatch.chdir(tmp_path)
    Path("mine").write_text('["a", "b"]')
    assert find_classes("mine") == NamedClasses(("a", "b"))


@pytest.mark.parametrize(
    ("content", "parts"),
    [
        ("{", ["not JSON"]),
        ('{"road": 0}', ['{"road": 0}', "expected a list"]),
        ('["road", "road"]', ["name road more than once", "different"]),
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


TEXTS = {
    "names.txt": "road\r\ncar\r\n\r\nsky\r\ntree\r\n",
    "numbered.txt": "0 road\n1: car\n3,tree\n2 sky\n",
    "colours.txt": "1 2 3 road\n4 5 6\tcar\n7 8 9 sky\n10,11,12,tree",
    "table.csv": "\ufeffname,r,g,b\nroad,1,2,3\ncar,4,5,6\nsky,7,8,9\ntree,10,11,12\n",
    "semicolons.csv": "ID;Name;Color\n3;tree;#0a0b0c\n0;road;1 2 3\n1;car;[4, 5, 6]\n2;sky;#070809\n255;void;0 0 0\n",
    "tabs.tsv": "id\tclass_name\n0\troad\n1\tcar\n2\tsky\n3\ttree\n",
    "marked.json": '\ufeff["road", "car", "sky", "tree"]',
    "upper.JSON": '["road", "car", "sky", "tree"]',
    "upper.TXT": "road\ncar\nsky\ntree",
}


@pytest.mark.parametrize("name", TEXTS)
def test_other_forms(name: str, tmp_path: Path) -> None:
    path = tmp_path / name
    path.write_text(TEXTS[name], encoding="utf-8", newline="")
    colored = name in ("colours.txt", "table.csv", "semicolons.csv")
    void = ((0, 0, 0),) if name == "semicolons.csv" else ()
    assert read_classes(path) == find_classes(path) == NamedClasses(NAMES, COLORS if colored else None, void)


def test_names_with_commas_between() -> None:
    assert find_classes("road, car,sky") == NamedClasses(("road", "car", "sky"))
    with pytest.raises(FrameError, match="class names: holds name car more than once"):
        find_classes("road,car,car")
    with pytest.raises(FrameError, match="'' is no name"):
        find_classes("road,,car")


@pytest.mark.parametrize(
    ("name", "text", "parts"),
    [
        ("a.csv", "0,road\n1,car\n", ["columns 0, road", "expected name"]),
        ("a.csv", "name,r,g,b\nroad,1,2\n", ["line 2", "3 cells", "expected 4"]),
        ("a.csv", "name,r,g,b\nroad,1,2,256\n", ["'road'", "256"]),
        ("a.csv", "id,name\none,road\n", ["'one'", "no integer"]),
        ("a.csv", "", ["columns"]),
        ("a.txt", "", ["no class"]),
        ("a.txt", "0 road\ncar\n", ["'car'", "one name on each line"]),
        ("a.txt", "1 road\n2 car\n", ["ids 1, 2", "0..n-1"]),
    ],
)
def test_errors_of_other_forms(name: str, text: str, parts: list[str], tmp_path: Path) -> None:
    (tmp_path / name).write_text(text)
    fails(lambda: read_classes(tmp_path / name), tmp_path / name, *parts)


def test_files_are_in_utf_8(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    path.write_text('["Straße"]', encoding="utf-8")
    assert read_classes(path).names == ("Straße",)
    path.write_bytes('["Straße"]'.encode("cp1252"))
    fails(lambda: read_classes(path), path, "UTF-8")


@pytest.mark.parametrize("n", [255, 256, 300])
def test_more_classes_than_8_bits_tell(n: int, tmp_path: Path) -> None:
    names = [f"c{i}" for i in range(n)]
    entries = [{"id": i, "name": name} for i, name in enumerate(names)]
    forms: tuple[Any, ...] = (names, entries, {str(i): name for i, name in enumerate(names)})
    for form in forms:
        (tmp_path / "a.json").write_text(json.dumps(form))
        assert read_classes(tmp_path / "a.json").names == tuple(names)
    if n == 255:
        (tmp_path / "a.json").write_text(json.dumps([*entries, {"id": 255, "name": "void"}]))
        assert read_classes(tmp_path / "a.json").names == tuple(names)


def test_a_folder_names_its_classes_in_one_file(tmp_path: Path) -> None:
    write_set(tmp_path, 1)
    (tmp_path / "classes.txt").write_text("a\nb\nc\nd\n")
    assert gv.open_frames(tmp_path).classes == ("a", "b", "c", "d")
    (tmp_path / "classes.csv").write_text("name\na\nb\nc\nd\n")
    fails(lambda: gv.open_frames(tmp_path), tmp_path, "classes.csv and classes.txt", "only one")


def test_classes_file(trio: Frames) -> None:
    path = trio.path / "classes.json"
    entries = [
        {"id": 1, "name": "car", "color": [1, 2, 3]},
        {"id": 0, "name": "road", "color": [4, 5, 6]},
        {"id": 255, "name": "void", "color": [0, 0, 0]},
    ]
    path.write_text(json.dumps(entries))
    frames = gv.open_frames(trio.path)
    assert frames.classes == frames[1:].classes == ("road", "car")
    assert frames.colors == ((4, 5, 6), (1, 2, 3))
    assert frames["a"].label is not None
    path.write_text(json.dumps([{"id": 0, "name": "road"}]))
    frames = gv.open_frames(trio.path)
    assert (frames.classes, frames.colors) == (("road",), None)
    fails(lambda: frames["a"].label, frames["a"].label_path, "class id 1", "0..0")


@pytest.mark.parametrize(
    ("entries", "part"),
    [
        ({"road": 0}, '{"road": 0}'),
        ("road", "expected a list"),
        (["road", 1], '["road", 1]'),
        ({"0": "road", "2": "car"}, "ids 0, 2"),
        ({"0": 7}, "7 is no name"),
        ([{"id": 0}], "expected a list"),
        ([], "expected 0..n-1"),
        ([{"id": 0, "name": "a"}, {"id": 2, "name": "b"}], "ids 0, 2"),
        ([{"id": "0", "name": "a"}], "id '0' of 'a' is no integer"),
        ([{"id": 0, "name": "a"}, {"id": 1, "name": "a"}], "different"),
        ([{"id": 0, "name": "a", "color": [1, 2]}], "[1, 2]"),
        ([{"id": 0, "name": "a", "color": [1, 2, 256]}], "[1, 2, 256]"),
        ([{"id": 0, "name": "a", "color": [1, 2, 3]}, {"id": 1, "name": "b"}], "None"),
    ],
)
def test_bad_classes_file(trio: Frames, entries: Any, part: str) -> None:
    (trio.path / "classes.json").write_text(json.dumps(entries))
    fails(lambda: gv.open_frames(trio.path), trio.path / "classes.json", part)


# --- colours


def colored(path: Path, colors: Any, **options: Any) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.resize(np.array(colors, np.uint8), (HEIGHT * WIDTH, 3)).reshape(HEIGHT, WIDTH, 3)
    Image.fromarray(pixels).save(path, **options)


def colored_set(folder: Path) -> Path:
    picture(folder / "images" / "a.jpg")
    entries = [{"id": i, "name": n, "color": c} for i, (n, c) in enumerate(zip(NAMES, COLORS, strict=True))]
    entries.append({"id": 255, "name": "void", "color": [0, 0, 0]})
    (folder / "classes.json").write_text(json.dumps(entries))
    return folder


@pytest.mark.parametrize("name", ["a.png", "a.bmp", "a.tif", "a.gif", "a.PNG", "a.webp"])
def test_masks_of_colours(name: str, tmp_path: Path) -> None:
    root = colored_set(tmp_path)
    options = {"lossless": True, "exact": True} if name == "a.webp" else {}
    colored(root / "labels" / name, [COLORS[2], (0, 0, 0), COLORS[0]], **options)
    label = gv.open_frames(root)[0].label
    np.testing.assert_array_equal(label, np.resize([2, 255, 0], (HEIGHT, WIDTH)))


def test_an_unknown_colour_is_named_and_never_the_nearest(tmp_path: Path) -> None:
    root = colored_set(tmp_path)
    for name in ("a.png", "a.gif"):
        colored(root / "labels" / name, [COLORS[2], (1, 2, 4)])
        fails(lambda: gv.open_frames(root)[0].label, name, "colour (1, 2, 4)", "5 colours")
        (root / "labels" / name).unlink()
    (root / "classes.json").unlink()
    colored(root / "labels" / "a.png", [COLORS[2]])
    fails(lambda: gv.open_frames(root)[0].label, "a.png", "mode RGB", "classes.json")


def test_a_colour_of_two_classes_tells_none(tmp_path: Path) -> None:
    root = colored_set(tmp_path)
    (root / "classes.json").write_text(
        json.dumps([{"id": i, "name": n, "color": [9, 9, i // 2]} for i, n in enumerate("abc")])
    )
    colored(root / "labels" / "a.png", [(9, 9, 1)])
    assert np.unique(gv.open_frames(root)[0].label) == [2]  # type: ignore[arg-type]
    colored(root / "labels" / "a.png", [(9, 9, 0)])
    fails(lambda: gv.open_frames(root)[0].label, "colour (9, 9, 0)")


def test_palettes(tmp_path: Path) -> None:
    """Indices are ids, unless their colours say that they are those of other classes."""
    root = colored_set(tmp_path)
    ids = np.resize(np.array([0, 1, 2], np.uint8), (HEIGHT, WIDTH))
    (root / "labels").mkdir()
    for colors, expected in (
        ([(200, 0, 0), (0, 200, 0), (0, 0, 200)], [0, 1, 2]),
        ([COLORS[0], COLORS[1], COLORS[2]], [0, 1, 2]),
        ([(0, 0, 0), (128, 0, 0), (0, 128, 0)], [0, 1, 2]),
        ([COLORS[3], COLORS[1], (0, 0, 0)], [3, 1, 255]),
    ):
        image = Image.fromarray(ids).convert("P")
        image.putpalette([part for color in colors for part in color])
        image.save(root / "labels" / "a.png")
        np.testing.assert_array_equal(gv.open_frames(root)[0].label, np.array(expected)[ids])


def test_hashes_know_the_colours_of_masks_that_hold_some(tmp_path: Path) -> None:
    root = colored_set(tmp_path)
    colored(root / "labels" / "a.png", [COLORS[2], COLORS[0]])
    before = gv.open_frames(root)[0].digest()
    text = (root / "classes.json").read_text()
    (root / "classes.json").write_text(text.replace("[1, 2, 3]", "[7, 7, 7]"))
    assert gv.open_frames(root)[0].digest() != before
    Image.fromarray(np.zeros((HEIGHT, WIDTH), np.uint8)).save(root / "labels" / "a.png")
    before = gv.open_frames(root)[0].digest()
    (root / "classes.json").write_text(text)
    assert gv.open_frames(root)[0].digest() == before
