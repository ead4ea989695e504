"""A published network on published frames, held against numbers measured without this package."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from exact import exact_metrics
from PIL import Image
from real import SETS, SOME
from torch.nn import functional as F

import gradunc_viz as gv
from gradunc_viz.cli.main import main
from gradunc_viz.schema.scores import lookup

pytestmark = pytest.mark.real

NUMBERS = json.loads((Path(__file__).parent / "data" / "real_numbers.json").read_text())["sets"]


def positives(frame, task: str) -> tuple[np.ndarray, np.ndarray]:
    """Which pixels count, and what is to be found among them."""
    if task == "anomaly":
        anomaly = frame["anomaly"].values
        return anomaly != 255, anomaly[anomaly != 255] == 1
    label = frame["label"].values
    return label != 255, (frame["prediction"].values != label)[label != 255]


def percent(scores: np.ndarray, positive: np.ndarray) -> list[float]:
    """AuPRC, AuROC and FPR95 in percent."""
    found = exact_metrics(scores, positive)
    return [100 * found[name] for name in ("auprc", "auroc", "fpr95")]


@pytest.mark.slow
@pytest.mark.parametrize("name", SETS)
def test_pooled_figures_are_those_measured_elsewhere(real_cache, name, record_property):
    expected = NUMBERS[name]
    cache = real_cache(name)
    assert len(cache) == expected["frames"]
    assert cache.scores == SETS[name][2]
    masks = [positives(frame, expected["task"]) for frame in cache.values()]
    positive = np.concatenate([found for _, found in masks])
    assert positive.size == expected["pixels"]
    assert 100 * positive.mean() == pytest.approx(expected["positive"], abs=0.01)
    deviations = {}
    for score in (score for score in cache.scores if score in expected["scores"]):
        # the table's values are not oriented
        sign = lookup(score).orientation
        maps = (gv.score(frame, score).values[known] for frame, (known, _) in zip(cache.values(), masks, strict=True))
        measured = percent(np.concatenate(list(maps)) * np.float32(sign), positive)
        deviations[score] = np.abs(np.subtract(measured, expected["scores"][score])).max()
    assert set(SOME) <= set(deviations)
    assert name != "anomaly" or set(gv.PAPER_SCORES) <= set(deviations)
    record_property("largest deviation in points", float(max(deviations.values())))
    print(f"{name}: largest deviation {max(deviations.values()):.3f} points; {deviations}")
    assert {score: value for score, value in deviations.items() if not value <= 0.5} == {}


@pytest.mark.slow
def test_two_frames_are_what_the_network_and_autograd_say(real_data, real_cache):
    cache = real_cache("anomaly")
    net = gv.load_model(f"{real_data / 'enet.py'}:load_enet", weights=real_data / "enet_cityscapes.pth").net.eval()
    assert cache.classes[:3] == ("road", "sidewalk", "building")
    assert len(cache.classes) == 19
    for frame in gv.open_frames(real_data / "dataset_AnomalyTrack", "smiyc")[:2]:
        dataset = cache[frame.id]
        image = Image.open(frame.image_path).convert("RGB").resize((1024, 512), Image.Resampling.BILINEAR)
        x = torch.from_numpy(np.array(image)).permute(2, 0, 1)[None].float() / 255
        with torch.no_grad():
            logits = net(x)[:, :19]
        resized = F.interpolate(logits, frame.image.shape[:2], mode="bilinear", align_corners=False).softmax(1)[0]
        top, predicted = resized.max(0)
        agree = dataset["prediction"].values == predicted.numpy()
        assert agree.mean() > 0.9999
        np.testing.assert_allclose(gv.score(dataset, "msp"), 1 - top, atol=1e-3)
        entropy = torch.special.entr(resized).sum(0)
        np.testing.assert_allclose(gv.score(dataset, "entropy"), entropy, atol=2e-3)

    kernel = dict(net.named_modules())[cache[0].attrs["head"]].weight
    names = list(dataset["score_head"].values)
    for v, u in ((0, 0), (100, 511), (301, 700)):
        net.zero_grad()
        pixel = net(x)[:, :19, v, u]
        F.cross_entropy(pixel, pixel.argmax(1)).backward()
        gradient = kernel.grad.double().abs()
        for name, norm in (("pgn_oh_p1", gradient.sum()), ("pgn_oh_p2", gradient.square().sum().sqrt())):
            found = float(dataset["head_score"][names.index(name), v, u])
            assert found == pytest.approx(float(norm.log2()), abs=0.01)


@pytest.mark.slow
def test_ensemble_of_three_snapshots(real_data, tmp_path):
    """The values that were measured independently, within 0.05 points."""
    folder, out = real_data / "ensemble", tmp_path / "c"
    arguments = ["compute", "--model", f"{folder / 'enet_dropout.py'}:load", "--drop-channels", "19"]
    for epoch in (340, 500, 560):
        arguments += ["--weights", str(folder / f"enet_{epoch}.pth")]
    arguments += ["--input-size", "512x1024", "--data", str(real_data / "dataset_AnomalyTrack"), "--layout", "smiyc"]
    arguments += ["--scores", "ens,entropy", "--device", "cpu", "--quiet", "--out", str(out)]
    assert main(arguments) == 0
    found = gv.evaluate(gv.open_cache(out), task="anomaly").sel(pooling="pixels").isel(cache=0)
    for name, values in {
        "ens_entropy": (29.88, 73.69, 79.08),
        "ens_expected_entropy": (34.28, 74.72, 77.85),
        "ens_mutual_information": (16.12, 59.19, 78.36),
        "ens_msp": (23.64, 68.26, 79.35),
        "ens_variance": (15.40, 57.35, 79.95),
        "entropy": (29.88, 73.69, 79.08),
    }.items():
        for metric, value in zip(("auprc", "auroc", "fpr95"), values, strict=True):
            assert 100 * float(found[metric].sel(score=name)) == pytest.approx(value, abs=0.05), (name, metric)
