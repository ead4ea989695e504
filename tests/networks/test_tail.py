"""Random ends of random networks: predictions and scores are the network's own, norms those of automatic derivation."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import HealthCheck, assume, given, note, reject, settings
from hypothesis import strategies as st
from torch import Tensor, nn

import gradunc_viz as gv
from gradunc_viz.schema.errors import ModelError

SIZE = (8, 10)
NORMS = {"pgn_oh_p0.5": ("oh", 0.5), "pgn_oh_p1": ("oh", 1.0), "pgn_uni_p2": ("uni", 2.0)}
SCORES = ("entropy", "msp", *NORMS)
DEPTH = 4


@dataclass(frozen=True)
class Op:
    """One operation behind a head: on logits, and what it does to a map of norms."""

    name: str
    on_logits: Callable[[Net, Tensor], Tensor]
    on_maps: Callable[[Tensor], Tensor] | None = None  # None: a map of values
    mixing: bool = False


def move(name: str, function: Callable[[Tensor], Tensor], *, mixing: bool = False) -> Op:
    return Op(name, lambda net, y: function(y), function, mixing)


def resize(mode: str, size: tuple[int, int] | None, factor: float | None, corners: bool | None) -> Op:
    def function(y: Tensor) -> Tensor:
        return F.interpolate(y, size, factor, mode=mode, align_corners=corners)

    return move(f"{mode} {size or factor} {corners}", function, mixing=mode != "nearest")


@st.composite
def moves(draw: st.DrawFn) -> Op:
    amount = draw(st.integers(1, 2))
    axis = draw(st.sampled_from([2, 3]))
    value = draw(st.sampled_from([0.0, -3.0]))
    return draw(
        st.sampled_from(
            [
                move("crop", lambda y: y[..., amount:, : -amount or None]),
                Op(
                    "pad",
                    lambda net, y: F.pad(y, (amount, 0, 0, amount), value=value),
                    lambda y: F.pad(y, (amount, 0, 0, amount)),
                ),
                move("reflect", lambda y: F.pad(y, (1, 1, 0, 1), mode="reflect")),
                move("narrow", lambda y: y.narrow(axis, 1, y.shape[axis] - 1)),
                move("flip", lambda y: y.flip(axis)),
                move("roll", lambda y: y.roll(amount, axis)),
                move("rotate", lambda y: y.rot90(amount, (2, 3))),
                move("transpose", lambda y: y.transpose(2, 3)),
                move("stride", lambda y: y[:, :, ::2, 1:]),
                move("last", lambda y: y.permute(0, 2, 3, 1).contiguous().flip(2).permute(0, 3, 1, 2)),
                resize("nearest", None, 2, None),
                resize("bilinear", SIZE, None, draw(st.booleans())),
                resize("bilinear", None, 1.5, draw(st.booleans())),
                resize("bicubic", (9, 7), None, draw(st.booleans())),
                resize("area", (6, 7), None, None),
            ]
        )
    )


@st.composite
def values(draw: st.DrawFn) -> Op:
    number = draw(st.floats(0.4, 3.0))
    order = draw(st.permutations(range(3)))
    return draw(
        st.sampled_from(
            [
                Op("temperature", lambda net, y: y / number),
                Op("parameter", lambda net, y: y * net.scalar),
                Op("prior", lambda net, y: y + net.prior[: y.shape[1]].view(1, -1, 1, 1)),
                Op("scale", lambda net, y: (y + 0).mul_(net.scale[: y.shape[1]].view(-1, 1, 1))),
                Op("batch norm", lambda net, y: net.norm(y) if y.shape[1] == net.classes else y),
                Op("mixing", lambda net, y: torch.einsum("kc,nchw->nkhw", net.matrix[:, : y.shape[1]], y)),
                Op("convolution", lambda net, y: F.conv2d(y, net.matrix[:, : y.shape[1], None, None])),
                Op("log-softmax", lambda net, y: y.log_softmax(1)),
                Op("softcap", lambda net, y: number * torch.tanh(y / number)),
                Op("select", lambda net, y: y[:, list(order)]),
                Op("centre", lambda net, y: y - y.mean(1, keepdim=True)),
            ]
        )
    )


@st.composite
def heads(draw: st.DrawFn) -> Callable[[int, int], nn.Module]:
    kernel, dilation = draw(st.sampled_from([(1, 1), (3, 1), (3, 2)]))
    padding = dilation * (kernel // 2)
    groups = draw(st.sampled_from([1, 2]))
    mode = draw(st.sampled_from(["zeros", "replicate"]))
    stride = draw(st.sampled_from([1, 1, 2]))
    kind = draw(st.sampled_from(["conv", "conv", "transposed", "linear"]))

    def make(depth: int, classes: int) -> nn.Module:
        if kind == "linear":
            return nn.Linear(depth, classes)
        if kind == "transposed":
            return nn.ConvTranspose2d(depth, classes, 2, 2, groups=groups)
        return nn.Conv2d(depth, classes, kernel, stride, padding, dilation, groups, padding_mode=mode)

    return make


class Net(nn.Module):
    """Features, one or two heads whose outputs are added, and what is drawn behind."""

    def __init__(self, make: Callable[[int, int], nn.Module], classes: int, branches: int, ops: list[Op]) -> None:
        super().__init__()
        self.classes, self.ops = classes, ops
        self.body = nn.Conv2d(3, DEPTH, 3, padding=1)
        self.heads = nn.ModuleList(make(DEPTH, classes) for _ in range(branches))
        self.norm = nn.BatchNorm2d(classes)
        self.scalar = nn.Parameter(torch.tensor(1.7))
        for name, tensor in {
            "prior": torch.randn(8),
            "scale": torch.rand(8) + 0.5,
            "matrix": torch.randn(classes, 8),
        }.items():
            self.register_buffer(name, tensor)
        for head in self.heads:
            nn.init.normal_(head.weight)
        self.norm.running_mean.normal_()
        self.norm.running_var.uniform_(0.5, 2)
        self.eval()

    def at_heads(self, x: Tensor) -> Tensor:
        features = torch.tanh(self.body(x))
        outputs = []
        for place, head in enumerate(self.heads):
            entering = features if place == 0 else features.cos()
            if isinstance(head, nn.Linear):
                outputs.append(head(entering.permute(0, 2, 3, 1)).permute(0, 3, 1, 2))
            else:
                outputs.append(head(entering))
        return outputs[0] if len(outputs) == 1 else outputs[0] + 0.4 * outputs[1]

    def forward(self, x: Tensor, only_values: bool = False) -> Tensor:
        y = self.at_heads(x)
        self.least = min(y.shape[2:])
        for op in self.ops:
            if op.on_maps is None or not only_values:
                y = op.on_logits(self, y)
                self.least = min(self.least, *y.shape[2:])
        return y


def norm_maps(net: Net, logits: Tensor) -> Tensor:
    """Norm of the gradient of each pixel's loss, with respect to the kernels of all heads, (1, norms, h, w)."""
    kernels = [head.weight for head in net.heads]
    if logits.shape[1] == 1:
        logits = torch.cat([torch.zeros_like(logits), logits], 1)
    rows = []
    for pixel in logits[0].flatten(1).T:
        gradient = {}
        for label, loss in (
            ("oh", F.cross_entropy(pixel[None], pixel.argmax()[None])),
            ("uni", -pixel.log_softmax(0).mean()),
        ):
            parts = torch.autograd.grad(loss, kernels, retain_graph=True, allow_unused=True)
            gradient[label] = torch.cat([torch.zeros(1).double(), *(g.flatten() for g in parts if g is not None)])
        rows.append(torch.stack([gradient[label].norm(p) for label, p in NORMS.values()]))
    return torch.stack(rows, 1).view(1, len(NORMS), *logits.shape[2:])


def at_image(maps: Tensor) -> Tensor:
    return maps if maps.shape[2:] == SIZE else F.interpolate(maps, SIZE, mode="bilinear", align_corners=False)


def expected_norms(net: Net, x: Tensor) -> Tensor:
    """log2 norms at the image: of the network's own output, or taken at the head and moved where pixels are mixed."""
    if not any(op.mixing for op in net.ops):
        maps = norm_maps(net, net(x))
    else:
        maps = norm_maps(net, net(x, only_values=True))
        for op in net.ops:
            maps = maps if op.on_maps is None else op.on_maps(maps)
    return at_image(maps.detach().clamp_min(0)).log2()[0]  # a norm is not negative, as a bicubic mean may be


def check(maps: dict[str, np.ndarray], expected: Tensor) -> None:
    for (name, (label, _)), wanted in zip(NORMS.items(), np.exp2(expected.numpy()), strict=True):
        found = np.exp2(maps[name] if label == "oh" else -maps[name])
        # derivatives lose their digits where a probability is all but one, bicubic means where they are all but zero
        np.testing.assert_allclose(found, wanted, rtol=0.015, atol=1e-5 * wanted.max() + 1e-30, err_msg=name)


@st.composite
def networks(draw: st.DrawFn) -> Net:
    ops = draw(st.lists(st.one_of(moves(), values()), max_size=5))
    branches = draw(st.sampled_from([1, 1, 2]))
    classes = draw(st.sampled_from([4, 4, 6]))
    torch.manual_seed(draw(st.integers(0, 1000)))
    return Net(draw(heads()), classes, branches, ops)


@settings(max_examples=40, derandomize=True, database=None, deadline=None, suppress_health_check=list(HealthCheck))
@given(networks())
def test_random_ends(net: Net) -> None:
    image = np.random.default_rng(0).integers(0, 256, (*SIZE, 3), dtype=np.uint8)
    x = torch.from_numpy(image).permute(2, 0, 1)[None].float() / 255
    try:
        with torch.no_grad():
            output = net(x)
    except (RuntimeError, IndexError):  # nothing is left to crop or to reflect
        reject()
    # no map of a single row, and each pixel is differentiated for itself
    assume(net.least >= 3 and output[0, 0].numel() <= 700)
    own = at_image(output)[0].double()
    note(f"behind {net.heads}: {', '.join(op.name for op in net.ops)}")
    ds = gv.score_image(net, image, scores=SCORES)
    best, second = own.topk(2, 0).values
    wrong = (torch.from_numpy(ds.prediction.values).long() != own.argmax(0)) & (best - second > 1e-5)
    assert not wrong.any()
    pi = own.softmax(0)
    np.testing.assert_allclose(ds.entropy.values, -torch.special.xlogy(pi, pi).sum(0), rtol=0, atol=1e-5)
    np.testing.assert_allclose(ds.msp.values, 1 - pi.amax(0), rtol=0, atol=1e-5)
    with torch.no_grad():
        deployed = gv.ScoredModel(net, SCORES, example=x)(x).scores[0]
    for name, values_ in zip(SCORES, deployed.numpy(), strict=True):
        np.testing.assert_allclose(values_, ds[name].values, rtol=0, atol=1e-5 if name in ("entropy", "msp") else 0.02)
    expected = expected_norms(net.double(), x.double())
    check({name: ds[name].values for name in NORMS}, expected)


@pytest.mark.parametrize("label", ["oh", "uni"])
def test_a_threshold_moves_the_prediction_and_the_label(label: str) -> None:
    torch.manual_seed(0)
    net = Net(lambda depth, classes: nn.Conv2d(depth, 1, 1), 1, 1, [])
    image = np.random.default_rng(0).integers(0, 256, (*SIZE, 3), dtype=np.uint8)
    x = torch.from_numpy(image).permute(2, 0, 1)[None].float() / 255
    with torch.no_grad():
        probability = net(x)[0, 0].sigmoid().numpy()
        features = torch.tanh(net.body(x))[0].norm(2, 0).numpy()
    for threshold in (None, 0.3, 0.8):
        ds = gv.score_image(gv.load_model(net, threshold=threshold), image, scores=(f"pgn_{label}_p2", "msp"))
        predicted = probability > (threshold or 0.5)
        np.testing.assert_array_equal(ds.prediction.values, predicted)
        np.testing.assert_allclose(ds.msp.values, np.minimum(probability, 1 - probability), atol=1e-6)
        part = np.abs(probability - (predicted if label == "oh" else 0.5))
        values_ = ds[f"pgn_{label}_p2"].values * (1 if label == "oh" else -1)
        np.testing.assert_allclose(values_, np.log2(part * features), atol=1e-3)


def test_a_threshold_of_several_classes_is_refused() -> None:
    image = np.zeros((*SIZE, 3), np.uint8)
    with pytest.raises(ModelError, match="returns 4 channels: expected one"):
        gv.score_image(gv.load_model(nn.Conv2d(3, 4, 1), threshold=0.4), image, scores="msp")
    with pytest.raises(ModelError, match="between 0 and 1"):
        gv.load_model(nn.Conv2d(3, 1, 1), threshold=math.inf)
