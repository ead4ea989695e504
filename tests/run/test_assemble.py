"""From a network's output to the dataset of one frame."""

from __future__ import annotations

import io

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from gradunc_viz.run.assemble import frame_dataset, half_if_it_fits, halved_maps, quantise_log2
from gradunc_viz.run.decode import DecodedFrame
from gradunc_viz.schema.errors import GraduncError, NonFiniteError
from gradunc_viz.schema.frame import validate
from gradunc_viz.schema.scores import lookup
from gradunc_viz.scores.gradients import gradient_norms
from gradunc_viz.scores.maps import ScoreOptions, score_maps
from gradunc_viz.scores.needs import HeadOutput
from gradunc_viz.scores.resizing import resize_log2_norms

SIZE = (12, 18)
CLASSES = ("road", "sky", "car")
SCORES = ("msp", "pgn_uni_p1", "max_logit", "pgn_oh_p0.5")
LAYER = nn.Conv2d(5, 3, 1)


def network_output():
    generator = torch.Generator().manual_seed(0)
    logits = 3 * torch.randn(1, 3, 4, 6, generator=generator)
    return logits, torch.randn(1, 5, 4, 6, generator=generator)


def head_output(align_corners=False):
    return HeadOutput(*network_output(), LAYER, align_corners=align_corners)


def decoded(label=True, anomaly=True, encoded=b"jpeg"):
    generator = np.random.default_rng(0)
    return DecodedFrame(
        id="f0",
        image=generator.integers(0, 256, (*SIZE, 3), "u1"),
        label=generator.choice(np.array([0, 1, 2, 255], "u1"), SIZE) if label else None,
        anomaly=generator.choice(np.array([0, 1, 255], "u1"), SIZE) if anomaly else None,
        digest="d",
        encoded=encoded,
        image_format="jpeg",
        source="f0.jpg",
    )


def dataset(scores=SCORES, **options):
    frame, wanted = decoded(**options), ScoreOptions(scores)
    maps = score_maps(head_output(), SIZE, scores, frame.label)
    return frame_dataset(frame, maps, wanted, CLASSES, {"network": "tiny"})


@pytest.mark.parametrize("align_corners", [False, True])
def test_oriented_maps_come_in_the_order_of_the_options(align_corners):
    logits, features = network_output()
    maps = score_maps(head_output(align_corners), SIZE, SCORES)
    resized = nn.functional.interpolate(logits, SIZE, mode="bilinear", align_corners=align_corners)
    norms = torch.stack(
        [gradient_norms(logits, features, LAYER, p=p, labels=y)[0, 0] for y, p in (("uni", 1), ("oh", 0.5))]
    )
    uniform, one_hot = resize_log2_norms(norms, SIZE, align_corners)
    top, prediction = resized.softmax(1).max(1)
    expected = torch.stack([1 - top[0], -uniform, -resized.amax(1)[0], one_hot])
    torch.testing.assert_close(maps.oriented, expected, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(maps.head, norms)
    torch.testing.assert_close(maps.confidence, top[0])
    assert torch.equal(maps.prediction, prediction[0])
    assert maps.brier is None


def test_left_out_channels_are_left_out_everywhere():
    logits, features = network_output()
    channels = torch.tensor([0, 2])
    maps = score_maps(HeadOutput(logits, features, LAYER).only(channels), SIZE, ("pgn_oh_p1",))
    assert torch.equal(maps.logits, logits[0, channels])
    assert set(maps.prediction.unique().tolist()) <= {0, 1}


@pytest.mark.parametrize("bad", [torch.nan, torch.inf, -torch.inf])
@pytest.mark.parametrize("what", ["logits", "features"])
def test_non_finite_number_names_frame_and_tensor(what, bad):
    logits, features = network_output()
    (logits if what == "logits" else features)[0, 1, 2, 3] = bad
    with pytest.raises(NonFiniteError, match=f"'f7': 1 of [0-9]+ {what} are NaN or infinite"):
        score_maps(HeadOutput(logits, features, LAYER), SIZE, SCORES, frame_id="f7")


def test_non_finite_channel_that_is_no_class_does_no_harm():
    logits, features = network_output()
    logits[0, 1] = torch.nan
    maps = score_maps(HeadOutput(logits, features, LAYER).only(torch.tensor([0, 2])), SIZE, SCORES)
    assert maps.oriented.isfinite().all()


@pytest.mark.parametrize("scores", [SCORES, ("msp",), ("pgn_oh_p1",), ("energy", "entropy")])
@pytest.mark.parametrize(("label", "anomaly"), [(True, True), (True, False), (False, True), (False, False)])
def test_dataset_follows_the_schema(scores, label, anomaly):
    found = validate(dataset(scores, label=label, anomaly=anomaly))
    assert ("label" in found, "anomaly" in found) == (label, anomaly)
    assert ("confusion" in found, "anomaly_count" in found) == (label, anomaly)
    assert ("counts" in found) == (label or anomaly)
    assert list(found["score"].values) == list(scores)
    assert list(found["class"].values) == list(CLASSES)


def test_dataset_holds_what_the_maps_hold():
    frame, found = decoded(), dataset()
    assert list(found["score_head"].values) == ["pgn_uni_p1", "pgn_oh_p0.5"]
    assert list(found["score_pixel"].values) == ["msp", "max_logit"]
    maps = score_maps(head_output(), SIZE, SCORES)
    np.testing.assert_allclose(found["head_score"], maps.head, rtol=0, atol=2**-10)
    np.testing.assert_allclose(found["pixel_score"], maps.pixel, rtol=1e-3)
    np.testing.assert_allclose(found["logits"], maps.logits, rtol=1e-3)
    np.testing.assert_array_equal(found["prediction"], maps.prediction)
    np.testing.assert_array_equal(found["label"], frame.label)
    np.testing.assert_array_equal(found["anomaly"], frame.anomaly)
    known = frame.label != 255
    assert found["counts"].sel(outcome=["right", "wrong"]).sum() == len(SCORES) * known.sum()
    assert found["confusion"].sum() == found["confidence_count"].sum() == found["brier_count"].sum() == known.sum()
    assert found["prediction"].dtype == np.uint8
    assert found["image"].values.tobytes() == b"jpeg"
    with Image.open(io.BytesIO(found["thumbnail"].values.tobytes())) as picture:
        assert picture.size == (SIZE[1], SIZE[0])


def test_attributes_describe_frame_and_scores():
    attrs = dataset().attrs
    assert (attrs["frame_id"], attrs["digest"], attrs["network"], attrs["ignore"]) == ("f0", "d", "tiny", 255)
    assert list(attrs["scores"]) == list(SCORES)
    for name, described in attrs["scores"].items():
        assert described["orientation"] == lookup(name).orientation


def test_images_may_be_left_out():
    assert "image" not in validate(dataset(encoded=None))


def test_log2_norms_are_rounded_finely():
    norms = torch.empty(10_000).uniform_(-149, 100, generator=torch.Generator().manual_seed(0))
    stored = quantise_log2(norms)
    assert stored.dtype == torch.float32
    torch.testing.assert_close(stored / 2.0**-9, (stored / 2.0**-9).round(), atol=0, rtol=0)
    assert (stored - norms).abs().max() <= 2.0**-10


def test_maps_whose_values_crowd_together_keep_their_digits():
    """Each map by itself: what another one needs changes no value."""
    logits = 3 * torch.randn(1, 19, 40, 50, generator=torch.Generator().manual_seed(0))
    names = ("msp", "max_logit", "msp_T1000", "entropy_T50", "energy_T1000")
    given = torch.stack([lookup(name).function(logits)[0] for name in names])
    stored = halved_maps(given)
    assert stored.dtype == torch.float32
    for name, before, after in zip(names, given, stored, strict=True):
        crowded = name not in ("msp", "max_logit")
        assert torch.equal(after, before if crowded else before.half().float()), name
        # as many values as before, but for what float32 tells apart and float16 does not in ordinary maps
        assert len(after.unique()) > 0.5 * len(before.unique()) * (1 if crowded else 0.5)
        assert not crowded or len(before.half().unique()) < 0.1 * len(before.unique())
    assert halved_maps(given[:2]).dtype == torch.float16
    assert halved_maps(given[:0]).shape == (0, 40, 50)
    level = torch.full((1, 4, 4), 0.123)
    assert torch.equal(halved_maps(level), level.half())  # nothing to tell apart
    assert halved_maps(torch.tensor([[[-7e4, 0.0]]])).dtype == torch.float32


def test_float16_only_where_the_range_allows():
    assert half_if_it_fits(torch.tensor([6e4])).dtype == torch.float16
    assert half_if_it_fits(torch.tensor([-7e4])).dtype == torch.float32
    assert half_if_it_fits(torch.empty(0, 3)).shape == (0, 3)
    for value in (torch.nan, torch.inf):
        with pytest.raises(GraduncError, match="not finite"):
            half_if_it_fits(torch.tensor([1.0, value]))
