"""Networks that call their own attributes as torch calls its methods, and what networks take."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

import gradunc_viz as gv
from gradunc_viz.networks.traversal import evaluating, float_type, in_channels
from gradunc_viz.networks.weights import load_weights


class Shadowing(nn.Module):
    """As published networks do."""

    def __init__(self) -> None:
        super().__init__()
        self.body, self.head = nn.Conv2d(3, 4, 1), nn.Conv2d(4, 5, 1)
        self.modules = list(self.children())
        self.parameters = {"lr": 0.1}
        self.state_dict = self.load_state_dict = self.eval = self.buffers = self.type = self.to = "mine"

    def forward(self, x):
        return self.head(self.body(x))


def test_methods_of_torch_may_be_overwritten(tmp_path):
    net, other = Shadowing(), Shadowing()
    torch.save(nn.Module.state_dict(net), tmp_path / "w.pth")
    load_weights(other, tmp_path / "w.pth")
    assert gv.load_model(net).weights_digest() == gv.load_model(other).weights_digest()
    network = gv.load_model(net, head="head")
    assert "41 parameters" in repr(network)
    assert "41 on cpu" in network._repr_html_()
    found = gv.score_image(network, np.zeros((8, 9, 3), np.uint8), scores=["msp", "pgn_oh_p1"])
    assert found.attrs["head"] == "head"
    gv.score_image(network, np.zeros((8, 9, 3), np.uint8), scores="msp", channels_last=True)
    assert net.training
    assert net.eval == "mine"


def test_modes_come_back():
    net = nn.Sequential(nn.Dropout(), nn.Sequential(nn.BatchNorm2d(3)))
    net[1].eval()
    with evaluating(net):
        assert not any(module.training for module in net.modules())
    assert [module.training for module in net.modules()] == [True, True, False, False]


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_the_type_of_a_network(dtype):
    assert float_type(nn.Conv2d(3, 4, 1).to(dtype)) == dtype
    buffers = nn.BatchNorm2d(3, affine=False).to(dtype)
    assert float_type(buffers) == dtype
    assert float_type(nn.ReLU()) == torch.float32


class Of(nn.Module):
    """A network that is a function of its layers and an image."""

    def __init__(self, forward, **layers: nn.Module) -> None:
        super().__init__()
        self.function = forward
        self.__dict__["layers"] = layers
        for name, layer in layers.items():
            setattr(self, name, layer)

    def forward(self, x):
        return self.function(self, x)


@pytest.mark.parametrize(
    ("net", "expected"),
    [
        (nn.Conv2d(3, 4, 1), 3),
        (nn.Conv2d(1, 4, 1), 1),
        (nn.Conv2d(13, 4, 1).half(), 13),
        (nn.Sequential(nn.BatchNorm2d(4), nn.Conv2d(4, 4, 1)), 4),
        # the decoder is defined first
        (Of(lambda net, x: net.last(net.first(x)), last=nn.Conv2d(16, 4, 1), first=nn.Conv2d(5, 16, 1)), 5),
        (nn.Sequential(nn.PixelUnshuffle(2), nn.Conv2d(12, 4, 1)), 3),
        (Of(lambda net, x: net.first(x.repeat(1, 2, 1, 1)), first=nn.Conv2d(2, 4, 1)), 1),
        (nn.Sequential(nn.Flatten(2), nn.ReLU()), 3),
        (nn.LazyConv2d(4, 1), 3),
    ],
)
def test_channels_that_a_network_takes(net, expected):
    hooks = [dict(module._forward_pre_hooks) for module in net.train().modules()]
    assert in_channels(net) == expected
    assert net.training
    assert [dict(module._forward_pre_hooks) for module in net.modules()] == hooks


def test_where_nobody_can_tell_the_number_of_means_does():
    net = nn.Sequential(nn.Flatten(2), nn.Linear(4, 4))
    assert gv.load_model(net, normalize=([0.5] * 6, [1] * 6)).in_channels == 6
    assert gv.load_model(net, channels="grey").in_channels == 1


def test_a_grey_network_behind_a_backbone_for_rgb():
    net = Of(lambda net, x: net.first(x.repeat(1, 3, 1, 1)), first=nn.Conv2d(3, 4, 1))
    image = np.random.default_rng(0).integers(0, 256, (8, 9, 3), dtype=np.uint8)
    with pytest.raises(gv.GraduncError, match=r"it takes images of 1 channel, see --channels grey, not 3$"):
        gv.score_image(net, image, scores="msp")
    assert gv.score_image(gv.load_model(net, channels="grey"), image, scores="msp").msp.shape == (8, 9)
