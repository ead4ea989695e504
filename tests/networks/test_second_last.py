"""The layer before the head: gradients with respect to its kernel against autograd, and what is refused."""

from __future__ import annotations

import itertools
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor, nn
from torch.nn import functional as F

import gradunc_viz as gv
from gradunc_viz.networks.second_last import SecondLast
from gradunc_viz.schema.errors import HeadError
from gradunc_viz.schema.scores import lookup
from gradunc_viz.scores.gradients import norms_and_softmax
from gradunc_viz.scores.needs import HeadOutput

PS = (0.1, 0.5, 1, 2, 3)
NAMES = tuple(f"pgn2_{label}_p{p}" for label in ("oh", "uni") for p in PS)


@pytest.fixture(autouse=True)
def seed() -> None:
    torch.manual_seed(0)


class Chain(nn.Module):
    """A body, the layer in question, whatever follows, and a 1 x 1 head."""

    def __init__(self, before: nn.Module, *between: object, head: nn.Module | None = None) -> None:
        super().__init__()
        self.body, self.before, self.head = nn.Conv2d(3, 4, 3, padding=1), before, head or nn.Conv2d(6, 5, 1)
        self.between = between
        self.modules_between = nn.ModuleList(one for one in between if isinstance(one, nn.Module))
        for norm in nn.Module.modules(self):
            if isinstance(norm, nn.BatchNorm2d):
                if norm.affine:
                    nn.init.uniform_(norm.weight, -2, 2)
                    nn.init.normal_(norm.bias)
                norm.running_mean.normal_()
                norm.running_var.uniform_(0.1, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = self.before(torch.tanh(self.body(x)))
        for function in self.between:
            x = function(x)
        return self.head(x)


def captured(net: nn.Module, x: Tensor, *names: str, bias: bool = False, passes: int = 1) -> Tensor:
    """Scores at the head, (N, len(names), h, w)."""
    network = gv.load_model(net)
    keeps = SecondLast(network)
    for _ in range(passes):
        head = keeps(lambda: network.infer(x))
    output = HeadOutput(head.logits, None, head.layer, tail=head.tail, bias=bias, hidden=head.hidden)
    output = output.only(network.class_channels(head.logits.shape[1]))
    return norms_and_softmax(output, [lookup(name).request for name in names])[0]


def by_autograd(net: nn.Module, parameters: list[Tensor], x: Tensor, logits_of=lambda result: result) -> Tensor:
    """One backward pass for each pixel and label, (N, labels x ps, h, w)."""
    logits = logits_of(net(x))
    n, classes, h, w = logits.shape
    found = torch.empty(n, 2, len(PS), h, w, dtype=torch.float64)
    for i, y, u in itertools.product(range(n), range(h), range(w)):
        phi = logits[i, :, y, u]
        for j, target in enumerate((phi.argmax(), torch.full((classes,), 1 / classes, dtype=phi.dtype))):
            gradients = torch.autograd.grad(F.cross_entropy(phi, target), parameters, retain_graph=True)
            entries = torch.cat([one.flatten() for one in gradients])
            for k, p in enumerate(PS):
                found[i, j, k, y, u] = entries.norm(p)
    return found.flatten(1, 2)


def check(net: nn.Module, parameters: list[Tensor], x: Tensor, passes: int = 1, **options) -> None:
    net = net.double().eval()
    found = captured(net, x.double(), *NAMES, passes=passes, **options)
    assert found.dtype == torch.float64
    torch.testing.assert_close(found.exp2(), by_autograd(net, parameters, x.double()), rtol=1e-9, atol=1e-30)


X = torch.rand(2, 3, 5, 4, generator=torch.Generator().manual_seed(1))
BETWEEN = {
    "nothing": (),
    "relu": (nn.ReLU(),),
    "relu in place": (nn.ReLU(inplace=True),),
    "batch norm, relu, dropout": (nn.BatchNorm2d(6), nn.ReLU(), nn.Dropout2d(0.5)),
    "batch norm, relu in place": (nn.BatchNorm2d(6), nn.ReLU(inplace=True)),
    "batch norm without scale": (nn.BatchNorm2d(6, affine=False), nn.GELU()),
    "batch norm": (nn.BatchNorm2d(6),),
    "gelu": (nn.GELU(),),
    "silu": (nn.SiLU(),),
    "leaky relu, batch norm": (nn.LeakyReLU(0.1), nn.BatchNorm2d(6)),
    "prelu": (nn.PReLU(6),),
    "hardswish": (nn.Hardswish(),),
    "functional": (F.relu,),
    "functional, in place": (lambda x: F.leaky_relu_(x, 0.2), torch.tanh),
    "arithmetic": (lambda x: x * torch.sigmoid(1.7 * x) + 1, lambda x: x.clamp_min_(0.9)),
    "one's own gate": (lambda x: F.softplus(x) * torch.tanh(x),),
}


@pytest.mark.parametrize("between", BETWEEN)
def test_whatever_stands_between_equals_autograd(between: str) -> None:
    net = Chain(nn.Conv2d(4, 6, 3, padding=1), *BETWEEN[between])
    check(net, [net.before.weight], X)


@pytest.mark.filterwarnings("ignore:Using padding='same' with even kernel")
@pytest.mark.parametrize(
    "before",
    [
        nn.Conv2d(4, 6, 1),
        nn.Conv2d(4, 6, 3),
        nn.Conv2d(4, 6, 3, padding=2, dilation=2, bias=False),
        nn.Conv2d(4, 6, 3, stride=2, padding=1),
        nn.Conv2d(4, 6, (2, 3), padding="same", padding_mode="reflect"),
        nn.ConvTranspose2d(4, 6, 3, stride=2, padding=1, output_padding=1),
    ],
    ids=["1x1", "3x3", "dilated", "strided", "reflected", "transposed"],
)
def test_every_geometry_of_the_layer_equals_autograd(before: nn.Module) -> None:
    check(Chain(before, nn.BatchNorm2d(6), nn.ReLU()), [before.weight], X)


def test_with_the_bias_of_the_layer() -> None:
    net = Chain(nn.Conv2d(4, 6, 3, padding=1), nn.ReLU())
    check(net, [net.before.weight, net.before.bias], X, bias=True)
    with pytest.raises(HeadError, match="layer 'before' has none"):
        captured(Chain(nn.Conv2d(4, 6, 3, bias=False)).eval(), X, "pgn2_oh_p1", bias=True)


@pytest.mark.parametrize(
    "head", [nn.ConvTranspose2d(6, 5, 1), nn.Conv2d(6, 5, 1, bias=False)], ids=["transposed", "without bias"]
)
def test_other_heads_of_one_tap(head: nn.Module) -> None:
    net = Chain(nn.Conv2d(4, 6, 3, padding=1), nn.ReLU(), head=head)
    check(net, [net.before.weight], X)


class Rows(nn.Module):
    """A linear head on rows of pixels, and before it a convolution or another linear layer."""

    def __init__(self, *, linear: bool) -> None:
        super().__init__()
        self.body, self.head = nn.Conv2d(3, 4, 3, padding=1), nn.Linear(6, 5)
        self.before = nn.Linear(4, 6) if linear else nn.Conv2d(4, 6, 3, padding=1)
        self.linear = linear

    def forward(self, x: Tensor) -> Tensor:
        x = torch.tanh(self.body(x))
        n, _, h, w = x.shape
        if self.linear:
            rows = F.gelu(self.before(x.flatten(2).transpose(1, 2)))
        else:
            rows = F.gelu(self.before(x)).flatten(2).transpose(1, 2)
        return self.head(rows).transpose(1, 2).reshape(n, -1, h, w)


@pytest.mark.parametrize("linear", [False, True])
def test_linear_heads_equal_autograd(linear: bool) -> None:
    net = Rows(linear=linear)
    check(net, [net.before.weight], X)


class Behind(nn.Module):
    """Something behind the head that each pixel has for itself."""

    def __init__(self, net: nn.Module, behind) -> None:
        super().__init__()
        self.net, self.behind = net, behind

    def forward(self, x: Tensor) -> Tensor:
        return self.behind(self.net(x))


@pytest.mark.parametrize(
    "behind", [lambda x: x / 0.3, lambda x: 3 * torch.tanh(x), lambda x: x.flip(3)], ids=["cooled", "tanh", "flipped"]
)
def test_what_stands_behind_the_head_counts(behind) -> None:
    net = Behind(Chain(nn.Conv2d(4, 6, 3, padding=1), nn.BatchNorm2d(6), nn.ReLU()), behind)
    check(net, [net.net.before.weight], X[:1])


def test_a_head_of_one_channel() -> None:
    net = Chain(nn.Conv2d(4, 6, 3, padding=1), nn.ReLU(), head=nn.Conv2d(6, 1, 1)).double().eval()
    found = captured(net, X[:1].double(), *NAMES)
    expected = by_autograd(net, [net.before.weight], X[:1].double(), lambda z: F.pad(z, (0, 0, 0, 0, 1, 0)))
    torch.testing.assert_close(found.exp2(), expected, rtol=1e-9, atol=1e-30)


def test_classes_that_are_left_out() -> None:
    net = Chain(nn.Conv2d(4, 6, 3, padding=1), nn.ReLU()).double().eval()
    network = gv.load_model(net, drop_channels=[1])
    found = captured(network, X.double(), *NAMES)
    expected = by_autograd(net, [net.before.weight], X.double(), lambda logits: logits[:, [0, 2, 3, 4]])
    torch.testing.assert_close(found.exp2(), expected, rtol=1e-9, atol=1e-30)


def test_later_passes_are_the_same_and_nothing_of_the_network_is_changed() -> None:
    net = Chain(nn.Conv2d(4, 6, 3, padding=1), nn.BatchNorm2d(6), nn.ReLU(inplace=True)).eval()
    before = {name: value.clone() for name, value in net.state_dict().items()}
    first = captured(net, X, *NAMES)
    assert torch.equal(captured(net, X, *NAMES, passes=3), first)
    assert torch.is_grad_enabled()
    assert all(torch.equal(value, before[name]) for name, value in net.state_dict().items())
    for module in nn.Module.modules(net):
        assert not module._forward_hooks
        assert not module._forward_pre_hooks
    assert all(parameter.grad is None for parameter in net.parameters())


def test_frozen_weights_and_half_precision() -> None:
    net = Chain(nn.Conv2d(4, 6, 3, padding=1), nn.BatchNorm2d(6), nn.ReLU()).eval().requires_grad_(False)
    expected = captured(net, X, *NAMES)
    torch.testing.assert_close(captured(net.bfloat16(), X.bfloat16(), *NAMES), expected, rtol=0.05, atol=0.3)


# --------------------------------------------------------------------------------------------------------------------
# what does not factorise


class Skip(nn.Module):
    def __init__(self, *, behind: bool) -> None:
        super().__init__()
        self.body, self.before, self.head = nn.Conv2d(3, 6, 1), nn.Conv2d(6, 6, 3, padding=1), nn.Conv2d(6, 5, 1)
        self.other, self.behind = nn.Conv2d(6, 5, 1), behind

    def forward(self, x: Tensor) -> Tensor:
        first = self.body(x)
        second = torch.relu(self.before(first))
        return self.head(second) + self.other(second) if self.behind else self.head(second + first)


class Twice(nn.Module):
    def __init__(self, *, tied: bool) -> None:
        super().__init__()
        self.before, self.head = nn.Conv2d(3, 3, 3, padding=1), nn.Conv2d(3, 5, 1)
        self.other = nn.Conv2d(3, 3, 3, padding=1)
        if tied:
            self.other.weight = self.before.weight
        else:
            self.other = self.before

    def forward(self, x: Tensor) -> Tensor:
        return self.head(torch.relu(self.before(torch.relu(self.other(x)))))


class Standardised(nn.Conv2d):
    def forward(self, x: Tensor) -> Tensor:
        return self._conv_forward(x, self.weight - self.weight.mean((1, 2, 3), keepdim=True), self.bias)


class Squeezed(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x * torch.sigmoid(x.mean((2, 3), keepdim=True))


class Learned(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(6, 6, 1, 1))

    def forward(self, x: Tensor) -> Tensor:
        return F.conv2d(x, self.weight)


BEFORE = nn.Conv2d(4, 6, 3, padding=1)
REFUSED = {
    "head of 3 x 3": (lambda: Chain(BEFORE, nn.ReLU(), head=nn.Conv2d(6, 5, 3, padding=1)), "'head'.* no 1 x 1"),
    "grouped head": (lambda: Chain(BEFORE, head=nn.Conv2d(6, 6, 1, groups=2)), "no 1 x 1 convolution of one group"),
    "grouped": (lambda: Chain(nn.Conv2d(4, 6, 1, groups=2), nn.ReLU()), "'before' has groups=2"),
    "resized": (
        lambda: Chain(BEFORE, nn.Upsample(scale_factor=2)),
        "mixes pixels or channels.*upsample_nearest2d|Upsample",
    ),
    "resized and back": (
        lambda: Chain(BEFORE, nn.Upsample(scale_factor=2, mode="bilinear"), nn.AvgPool2d(2)),
        "AvgPool2D",
    ),
    "group norm": (lambda: Chain(BEFORE, nn.GroupNorm(2, 6), nn.ReLU()), "NativeGroupNorm"),
    "instance norm": (lambda: Chain(BEFORE, nn.InstanceNorm2d(6, affine=True)), "mixes pixels or channels"),
    "layer norm": (
        lambda: Chain(BEFORE, lambda x: F.layer_norm(x.movedim(1, -1), (6,)).movedim(-1, 1)),
        "NativeLayerNorm",
    ),
    "softmax over classes": (lambda: Chain(BEFORE, nn.Softmax2d()), "Softmax"),
    "pooling": (lambda: Chain(BEFORE, nn.MaxPool2d(3, 1, 1)), "MaxPool2DWithIndices"),
    "squeezed": (lambda: Chain(BEFORE, Squeezed()), "Mean"),
    "flipped": (lambda: Chain(BEFORE, lambda x: x.flip(3)), "Flip"),
    "shuffled channels": (lambda: Chain(BEFORE, nn.ChannelShuffle(2)), "mixes pixels or channels, or moves them"),
    "learned, no layer": (lambda: Chain(BEFORE, Learned()), "Convolution"),
    "concatenated": (lambda: Chain(BEFORE, lambda x: torch.cat([x, x], 1), head=nn.Conv2d(12, 5, 1)), "Cat"),
    "skip": (lambda: Skip(behind=False), "made of the output of 'before' and 'body'; expected one layer"),
    "two heads": (lambda: Skip(behind=True), "several outputs, of 'head', 'other'"),
    "runs twice": (lambda: Twice(tied=False), "layer 'before' runs 2 times"),
    "tied": (lambda: Twice(tied=True), "'before' shares its weights with 'other'"),
    "no plain convolution": (lambda: Chain(Standardised(4, 6, 1)), "'before' is a Standardised that does more"),
    "no layer before": (lambda: nn.Conv2d(3, 5, 1), "made of the output of no layer"),
    "detached": (
        lambda: Chain(BEFORE, lambda x: x.detach()),
        "no gradient passes between 'before' and the head 'head'",
    ),
    "infinite": (lambda: Chain(BEFORE, lambda x: (x * 0).sqrt()), "is not finite everywhere: Sqrt, Mul"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_does_not_factorise_is_refused_with_the_reason(name: str) -> None:
    make, why = REFUSED[name]
    with pytest.raises(HeadError, match=f"second-to-last layer.*({why})"):
        captured(make().eval(), X, "pgn2_oh_p1")
    assert torch.is_grad_enabled()


def test_an_input_that_is_overwritten_is_refused() -> None:
    class Overwriting(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.body, self.before, self.head = nn.Conv2d(3, 4, 1), nn.Conv2d(4, 6, 1), nn.Conv2d(6, 5, 1)

        def forward(self, x: Tensor) -> Tensor:
            x = self.body(x)
            y = self.before(x)
            x.mul_(2)
            return self.head(torch.relu(y))

    with pytest.raises(HeadError, match="the input of 'before' is overwritten in place"):
        captured(Overwriting().eval(), X, "pgn2_oh_p1")


# --------------------------------------------------------------------------------------------------------------------
# networks as they are run


def images(folder: Path, count: int, size: tuple[int, int] = (24, 32)) -> list[np.ndarray]:
    rng = np.random.default_rng(0)
    made = [rng.integers(0, 256, (*size, 3), dtype=np.uint8) for _ in range(count)]
    for kind in ("images", "labels"):
        (folder / kind).mkdir(parents=True)
    for number, image in enumerate(made):
        Image.fromarray(image).save(folder / f"images/{number}.png")
        Image.fromarray(image[..., 0] % 5).save(folder / f"labels/{number}.png")
    return made


def test_a_run_and_one_image_are_the_same(tmp_path: Path) -> None:
    net = Chain(nn.Conv2d(4, 6, 3, padding=1), nn.BatchNorm2d(6), nn.ReLU(inplace=True)).eval()
    names = ("pgn2_oh_p0.5", "msp", "pgn2_uni_p1", "pgn_oh_p1")
    made = images(tmp_path / "set", 3)
    cache = gv.compute(net, gv.open_frames(tmp_path / "set"), tmp_path / "c", scores=names, batch=2, progress=False)
    for number, image in enumerate(made):
        ds = gv.score_image(net, image, scores=names)
        x = torch.from_numpy(image).permute(2, 0, 1)[None].float() / 255
        plain = captured(net, x, "pgn2_oh_p0.5", "pgn2_uni_p1")[0]
        np.testing.assert_allclose(ds["pgn2_oh_p0.5"], plain[0], atol=1e-5)
        np.testing.assert_allclose(ds["pgn2_uni_p1"], -plain[1], atol=1e-5)
        for name in names:
            np.testing.assert_allclose(gv.score(cache[str(number)], name), ds[name], atol=5e-3)


def test_inside_inference_mode() -> None:
    net = Chain(nn.Conv2d(4, 6, 3, padding=1), nn.ReLU()).eval()
    image = np.random.default_rng(0).integers(0, 256, (8, 9, 3), dtype=np.uint8)
    expected = gv.score_image(net, image, scores="pgn2_oh_p1")
    with torch.inference_mode():
        np.testing.assert_array_equal(gv.score_image(net, image, scores="pgn2_oh_p1").pgn2_oh_p1, expected.pgn2_oh_p1)
        made = Chain(nn.Conv2d(4, 6, 3, padding=1), nn.ReLU()).eval()
    with pytest.raises(HeadError, match="made in inference mode"):
        gv.score_image(made, image, scores="pgn2_oh_p1")


def test_compile_is_done_without() -> None:
    net = Chain(nn.Conv2d(4, 6, 3, padding=1), nn.ReLU()).eval()
    image = np.zeros((8, 8, 3), np.uint8)
    with pytest.warns(UserWarning, match="without torch.compile: what it does before its last layer"):
        gv.score_image(net, image, scores="pgn2_oh_p1", compile=True)


def test_segformer() -> None:
    transformers = pytest.importorskip("transformers")
    config = transformers.SegformerConfig(
        depths=[1, 1, 1, 1], hidden_sizes=[8, 16, 16, 32], decoder_hidden_size=16, num_labels=5
    )
    net = transformers.SegformerForSemanticSegmentation(config).double().eval()
    net.decode_head.batch_norm.running_var.uniform_(0.1, 3)
    x = torch.rand(1, 3, 32, 32, dtype=torch.float64)
    found = captured(net, x, *NAMES)
    fuse = net.decode_head.linear_fuse
    expected = by_autograd(net, [fuse.weight], x, lambda result: result.logits)
    torch.testing.assert_close(found.exp2(), expected, rtol=1e-9, atol=1e-30)
