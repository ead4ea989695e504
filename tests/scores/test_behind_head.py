"""Gradient norms behind the head: bias, kernels that run twice, and the same numbers on every way to them."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor, nn
from zoo import ZOO, made

import gradunc_viz as gv
from gradunc_viz.deploy.stream import stream
from gradunc_viz.networks.runner import Inference
from gradunc_viz.schema import scores as registered
from gradunc_viz.schema.errors import HeadError

pytestmark = [
    # torch's exporter walks its own trees in a way that its own pytree module warns of
    pytest.mark.filterwarnings("ignore:.*LeafSpec.*:FutureWarning"),
    pytest.mark.filterwarnings("ignore:.*script_method.*:DeprecationWarning"),
]

SIZE = (24, 40)
SCORES = ("pgn_oh_p0.5", "pgn_uni_p2", "pgn_exp_p0.5", "fisher", "entropy")
IMAGE = np.random.default_rng(0).integers(0, 256, (*SIZE, 3), dtype=np.uint8)
X = torch.from_numpy(IMAGE).permute(2, 0, 1)[None].float() / 255


class Ends(nn.Module):
    """Right everywhere, for a picture that is red or not: pads to 32, flips, cools, adds a branch, and undoes it."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.fine, self.coarse = nn.Conv2d(3, 4, 3, padding=1), nn.Conv2d(3, 4, 1)
        self.eval()

    def forward(self, x: Tensor) -> Tensor:
        h, w = x.shape[-2:]
        padded = F.pad(x, (0, -w % 32, 0, -h % 32)).flip(3)
        coarse = F.interpolate(self.coarse(F.avg_pool2d(padded, 2)), padded.shape[-2:], mode="bilinear")
        return ((self.fine(padded) + coarse) / 0.3).flip(3)[..., :h, :w]


def by_autograd(
    net: nn.Module, parameters: list[Tensor], pixels: list[tuple[int, int]], p: float, label: str = "oh"
) -> Tensor:
    logits, norms = net(X.double()), []
    for y, x in pixels:
        phi = logits[:, :, y, x]
        classes = phi.argmax(1) if label == "oh" else range(phi.shape[1])
        weights = [1.0] if label == "oh" else phi[0].detach().softmax(0)
        power = torch.zeros((), dtype=torch.float64)
        for weight, one in zip(weights, classes, strict=True):
            gradients = torch.autograd.grad(
                F.cross_entropy(phi, torch.tensor([int(one)])), parameters, retain_graph=True
            )
            power += weight * torch.cat([one.flatten() for one in gradients]).norm(p) ** p
        norms.append(power.log2() / p)
    return torch.stack(norms)


@pytest.mark.parametrize("label", ["oh", "exp"])
@pytest.mark.parametrize("bias", [False, True])
def test_a_captured_head_has_the_norms_of_the_networks_output(bias: bool, label: str) -> None:
    net = Ends().double()
    with torch.no_grad(), gv.capture(net) as head:
        net(X.double())
    assert head.name == "fine + coarse"
    found = gv.gradient_norms(head, p=(0.5, 1), labels=label, bias=bias)
    pixels = [(0, 0), (3, 7), (23, 39), (12, 20)]
    parameters = [one for name, one in net.named_parameters() if bias or name.endswith("weight")]
    for place, p in enumerate((0.5, 1)):
        expected = by_autograd(net, parameters, pixels, p, label)
        torch.testing.assert_close(torch.stack([found[0, place, y, x] for y, x in pixels]), expected)


def test_factors_behind_one_head_and_not_behind_several() -> None:
    net = nn.Sequential(nn.Conv2d(3, 4, 3, padding=1), nn.BatchNorm2d(4), nn.Tanh()).eval()
    net[1].weight.data = torch.tensor([0.5, 2.0, -1.0, 3.0])
    names = ("pgn_oh_p0.5", "label_oh_p0.5", "feature_p0.5", "pgn_exp_p2", "label_exp_p2", "feature_p2", "fisher")
    ds = gv.score_image(net, IMAGE, scores=names)
    # oriented: features, small where the network is unsure, are shown negated
    np.testing.assert_allclose(ds["pgn_oh_p0.5"], ds["label_oh_p0.5"] - ds["feature_p0.5"], atol=2e-5)
    np.testing.assert_allclose(ds["pgn_exp_p2"], ds["label_exp_p2"] - ds["feature_p2"], atol=2e-5)
    np.testing.assert_allclose(ds["fisher"], 2 * ds["pgn_exp_p2"], atol=2e-5)
    for name in ("label_oh_p1", "feature_p1"):
        with pytest.raises(HeadError, match="several outputs, of 'fine', 'coarse', is a sum of products"):
            gv.score_image(Ends(), IMAGE, scores=name)


def test_the_bias_of_a_layer_without_one_is_refused() -> None:
    net = nn.Sequential(nn.Conv2d(3, 4, 1, bias=False), nn.BatchNorm2d(4)).eval()
    with torch.no_grad(), gv.capture(net) as head:
        net(X)
    with pytest.raises(HeadError, match="layer '0' has none"):
        gv.gradient_norms(head, bias=True)


def test_a_kernel_that_runs_twice_has_one_gradient() -> None:
    class Twice(nn.Module):
        def __init__(self, weights: Tensor) -> None:
            super().__init__()
            torch.manual_seed(0)
            self.head = nn.Conv2d(3, 4, 1)
            self.register_buffer("weights", weights)

        def forward(self, x: Tensor) -> Tensor:
            return self.head(x) + self.weights * self.head(x.flip(3)).flip(3)

    net = Twice(torch.tensor(0.5)).double()
    with torch.no_grad(), gv.capture(net) as head:
        net(X.double())
    pixels = [(0, 0), (5, 30)]
    expected = by_autograd(net, [net.head.weight], pixels, 1)
    found = gv.gradient_norms(head, p=1, labels="oh")
    torch.testing.assert_close(torch.stack([found[0, 0, y, x] for y, x in pixels]), expected)

    by_class = Twice(torch.arange(4.0).view(1, 4, 1, 1))
    with torch.no_grad(), gv.capture(by_class) as head:
        by_class(X)
    with pytest.raises(HeadError, match=r"'head' runs 2 times .* is no outer product"):
        gv.gradient_norms(head)


def test_the_same_in_a_run_and_in_a_stream(tmp_path: Path) -> None:
    net = Ends()
    images = [IMAGE, IMAGE[::-1].copy(), IMAGE[:, ::-1].copy()]
    for folder in ("images", "labels"):
        (tmp_path / "set" / folder).mkdir(parents=True)
    for number, image in enumerate(images):
        Image.fromarray(image).save(tmp_path / f"set/images/{number}.png")
        with torch.no_grad():
            own = net(torch.from_numpy(image).permute(2, 0, 1)[None].float() / 255).argmax(1)[0]
        Image.fromarray(own.numpy().astype(np.uint8)).save(tmp_path / f"set/labels/{number}.png")
    cache = gv.compute(net, gv.open_frames(tmp_path / "set"), tmp_path / "c", scores=SCORES, batch=2, progress=False)
    assert cache.summary.error_rate.values.tolist() == [0, 0, 0]
    for number, image in enumerate(images):
        ds = gv.score_image(net, image, scores=SCORES)
        for name in SCORES:
            np.testing.assert_allclose(gv.score(cache[str(number)], name), ds[name], atol=5e-3)
    report = stream(Inference(gv.load_model(net), torch.device("cpu")), images, "entropy")
    np.testing.assert_allclose(report.means, [float(cache[i].score_mean.sel(score="entropy")) for i in cache.ids], 1e-3)


@pytest.fixture
def registry() -> Iterator[None]:
    """Scores that a test registers are gone after it."""
    before = set(registered.SCORES)
    yield
    for name in set(registered.SCORES) - before:
        del registered.SCORES[name]


@pytest.mark.usefixtures("registry")
def test_a_function_of_the_features_is_handed_those_of_the_pixel() -> None:
    @gv.register_score("feature_sum", orientation=+1, formula="sum_d psi_d")
    def feature_sum(logits: Tensor, features: Tensor) -> Tensor:
        return features.sum(1)

    class Flipped(nn.Conv2d):
        pass

    head = Flipped(3, 4, 1)
    head.register_forward_hook(lambda layer, args, output: output.flip(3))
    ds = gv.score_image(head, IMAGE, scores="feature_sum")
    np.testing.assert_allclose(ds.feature_sum, X[0].sum(0).flip(1), rtol=1e-5)
    with pytest.raises(HeadError, match="made by several heads, 'fine', 'coarse'"):
        gv.score_image(Ends(), IMAGE, scores="feature_sum")


@pytest.mark.slow
@pytest.mark.parametrize("name", ["pad to 32, crop", "FCN skip", "softmax", "sigmoid head"])
def test_onnxruntime_gives_the_same_maps(name: str, tmp_path: Path) -> None:
    pytest.importorskip("onnxscript")
    onnxruntime = pytest.importorskip("onnxruntime")
    model = gv.ScoredModel(gv.load_model(made(name), **ZOO[name].options), SCORES, example=X)
    with torch.no_grad():
        expected = model(X).scores.numpy()
        torch.onnx.export(model, (X,), tmp_path / "net.onnx", dynamo=True, verbose=False, input_names=["image"])
    session = onnxruntime.InferenceSession(tmp_path / "net.onnx", providers=["CPUExecutionProvider"])
    np.testing.assert_allclose(session.run(None, {"image": X.numpy()})[1], expected, atol=1e-3)


def test_what_depends_on_the_image_beside_the_head_is_not_exported() -> None:
    class Lit(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.head = nn.Conv2d(3, 4, 1)

        def forward(self, x: Tensor) -> Tensor:
            return self.head(x) * (1 + x.mean(1, keepdim=True))

    model = gv.ScoredModel(Lit().eval(), "pgn_oh_p1", example=X)
    with pytest.raises(HeadError, match="depends on more than the output of the head"):
        torch.export.export(model, (X,))
