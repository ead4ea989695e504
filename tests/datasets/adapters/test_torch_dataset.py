"""Frames of torch data sets and plain sequences."""

from __future__ import annotations

import re
import threading
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from tiny import TinyNet
from torch.utils.data import Dataset, IterableDataset, Subset

import gradunc_viz as gv
from gradunc_viz.datasets.adapters.items import _KEPT
from gradunc_viz.schema.errors import FitError, FrameError

random = np.random.default_rng(0)
IMAGES = random.integers(0, 256, (4, 24, 32, 3), "u1")
IDS = random.integers(0, 4, (4, 24, 32)).astype("u1")


class Pairs(Dataset):
    """Counts how often it is read, and by how many threads at a time."""

    def __init__(self, items: list, reads: list | None = None) -> None:
        self.items, self.reads, self.inside = items, [] if reads is None else reads, 0

    def __len__(self) -> int:
        return len(self.items)

    def __getitem__(self, index: int) -> object:
        self.inside += 1
        assert self.inside == 1, "read by two threads at once"
        self.reads.append(index)
        threading.Event().wait(0.001)
        self.inside -= 1
        return self.items[index]


def tensor(image: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(image).movedim(-1, 0)


KINDS = {
    "pillow": [(Image.fromarray(image), Image.fromarray(ids)) for image, ids in zip(IMAGES, IDS, strict=True)],
    "arrays": list(zip(IMAGES, IDS.astype("i8"), strict=True)),
    "tensors": [(tensor(image) / 255, torch.from_numpy(ids).long()) for image, ids in zip(IMAGES, IDS, strict=True)],
    "uint8": [(tensor(image), torch.from_numpy(ids)[None]) for image, ids in zip(IMAGES, IDS, strict=True)],
    "dictionaries": [{"image": image, "mask": ids[:, :, None]} for image, ids in zip(IMAGES, IDS, strict=True)],
}


@pytest.mark.parametrize("kind", KINDS)
def test_items_of_every_usual_form(kind: str) -> None:
    frames = gv.frames_from(Pairs(KINDS[kind]))
    assert frames.ids == ("000000", "000001", "000002", "000003")
    for frame, image, ids in zip(frames, IMAGES, IDS, strict=True):
        np.testing.assert_array_equal(frame.image, image)
        np.testing.assert_array_equal(frame.label, ids)
        assert frame.label.dtype == np.uint8
        assert frame.size == (24, 32)
        assert frame.anomaly is None
        assert Image.open(__import__("io").BytesIO(frame.image_bytes)).size == (32, 24)


def test_nothing_is_read_ahead_and_little_is_kept() -> None:
    data = Pairs(list(zip(IMAGES.repeat(10, 0), IDS.repeat(10, 0), strict=True)))
    frames = gv.frames_from(data)
    assert data.reads == [0, 0]  # what an item is made of, and whether it stays the same
    for frame in frames:
        _ = frame.image, frame.label, frame.digest()
    assert data.reads[2:] == list(range(1, 40))
    assert len(frames[0].image_path.items._kept) == _KEPT


def test_computed_resumed_evaluated_and_fitted(tmp_path: Path) -> None:
    net, data = TinyNet().eval(), Pairs(KINDS["tensors"])
    gv.compute(net, gv.frames_from(Subset(data, [0, 1])), tmp_path / "cache", scores="msp", progress=False)
    data.reads.clear()
    cache = gv.compute(net, gv.frames_from(data), tmp_path / "cache", scores="msp", progress=False)
    assert cache.ids == ("000000", "000001", "000002", "000003")
    whole = gv.compute(net, gv.frames_from(Pairs(KINDS["arrays"])), tmp_path / "other", scores="msp", progress=False)
    for frame_id in cache:
        np.testing.assert_array_equal(cache[frame_id]["prediction"], whole[frame_id]["prediction"])
        np.testing.assert_array_equal(cache[frame_id]["label"], whole[frame_id]["label"])
    assert float(gv.evaluate(cache, "error", scores=["msp"], bootstrap=0)["auroc"].min()) > 0
    fit = gv.fit(net, gv.frames_from(data), scores="knn", progress=False)
    assert fit.scores == ("knn",)


def test_some_items_without_a_mask(tmp_path: Path) -> None:
    items = [(IMAGES[0], IDS[0]), (IMAGES[1], None), (IMAGES[2], IDS[2])]
    frames = gv.frames_from(Pairs(items))
    assert [frame.label is None for frame in frames] == [False, True, False]
    cache = gv.compute(TinyNet().eval(), frames, tmp_path / "cache", scores="msp", progress=False)
    assert ["label" in cache[frame_id] for frame_id in cache] == [True, False, True]
    assert [frame.label_path is None for frame in frames] == [False, True, False]
    with pytest.raises(FitError, match="of 2 frames none has class labels"):
        gv.calibrate(TinyNet().eval(), gv.frames_from([(IMAGES[0], None), (IMAGES[1], None)]), progress=False)


def test_what_ids_mean() -> None:
    ids = IDS[0].astype("i8")
    ids[0] = -100
    with pytest.raises(FrameError, match=r"Pairs, mask of item 0: mask holds id -100, expected class ids"):
        _ = gv.frames_from(Pairs([(IMAGES[0], ids)]))[0].label
    ignored = gv.frames_from(Pairs([(IMAGES[0], ids)]), ignore_index=-100)[0]
    assert (ignored.label[0] == 255).all()
    np.testing.assert_array_equal(ignored.label[1:], IDS[0][1:])
    mapped = gv.frames_from(Pairs([(IMAGES[0], ids)]), labels={-100: None, 0: 1, 1: 0, 2: 2, 3: 2})[0]
    np.testing.assert_array_equal(mapped.label[1:], np.array([1, 0, 2, 2], "u1")[IDS[0][1:]])
    unknown = gv.frames_from(Pairs([(IMAGES[0], IDS[0])]), anomaly_ids=[3])[0]
    np.testing.assert_array_equal(unknown.anomaly, IDS[0] == 3)
    reduced = gv.frames_from(Pairs([(IMAGES[0], IDS[0])]), reduce_zero_label=True)[0]
    np.testing.assert_array_equal(reduced.label, IDS[0] - 1)
    assert len({ignored.digest(), mapped.digest(), unknown.digest(), reduced.digest()}) == 4


def test_three_parts_and_names_of_ones_own() -> None:
    item = {"left": IMAGES[0], "truth": IDS[0], "strange": (IDS[0] == 3).astype("u1"), "weather": "rain"}
    with pytest.raises(FrameError, match="no telling which is the image of parts left, truth, strange, weather"):
        gv.frames_from([item])
    (frame,) = gv.frames_from([item], image="left", label="truth", anomaly="strange", classes=["a", "b", "c", "d"])
    assert frame.classes == ("a", "b", "c", "d")
    np.testing.assert_array_equal(frame.anomaly, IDS[0] == 3)
    with pytest.warns(UserWarning, match=r"list: parts truth, strange, weather not used; say what is a mask: label="):
        assert gv.frames_from([item], image="left")[0].label is None
    (frame,) = gv.frames_from([(IMAGES[0], IDS[0], (IDS[0] == 3))], anomaly=2)
    np.testing.assert_array_equal(frame.anomaly, IDS[0] == 3)
    with pytest.warns(UserWarning, match=r"list: parts strange, weather not used; say what"):
        gv.frames_from([item], image="left", label="truth")
    (alone,) = gv.frames_from([IMAGES[0]])
    assert alone.label is None


ODD = (IDS[0] == 3).astype("u1")


def test_the_third_of_three_is_an_anomaly_mask_where_it_is_one() -> None:
    for third in (ODD, ODD * 255, ODD > 0, torch.from_numpy(ODD)[None].long(), Image.fromarray(ODD)):
        (frame,) = gv.frames_from([(IMAGES[0], IDS[0], third)])
        (said,) = gv.frames_from([(IMAGES[0], IDS[0], third)], anomaly=2)
        np.testing.assert_array_equal(frame.label, IDS[0])
        np.testing.assert_array_equal(frame.anomaly, said.anomaly)
    first, second = gv.frames_from([(IMAGES[0], IDS[0], None), (IMAGES[1], IDS[1], ODD)])
    assert first.anomaly is None
    np.testing.assert_array_equal(second.anomaly, ODD)
    (frame,) = gv.frames_from([(ODD, IMAGES[0], IDS[0])], image=1, label=2, anomaly=0)
    np.testing.assert_array_equal(frame.anomaly, ODD)
    (frame,) = gv.frames_from([(IMAGES[0], ODD)], anomaly=1)
    assert frame.label is None
    mapped = gv.frames_from([(IMAGES[0], IDS[0], ODD * 255)], anomalies={0: 0, 255: 1})[0]
    np.testing.assert_array_equal(mapped.anomaly, ODD)


@pytest.mark.parametrize(
    ("more", "problem"),
    [
        (("name",), "part 2 not used (as an anomaly mask, list, mask of item 0: cannot be "),
        ((IDS[0],), "part 2 not used (as an anomaly mask, list, mask of item 0: mask holds ids 2, 3, expected"),
        ((ODD[:8], 3), "parts 2, 3 not used (as an anomaly mask, list, mask of item 0: mask is 8 x 32"),
        ((ODD / 2,), "part 2 not used (as an anomaly mask, list, mask of item 0: is float64, expected integers"),
        ((ODD, {"name": 3}), "part 3 not used; say what is a mask: label=..., anomaly=..."),
        (({"boxes": []},), "part 2 not used (as an anomaly mask, list, mask of item 0: is dict"),
    ],
)
def test_parts_that_are_not_used_are_told(more: tuple, problem: str) -> None:
    with pytest.warns(UserWarning, match=re.escape(problem)):
        (frame,) = gv.frames_from([(IMAGES[0], IDS[0], *more)])
    np.testing.assert_array_equal(frame.label, IDS[0])
    assert (frame.anomaly is None) == (more[0] is not ODD)
    frames = gv.frames_from([(IMAGES[1], IDS[1]), (IMAGES[0], IDS[0], *more)])
    with pytest.warns(UserWarning, match=r"list, item 1: parts? 2.* not used, as item 0 has none such"):
        assert frames[1].label is not None


class Stream(IterableDataset):
    def __iter__(self):
        return iter(KINDS["arrays"])


class Fails(Pairs):
    def __getitem__(self, index: int) -> object:
        if index:
            raise KeyError("no such file")
        return super().__getitem__(index)


class Random(Pairs):
    def __getitem__(self, index: int) -> object:
        return torch.rand(3, 8, 8), torch.zeros(8, 8, dtype=torch.long)


@pytest.mark.parametrize(
    ("data", "problem"),
    [
        (Stream(), "Stream: has no length and items by number"),
        (iter(KINDS["arrays"]), "has no length and items by number"),
        ([], "holds no item"),
        (Random([0]), "item 0 is another image each time it is read"),
        (["a", "b"], "list, item 0: is 'a', expected an image, (image, mask) or a dictionary"),
        ({"image": 1}, "frames of dict: expected one of Hugging Face datasets, FiftyOne, pandas, torch Dataset"),
        (3, "frames of int: expected one of"),
        ("folder", "'folder' is a path, expected an object; a path is for open_frames"),
    ],
)
def test_what_is_no_data_set(data: object, problem: str) -> None:
    with pytest.raises(FrameError, match=re.escape(problem)):
        gv.frames_from(data)
    if not isinstance(data, str):
        with pytest.raises(FrameError, match=r"frames of an object: gv\.frames_from"):
            gv.open_frames(data)


@pytest.mark.parametrize(
    ("item", "problem"),
    [
        ((tensor(IMAGES[0]) / 127.5 - 1, IDS[0]), "item 1: its image holds -1 to 1, expected 0 to 1 or uint8"),
        ((tensor(IMAGES[0]).float(), IDS[0]), "item 1: its image holds 0 to 255, expected 0 to 1"),
        ((torch.zeros(13, 24, 32), IDS[0]), "item 1: its image is Tensor of shape (13, 24, 32), expected (y, x, 3)"),
        (
            (np.zeros((3, 24, 32), "u1"), IDS[0]),
            "item 1: its image is ndarray of shape (3, 24, 32), expected (y, x, 3)",
        ),
        (("name", IDS[0]), "item 1: cannot be read"),
        ((IMAGES[0], 3), "mask of item 1: is int, expected a picture, an array or a tensor of ids"),
        ((IMAGES[0], IDS[0] / 255), "mask of item 1: is float64, expected integers: ToTensor is for images"),
        ((IMAGES[0], torch.zeros(5, 24, 32)), "mask of item 1: is Tensor of shape (5, 24, 32), expected ids (y, x)"),
        ((IMAGES[0], IDS[0][:8]), "mask of item 1: mask is 8 x 32 (height x width), expected 24 x 32"),
        ((IMAGES[0], np.full((24, 32), 2**40)), "mask of item 1: holds ids 1099511627776"),
    ],
)
def test_what_is_wrong_with_an_item_is_named(item: tuple, problem: str, tmp_path: Path) -> None:
    frames = gv.frames_from(Pairs([(IMAGES[0], IDS[0]), item, (IMAGES[2], IDS[2])]))
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        cache = gv.compute(TinyNet().eval(), frames, tmp_path / "cache", scores="msp", on_error="skip", progress=False)
    assert cache.ids == ("000000", "000002")
    assert any(problem in str(warning.message) for warning in said), [str(warning.message) for warning in said]


def test_a_data_set_that_fails(tmp_path: Path) -> None:
    frames = gv.frames_from(Fails(KINDS["arrays"]))
    with pytest.raises(FrameError, match=r"Fails, item 1: cannot be read \(KeyError: 'no such file'\)"):
        gv.compute(TinyNet().eval(), frames, tmp_path / "cache", scores="msp", progress=False)
    assert gv.open_cache(tmp_path / "cache").ids == ("000000",)


def test_a_lossy_mask_and_a_palette(tmp_path: Path) -> None:
    Image.fromarray(IDS[0]).save(tmp_path / "mask.jpg")
    with pytest.raises(FrameError, match="mask of item 0: mask is a JPEG, which changes ids"):
        _ = gv.frames_from([(IMAGES[0], Image.open(tmp_path / "mask.jpg"))])[0].label
    indexed = Image.fromarray(IDS[0]).convert("P")
    indexed.putpalette([0, 0, 0, 128, 0, 0, 0, 128, 0, 128, 128, 0])
    np.testing.assert_array_equal(gv.frames_from([(IMAGES[0], indexed)])[0].label, IDS[0])
