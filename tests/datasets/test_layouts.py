"""A layout from outside the package: some ten lines, and it is a layout like any other."""

from __future__ import annotations

from pathlib import Path

import pytest
from tiny import TinyNet, write_set

import gradunc_viz as gv
from gradunc_viz.cli.main import main
from gradunc_viz.datasets.conventions import CLASS_IDS
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
    assert "roadanomaly, mine" in " ".join(capsys.readouterr().out.split())
    assert (
        main(list(map(str, ["import", tmp_path, "--data", folder, "--layout", "your", "--out", tmp_path / "no"]))) == 1
    )
    assert "roadanomaly, mine" in capsys.readouterr().err


def test_a_name_is_taken_once(mine: Layout) -> None:
    with pytest.raises(FrameError, match="layout 'mine' is registered already"):
        register_layout(MINE)


def test_layouts_describe_themselves() -> None:
    for name, layout in LAYOUTS.items():
        assert layout.name == name
        assert layout.tree
        assert "\n" not in layout.tree + layout.description
        assert ("{split}" in layout.tree) == (layout.split is not None)
