"""Calibration on frames: a known temperature, the table against a softmax in float64, what is refused."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
import xarray as xr
from PIL import Image
from tiny import write_set
from torch import nn
from torch.nn import functional as F

import gradunc_viz as gv
from gradunc_viz.schema.errors import FitError, FrameError, SettingsError

SIZES = ((48, 64), (41, 57))
TEMPERATURE = 2.0


class Mixed(nn.Module):
    """Logits at half the size of the image that are all alike in size, times a number."""

    def __init__(self, factor: float = 1.0, classes: int = 4) -> None:
        super().__init__()
        with torch.random.fork_rng():
            torch.manual_seed(0)
            self.body = nn.Conv2d(3, 8, 3, stride=2, padding=1, bias=False)
            self.classifier = nn.Conv2d(8, 5, 1)
            nn.init.normal_(self.body.weight, std=1)
            nn.init.normal_(self.classifier.weight, std=2)
        for name in ("weight", "bias"):
            setattr(self.classifier, name, nn.Parameter(factor * getattr(self.classifier, name)[:classes].detach()))

    def at_head(self, x: torch.Tensor) -> torch.Tensor:
        return self.classifier(torch.tanh(self.body(x - 0.5)))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return F.interpolate(self.at_head(x), x.shape[-2:], mode="bilinear")


def logits_of(frame: gv.Frame, net: Mixed) -> np.ndarray:
    x = torch.from_numpy(frame.image).permute(2, 0, 1)[None] / 255
    with torch.no_grad():
        return F.interpolate(net.at_head(x).double(), x.shape[2:], mode="bilinear")[0].numpy()


def labelled_by(net: Mixed, folder: Path, count: int = 6) -> Path:
    """A set whose labels are drawn from the network's softmax at a temperature; a fifth is ignored."""
    write_set(folder, count, SIZES, anomalies=False)
    for number, frame in enumerate(gv.open_frames(folder)):
        random = np.random.default_rng(number)
        scaled = logits_of(frame, net) / TEMPERATURE
        ids = (scaled + random.gumbel(size=scaled.shape)).argmax(0).astype("u1")
        ids[random.random(ids.shape) < 0.2] = 255
        Image.fromarray(ids).save(folder / f"labels/{frame.id}.png")
    return folder


@pytest.fixture(scope="module")
def frames(tmp_path_factory: pytest.TempPathFactory) -> gv.Frames:
    return gv.open_frames(labelled_by(Mixed().eval(), tmp_path_factory.mktemp("calibrate") / "set"))


def calibrated(frames, net=None, **options) -> xr.Dataset:
    return gv.calibrate(net or Mixed().eval(), frames, progress=False, **options)


def test_the_temperature_of_the_labels_is_found(frames):
    found = calibrated(frames)
    assert float(found["temperature"]) == pytest.approx(TEMPERATURE, rel=0.1)
    by_factor = {factor: float(calibrated(frames, Mixed(factor).eval())["temperature"]) for factor in (0.5, 3.0)}
    for factor, temperature in by_factor.items():
        assert temperature == pytest.approx(factor * float(found["temperature"]), rel=1e-4)
    number = f"{float(found['temperature']):.4g}"
    assert found.attrs["scores"] == [f"{name}_T{number}" for name in ("msp", "entropy", "margin")]
    gv.score_image(Mixed(), frames[0].image, scores=found.attrs["scores"])
    fitted = found.sel(part="fitted")
    nll = dict(zip(found["scaling"].values, fitted["nll"].values, strict=True))
    assert nll["vector"] <= nll["temperature"] < nll["none"]
    held_out = found.sel(part="held out")
    for name in ("nll", "ece"):
        assert held_out[name].sel(scaling="temperature") < held_out[name].sel(scaling="none")
    assert held_out["accuracy"].sel(scaling="temperature") == held_out["accuracy"].sel(scaling="none")


def expected_error(logits: np.ndarray, label: np.ndarray) -> tuple[float, float, float]:
    """ECE of 15 bins by a loop over them, NLL and accuracy."""
    pi = np.exp(logits - logits.max(0)) / np.exp(logits - logits.max(0)).sum(0)
    confidence, right = pi.max(0), pi.argmax(0) == label
    error = 0.0
    for place in range(15):
        inside = (confidence >= place / 15) & ((confidence < (place + 1) / 15) | (place == 14))
        if inside.any():
            error += inside.mean() * abs(right[inside].mean() - confidence[inside].mean())
    return error, -np.log(pi[label, np.arange(len(label))]).mean(), right.mean()


def test_the_table_is_that_of_all_pixels_held_out(frames):
    found = calibrated(frames)
    assert sorted(found.attrs["fitted_on"] + found.attrs["held_out"]) == [frame.id for frame in frames]
    logits, label = [], []
    for frame in frames:
        if frame.id in found.attrs["held_out"]:
            known = frame.label != 255
            logits.append(logits_of(frame, Mixed())[:, known])
            label.append(frame.label[known])
    logits, label = np.concatenate(logits, 1), np.concatenate(label)
    weight, bias = (found[name].values[:, None] for name in ("weight", "bias"))
    scaled = {"none": logits, "temperature": logits / float(found["temperature"]), "vector": logits * weight + bias}
    held_out = found.sel(part="held out")
    assert held_out["pixels"] == len(label)
    for name, values in scaled.items():
        one = held_out.sel(scaling=name)
        computed = [float(one[what]) for what in ("ece", "nll", "accuracy")]
        assert computed == pytest.approx(expected_error(values, label), abs=2e-5), name


def test_says_what_the_cache_says_of_the_network_as_it_is(frames, tmp_path):
    found = calibrated(frames)
    cache = gv.compute(Mixed().eval(), frames, tmp_path / "cache", scores="msp", progress=False)
    of_cache = gv.calibration(cache, frames=found.attrs["held_out"])
    one = found.sel(part="held out", scaling="none")
    assert float(one["ece"]) == pytest.approx(of_cache["ece"].item(), abs=1e-6)
    assert float(one["nll"]) == pytest.approx(of_cache["nll"].item(), rel=1e-6)


def test_is_the_same_whatever_the_order_and_the_batch(frames):
    found = calibrated(frames, pixels=1000, seed=3)
    assert int(found["drawn"].sum()) == int(found["pixels"].sel(part="fitted")) == 1000
    for other in (
        calibrated(list(frames)[::-1], pixels=1000, seed=3),
        calibrated(frames, pixels=1000, seed=3, batch=3),
    ):
        xr.testing.assert_allclose(found, other, rtol=1e-6)
        assert found.attrs == other.attrs
    another = calibrated(frames, pixels=1000, seed=4)
    assert float(another["temperature"]) != float(found["temperature"])


def test_drawn_pixels_are_those_of_the_resized_logits(frames):
    """All pixels are drawn where there are fewer than asked for."""
    found = calibrated(frames)
    label = np.concatenate([f.label[f.label != 255] for f in frames if f.id in found.attrs["fitted_on"]])
    assert int(found["pixels"].sel(part="fitted")) == len(label)
    np.testing.assert_array_equal(found["drawn"], np.bincount(label, minlength=4))
    logits = [logits_of(f, Mixed())[:, f.label != 255] for f in frames if f.id in found.attrs["fitted_on"]]
    expected = expected_error(np.concatenate(logits, 1), label)
    one = found.sel(part="fitted", scaling="none")
    assert [float(one[what]) for what in ("ece", "nll", "accuracy")] == pytest.approx(expected, abs=2e-5)


def test_classes_that_no_pixel_has_are_named(few):
    """Masks hold channels; that of the fifth class, and that which is none, occur in none."""
    network = gv.load_model(Mixed(classes=5).eval(), drop_channels=[1])
    with pytest.warns(UserWarning, match="no pixel that is fitted on is of class e: vector scaling"):
        found = calibrated(gv.open_frames(few), network, classes=["a", "c", "d", "e"])
    assert list(found["class"].values) == ["a", "c", "d", "e"]
    assert int(found["drawn"].sel({"class": "e"})) == 0
    assert float(found["weight"].sel({"class": "e"})) == pytest.approx(1 / float(found["temperature"]))
    assert float(found["bias"].sel({"class": "e"})) == 0


@pytest.fixture
def few(tmp_path: Path) -> Path:
    return labelled_by(Mixed().eval(), tmp_path / "few", 3)


def test_one_labelled_frame_is_not_split(few):
    (few / "labels/f00.png").unlink()
    (few / "labels/f01.png").unlink()
    with pytest.raises(FitError, match="of 3 frames only 'f02' has class labels; expected two or more"):
        calibrated(gv.open_frames(few))
    unlabelled = write_set(few / "bare", 2, labels=False)
    with pytest.raises(FitError, match="of 2 frames none has class labels"):
        calibrated(gv.open_frames(unlabelled))


def test_frames_without_labels_are_left_out(few):
    (few / "labels/f01.png").unlink()
    with pytest.warns(UserWarning, match="1 frames have no class labels and are left out: frame f01"):
        found = calibrated(gv.open_frames(few))
    assert sorted(found.attrs["fitted_on"] + found.attrs["held_out"]) == ["f00", "f02"]
    assert list(found["frames"].values) == [1, 1]


def ignore_all(frame: gv.Frame) -> None:
    Image.fromarray(np.full(frame.size, 255, "u1")).save(frame.label_path)


def test_ignored_pixels_are_no_pixels(few):
    for frame in gv.open_frames(few):
        ignore_all(frame)
    with pytest.raises(FitError, match=r"0 labelled pixels of frame f0. to fit on"):
        calibrated(gv.open_frames(few))


def test_frames_that_tell_nothing_of_what_came_of_it_are_an_error(few):
    held_out = calibrated(gv.open_frames(few)).attrs["held_out"]
    for frame in gv.open_frames(few):
        if frame.id in held_out:
            ignore_all(frame)
    with pytest.raises(FitError, match=f"no pixel of frames {', '.join(held_out)}.* is labelled"):
        calibrated(gv.open_frames(few))


def test_values_that_make_no_sense_are_refused(frames):
    for options in ({"pixels": 0}, {"pixels": 1.5}, {"seed": -1}, {"pixels": True}):
        with pytest.raises(SettingsError, match=f"{next(iter(options))} is .*expected a whole number"):
            calibrated(frames, **options)
    with pytest.raises(FitError, match=r"79 labelled pixels .* of 79 that were asked for; expected 80 or more"):
        calibrated(frames, pixels=79)
    with pytest.raises(FrameError, match=r"frame f00 stand.* more than once"):
        calibrated([*frames, frames[0]])


def test_a_frame_that_fails_ends_the_run_or_is_left_out(few):
    fine = calibrated(gv.open_frames(few))
    broken = fine.attrs["held_out"][0]
    (few / f"images/{broken}.png").write_bytes(b"no image")
    with pytest.raises(FrameError, match=broken):
        calibrated(gv.open_frames(few))
    with pytest.warns(UserWarning, match=f"1 frames were skipped: .*{broken}"):
        found = calibrated(gv.open_frames(few), on_error="skip")
    assert list(found["frames"].values) == [1, 1]


def test_a_network_that_is_always_right_has_no_temperature(few):
    for frame in gv.open_frames(few):
        Image.fromarray(logits_of(frame, Mixed()).argmax(0).astype("u1")).save(few / f"labels/{frame.id}.png")
    with pytest.raises(FitError, match=r"pixels of frame f0.: the smaller the temperature the better"):
        calibrated(gv.open_frames(few))


def test_the_result_is_written_and_read_again(frames):
    found = calibrated(frames)
    again = xr.Dataset.from_dict(json.loads(json.dumps(found.to_dict())))
    xr.testing.assert_equal(again, found)
    assert again.attrs == found.attrs
