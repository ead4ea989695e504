"""The embedded demo: data set, network and the scripts that made them."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from gradunc_viz.demo import CLASSES

ROOT = Path(__file__).resolve().parents[2]
DATA = ROOT / "data" / "demo"
AUTHORING = DATA / "authoring"
STEMS = sorted(path.stem for path in (DATA / "images").glob("*.jpg"))
IGNORE = 255
#: Slightly under what the checked-in weights reach on the checked-in frames.
BAR = 0.81


def _labels(folder: str, stem: str) -> np.ndarray:
    with Image.open(DATA / folder / f"{stem}.png") as image:
        assert image.mode == "L"
        return np.array(image)


def test_class_list_agrees_with_the_package():
    listed = json.loads((DATA / "classes.json").read_text())
    assert [(c["id"], c["name"], tuple(c["color"])) for c in listed] == [
        (k, name, color) for k, (name, color) in enumerate(CLASSES)
    ]


def test_importing_the_demo_is_light():
    code = "import sys, gradunc_viz.demo; assert not {'torch', 'bpy'} & set(sys.modules), 'heavy import'"
    subprocess.run([sys.executable, "-c", code], check=True, cwd=ROOT)


def test_there_are_frames_of_two_sizes():
    sizes = set()
    for stem in STEMS:
        with Image.open(DATA / "images" / f"{stem}.jpg") as image:
            sizes.add(image.size)
    assert len(STEMS) >= 20
    assert len(sizes) == 2
    assert all(w >= 1024 and h >= 512 and w % 16 == h % 16 == 0 for w, h in sizes)


@pytest.mark.parametrize("stem", STEMS)
def test_maps_fit_their_image(stem):
    with Image.open(DATA / "images" / f"{stem}.jpg") as image:
        width, height = image.size
        assert image.mode == "RGB"
    label, anomaly = _labels("labels", stem), _labels("anomalies", stem)
    assert label.shape == anomaly.shape == (height, width)
    assert set(np.unique(label)) <= {*range(len(CLASSES)), IGNORE}
    assert set(np.unique(anomaly)) <= {0, 1, IGNORE}
    # Unknown objects have no class, and nothing else lacks one.
    assert np.array_equal(label == IGNORE, anomaly == 1)


def test_every_file_belongs_to_a_frame():
    for folder in ("labels", "anomalies"):
        assert sorted(path.stem for path in (DATA / folder).iterdir()) == STEMS


def test_most_frames_show_unknown_objects_and_a_few_none():
    counts = np.array([(_labels("anomalies", stem) == 1).sum() for stem in STEMS])
    assert 3 <= (counts == 0).sum() <= 6
    assert (counts >= 200).mean() >= 0.7


def test_every_class_occurs():
    seen = set().union(*(np.unique(_labels("labels", stem)).tolist() for stem in STEMS))
    assert set(range(len(CLASSES))) <= seen


def test_size_budget():
    assert sum(path.stat().st_size for path in DATA.rglob("*") if path.is_file()) < 12_000_000
    assert (DATA / "weights.safetensors").stat().st_size < 2_000_000


def test_network_shape_and_head():
    torch = pytest.importorskip("torch")
    from gradunc_viz.demo.network import load_demo_network

    net = load_demo_network()
    assert not net.training
    assert sum(p.numel() for p in net.parameters()) < 480_000
    seen = []
    net.head.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    with torch.inference_mode():
        for height, width in ((64, 128), (80, 48), (70, 101)):
            image = torch.rand(2, 3, height, width, generator=torch.Generator().manual_seed(1))
            logits = net(image)
            assert logits.shape == (2, len(CLASSES), -(-height // 4), -(-width // 4))
            features = seen.pop()
            assert features.min() >= 0
            # The head's output is what the network returns.
            assert torch.equal(net.head(features), logits)
            seen.clear()


@pytest.mark.slow
def test_network_reaches_its_bar_on_the_frames():
    pytest.importorskip("torch")
    from train import class_iou, confusion, load_pairs

    from gradunc_viz.demo.network import load_demo_network

    iou = class_iou(confusion(load_demo_network(), load_pairs(DATA, "jpg")))
    assert np.nanmean(iou) >= BAR, dict(zip([name for name, _ in CLASSES], iou.round(3), strict=True))


@pytest.mark.slow
def test_training_is_deterministic():
    torch = pytest.importorskip("torch")
    from train import load_pairs, train

    pairs = [(photo[:, :160, :256], label[:160, :256]) for photo, label in load_pairs(DATA, "jpg")[:3]]
    first, second = (train(pairs, steps=3, batch=2, size=(64, 96)).state_dict() for _ in range(2))
    assert not torch.are_deterministic_algorithms_enabled()  # other networks need the others
    assert all(torch.equal(first[key], second[key]) for key in first)
    assert not torch.equal(first["head.weight"], train(pairs, 3, 2, (64, 96), seed=1).state_dict()["head.weight"])


def test_rendering_is_deterministic(tmp_path):
    python = os.environ.get("GRADUNC_BPY_PYTHON", sys.executable)
    if subprocess.run([python, "-c", "import bpy"], capture_output=True, check=False).returncode:
        pytest.skip("bpy is not installed (set GRADUNC_BPY_PYTHON to a Python that has it)")
    for run in ("a", "b"):
        command = [python, str(AUTHORING / "render.py"), str(tmp_path / run), "--seeds", "7", "1"]
        command += ["--size", "128", "64", "--samples", "2", "--unknown", "1"]
        subprocess.run(command, check=True, cwd=ROOT, capture_output=True)
    files = sorted(path.relative_to(tmp_path / "a") for path in (tmp_path / "a").rglob("*.png"))
    assert len(files) >= 2
    assert all((tmp_path / "a" / f).read_bytes() == (tmp_path / "b" / f).read_bytes() for f in files)
