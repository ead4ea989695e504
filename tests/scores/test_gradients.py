"""Closed-form gradient norms against automatic differentiation, the published code, and at the edges of float."""

from __future__ import annotations

import itertools
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from gradunc_viz.kernels import reference as gradients_reference
from gradunc_viz.kernels import torch_cpu as gradients_cpu
from gradunc_viz.schema.errors import HeadError, SettingsError
from gradunc_viz.schema.scores import LOG2_FLOOR, PAPER_NORMS, lookup
from gradunc_viz.scores.gradients import gradient_factors, gradient_norms, norms_and_softmax
from gradunc_viz.scores.needs import HeadOutput

GOLDEN = Path(__file__).parents[1] / "data" / "pgn_paper_code.npz"
PS = (0.1, 0.3, 0.5, 0.7, 1, 2, 3, 8, 20)
LABELS = ("oh", "uni")
ALL_LABELS = (*LABELS, "exp")


@pytest.fixture(autouse=True)
def seed():
    torch.manual_seed(0)


def autograd_norms(
    layer: nn.Module, features: Tensor, ps=PS, labels=ALL_LABELS, bias=False, keep: list[int] | None = None
) -> Tensor:
    """Return the norms slowly and obviously: one backward pass per pixel and label, as (N, labels x ps, h, w).

    With `keep`, the network consists of these output channels only.
    """

    def forward() -> Tensor:
        logits = run(layer, features)
        return logits if keep is None else logits[:, keep]

    parameters = [layer.weight, layer.bias] if bias else [layer.weight]
    logits = forward()
    n, n_classes, h, w = logits.shape
    result = torch.empty(n, len(labels), len(ps), h, w, dtype=torch.float64)
    log_pi = torch.log_softmax(logits, 1)
    for i, y, x in itertools.product(range(n), range(h), range(w)):
        for j, label in enumerate(labels):
            one_hot = torch.eye(n_classes, dtype=logits.dtype)
            targets = {
                "oh": one_hot[logits[i, :, y, x].argmax()][None],
                "uni": torch.full((1, n_classes), 1 / n_classes, dtype=logits.dtype),
                "exp": one_hot,
            }[label]
            # the mean over what the label may be
            weights = log_pi[i, :, y, x].detach().exp() if label == "exp" else torch.ones(1, dtype=logits.dtype)
            powers = torch.zeros(len(ps), dtype=torch.float64)
            for weight, target in zip(weights, targets, strict=True):
                loss = -(target * log_pi[i, :, y, x]).sum()
                entries = torch.cat([g.flatten() for g in torch.autograd.grad(loss, parameters, retain_graph=True)])
                powers += weight * torch.stack([entries.abs().pow(p).sum() for p in ps])
            result[i, j, :, y, x] = powers.pow(1 / torch.tensor(ps, dtype=torch.float64))
    return result.flatten(1, 2)


def run(layer: nn.Module, features: Tensor) -> Tensor:
    """Apply the layer to (N, D, h, w); a linear layer acts on the channels."""
    if isinstance(layer, nn.Linear):
        return layer(features.movedim(1, -1)).movedim(-1, 1)
    return layer(features)


def assert_equals_autograd(layer: nn.Module, size=(4, 3), bias=False, keep=None, n=1) -> None:
    generator = torch.Generator().manual_seed(3)
    layer = layer.double()
    for parameter in layer.parameters():
        parameter.data.copy_(torch.randn(parameter.shape, generator=generator, dtype=torch.float64))
    depth = layer.in_features if isinstance(layer, nn.Linear) else layer.in_channels
    features = torch.randn(n, depth, *size, generator=generator, dtype=torch.float64)
    channels = None if keep is None else torch.tensor(keep)
    with torch.no_grad():
        logits = run(layer, features)
    logits = logits if keep is None else logits[:, keep]
    found = gradient_norms(logits, features, layer, p=PS, labels=ALL_LABELS, bias=bias, channels=channels)
    expected = autograd_norms(layer, features, bias=bias, keep=keep).clamp_min(2.0**LOG2_FLOOR)
    assert found.dtype == torch.float64
    torch.testing.assert_close(found.exp2(), expected, rtol=1e-9, atol=0)


CONVOLUTIONS = {
    "1x1": {"kernel_size": 1},
    "1x1 stride 2": {"kernel_size": 1, "stride": 2},
    "1x1 padded": {"kernel_size": 1, "padding": 1},
    "3x3": {"kernel_size": 3},
    "3x3 padded": {"kernel_size": 3, "padding": 1},
    "5x3 padded by a tuple": {"kernel_size": (5, 3), "padding": (2, 1)},
    "3x3 padding of another height": {"kernel_size": 3, "padding": (2, 0)},
    "stride 2": {"kernel_size": 3, "stride": 2, "padding": 1},
    "stride 2 x 1": {"kernel_size": (2, 3), "stride": (2, 1), "padding": (0, 1)},
    "dilation": {"kernel_size": 3, "dilation": (2, 1), "padding": (2, 1)},
    "dilation and stride": {"kernel_size": 2, "dilation": 2, "stride": 2, "padding": 1},
    "same": {"kernel_size": (3, 5), "padding": "same"},
    "same, dilated": {"kernel_size": 3, "dilation": (1, 2), "padding": "same"},
    "same, even kernel": {"kernel_size": (2, 4), "padding": "same"},
    "valid": {"kernel_size": (3, 2), "padding": "valid"},
    "groups": {"kernel_size": 3, "padding": 1, "groups": 2},
    "groups, strided": {"kernel_size": 1, "stride": 2, "groups": 2},
    "depthwise": {"kernel_size": 3, "padding": 1, "groups": 4},
}


@pytest.mark.filterwarnings("ignore:Using padding='same' with even kernel")
@pytest.mark.parametrize("geometry", CONVOLUTIONS)
def test_convolution_equals_autograd(geometry):
    assert_equals_autograd(nn.Conv2d(4, 4, bias=False, **CONVOLUTIONS[geometry]))


@pytest.mark.filterwarnings("ignore:Using padding='same' with even kernel")
@pytest.mark.parametrize("mode", ["reflect", "replicate", "circular"])
@pytest.mark.parametrize(
    "options",
    [{"kernel_size": 3, "padding": (2, 1)}, {"kernel_size": (2, 4), "padding": "same"}, {"kernel_size": 1}],
    ids=["tuple", "same", "none"],
)
def test_padding_mode_equals_autograd(mode, options):
    assert_equals_autograd(nn.Conv2d(3, 3, padding_mode=mode, **options))


@pytest.mark.parametrize(
    "options",
    [
        {"kernel_size": 1},
        {"kernel_size": 2, "stride": 2},
        {"kernel_size": (3, 4), "stride": (1, 2), "padding": (1, 2)},
        {"kernel_size": 3, "stride": 2, "padding": 1, "output_padding": 1},
        {"kernel_size": 2, "stride": 3, "output_padding": (2, 0)},
        {"kernel_size": 2, "dilation": (1, 3), "output_padding": (0, 2)},
        {"kernel_size": 1, "stride": 2, "padding": 1},
        {"kernel_size": 3, "stride": 2, "groups": 2},
        {"kernel_size": 2, "groups": 4, "padding": 1},
    ],
    ids=lambda options: " ".join(f"{k}={v}" for k, v in options.items()),
)
@pytest.mark.parametrize("bias", [False, True])
def test_transposed_convolution_equals_autograd(options, bias):
    assert_equals_autograd(nn.ConvTranspose2d(4, 4, **options), size=(3, 2), bias=bias)


@pytest.mark.parametrize("bias", [False, True])
def test_linear_equals_autograd(bias):
    assert_equals_autograd(nn.Linear(5, 3), bias=bias)


@pytest.mark.parametrize("geometry", ["1x1", "3x3 padded", "groups", "depthwise", "same"])
def test_bias_equals_autograd(geometry):
    assert_equals_autograd(nn.Conv2d(4, 4, **CONVOLUTIONS[geometry]), bias=True)


def test_output_size_chosen_in_the_call_equals_autograd():
    layer = nn.ConvTranspose2d(2, 3, 3, stride=2, bias=False).double()
    features = torch.randn(1, 2, 2, 2, dtype=torch.float64)
    usual, larger = layer(features), layer(features, output_size=(6, 5))
    found = gradient_norms(larger.detach(), features, layer, p=1, labels="oh")
    assert larger.shape[2:] == (6, 5)
    torch.testing.assert_close(
        found[:, :, :5], gradient_norms(usual.detach(), features, layer, p=1, labels="oh"), rtol=1e-12, atol=0
    )
    assert (found[:, :, 5] == LOG2_FLOOR).all()  # no feature reaches the added row


@pytest.mark.parametrize("keep", [[0, 1, 2], [1, 3], [2, 3], [0, 1], [3]])
@pytest.mark.parametrize("groups", [1, 2, 4])
@pytest.mark.parametrize("bias", [False, True])
def test_left_out_channels_equal_autograd(keep, groups, bias):
    assert_equals_autograd(nn.Conv2d(4, 4, 3, padding=1, groups=groups), size=(2, 2), bias=bias, keep=keep)


def test_left_out_channels_of_a_grouped_transposed_convolution_equal_autograd():
    assert_equals_autograd(nn.ConvTranspose2d(4, 4, 2, stride=2, groups=2), size=(2, 2), keep=[0, 1])


def test_batch_images_do_not_influence_each_other():
    assert_equals_autograd(nn.Conv2d(3, 4, 3, padding=1, bias=False), size=(3, 2), n=3)
    layer, features = nn.Conv2d(3, 4, 1), torch.randn(2, 3, 4, 4) * torch.tensor([1.0, 1e20])[:, None, None, None]
    logits = torch.randn(2, 4, 4, 4)
    alone = [gradient_norms(logits[i : i + 1], features[i : i + 1], layer) for i in range(2)]
    torch.testing.assert_close(gradient_norms(logits, features, layer), torch.cat(alone), rtol=1e-6, atol=1e-4)


# --------------------------------------------------------------------------------------------------------------------
# the published code


@pytest.mark.parametrize("head", ["small", "wide"])
def test_paper_variant_equals_the_published_code(head):
    golden = np.load(GOLDEN)
    logits, features, maps = (torch.from_numpy(golden[f"{head}/{name}"]) for name in ("logits", "features", "maps"))
    layer = nn.Conv2d(features.shape[1], logits.shape[1], 1)
    found = gradient_norms(logits, features, layer, p=PAPER_NORMS, labels=LABELS, variant="paper")
    assert found.dtype == torch.float32
    # in float64: the norms of p = 0.1 reach 1e29
    torch.testing.assert_close(found.double().exp2(), maps.double(), rtol=1e-5, atol=0)


@pytest.fixture
def case():
    generator = torch.Generator().manual_seed(11)
    layer = nn.Conv2d(6, 5, 3, padding=1, bias=False)
    features = torch.randn(2, 6, 5, 7, generator=generator)
    return 3 * torch.randn(2, 5, 5, 7, generator=generator), features, layer


def test_paper_one_hot_p1_is_half_the_exact_one(case):
    exact = gradient_norms(*case, p=1, labels="oh")
    torch.testing.assert_close(gradient_norms(*case, p=1, labels="oh", variant="paper"), exact - 1)


@pytest.mark.parametrize("p", PAPER_NORMS)
def test_paper_one_hot_leaves_out_the_predicted_class(case, p):
    logits, features, layer = case
    pi = logits.double().softmax(1)
    others = pi.scatter(1, pi.argmax(1, keepdim=True), 0.0).pow(p).sum(1)
    _, feature = gradient_factors(logits, features, layer, p=p)
    found = gradient_norms(*case, p=p, labels="oh", variant="paper")[:, 0]
    torch.testing.assert_close(found.double(), others.log2() / p + feature, rtol=0, atol=2e-5)


@pytest.mark.parametrize("p", [*PAPER_NORMS, 3.0])
def test_paper_uniform_is_the_scaled_norm_of_the_probabilities(case, p):
    logits, features, layer = case
    norm = logits.double().softmax(1).mul(4 / 5).pow(p).sum(1).log2() / p
    _, feature = gradient_factors(logits, features, layer, p=p)
    found = gradient_norms(*case, p=p, labels="uni", variant="paper")[:, 0]
    torch.testing.assert_close(found.double(), norm + feature, rtol=0, atol=2e-5)


@pytest.mark.parametrize("label", LABELS)
@pytest.mark.parametrize("variant", ["exact", "paper"])
@pytest.mark.parametrize("p", [0.3, 2.0, 8.0])
def test_factors_add_up_to_the_norm(case, label, variant, p):
    label_part, feature_part = gradient_factors(*case, p=p, label=label, variant=variant)
    norm = gradient_norms(*case, p=p, labels=label, variant=variant)[:, 0]
    torch.testing.assert_close(label_part + feature_part, norm, rtol=0, atol=2e-5)


def test_factors_of_a_grouped_layer_are_refused():
    layer = nn.Conv2d(2, 2, 1, groups=2)
    with pytest.raises(HeadError, match="groups=2"):
        gradient_factors(torch.zeros(1, 2, 1, 1), torch.zeros(1, 2, 1, 1), layer, p=1)
    for name in ("label_uni_p1", "feature_p1"):
        with pytest.raises(
            HeadError, match=f"groups=2 does not factorise, so that it has no {name.split('_')[0]} part"
        ):
            named(HeadOutput(torch.zeros(1, 2, 1, 1), torch.zeros(1, 2, 1, 1), layer), name)


def named(head: HeadOutput, *names: str) -> Tensor:
    """Scores as the registry describes them, (len(names), N, h, w)."""
    return norms_and_softmax(head, [lookup(name).request for name in names])[0].movedim(1, 0)


@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("p", [0.1, 1, 2, 8])
@pytest.mark.parametrize("label", ALL_LABELS)
def test_parts_add_up_to_the_norm_and_are_what_they_say(label, p, bias):
    layer = nn.Conv2d(6, 5, 3, padding=1)
    features = torch.randn(2, 6, 5, 7, dtype=torch.float64)
    logits = 3 * torch.randn(2, 5, 5, 7, dtype=torch.float64)
    head = HeadOutput(logits, features, layer, bias=bias)
    norm, label_part, feature = named(head, f"pgn_{label}_p{p}", f"label_{label}_p{p}", f"feature_p{p}")
    torch.testing.assert_close(label_part + feature, norm, rtol=0, atol=1e-9)
    patches = nn.functional.unfold(features, 3, padding=1).abs().pow(p).sum(1).view(2, 5, 7) + bias
    torch.testing.assert_close(feature, patches.log2() / p, rtol=0, atol=1e-9)
    pi = logits.softmax(1)
    one_hot = torch.eye(5, dtype=torch.float64)
    y = {"oh": one_hot[pi.argmax(1)].movedim(-1, 1), "uni": torch.tensor(0.2, dtype=torch.float64)}.get(label)
    if y is None:
        drawn = (pi[:, None] - one_hot[None, :, :, None, None]).abs().pow(p).sum(2)
        sums = (pi * drawn).sum(1)
    else:
        sums = (pi - y).abs().pow(p).sum(1)
    torch.testing.assert_close(label_part, sums.log2() / p, rtol=0, atol=1e-9)


def test_the_label_part_needs_no_features(case):
    logits, features, layer = case
    with_features, without = (named(HeadOutput(logits, x, layer), "label_exp_p0.5") for x in (features, None))
    torch.testing.assert_close(with_features, without)
    with pytest.raises(HeadError, match="without the features"):
        named(HeadOutput(logits, None, layer), "feature_p1")


def test_scores_by_the_names_of_the_literature_are_what_they_say():
    """GradNorm, ExGrad and the trace of the Fisher information as their authors define them."""
    layer = nn.Conv2d(4, 3, 1, bias=False).double()
    features = torch.randn(1, 4, 2, 3, dtype=torch.float64)
    logits = layer(features)
    head = HeadOutput(logits.detach(), features, layer)
    log_pi = logits.log_softmax(1)
    for y, x in itertools.product(range(2), range(3)):
        own = log_pi[0, :, y, x]
        of_class = torch.stack([torch.autograd.grad(one, layer.weight, retain_graph=True)[0].flatten() for one in own])
        pi = own.detach().exp()
        expected = {
            # the divergence from the uniform distribution, over C: the mean over classes as its label
            "gradnorm": of_class.mean(0).norm(1),
            "expgrad": pi @ of_class.norm(1, 1),
            # E[g g^T], its trace
            "fisher": torch.einsum("c,ci,cj->ij", pi, of_class, of_class).trace(),
        }
        found = named(head, *expected)[:, 0, y, x]
        torch.testing.assert_close(found, torch.stack(list(expected.values())).log2(), rtol=1e-9, atol=1e-9)
    found = named(head, "gradnorm", "pgn_uni_p1", "expgrad", "pgn_exp_p1", "fisher", "pgn_exp_p2")
    assert torch.equal(found[0], found[1])
    assert torch.equal(found[2], found[3])
    assert torch.equal(found[4], 2 * found[5])


@pytest.mark.parametrize("size", [10, 40, 80, 100])
@pytest.mark.parametrize("p", PS)
def test_the_expected_label_keeps_the_rank_of_certain_pixels_in_float32(size, p):
    logits = torch.tensor([[size, 0.0, -3.0]])[..., None, None]
    found = gradient_norms(logits, torch.ones(1, 4, 1, 1), nn.Conv2d(4, 3, 1), p=p, labels="exp").flatten()
    log_pi = torch.tensor([0.0, -size, -size - 3.0], dtype=torch.float64)
    log_pi = log_pi - log_pi.logsumexp(0)
    log_rest = torch.stack([log_pi[[1, 2]], log_pi[[0, 2]], log_pi[[0, 1]]]).logsumexp(1)
    terms = torch.cat([p * log_pi + log_rest, log_pi + p * log_rest])
    norms = terms.logsumexp(0, keepdim=True) / p / math.log(2) + 2 / p
    torch.testing.assert_close(found.double(), norms.clamp_min(LOG2_FLOOR), rtol=1e-6, atol=1e-4)


def test_the_papers_formula_of_the_expected_label_is_refused(case):
    with pytest.raises(ValueError, match="leaves out the class that is the label"):
        gradient_norms(*case, p=1, labels="exp", variant="paper")


# --------------------------------------------------------------------------------------------------------------------
# what is asked for, and in which order


def test_order_is_p_fastest_and_scalars_are_lists_of_one(case):
    both = gradient_norms(*case, p=(1, 2), labels=("uni", "oh"))
    single = [gradient_norms(*case, p=p, labels=label) for label in ("uni", "oh") for p in (1, np.float32(2))]
    assert torch.equal(both, torch.cat(single, 1))


def test_any_list_of_requests_gives_each_its_own_map(case):
    wanted = [("oh", 8.0, "paper"), ("uni", 1.0, "exact"), ("oh", 1.0, "paper"), ("uni", 1.0, "paper")]
    found = norms_and_softmax(HeadOutput(*case), wanted)[0]
    for i, (label, p, variant) in enumerate(wanted):
        assert torch.equal(found[:, i : i + 1], gradient_norms(*case, p=p, labels=label, variant=variant))


def test_repeated_request_is_answered_twice(case):
    found = gradient_norms(*case, p=(1, 2, 1), labels="oh")
    assert torch.equal(found[:, 0], found[:, 2])


def test_no_request_gives_no_map(case):
    assert norms_and_softmax(HeadOutput(*case), [])[0].shape == (2, 0, 5, 7)


# --------------------------------------------------------------------------------------------------------------------
# numbers at the edge


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
@pytest.mark.parametrize("variant", ["exact", "paper"])
def test_half_inputs_are_as_good_as_their_rounded_values_in_float64(dtype, variant):
    generator = torch.Generator().manual_seed(5)
    layer = nn.Conv2d(32, 19, 3, padding=1)
    logits = (8 * torch.randn(1, 19, 6, 6, generator=generator)).to(dtype)
    features = torch.randn(1, 32, 6, 6, generator=generator).relu().to(dtype)
    found = gradient_norms(logits, features, layer, p=PS, variant=variant)
    expected = gradient_norms(logits.double(), features.double(), layer, p=PS, variant=variant)
    assert found.dtype == torch.float32
    torch.testing.assert_close(found.double(), expected, rtol=1e-6, atol=1e-5)


@pytest.mark.parametrize("size", [10, 40, 80, 100])
@pytest.mark.parametrize("p", PS)
def test_certain_pixels_keep_their_rank_in_float32(size, p):
    """The norms of a pixel whose other classes have probability exp(-size)."""
    logits, features, layer = (
        torch.tensor([[size, 0.0, -3.0]])[..., None, None],
        torch.ones(1, 4, 1, 1),
        nn.Conv2d(4, 3, 1),
    )
    log_pi = torch.tensor([[0.0, -3.0]]).double() - size
    rest = log_pi.logsumexp(1, keepdim=True)
    norms = torch.cat([log_pi, rest], 1).mul(p).logsumexp(1) / p / math.log(2) + 2 / p
    found = gradient_norms(logits, features, layer, p=p, labels="oh").flatten()
    torch.testing.assert_close(found.double(), norms, rtol=1e-6, atol=1e-3 * math.exp(-size / 10))


@pytest.mark.parametrize("difference", [1e-3, 1e-6])
def test_flat_softmax_keeps_its_digits_in_float32(difference):
    logits = difference * torch.tensor([[-1.0, 0.3, 0.9]])[..., None, None]
    features, layer = torch.ones(1, 4, 1, 1), nn.Conv2d(4, 3, 1)
    found = gradient_norms(logits, features, layer, labels="uni")
    expected = gradient_norms(logits.double(), features.double(), layer, labels="uni")
    torch.testing.assert_close(found.double(), expected, rtol=1e-6, atol=2e-5)


@pytest.mark.parametrize("value", [80.0, 1e4, 6e4])
@pytest.mark.parametrize("variant", ["exact", "paper"])
@pytest.mark.parametrize("dtype", [torch.float16, torch.float32, torch.float64])
def test_saturated_softmax_is_finite_and_floored(value, variant, dtype):
    logits = torch.full((1, 3, 2, 2), -value, dtype=dtype)
    logits[:, 1] = value
    found = gradient_norms(logits, torch.ones(1, 4, 2, 2, dtype=dtype), nn.Conv2d(4, 3, 1), p=PS, variant=variant)
    assert found.isfinite().all()
    one_hot = found[:, 3 : len(PS)]  # smaller p lift 2^-230 above the floor
    assert (one_hot == LOG2_FLOOR).all()
    assert (found[:, len(PS) :] > -3).all()


@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("scale", [0.0, 1e-40, 1e-20, 1e20, 1e38])
def test_any_scale_of_the_features_is_finite(scale, bias):
    layer = nn.Conv2d(3, 4, 3, padding=1)
    logits, features = torch.randn(2, 4, 5, 5), scale * torch.rand(2, 3, 5, 5).add(0.1)
    found = gradient_norms(logits, features, layer, p=PS, bias=bias)
    assert found.isfinite().all()
    if scale in (0.0, 1e-40) and bias:  # the bias's own gradient remains
        expected = torch.cat(
            [gradient_factors(logits, features, layer, p=p, label=label)[0] for label in LABELS for p in PS]
        )
        low = [i for i, p in enumerate(PS) if p >= 0.5]
        order = found.unflatten(1, (2, len(PS))).permute(1, 2, 0, 3, 4)[:, low]
        torch.testing.assert_close(order, expected.view(2, len(PS), 2, 5, 5)[:, low], rtol=1e-6, atol=1e-5)
    elif scale == 0.0:
        assert (found == LOG2_FLOOR).all()


@pytest.mark.parametrize("power", [-66, -1, 5, 66])
def test_scaling_the_features_shifts_the_norm(case, power):
    logits, features, layer = case
    found = gradient_norms(logits, features * 2.0**power, layer, p=PS)
    # two norms of float32, each within 1e-5 of what it should be
    torch.testing.assert_close(found, gradient_norms(*case, p=PS) + power, rtol=1e-6, atol=2e-5)


@pytest.mark.parametrize("p", PAPER_NORMS)
def test_small_features_beside_large_ones_keep_their_digits(p):
    """A plane's large values must not leak rounding into the taps of small ones."""
    features = torch.full((1, 2, 6, 40), 1e-6)
    features[..., 20:] = 1.0
    layer, logits = nn.Conv2d(2, 3, 3, padding=1), torch.randn(1, 3, 6, 40)
    found = gradient_norms(logits, features, layer, p=p, labels="oh")
    expected = gradient_norms(logits.double(), features.double(), layer, p=p, labels="oh")
    torch.testing.assert_close(found.double(), expected, rtol=1e-6, atol=2e-5)


@pytest.mark.parametrize("variant", ["exact", "paper"])
def test_single_class_has_no_gradient(variant):
    found = gradient_norms(torch.randn(1, 1, 2, 2), torch.ones(1, 3, 2, 2), nn.Conv2d(3, 1, 1), p=PS, variant=variant)
    assert (found == LOG2_FLOOR).all()


def test_single_channel_equals_autograd():
    assert_equals_autograd(nn.Conv2d(1, 2, 3, padding=1, bias=False))


# --------------------------------------------------------------------------------------------------------------------
# memory layouts


@pytest.mark.parametrize("tile", [1, 37, 200])
@pytest.mark.parametrize(("groups", "kernel"), [(1, 1), (2, 3), (1, 3)])
def test_tiles_and_blocks_change_nothing(monkeypatch, tile, groups, kernel):
    layer = nn.Conv2d(4, 6, kernel, padding=kernel // 2, groups=groups)
    logits, features = torch.randn(2, 6, 9, 11).double(), torch.randn(2, 4, 9, 11).double()
    whole = gradient_norms(logits, features, layer, p=PS, bias=True)
    monkeypatch.setattr(gradients_reference, "_TILE", tile)
    monkeypatch.setattr(gradients_cpu, "_BLOCK", tile)
    torch.testing.assert_close(gradient_norms(logits, features, layer, p=PS, bias=True), whole, rtol=0, atol=1e-9)


@pytest.mark.parametrize("groups", [1, 2])
@pytest.mark.parametrize(
    "relayout",
    [
        lambda x: x.contiguous(memory_format=torch.channels_last),
        lambda x: x.mT.contiguous().mT,
        lambda x: torch.stack([x, x], -1)[..., 1],
        lambda x: x[:1].expand(2, -1, -1, -1),
    ],
    ids=["channels last", "transposed", "strided", "expanded"],
)
def test_memory_layout_changes_nothing(relayout, groups):
    layer = nn.Conv2d(4, 6, 3, padding=1, groups=groups)
    logits = torch.randn(1, 6, 7, 5).double().repeat(2, 1, 1, 1)
    features = torch.randn(1, 4, 7, 5).double().repeat(2, 1, 1, 1)
    found = gradient_norms(relayout(logits), relayout(features), layer, p=PS)
    torch.testing.assert_close(found, gradient_norms(logits, features, layer, p=PS), rtol=0, atol=1e-9)


@pytest.mark.parametrize("shape", [(0, 5, 7), (2, 1, 1), (1, 1, 13), (1, 13, 1)])
def test_odd_sizes(shape):
    n, h, w = shape
    found = gradient_norms(torch.randn(n, 4, h, w), torch.randn(n, 3, h, w), nn.Conv2d(3, 4, 3, padding=1))
    assert found.shape == (n, 10, h, w)
    assert found.isfinite().all()


def test_inputs_stay_untouched(case):
    logits, features, layer = case
    before = logits.clone(), features.clone()
    gradient_norms(logits, features, layer, p=PS, bias=False)
    gradient_norms(logits.double(), features.double(), layer, p=PS)
    assert torch.equal(logits, before[0])
    assert torch.equal(features, before[1])


# --------------------------------------------------------------------------------------------------------------------
# errors


def call(layer=None, logits=(1, 4, 3, 3), features=(1, 6, 3, 3), **options):
    return gradient_norms(
        torch.zeros(logits), torch.zeros(features), layer or nn.Conv2d(6, 4, 1, bias=False), **options
    )


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"layer": nn.Conv1d(6, 4, 1)}, "Conv1d; expected Conv2d, ConvTranspose2d or Linear"),
        ({"layer": nn.Identity()}, "Identity"),
        ({"logits": (1, 5, 3, 3)}, r"\(1, 5, 3, 3\); expected \(N, 4, h, w\)"),
        ({"logits": (4, 3, 3)}, r"logits have shape \(4, 3, 3\)"),
        ({"features": (1, 7, 3, 3)}, r"\(1, 7, 3, 3\); expected \(1, 6, h, w\)"),
        ({"features": (2, 6, 3, 3)}, r"features have shape \(2, 6, 3, 3\)"),
        ({"bias": True}, "has no bias"),
        ({"channels": torch.tensor([0, 1])}, r"expected \(N, 2, h, w\)"),
        ({"logits": (1, 4, 6, 6)}, r"logits have size \(6, 6\)"),
        ({"layer": nn.Linear(6, 4), "logits": (1, 4, 6, 6)}, r"\(6, 6\)"),
        ({"layer": nn.Conv2d(6, 4, 3)}, r"\(1, 1\) of these features"),
        ({"layer": nn.Conv2d(6, 4, 5)}, "smaller than the kernel"),
        ({"layer": nn.ConvTranspose2d(6, 4, 2, stride=2), "logits": (1, 4, 8, 6)}, r"\(8, 6\) cannot come from"),
        ({"layer": nn.ConvTranspose2d(6, 4, 2, stride=2), "logits": (1, 4, 6, 5)}, r"\(6, 5\) cannot come from"),
    ],
)
def test_head_that_does_not_fit_is_refused(arguments, message):
    with pytest.raises(HeadError, match=message):
        call(**arguments)


@pytest.mark.parametrize("p", [0, -1, math.inf, math.nan, (1, 0.0), "a", (1, None)])
def test_p_that_is_no_norm_is_refused(p):
    with pytest.raises(SettingsError, match="expected a positive finite number"):
        call(p=p)


def test_what_is_no_pass_is_refused():
    with pytest.raises(HeadError, match=r"logits are of type torch\.int64; expected a tensor of floating point"):
        gradient_norms(torch.zeros(1, 3, 4, 4, dtype=torch.int64), torch.zeros(1, 2, 4, 4), nn.Conv2d(2, 3, 1))
    with pytest.raises(HeadError, match="features are of type list; expected a tensor"):
        gradient_norms(torch.zeros(1, 3, 4, 4), [1], nn.Conv2d(2, 3, 1))
    with pytest.raises(SettingsError, match="takes logits, features and the layer"):
        gradient_norms(torch.zeros(1, 3, 4, 4), torch.zeros(1, 2, 4, 4))


@pytest.mark.parametrize(("option", "value"), [("labels", "onehot"), ("labels", ("oh", "")), ("variant", "fast")])
def test_unknown_words_are_refused(option, value):
    with pytest.raises(SettingsError, match="expected '"):
        call(**{option: value})
