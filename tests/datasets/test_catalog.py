"""What is packed beside the code: where it is found, what it says, and that a wheel holds it."""

from __future__ import annotations

import tomllib
import zipfile
from importlib.util import find_spec
from pathlib import Path

import pytest

from gradunc_viz.datasets.catalog import catalog, data_path, known_classes
from gradunc_viz.datasets.layouts import LAYOUTS
from gradunc_viz.schema.errors import GraduncError
from gradunc_viz.schema.tasks import TASKS

ROOT = Path(__file__).parents[2]


def one_line(error: pytest.ExceptionInfo[GraduncError], *parts: object) -> None:
    """Check that the error is one line naming all `parts`."""
    text = str(error.value)
    assert "\n" not in text
    assert all(str(part) in text for part in parts), text


def test_known_classes() -> None:
    cityscapes, camvid = known_classes("cityscapes"), known_classes("camvid")
    assert (len(cityscapes), len(camvid)) == (19, 11)
    assert cityscapes[0] == ("road", (128, 64, 128))
    assert cityscapes[18] == ("bicycle", (119, 11, 32))
    assert camvid[10] == ("bicyclist", (0, 128, 192))
    for classes in (cityscapes, camvid):
        assert len({name for name, _ in classes}) == len({color for _, color in classes}) == len(classes)
    with pytest.raises(GraduncError) as error:
        known_classes("kitti")
    one_line(error, "'kitti'", "cityscapes", "camvid")


def test_catalog_describes_datasets() -> None:
    content = catalog()
    for entries in content["classes"].values():
        assert [entry["id"] for entry in entries] == list(range(len(entries)))
    for key, entry in content["datasets"].items():
        assert entry["layout"] in LAYOUTS, key
        assert entry["task"] in TASKS, key
        assert all(entry[name] for name in ("name", "citation", "licence")), key
        assert entry["url"].startswith("http"), key
        assert LAYOUTS[entry["layout"]].classes == entry.get("classes"), key
    without = {"folder", "mmseg", "video", "sequence", "table"}
    assert set(LAYOUTS) == {entry["layout"] for entry in content["datasets"].values()} | without


def test_data_path() -> None:
    assert data_path("catalog.json").is_file()
    with pytest.raises(GraduncError) as error:
        data_path("nothing.json")
    assert isinstance(error.value, FileNotFoundError)
    one_line(error, "'nothing.json'", Path("gradunc_viz", "data"))


def expected_data() -> set[str]:
    """Every file of the data folder but what the demo was made with, as a wheel calls it."""
    files = {file.relative_to(ROOT) for file in (ROOT / "data").rglob("*") if file.is_file()}
    return {f"gradunc_viz/{file.as_posix()}" for file in files if "authoring" not in file.parts}


def test_the_wheel_is_told_to_hold_the_data() -> None:
    wheel = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["hatch"]["build"]["targets"]["wheel"]
    assert wheel["packages"] == ["gradunc_viz"]
    held: set[str] = set()
    for source, target in wheel["force-include"].items():
        place = ROOT / source
        files = [place] if place.is_file() else [file for file in place.rglob("*") if file.is_file()]
        assert files, source
        held |= {(Path(target) / file.relative_to(place)).as_posix() for file in files}
    assert held == expected_data()


@pytest.mark.skipif(find_spec("hatchling") is None, reason="a wheel is built with hatchling")
def test_a_wheel_holds_the_data_and_the_code(tmp_path: Path) -> None:
    from hatchling.builders.wheel import WheelBuilder

    (wheel,) = WheelBuilder(str(ROOT)).build(directory=str(tmp_path), versions=["standard"])
    names = set(zipfile.ZipFile(wheel).namelist())
    assert {name for name in names if name.startswith("gradunc_viz/data/")} == expected_data()
    assert {"gradunc_viz/py.typed", "gradunc_viz/figures/gradunc.mplstyle", "gradunc_viz/cli/main.py"} <= names
    assert not any(name.startswith(("tests", "data", "notebooks")) for name in names)


def test_an_installed_package_finds_the_data_inside_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    place = tmp_path / "gradunc_viz/datasets/catalog.py"
    monkeypatch.setattr("gradunc_viz.datasets.catalog.__file__", str(place))
    with pytest.raises(GraduncError):
        data_path("catalog.json")
    packed = tmp_path / "gradunc_viz/data/catalog.json"
    packed.parent.mkdir(parents=True)
    packed.write_text("{}")
    assert data_path("catalog.json") == packed
