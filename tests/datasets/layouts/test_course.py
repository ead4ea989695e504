"""The folder of sets that courses hand on: several sets, each with its own id of unknown objects."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import numpy as np
import pytest
from tiny_images import fails, mask, picture

import gradunc_viz as gv
from gradunc_viz.cli.main import main
from gradunc_viz.datasets.frames import Frames, open_frames
from gradunc_viz.metrics import evaluate


def one_set(root: Path, *masks: tuple[int, ...], suffix: str = "jpg") -> None:
    for number, ids in enumerate(masks):
        picture(root / "images" / f"{number}.{suffix}", 48, 64)
        mask(root / "labels_masks" / f"{number}.png", *ids, height=48, width=64)


@pytest.fixture
def validation(tmp_path: Path) -> Path:
    root = tmp_path / "Validation_Dataset"
    one_set(root / "RoadAnomaly21", (0, 1, 255), (0, 255), suffix="png")
    one_set(root / "RoadObsticle21", (0, 255), (0, 1), suffix="webp")
    one_set(root / "RoadAnomaly", (0,), (0, 2), (2,))
    return root


def opened(root: Path, **options: str) -> Frames:
    return open_frames(root, "course", **options)


def test_each_set_has_its_own_id_of_unknown_objects(validation: Path) -> None:
    frames = opened(validation)
    assert frames.ids == (
        *("RoadAnomaly__0", "RoadAnomaly__1", "RoadAnomaly__2", "RoadAnomaly21__0", "RoadAnomaly21__1"),
        *("RoadObsticle21__0", "RoadObsticle21__1"),
    )
    stored = np.resize([0, 2], (48, 64))
    np.testing.assert_array_equal(frames["RoadAnomaly__1"].anomaly, stored // 2)
    np.testing.assert_array_equal(frames["RoadAnomaly__2"].anomaly, np.ones((48, 64)))
    np.testing.assert_array_equal(frames["RoadAnomaly21__0"].anomaly, np.resize([0, 1, 255], (48, 64)))
    assert all(frame.label is None for frame in frames)


def test_one_set_or_some_by_their_names(validation: Path) -> None:
    assert opened(validation, split="RoadObsticle21").ids == ("RoadObsticle21__0", "RoadObsticle21__1")
    assert len(opened(validation, split="RoadAnomaly*")) == 5
    assert opened(validation / "RoadAnomaly").ids == ("0", "1", "2")
    np.testing.assert_array_equal(opened(validation / "RoadAnomaly")["2"].anomaly, np.ones((48, 64)))
    fails(lambda: opened(validation, split="fs_static"), "'course'", "fs_static/images", "RoadAnomaly21/")


@pytest.mark.parametrize("id", [1, 3])
def test_an_id_that_the_set_does_not_use_is_an_error(validation: Path, id: int) -> None:
    path = validation / "RoadAnomaly" / "labels_masks" / "2.png"
    mask(path, 0, id, height=48, width=64)
    frame = opened(validation)["RoadAnomaly__2"]
    fails(lambda: frame.anomaly, path, f"id {id}", "0 (known), 2 (anomaly, as in 1.png)")


def test_a_mask_with_both_ids_is_an_error_until_they_are_mapped(validation: Path) -> None:
    path = validation / "RoadAnomaly" / "labels_masks" / "0.png"
    mask(path, 0, 1, 2, height=48, width=64)
    fails(lambda: opened(validation)["RoadAnomaly__0"].anomaly, path, "ids 1, 2", "either 1 or 2", "both")
    mapped = open_frames(validation, "course", anomalies={0: 0, 1: 0, 2: 1})
    np.testing.assert_array_equal(mapped["RoadAnomaly__0"].anomaly, np.resize([0, 0, 1], (48, 64)))


def test_a_damaged_mask_says_so_when_it_is_read(validation: Path) -> None:
    path = validation / "RoadAnomaly" / "labels_masks" / "0.png"
    path.write_bytes(b"no image")
    frames = opened(validation)
    fails(lambda: frames["RoadAnomaly__0"].anomaly, path, "cannot be decoded")
    assert frames["RoadAnomaly__1"].anomaly is not None


def test_half_sets(validation: Path) -> None:
    shutil.rmtree(validation / "RoadAnomaly" / "labels_masks")
    with pytest.warns(UserWarning, match="RoadAnomaly: images without the folder labels_masks"):
        assert opened(validation)["RoadAnomaly__0"].anomaly is None
    (validation / "RoadAnomaly21" / "labels_masks" / "1.png").unlink()
    with pytest.warns(UserWarning, match=r"RoadAnomaly21: image 1\.png without a mask"):
        opened(validation, split="RoadAnomaly21")
    shutil.rmtree(validation / "RoadAnomaly21" / "images")
    fails(lambda: opened(validation, split="RoadAnomaly21"), validation / "RoadAnomaly21", "no image in images/")


def test_one_table_with_a_column_for_each_set(
    validation: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    net = tmp_path / "net.py"
    net.write_text("from tiny import TinyNet\ndef make():\n    return TinyNet().eval()\n")
    out = tmp_path / "cache"
    command = ["compute", "--data", validation, "--layout", "course", "--model", f"{net}:make"]
    assert main(list(map(str, [*command, "--scores", "msp,entropy", "--out", out, "--quiet"]))) == 0
    shown = capsys.readouterr().out
    header = next(line for line in shown.splitlines() if "RoadObsticle21" in line and "┃" in line)
    assert [part.strip() for part in header.split("┃")[2:-1]] == ["RoadAnomaly", "RoadAnomaly21", "RoadObsticle21"]
    assert f"gradunc evaluate {out} --by set" in shown

    cache = gv.open_cache(out)
    assert {name: part.ids for name, part in cache.sets.items()} == {
        "RoadAnomaly": ("RoadAnomaly__0", "RoadAnomaly__1", "RoadAnomaly__2"),
        "RoadAnomaly21": ("RoadAnomaly21__0", "RoadAnomaly21__1"),
        "RoadObsticle21": ("RoadObsticle21__0", "RoadObsticle21__1"),
    }
    result = evaluate(cache, by="set", bootstrap=0)
    for name, part in cache.sets.items():
        alone = evaluate({name: cache}, frames=part.ids, bootstrap=0)
        np.testing.assert_array_equal(result["auroc"].sel(cache=name), alone["auroc"].sel(cache=name))
        np.testing.assert_array_equal(part.summary["frame"], part.ids)
        assert part.reopened().ids == part.ids
    assert evaluate([cache, gv.open_cache(out)], by="set", bootstrap=0).sizes["cache"] == 6
    assert main(["evaluate", str(out), "--by", "set", "--latex", "--bootstrap", "0"]) == 0
    assert all(name in capsys.readouterr().out for name in ("RoadAnomaly21",))


def test_folders_in_any_case(tmp_path: Path) -> None:
    picture(tmp_path / "A" / "Images" / "0.PNG")
    mask(tmp_path / "A" / "Labels_Masks" / "0.png", 0, 2)
    assert opened(tmp_path)["A__0"].anomaly is not None
    assert opened(tmp_path / "A").ids == ("0",)


@pytest.mark.filterwarnings("ignore:.*labels_masks not used")
def test_the_layout_that_finds_masks_is_named_where_another_finds_none(validation: Path) -> None:
    with pytest.warns(UserWarning, match=r"'folder' finds no masks, layout 'smiyc' finds 3 here \(--layout smiyc\)"):
        open_frames(validation / "RoadAnomaly")
    fails(lambda: open_frames(validation), "layout 'course' finds 7 frames here (--layout course)")


def test_frames_that_belong_to_no_set_belong_together(tiny_cache: gv.Cache) -> None:
    (part,) = tiny_cache.sets.values()
    assert part.ids == tiny_cache.ids
    assert part.name == tiny_cache.name


@pytest.mark.skipif("GRADUNC_REAL_DATA" not in os.environ, reason="GRADUNC_REAL_DATA is not set: no real frames")
def test_real_sets() -> None:
    frames = opened(Path(os.environ["GRADUNC_REAL_DATA"]) / "course" / "Validation_Dataset")
    pixels: dict[str, np.ndarray] = {}
    for frame in frames:
        assert frame.anomaly is not None
        name = frame.id.partition("__")[0]
        pixels[name] = pixels.get(name, 0) + np.bincount(frame.anomaly.ravel(), minlength=256)
    assert {name: set(np.flatnonzero(count)) for name, count in pixels.items()} == {
        "FS_LostFound_full": {0, 1, 255},
        "RoadAnomaly": {0, 1},
        "RoadObsticle21": {0, 1, 255},
        "fs_static": {0, 1, 255},
    }
    assert pixels["RoadAnomaly"][1] == 911_444
