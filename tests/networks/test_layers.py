"""Outputs of layers that are not the head."""

from __future__ import annotations

import pytest
import torch
from tiny import TinyNet
from torch import Tensor, nn

from gradunc_viz.networks.layers import captured_layers
from gradunc_viz.schema.errors import ModelError


class Net(nn.Module):
    """A layer that is changed in place afterwards, one that runs twice, one without a map."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4), nn.ReLU(inplace=True))
        self.twice, self.pool, self.unused = nn.Conv2d(4, 4, 1), nn.Flatten(2), nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        x = self.body(x)
        self.pool(x)
        return self.twice(self.twice(x))


def test_the_last_pass_is_kept_as_it_left_the_layer() -> None:
    net = Net().eval()
    x = torch.randn(2, 3, 5, 5)
    with torch.no_grad(), captured_layers(net, ["body.1", "body.0"]) as found:
        net(torch.zeros(1, 3, 2, 2))
        net(x)
    with torch.no_grad():
        assert torch.equal(found["body.0"], net.body[0](x))
        assert torch.equal(found["body.1"], net.body[1](net.body[0](x)))  # before the activation in place
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in net.modules())


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("bodi.0", "layer 'bodi.0': Net has no layer of this name; did you mean 'body.0'"),
        ("", "layer '': Net has no layer"),
        ("twice", "layer 'twice' ran 2 times in a forward pass; expected once"),
        ("unused", "layer 'unused' ran 0 times"),
        ("pool", r"layer 'pool' returned \(1, 4, 25\); expected a map"),
    ],
)
def test_layers_that_are_no_maps(name: str, message: str) -> None:
    net = Net().eval()
    with pytest.raises(ModelError, match=message), captured_layers(net, [name]):
        net(torch.zeros(1, 3, 5, 5))
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in net.modules())


def test_hooks_go_where_the_network_fails() -> None:
    net = TinyNet()
    with pytest.raises(RuntimeError), captured_layers(net, ["body"]):
        net(torch.zeros(1, 2, 5, 5))
    assert not net.body._forward_hooks
    assert not net._forward_pre_hooks
