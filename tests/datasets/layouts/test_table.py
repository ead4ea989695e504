"""Tables of paths."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from tiny import TinyNet

import gradunc_viz as gv
from gradunc_viz.cli.main import main
from gradunc_viz.schema.errors import FrameError

ROWS = (
    "image,label,anomaly,id\n"
    "images/f00.png,labels/f00.png,anomalies/f00.png,first\n"
    "images/f01.png,,anomalies/f01.png,second\n"
    "images/f02.jpg,labels/f02.png,,third\n"
)


def test_a_row_is_a_frame(own_set: Path, tmp_path: Path) -> None:
    table = own_set / "table.csv"
    table.write_text(ROWS, encoding="utf-8-sig")
    frames = gv.open_frames(table)
    plain = gv.open_frames(own_set)
    assert frames.layout == "table"
    assert frames.ids == ("first", "second", "third")
    np.testing.assert_array_equal(frames["first"].label, plain["f00"].label)
    assert frames["second"].label is None
    np.testing.assert_array_equal(frames["second"].anomaly, plain["f01"].anomaly)
    assert frames["third"].anomaly is None
    cache = gv.compute(TinyNet().eval(), frames, tmp_path / "cache", scores="msp", progress=False)
    assert cache.ids == frames.ids
    assert main(["data", "check", str(table), "--quiet"]) == 0


def test_other_columns_delimiters_and_ids(own_set: Path) -> None:
    table = own_set / "table.csv"
    table.write_text(f"weather; image\nrain; {own_set}/images/f00.png\nsun; images/f01.png\n")
    with pytest.warns(UserWarning, match=r"table\.csv: column 'weather' not used; those of image, label, .*, id are"):
        assert gv.open_frames(table).ids == ("images__f00", "images__f01")
    table.write_text(",image,GT,mask\n0,images/f00.png,labels/f00.png,labels/f00.png\n")  # with an index of pandas
    with pytest.warns(UserWarning, match="columns 'gt', 'mask' not used"):
        assert gv.open_frames(table)[0].label is None
    (own_set / "t.tsv").write_text("image\tlabel\nimages/f00.png\tlabels/f00.png\n")
    assert gv.open_frames(own_set / "t.tsv")[0].label is not None


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("picture\nimages/f00.png\n", "has column picture; expected image"),
        ("", "has no column; expected image"),
        ("image,label\nimages/f00.png\n", "row 1 has 1 cells, expected 2"),
        ("image,label\n,labels/f00.png\n", "row 1 has no image"),
        ("image\nf00.png\nf01.png\n", r"none of its 2 images exists, such as .*f00\.png; expected absolute paths"),
        ("image,id\nimages/f00.png,a\nimages/f01.png,a\n", "both are frame 'a'"),
        (f"image\nimages/f00.png\n{'x' * 140_000}\n", r"row 2, line 3, cannot be read \(field larger than"),
        (f"image\n{'x' * 5000}\n", "none of its 1 images exists"),
        ('image,label\nimages/f00.png,"labels/f00.png\n', r"row 1, line 2, cannot be read \(unexpected end of data\)"),
        ("image\nimages/f00.png\n\0\0\n", r"image of row 2 is '\\x00\\x00', expected one line of text"),
        ("im\0age\nimages/f00.png\n", r"has column 'im\\x00age'; expected image in its first line"),
        (
            "images/f00.png,labels/f00.png\n",
            r"has columns images/f00\.png, labels/f00\.png; expected image in its first",
        ),
        ("image\nstra\xdfe.png\n", r"not a text in UTF-8 \(line 2: .*byte 0xdf"),
        ("image\n", "no images in layout 'table'"),
    ],
)
def test_what_is_wrong_is_named(own_set: Path, text: str, problem: str) -> None:
    (own_set / "table.csv").write_text(text, encoding="latin-1")
    with pytest.raises(FrameError, match=rf"{problem}") as error:
        gv.open_frames(own_set / "table.csv")
    assert "\n" not in str(error.value)
