"""The kernels that read features and logits once, against plain torch in float64; Triton's in its interpreter."""

from __future__ import annotations

import importlib
import importlib.util
import itertools
import math
import os
import subprocess
import sys

import pytest
import torch
from torch import Tensor, nn

from gradunc_viz.kernels import dispatch as kernels
from gradunc_viz.kernels import tallies
from gradunc_viz.kernels import torch_cpu as gradients_cpu
from gradunc_viz.kernels.powers import power_plan
from gradunc_viz.kernels.reference import softmax_formulas
from gradunc_viz.schema.scores import LOG2_FLOOR, PAPER_NORMS, SCORES, NormRequest, SoftmaxScore
from gradunc_viz.scores import gradients
from gradunc_viz.scores.needs import HeadOutput
from gradunc_viz.scores.softmax import softmax_request

HAS_TRITON = importlib.util.find_spec("triton") is not None
INTERPRETED = os.environ.get("TRITON_INTERPRET") == "1" or torch.cuda.is_available()
PS = (*PAPER_NORMS, 0.7, 1.5)
NAMES = (
    *(score.name for score in SCORES.values() if isinstance(score, SoftmaxScore)),
    *("msp_T1000", "entropy_T1.5", "entropy_T0.3", "margin_T2", "energy_T0.7", "gen_g0.5", "gen_g0.1_m3"),
    *("prediction", "brier", "nll"),
)
DEVICE = {"cpu": "cpu", "llvm": "cpu", "triton": "cuda" if torch.cuda.is_available() else "cpu"}
DTYPES = (torch.float32, torch.float16, torch.bfloat16)


def use(monkeypatch, sums) -> None:
    """Choose these sums where tensors hold numbers."""
    monkeypatch.setattr(
        kernels, "_kernels", lambda device: kernels.Kernels(None if device == "meta" else sums, None, tallies)
    )


def sums_of(*tensors: Tensor):
    return kernels.kernels_on(tensors[0].device).sums_of(*tensors)


@pytest.fixture(params=["cpu", "llvm", pytest.param("triton", marks=pytest.mark.slow)])  # interpreted
def backend(request, monkeypatch) -> str:
    """Make `gradients` and `softmax` use these kernels."""
    if request.param == "cpu":
        use(monkeypatch, gradients_cpu)
    if request.param == "llvm":
        llvm = pytest.importorskip("gradunc_viz.kernels.llvm.norms")
        use(monkeypatch, llvm)
    if request.param == "triton":
        if not HAS_TRITON:
            pytest.skip("triton is not installed")
        if not INTERPRETED:
            pytest.skip("no CUDA device, and TRITON_INTERPRET is not 1")
        use(monkeypatch, importlib.import_module("gradunc_viz.kernels.cuda"))
    return request.param


@pytest.fixture(autouse=True)
def seed():
    torch.manual_seed(0)


def wanted(ps=PS) -> list[NormRequest]:
    kinds = [*itertools.product(("exact",), ("oh", "uni", "exp")), *itertools.product(("paper",), ("oh", "uni"))]
    norms = [NormRequest(label, p, variant) for variant, label in kinds for p in ps]
    return [*norms, *(one._replace(part="label") for one in norms), *(NormRequest("", p, part="feature") for p in ps)]


def reference(logits: Tensor, features: Tensor, layer: nn.Module, ps=PS, bias=False) -> Tensor:
    wide = logits.double(), features.double()
    return gradients._reference_norms(HeadOutput(*wide, layer, bias=bias), wanted(ps), torch.float64)


def unavoidable(logits: Tensor, ps, rounding=2e-7) -> Tensor:
    """What rounding each exp(phi - top) - mean does to the log2 norms: much where one is near 0 and p small."""
    exps = (logits.double() - logits.double().amax(1, keepdim=True)).exp()
    a = (exps - exps.mean(1, keepdim=True)).abs()
    uniform = []
    for p in ps:
        largest = (a + rounding).pow(p).sum(1).log2() / p
        smallest = (a - rounding).clamp_min(0).pow(p).sum(1).clamp_min(1e-300).log2() / p
        uniform.append((largest - smallest).clamp_max(1))
    none = torch.zeros_like(uniform[0])
    kinds = {("uni", "exact"): uniform}
    return torch.stack(
        [kinds.get((w.label, w.variant), [none] * len(ps))[ps.index(w.p)] for w in wanted(ps) if w.part != "feature"]
        + [none] * len(ps),
        1,
    )


def check(backend: str, logits: Tensor, features: Tensor, layer: nn.Module, *, ps=PS, atol=1e-5, bias=False) -> None:
    """Norms and softmax scores from one pass equal the formulas in float64."""
    on = [x.to(DEVICE[backend]) for x in (logits, features)]
    label = torch.randint(0, logits.shape[1], (logits.shape[0], *logits.shape[2:]))
    assert sums_of(*on) is not None
    norms, scores = gradients.norms_and_softmax(
        HeadOutput(*on, layer, bias=bias), wanted(ps), NAMES, label.to(DEVICE[backend])
    )
    assert norms.dtype == torch.float32
    expected = reference(logits, features, layer, ps, bias)
    # a value of 2^100 has steps of 1e-5 itself
    allowed = atol + 1e-6 * expected.abs() + unavoidable(logits, ps)
    error = (norms.cpu().double() - expected).abs()
    assert (error <= allowed).all(), f"{(error / allowed).max():.1f} times what is allowed"
    expected = softmax_formulas(logits.double(), [softmax_request(name) for name in NAMES], label)
    for name, found in scores.items():
        wanted_values = expected[softmax_request(name)].double()
        torch.testing.assert_close(found.cpu().double(), wanted_values, rtol=5e-6, atol=2e-6)


def case(classes=7, depth=12, size=(9, 13), n=1, kernel=1, spread=3.0) -> tuple[Tensor, Tensor, nn.Module]:
    layer = nn.Conv2d(depth, classes, kernel, padding=kernel // 2)
    return spread * torch.randn(n, classes, *size), torch.randn(n, depth, *size).relu(), layer


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("classes", [1, 2, 7, 19])
@pytest.mark.parametrize("depth", [1, 3, 70])
def test_equals_the_formulas_of_the_rounded_inputs(backend, dtype, classes, depth):
    logits, features, layer = case(classes, depth)
    check(backend, logits.to(dtype), features.to(dtype), layer, atol=1.5e-5)


@pytest.mark.parametrize("size", [(1, 1), (1, 131), (131, 1), (3, 5), (17, 23)])
def test_odd_sizes(backend, size):
    check(backend, *case(5, 6, size, n=2))


@pytest.mark.parametrize("spread", [0.0, 1e-6, 1e-3, 0.1, 30.0, 200.0])
def test_flat_and_certain_softmax(backend, spread):
    logits, features, layer = case(5, 6, spread=spread)
    check(backend, logits, features, layer, ps=(0.5, 1.0, 2.0), atol=3e-5)


def test_ties_and_equal_logits(backend):
    logits, features, layer = case(4, 3)
    logits[:, 2] = logits[:, 0]
    logits[:, :, 0] = 1.0
    check(backend, logits, features, layer)


@pytest.mark.parametrize(
    "relayout",
    [
        lambda x: x.contiguous(memory_format=torch.channels_last),
        lambda x: x.mT.contiguous().mT,
        lambda x: torch.stack([x, x], -1)[..., 1],
        lambda x: x[:1].expand(2, -1, -1, -1),
        lambda x: torch.nn.functional.pad(x, (2, 3))[..., 2:-3],
    ],
    ids=["channels last", "transposed", "strided", "expanded", "cropped"],
)
def test_memory_layout(backend, relayout):
    logits, features, layer = case(n=2)
    check(backend, relayout(logits), relayout(features), layer)


def far_apart(x: Tensor, stride: int) -> Tensor:
    """The same numbers with channels `stride` numbers apart; only the pages that are written take memory."""
    n, channels, height, width = x.shape
    place = torch.empty((channels - 1) * stride + n * height * width, dtype=torch.float16)
    far = place.as_strided(x.shape, (height * width, stride, width, 1))
    return far.copy_(x)


def test_more_numbers_than_32_bits_count(backend):
    """A large batch of large images: places of numbers are counted in 64 bits."""
    logits, features, layer = case(5, 6, (3, 4))
    check(backend, far_apart(logits, 2**29), far_apart(features, 2**29 - 8), layer, atol=1e-2)


def test_kernels_are_launched_on_the_device_of_their_tensors(backend, monkeypatch):
    if backend != "triton":
        pytest.skip("torch's own functions choose the device themselves")
    entered, device_of = [], torch.cuda.device_of
    monkeypatch.setattr(torch.cuda, "device_of", lambda x: entered.append(x.shape) or device_of(x))
    logits, features, layer = case()
    check(backend, logits, features, layer)
    assert entered == [features.shape, logits.shape]


GEOMETRIES = {
    "3x3": (nn.Conv2d(6, 5, 3, padding=1), (9, 11)),
    "strided": (nn.Conv2d(6, 5, 3, stride=2, padding=1), (9, 11)),
    "dilated": (nn.Conv2d(6, 5, 3, dilation=2, padding=2, padding_mode="reflect"), (9, 11)),
    "transposed": (nn.ConvTranspose2d(6, 5, 3, stride=2, padding=1, output_padding=1), (5, 7)),
    "transposed, dilated": (nn.ConvTranspose2d(6, 5, (2, 3), stride=(3, 1), dilation=(1, 2)), (5, 7)),
}


@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("name", GEOMETRIES)
def test_geometry(backend, name, bias):
    layer, size = GEOMETRIES[name]
    features = torch.randn(2, 6, *size).relu()
    with torch.no_grad():
        logits = layer(features)
    check(backend, logits, features, layer, bias=bias)


@pytest.mark.parametrize("scale", [1e-40, 1e-30, 1e-20, 1e-4, 1e20, 1e30, 1e37])
@pytest.mark.parametrize("bias", [False, True])
def test_huge_and_tiny_features(backend, scale, bias):
    logits, features, layer = case()
    check(backend, logits, features * scale, layer, bias=bias, ps=(0.5, 1.0, 2.0) if bias else PS, atol=3e-5)


def test_subnormal_beside_normal_features(backend):
    logits, features, layer = case()
    features[:, ::2] = 1e-40
    features[:, 1] = 1.0
    check(backend, logits, features, layer)


def test_images_of_different_scales(backend):
    logits, features, layer = case(n=3, kernel=3)
    check(backend, logits, features * torch.tensor([1e-30, 1.0, 1e30])[:, None, None, None], layer, atol=2e-5)


def test_zeros_give_the_floor(backend):
    logits, features, layer = case()
    device = DEVICE[backend]
    found = gradients.gradient_norms(logits.to(device), torch.zeros_like(features).to(device), layer)
    assert (found == LOG2_FLOOR).all()


def test_empty_batch_takes_plain_torch(backend):
    logits, features, layer = case(n=2)
    assert sums_of(logits[:0], features[:0]) is None
    assert gradients.gradient_norms(logits[:0], features[:0], layer).shape == (0, 10, 9, 13)


@pytest.mark.parametrize("backend", ["cpu", "llvm"], indirect=True)  # on CUDA float64 takes plain torch
def test_large_p_beside_small_ones_in_float64(backend):
    logits, features, layer = case()
    found, scores = gradients.norms_and_softmax(HeadOutput(logits, features, layer), wanted((0.5, 8.0, 20.0)), ("msp",))
    expected = reference(logits, features, layer, (0.5, 8.0, 20.0))
    torch.testing.assert_close(found.double(), expected, rtol=1e-6, atol=1e-5)
    msp = softmax_request("msp")
    torch.testing.assert_close(scores["msp"].double(), softmax_formulas(logits.double(), (msp,))[msp])


@pytest.mark.parametrize("backend", ["cpu", "llvm"], indirect=True)
@pytest.mark.parametrize("threads", [1, 2])
def test_threads_change_nothing(backend, threads):
    logits, features, layer = case(19, 40, (120, 160))
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        check(backend, logits, features, layer, ps=(0.5, 1.0, 2.0))
    finally:
        torch.set_num_threads(before)


@pytest.mark.slow
def test_memory_beside_the_result_is_small():
    """Buffers and sums, once they exist, take no more than twice the result."""
    code = """
import resource, torch
from torch import nn
from gradunc_viz.scores.gradients import gradient_norms
torch.set_num_threads(1)
layer, logits, features = nn.Conv2d(64, 19, 1), torch.randn(1, 19, 512, 512), torch.randn(1, 64, 512, 512)
gradient_norms(logits[:, :, :8], features[:, :, :8], layer)
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
found = gradient_norms(logits, features, layer)
print((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) * 1024 / found.nbytes)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert float(done.stdout) < 3  # the result itself, and at most twice as much


@pytest.mark.slow
@pytest.mark.skipif(not HAS_TRITON, reason="triton is not installed")
@pytest.mark.parametrize("dtype", ["fp16", "bf16", "fp32"])
def test_triton_compiles_for_a_gpu_that_is_not_there(dtype):
    """Down to the machine code of compute capability 9.0; in a process of its own, where nothing is interpreted."""
    code = f"""
import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource
from gradunc_viz.kernels import cuda as kernels
ps = (0.1, 0.3, 0.5, 0.7, 1.0, 2.0)
requests = tuple((label, exact, p, k) for label in range(3) for exact in (True, False) for k, p in enumerate(ps))
requests += tuple((label, True, p, -1) for label in range(3) for p in ps) + ((-1, True, 0.5, 2),)
constants = {{
    "_feature_kernel": dict(ps=ps, count=6, rows=8, block_channels=32, block_pixels=128),
    "_label_kernel": dict(requests=requests, n_requests=55, floor=-149.0, with_scores=True, with_label=True,
                          block_classes=32, block_pixels=128),
}}
pointers = {{"features": "{dtype}", "logits": "{dtype}", "label": "i64", "prediction": "i64"}}
pointers |= dict.fromkeys(("sums", "exponents", "log2_scale", "norms", "scores"), "fp32")
for name, fixed in constants.items():
    kernel = getattr(kernels, name)
    kinds = {{a: "*" + pointers[a] if a in pointers else "i32" for a in kernel.arg_names}}
    kinds |= dict.fromkeys(fixed, "constexpr")
    places = {{(kernel.arg_names.index(a),): value for a, value in fixed.items()}}
    built = triton.compile(ASTSource(kernel, kinds, constexprs=places), target=GPUTarget("cuda", 90, 32))
    print(len(built.asm["cubin"]))
"""
    environment = {key: value for key, value in os.environ.items() if key != "TRITON_INTERPRET"}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    assert all(int(size) > 1000 for size in done.stdout.split())


@pytest.mark.parametrize("size", [(63, 65), (64, 64)], ids=["odd", "whole"])
def test_slabs_and_tiles_change_nothing(backend, size, monkeypatch):
    """Several slabs of several tiles for each image, the last one with and without filling."""
    if backend == "triton":
        size = (size[0] // 3, size[1] // 4)  # a tile is 128 pixels
    if backend == "llvm":
        monkeypatch.setattr(importlib.import_module("gradunc_viz.kernels.llvm.rows"), "_SLAB", 19 * 1200)
    logits, features, layer = case(19, 21, size, n=2)
    check(backend, logits, features, layer)
    check(backend, logits, features.mT.contiguous().mT * torch.tensor([1.0, 1e-30])[:, None, None, None], layer)


@pytest.mark.parametrize("number", [math.inf, -math.inf, math.nan])
def test_what_is_not_finite_is_not_made_so(number):
    llvm = pytest.importorskip("gradunc_viz.kernels.llvm.norms")
    logits, features, _ = case()
    features[0, 3, :2] = logits[0, 4, 2:4] = number
    found = []
    for module in (llvm, gradients_cpu):
        _, sums = module.feature_sums(features, PS, torch.float32)
        names = [softmax_request(name) for name in ("msp", "entropy", "margin", "energy", "entropy_T2", "gini")]
        found.append((sums, *module.label_pass(logits, wanted(), sums, PS, torch.zeros(1), names, torch.float32)))
    (sums, norms, scores), (other_sums, other_norms, other_scores) = found
    torch.testing.assert_close(sums, other_sums, rtol=1e-5, atol=0, equal_nan=True)
    assert torch.equal(norms.isfinite(), other_norms.isfinite())
    assert torch.equal(norms.isnan(), other_norms.isnan())
    for name, score in scores.items():
        torch.testing.assert_close(score, other_scores[name], rtol=1e-5, atol=2e-6, equal_nan=True)


# --------------------------------------------------------------------------------------------------------------------
# which kernels are used


@pytest.fixture
def chosen_anew(monkeypatch):
    """Kernels of a CPU are chosen when they are first needed; here once more."""
    monkeypatch.delenv("GRADUNC_KERNELS", raising=False)
    kernels._kernels.cache_clear()
    yield lambda: sums_of(torch.ones(1, 3, 4, 4))
    kernels._kernels.cache_clear()


def test_compiled_kernels_where_llvmlite_is(chosen_anew):
    pytest.importorskip("llvmlite")
    assert chosen_anew().__name__ == "gradunc_viz.kernels.llvm.norms"


def test_torch_where_llvmlite_is_not(chosen_anew, monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    assert chosen_anew() is gradients_cpu


def test_torch_where_it_is_asked_for(chosen_anew, monkeypatch):
    monkeypatch.setenv("GRADUNC_KERNELS", "torch")
    assert chosen_anew() is gradients_cpu


def test_torch_where_compiling_fails(chosen_anew, monkeypatch):
    vector_code = pytest.importorskip("gradunc_viz.kernels.llvm.code")

    def fail(code):
        raise OSError("no memory may be executed")

    monkeypatch.setattr(vector_code.Code, "compiled", fail)
    with pytest.warns(UserWarning, match="no memory may be executed"):
        assert chosen_anew() is gradients_cpu


def test_torch_where_compiled_code_is_wrong(chosen_anew, monkeypatch):
    vector_code = pytest.importorskip("gradunc_viz.kernels.llvm.code")
    monkeypatch.setattr(vector_code, "exp2", lambda x: x)
    with pytest.warns(UserWarning, match="wrong numbers"):
        assert chosen_anew() is gradients_cpu


def test_plain_torch_where_operations_are_recorded_or_differentiated(monkeypatch):
    use(monkeypatch, gradients_cpu)
    x = torch.randn(1, 3, 4, 4)
    assert sums_of(x) is gradients_cpu
    assert sums_of(x.clone().requires_grad_()) is None
    with torch.no_grad():
        assert sums_of(x.clone().requires_grad_()) is gradients_cpu
    assert sums_of(x.to("meta")) is None
    assert sums_of(x.to(torch.int64)) is None
    seen = []
    torch.vmap(lambda row: seen.append(sums_of(row)) or row)(x)
    assert seen == [None]


def test_gradients_pass_through_plain_torch():
    logits, features, layer = case()
    features.requires_grad_()
    gradients.gradient_norms(logits, features + 0.1, layer, p=1).sum().backward()
    assert features.grad is not None
    assert features.grad.isfinite().all()


# --------------------------------------------------------------------------------------------------------------------
# powers from powers


@pytest.mark.parametrize("given", [False, True])
@pytest.mark.parametrize("ps", [PAPER_NORMS, (0.5,), (0.5, 1.0, 2.0), (0.7, 1.3), (2.0,), (0.1, 0.4, 3.0), (8.0, 20.0)])
def test_plan_makes_every_power(ps, given):
    x, made = 1.7, []
    for step in power_plan(tuple(ps), given):
        if step.kind == "given":
            made.append(x)
        elif step.kind == "exponential":
            made.append(x**step.p)
        elif step.kind == "root":
            made.append(math.sqrt(made[step.factors[0]]))
        else:
            made.append(made[step.factors[0]] * made[step.factors[1]])
        assert made[-1] == pytest.approx(x**step.p)
    assert {step.p for step in power_plan(tuple(ps), given) if step.wanted} == set(ps)


def test_norms_of_the_paper_take_one_exponential():
    assert [step.kind for step in power_plan(PAPER_NORMS, False)].count("exponential") == 1
    assert [step.kind for step in power_plan(PAPER_NORMS, True)].count("exponential") == 1
