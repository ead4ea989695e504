"""Programs are told apart by what they compute, though their weights are the same."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from torch import Tensor, nn

import gradunc_viz as gv
from gradunc_viz.networks.programs import program_digest, programs_of
from gradunc_viz.schema.errors import FitError
from gradunc_viz.scores.fit import Fit, identity

pytestmark = pytest.mark.filterwarnings(
    "ignore:.*jit.*:DeprecationWarning", "ignore:.*LeafSpec.*:FutureWarning", "ignore::torch.jit.TracerWarning"
)


class Base(nn.Module):
    """Its variants have the same weights and the same modules."""

    def __init__(self, scale: float = 1.0) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.body, self.head = nn.Conv2d(3, 4, 3, padding=1), nn.Conv2d(4, 5, 1)
        self.scale = scale

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.body(x).relu() * self.scale)


class Tanh(Base):
    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.body(x).tanh() * self.scale)


class Shifted(Base):
    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.body(x).relu() * self.scale + 0.1)


class ShiftedMore(Base):
    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.body(x).relu() * self.scale + 0.1000000000000001)


class Tensors(Base):
    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.body(x).relu() * self.scale + torch.tensor([0.1, 0.2]).sum())


class OtherTensors(Base):
    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.body(x).relu() * self.scale + torch.tensor([0.1, 0.3]).sum())


class Branched(Base):
    def forward(self, x: Tensor) -> Tensor:
        x = self.body(x)
        if bool(x.sum() > 0):
            x = x.relu()
        return self.head(x)


class BranchedOtherwise(Base):
    def forward(self, x: Tensor) -> Tensor:
        x = self.body(x)
        if bool(x.sum() > 0):
            x = x.tanh()
        return self.head(x)


X = torch.rand(1, 3, 8, 8, generator=torch.Generator().manual_seed(0))
STRAIGHT = [Base(), Base(1.0000001), Tanh(), Shifted(), ShiftedMore()]
MORE = {"export": [Tensors(), OtherTensors()], "traced": [Tensors(), OtherTensors()]}
BRANCHED = [Branched(), BranchedOtherwise()]


def _saved(kind: str, net: nn.Module, path: Path) -> str:
    if kind == "export":
        torch.export.save(torch.export.export(net.eval(), (X,)), path)
    else:
        made = torch.jit.trace(net.eval(), X) if kind == "traced" else torch.jit.script(net.eval())
        torch.jit.save(torch.jit.freeze(made) if kind == "frozen" else made, path)
    return f"{'export' if kind == 'export' else 'torchscript'}:{path}"


@pytest.mark.parametrize("kind", ["scripted", "traced", "frozen", "export"])
def test_another_graph_is_another_network(kind: str, tmp_path: Path) -> None:
    nets = STRAIGHT + MORE.get(kind, BRANCHED)
    specs = [_saved(kind, net, tmp_path / f"{number}.pt2") for number, net in enumerate(nets)]
    digests = [gv.load_model(spec).weights_digest() for spec in specs]
    assert len(set(digests)) == len(nets)
    assert [gv.load_model(spec).weights_digest() for spec in specs] == digests


@pytest.mark.slow
def test_another_process_tells_the_same(tmp_path: Path) -> None:
    spec = _saved("traced", Tensors(), tmp_path / "net.pt")
    gv.load_model(spec)  # from the second time on, names of classes are others
    tell = f"import gradunc_viz as gv; print(gv.load_model({spec!r}).weights_digest())"
    found = subprocess.run([sys.executable, "-W", "ignore", "-c", tell], check=True, capture_output=True, text=True)
    assert found.stdout.split() == [gv.load_model(spec).weights_digest()]


def test_other_weights_are_told_by_the_state_dict_alone() -> None:
    net, other = Base(), Base()
    other.head.weight.data.zero_()
    one, two = (torch.jit.script(each.eval()) for each in (net, other))
    assert program_digest(one) == program_digest(two)
    assert gv.load_model(one).weights_digest() != gv.load_model(two).weights_digest()


def test_programs_inside_a_network_count() -> None:
    def around(body: nn.Module) -> nn.Module:
        script = torch.jit.script(body.eval())
        return nn.Sequential(script, torch.fx.symbolic_trace(nn.Sequential(nn.Conv2d(5, 2, 1))))

    torch.manual_seed(0)
    first = around(Base())
    assert [name for name, _ in programs_of(first)] == ["0", "1"]
    digests = set()
    for body in (Base(), Base(2.0), Shifted()):
        torch.manual_seed(0)
        digests.add(gv.Network(around(body)).weights_digest())
    assert len(digests) == 3


def test_a_fit_of_another_program_is_refused() -> None:
    first, second = gv.load_model(torch.jit.script(Base())), gv.load_model(torch.jit.script(Tanh()))
    first.name = second.name = "net"
    fit = SimpleNamespace(provenance={"network": identity(first)}, scores=("mahalanobis",))
    Fit.check_network(fit, first)  # type: ignore[arg-type]
    with pytest.raises(FitError, match="weights"):
        Fit.check_network(fit, second)  # type: ignore[arg-type]
