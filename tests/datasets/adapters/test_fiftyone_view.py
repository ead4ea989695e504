"""Frames of a FiftyOne view, against a stand-in with the few names of its interface that are used."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image

import gradunc_viz as gv
from gradunc_viz.schema.errors import FrameError


class SampleCollection:
    """Of this name and module is what FiftyOne's data sets and views derive from."""


SampleCollection.__module__ = "fiftyone.core.collections"


class Segmentation:
    def __init__(self, mask: np.ndarray | None = None, mask_path: str | None = None) -> None:
        self.mask, self.mask_path = mask, mask_path


@dataclass
class View(SampleCollection):
    samples: dict[str, dict]
    fields: tuple[str, ...] = ("ground_truth",)
    name: str = "streets"
    media_type: str = "image"
    mask_targets: dict = field(default_factory=dict)
    default_mask_targets: dict = field(default_factory=dict)

    def get_field_schema(self) -> dict:
        masks = {name: SimpleNamespace(document_type=Segmentation) for name in self.fields}
        return {"id": SimpleNamespace(), "filepath": SimpleNamespace(), **masks}

    def values(self, name: str) -> list:
        return [sample_id if name == "id" else sample[name] for sample_id, sample in self.samples.items()]

    def __getitem__(self, sample_id: str) -> dict:
        return self.samples[sample_id]

    def __len__(self) -> int:
        return len(self.samples)


@pytest.fixture
def view(tmp_path: Path) -> View:
    random, samples = np.random.default_rng(0), {}
    for number, sample_id in enumerate(("65a0", "65a1", "65a2")):
        path, ids = tmp_path / f"{number}.png", random.integers(0, 3, (8, 12)).astype("u1")
        Image.fromarray(random.integers(0, 256, (8, 12, 3), "u1")).save(path)
        Image.fromarray(ids).save(tmp_path / f"mask{number}.png")
        truth = (Segmentation(ids), Segmentation(mask_path=str(tmp_path / f"mask{number}.png")), None)[number]
        samples[sample_id] = {"filepath": str(path), "ground_truth": truth, "scene": f"s{number}"}
    return View(samples)


def test_samples_are_frames(view: View) -> None:
    view.default_mask_targets = {0: "road", 1: "car", 2: "sky"}
    frames = gv.frames_from(view)
    assert frames.ids == ("65a0", "65a1", "65a2")
    assert frames.classes == ("road", "car", "sky")
    np.testing.assert_array_equal(frames[0].label, view["65a0"]["ground_truth"].mask)
    assert frames[1].label is not None
    assert frames[2].label is None
    assert gv.frames_from(view, id="scene").ids == ("s0", "s1", "s2")


def test_names_with_gaps_are_not_taken(view: View) -> None:
    view.mask_targets = {"ground_truth": {1: "car", 255: "other"}}
    assert gv.frames_from(view).classes is None


def test_what_it_cannot_be(view: View) -> None:
    view.fields = ("ground_truth", "predictions")
    with pytest.raises(FrameError, match="streets: has masks in ground_truth, predictions; say which"):
        gv.frames_from(view)
    assert gv.frames_from(view, label="ground_truth")[0].label is not None
    view.media_type = "group"
    with pytest.raises(FrameError, match="holds group, expected images"):
        gv.frames_from(view)
