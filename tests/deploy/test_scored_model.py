"""One forward pass with scores: the same maps in PyTorch, compiled, exported and in onnxruntime."""

from __future__ import annotations

import shutil

import numpy as np
import pytest
import torch
from tiny import TinyNet
from torch import nn
from torch.nn import functional as F

import gradunc_viz as gv
from gradunc_viz.deploy.scored_model import ScoredModel
from gradunc_viz.schema.errors import HeadError, ModelError, UnknownScoreError
from gradunc_viz.schema.scores import lookup
from gradunc_viz.scores.maps import score_maps
from gradunc_viz.scores.needs import HeadOutput

pytestmark = [
    # torch's exporter walks its own trees in a way that its own pytree module warns of
    pytest.mark.filterwarnings("ignore:.*LeafSpec.*:FutureWarning"),
    # torch's own, where its compiler is first loaded
    pytest.mark.filterwarnings("ignore:.*script_method.*:DeprecationWarning"),
]

SCORES = (
    *(*gv.PAPER_SCORES, "margin", "energy", "max_logit", "pgn_oh_p3", "pgn_uni_p0.7"),
    *(*(f"pgn_exp_p{p}" for p in (0.1, 0.5, 1, 2, 3)), "gradnorm", "expgrad", "fisher"),
    *("gini", "gen", "gen_g0.3_m2", "kl_uniform", "entropy_T1.5", "energy_T0.5"),
)
PARTS = ("label_oh_p1", "label_uni_p0.5", "label_exp_p2", "label_exp_p3", "feature_p1", "feature_p0.5")


class Transposed(nn.Module):
    """Ends as ENet does: a transposed convolution of an argument-dependent size."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Conv2d(3, 8, 3, stride=2, padding=1)
        self.head = nn.ConvTranspose2d(8, 5, 3, stride=2, padding=1, bias=False)

    def forward(self, x):
        return self.head(torch.sigmoid(self.body(x)), output_size=x.shape[2:])


class Grouped(nn.Module):
    """A dilated head of two groups."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Conv2d(3, 8, 3, stride=2, padding=1)
        self.head = nn.Conv2d(8, 6, 3, padding=2, dilation=2, groups=2, padding_mode="reflect")

    def forward(self, x):
        logits = self.head(torch.sigmoid(self.body(x)))
        return {"out": F.interpolate(logits, x.shape[2:], mode="bilinear", align_corners=True)}


class GroupedTransposed(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Conv2d(3, 8, 3, stride=2, padding=1)
        self.head = nn.ConvTranspose2d(8, 6, 4, stride=2, padding=1, groups=2)

    def forward(self, x):
        return self.head(torch.sigmoid(self.body(x)))


class Tokens(nn.Module):
    """A linear head on rows of tokens."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Conv2d(3, 8, 4, stride=4)
        self.head = nn.Linear(8, 5)

    def forward(self, x):
        features = torch.sigmoid(self.body(x))
        n, _, h, w = features.shape
        logits = self.head(features.flatten(2).transpose(1, 2))
        return logits.transpose(1, 2).reshape(n, -1, h, w)


def segformer() -> nn.Module:
    transformers = pytest.importorskip("transformers")
    config = transformers.SegformerConfig(
        depths=[1, 1, 1, 1], hidden_sizes=[8, 16, 16, 32], decoder_hidden_size=16, num_labels=5
    )
    return transformers.SegformerForSemanticSegmentation(config).eval()


NETWORKS = {
    "resized": TinyNet,
    "transposed": Transposed,
    "grouped": Grouped,
    "grouped transposed": GroupedTransposed,
    "linear": Tokens,
    "segformer": segformer,
}


@pytest.fixture(autouse=True)
def seed():
    with torch.random.fork_rng():
        torch.manual_seed(0)
        yield


def make(name: str) -> tuple[nn.Module, torch.Tensor]:
    return NETWORKS[name]().eval(), torch.rand(2, 3, 64, 96) if name == "segformer" else torch.rand(2, 3, 24, 32)


def scored(name: str, **options) -> tuple[ScoredModel, torch.Tensor]:
    net, x = make(name)
    return ScoredModel(net, SCORES, example=x, **options), x


def reference(net: nn.Module, x: torch.Tensor, scores=SCORES) -> torch.Tensor:
    """What `compute` would cache."""
    network = net if isinstance(net, gv.Network) else gv.load_model(net)
    head = network.infer(x)
    channels = network.class_channels(head.logits.shape[1])
    output = HeadOutput(head.logits, head.features, head.layer, align_corners=head.align_corners).only(channels)
    size = tuple(x.shape[2:])
    return torch.stack([score_maps(output.image(i), size, scores).oriented for i in range(len(x))])


def assert_same_maps(found: torch.Tensor, expected: torch.Tensor, relu: bool = False, scores=SCORES) -> None:
    """Equal to 1e-4; after a ReLU norms with p < 1 are so at all but few pixels, whose features are all but zero."""
    assert found.shape == expected.shape
    deviation = (found - expected).abs()
    for i, name in enumerate(scores):
        p = getattr(lookup(name), "p", None)
        if relu and p is not None and p < 1:
            assert deviation[:, i].quantile(0.99) <= 1e-4, name
            assert deviation[:, i].max() <= 0.1, name
        elif p is not None and p < 0.5:
            # |pi_c - 1/C|^p near zero: the last digit of a logit is the fourth of the norm
            assert deviation[:, i].quantile(0.99) <= 1e-4, name
            assert deviation[:, i].max() <= 1e-3, name
        else:
            assert deviation[:, i].max() <= 1e-4, name


@pytest.mark.parametrize("name", NETWORKS)
def test_maps_are_those_of_compute(name):
    net, x = make(name)
    model = ScoredModel(net, SCORES, example=x)
    with torch.no_grad():
        logits, maps = model(x)
        head = gv.load_model(net).infer(x)
    torch.testing.assert_close(logits, head.logits.clone())
    assert maps.dtype == torch.float32
    torch.testing.assert_close(maps, reference(net, x), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("name", NETWORKS)
def test_traceable_expressions_say_the_same(name):
    model, x = scored(name)
    with torch.no_grad():
        expected = model(x).scores
    x.requires_grad_()
    found = model(x).scores  # with gradients wanted, the kernels of `compute` do not serve
    assert found.requires_grad
    assert_same_maps(found.detach(), expected, relu=name == "segformer")


@pytest.mark.parametrize("name", ["resized", "transposed"])
def test_traceable_expressions_have_the_same_factors(name):
    net, x = make(name)
    model = ScoredModel(net, PARTS, example=x)
    with torch.no_grad():
        expected = model(x).scores
    torch.testing.assert_close(expected, reference(net, x, PARTS), atol=1e-5, rtol=1e-5)
    assert_same_maps(model(x.requires_grad_()).scores.detach(), expected, scores=PARTS)


def test_what_it_cannot_compute_is_refused():
    net, x = make("grouped")
    with pytest.raises(HeadError, match="groups=2 does not factorise, so that it has no feature part"):
        ScoredModel(net, "feature_p1", example=x)
    with pytest.raises(ModelError, match="'pgn2_oh_p1' needs the second-to-last convolution"):
        ScoredModel(TinyNet(), "msp,pgn2_oh_p1")


RECORDED = ("resized", "grouped transposed", "linear", "segformer")
"""Of each kind of head one whose graph is recorded, which takes seconds: groups and transposition meet in one."""


@pytest.mark.slow
@pytest.mark.parametrize("name", RECORDED)
def test_exported_programs_keep_the_maps_in_torch_and_onnxruntime(name, tmp_path):
    model, x = scored(name)
    with torch.no_grad():
        expected = model(x)
        exported = torch.export.export(model, (x,))
        found = exported.module()(x)
    torch.testing.assert_close(found[0], expected.logits, atol=1e-5, rtol=1e-5)
    assert_same_maps(found[1], expected.scores, relu=name == "segformer")
    assert not any("index_put" in str(node.target) for node in exported.graph.nodes)
    pytest.importorskip("onnxscript")
    onnxruntime = pytest.importorskip("onnxruntime")
    names = {"input_names": ["image"], "output_names": ["logits", "scores"]}
    torch.onnx.export(exported, (), tmp_path / "net.onnx", dynamo=True, verbose=False, **names)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(tmp_path / "net.onnx", options, providers=["CPUExecutionProvider"])
    logits, maps = (torch.from_numpy(found) for found in session.run(["logits", "scores"], {"image": x.numpy()}))
    torch.testing.assert_close(logits, expected.logits, atol=1e-4, rtol=1e-4)
    assert_same_maps(maps, expected.scores, relu=name == "segformer")


@pytest.mark.slow
@pytest.mark.parametrize("name", RECORDED)
def test_compiled_graphs_keep_the_maps(name):
    """The graph that torch.compile records of each network, down to the operations that a backend is given."""
    model, x = scored(name)
    torch.compiler.reset()
    compiled = torch.compile(model, fullgraph=True, backend="aot_eager_decomp_partition")
    with torch.no_grad():
        expected, found = model(x), compiled(x)
        torch.testing.assert_close(found[0], expected.logits, atol=1e-5, rtol=1e-5)
        assert_same_maps(found[1], expected.scores, relu=name == "segformer")


@pytest.mark.slow
@pytest.mark.skipif(not any(map(shutil.which, ("g++", "clang++", "c++"))), reason="torch.compile needs a C++ compiler")
def test_machine_code_keeps_the_maps():
    """inductor translates each operation by itself: one network, whose head has most of them, a score of each kind."""
    net, x = make("transposed")
    norms = ("pgn_oh_p0.1", "pgn_uni_p0.7", "pgn_oh_p2_paper", "pgn_uni_p1")
    kinds = (*norms, "msp", "entropy", "margin", "energy", "max_logit")
    model = ScoredModel(net, kinds, example=x)
    torch.compiler.reset()
    compiled = torch.compile(model, fullgraph=True)
    with torch.no_grad():
        expected, found = model(x), compiled(x)
        torch.testing.assert_close(found[0], expected.logits, atol=1e-5, rtol=1e-5)
        assert_same_maps(found[1], expected.scores, scores=kinds)


@pytest.mark.parametrize("size", [(40, 24), (23, 31)])
def test_other_sizes_than_the_example(size):
    net, _ = make("transposed")
    x = torch.rand(1, 3, *size)
    torch.testing.assert_close(ScoredModel(net, SCORES)(x).scores.detach(), reference(net, x), atol=1e-3, rtol=1e-3)


def test_maps_at_the_resolution_of_the_head():
    net, x = make("resized")
    with torch.no_grad():
        logits, maps = ScoredModel(net, SCORES, resolution="head")(x)
    assert maps.shape == (2, len(SCORES), 12, 16)
    head = gv.load_model(net).infer(x)
    norm = gv.gradient_norms(head.logits, head.features, head.layer, p=0.5, labels="uni")[:, 0]
    torch.testing.assert_close(maps[:, SCORES.index("pgn_uni_p0.5")], -norm, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(maps[:, SCORES.index("msp")], 1 - logits.softmax(1).amax(1), atol=1e-6, rtol=1e-5)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("name", ["resized", "grouped", "linear"])
@pytest.mark.slow
def test_norms_are_finite_in_half_precision(name, dtype):
    net, x = make(name)
    model = ScoredModel(net.to(dtype), SCORES, example=x.to(dtype))
    with torch.no_grad():
        maps = model(x.to(dtype)).scores
        exported = torch.export.export(model, (x.to(dtype),)).module()(x.to(dtype))[1]
    assert maps.dtype == torch.float32
    assert maps.isfinite().all()
    assert exported.isfinite().all()


@pytest.mark.slow
def test_norms_of_many_channels_are_finite():
    net = nn.Sequential(nn.Conv2d(3, 2048, 1), nn.Sigmoid(), nn.Conv2d(2048, 150, 1)).eval()
    x = torch.rand(1, 3, 4, 4)
    model = ScoredModel(net, ("pgn_oh_p0.1", "pgn_uni_p0.1"))
    with torch.no_grad():
        maps = model(x).scores
        assert maps.isfinite().all()
        assert maps[:, 0].min() > 128  # beyond float32, were it no logarithm
        torch.testing.assert_close(torch.export.export(model, (x,)).module()(x)[1], maps, atol=1e-3, rtol=1e-5)


def test_channels_that_are_no_class_are_left_out():
    net, x = make("grouped")
    network = gv.load_model(net, drop_channels=[1, 4])
    with torch.no_grad():
        logits, maps = ScoredModel(network, SCORES)(x)
    assert logits.shape[1] == 4
    torch.testing.assert_close(maps, reference(network, x), atol=1e-5, rtol=1e-5)


def test_the_network_stays_as_it_is_and_shares_its_weights():
    net, x = make("resized")
    before = net(x).detach().clone()
    model = ScoredModel(net, "msp")
    assert type(net.classifier) is nn.Conv2d
    assert not any(module._forward_hooks for module in net.modules())
    torch.testing.assert_close(net(x), before)
    assert {id(one) for one in model.parameters()} == {id(one) for one in net.parameters()}
    with torch.no_grad():
        net.classifier.weight.zero_()
        net.classifier.bias.zero_()
        assert model(x).scores.sub(0.75).abs().max() < 1e-6


def test_a_head_that_runs_twice():
    class Twice(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.head = nn.Conv2d(3, 4, 1)

        def forward(self, x):
            return {"out": self.head(torch.sigmoid(x)), "aux": self.head(x)}

    x = torch.rand(1, 3, 8, 8)
    net = Twice().eval()
    with torch.no_grad():
        torch.testing.assert_close(ScoredModel(net, SCORES)(x).scores, reference(net, x), atol=1e-5, rtol=1e-5)


def test_a_head_held_out_of_sight_is_an_error():
    class Hidden(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.head = nn.Conv2d(3, 4, 1)
            self.run = lambda x: self.head(x)  # keeps the network itself, not its copy

        def forward(self, x):
            return self.run(x)

    with pytest.raises(HeadError, match="'head' ran 0 times in a copy of the network"):
        ScoredModel(Hidden().eval(), "msp")(torch.rand(1, 3, 8, 8))


def test_what_makes_no_sense_is_refused():
    net, x = make("resized")
    with pytest.raises(ValueError, match="resolution is 'full'"):
        ScoredModel(net, resolution="full")
    with pytest.raises(UnknownScoreError):
        ScoredModel(net, "nonsense")
    with pytest.raises(ModelError, match=r"cannot take an input of \(1, 5, 8, 8\)"):
        ScoredModel(net, example=torch.rand(1, 5, 8, 8))
    assert ScoredModel(net).scores == gv.DEFAULT_SCORES
    assert isinstance(ScoredModel(net)(x).scores.detach().numpy(), np.ndarray)
