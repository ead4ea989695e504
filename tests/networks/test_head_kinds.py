"""A kind of head from outside the package: some ten lines, and it has the norms of the convolution it equals."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from tiny import TinyNet
from torch import Tensor, nn
from torch.nn import functional as F

import gradunc_viz as gv
from gradunc_viz.kernels.geometry import Geometry
from gradunc_viz.networks.head import HEAD_KINDS, HeadKind, geometry_of, kind_of, kinds_text, register_head
from gradunc_viz.schema.errors import HeadError

# --- what a user writes


class EinsumHead(nn.Module):
    def __init__(self, features: int, classes: int) -> None:
        super().__init__()
        self.kernel = nn.Parameter(torch.randn(classes, features))

    def forward(self, x: Tensor) -> Tensor:
        return torch.einsum("cd,ndyx->ncyx", self.kernel, x)


EINSUM = HeadKind(EinsumHead, lambda layer: Geometry(outputs=layer.kernel.shape[0], inputs=layer.kernel.shape[1]))

# ---


class GroupedPatches(nn.Module):
    """A 3 x 3 convolution of groups, with a bias, by unfolding."""

    def __init__(self, like: nn.Conv2d) -> None:
        super().__init__()
        self.kernel, self.offset, self.parts = like.weight, like.bias, like.groups

    def forward(self, x: Tensor) -> Tensor:
        n, _, height, width = x.shape
        patches = F.unfold(x, 3, padding=2, dilation=2).unflatten(1, (self.parts, -1))
        kernel = self.kernel.flatten(1).unflatten(0, (self.parts, -1))
        logits = torch.einsum("gcp,ngpl->ngcl", kernel, patches).flatten(1, 2)
        return (logits + self.offset[:, None]).reshape(n, -1, height, width)


PATCHES = HeadKind(
    GroupedPatches,
    lambda layer: Geometry(
        8, 6, layer.parts, bias=True, kernel_size=(3, 3), dilation=(2, 2), padding=(2, 2, 2, 2), name="patches"
    ),
)


@pytest.fixture(autouse=True)
def as_before(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(HEAD_KINDS, "_items", dict(HEAD_KINDS._items))


@pytest.fixture
def pair() -> tuple[nn.Module, nn.Module]:
    """The tiny network, and the same that ends in an einsum."""
    plain, einsum = TinyNet().eval(), TinyNet().eval()
    nn.init.zeros_(plain.classifier.bias)
    einsum.classifier = EinsumHead(6, 4)
    einsum.classifier.kernel.data = plain.classifier.weight.detach().flatten(1)
    return plain, einsum


def test_a_kind_of_ones_own_has_the_norms_of_the_equal_convolution(pair: tuple[nn.Module, nn.Module]) -> None:
    register_head(EINSUM)
    x = torch.rand(2, 3, 16, 20)
    norms = []
    for net in pair:
        with torch.inference_mode(), gv.capture(net) as head:
            net(x)
        assert head.name == "classifier"
        norms.append(gv.gradient_norms(head.logits, head.features, head.layer))
    assert "EinsumHead" in repr(head)
    torch.testing.assert_close(norms[1], norms[0], rtol=0, atol=1e-4)


def test_it_is_computed_and_deployed(pair: tuple[nn.Module, nn.Module], tiny_set: Path, tmp_path: Path) -> None:
    register_head(EINSUM)
    scores = ("pgn_oh_p1", "pgn_uni_p0.5", "msp")
    frames = gv.open_frames(tiny_set)[:2]
    plain, einsum = (
        gv.compute(net, frames, tmp_path / str(i), scores=scores, progress=False) for i, net in enumerate(pair)
    )
    for name in scores:
        assert abs(gv.score(einsum["f00"], name) - gv.score(plain["f00"], name)).max() < 0.01
    x = torch.rand(1, 3, 24, 32)
    deployed = [gv.ScoredModel(net, scores, example=x) for net in pair]
    with torch.no_grad():
        plain_maps, einsum_maps = (model(x).scores for model in deployed)
    torch.testing.assert_close(einsum_maps, plain_maps, rtol=0, atol=1e-3)
    torch.testing.assert_close(deployed[1](x).scores, plain_maps, rtol=0, atol=1e-3)  # the traceable expressions


def test_groups_taps_and_bias_are_what_the_kind_says() -> None:
    register_head(PATCHES)
    torch.manual_seed(0)
    conv = nn.Conv2d(8, 6, 3, padding=2, dilation=2, groups=2)
    features = torch.randn(2, 8, 9, 11)
    logits = conv(features).detach()
    patches = GroupedPatches(conv)
    torch.testing.assert_close(patches(features).detach(), logits, rtol=1e-4, atol=1e-5)
    for bias in (False, True):
        norms = [gv.gradient_norms(logits, features, layer, bias=bias) for layer in (conv, patches)]
        assert torch.equal(*norms)
    with pytest.raises(HeadError, match="groups=2 does not factorise"):
        gv.gradient_factors(logits, features, patches, p=1.0)
    with pytest.raises(HeadError, match=r"expected \(N, 6, h, w\)"):
        gv.gradient_norms(logits[:, :5], features, patches)
    with pytest.raises(HeadError, match=r"but patches makes \(9, 11\)"):
        gv.gradient_norms(logits[:, :, 1:], features, patches)


def test_what_is_no_kind_is_told_with_the_kinds_there_are(pair: tuple[nn.Module, nn.Module]) -> None:
    x = torch.rand(1, 3, 8, 8)
    assert kind_of(pair[1].classifier) is None
    with pytest.raises(HeadError, match=r"EinsumHead: expected Conv2d, ConvTranspose2d or Linear$"):
        gv.Network(pair[1], head="classifier")
    with pytest.raises(HeadError, match=r"EinsumHead; expected Conv2d, ConvTranspose2d or Linear$"):
        gv.gradient_norms(torch.zeros(1, 4, 8, 8), torch.zeros(1, 6, 8, 8), pair[1].classifier)
    with pytest.raises(HeadError), gv.capture(pair[1]):
        pair[1](x)
    register_head(EINSUM)
    assert kinds_text() == "Conv2d, ConvTranspose2d, Linear or EinsumHead"
    assert gv.Network(pair[1], head="classifier").head == "classifier"
    with pytest.raises(HeadError, match="EinsumHead' is registered already"):
        register_head(EINSUM)


def test_a_subclass_is_of_the_kind_of_its_nearest_ancestor() -> None:
    class Scaled(nn.Conv2d):
        pass

    assert geometry_of(Scaled(3, 2, 1)) == Geometry(3, 2, bias=True, name=str(Scaled(3, 2, 1)))
    mine = register_head(HeadKind(Scaled, lambda layer: Geometry(1, 1)))
    assert kind_of(Scaled(3, 2, 1)) is mine
    assert kind_of(nn.Conv2d(3, 2, 1)) is not mine


@pytest.mark.parametrize(
    ("layer", "expected"),
    [
        (nn.Linear(3, 2, bias=False), Geometry(3, 2)),
        (nn.Conv2d(4, 6, (3, 4), padding="same", groups=2), Geometry(
            4, 6, 2, True, (3, 4), padding=(1, 2, 1, 1)
        )),
        (nn.Conv2d(4, 6, 3, padding="valid", stride=2), Geometry(4, 6, 1, True, (3, 3), (2, 2))),
        (nn.Conv2d(4, 6, 3, padding=(1, 2), padding_mode="reflect"), Geometry(
            4, 6, 1, True, (3, 3), padding=(2, 2, 1, 1), padding_mode="reflect"
        )),
        (nn.ConvTranspose2d(4, 6, 4, 2, padding=1), Geometry(
            4, 6, 1, True, (4, 4), (2, 2), padding=(1, 1, 1, 1), transposed=True
        )),
    ],
)  # fmt: skip
def test_geometries_of_torchs_own_layers(layer: nn.Module, expected: Geometry) -> None:
    found = geometry_of(layer)
    assert found == Geometry(**{**vars(expected), "name": str(layer)})
    assert found.pointwise == (found.kernel_size == (1, 1))
