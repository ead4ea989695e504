"""Frames of other than three channels: the network's pixels, and what is shown of them."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

import gradunc_viz as gv
from gradunc_viz.store.frame import decode_image


@pytest.mark.parametrize(("channels", "suffix"), [(1, "png"), (4, "png"), (6, "npy"), (3, "npy")])
def test_frames_of_any_number_of_channels(tmp_path, channels, suffix):
    random = np.random.default_rng(channels)
    pixels = random.integers(0, 256, (12, 20, channels), dtype=np.uint8)
    for name in ("images", "labels"):
        (tmp_path / name).mkdir()
    image = tmp_path / f"images/a.{suffix}"
    if suffix == "npy":
        np.save(image, pixels)
    else:
        Image.fromarray(pixels.squeeze()).save(image)
    Image.fromarray(random.integers(0, 4, (12, 20), dtype=np.uint8)).save(tmp_path / "labels/a.png")
    torch.manual_seed(0)
    net = nn.Sequential(nn.Conv2d(channels, 8, 3, padding=1), nn.Softplus(), nn.Conv2d(8, 4, 1)).eval()
    with torch.no_grad():
        expected = net(torch.from_numpy(pixels).permute(2, 0, 1)[None] / 255).argmax(1)[0]
    cache = gv.compute(net, gv.open_frames(tmp_path), tmp_path / "cache", scores="msp", progress=False)
    frame = cache["a"]
    assert np.array_equal(frame["prediction"], expected)
    assert np.array_equal(gv.score_image(net, image, scores="msp")["prediction"], expected)
    shown = np.array(Image.open(image).convert("RGB")) if suffix == "png" else pixels[:, :, :3]
    assert np.array_equal(decode_image(frame), shown)
