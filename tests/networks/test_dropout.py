from __future__ import annotations

import warnings

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

import gradunc_viz as gv
from gradunc_viz.networks.dropout import DropoutPasses, _dropped, dropout_layers
from gradunc_viz.networks.runner import Inference
from gradunc_viz.schema.errors import DeviceError, ModelError

CPU = torch.device("cpu")
IMAGE = np.random.default_rng(3).integers(0, 256, (12, 16, 3), "u1")


class Dropping(nn.Module):
    """Dropout of channels, of elements, and a batch norm that must stay in evaluation mode."""

    def __init__(self, drop=None):
        super().__init__()
        with torch.random.fork_rng():
            torch.manual_seed(0)
            self.body = nn.Conv2d(3, 6, 3, padding=1)
            self.norm = nn.BatchNorm2d(6)
            self.stem = nn.Sequential(nn.ReLU(), nn.Dropout2d(0.3))
            self.drop = nn.Dropout(0.2) if drop is None else drop
            self.classifier = nn.Conv2d(6, 4, 1)

    def forward(self, x):
        return self.classifier(self.drop(self.stem(self.norm(self.body(x)))))


def passes_of(net, frame_id="a", **options):
    runner = DropoutPasses(Inference(gv.load_model(net), CPU), **options)
    return [one.head.logits.clone() for one in runner(runner.prepare(IMAGE, frame_id), "it").passes]


@pytest.mark.parametrize(
    ("layer", "shape"),
    [
        (nn.Dropout(0.3), (2, 40, 30, 10)),
        (nn.Dropout(0.3), (3000,)),
        (nn.Dropout1d(0.3), (40, 50, 10)),
        (nn.Dropout2d(0.3), (40, 50, 3, 2)),
        (nn.Dropout2d(0.3), (40, 50, 3)),
        (nn.Dropout3d(0.3), (40, 50, 2, 2, 2)),
        (nn.AlphaDropout(0.3), (2, 40, 30, 10)),
        (nn.FeatureAlphaDropout(0.3), (40, 50, 3, 2)),
        (nn.Dropout2d(1.0), (4, 5, 3, 2)),
    ],
)
@pytest.mark.filterwarnings("ignore:dropout2d. Received a 3D input")
def test_masks_are_those_of_training(layer, shape):
    """A draw of torch's own, and ours, have the same values, the same shape of mask, and the same share of it."""
    x = torch.ones(shape, dtype=torch.float64)
    mine = _dropped(layer, x, [1])
    torch.manual_seed(0)
    theirs = layer.train()(x.clone())
    torch.testing.assert_close(mine.unique(), theirs.unique())
    if x.ndim > 2 and not isinstance(layer, (nn.Dropout, nn.AlphaDropout)):
        for one in (mine, theirs):  # a channel as a whole
            assert bool((one.flatten(2) == one.flatten(2)[..., :1]).all())
    kept = [float((one == one.max()).double().mean()) for one in (mine, theirs)]
    assert kept[0] == pytest.approx(kept[1], abs=0.06)
    torch.testing.assert_close(_dropped(layer, x, [1]), mine)
    if layer.p < 1:
        assert not torch.equal(_dropped(layer, x, [2]), mine)


def test_alpha_dropout_keeps_mean_and_variance():
    x = torch.randn(200_000, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    found = _dropped(nn.AlphaDropout(0.4), x, [5])
    assert float(found.mean()) == pytest.approx(0, abs=0.02)
    assert float(found.std()) == pytest.approx(1, abs=0.02)


@pytest.mark.parametrize(
    ("layer", "shape", "dims"), [(nn.Dropout1d(0.5), (60, 5), 1), (nn.Dropout3d(0.5), (60, 2, 3, 4), 1)]
)
def test_channels_without_a_batch(layer, shape, dims):
    found = _dropped(layer, torch.ones(shape), [0])
    assert bool((found.flatten(dims) == found.flatten(dims)[:, :1]).all())
    assert 0 < float((found == 0).float().mean()) < 1


def test_mean_of_many_passes_is_what_the_layers_are_for():
    net = nn.Sequential(nn.Conv2d(3, 8, 1), nn.Dropout(0.4), nn.Conv2d(8, 3, 1)).eval()
    passes = torch.stack(passes_of(net, passes=400))
    with torch.no_grad():
        plain = net(torch.from_numpy(IMAGE).permute(2, 0, 1)[None] / 255)
    assert float((passes.mean(0) - plain).abs().max()) < 0.15
    assert float(passes.std(0).min()) > 0


def test_values_depend_on_seed_frame_and_pass_alone():
    net = Dropping().eval()
    first = passes_of(net, passes=3)
    assert not torch.equal(first[0], first[1])
    for same in (passes_of(net, passes=3), passes_of(net, passes=5)[:3]):
        assert all(map(torch.equal, first, same))
    for other in (passes_of(net, "b", passes=3), passes_of(net, passes=3, seed=1)):
        assert not any(map(torch.equal, first, other))


def test_a_pass_in_which_the_head_is_searched_has_the_masks_of_later_ones():
    runner = DropoutPasses(Inference(gv.load_model(Dropping().eval()), CPU), passes=2)
    first, later = (runner(runner.prepare(IMAGE, "a"), "it").passes for _ in range(2))  # the network ran twice at first
    assert all(torch.equal(one.head.logits, other.head.logits) for one, other in zip(first, later, strict=True))


def test_nothing_but_dropout_is_switched_on_and_everything_is_given_back():
    net = Dropping().train()
    net.stem.eval()
    before = {name: value.clone() for name, value in net.state_dict().items()}
    state = torch.get_rng_state()
    modes = []
    net.norm.register_forward_hook(lambda layer, args, output: modes.append(layer.training))
    passes_of(net)
    assert set(modes) == {False}
    assert net.training
    assert not net.stem.training
    assert all(torch.equal(value, before[name]) for name, value in net.state_dict().items())
    assert torch.equal(state, torch.get_rng_state())
    assert not any(module._forward_hooks for module in (net, net.drop, net.stem[1]))
    assert not net._forward_pre_hooks


def test_hooks_are_removed_when_a_pass_fails():
    net = Dropping().eval()
    net.norm.register_forward_pre_hook(lambda layer, args: 1 / 0)
    with pytest.raises(ModelError, match="division by zero"):
        passes_of(net)
    assert not net.drop._forward_hooks
    assert not net._forward_pre_hooks


def test_dropout_in_place_changes_what_others_hold():
    class Held(Dropping):
        def forward(self, x):
            x = self.stem(self.norm(self.body(x)))
            self.drop(x)
            return self.classifier(x)

    with warnings.catch_warnings():
        warnings.simplefilter("error")
        passes_of(Held(nn.Dropout(0.5, inplace=True)).eval())
    one, other = passes_of(Held(nn.Dropout(0.9, inplace=True)).eval(), layers=["drop"], passes=2)
    assert not torch.equal(one, other)


@pytest.mark.parametrize(
    ("chosen", "names"),
    [
        (None, ["stem.1", "drop"]),
        (["drop"], ["drop"]),
        (["stem"], ["stem.1"]),
        (["st", "drop"], ["stem.1", "drop"]),
    ],
)
def test_layers_by_name_and_by_how_names_begin(chosen, names):
    assert list(dropout_layers(gv.load_model(Dropping()), chosen)) == names


def test_a_module_stands_for_what_it_holds_alone():
    net = nn.ModuleDict({f"block{i}": nn.Sequential(nn.Dropout(0.1)) for i in (1, 10, 2)})
    assert list(dropout_layers(gv.load_model(net), ["block1"])) == ["block1.0"]
    assert list(dropout_layers(gv.load_model(net), ["block"])) == ["block1.0", "block10.0", "block2.0"]


class Functional(Dropping):
    def forward(self, x):
        x = F.dropout(self.stem(self.norm(self.body(x))), 0.5, self.training)
        return self.classifier(self.drop(x))


class DropPath(nn.Module):
    def __init__(self):
        super().__init__()
        self.drop_prob = 0.1

    def forward(self, x):
        return x


class Own(nn.Dropout):
    def forward(self, x):
        return x * 0.5


def test_networks_without_a_dropout_layer():
    for net, text in (
        (nn.Sequential(nn.Conv2d(3, 2, 1)), "has no dropout layer to switch on: expected nn.Dropout"),
        (nn.Sequential(nn.Dropout(0.0), nn.Conv2d(3, 2, 1)), "those it has drop nothing or are classes of their own"),
        (nn.Sequential(Own(0.5), nn.Conv2d(3, 2, 1)), "Own '0'"),
        (nn.Sequential(DropPath(), nn.Conv2d(3, 2, 1)), "it has DropPath '0'"),
    ):
        with pytest.raises(ModelError, match=text):
            DropoutPasses(Inference(gv.load_model(net), CPU))
    with pytest.raises(ModelError, match=r"has no dropout layer 'nose'; it has stem.1, drop"):
        DropoutPasses(Inference(gv.load_model(Dropping()), CPU), layers=["nose"])


def test_dropout_that_stays_off_is_told():
    with pytest.warns(UserWarning, match="do not switch on the function dropout"):
        passes_of(Functional().eval())
    net = Dropping().eval()
    net.path = DropPath()
    net.own = Own(0.5)
    with pytest.warns(UserWarning, match="do not switch on DropPath 'path', Own 'own'"):
        passes_of(net)
    net = Dropping().eval()
    net.idle = nn.Dropout(0.1)
    with pytest.warns(UserWarning, match="layer 'idle', which did not run"):
        passes_of(net)


def test_layers_that_do_not_run_or_do_not_matter():
    class Training(Dropping):
        def forward(self, x):
            x = self.norm(self.body(x))
            return self.classifier(self.drop(self.stem(x)) if self.training else x)

    class Beside(Dropping):
        def forward(self, x):
            x = self.norm(self.body(x))
            self.drop(self.stem(x))
            return self.classifier(x)

    with pytest.raises(ModelError, match=r"none of the dropout layers of Training ran \(stem.1, drop\)"):
        passes_of(Training().eval())
    with pytest.warns(UserWarning, match="all dropout passes are alike"):
        passes_of(Beside().eval())


def test_passes_in_one_batch_have_the_masks_that_they_have_alone():
    net = Dropping().eval()
    alone = passes_of(net, passes=5)
    runner = DropoutPasses(Inference(gv.load_model(net), CPU), passes=5)
    runner.at_once = 3
    together = [one.head.logits for one in runner(runner.prepare(IMAGE, "a"), "it").passes]
    for one, other in zip(alone, together, strict=True):
        torch.testing.assert_close(one, other)


def test_samples_that_are_not_one_after_the_other_run_alone():
    class Sequence(Dropping):
        def forward(self, x):
            x = self.stem(self.norm(self.body(x)))
            rows = self.drop(x.flatten(2).permute(2, 0, 1))  # (positions, batch, channels)
            return self.classifier(rows.permute(1, 2, 0).reshape(x.shape))

    net = Sequence().eval()
    alone = passes_of(net, passes=4)
    runner = DropoutPasses(Inference(gv.load_model(net), CPU), passes=4)
    runner.at_once = 4
    together = [one.head.logits for one in runner(runner.prepare(IMAGE, "a"), "it").passes]
    assert runner.at_once == 1
    assert all(map(torch.equal, alone, together))


def test_fewer_passes_share_a_batch_where_memory_runs_out():
    class Full(Dropping):
        def forward(self, x):
            if len(x) > 2:
                raise torch.OutOfMemoryError("out of memory")
            return super().forward(x)

    net = Full().eval()
    runner = DropoutPasses(Inference(gv.load_model(net), CPU), passes=8)
    runner.at_once = 8
    found = [one.head.logits for one in runner(runner.prepare(IMAGE, "a"), "it").passes]
    assert runner.at_once == 1  # of the seven that are left: seven, three, one
    for one, other in zip(passes_of(net), found, strict=True):
        torch.testing.assert_close(one, other)
    net.forward = lambda x: (_ for _ in ()).throw(torch.OutOfMemoryError("out of memory"))
    with pytest.raises(DeviceError, match="out of memory"):
        runner(runner.prepare(IMAGE, "a"), "it")


def test_a_network_whose_head_is_searched_in_every_pass():
    """What stands behind the head is replayed: the network runs twice, with one set of masks."""

    class Tailed(Dropping):
        def forward(self, x):
            return super().forward(x)[:, :, 1:-1].flip(-1)

    one, other = (passes_of(Tailed().eval(), passes=3) for _ in range(2))
    assert all(map(torch.equal, one, other))
    with torch.no_grad():
        plain = passes_of(Dropping().eval(), passes=3)
    for tailed, head in zip(one, plain, strict=True):
        torch.testing.assert_close(tailed, head[:, :, 1:-1].flip(-1))


def test_compiled_networks_run_as_they_are():
    inference = Inference(gv.load_model(Dropping().eval()), CPU, compile=True)
    with pytest.warns(UserWarning, match=r"without torch\.compile"):
        DropoutPasses(inference)
    assert not inference.compile
