"""Frames of data sets of Hugging Face; skipped where ``datasets`` is not installed."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from tiny import TinyNet

import gradunc_viz as gv
from gradunc_viz.schema.errors import FrameError

pytest.importorskip("datasets.arrow_dataset", reason="datasets of Hugging Face is not installed")
import datasets

random = np.random.default_rng(0)
IMAGES = random.integers(0, 256, (3, 24, 32, 3), "u1")
IDS = random.integers(0, 4, (3, 24, 32)).astype("u1")


def encoded(pixels: np.ndarray) -> dict:
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG")
    return {"bytes": buffer.getvalue(), "path": None}


@pytest.fixture
def data():
    columns = {
        "image": list(map(encoded, IMAGES)),
        "annotation": [encoded(IDS[0]), encoded(IDS[1]), None],
        "scene": [1, 0, 1],
        "name": ["a", "b", "c"],
    }
    features = datasets.Features(
        image=datasets.Image(),
        annotation=datasets.Image(),
        scene=datasets.ClassLabel(names=["town", "wood"]),
        name=datasets.Value("string"),
    )
    return datasets.Dataset.from_dict(columns, features=features)


def test_columns_are_found(data, tmp_path: Path) -> None:
    frames = gv.frames_from(data)
    assert frames.ids == ("000000", "000001", "000002")
    np.testing.assert_array_equal(frames[1].image, IMAGES[1])
    np.testing.assert_array_equal(frames[1].label, IDS[1])
    assert frames[2].label is None
    assert frames.classes is None
    assert frames[0].image_bytes == encoded(IMAGES[0])["bytes"]
    assert gv.frames_from(data, id="name").ids == ("a", "b", "c")
    data.set_transform(lambda rows: {"pixel_values": [0] * len(rows["image"])})
    cache = gv.compute(TinyNet().eval(), gv.frames_from(data), tmp_path / "c", scores="msp", progress=False)
    np.testing.assert_array_equal(cache[0]["label"], IDS[0])
    again = gv.compute(TinyNet().eval(), frames, tmp_path / "c", scores="msp", progress=False)
    assert again.ids == frames.ids


def test_arrays_with_names_of_classes() -> None:
    names = ["road", "car", "sky", "tree"]
    features = datasets.Features(
        image=datasets.Array3D((24, 32, 3), "uint8"),
        label=datasets.Sequence(datasets.Sequence(datasets.ClassLabel(names=names))),
    )
    data = datasets.Dataset.from_dict({"image": list(IMAGES), "label": IDS.tolist()}, features=features)
    frames = gv.frames_from(data, image="image")
    assert frames.classes == tuple(names)
    np.testing.assert_array_equal(frames[2].image, IMAGES[2])
    np.testing.assert_array_equal(frames[2].label, IDS[2])


def test_what_has_no_frames_by_number(data) -> None:
    with pytest.raises(FrameError, match="a DatasetDict of splits train, validation, expected one"):
        gv.frames_from(datasets.DatasetDict(train=data, validation=data))
    with pytest.raises(FrameError, match="streamed has no frames by number"):
        gv.frames_from(data.to_iterable_dataset())
    with pytest.raises(FrameError, match="label is 'scene', expected one of annotation"):
        gv.frames_from(data, label="scene")
    with pytest.raises(FrameError, match="id is 'key', expected one of image, annotation, scene, name"):
        gv.frames_from(data, id="key")
    with pytest.raises(FrameError, match="no telling which is the image"):
        gv.frames_from(data.select_columns(["scene", "name"]))
