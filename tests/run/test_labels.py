"""Labels follow the image processor of a network where nobody says what their ids mean."""

from __future__ import annotations

import json

import numpy as np
import pytest
from tiny import SCORES, TinyNet

import gradunc_viz as gv
from gradunc_viz.networks.preprocessing import Preprocessing


@pytest.fixture
def reducing():
    return gv.Network(TinyNet().eval(), name="ade", preprocessing=Preprocessing(reduce_labels=True))


def run(network, frames, out):
    return gv.compute(network, frames, out, scores=SCORES, progress=False, limit=1)


def test_ids_are_reduced_and_said_so(reducing, tiny_set, tmp_path):
    frames = gv.open_frames(tiny_set)
    with pytest.warns(UserWarning, match=r"as the image processor of ade does \(do_reduce_labels\): 0 is ignored"):
        cache = run(reducing, frames, tmp_path / "c")
    stored = frames[0].label.astype(int)
    assert np.array_equal(cache[frames.ids[0]]["label"], np.where(stored % 255 == 0, 255, stored - 1))


def test_ids_that_were_given_a_meaning_keep_it(reducing, own_set, tmp_path):
    mapped = gv.open_frames(own_set, labels={i: i for i in range(4)})
    (own_set / "classes.json").write_text(json.dumps(list("abcd")))
    for name, frames in (("mapped", mapped), ("named", gv.open_frames(own_set))):
        cache = run(reducing, frames, tmp_path / name)
        assert np.array_equal(cache[frames.ids[0]]["label"], frames[0].label)


def test_without_labels_nothing_is_said(reducing, tiny_set, tmp_path):
    (tmp_path / "set").mkdir()
    (tmp_path / "set/images").symlink_to(tiny_set / "images")
    run(reducing, gv.open_frames(tmp_path / "set"), tmp_path / "c")
