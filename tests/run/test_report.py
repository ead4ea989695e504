"""What a run ends with: how many frames have labels, and what in them looks as if it meant something else."""

from __future__ import annotations

import re

import numpy as np
import pytest
from PIL import Image
from tiny import TinyNet, write_set

import gradunc_viz as gv
from gradunc_viz.cli.main import main
from gradunc_viz.run.report import cautions, contents

SIZE = (24, 32)


NET = """
import torch
import torch.nn as nn

def make():  # predicts class k where red is k
    net = nn.Conv2d(3, 4, 1)
    net.weight.data.zero_()
    net.weight.data[:, 0, 0, 0] = 255 * 20.0 * torch.arange(4)
    net.bias.data[:] = -10.0 * torch.arange(4) ** 2
    return net
"""


def make_set(folder, labels=None, anomalies=None, count=2):
    """Frames of classes 0 to 3, and masks that functions make of the classes."""
    given = {"images": lambda ids: np.stack([ids] * 3, -1), "labels": labels, "anomalies": anomalies}
    for part, make in given.items():
        if make is not None:
            (folder / part).mkdir(parents=True)
            for i in range(count):
                ids = np.random.default_rng(i).integers(0, 4, SIZE, dtype="u1")
                Image.fromarray(make(ids).astype("u1")).save(folder / f"{part}/f{i}.png")
    return folder


def compute(folder):
    """A command that scores a folder's set with its network."""
    given = {"model": f"{folder}/net.py:make", "data": folder / "set", "out": folder / "c", "scores": "msp"}
    return ["compute", "--quiet", *(str(part) for name, value in given.items() for part in (f"--{name}", value))]


FOUND = {
    "right": ({"labels": lambda ids: ids}, "2 with labels, 0 with anomalies", None),
    "ids plus 1": (
        {"labels": lambda ids: ids + 1 - 2 * (ids == 3)},
        "2 with labels, 0 with anomalies",
        r"100\.0% of the labelled pixels are predicted wrong: .*\? With ids less 1 7\d% would be right\.",
    ),
    "other ids": (
        {"labels": lambda ids: 3 - ids},
        "2 with labels, 0 with anomalies",
        r"100\.0% of the labelled pixels are predicted wrong: do masks and network number their classes alike\?$",
    ),
    "labels ignored": (
        {"labels": lambda ids: ids * 0 + 255},
        r"2 with labels \(2 of them ignored throughout\), 0 with anomalies",
        "all pixels in the class labels of 2 frames are ignored",
    ),
    "black and white labels": (
        {"labels": lambda ids: np.where(ids == 0, 0, 255)},
        "2 with labels, 0 with anomalies",
        r"all labelled pixels are of class 0, 'class 0', .* map it with labels=\{0: 0, 255: 1\}",
    ),
    "black and white anomalies": (
        {"anomalies": lambda ids: np.where(ids == 0, 0, 255)},
        "0 with labels, 2 with anomalies",
        r"no pixel of the anomaly masks is an unknown object, .* map it with anomalies=\{0: 0, 255: 1\}",
    ),
    "white anomalies": (
        {"anomalies": lambda ids: ids * 0 + 255},
        r"0 with labels, 2 with anomalies \(2 of them ignored throughout\)",
        r"all pixels in the anomaly labels of 2 frames are ignored: .*; where 255",
    ),
    "no anomaly": ({"anomalies": lambda ids: ids * 0}, "0 with labels, 2 with anomalies", None),
    "nothing": ({}, "0 with labels, 0 with anomalies", None),
}


@pytest.mark.parametrize("what", FOUND)
def test_what_was_found_is_said_by_compute_and_info(what, tmp_path, capsys):
    masks, counted, caution = FOUND[what]
    make_set(tmp_path / "set", **masks)
    (tmp_path / "net.py").write_text(NET)
    assert main(compute(tmp_path)) == 0
    said = capsys.readouterr()
    assert re.search(rf"2 frames: {counted}$", said.out, re.MULTILINE)
    assert (re.search(f"^gradunc: warning: {caution}", said.err, re.MULTILINE) is not None) == (caution is not None)
    assert caution is not None or not said.err
    assert main(["info", str(tmp_path / "c")]) == 0
    again = capsys.readouterr()
    assert again.err == said.err
    summary = gv.open_cache(tmp_path / "c").summary
    assert re.fullmatch(f"2 frames: {counted}", contents(summary))
    assert len(cautions(summary)) == (caution is not None)


def test_a_notebook_is_warned(tmp_path):
    folder = write_set(tmp_path / "set", 1, labels=False, anomalies=False)
    size = gv.open_frames(folder)[0].size
    (folder / "labels").mkdir()
    Image.fromarray(np.full(size, 255, "u1")).save(folder / "labels/f00.png")
    with pytest.warns(UserWarning, match="class labels of 1 frames are ignored"):
        gv.compute(TinyNet(), gv.open_frames(folder), tmp_path / "c", scores="msp", progress=False)


def test_channels_that_are_left_out_are_said(tmp_path, capsys):
    make_set(tmp_path / "set", labels=lambda ids: ids)
    (tmp_path / "net.py").write_text(NET)
    assert main([*compute(tmp_path), "--drop-channels", "0,2"]) == 0
    assert "ids in masks are the network's channels; no class, and ignored: 0, 2" in capsys.readouterr().out
    assert main(["info", str(tmp_path / "c")]) == 0
    assert "channels 0, 2 of the network: no class, and ignored in masks that hold ids 0, 2" in capsys.readouterr().out
