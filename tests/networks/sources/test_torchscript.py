"""TorchScript made of layers again: the same numbers as of the module that it was made of, or the reason."""

from __future__ import annotations

import os
import pickle
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
import zoo
from compatibility import Branching, Plain
from torch import Tensor, nn

import gradunc_viz as gv
from gradunc_viz.networks.sources.torchscript import Scripted
from gradunc_viz.schema.errors import GraduncError, ModelError

pytestmark = pytest.mark.filterwarnings("ignore:.*jit.*:DeprecationWarning")
X = torch.rand(1, 3, 40, 56, generator=torch.Generator().manual_seed(0))
SCORES = ["pgn_oh_p1", "pgn_uni_p0.5", "entropy"]


def plain(make: type[nn.Module] = Plain) -> nn.Module:
    torch.manual_seed(0)
    return make().eval()


def scripted(net: nn.Module) -> torch.jit.ScriptModule:
    return torch.jit.script(net)


def traced(net: nn.Module) -> torch.jit.ScriptModule:
    return torch.jit.trace(net, torch.rand(1, 3, 24, 40))


@pytest.mark.parametrize("freeze", [False, True])
@pytest.mark.parametrize("make", [scripted, traced])
def test_the_head_of_a_script_is_that_of_its_module(make: object, freeze: bool, tmp_path: Path) -> None:
    net = plain()
    script = torch.jit.freeze(make(net)) if freeze else make(net)
    expected = gv.load_model(net).infer(X)
    torch.jit.save(script, tmp_path / "net.pt")
    for given in (script, f"torchscript:{tmp_path / 'net.pt'}"):
        network = gv.load_model(given)
        found = network.infer(X)
        rough = 1e-5 if freeze else 0  # freezing folds batch norms into convolutions
        torch.testing.assert_close(found.logits, expected.logits, rtol=0, atol=rough)
        torch.testing.assert_close(gv.gradient_norms(found), gv.gradient_norms(expected), rtol=0, atol=100 * rough)
        assert found.plan.simple
        assert freeze or found.name == "head"
    assert gv.load_model(script).name == "Plain"


def test_weights_and_names_are_those_of_the_module(tmp_path: Path) -> None:
    net, other = plain(), Plain().eval()
    torch.jit.save(scripted(net), tmp_path / "net.pt")
    torch.save(other.state_dict(), tmp_path / "other.pth")
    network = gv.load_model(f"torchscript:{tmp_path / 'net.pt'}")
    assert network.net.state_dict().keys() == net.state_dict().keys()
    again = gv.load_model(f"torchscript:{tmp_path / 'net.pt'}", tmp_path / "other.pth", head="body")
    assert torch.equal(again(X), gv.load_model(other)(X))
    assert again.head == "body"
    with pytest.raises(GraduncError, match="'nope' is no layer of Scripted; the last candidates are 'body', 'head'"):
        gv.load_model(f"torchscript:{tmp_path / 'net.pt'}", head="nope")


def test_branches_and_loops_are_run(tmp_path: Path) -> None:
    net = plain(Branching)
    network = gv.load_model(scripted(net))
    ways = {bool(net.body(x).mean() > 0) for x in (X, -X, 5 * X, -5 * X)}
    assert ways == {True, False}
    for x in (X, -X, 5 * X, -5 * X):
        assert torch.equal(network(x), net(x))
        assert network.infer(x).name == "head"


class Outputs(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.bodies = nn.ModuleList([nn.Conv2d(3, 4, 3, padding=1), nn.Conv2d(4, 4, 1)])
        self.drop = nn.Dropout(0.5)
        self.head = nn.Conv2d(4, 5, 1)
        self.scales = [1.0, 0.5]

    def forward(self, x: Tensor, twice: bool = False) -> dict[str, Tensor]:
        kept: list[Tensor] = []
        for body in self.bodies:
            x = body(x).tanh()
            kept.append(x)
        total = torch.zeros_like(kept[0])
        for number, one in enumerate(kept):
            total = total + self.scales[number] * one
        if twice:
            total = 2 * total
        height, width = total.shape[-2:]
        assert height > 1, "too small"
        out = self.head(self.drop(total))
        return {"out": out[:, :, : height - 1, : int(width / 2)], "aux": total}


def test_lists_dictionaries_and_the_mode_are_followed() -> None:
    net = Outputs().eval()
    script = scripted(net)
    script.train()
    network = gv.load_model(script)
    head = network.infer(X)
    torch.testing.assert_close(network(X), net(X)["out"])
    assert head.name == "head"
    assert network.net.drop.training
    with pytest.raises(RuntimeError, match="too small"):
        network(X[:, :, :1])
    assert head.logits.shape == (1, 5, 39, 28)


@pytest.mark.parametrize("name", ["weight norm", "pruned", "mixing by F.linear", "divided by its length", "FCN skip"])
def test_ends_that_a_program_writes_otherwise(name: str) -> None:
    """Kernels that are computed of weights are layers, fixed matrices are none."""
    image = np.random.default_rng(0).integers(0, 256, (*zoo.SIZE, 3), dtype=np.uint8)
    net = zoo.made(name)
    script = torch.jit.trace(net, torch.rand(1, 3, *zoo.SIZE), check_trace=False)
    expected, found = (gv.score_image(one, image, scores=SCORES) for one in (net, script))
    for score in SCORES:
        np.testing.assert_allclose(found[score], expected[score], atol=5e-3)


class Forking(Plain):
    def forward(self, x: Tensor) -> Tensor:
        return torch.jit.wait(torch.jit.fork(self.head, self.body(x)))


def test_what_is_not_followed_is_told() -> None:
    with pytest.raises(
        ModelError, match="the TorchScript of Forking calls prim::fork, which cannot be followed: give the module"
    ):
        gv.load_model(scripted(plain(Forking)))


# --- files


def test_files_that_hold_no_script(tmp_path: Path) -> None:
    torch.save(plain().state_dict(), tmp_path / "w.pth")
    (tmp_path / "text.pt").write_text("nothing")
    for name in ("w.pth", "text.pt"):
        with pytest.raises(ModelError, match=f"{name} holds no TorchScript: expected a file of torch.jit.save"):
            gv.load_model(f"torchscript:{tmp_path / name}")
    for name, text in (("gone.pt", "does not exist"), ("", "is no file")):
        with pytest.raises(ModelError, match=text):
            gv.load_model(f"torchscript:{tmp_path}/{name}")


class _Malicious:
    def __reduce__(self) -> tuple[object, tuple[str]]:
        return os.system, ("touch ran",)


@pytest.mark.parametrize("member", ["data.pkl", "constants.pkl"])
def test_pickled_code_is_never_run(member: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    torch.jit.save(scripted(plain()), "net.pt")
    with zipfile.ZipFile("net.pt") as archive, zipfile.ZipFile("bad.pt", "w") as bad:
        for name in archive.namelist():
            content = archive.read(name)
            bad.writestr(name, pickle.dumps(_Malicious(), 2) if name.endswith(f"/{member}") else content)
    with pytest.raises(ModelError, match=r"bad\.pt cannot be read as TorchScript") as error:
        gv.load_model("torchscript:bad.pt")
    assert "\n" not in str(error.value)
    assert not Path("ran").exists()


def test_values_do_not_outlive_their_use() -> None:
    """The graph keeps no more than what is still needed."""
    graph = Scripted(scripted(plain()))._graph
    made = {name for step in graph.steps for name in step.outputs}
    dead = [name for step in graph.steps for name in step.dead]
    assert sorted(dead) == sorted(made - set(graph.outputs))
