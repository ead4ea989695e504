"""The forward pass of a run: compiled, channels last, in half precision."""

from __future__ import annotations

import contextlib
import shutil
from contextlib import nullcontext

import numpy as np
import pytest
import torch
from tiny import SCORES, TinyNet
from torch import nn

import gradunc_viz as gv
from gradunc_viz.cli.main import main as cli
from gradunc_viz.deploy.stream import stream
from gradunc_viz.networks.runner import Inference, restored
from gradunc_viz.run.compute import compute_report
from gradunc_viz.run.stages import STAGES, Stages
from gradunc_viz.schema.errors import CacheMismatchError

CPU = torch.device("cpu")


def run(net, folder, out, **options):
    return gv.compute(net, gv.open_frames(folder), out, scores=SCORES, progress=False, **options)


def test_channels_last_reaches_the_network_and_keeps_the_numbers(tiny_net, tiny_set, tiny_cache, tmp_path):
    seen = []
    kernels = [parameter for parameter in tiny_net.parameters() if parameter.dim() == 4]

    def look(_, args):
        seen.extend(one.is_contiguous(memory_format=torch.channels_last) for one in (*args, *kernels))

    tiny_net.register_forward_pre_hook(look)
    before = state_of(tiny_net)
    cache = run(tiny_net, tiny_set, tmp_path / "c", channels_last=True)
    assert len(seen) == 6 * 3  # five frames, and once more where the head is searched
    assert all(seen)
    assert state_of(tiny_net) == before
    assert cache.key == tiny_cache.key
    for frame_id in cache.ids:
        difference = cache[frame_id]["head_score"] - tiny_cache[frame_id]["head_score"]
        assert float(abs(difference).max()) <= 2.0**-9


def test_autocast_belongs_to_the_key(tiny_net, tiny_set, tmp_path):
    cache = run(tiny_net, tiny_set, tmp_path / "c", autocast="bf16")
    assert cache.key["settings"]["autocast"] == "bf16"
    with pytest.raises(CacheMismatchError, match=r"settings\.autocast was bf16, now None"):
        run(tiny_net, tiny_set, tmp_path / "c")


@pytest.mark.parametrize(("name", "dtype"), [("bf16", torch.bfloat16), ("fp16", torch.float16)])
def test_autocast_lets_layers_run_in_half_precision(tiny_net, name, dtype):
    slow = pytest.warns(UserWarning, match="several times slower .* on a CPU") if name == "fp16" else nullcontext()
    with slow:
        inference = Inference(gv.load_model(tiny_net), CPU, autocast=name)
    assert inference(torch.rand(1, 3, 16, 16), "it").logits.dtype == dtype


def test_an_unknown_precision_is_refused(tiny_net, tiny_set, tmp_path):
    with pytest.raises(ValueError, match="autocast is 'int8'; expected one of bf16, fp16"):
        run(tiny_net, tiny_set, tmp_path / "c", autocast="int8")
    assert not (tmp_path / "c").exists()


@pytest.mark.slow
@pytest.mark.skipif(not any(map(shutil.which, ("g++", "clang++", "c++"))), reason="torch.compile needs a C++ compiler")
@pytest.mark.filterwarnings(
    "ignore:.*script_method.*:DeprecationWarning"
)  # torch's own, where inductor is first loaded
def test_a_compiled_network_gives_the_same_head(tiny_net):
    torch.compiler.reset()
    network, x = gv.load_model(tiny_net), torch.rand(2, 3, 24, 32)
    inference = Inference(network, CPU, compile=True)
    plain, compiled = inference(x, "it"), inference(x, "it")
    assert inference.compile
    for name in ("logits", "features"):
        torch.testing.assert_close(getattr(compiled, name).clone(), getattr(plain, name).clone(), atol=1e-5, rtol=1e-5)
    assert (compiled.layer, compiled.name, compiled.align_corners) == (plain.layer, plain.name, plain.align_corners)


def test_without_a_compiler_the_run_goes_on(tiny_net, tiny_set, tiny_cache, tmp_path, monkeypatch):
    class InvalidCxxCompiler(RuntimeError):
        """As torch names it."""

    InvalidCxxCompiler.__module__ = "torch._inductor.exc"

    def fail(_net):
        def run(_x):
            raise InvalidCxxCompiler("InvalidCxxCompiler: No working C++ compiler found in ...")

        return run

    monkeypatch.setattr(torch, "compile", fail)
    with pytest.warns(UserWarning, match=r"without torch\.compile: it needs a C\+\+ compiler .* install g\+\+"):
        cache = run(tiny_net, tiny_set, tmp_path / "c", compile=True)
    assert cache.ids == tiny_cache.ids


@pytest.mark.parametrize("threads", [1, 1024])
def test_every_stage_is_timed(tiny_net, tiny_set, tmp_path, monkeypatch, threads):
    """With all cores taken by the network the calling thread counts, with one left another thread does."""
    monkeypatch.setattr(torch, "get_num_threads", lambda: threads)
    monkeypatch.setattr(torch, "set_num_threads", lambda _: None)
    monkeypatch.setattr("gradunc_viz.run.pipeline._cores", lambda: 8)
    report = compute_report(tiny_net, gv.open_frames(tiny_set), tmp_path / "c", scores=SCORES, progress=False)
    assert set(report.stages) == set(STAGES)
    assert report.computed == [frame.id for frame in gv.open_frames(tiny_set)]
    for name in ("decode", "prepare", "forward", "score", "count", "encode", "write"):
        assert report.stages[name].calls == 4
        assert 0 < report.stages[name].seconds < 4 * report.seconds


def test_stages_settle_before_they_stop():
    settled = []
    stages = Stages(lambda: settled.append(1))
    with pytest.raises(KeyError), stages("score"):
        raise KeyError
    with stages("score"):
        pass
    assert stages["score"].calls == 2
    assert settled == [1]


def test_threads_of_torch_are_as_before(tiny_net, tiny_set, tmp_path):
    before = torch.get_num_threads()
    run(tiny_net, tiny_set, tmp_path / "c")
    assert torch.get_num_threads() == before


def test_the_profile_is_printed(tiny_set, tmp_path, capsys):
    arguments = ["compute", "--model", "demo", "--data", str(tiny_set), "--out", str(tmp_path / "c"), "--quiet"]
    assert cli([*arguments, "--device", "cpu", "--limit", "2", "--input-size", "64x96", "--profile"]) == 0
    out = capsys.readouterr().out
    assert "share of the run" in out
    assert all(name in out for name in STAGES)


# ----------------------------------------------------------------------------------------------------------
# what a network keeps, and what it gives back


class Tokens(nn.Module):
    """A linear head: where its rows lie is one integer for each."""

    def __init__(self) -> None:
        super().__init__()
        self.head = nn.Linear(3, 4)

    def forward(self, x):
        return self.head(x.flatten(2).transpose(1, 2)).transpose(1, 2).reshape(x.shape[0], 4, *x.shape[2:])


@pytest.mark.parametrize("net", [TinyNet, Tokens])
def test_plans_of_few_shapes_are_kept(net):
    network = gv.load_model(net().eval())
    inference = Inference(network, CPU)
    first = inference(torch.rand(1, 3, 8, 8), "it").logits
    for size in range(8, 60):
        inference(torch.rand(1, 3, 8, size), "it")
    assert len(network.plans) == network.plans.maxsize < 20
    assert (1, 3, 8, 59) in network.plans
    assert inference(torch.rand(1, 3, 8, 8), "it").logits.shape == first.shape


def state_of(net: nn.Module):
    tensors = net.state_dict(keep_vars=True)
    return (
        {name: (id(t), t.data_ptr(), t.stride(), t.dtype, t.device) for name, t in tensors.items()},
        {name: None if p.grad is None else (id(p.grad), p.grad.data_ptr()) for name, p in net.named_parameters()},
        [module.training for module in net.modules()],
    )


@pytest.fixture
def mixed_net() -> nn.Module:
    """A buffer, a weight that two layers share, a gradient, and modules in different modes."""
    net = nn.Sequential(nn.Conv2d(3, 3, 3, padding=1), nn.BatchNorm2d(3), nn.Conv2d(3, 3, 3, padding=1), TinyNet())
    net[2].weight = net[0].weight
    net[1].eval()
    net[0].weight.grad = torch.ones_like(net[0].weight)
    return net


@pytest.mark.parametrize(
    "change",
    [
        lambda net: net.to("meta"),  # another device, which every machine has
        lambda net: net.to(memory_format=torch.channels_last),
        lambda net: net.half(),
        lambda net: net.eval(),
        lambda net: Inference(gv.load_model(net), CPU, channels_last=True),
    ],
    ids=["device", "memory format", "type", "mode", "inference"],
)
@pytest.mark.parametrize("fails", [False, True])
def test_a_network_is_given_back_as_it_was(mixed_net, change, fails):
    before = state_of(mixed_net)
    with contextlib.suppress(ZeroDivisionError), restored(mixed_net):
        change(mixed_net)
        assert state_of(mixed_net) != before
        if fails:
            raise ZeroDivisionError
    assert state_of(mixed_net) == before
    mixed_net(torch.rand(1, 3, 16, 16)).sum().backward()


class Caching(nn.Module):
    """Keeps what depends on the size only, in a dict and in a buffer, as embeddings of positions do."""

    def __init__(self) -> None:
        super().__init__()
        self.body, self.head, self.kept = nn.Conv2d(3, 8, 3, padding=1), nn.Conv2d(8, 4, 1), {}
        self.register_buffer("shift", None)

    def forward(self, x):
        width = x.shape[-1]
        if width not in self.kept:
            self.kept[width] = torch.linspace(0.5, 1.5, width)
            self.shift = torch.full((width,), 0.5)
        return self.head((self.body(x) + self.shift) * self.kept[width])


def lazy_net() -> nn.Module:
    return nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.ReLU(), nn.LazyConv2d(4, 1))


@pytest.mark.filterwarnings("ignore:Lazy modules:UserWarning")
@pytest.mark.parametrize("make", [Caching, lazy_net])
@pytest.mark.parametrize(
    "score",
    [
        lambda net: gv.load_model(net)(torch.rand(1, 3, 24, 32)),
        lambda net: gv.score_image(net, np.zeros((24, 32, 3), np.uint8), scores=SCORES),
        lambda net: stream(Inference(gv.load_model(net), CPU), [np.zeros((24, 32, 3), np.uint8)] * 3, "msp"),
    ],
    ids=["forward", "score_image", "stream"],
)
def test_training_goes_on_after_scoring(make, score):
    net = make()
    assert "parameters" in repr(gv.load_model(net))
    assert gv.load_model(net).weights_digest()
    score(net)
    net.train()(torch.rand(2, 3, 24, 32)).sum().backward()
    torch.optim.SGD(net.parameters(), 0.1).step()
    assert all(parameter.grad is not None for parameter in net.parameters())


# ----------------------------------------------------------------------------------------------------------
# what a network raises


class Raising(TinyNet):
    """Fails as `fails` says of the input."""

    def __init__(self, fails) -> None:
        super().__init__()
        self.fails = fails

    def forward(self, x):
        self.fails(x)
        return super().forward(x)


def multiple_of_32(x):
    if x.shape[-1] % 32 or x.shape[-2] % 32:
        raise RuntimeError("Sizes of tensors must match:\nexpected 3 but got 4\nin a cat")


def labels_wanted(x):
    raise ValueError("\nlabels are needed\nfor the loss")


def content_wanted(x):
    if x.any():
        raise AssertionError


@pytest.mark.parametrize(
    ("fails", "text"),
    [
        (
            multiple_of_32,
            r"it: the network cannot take an input of 40x33 \(Sizes of tensors must match: expected 3 but got 4\); "
            r"see --input-size, 64x64 would do$",
        ),
        (labels_wanted, r"it: the network failed on an input of 40x33: ValueError: labels are needed$"),
        (content_wanted, r"failed on an input of 40x33: AssertionError in 'raise AssertionError'$"),
    ],
)
def test_an_error_is_told_as_what_it_is(fails, text):
    inference = Inference(gv.load_model(Raising(fails).eval()), CPU)
    for _ in range(2):
        with pytest.raises(gv.GraduncError, match=text):
            inference(torch.rand(1, 3, 40, 33), "it")


@pytest.mark.filterwarnings("ignore:.*jit.*:DeprecationWarning")
def test_torchscript_itself_is_refused():
    net = torch.jit.trace(TinyNet(), torch.rand(1, 3, 8, 8))
    with pytest.raises(gv.GraduncError, match=r"TorchScript, .* expected what gv.load_model makes of it"):
        Inference(gv.Network(net), CPU)
