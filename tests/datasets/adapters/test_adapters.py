"""An adapter of one's own."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from tiny import TinyNet

import gradunc_viz as gv
from gradunc_viz.datasets.adapters import ADAPTERS, Adapter, Found, Items, item_files, register_adapter
from gradunc_viz.schema.errors import FrameError


class Recording:
    """As a program outside of the package has it."""

    def __init__(self) -> None:
        random = np.random.default_rng(0)
        self.shots = {f"shot {i}": random.integers(0, 256, (16, 24, 3), "u1") for i in range(3)}

    def truth(self, name: str) -> np.ndarray:
        return (self.shots[name][..., 0] // 64).astype("i4")


def _find(recording, parts):
    names = [*recording.shots]
    items = Items("recording", lambda i: {"image": recording.shots[names[i]], "label": recording.truth(names[i])})
    return Found("recording", item_files(items, names, "image", "label"), ("a", "b", "c", "d"))


@pytest.fixture
def adapter():
    yield register_adapter(Adapter("recording", lambda thing: isinstance(thing, Recording), _find))
    del ADAPTERS._items["recording"]


def test_an_adapter_of_ones_own(adapter: Adapter, tmp_path: Path) -> None:
    frames = gv.frames_from(Recording(), labels={0: 1, 1: 0, 2: 2, 3: None})
    assert frames.ids == ("shot 0", "shot 1", "shot 2")
    assert frames.layout == "recording"
    assert gv.frames_from(frames) is frames
    cache = gv.compute(TinyNet().eval(), frames, tmp_path / "cache", scores="msp", progress=False)
    assert float(gv.evaluate(cache, "error", scores=["msp"], bootstrap=0)["auroc"].min()) > 0
    with pytest.raises(FrameError, match="adapter 'recording' is registered already"):
        register_adapter(Adapter("recording", lambda _: True, _find))


def test_frames_as_they_are_given_elsewhere() -> None:
    with pytest.raises(FrameError, match=r"expected frames of gv\.open_frames\(path\) or gv\.frames_from"):
        gv.compute(TinyNet().eval(), [np.zeros((4, 4, 3), "u1")], "nowhere", progress=False)
