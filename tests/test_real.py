"""A published network on published frames, held against numbers measured without this package."""

from __future__ import annotations

import json
import os
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from sklearn.metrics import auc, roc_curve
from torch.nn import functional as F

import gradunc_viz as gv
from gradunc_viz.cli.main import main
from gradunc_viz.schema.scores import lookup

pytestmark = pytest.mark.real

NUMBERS = json.loads((Path(__file__).parent / "data" / "real_numbers.json").read_text())["sets"]
CAMVID_TO_TRAIN_ID = {0: 10, 1: 2, 2: 5, 3: 0, 4: 1, 5: 8, 6: 7, 7: 4, 8: 13, 9: 11, 10: 18, 11: 255}
SOME = "pgn_oh_p0.1,pgn_oh_p1,pgn_uni_p0.5,pgn_uni_p2_paper,msp,entropy"
SETS = {
    "anomaly": ("dataset_AnomalyTrack", "smiyc", "paper"),
    "obstacle": ("dataset_ObstacleTrack", "smiyc", SOME),
    "camvid": ("CamVid", "camvid", SOME),
}


@pytest.fixture(autouse=True)
def all_cores():
    threads = torch.get_num_threads()
    torch.set_num_threads(os.cpu_count() or 1)
    yield
    torch.set_num_threads(threads)


def scored(real_data: Path, name: str, out: Path, *options: str) -> gv.Cache:
    """Compute a set on the command line."""
    folder, layout, scores = SETS[name]
    arguments = ["compute", "--model", f"{real_data / 'enet.py'}:load_enet"]
    arguments += ["--weights", str(real_data / "enet_cityscapes.pth"), "--drop-channels", "19"]
    arguments += ["--input-size", "512x1024", "--data", str(real_data / folder), "--layout", layout]
    if name == "camvid":
        mapping = out.parent / "camvid.json"
        mapping.write_text(json.dumps(CAMVID_TO_TRAIN_ID))
        arguments += ["--labels", str(mapping)]
    assert main([*arguments, "--scores", scores, "--device", "cpu", "--quiet", "--out", str(out), *options]) == 0
    return gv.open_cache(out)


def positives(frame, task: str) -> tuple[np.ndarray, np.ndarray]:
    """Which pixels count, and what is to be found among them."""
    if task == "anomaly":
        anomaly = frame["anomaly"].values
        return anomaly != 255, anomaly[anomaly != 255] == 1
    label = frame["label"].values
    return label != 255, (frame["prediction"].values != label)[label != 255]


def figures(score: np.ndarray, positive: np.ndarray) -> tuple[float, float, float]:
    """AuPRC, AuROC and FPR95 in percent, of all thresholds there are."""
    fpr, tpr, _ = roc_curve(positive, score, drop_intermediate=False)
    found, wrong = tpr * positive.sum(), fpr * (~positive).sum()
    precision = found[1:] / (found + wrong)[1:]
    auprc = float(np.sum(np.diff(tpr) * precision))
    return 100 * auprc, 100 * auc(fpr, tpr), 100 * float(fpr[np.searchsorted(tpr, 0.95)])


@pytest.mark.slow
@pytest.mark.parametrize("name", SETS)
def test_pooled_figures_are_those_measured_elsewhere(real_data, tmp_path, name, record_property):
    expected = NUMBERS[name]
    cache = scored(real_data, name, tmp_path / "cache")
    assert len(cache) == expected["frames"]
    masks = [positives(frame, expected["task"]) for frame in cache.values()]
    positive = np.concatenate([found for _, found in masks])
    assert positive.size == expected["pixels"]
    assert 100 * positive.mean() == pytest.approx(expected["positive"], abs=0.01)
    deviations = {}
    for score in cache.scores:
        # the table's values are not oriented
        sign = lookup(score).orientation
        maps = (gv.score(frame, score).values[known] for frame, (known, _) in zip(cache.values(), masks, strict=True))
        measured = figures(np.concatenate(list(maps)) * sign, positive)
        deviations[score] = np.abs(np.subtract(measured, expected["scores"][score])).max()
    record_property("largest deviation in points", float(max(deviations.values())))
    print(f"{name}: largest deviation {max(deviations.values()):.3f} points; {deviations}")
    assert {score: value for score, value in deviations.items() if not value <= 0.5} == {}


def test_two_frames_are_what_the_network_and_autograd_say(real_data, tmp_path):
    cache = scored(real_data, "anomaly", tmp_path / "cache", "--limit", "2")
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
