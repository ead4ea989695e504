from __future__ import annotations

import numpy as np
import pytest
import torch
from tiny import TinyNet
from torch import nn
from torch.nn import functional as F

import gradunc_viz as gv
from gradunc_viz.schema.errors import HeadError, ModelError, UnknownScoreError

IMAGE = np.random.default_rng(5).integers(0, 256, (24, 32, 3), "u1")
IMAGENET = gv.Preprocessing().normalized("imagenet").normalize


def by_autograd(net, temperature, epsilon, keep=slice(None), normalize=None, size=(24, 32)):
    """ODIN as its paper has it, of a network that returns logits."""
    x = torch.from_numpy(IMAGE).permute(2, 0, 1)[None].float() / 255
    if normalize:
        mean, std = (torch.tensor(part).view(1, 3, 1, 1) for part in normalize)
        x = (x - mean) / std
    x.requires_grad_()
    loss = -(net(x)[:, keep] / temperature).softmax(1).amax(1).log().sum()
    moved = (x - epsilon * torch.autograd.grad(loss, x)[0].sign()).detach()
    with torch.no_grad():
        logits = net.classifier(F.softplus(net.body(moved)))[:, keep].double()
        resized = F.interpolate(logits, size, mode="bilinear", align_corners=False)
        p = (resized / temperature).softmax(1)
    return 1 - p.amax(1)[0]


@pytest.mark.parametrize(("name", "temperature", "epsilon"), [("odin", 1000, 0.0014), ("odin_T2_e0.05", 2, 0.05)])
@pytest.mark.parametrize("normalize", [None, "imagenet"])
@pytest.mark.parametrize("drop", [(), (0, 3)])
def test_odin_is_that_of_its_paper(name, temperature, epsilon, normalize, drop):
    net = TinyNet(2, 6).eval()
    network = gv.load_model(net, normalize=normalize, drop_channels=drop)
    found = gv.score_image(network, IMAGE, scores=[name])[name]
    keep = [channel for channel in range(6) if channel not in drop]
    expected = by_autograd(net, temperature, epsilon, keep, IMAGENET if normalize else None)
    np.testing.assert_allclose(found, expected, rtol=2e-6)
    assert all(parameter.grad is None for parameter in net.parameters())


def test_an_input_that_is_not_moved_has_the_softmax_at_a_temperature():
    found = gv.score_image(TinyNet(2).eval(), IMAGE, scores="msp,odin_T1_e0,odin_T1_e0.01")
    np.testing.assert_allclose(found["odin_T1_e0"], found["msp"], rtol=1e-5)
    assert float(found["odin_T1_e0.01"].mean()) < float(found["msp"].mean())  # moved towards what it is held for


def test_frames_of_a_batch_are_moved_each_by_itself(tiny_set, tmp_path):
    frames = gv.open_frames(tiny_set)[::2]
    for batch in (1, 2):
        gv.compute(TinyNet().eval(), frames, tmp_path / str(batch), scores="odin", batch=batch, progress=False)
    for frame in frames:
        one, two = (gv.open_cache(tmp_path / str(batch))[frame.id]["pixel_score"] for batch in (1, 2))
        np.testing.assert_allclose(one, two, atol=1e-4)


class Ended(TinyNet):
    """Ends in what `last` makes of the logits."""

    def __init__(self, last, **options):
        super().__init__(**options)
        self.last = last

    def forward(self, x):
        return self.last(self.classifier(F.softplus(self.body(x))))


@pytest.mark.parametrize("last", [lambda x: x.softmax(1), lambda x: x.log_softmax(1)], ids=["softmax", "logarithm"])
def test_networks_that_return_probabilities(last):
    wanted = gv.score_image(Ended(lambda x: x).eval(), IMAGE, scores="odin_T3_e0.02")
    found = gv.score_image(Ended(last).eval(), IMAGE, scores="odin_T3_e0.02")
    np.testing.assert_allclose(found["odin_T3_e0.02"], wanted["odin_T3_e0.02"], rtol=1e-5)


@pytest.mark.parametrize("last", [lambda x: x, torch.sigmoid], ids=["logit", "sigmoid"])
def test_a_network_of_one_channel(last):
    net = Ended(last, classes=1).eval()
    two = Ended(lambda x: F.pad(x, (0, 0, 0, 0, 1, 0)), classes=1).eval()
    found = gv.score_image(net, IMAGE, scores="odin_T3_e0.02")["odin_T3_e0.02"]
    np.testing.assert_allclose(found, gv.score_image(two, IMAGE, scores="odin_T3_e0.02")["odin_T3_e0.02"], rtol=1e-5)


class Detached(TinyNet):
    def forward(self, x):
        return super().forward(x.detach())


class Turned(TinyNet):
    """What it returns where somebody takes a derivative is not what it predicts by."""

    def forward(self, x):
        logits = super().forward(x)
        return logits.flip(1) if torch.is_grad_enabled() else logits


def test_networks_without_a_derivative_by_their_input():
    with pytest.raises(ModelError, match="has no derivative by its input"):
        gv.score_image(Detached().eval(), IMAGE, scores="odin")
    with pytest.raises(HeadError, match="are not the logits that its prediction is made of"):
        gv.score_image(Turned().eval(), IMAGE, scores="odin")


def test_odin_is_refused_where_the_network_is_not_run_again():
    with pytest.raises(UnknownScoreError, match="'odin' needs derivatives by the network's input"):
        gv.ScoredModel(TinyNet(), "odin")
    with pytest.raises(UnknownScoreError, match="'odin' is one of a single forward pass"):
        gv.score_image([TinyNet(0), TinyNet(1)], IMAGE, scores="odin")


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("odin_T1000_e0.0014", "write it 'odin'"),
        ("odin_T1.50_e0", r"write it 'odin_T1.5_e0'"),
        ("odin_T0_e0.1", "unknown score"),
    ],
)
def test_names_of_odin(name, text):
    with pytest.raises(UnknownScoreError, match=text):
        gv.lookup(name)


def test_weights_of_half_precision_and_inputs_in_training_mode_are_left_as_they_are():
    net = nn.Sequential(nn.Conv2d(3, 4, 3, padding=1), nn.BatchNorm2d(4), nn.Dropout(0.5), nn.Conv2d(4, 3, 1)).train()
    before = net[1].running_mean.clone()
    gv.score_image(net, IMAGE, scores="odin")
    assert net.training
    assert torch.equal(net[1].running_mean, before)
    found = gv.score_image(net.eval().bfloat16(), IMAGE, scores="odin_T1_e0.01")["odin_T1_e0.01"]
    assert 0 < float(found.mean()) < 1
