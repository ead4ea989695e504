"""frames -> network -> scores -> cache: right values, and what happens when something is wrong."""

from __future__ import annotations

import importlib
import json
import os
import weakref
from pathlib import Path

import numpy as np
import pytest
import torch
import xarray as xr
from frame_files import unpacked
from PIL import Image
from tiny import SCORES, TinyNet, write_set
from torch import nn
from torch.nn import functional as F

import gradunc_viz as gv
from gradunc_viz.cli.main import main as cli
from gradunc_viz.run.compute import compute_report
from gradunc_viz.run.decode import DecodedFrame
from gradunc_viz.run.settings import resolve_device
from gradunc_viz.schema.errors import (
    CacheMismatchError,
    DeviceError,
    FrameError,
    HeadError,
    ModelError,
    NonFiniteError,
    UnknownScoreError,
)
from gradunc_viz.scores.maps import Scorer
from gradunc_viz.store.frame import decode_image

module = importlib.import_module("gradunc_viz.run.network_maps")


def run(net, folder: Path, out: Path, **options) -> gv.Cache:
    return gv.compute(net, gv.open_frames(folder), out, **{"scores": SCORES, "progress": False, **options})


def report_of(net, folder: Path, out: Path, **options):
    return compute_report(net, gv.open_frames(folder), out, **{"scores": SCORES, "progress": False, **options})


def assert_same(one: gv.Cache, two: gv.Cache) -> None:
    assert one.ids == two.ids
    for frame_id in one.ids:
        xr.testing.assert_identical(one[frame_id].load(), two[frame_id].load())
    xr.testing.assert_identical(one.summary, two.summary)


class Counting(nn.Module):
    """Counts frames and forward passes."""

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net, self.sizes = net, []

    def forward(self, x):
        self.sizes.append(x.shape[0])
        return self.net(x)


# ----------------------------------------------------------------------------------------------------------
# values


def test_every_pixel_is_as_written_in_the_paper(tiny_net, tiny_cache, tiny_set):
    """Norms from their definition: the gradient is the outer product of pi - y and the features."""
    net = tiny_net.double()
    for frame in gv.open_frames(tiny_set):
        x = torch.from_numpy(frame.image).permute(2, 0, 1)[None].double() / 255
        with torch.no_grad():
            features = F.softplus(net.body(x))
            logits = net.classifier(features)
            pi = logits.softmax(1)
            one_hot = F.one_hot(pi.argmax(1), 4).permute(0, 3, 1, 2)
            outer = {
                "oh": (pi - one_hot)[:, :, None] * features[:, None],
                "uni": (pi - 1 / 4)[:, :, None] * features[:, None],
                "paper": (pi * (1 - 1 / 4))[:, :, None] * features[:, None],
            }
            norms = {
                "pgn_oh_p0.1": outer["oh"].abs().pow(0.1).sum((1, 2)).pow(10),
                "pgn_oh_p1": outer["oh"].abs().sum((1, 2)),
                "pgn_uni_p0.5": outer["uni"].abs().pow(0.5).sum((1, 2)).pow(2),
                "pgn_uni_p2_paper": outer["paper"].pow(2).sum((1, 2)).sqrt(),
            }
            resized = net(x).softmax(1)[0]
        dataset = tiny_cache[frame.id]
        assert list(dataset["score_head"].values) == list(norms)
        for name, norm in norms.items():
            found = dataset["head_score"].isel(score_head=list(norms).index(name)).values
            np.testing.assert_allclose(found, norm[0].log2(), atol=2.0**-10 + 2e-4, err_msg=name)
        np.testing.assert_array_equal(dataset["prediction"], resized.argmax(0))
        np.testing.assert_allclose(dataset["logits"], logits[0], rtol=2e-3, atol=2e-3)
        msp, entropy = dataset["pixel_score"].values.astype("f4")
        np.testing.assert_allclose(msp, 1 - resized.max(0).values, rtol=1e-3, atol=1e-5)
        np.testing.assert_allclose(entropy, -(resized * resized.log()).sum(0), rtol=1e-3, atol=1e-5)


def test_closed_form_equals_automatic_differentiation(tiny_net, tiny_cache, tiny_set):
    frame = gv.open_frames(tiny_set)["f01"]
    tiny_net.double()
    x = torch.from_numpy(frame.image).permute(2, 0, 1)[None].double() / 255
    found = tiny_cache["f01"].set_index(score_head="score_head")["head_score"].sel(score_head="pgn_oh_p1")
    for v, u in ((0, 0), (7, 11), (20, 28)):
        tiny_net.zero_grad()
        logits = tiny_net.classifier(F.softplus(tiny_net.body(x)))
        pixel = logits[:, :, v, u]
        F.cross_entropy(pixel, pixel.argmax(1)).backward()
        assert float(found[v, u]) == pytest.approx(float(tiny_net.classifier.weight.grad.abs().sum().log2()), abs=2e-3)


def test_frames_of_different_size_in_one_set(tiny_cache):
    sizes = [(frame.sizes["y"], frame.sizes["x"]) for frame in tiny_cache.values()]
    assert sizes == [(48, 64), (41, 57), (48, 64), (41, 57)]
    heads = [frame["logits"].shape for frame in tiny_cache.values()]
    assert heads == [(4, 24, 32), (4, 21, 29), (4, 24, 32), (4, 21, 29)]


@pytest.mark.parametrize("batch", [2, 3, 8])
def test_batches_give_what_single_frames_give(tiny_net, tmp_path, batch):
    folder = write_set(tmp_path / "set", 7, ((48, 64), (48, 64), (48, 64), (41, 57)))
    one = run(tiny_net, folder, tmp_path / "one")
    counting = Counting(tiny_net)
    many = run(gv.Network(counting, classes=one.classes), folder, tmp_path / "many", batch=batch)
    searched = [1, 1]  # the head, in two passes of an empty image
    assert counting.sizes == [*searched, *{2: [2, 1, 1, 2, 1], 3: [3, 1, 3], 8: [3, 1, 3]}[batch]]
    for frame_id in one.ids:
        a, b = one[frame_id].load(), many[frame_id].load()
        for name in ("head_score", "pixel_score", "logits"):
            np.testing.assert_allclose(a[name], b[name], rtol=2e-3, atol=3e-3)
        for name in ("prediction", "label", "anomaly", "image"):
            np.testing.assert_array_equal(a[name], b[name])
        np.testing.assert_array_equal(a["confusion"], b["confusion"])


def test_images_are_resized_for_the_network(tiny_net, tiny_set, tmp_path):
    cache = run(tiny_net, tiny_set, tmp_path / "c", input_size=(32, 40))
    for frame in gv.open_frames(tiny_set):
        dataset = cache[frame.id]
        small = Image.fromarray(frame.image).resize((40, 32), Image.Resampling.BILINEAR)
        x = torch.from_numpy(np.array(small)).permute(2, 0, 1)[None].float() / 255
        with torch.no_grad():
            logits = tiny_net.classifier(F.softplus(tiny_net.body(x)))
        np.testing.assert_allclose(dataset["logits"], logits[0], rtol=1e-3, atol=1e-3)
        wanted = F.interpolate(logits, frame.image.shape[:2], mode="bilinear").argmax(1)[0]
        np.testing.assert_array_equal(dataset["prediction"], wanted)
        assert list(dataset.attrs["input_size"]) == [32, 40]


def test_normalisation_reaches_the_network(tiny_net, tiny_set, tmp_path):
    plain = run(tiny_net, tiny_set, tmp_path / "a", limit=1)
    scaled = run(gv.load_model(tiny_net, normalize=((0, 0, 0), (0.5, 0.5, 0.5))), tiny_set, tmp_path / "b", limit=1)
    tiny_net.body.weight.data *= 2
    twice = run(tiny_net, tiny_set, tmp_path / "c", limit=1)
    np.testing.assert_allclose(scaled[0]["logits"], twice[0]["logits"], rtol=2e-3, atol=2e-3)
    assert np.abs(scaled[0]["logits"].values - plain[0]["logits"].values).max() > 0.1


def test_dropped_channels_are_as_if_they_had_never_been(tiny_set, tmp_path):
    wide = TinyNet(classes=6).eval()
    narrow = TinyNet(classes=4).eval()
    narrow.body.load_state_dict(wide.body.state_dict())
    keep = [0, 2, 3, 5]
    narrow.classifier.weight.data = wide.classifier.weight.data[keep]
    narrow.classifier.bias.data = wide.classifier.bias.data[keep]
    names = [f"class {channel}" for channel in keep]
    dropped = run(gv.load_model(wide, drop_channels=[4, 1]), tiny_set, tmp_path / "dropped")
    plain = run(gv.load_model(narrow, classes=names), tiny_set, tmp_path / "plain")
    assert dropped.classes == plain.classes == tuple(names)
    for frame_id in plain.ids:
        a, b = dropped[frame_id].load(), plain[frame_id].load()
        np.testing.assert_array_equal(a["prediction"], b["prediction"])
        for name in ("head_score", "pixel_score", "logits"):
            np.testing.assert_allclose(a[name], b[name], rtol=2e-3, atol=3e-3)


def test_a_head_given_by_name(tiny_set, tmp_path):
    class Sum(TinyNet):
        def forward(self, x):
            features = self.body(x)
            return self.classifier(F.softplus(features)) + 0 * features.mean()

    net = Sum().eval()
    with pytest.raises(HeadError, match="head='classifier'"):
        run(net, tiny_set, tmp_path / "c")
    assert not (tmp_path / "c").exists()
    cache = run(gv.load_model(net, head="classifier"), tiny_set, tmp_path / "c")
    assert cache[0].attrs["head"] == "classifier"
    assert cache.key["network"]["head"] == "classifier"


def test_frames_without_any_label(tiny_net, tmp_path):
    cache = run(tiny_net, write_set(tmp_path / "set", 2, labels=False, anomalies=False), tmp_path / "c")
    assert "counts" not in cache[0]
    assert "label" not in cache[0]
    summary = cache.summary
    assert not summary["has_label"].any()
    assert not summary["has_anomaly"].any()
    assert summary["error_rate"].isnull().all()
    assert summary["anomaly_rate"].isnull().all()
    assert summary["score_mean"].notnull().all()


@pytest.mark.parametrize("kind", ["label", "anomaly"])
def test_frames_with_one_kind_of_label(tiny_net, tmp_path, kind):
    folder = write_set(tmp_path / "set", 2, labels=kind == "label", anomalies=kind == "anomaly")
    cache = run(tiny_net, folder, tmp_path / "c")
    outcomes = {"label": ["right", "wrong", "missed"], "anomaly": ["normal", "anomaly"]}[kind]
    assert list(cache[0]["outcome"].values) == outcomes
    for frame in cache.values():
        mask = frame[kind].values
        # "missed" are the wrong ones once more
        total = frame["counts"].sel(outcome=outcomes[:2]).sum(("outcome", "class", "bin"))
        assert (total == (mask != 255).sum()).all()


def test_only_pixel_or_only_head_scores(tiny_net, tiny_set, tmp_path):
    pixel = run(tiny_net, tiny_set, tmp_path / "a", scores="entropy", limit=1)
    assert "head_score" not in pixel[0]
    assert gv.score(pixel[0], "entropy").shape == (48, 64)
    head = run(tiny_net, tiny_set, tmp_path / "b", scores="pgn_oh_p0.7", limit=1)
    assert "pixel_score" not in head[0]
    assert gv.score(head[0], "pgn_oh_p0.7").shape == (48, 64)
    assert gv.score(head[0], "msp").shape == (48, 64)


def test_score_image_gives_what_the_cache_gives(tiny_net, tiny_set, tiny_cache):
    frame = gv.open_frames(tiny_set)["f01"]
    for image in (frame.image, frame.image_path, str(frame.image_path)):
        maps = gv.score_image(tiny_net, image, scores=SCORES)
        np.testing.assert_array_equal(maps["prediction"], tiny_cache["f01"]["prediction"])
        for name in SCORES:
            np.testing.assert_allclose(maps[name], gv.score(tiny_cache["f01"], name), rtol=1e-3, atol=2e-3)
    with pytest.raises(FrameError, match=r"expected .* of uint8"):
        gv.score_image(tiny_net, frame.image / 255)
    with pytest.raises(FrameError, match=r"absent\.png"):
        gv.score_image(tiny_net, "absent.png")


# ----------------------------------------------------------------------------------------------------------
# names of classes


def with_names(folder: Path, *names: str) -> Path:
    table = [{"id": i, "name": name, "color": [i, 0, 0]} for i, name in enumerate(names)]
    (folder / "classes.json").write_text(json.dumps(table))
    return folder


def test_class_names_are_those_given_then_of_the_network_then_of_the_frames(tiny_net, own_set, tmp_path):
    assert run(tiny_net, own_set, tmp_path / "0", limit=1).classes == (
        "class 0",
        "class 1",
        "class 2",
        "class 3",
    )
    with_names(own_set, *"abcd")
    frames = run(tiny_net, own_set, tmp_path / "1", limit=1)
    assert frames.classes == tuple("abcd")
    assert frames.colors == ((0, 0, 0), (1, 0, 0), (2, 0, 0), (3, 0, 0))
    named = gv.load_model(tiny_net, classes=list("efgh"))
    with pytest.warns(UserWarning, match="names 'a' / 'e', 'b' / 'f', 'c' / 'g', 'd' / 'h' differ"):
        assert run(named, own_set, tmp_path / "2", limit=1).classes == tuple("efgh")
    with pytest.warns(UserWarning, match="names 'a' / 'i'"):
        assert run(named, own_set, tmp_path / "3", limit=1, classes=list("ijkl")).classes == tuple("ijkl")
    with pytest.raises(ModelError, match="2 class names were given, but the network tells 4 classes apart"):
        run(tiny_net, own_set, tmp_path / "4", classes=["a", "b"])


def test_nineteen_classes_are_those_of_cityscapes(tiny_set, tmp_path):
    cache = run(TinyNet(classes=19).eval(), tiny_set, tmp_path / "c", limit=1)
    assert cache.classes[0] == "road"
    assert cache.colors[0] == (128, 64, 128)


def test_ids_in_labels_are_mapped(tiny_net, tiny_set, tmp_path):
    frames = gv.open_frames(tiny_set, labels={0: 3, 1: 255, 2: 0, 3: 1})
    cache = gv.compute(tiny_net, frames, tmp_path / "c", scores=SCORES, progress=False)
    stored = gv.open_frames(tiny_set)[0].label
    table = np.full(256, 255, "u1")
    table[[0, 1, 2, 3]] = 3, 255, 0, 1
    np.testing.assert_array_equal(cache[0]["label"], table[stored])
    with pytest.raises(CacheMismatchError, match="frame 'f00' was computed from other content"):
        run(tiny_net, tiny_set, tmp_path / "c")


# ----------------------------------------------------------------------------------------------------------
# resuming


def test_resuming_computes_what_is_missing(tiny_net, tiny_set, tmp_path, tiny_cache):
    counting = Counting(tiny_net)
    net = gv.load_model(counting, classes=tiny_cache.classes)
    first = report_of(net, tiny_set, tmp_path / "c", limit=3)
    assert (first.computed, first.existing) == (["f00", "f01", "f02"], [])
    (tmp_path / "c" / "frames" / "f01.zip").unlink()
    counting.sizes.clear()
    second = report_of(net, tiny_set, tmp_path / "c")
    assert (second.computed, second.existing) == (["f01", "f03"], ["f00", "f02"])
    assert counting.sizes == [1, 1]
    counting.sizes.clear()
    third = report_of(net, tiny_set, tmp_path / "c")
    assert (third.computed, third.existing, counting.sizes) == ([], ["f00", "f01", "f02", "f03"], [])
    assert_same(gv.open_cache(tmp_path / "c"), run(net, tiny_set, tmp_path / "whole"))


def test_what_differs_from_the_cache_is_said(tiny_net, tiny_set, tiny_cache):
    with pytest.raises(CacheMismatchError, match=r"network\.weights was \w+, now \w+"):
        run(TinyNet(seed=1).eval(), tiny_set, tiny_cache.path)
    with pytest.raises(CacheMismatchError, match=r"settings\.scores was pgn_oh_p0.*, now msp"):
        run(tiny_net, tiny_set, tiny_cache.path, scores="msp")
    with pytest.raises(CacheMismatchError, match=r"settings\.input_size was None, now 32,40"):
        run(tiny_net, tiny_set, tiny_cache.path, input_size=(32, 40))
    with pytest.raises(CacheMismatchError, match=r"network\.drop_channels was , now 3"):
        run(gv.load_model(tiny_net, drop_channels=[3]), tiny_set, tiny_cache.path)
    with pytest.raises(CacheMismatchError, match=r"network\.normalize was None, now "):
        run(gv.load_model(tiny_net, normalize="imagenet"), tiny_set, tiny_cache.path)
    with pytest.raises(CacheMismatchError, match=r"settings\.images was True, now False"):
        run(tiny_net, tiny_set, tiny_cache.path, images=False)
    assert len(gv.open_cache(tiny_cache.path)) == 4


def test_a_changed_image_is_noticed(tiny_net, own_set, tmp_path):
    run(tiny_net, own_set, tmp_path / "c", limit=2)
    Image.new("RGB", (64, 48)).save(own_set / "images" / "f00.png")
    with pytest.raises(CacheMismatchError, match=r"frame 'f00' was computed from other content than .*f00\.png"):
        run(tiny_net, own_set, tmp_path / "c")


def test_a_damaged_frame_is_computed_again_when_resuming(tiny_net, own_set, tmp_path):
    before = run(tiny_net, own_set, tmp_path / "c", limit=2)["f00"]["logits"].values
    with unpacked(tmp_path / "c" / "frames" / "f00") as files:
        (files / "logits" / "c.0.0.0").unlink()
    with pytest.warns(UserWarning, match="frame 'f00' is computed again: .*damaged, holds"):
        cache = run(tiny_net, own_set, tmp_path / "c")
    np.testing.assert_array_equal(cache["f00"]["logits"].values, before)


# ----------------------------------------------------------------------------------------------------------
# frames that are wrong


def truncate(folder: Path) -> str:
    path = folder / "images" / "f01.png"
    os.truncate(path, path.stat().st_size // 2)
    return r"f01\.png"


def other_size(folder: Path) -> str:
    Image.new("L", (10, 10)).save(folder / "labels" / "f01.png")
    return r"mask is 10 x 10"


def unknown_class(folder: Path) -> str:
    Image.new("L", (57, 41), 9).save(folder / "labels" / "f01.png")
    return r"label holds class id 9, expected 0\.\.3"


def lose(folder: Path) -> str:
    (folder / "images" / "f01.png").write_bytes(b"")
    return r"f01\.png"


@pytest.mark.parametrize("batch", [1, 4])
@pytest.mark.parametrize("spoil", [truncate, other_size, unknown_class, lose])
def test_a_bad_frame_stops_or_is_skipped(tiny_net, own_set, tmp_path, spoil, batch):
    text = spoil(own_set)
    with pytest.raises(FrameError, match=text):
        run(tiny_net, own_set, tmp_path / "stop", batch=batch)
    assert set(gv.open_cache(tmp_path / "stop").ids) <= {"f00"}
    with pytest.warns(UserWarning, match="1 frames were skipped"):
        cache = run(tiny_net, own_set, tmp_path / "skip", on_error="skip", batch=batch)
    assert cache.ids == ("f00", "f02", "f03")
    report = report_of(tiny_net, own_set, tmp_path / "skip", on_error="skip")
    assert report.existing == ["f00", "f02", "f03"]
    ((frame_id, message),) = report.skipped
    assert frame_id == "f01"
    assert "\n" not in message


def test_an_image_that_vanished_after_it_was_cached(tiny_net, own_set, tmp_path):
    run(tiny_net, own_set, tmp_path / "c")
    frames = gv.open_frames(own_set)
    (own_set / "images" / "f01.png").unlink()
    with pytest.raises(FrameError, match=r"f01\.png: cannot be read"):
        gv.compute(tiny_net, frames, tmp_path / "c", scores=SCORES, progress=False)
    report = compute_report(tiny_net, frames, tmp_path / "c", scores=SCORES, progress=False, on_error="skip")
    assert [frame_id for frame_id, _ in report.skipped] == ["f01"]
    assert len(report.existing) == 3


class Poisoned(TinyNet):
    """NaN for an image whose first pixel is white."""

    def forward(self, x):
        bad = (x[:, :, 0, 0] == 1).all(1).view(-1, 1, 1, 1)
        features = F.softplus(self.body(x))
        logits = self.classifier(torch.where(bad, torch.nan, features))
        return F.interpolate(logits, x.shape[-2:], mode="bilinear")


@pytest.mark.parametrize("batch", [1, 4])
def test_a_network_that_answers_nan_for_one_frame(tmp_path, batch):
    folder = write_set(tmp_path / "set", 3, ((48, 64),))
    image = np.array(Image.open(folder / "images" / "f01.png"))
    image[0, 0] = 255
    Image.fromarray(image).save(folder / "images" / "f01.png")
    net = Poisoned().eval()
    with pytest.raises(NonFiniteError, match=r"frame 'f01': \d+ of \d+ features are NaN"):
        run(net, folder, tmp_path / "stop", batch=batch)
    report = report_of(net, folder, tmp_path / "skip", on_error="skip", batch=batch)
    assert [frame_id for frame_id, _ in report.skipped] == ["f01"]
    assert gv.open_cache(tmp_path / "skip").ids == ("f00", "f02")


def test_a_set_of_nothing_but_bad_frames(tiny_net, tmp_path):
    folder = write_set(tmp_path / "set", 2)
    for path in (folder / "images").iterdir():
        path.write_bytes(b"no image")
    with pytest.warns(UserWarning, match="2 frames were skipped"):
        cache = run(tiny_net, folder, tmp_path / "c", on_error="skip")
    assert len(cache) == 0


# ----------------------------------------------------------------------------------------------------------
# networks, memory and devices that are wrong


class Hungry(TinyNet):
    """Runs out of memory for more than `fits` frames at once."""

    def __init__(self, fits: int, error: Exception) -> None:
        super().__init__()
        self.fits, self.error, self.sizes = fits, error, []

    def forward(self, x):
        self.sizes.append(x.shape[0])
        if x.shape[0] > self.fits:
            raise self.error
        return super().forward(x)


MEMORY_ERRORS = [
    torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 GiB"),
    RuntimeError("[enforce fail at alloc_cpu.cpp:1] DefaultCPUAllocator: can't allocate memory"),
    MemoryError(),
]


@pytest.mark.parametrize("error", MEMORY_ERRORS, ids=["cuda", "cpu", "python"])
def test_batches_shrink_where_memory_runs_out(tmp_path, error):
    folder = write_set(tmp_path / "set", 8, ((24, 32),))
    plain = run(TinyNet().eval(), folder, tmp_path / "plain", batch=2)
    net = Hungry(2, error).eval()
    cache = run(net, folder, tmp_path / "c", batch=8)
    assert net.sizes == [1, 1, 8, 4, 2, 2, 2, 2]  # the first two find the head and the number of classes
    assert cache.ids == plain.ids
    for frame_id in plain.ids:
        xr.testing.assert_equal(cache[frame_id].load(), plain[frame_id].load())


def test_groups_to_come_are_smaller_too(tmp_path):
    folder = write_set(tmp_path / "set", 9, ((24, 32),))
    net = Hungry(1, MEMORY_ERRORS[0]).eval()
    run(net, folder, tmp_path / "c", batch=3)
    assert sorted(net.sizes[3:]) == [1] * 9
    assert net.sizes[:3] == [1, 1, 3]


@pytest.mark.parametrize("error", MEMORY_ERRORS, ids=["cuda", "cpu", "python"])
def test_no_memory_for_a_single_frame(tiny_set, tmp_path, error):
    net = gv.load_model(Hungry(0, error).eval(), classes=list("abcd"))
    with pytest.raises(
        DeviceError, match=r"out of memory on cpu for an empty image, an input of 1x48x64; use a smaller"
    ):
        run(net, tiny_set, tmp_path / "c")


def test_no_memory_for_the_scores(tiny_net, tiny_set, tmp_path, monkeypatch):
    def hungry(*_args, **_kwargs):
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(Scorer, "__call__", hungry)
    with pytest.raises(DeviceError, match="out of memory on cpu for the scores of frame 'f00'"):
        run(tiny_net, tiny_set, tmp_path / "c")


def test_scores_take_frames_one_at_a_time_where_memory_runs_out(tmp_path, tiny_net, monkeypatch):
    folder = write_set(tmp_path / "set", 6, ((24, 32),))
    plain = run(tiny_net, folder, tmp_path / "plain", batch=1)
    scored, real = [], Scorer.__call__

    def hungry(scorer, head, size, label, frame_id):
        if head.logits.untyped_storage().nbytes() > head.logits.nbytes:  # a part of a batch that is kept in memory
            raise torch.OutOfMemoryError("CUDA out of memory")
        scored.append(frame_id)
        return real(scorer, head, size, label, frame_id)

    monkeypatch.setattr(Scorer, "__call__", hungry)
    cache = run(tiny_net, folder, tmp_path / "c", batch=4)
    assert scored == list(plain.ids)
    for frame_id in plain.ids:
        xr.testing.assert_allclose(cache[frame_id].load(), plain[frame_id].load())


@pytest.mark.parametrize("color", [(1, 2), (0, 0, 300), "#123456"])
def test_colours_are_checked_before_anything_is_computed(tiny_net, tiny_set, tmp_path, color):
    with pytest.raises(gv.GraduncError, match=r"expected \(red, green, blue\)"):
        run(tiny_net, tiny_set, tmp_path / "c", classes=list("abcd"), colors=[color] * 4)
    assert not (tmp_path / "c").exists()


class Picky(TinyNet):
    def forward(self, x):
        if x.shape[-2:] != (32, 32):
            raise ValueError(f"expected 32 x 32\nbut got {tuple(x.shape)}")
        return super().forward(x)


@pytest.mark.parametrize("classes", [None, list("abcd")])
def test_a_network_that_cannot_take_the_size(tiny_set, tmp_path, classes):
    net = gv.load_model(Picky().eval(), classes=classes)
    with pytest.raises(
        ModelError, match=r"cannot take an input of 48x64 \(expected 32 x 32\); see --input-size"
    ) as raised:
        run(net, tiny_set, tmp_path / "c")
    assert "\n" not in str(raised.value)
    assert len(run(net, tiny_set, tmp_path / "d", input_size=(32, 32))) == 4


@pytest.mark.skipif(torch.cuda.is_available(), reason="a CUDA device is there")
def test_a_device_that_is_absent(tiny_net, tiny_set, tmp_path):
    with pytest.raises(DeviceError, match="no CUDA device is available"):
        run(tiny_net, tiny_set, tmp_path / "c", device="cuda")
    with pytest.raises(DeviceError, match="device 'gpu' is unknown"):
        run(tiny_net, tiny_set, tmp_path / "c", device="gpu")
    assert resolve_device("auto").type == "cpu"
    assert not (tmp_path / "c").exists()


def test_arguments_that_make_no_sense(tiny_net, tiny_set, tmp_path):
    for options, error in (
        ({"on_error": "ignore"}, ValueError),
        ({"batch": 0}, ValueError),
        ({"limit": -1}, ValueError),
        ({"scores": "entropie"}, UnknownScoreError),
        ({"scores": ""}, UnknownScoreError),
    ):
        with pytest.raises(error):
            run(tiny_net, tiny_set, tmp_path / "c", **options)
    assert not (tmp_path / "c").exists()


# ----------------------------------------------------------------------------------------------------------
# options


def test_images_can_be_left_out(tiny_net, tiny_set, tmp_path):
    cache = run(tiny_net, tiny_set, tmp_path / "c", images=False)
    assert "image" not in cache[1]
    assert decode_image(cache[1]).shape == (41, 57, 3)
    assert cache[1].attrs["source"] == "f01.png"


def test_limit(tiny_net, tiny_set, tmp_path):
    assert run(tiny_net, tiny_set, tmp_path / "c", limit=2).ids == ("f00", "f01")
    assert len(run(tiny_net, tiny_set, tmp_path / "c", limit=99)) == 4


def test_progress_can_be_switched_off(tiny_net, tiny_set, tmp_path, capfd):
    run(tiny_net, tiny_set, tmp_path / "c", limit=1)
    assert capfd.readouterr() == ("", "")
    run(tiny_net, tiny_set, tmp_path / "c", limit=2, progress=True)
    assert "scoring on cpu: 100%" in capfd.readouterr().err


def test_the_network_is_left_as_it_was(tiny_set, tmp_path):
    net = TinyNet().train()
    before = {name: value.clone() for name, value in net.state_dict().items()}
    run(net, tiny_set, tmp_path / "c", limit=1)
    assert net.training
    assert not any(module._forward_hooks for module in net.modules())
    assert all(torch.equal(value, before[name]) for name, value in net.state_dict().items())


def test_few_frames_are_in_memory_at_a_time(tiny_net, tmp_path, monkeypatch):
    folder = write_set(tmp_path / "set", 30, ((24, 32),), anomalies=False)
    alive: weakref.WeakSet[DecodedFrame] = weakref.WeakSet()
    most = []
    real = module.decode

    def watched(*args, **kwargs):
        frame = real(*args, **kwargs)
        alive.add(Box(frame))
        most.append(len(alive))
        return frame

    class Box:
        """Lives as long as the frame it is put into."""

        __slots__ = ("__weakref__",)

        def __init__(self, frame: DecodedFrame) -> None:
            frame.box = self

    monkeypatch.setattr(module, "decode", watched)
    run(tiny_net, folder, tmp_path / "c", scores="msp")
    assert len(most) == 30
    assert max(most) <= 7


# ----------------------------------------------------------------------------------------------------------
# networks from elsewhere


def command(model: str, data: Path, out: Path, *options: str) -> gv.Cache:
    """What a user types."""
    arguments = ["compute", "--model", model, "--data", str(data), "--out", str(out), "--device", "cpu", "--quiet"]
    assert cli([*arguments, *options]) == 0
    return gv.open_cache(out)


@pytest.mark.slow
def test_a_model_of_transformers(tiny_set, tmp_path):
    transformers = pytest.importorskip("transformers")
    config = transformers.SegformerConfig(
        num_encoder_blocks=2,
        depths=[1, 1],
        sr_ratios=[2, 1],
        hidden_sizes=[8, 16],
        patch_sizes=[3, 3],
        strides=[2, 2],
        num_attention_heads=[1, 2],
        mlp_ratios=[2, 2],
        decoder_hidden_size=12,
        id2label={0: "road", 1: "car", 2: "sky", 3: "tree"},
        label2id={"road": 0, "car": 1, "sky": 2, "tree": 3},
    )
    torch.manual_seed(0)
    transformers.SegformerForSemanticSegmentation(config).save_pretrained(tmp_path / "model")
    cache = command(f"hf:{tmp_path / 'model'}", tiny_set, tmp_path / "c", "--scores", ",".join(SCORES))
    assert cache.classes == ("road", "car", "sky", "tree")
    assert cache.ids == ("f00", "f01", "f02", "f03")
    assert cache[0].attrs["head"] == "decode_head.classifier"
    for name in SCORES:
        assert np.isfinite(gv.score(cache[1], name)).all()


VIT = """
import torch
from torch import nn


class Segmenter(nn.Module):
    def __init__(self):
        super().__init__()
        self.patch = nn.Conv2d(3, 8, 8, 8)
        self.block = nn.Linear(8, 8)
        self.head = nn.Linear(8, 4)

    def forward(self, x):
        tokens = self.patch(x)
        n, _, h, w = tokens.shape
        logits = self.head(torch.tanh(self.block(tokens.flatten(2).transpose(1, 2))))
        logits = logits.transpose(1, 2).reshape(n, 4, h, w)
        return {"out": nn.functional.interpolate(logits, x.shape[-2:], mode="bilinear")}


def make():
    torch.manual_seed(3)
    return Segmenter()
"""


@pytest.mark.parametrize("batch", [1, 2])
def test_a_transformer_with_a_linear_head_from_a_file(tmp_path, batch):
    (tmp_path / "vit.py").write_text(VIT)
    folder = write_set(tmp_path / "set", 3, ((48, 64),))
    net = gv.load_model(f"{tmp_path / 'vit.py'}:make")
    spec = f"{tmp_path / 'vit.py'}:make"
    cache = command(spec, folder, tmp_path / "c", "--batch", str(batch), "--scores", "pgn_oh_p1")
    assert cache[0].attrs["head"] == "head"
    for frame in gv.open_frames(folder):
        x = torch.from_numpy(frame.image).permute(2, 0, 1)[None].float() / 255
        with torch.no_grad():
            tokens = torch.tanh(net.net.block(net.net.patch(x).flatten(2).transpose(1, 2)))[0]
            pi = net.net.head(tokens).softmax(-1)
            delta = (pi - F.one_hot(pi.argmax(-1), 4)).abs().sum(-1)
            norm = (delta * tokens.abs().sum(-1)).log2().view(6, 8)
        np.testing.assert_allclose(cache[frame.id]["head_score"][0], norm, atol=2e-3)
