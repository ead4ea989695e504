"""The probability of channels that are no class, against softmax over all channels in float64."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from tiny import TinyNet
from torch import nn
from torch.nn import functional as F

import gradunc_viz as gv
from gradunc_viz.schema.errors import HeadError, ModelError
from gradunc_viz.schema.scores import resolve_scores
from gradunc_viz.scores.maps import score_maps
from gradunc_viz.scores.needs import ForwardPass, HeadOutput
from gradunc_viz.scores.void import void

SIZE = (20, 30)


def output(channels: tuple[int, ...] | None = None, spread: float = 3.0) -> tuple[torch.Tensor, HeadOutput]:
    logits = spread * torch.randn(1, 6, 5, 7, generator=torch.Generator().manual_seed(0))
    head = HeadOutput(logits, torch.randn(1, 4, 5, 7), nn.Conv2d(4, 6, 1))
    return logits, head if channels is None else head.only(torch.tensor(channels))


@pytest.mark.parametrize("classes", [(0, 1, 2, 3, 4), (1, 2, 3, 4, 5), (0, 2, 5)])
@pytest.mark.parametrize("spread", [0.0, 3.0, 60.0])
def test_is_the_share_of_the_other_channels(classes, spread):
    logits, head = output(classes, spread)
    found = score_maps(head, SIZE, ("void", "msp"))
    pi = F.interpolate(logits.double(), SIZE, mode="bilinear").softmax(1)[0]
    expected = pi[[channel for channel in range(6) if channel not in classes]].sum(0)
    torch.testing.assert_close(found.oriented[0].double(), expected, rtol=5e-5, atol=1e-7)
    assert found.oriented.max() <= 1


def test_small_probabilities_keep_their_digits():
    logits = torch.tensor([900.0, 0.0, 850.0]).view(1, 3, 1, 1)
    head = HeadOutput(logits, None, nn.Identity()).only(torch.tensor([0, 1]))
    assert void(ForwardPass(head)).item() == pytest.approx(np.exp(-50.0), rel=1e-4)


def test_a_network_all_of_whose_channels_are_classes_has_none(tmp_path, tiny_set):
    image = np.zeros((32, 32, 3), "u1")
    told = r"score 'void' .* TinyNet.*--drop-channels"
    with pytest.raises(ModelError, match=told):
        gv.score_image(TinyNet(), image, scores="void")
    with pytest.raises(ModelError, match=told):
        gv.ScoredModel(TinyNet(), ("void",))
    with pytest.raises(ModelError, match=told):
        gv.compute(TinyNet(), gv.open_frames(tiny_set), tmp_path / "cache", scores="msp,void", progress=False)
    assert not (tmp_path / "cache").exists()
    with pytest.raises(HeadError, match="no output channel"):
        void(ForwardPass(output()[1]))
    assert "void" not in resolve_scores("all")


def test_is_cached_like_any_other_score(tmp_path, tiny_set):
    network = gv.load_model(TinyNet(), drop_channels=[2])
    cache = gv.compute(network, gv.open_frames(tiny_set), tmp_path / "cache", scores="msp,void", progress=False)
    found = gv.score(cache[0], "void")
    assert 0 < found.min() < found.max() < 1
    with torch.no_grad():
        model = gv.ScoredModel(network, ("void",))
        x = torch.rand(2, 3, 32, 48)
        torch.testing.assert_close(model(x).scores[:, 0], void_of(network, x), rtol=1e-5, atol=1e-6)


def void_of(network: gv.Network, x: torch.Tensor) -> torch.Tensor:
    return F.interpolate(network.net(x), x.shape[2:], mode="bilinear").softmax(1)[:, 2]
