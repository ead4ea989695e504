"""Frames of tables of pandas."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

import gradunc_viz as gv
from gradunc_viz.schema.errors import FrameError


@pytest.fixture
def table() -> pd.DataFrame:
    return pd.DataFrame(
        {
            "image": ["images/f00.png", "images/f01.png", "images/f02.jpg"],
            "label": ["labels/f00.png", None, float("nan")],
            "anomaly": ["anomalies/f00.png", "anomalies/f01.png", ""],
            "id": ["x", "y", 3],
        },
        index=[7, 8, 9],
    )


def test_a_row_is_a_frame(table: pd.DataFrame, tiny_set: Path) -> None:
    frames, plain = gv.frames_from(table, root=tiny_set), gv.open_frames(tiny_set)
    assert frames.ids == ("x", "y", "3")
    assert [frame.label is None for frame in frames] == [False, True, True]
    np.testing.assert_array_equal(frames[1].anomaly, plain[1].anomaly)
    assert gv.frames_from(table[["image", "label", "anomaly"]], root=tiny_set)[0].digest() == plain[0].digest()
    some = gv.frames_from(table[table.index > 7], root=tiny_set)
    assert some.ids == ("y", "3")


def test_columns_of_other_names(table: pd.DataFrame, tiny_set: Path) -> None:
    renamed = table.rename(columns={"image": "path", "label": "truth"}).drop(columns="id")
    frames = gv.frames_from(renamed, image="path", label="truth", root=tiny_set)
    assert frames.ids == ("images__f00", "images__f01", "images__f02")
    assert frames[0].label is not None
    with pytest.raises(FrameError, match="has no column 'image', expected one of path, truth, anomaly"):
        gv.frames_from(renamed, root=tiny_set)
    with pytest.raises(FrameError, match="argument ignore_index given, expected only image, label, anomaly, id, root"):
        gv.frames_from(table, root=tiny_set, ignore_index=3)


def test_columns_that_are_not_used_are_told(table: pd.DataFrame, tiny_set: Path) -> None:
    told = r"columns 'mask', 7 not used \(those of image, label, .* are\); say what is a mask: label=\.\.\., anomaly="
    renamed = table.rename(columns={"label": "mask"})
    renamed[7] = "sun"
    with pytest.warns(UserWarning, match=told):
        (frame, *_) = gv.frames_from(renamed, root=tiny_set)
    assert frame.label is None
    gv.frames_from(table.assign(weather="sun"), label="label", anomaly="anomaly", root=tiny_set)
    with pytest.raises(FrameError, match="has 2 columns 'image', expected one"):
        gv.frames_from(pd.concat([table, table[["image"]]], axis=1), root=tiny_set)


@pytest.mark.parametrize("nothing", [pd.NA, None, float("nan"), pd.NaT, "", " "])
@pytest.mark.parametrize("kind", ["string", "object", "category"])
def test_nothing_in_a_cell(nothing: object, kind: str, tiny_set: Path) -> None:
    labels = pd.Series(["labels/f00.png", nothing], dtype="object" if kind == "category" else kind).astype(kind)
    table = pd.DataFrame({"image": ["images/f00.png", "images/f01.png"], "label": labels})
    assert [frame.label is None for frame in gv.frames_from(table, root=tiny_set)] == [False, True]


def test_paths_that_lead_nowhere(table: pd.DataFrame, tmp_path: Path) -> None:
    with pytest.raises(FrameError, match=r"none of its 3 images exists, such as .*f00\.png"):
        gv.frames_from(table, root=tmp_path)
    with pytest.raises(FrameError, match="holds no row"):
        gv.frames_from(table[:0])
