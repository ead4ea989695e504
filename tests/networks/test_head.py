"""Finding the head in networks of every shape, and leaving nothing behind."""

from __future__ import annotations

import dataclasses
import gc
import weakref
from collections import OrderedDict, namedtuple
from collections.abc import Callable, Iterator

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.overrides import _get_current_function_mode_stack

from gradunc_viz.networks.head import follow
from gradunc_viz.networks.network import Network
from gradunc_viz.networks.outputs import logits_of
from gradunc_viz.networks.tracing import capture
from gradunc_viz.schema.errors import HeadError, ModelError

CLASSES = 5


def up(t: Tensor, size: tuple[int, int] = (16, 24), **options: object) -> Tensor:
    return F.interpolate(t, size=size, mode="bilinear", **options)


class Net(nn.Module):
    """A backbone with norm, in-place activation and residual sum; `tail` makes its output of the features."""

    def __init__(self, tail: Callable[[Net, Tensor], object], **layers: nn.Module) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, 8, 3, 2, 1), nn.BatchNorm2d(8), nn.ReLU(inplace=True))
        self.block = nn.Sequential(nn.Conv2d(8, 8, 3, padding=1), nn.BatchNorm2d(8))
        for name, layer in layers.items():
            self.add_module(name, layer)
        self.tail = tail
        self.eval()

    def forward(self, x: Tensor) -> object:
        x = self.stem(x)
        return self.tail(self, torch.relu(x + self.block(x)))


def head(**options: object) -> nn.Conv2d:
    return nn.Conv2d(8, CLASSES, 1, **options)


class Tokens(nn.Module):
    """A small ViT: patch embedding, class token, attention, linear head on tokens."""

    def __init__(self, cls: bool = True, arrange: Callable[[Tensor, int, int], Tensor] | None = None) -> None:
        super().__init__()
        self.embed = nn.Conv2d(3, 12, 4, 4)
        self.cls = nn.Parameter(torch.randn(1, 1, 12)) if cls else None
        self.qkv, self.head = nn.Linear(12, 36), nn.Linear(12, CLASSES)
        self.arrange = arrange or (lambda t, h, w: t.permute(0, 2, 1).reshape(len(t), -1, h, w))

    def forward(self, x: Tensor) -> Tensor:
        maps = self.embed(x)
        h, w = maps.shape[-2:]
        tokens = maps.flatten(2).transpose(1, 2)
        if self.cls is not None:
            tokens = torch.cat([self.cls.expand(len(x), -1, -1), tokens], dim=1)
        q, k, v = self.qkv(tokens).chunk(3, dim=-1)
        tokens = self.head(tokens + F.scaled_dot_product_attention(q, k, v))
        if self.cls is not None:
            tokens = tokens[:, 1:]
        return F.interpolate(self.arrange(tokens, h, w), size=x.shape[-2:], mode="bilinear", align_corners=False)


Pair = namedtuple("Pair", ["logits", "aux"])
Plain = namedtuple("Plain", ["first", "second"])


@dataclasses.dataclass
class Output:
    logits: Tensor
    loss: None = None


@pytest.fixture(autouse=True)
def _no_mode_left() -> Iterator[None]:
    yield
    assert not _get_current_function_mode_stack()


@pytest.fixture
def x() -> Tensor:
    return torch.randn(2, 3, 16, 24, generator=torch.Generator().manual_seed(1))


def hooks(net: nn.Module) -> int:
    return sum(
        len(m._forward_hooks) + len(m._forward_pre_hooks) + len(m._forward_hooks_with_kwargs) for m in net.modules()
    )


ZOO: dict[str, Callable[[], nn.Module]] = {
    "conv": lambda: Net(lambda s, z: s.head(z), head=head()),
    "upsampled": lambda: Net(lambda s, z: up(s.head(z)), head=head()),
    "keyword": lambda: Net(lambda s, z: F.interpolate(input=s.head(z), scale_factor=2, mode="bilinear"), head=head()),
    "upsample layer": lambda: Net(
        lambda s, z: s.up(s.head(z)), head=head(), up=nn.Upsample(scale_factor=2, mode="bilinear")
    ),
    "dilated": lambda: Net(lambda s, z: up(s.head(z)), head=nn.Conv2d(8, CLASSES, 3, padding=2, dilation=2)),
    "transposed": lambda: Net(lambda s, z: s.head(z), head=nn.ConvTranspose2d(8, CLASSES, 2, 2)),
    "aux dict": lambda: Net(lambda s, z: OrderedDict(out=up(s.head(z)), aux=up(s.aux(z))), head=head(), aux=head()),
    "logits dict": lambda: Net(lambda s, z: {"loss": None, "logits": s.head(z)}, head=head()),
    "single dict": lambda: Net(lambda s, z: {"loss": z.sum(), "sem_seg": s.head(z)}, head=head()),
    "tuple": lambda: Net(lambda s, z: (z.mean(), s.head(z)), head=head()),
    "list": lambda: Net(lambda s, z: [s.head(z)], head=head()),
    "dataclass": lambda: Net(lambda s, z: Output(s.head(z)), head=head()),
    "namedtuple": lambda: Net(lambda s, z: Pair(aux=s.aux(z), logits=s.head(z)), head=head(), aux=head()),
    "plain namedtuple": lambda: Net(lambda s, z: Plain(s.head(z), z.mean()), head=head()),
    "dropout after": lambda: Net(lambda s, z: up(s.drop(s.head(z))), head=head(), drop=nn.Dropout2d(inplace=True)),
    "cast": lambda: Net(lambda s, z: up(s.head(z).float()).contiguous(), head=head()),
    "there and back": lambda: Net(
        lambda s, z: s.head(z).permute(0, 2, 3, 1).flatten(1, 2).mT.unflatten(2, z.shape[-2:]), head=head()
    ),
    "squeezed": lambda: Net(lambda s, z: s.head(z)[:, None].squeeze(1).detach(), head=head()),
    "channels last linear": lambda: Net(
        lambda s, z: up(s.head(z.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)), head=nn.Linear(8, CLASSES)
    ),
    "flat linear": lambda: Net(
        lambda s, z: s.head(z.movedim(1, 3).reshape(-1, 8)).view(2, 8, 12, -1).movedim(3, 1),
        head=nn.Linear(8, CLASSES),
    ),
    "shared": lambda: Net(lambda s, z: {"aux": s.head(z * 2), "out": up(s.head(z))}, head=head()),
    "shared, other order": lambda: Net(lambda s, z: {"out": up(s.head(z)), "aux": s.head(z * 2)}, head=head()),
    "tokens": Tokens,
    "tokens without class": lambda: Tokens(cls=False),
    "tokens, view": lambda: Tokens(arrange=lambda t, h, w: t.view(len(t), h, w, -1).permute(0, 3, 1, 2)),
    "one layer": lambda: nn.Conv2d(3, CLASSES, 1),
}


@pytest.mark.parametrize("grad", [True, False, None], ids=["grad", "no_grad", "inference"])
@pytest.mark.parametrize("name", ZOO)
def test_the_head_is_found(name: str, grad: bool | None, x: Tensor) -> None:
    net = ZOO[name]().eval()
    mode = torch.inference_mode() if grad is None else torch.set_grad_enabled(grad)
    with mode, capture(net) as found:
        output = logits_of(net(x))
    assert found.name == ("" if name == "one layer" else "head")
    assert found.layer is net.get_submodule(found.name)
    assert found.logits.ndim == found.features.ndim == 4
    assert found.logits.shape[:2] == (2, CLASSES)
    # The layer, run once more on the features alone, gives the logits at each place.
    with torch.no_grad():
        if isinstance(found.layer, nn.Linear):
            again = found.layer(found.features.movedim(1, -1)).movedim(-1, 1)
        else:
            again = found.layer(found.features)
    torch.testing.assert_close(again, found.logits)
    with torch.no_grad():
        torch.testing.assert_close(output, logits_of(net(x)))
    assert hooks(net) == 0
    # And so does the short way, planned by the search.
    with torch.no_grad(), follow(found.plan) as short:
        net(x)
    torch.testing.assert_close(short.logits, found.logits)
    torch.testing.assert_close(short.features, found.features)
    assert hooks(net) == 0


@pytest.mark.parametrize("name", ["tokens", "tokens without class", "tokens, view", "channels last linear"])
def test_rows_of_a_linear_head_lie_where_the_network_puts_them(name: str, x: Tensor) -> None:
    net = ZOO[name]().eval()
    with torch.no_grad(), capture(net) as found:
        output = net(x)
    torch.testing.assert_close(
        F.interpolate(found.logits, size=output.shape[-2:], mode="bilinear", align_corners=False), output
    )


def test_align_corners_is_noticed(x: Tensor) -> None:
    for corners in (True, False):
        net = Net(lambda s, z, c=corners: up(s.head(z), align_corners=c), head=head())
        with capture(net) as found:
            net(x)
        assert found.align_corners is corners


def summed() -> nn.Module:
    return Net(lambda s, z: up(s.low(z)) + up(s.high(z)), low=head(), high=head())


REFUSED: dict[str, tuple[Callable[[], nn.Module], str]] = {
    "each class for itself": (
        lambda: Net(lambda s, z: s.head(z).sigmoid(), head=head()),
        "sigmoid of 5 channels, each class for itself",
    ),
    "depends on": (
        lambda: Net(lambda s, z: s.head(z) + s.deep(s.head(z)), head=head(), deep=nn.Conv2d(CLASSES, CLASSES, 1)),
        r"by 'add', of the output of 'deep' .*'head' .*head='deep'",
    ),
    "mixes places": (
        lambda: Net(lambda s, z: F.max_pool2d(s.head(z), 3, 1, 1), head=head()),
        "output of 'head' cannot be repeated .* 'max_pool2d', it does not act on each pixel by itself",
    ),
    "in place through a view": (lambda: Net(lambda s, z: _scale_view(s.head(z)), head=head()), "'mul'.*in place"),
    "features overwritten": (
        lambda: Net(lambda s, z: _relu_after(s, z), head=head()),
        "overwritten in place by 'mul_'",
    ),
    "scrambled": (
        lambda: Net(lambda s, z: s.head(z).permute(0, 2, 3, 1).reshape(2, CLASSES, 8, 12), head=head()),
        "mixed up by permute, reshape",
    ),
    "no convolution": (
        lambda: nn.Sequential(nn.ReLU(), nn.Sigmoid()),
        "no convolution or linear layer in Sequential",
    ),
    "unused convolution": (lambda: _Unused(), "none of the 1 layers"),
    "input returned": (
        lambda: Net(lambda s, z: torch.ones(2, CLASSES, 4, 4), head=head()),
        "could not be traced",
    ),
}


def _scale_view(t: Tensor) -> Tensor:
    t[:, 1].mul_(3)
    return t


def _relu_after(net: Net, z: Tensor) -> Tensor:
    logits = net.head(z)
    z.mul_(0)
    return logits


class _Unused(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 3, 1)

    def forward(self, x: Tensor) -> Tensor:
        return x * 2


@pytest.mark.parametrize("inference", [False, True])
@pytest.mark.parametrize("name", REFUSED)
def test_what_is_no_head_is_refused(name: str, inference: bool, x: Tensor) -> None:
    make, text = REFUSED[name]
    net = make()
    with (
        torch.inference_mode(inference),
        torch.no_grad(),
        pytest.raises(HeadError, match=text),
        capture(net) as found,
    ):
        net(x)
    assert hooks(net) == 0
    assert "\n" not in text
    with pytest.raises(ModelError, match="no logits captured"):
        _ = found.logits


def test_a_named_head_settles_it(x: Tensor) -> None:
    net = summed()
    for given in ("high", net.high):
        with torch.no_grad(), capture(net, head=given) as found:
            output = net(x)
        assert found.layer is net.high
        assert [source.name for source in found.tail.sources] == ["high"]
        torch.testing.assert_close(found.tail.sources[0].output, net.high(found.features))
        torch.testing.assert_close(found.logits, output)
    with torch.no_grad(), capture(net, head="high", plan=found.plan) as again:
        net(x)
    assert torch.equal(again.logits, found.logits)


def test_all_branches_of_a_sum_are_heads(x: Tensor) -> None:
    net = summed()
    with torch.no_grad(), capture(net) as found:
        output = net(x)
    assert found.name == "low + high"
    torch.testing.assert_close(found.tail.moved_logits(), output)


@pytest.mark.parametrize("name", ["upsampled", "tokens", "shared"])
def test_naming_the_head_that_would_be_found_changes_nothing(name: str, x: Tensor) -> None:
    net = ZOO[name]().eval()
    with torch.no_grad(), capture(net) as found:
        net(x)
    with torch.no_grad(), capture(net, head="head") as named:
        net(x)
    assert torch.equal(named.logits, found.logits)
    assert torch.equal(named.features, found.features)


@pytest.mark.parametrize(
    ("name", "given", "text"),
    [
        ("aux dict", "nothing", "'nothing' is no layer of Net; the last candidates are .*'head', 'aux'"),
        ("aux dict", nn.Conv2d(1, 1, 1), "the given Conv2d is no layer"),
        ("aux dict", "stem", "'stem' is a Sequential: expected Conv2d, ConvTranspose2d or Linear"),
        ("aux dict", "stem.1", "'stem.1' is a BatchNorm2d"),
    ],
)
def test_a_wrong_name_is_refused_at_once(name: str, given: str | nn.Module, text: str) -> None:
    net = ZOO[name]()
    with pytest.raises(HeadError, match=text), capture(net, head=given):
        pytest.fail("entered")
    assert hooks(net) == 0


@pytest.mark.parametrize(
    ("make", "given", "text"),
    [
        (lambda: Net(lambda s, z: s.head(z), head=head(), idle=head()), "idle", "'idle' did not run"),
        (ZOO["conv"], "stem.0", "output of 'stem.0' cannot be repeated .* 'conv2d'"),
        (ZOO["tokens"], "qkv", "output of 'qkv' cannot be repeated .* 'scaled_dot_product_attention'"),
    ],
)
def test_a_named_layer_that_cannot_be_the_head(make: Callable, given: str, text: str, x: Tensor) -> None:
    net = make()
    with pytest.raises(HeadError, match=text), capture(net, head=given):
        net(x)
    assert hooks(net) == 0


@pytest.mark.parametrize(
    ("output", "text"),
    [
        (torch.ones(2, 5), r"shape \(2, 5\)"),
        (torch.ones(2, 0, 4, 4), r"shape \(2, 0, 4, 4\)"),
        (torch.ones(2, 5, 4, 4, dtype=torch.int64), "torch.int64"),
        ({"a": torch.ones(2, 5, 4, 4), "b": torch.ones(2, 5, 4, 4)}, r"2 maps, 'a' \(2, 5, 4, 4\), 'b' .*output='a'"),
        ((torch.ones(2, 5, 4, 4), torch.ones(2, 5, 4, 4)), r"2 maps, '0' .*--output 0"),
        ({"masks_queries_logits": torch.ones(2, 5, 4, 4)}, r"'masks_queries_logits' .* without 'class_queries_logits'"),
        ((1, None), r"tuple with \['0', '1'\]"),
        (None, "NoneType"),
    ],
)
def test_outputs_without_logits(output: object, text: str) -> None:
    with pytest.raises(ModelError, match=text):
        logits_of(output)


def test_a_classifier_is_refused(x: Tensor) -> None:
    net = Net(lambda s, z: s.head(z.mean((2, 3))), head=nn.Linear(8, CLASSES))
    with pytest.raises(ModelError, match=r"shape \(2, 5\)"), capture(net):
        net(x)
    assert hooks(net) == 0


def test_errors_of_the_network_and_of_the_body_pass_through(x: Tensor) -> None:
    net = Net(lambda s, z: s.head(z) / 0 if z is None else 1 / 0, head=head())
    with pytest.raises(ZeroDivisionError), capture(net) as found:
        net(x)
    assert hooks(net) == 0
    with pytest.raises(KeyError, match="mine"), capture(net):
        raise KeyError("mine")
    assert hooks(net) == 0
    with pytest.raises(ModelError, match="no features captured: run the network inside"):
        _ = found.features
    with pytest.raises(AttributeError):
        _ = found.nonsense


def test_the_last_forward_pass_counts(x: Tensor) -> None:
    net = ZOO["upsampled"]()
    with torch.no_grad(), capture(net) as found:
        net(x)
        first = weakref.ref(found.features)
        net(x[:1])
    assert len(found.logits) == 1
    gc.collect()
    assert first() is None


def test_a_plan_that_no_longer_holds_is_refused(x: Tensor) -> None:
    net = ZOO["upsampled"]()
    with torch.no_grad(), capture(net) as found:
        net(x)
    with pytest.raises(HeadError, match="'head' ran 2 times, but 1 times"), follow(found.plan):
        _ = net(x), net(x)


def test_a_network_may_do_another_thing_on_every_image(x: Tensor) -> None:
    """Also where the first image needs no more than a hook."""

    class Moody(Net):
        def forward(self, x: Tensor) -> Tensor:
            logits = up(super().forward(x))
            return logits.flip(3) if x.mean() > 0.5 else logits

    net = Network(Moody(lambda s, z: s.head(z), head=head()))
    dark = x.sigmoid() * 0.5
    for image, flipped in ((dark, False), (dark, False), (dark + 0.5, True), (dark, False), (dark + 0.5, True)):
        found = net.infer(image)
        assert (found.tail is not None) is flipped
        logits = found.logits if flipped else up(found.logits)
        torch.testing.assert_close(logits, net(image))


def test_a_branch_may_be_added_on_some_images(x: Tensor) -> None:
    class Moody(Net):
        def forward(self, x: Tensor) -> Tensor:
            logits = super().forward(x) / 2
            return logits + self.aux(self.stem(x)) if x.mean() > 0.5 else logits

    net = Network(Moody(lambda s, z: s.head(z), head=head(), aux=head()))
    dark = x.sigmoid() * 0.5
    for image, name in ((dark, "head"), (dark, "head"), (dark + 0.5, "head + aux"), (dark, "head")):
        found = net.infer(image)
        assert found.name == name
        torch.testing.assert_close(found.tail.moved_logits(), net(image))


@pytest.mark.parametrize("name", ["upsampled", "tokens"])
def test_autocast(name: str, x: Tensor) -> None:
    net = ZOO[name]().eval()
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16), capture(net) as found:
        net(x)
    assert found.name == "head"
    assert found.logits.dtype == torch.bfloat16


def test_training_dropout_ends_the_trail(x: Tensor) -> None:
    net = ZOO["dropout after"]().train()
    with pytest.raises(HeadError, match="dropout"), capture(net):
        net(x)


def test_hooks_of_the_user_stay_and_are_seen(x: Tensor) -> None:
    net = ZOO["conv"]()
    handle = net.head.register_forward_hook(lambda module, args, output: output * 2)
    with capture(net) as found:
        output = net(x)
    torch.testing.assert_close(found.logits, output)
    torch.testing.assert_close(found.tail.sources[0].output * 2, output)
    assert len(net.head._forward_hooks) == 1
    handle.remove()


def test_only_the_head_is_kept(x: Tensor) -> None:
    seen: dict[str, list[weakref.ref]] = {"in": [], "out": []}
    alive: list[int] = []

    def note(module: nn.Module, args: tuple[Tensor], output: Tensor) -> None:
        seen["in"].append(weakref.ref(args[0]))
        seen["out"].append(weakref.ref(output))
        alive.append(sum(ref() is not None for ref in seen["out"]))

    def tail(net: nn.Module, z: Tensor) -> Tensor:
        for layer in net.deep:
            z = torch.tanh(layer(z))
        return up(net.head(z))

    net = Net(tail, head=head(), deep=nn.Sequential(*(nn.Conv2d(8, 8, 3, padding=1) for _ in range(10))))
    for layer in [*net.deep, net.head]:
        layer.register_forward_hook(note)
    gc.disable()  # nothing may wait for the collector: a cycle would hold a frame's features
    try:
        with torch.no_grad(), capture(net) as found:
            output = net(x)
        assert max(alive) == 1  # inner outputs were gone before the next layer ran
        # the second pass, which follows the head; of its output a copy is kept, as the network may overwrite it
        assert sum(ref() is not None for ref in seen["out"]) == 0
        assert [ref() is not None for ref in seen["in"]] == [False] * 21 + [True]
        final = weakref.ref(output)
        del output
        assert final() is None
        del found
        assert seen["in"][-1]() is None
    finally:
        gc.enable()
