"""What ``load_state_dict`` takes is taken, whatever training code wraps it in."""

from __future__ import annotations

import argparse
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_model
from torch import nn
from torch.nn.utils import parametrizations

from gradunc_viz.networks.weights import load_weights, read_state
from gradunc_viz.schema.errors import ModelError


def make() -> nn.Module:
    return nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4), nn.Conv2d(4, 5, 1))


def behind(prefix: str, state: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    return {prefix + name: value for name, value in state.items()}


@pytest.fixture
def state() -> dict[str, torch.Tensor]:
    return dict(make().state_dict())


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "w.pth"


def is_loaded(net: nn.Module, state: dict[str, torch.Tensor]) -> bool:
    return all(torch.equal(value, state[name]) for name, value in net.state_dict().items())


class Versioned(nn.Module):
    """Keeps what is no tensor, and knows the names of its earlier version."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.seen = nn.Conv2d(3, 4, 1), 0

    def get_extra_state(self):
        return {"seen": self.seen}

    def set_extra_state(self, state):
        self.seen = state["seen"]

    def _load_from_state_dict(self, state, prefix, *rest):
        for name in [name for name in state if name.startswith(f"{prefix}old.")]:
            state[f"{prefix}conv.{name.removeprefix(f'{prefix}old.')}"] = state.pop(name)
        super()._load_from_state_dict(state, prefix, *rest)


@pytest.mark.filterwarnings("ignore:.*weight_norm.*:FutureWarning")
def test_whatever_torch_takes(file, state):
    old = {name: value for name, value in state.items() if "num_batches_tracked" not in name}
    strided = {name: value.flip(0).contiguous().flip(0) if value.ndim else value for name, value in state.items()}
    for given in (old, strided, {name: value.double() for name, value in state.items()}):
        torch.save(given, file)
        net = make()
        load_weights(net, file)
        assert is_loaded(net, state)

    versioned = Versioned()
    versioned.seen = 7
    given = {name.replace("conv.", "old."): value for name, value in versioned.state_dict().items()}
    for wrapped in (given, {"state_dict": behind("module.", given)}):
        torch.save(wrapped, file)
        other = Versioned()
        load_weights(other, file)
        assert (other.seen, torch.equal(other.conv.weight, versioned.conv.weight)) == (7, True)

    normed = nn.Sequential(nn.utils.weight_norm(nn.Conv2d(3, 4, 1)))
    torch.save(behind("module.", normed.state_dict()), file)
    net = nn.Sequential(parametrizations.weight_norm(nn.Conv2d(3, 4, 1)))
    load_weights(net, file)
    torch.testing.assert_close(net(torch.ones(1, 3, 2, 2)), normed(torch.ones(1, 3, 2, 2)))

    torch.save(nn.Sequential(nn.Conv2d(3, 4, 1)).state_dict(), file)
    load_weights(nn.Sequential(nn.LazyConv2d(4, 1)), file)


def test_versions_of_modules_reach_torch(file):
    state = make().state_dict()
    del state["1.num_batches_tracked"]
    torch.save(state, file)  # with the version, in which this is an error
    with pytest.raises(ModelError, match=r"does not fit Sequential: 1 missing \(1\.num_batches_tracked\)$"):
        load_weights(make(), file)


def test_a_parameter_of_two_names_is_needed_once(tmp_path):
    def tied() -> nn.Module:
        net = nn.Sequential(nn.Conv2d(4, 4, 1), nn.Conv2d(4, 4, 1))
        net[1].weight = net[0].weight
        return net

    net, other = tied(), tied()
    save_model(net, str(tmp_path / "w.safetensors"))
    load_weights(other, tmp_path / "w.safetensors")
    assert is_loaded(other, net.state_dict())


WRAPPERS = {
    "Lightning": lambda state: {"epoch": 1, "state_dict": behind("model.", state)},
    "Lightning with a loss": lambda state: {"state_dict": behind("net.", state) | {"loss.weight": torch.ones(4)}},
    "Lightning, a name of one's own": lambda state: {"state_dict": behind("segmentor.unet.", state)},
    "network.": lambda state: behind("network.", state),
    "EMA": lambda state: {"epoch": 3, "state_dict_ema": behind("module.", state)},
    "SWA": lambda state: {"n_averaged": torch.tensor(3), **behind("module.", state)},
    "teacher": lambda state: {"teacher": behind("module.backbone.", state)},
    "compiled": lambda state: behind("module._orig_mod.", state),
    "with its optimizer": lambda state: {"optimizer": {"state": {0: {"exp_avg": torch.ones(4)}}}, "model": state},
    "with the script's arguments": lambda state: {"model": state, "args": argparse.Namespace(lr=0.1, data=Path("x"))},
    "the same twice": lambda state: {"model": state, "ema": dict(state)},
}


@pytest.mark.parametrize("wrap", WRAPPERS.values(), ids=WRAPPERS)
def test_wrappers_are_taken_off(file, state, wrap):
    torch.save(wrap(state), file)
    net = make()
    load_weights(net, file)
    assert is_loaded(net, state)
    assert read_state(file, net.state_dict()).keys() == state.keys()


@pytest.mark.parametrize("wrap", ["EMA", "network.", "compiled", "Lightning"])
def test_usual_wrappers_need_no_network_to_be_known(file, state, wrap):
    torch.save(WRAPPERS[wrap](state), file)
    assert read_state(file).keys() == state.keys()


def test_a_choice_is_said(file, state):
    for given in (
        {"model_ema": make().state_dict(), "model": state},
        behind("net.", state) | behind("ema.", make().state_dict()),
    ):
        torch.save(given, file)
        net = make()
        with pytest.warns(UserWarning, match=r"w\.pth: '(model|net)' is loaded; '(model_)?ema' would fit as well"):
            load_weights(net, file)
        assert is_loaded(net, state)


@pytest.mark.parametrize("flat", [False, True])
def test_a_choice_that_nobody_can_make_is_refused(file, state, flat):
    other = make().state_dict()
    torch.save(
        behind("student.", state) | behind("teacher.", other) if flat else {"student": state, "teacher": other}, file
    )
    net = make()
    before = {name: value.clone() for name, value in net.state_dict().items()}
    with pytest.raises(ModelError, match=r"several sets of weights that fit, 'student', 'teacher': expected one"):
        load_weights(net, file)
    assert is_loaded(net, before)


def test_what_does_not_fit_is_named(file, state):
    torch.save({"epoch": 1, "state_dict": {"foo.a": torch.ones(2), "foo.b": torch.ones(2)}}, file)
    with pytest.raises(ModelError, match=r"2 unexpected \(foo\.a, foo\.b\); taken from its 'state_dict'$"):
        load_weights(make(), file)
    torch.save({"state_dict": behind("model.", state) | {"model.2.bias": torch.ones(7)}}, file)
    net = make()
    before = {name: value.clone() for name, value in net.state_dict().items()}
    with pytest.raises(ModelError, match=r"1 of another shape \(2\.bias \(7,\) for \(5,\)\); .* 'state_dict\.model'$"):
        load_weights(net, file)
    assert is_loaded(net, before)
    torch.save({"epoch": 1, "loss": 0.3}, file)
    with pytest.raises(ModelError, match=r"holds no state dict, but keys epoch, loss: expected a mapping"):
        load_weights(make(), file)


def test_a_network_s_own_way_to_load_is_its_own_to_explain(file, state):
    class Picky(nn.Sequential):
        def load_state_dict(self, state, strict=True, assign=False):
            if "2.bias" in state and state["2.bias"].sum() > 1e6:
                raise ValueError("a bias like that\nis none")
            return super().load_state_dict(state, strict, assign)

    torch.save(state | {"2.bias": torch.full((5,), 1e7)}, file)
    with pytest.raises(ModelError, match=r"does not fit Picky: ValueError: a bias like that$"):
        load_weights(Picky(*make()), file)
