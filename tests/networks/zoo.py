"""Small networks with awkward ends, and what is right of each.

Every network takes (N, 3, 24, 40) and has one convolution and a tanh for a backbone, so that all there is to it is
how it ends. A specimen says which kernel the gradient is of and where the logits are found in what the network returns;
`test_zoo` then knows from the network itself, through automatic differentiation, what its scores have to be.

A specimen without `refusal` is to be scored. One with a `refusal` may instead end in an error that names what stands in
the way; one of the kind ``"refused"`` has to.
"""

from __future__ import annotations

import dataclasses
import zlib
from collections import OrderedDict, namedtuple
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils import parametrizations, parametrize, prune
from torch.utils.checkpoint import checkpoint

__all__ = ["SIZE", "ZOO", "Padded", "Specimen", "made"]

SIZE = (24, 40)
"""Height and width of the image."""

CLASSES = 4
FEATURES = 6

Map = Callable[[Tensor], Tensor]


def same(y: Tensor) -> Tensor:
    """What it is given."""
    return y


@dataclasses.dataclass(frozen=True)
class Specimen:
    """A network and what is right of it.

    Attributes
    ----------
    kind
        ``"moves"``, ``"values"``, ``"branches"``, ``"outputs"``, ``"sigmoid"``, ``"layers"``, ``"hooks"`` or
        ``"refused"``.
    make
        Makes the network; its weights are seeded by its name, see `made`.
    kernels
        Names of the layers whose kernels the gradient is taken with respect to, all together; more than one entry
        where more than one answer can be defended.
    logits
        From what the network returns to (N, C, h, w) whose softmax the network's probabilities are.
    norms
        ``"autograd"`` where every pixel of the output is computed from one place of the head: the norms are those of
        its own gradient, at every pixel. ``"replayed"`` where pixels are mixed: the norms at the head, moved as the
        logits are, see `value` and `moves`. ``"unchecked"`` where nothing is said of how norms are moved.
    value, moves
        For ``"replayed"``: what is done to the head's output at each place, and how its places are moved then.
    options
        Arguments of `load_model`.
    reference
        The same function with the same weights, where automatic differentiation cannot pass the network itself.
    refusal
        Pattern of an error that is right, too.
    warns
        Whether a warning is in place, such as of probabilities in place of logits.
    tolerance
        Of log2 norms; wider where the network computes in half precision.
    """

    kind: str
    make: Callable[[], nn.Module]
    kernels: tuple[str, ...] = ("head",)
    logits: Callable[[Any], Tensor] = same
    norms: str = "autograd"
    value: Map = same
    moves: Map = same
    options: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    reference: Callable[[], nn.Module] | None = None
    refusal: str = ""
    warns: bool = False
    tolerance: float = 5e-3


class Net(nn.Module):
    """A backbone, and an end that makes the output of its features.

    `layers` are made in the order they are named, the head first.
    """

    def __init__(
        self, end: Callable[[Any, Tensor], Any], *, pre: Map = same, stride: int = 1, **layers: Callable[[], nn.Module]
    ) -> None:
        super().__init__()
        self.body = nn.Conv2d(3, FEATURES, 3, stride, 1)
        nn.init.normal_(self.body.weight)
        self.end, self.pre = end, pre
        for name, layer in ({"head": conv} | layers).items():
            self.add_module(name, layer())

    def forward(self, x: Tensor) -> Any:
        return self.end(self, torch.tanh(self.body(self.pre(x.to(self.body.weight.dtype)) - 0.5)))


def conv(classes: int = CLASSES, features: int = FEATURES, kernel: int = 1, *, of: Any = nn.Conv2d, **options: Any):
    """A convolution whose logits are far enough apart, in float32 not too far."""
    layer = of(features, classes, kernel, **options)
    nn.init.normal_(layer.weight, std=1 / kernel)
    return layer


def linear(classes: int = CLASSES, features: int = FEATURES, *, of: Any = nn.Linear, **options: Any):
    layer = of(features, classes, **options)
    nn.init.normal_(layer.weight)
    return layer


def made(name: str, make: Callable[[], nn.Module] | None = None) -> nn.Module:
    """The network of a specimen, or another of the same weights."""
    with torch.random.fork_rng():
        torch.manual_seed(zlib.crc32(name.encode()))
        return (make or ZOO[name].make)().eval()


def plain() -> nn.Module:
    """A head and nothing behind it."""
    return Net(lambda net, f: net.head(f))


def up(y: Tensor, size: tuple[int, int] = SIZE, mode: str = "bilinear", **options: Any) -> Tensor:
    return F.interpolate(y, size, mode=mode, **options)


ZOO: dict[str, Specimen] = {}


# --- moves: every value of the output is one of the head's, or a mean of some of one class


def moved(moves: Map, pre: Map = same, *, stride: int = 1, head: Any = conv, norms: str = "autograd", **rest: Any):
    make = partial(Net, lambda net, f: moves(net.head(f)), pre=pre, stride=stride, head=head)
    return Specimen("moves", make, norms=norms, moves=moves, **rest)


resized = partial(moved, norms="replayed")


def pad_to_32(x: Tensor) -> Tensor:
    """As much as there is to the next multiple of 32: nothing for inputs that fit."""
    below, right = -x.shape[-2] % 32, -x.shape[-1] % 32
    return F.pad(x, (0, right, 0, below)) if below or right else x


class Padded(Net):
    """Pads to a multiple of 32 and crops, where it has to: what happens behind the head depends on the size."""

    def __init__(self) -> None:
        super().__init__(lambda net, f: net.head(f), pre=pad_to_32)

    def forward(self, x: Tensor) -> Tensor:
        y, (height, width) = super().forward(x), x.shape[2:]
        return y if y.shape[2:] == x.shape[2:] else y[..., :height, :width]


def half(x: Tensor) -> Tensor:
    return F.avg_pool2d(x, 2)


def doubled(x: Tensor) -> Tensor:
    return F.interpolate(x, scale_factor=2, mode="bilinear")


def in_patches(x: Tensor, size: int = 8) -> Tensor:
    """Patches side by side in the batch, as sliding windows without overlap are."""
    n, c, h, w = x.shape
    x = x.reshape(n, c, h // size, size, w // size, size)
    return x.permute(0, 2, 4, 1, 3, 5).reshape(-1, c, size, size)


def from_patches(y: Tensor, size: int = 8) -> Tensor:
    h, w = SIZE[0] // size, SIZE[1] // size
    y = y.reshape(-1, h, w, y.shape[1], size, size)
    return y.permute(0, 3, 1, 4, 2, 5).reshape(-1, y.shape[3], *SIZE)


def folded(y: Tensor) -> Tensor:
    columns = y.reshape(-1, 15, y.shape[1] * 64).mT
    return F.fold(columns, SIZE, 8, stride=8)


def window_reverse(rows: Tensor) -> Tensor:
    """Rows of windows, (windows, 64, C), to a map, as Swin transformers do it."""
    windows = rows.view(-1, 8, 8, rows.shape[-1])
    maps = windows.view(-1, 3, 5, 8, 8, rows.shape[-1]).permute(0, 1, 3, 2, 4, 5).contiguous()
    return maps.view(-1, *SIZE, rows.shape[-1]).permute(0, 3, 1, 2)


def on_canvas(y: Tensor) -> Tensor:
    canvas = y.new_zeros(len(y), y.shape[1], *SIZE)
    canvas[..., 2:-2, 4:-4] = y
    return canvas


def gathered(y: Tensor) -> Tensor:
    mirrored = torch.arange(SIZE[1] - 1, -1, -1).expand(y.shape)
    return y.gather(3, mirrored)


def warped(y: Tensor) -> Tensor:
    matrix = torch.tensor([[[0.9, 0.2, 0.05], [-0.1, 0.8, 0.0]]], dtype=y.dtype)
    return F.grid_sample(y, F.affine_grid(matrix, y.shape, align_corners=False), align_corners=False)


class Tokens(nn.Module):
    """A vision transformer's ending: tokens with one for the class in front, a linear head on each."""

    def __init__(self, arrange: Callable[[Tensor], Tensor], cls: int = 1) -> None:
        super().__init__()
        self.embed, self.head, self.arrange = nn.Conv2d(3, FEATURES, 4, 4), linear(), arrange
        self.extra = nn.Parameter(torch.randn(1, cls, FEATURES))
        nn.init.normal_(self.embed.weight)

    def forward(self, x: Tensor) -> Tensor:
        tokens = self.embed(x - 0.5).flatten(2).mT
        tokens = torch.cat([self.extra.expand(len(x), -1, -1), tokens], 1)
        return self.arrange(self.head(torch.tanh(tokens)))


def tokens(arrange: Map, cls: int = 1, **rest: Any) -> Specimen:
    return Specimen("moves", partial(Tokens, arrange, cls), norms="replayed", moves=arrange, **rest)


def sliding(net: Any, f: Tensor) -> Tensor:
    """Two windows that overlap, summed on a canvas and divided by how often each place was seen."""
    total, seen = f.new_zeros(len(f), CLASSES, *SIZE), f.new_zeros(1, 1, *SIZE)
    for left in (0, 16):
        window = slice(left, left + 24)
        total[..., window] += net.head(f[..., window])
        seen[..., window] += 1
    return total / seen


ZOO |= {
    "plain": Specimen("moves", plain),
    "pad to 32, crop": moved(lambda y: y[..., :24, :40], pad_to_32),
    "pad all round, crop": moved(lambda y: y[..., 4:-4, 3:-3], lambda x: F.pad(x, (3, 3, 4, 4), mode="reflect")),
    "crop by negative padding": moved(lambda y: F.pad(y, (-3, -3, -4, -4)), lambda x: F.pad(x, (3, 3, 4, 4))),
    "crop by narrow": moved(lambda y: y.narrow(2, 4, 24).narrow(3, 3, 40), lambda x: F.pad(x, (3, 3, 4, 4))),
    "crop by split": moved(lambda y: y.split((24, 8), 2)[0].split((40, 24), 3)[0], pad_to_32),
    "crop by index_select": moved(
        lambda y: y.index_select(2, torch.arange(24)).index_select(3, torch.arange(40)), pad_to_32
    ),
    "crop without padding": resized(lambda y: y[..., 2:-4, 6:-2]),
    "pad with zeros": moved(lambda y: F.pad(y, (1, 1, 1, 1)), head=partial(conv, kernel=3)),
    "pad with a value": moved(lambda y: F.pad(y, (2, 0, 0, 2), value=-1.5), head=partial(conv, kernel=3)),
    "pad by replication": moved(lambda y: F.pad(y, (1, 1, 1, 1), mode="replicate"), head=partial(conv, kernel=3)),
    "pad by reflection": moved(lambda y: F.pad(y, (1, 1, 1, 1), mode="reflect"), head=partial(conv, kernel=3)),
    "pad in a circle": moved(lambda y: F.pad(y, (2, 0, 1, 1), mode="circular"), head=partial(conv, kernel=3)),
    "pad by a layer": moved(nn.ReplicationPad2d(1), head=partial(conv, kernel=3)),
    "flip and back": moved(lambda y: y.flip(3), lambda x: x.flip(3)),
    "flip": moved(lambda y: y.flip(3)),
    "flip upside down": moved(lambda y: torch.flip(y, (-2,))),
    "flip both": moved(lambda y: torch.flip(y, dims=[2, 3])),
    "roll": moved(lambda y: y.roll((3, -7), (2, 3))),
    "roll back": moved(lambda y: torch.roll(y, shifts=-5, dims=3), lambda x: x.roll(5, 3)),
    "rotate and back": moved(lambda y: y.rot90(-1, (2, 3)), lambda x: x.rot90(1, (2, 3))),
    "rotate by half a turn": moved(lambda y: torch.rot90(y, 2, (2, 3))),
    "transpose and back": moved(lambda y: y.transpose(2, 3), lambda x: x.transpose(2, 3)),
    "mT and back": moved(lambda y: y.mT, lambda x: x.mT),
    "transpose, flip, permute": moved(lambda y: y.flip(2).permute(0, 1, 3, 2), lambda x: x.mT),
    "strided slices": moved(lambda y: y[:, :, ::2, 1::2], doubled),
    "every second place, resized": resized(lambda y: up(y[:, :, ::2, 1::2])),
    "index by arrays": moved(lambda y: y[:, :, torch.arange(23, -1, -1)][..., torch.arange(39, -1, -1)]),
    "gather": moved(gathered, refusal="gather"),
    "pixel shuffle": moved(lambda y: F.pixel_shuffle(y, 2), stride=2, head=partial(conv, 4 * CLASSES)),
    "pixel shuffle layer": moved(nn.PixelShuffle(4), stride=4, head=partial(conv, 16 * CLASSES)),
    "pixel shuffle, cropped": moved(
        lambda y: F.pixel_shuffle(y, 2)[..., :24, :40], pad_to_32, stride=2, head=partial(conv, 4 * CLASSES)
    ),
    "pixel shuffle by reshape": moved(
        lambda y: y.view(-1, CLASSES, 2, 2, 12, 20).permute(0, 1, 4, 2, 5, 3).reshape(-1, CLASSES, 24, 40),
        stride=2,
        head=partial(conv, 4 * CLASSES),
    ),
    "DUpsampling by reshape": moved(  # the place within a block before the class, along the channels
        lambda y: y.view(-1, 2, 2, CLASSES, 12, 20).permute(0, 3, 4, 1, 5, 2).reshape(-1, CLASSES, 24, 40),
        stride=2,
        head=partial(conv, 4 * CLASSES),
    ),
    # one row of the kernel makes all four classes, each at a place of its own
    "pixel unshuffle": moved(
        lambda y: F.pixel_unshuffle(y, 2),
        doubled,
        head=partial(conv, 1),
        refusal="pixel_unshuffle|class",
    ),
    "bilinear": resized(up, stride=2),
    "bilinear with corners": resized(partial(up, align_corners=True), stride=2),
    "by a factor of its own": resized(
        lambda y: F.interpolate(y, scale_factor=2.0, mode="bilinear", recompute_scale_factor=True), stride=2
    ),
    "nearest": resized(partial(up, mode="nearest"), stride=2),
    "nearest by a factor that is not whole": resized(partial(up, mode="nearest"), lambda x: up(x, (17, 29))),
    "nearest-exact": resized(partial(up, mode="nearest-exact"), lambda x: up(x, (17, 29))),
    "bicubic": resized(partial(up, mode="bicubic"), stride=2),
    "area": resized(partial(up, mode="area"), doubled),
    "antialiased": resized(partial(up, antialias=True), doubled),
    "average pooling": resized(half, doubled),
    "adaptive pooling": resized(lambda y: F.adaptive_avg_pool2d(y, SIZE), doubled),
    "upsample layer": resized(nn.UpsamplingBilinear2d(SIZE), stride=2),
    "nearest upsample layer": resized(nn.Upsample(scale_factor=4), stride=4),
    "repeat_interleave": resized(lambda y: y.repeat_interleave(2, 2).repeat_interleave(2, 3), stride=2),
    "two resizes of one mode": resized(lambda y: up(up(y, (12, 20))), stride=4),
    "bilinear, then nearest": resized(lambda y: up(up(y, (8, 16)), mode="nearest"), stride=4),
    "nearest, then bilinear": resized(lambda y: up(up(y, (12, 20), "nearest")), stride=4),
    "with corners, then without": resized(lambda y: up(up(y, (15, 21), align_corners=True)), stride=4),
    "down to half, then bicubic": resized(lambda y: up(up(y, (12, 20), "area"), mode="bicubic")),
    "resized beyond, cropped": resized(lambda y: up(y, (32, 64))[..., 2:26, 7:47], stride=2),
    "cropped, resized": resized(lambda y: up(y[..., 2:-2, 1:-3]), stride=2),
    "flipped, resized with corners": resized(lambda y: up(y.flip(3), align_corners=True), stride=2),
    "letterbox": resized(lambda y: up(y[..., :12, :20]), lambda x: F.pad(half(x), (0, 12, 0, 4))),
    "letterbox in the middle": resized(
        lambda y: up(y[..., 2:-2, 6:-6], align_corners=False), lambda x: F.pad(half(x), (6, 6, 2, 2), value=0.5)
    ),
    "output of half the size": resized(same, stride=2),
    "output of a quarter, corners on the way": resized(lambda y: up(y, (6, 10), align_corners=True), stride=2),
    "output of twice the size": resized(doubled),
    "warped": resized(warped, refusal="grid_sample"),
    "patches in the batch": moved(from_patches, in_patches),
    "patches folded": moved(folded, in_patches, refusal=r"\bfold"),
    "on a canvas": moved(on_canvas, lambda x: x[..., 2:-2, 4:-4], refusal="setitem|canvas|assign"),
    "windows of Swin": Specimen(
        "moves", partial(Net, lambda net, f: window_reverse(net.head(in_patches(f).flatten(2).mT)), head=linear)
    ),
    "channels-last linear": Specimen(
        "moves", partial(Net, lambda net, f: net.head(f.permute(0, 2, 3, 1)).permute(0, 3, 1, 2), head=linear)
    ),
    "channels-last linear, cropped": Specimen(
        "moves",
        partial(
            Net, lambda net, f: net.head(f.permute(0, 2, 3, 1))[:, :24, :40].movedim(-1, 1), head=linear, pre=pad_to_32
        ),
    ),
    "pixels as a batch": Specimen(
        "moves",
        partial(
            Net,
            lambda net, f: net.head(f.permute(0, 2, 3, 1).flatten(0, 2)).view(-1, *SIZE, CLASSES).movedim(3, 1),
            head=linear,
        ),
    ),
    "tokens": tokens(lambda y: up(y[:, 1:].mT.unflatten(2, (6, 10)))),
    "tokens without upsampling": tokens(lambda y: y[:, 1:].permute(0, 2, 1).reshape(-1, y.shape[2], 6, 10)),
    "tokens with registers, with corners": tokens(
        lambda y: up(y[:, 5:].view(-1, 6, 10, y.shape[2]).permute(0, 3, 1, 2), align_corners=True), cls=5
    ),
    "tokens, flipped and nearest": tokens(lambda y: up(y[:, 1:].mT.unflatten(2, (6, 10)).flip(3), mode="nearest")),
    "one row for the whole image": Specimen(
        "moves",
        partial(Net, lambda net, f: net.head(f.mean((2, 3)))[..., None, None].expand(-1, -1, *SIZE), head=linear),
        refusal="expand|Linear",
    ),
    "halves side by side": Specimen(
        "moves",
        partial(Net, lambda net, f: torch.cat([net.head(f[..., :16]), net.head(f[..., 16:])], 3)),
        refusal=r"\bcat\b",
    ),
    "rows of the chessboard": Specimen(
        "moves",
        partial(Net, lambda net, f: torch.stack([net.head(f[:, :, ::2]), net.head(f[:, :, 1::2])], 3).flatten(2, 3)),
        refusal="stack",
    ),
    "windows that overlap": Specimen("moves", partial(Net, sliding), refusal=r"setitem|add|div|ran 2 times"),
}


# --- values: the classes of each pixel are changed for themselves


class Valued(Net):
    """Has what changes the values as parameters and buffers, too."""

    def __init__(self, change: Callable[[Any, Tensor], Tensor], **rest: Any) -> None:
        super().__init__(lambda net, f: change(net, net.head(f)), **rest)
        self.temperature = nn.Parameter(torch.tensor(1.7))
        self.register_buffer("t", torch.tensor(0.6))
        self.register_buffer("prior", torch.tensor([0.5, -1.0, 0.25, 0.0]).view(1, CLASSES, 1, 1))
        self.register_buffer("scale", torch.tensor([1.5, 0.5, -1.0, 2.0]).view(1, CLASSES, 1, 1))
        self.register_buffer("mixing", torch.randn(CLASSES, CLASSES) + torch.eye(CLASSES))
        self.register_buffer("map", torch.randn(1, CLASSES, *SIZE))
        self.register_buffer("weight", torch.rand(1, 1, *SIZE) + 0.5)
        self.norm, self.prelu = nn.BatchNorm2d(CLASSES), nn.PReLU(CLASSES)
        for values in (self.norm.running_mean, self.norm.weight, self.norm.bias):
            nn.init.normal_(values)
        nn.init.uniform_(self.norm.running_var, 0.5, 2)


def valued(change: Callable[[Any, Tensor], Tensor], **rest: Any) -> Specimen:
    layers = {key: rest.pop(key) for key in ("head", "mix", "stride", "pre") if key in rest}
    return Specimen("values", partial(Valued, change, **layers), **rest)


def in_place(net: Any, y: Tensor) -> Tensor:
    y /= net.t
    y += net.prior
    return y


def without_background(net: Any, y: Tensor) -> Tensor:
    y = y.clone()
    y[:, 0] = -100
    return y


def lowered_in_place(net: Any, y: Tensor) -> Tensor:
    y[:, 1] -= 2
    return y.mul_(0.5)


def evidence(net: Any, y: Tensor) -> Tensor:
    alpha = F.softplus(y) + 1
    return alpha / alpha.sum(1, keepdim=True)


def plain_valued() -> nn.Module:
    return Valued(lambda net, y: y)


probabilities = {"logits": torch.log, "warns": True}

ZOO |= {
    "temperature": valued(lambda net, y: y / 3),
    "temperature as a parameter": valued(lambda net, y: y / net.temperature),
    "temperature as a buffer": valued(lambda net, y: torch.div(y, net.t)),
    "temperature by multiplication": valued(lambda net, y: 0.4 * y),
    "prior": valued(lambda net, y: y + net.prior),
    "prior subtracted": valued(lambda net, y: torch.sub(y, net.prior, alpha=2)),
    "prior in front": valued(lambda net, y: net.prior - y),
    "scale of each class": valued(lambda net, y: y * net.scale),
    "scale and prior, resized": valued(
        lambda net, y: up(y * 0.5 + 0.25), stride=2, norms="replayed", value=lambda y: y * 0.5 + 0.25, moves=up
    ),
    "resized, then temperature": valued(
        lambda net, y: up(y) / 2, stride=2, norms="replayed", value=lambda y: y / 2, moves=up
    ),
    "tanh, then resized with corners": valued(
        lambda net, y: up(3 * y.tanh(), align_corners=True),
        stride=2,
        norms="replayed",
        value=lambda y: 3 * y.tanh(),
        moves=partial(up, align_corners=True),
    ),
    "temperature, cropped": valued(lambda net, y: y[..., :24, :40] / 2, pre=pad_to_32),
    "prior, flipped, scaled": valued(lambda net, y: (y + net.prior).flip(3) * net.scale),
    "batch norm": valued(lambda net, y: net.norm(y)),
    "batch norm by function": valued(
        lambda net, y: F.batch_norm(y, net.norm.running_mean, net.norm.running_var, net.norm.weight, net.norm.bias)
    ),
    "mixing by a fixed convolution": valued(lambda net, y: F.conv2d(y, net.mixing[..., None, None])),
    # a layer like any other: it is the last one
    "mixing by a layer": valued(
        lambda net, y: net.mix(y), mix=partial(conv, features=CLASSES, bias=False), kernels=("mix", "head")
    ),
    "mixing by einsum": valued(lambda net, y: torch.einsum("kc,ncyx->nkyx", net.mixing, y)),
    "mixing by a product of matrices": valued(lambda net, y: (net.mixing @ y.flatten(2)).view_as(y)),
    "mixing by F.linear": valued(lambda net, y: F.linear(y.permute(0, 2, 3, 1), net.mixing).permute(0, 3, 1, 2)),
    "log-softmax": valued(lambda net, y: y.log_softmax(1), warns=True),
    "log-softmax layer, twice": valued(lambda net, y: nn.LogSoftmax(1)(F.log_softmax(y, dim=1)), warns=True),
    "log-softmax by hand": valued(lambda net, y: y - y.logsumexp(1, keepdim=True), warns=True),
    "softmax": valued(lambda net, y: y.softmax(1), **probabilities),
    "softmax with temperature": valued(lambda net, y: F.softmax(y / net.t, dim=1), **probabilities),
    "softmax layer": valued(lambda net, y: nn.Softmax2d()(y), **probabilities),
    "softmax, cropped": valued(lambda net, y: y.softmax(1)[..., :24, :40], pre=pad_to_32, **probabilities),
    "softmax, then resized": valued(lambda net, y: up(y.softmax(1)), stride=2, norms="unchecked", **probabilities),
    "log of softmax": valued(lambda net, y: (y.softmax(1) + 1e-6).log(), warns=True),
    "evidence": valued(evidence, **probabilities, refusal="softplus|div|sum"),
    "classes left out": valued(lambda net, y: y[:, 1:]),
    "classes left out by slices": valued(lambda net, y: torch.cat([y[:, :1], y[:, 2:]], 1)),
    "classes chosen": valued(lambda net, y: y[:, [0, 2, 3]]),
    "classes reordered": valued(lambda net, y: y.index_select(1, torch.tensor([3, 0, 2, 1]))),
    "classes reordered by array": valued(lambda net, y: y[:, torch.tensor([2, 3, 0, 1])]),
    "classes flipped": valued(lambda net, y: y.flip(1)),
    "classes rolled": valued(lambda net, y: y.roll(1, 1)),
    "classes shuffled": valued(lambda net, y: y.unflatten(1, (2, 2)).transpose(1, 2).flatten(1, 2)),
    "class added by padding": valued(lambda net, y: F.pad(y, (0, 0, 0, 0, 1, 0)), refusal="pad"),
    "class added by cat": valued(lambda net, y: torch.cat([torch.zeros_like(y[:, :1]), y], 1), refusal="cat"),
    "classes merged by logsumexp": valued(
        lambda net, y: y.unflatten(1, (3, 2)).logsumexp(2), head=partial(conv, 6), refusal="logsumexp"
    ),
    "classes merged by max": valued(
        lambda net, y: y.unflatten(1, (3, 2)).amax(2), head=partial(conv, 6), refusal="amax"
    ),
    "best three": valued(lambda net, y: y.topk(3, 1).values, refusal="topk"),
    "centred": valued(lambda net, y: y - y.mean(1, keepdim=True)),
    "divided by its length": valued(lambda net, y: 5 * F.normalize(y, dim=1), refusal="normalize|norm|div"),
    "constant map": valued(lambda net, y: y + net.map),
    "one constant map for all classes": valued(lambda net, y: net.weight + y),
    "times a constant map": valued(lambda net, y: y * net.weight),
    "clamp": valued(lambda net, y: y.clamp(-3, 3)),
    "tanh": valued(lambda net, y: 4 * torch.tanh(y / 4)),
    "softcap": valued(lambda net, y: 30 * (y / 30).tanh()),
    "hardtanh layer": valued(lambda net, y: nn.Hardtanh(-2, 2)(y)),
    "relu": valued(lambda net, y: F.relu(y + 1)),
    "prelu": valued(lambda net, y: net.prelu(y)),
    "cube": valued(lambda net, y: y + 0.1 * y**3),
    "in place": valued(in_place),
    "one class out, in place": valued(without_background),
    "one class lowered, in place": valued(lowered_in_place),
    "temperature, named": valued(lambda net, y: y / 3, options={"head": "head"}, warns=True),
    "cropped, named": valued(lambda net, y: y[..., :24, :40], pre=pad_to_32, options={"head": "head"}),
    "temperature, a channel dropped": valued(
        lambda net, y: y / 2, options={"drop_channels": [3]}, logits=lambda y: y[:, :3]
    ),
    "prior and flip, a channel dropped": valued(
        lambda net, y: (y + net.prior).flip(2), options={"drop_channels": [3]}, logits=lambda y: y[:, :3]
    ),
    "mixing, a channel dropped": valued(
        lambda net, y: torch.einsum("kc,ncyx->nkyx", net.mixing, y),
        options={"drop_channels": [3]},
        logits=lambda y: y[:, :3],
    ),
    "softmax, a channel dropped": valued(
        lambda net, y: y.softmax(1), options={"drop_channels": [3]}, logits=lambda y: y[:, :3].log(), warns=True
    ),
    "temperature made of the logits of all places": valued(
        lambda net, y: 2 * y / y.std(), norms="unchecked", refusal="std|div"
    ),
    "one of two, by what the image is": valued(
        lambda net, y: y / 3 if y[:, 2].mean() > y[:, 3].mean() else y * net.scale,
        refusal="differ|ran|traced|mul|div",
    ),
    "cast to half": valued(lambda net, y: y.half(), tolerance=0.05, reference=plain_valued),
    "rounded to 0.25": valued(lambda net, y: (4 * y).round() / 4, norms="unchecked", refusal="round"),
    "nan_to_num": valued(lambda net, y: torch.nan_to_num(y)),
    "dropout in evaluation": valued(lambda net, y: F.dropout(F.dropout2d(y, training=False), 0.5, net.training)),
    "where on a border": valued(
        lambda net, y: torch.where(
            F.pad(torch.ones(1, 1, 20, 36, dtype=torch.bool), (2, 2, 2, 2)), y, net.prior.to(y.dtype)
        ),
        refusal="where",
    ),
    "masked fill": valued(lambda net, y: y.masked_fill(net.weight < 0.6, 0.0), refusal="masked_fill"),
    "out of range by where": valued(lambda net, y: torch.where(y > 2, 2 + 0.1 * y, y), refusal="where"),
    "double and back": valued(lambda net, y: (y.double() / 3).to(y.dtype)),
}


# --- branches: what is returned is made of the outputs of several layers


def branched(end: Callable[[Any, Tensor], Tensor], kernels: str = "head coarse", **rest: Any) -> Specimen:
    layers = {"coarse": conv} | {key: rest.pop(key) for key in ("third", "gate", "coarse", "stride") if key in rest}
    return Specimen("branches", partial(Net, end, **layers), kernels=(kernels,), **rest)


class Ensemble(nn.Module):
    """Members with a backbone each, joined by `join`."""

    def __init__(self, join: Callable[[list[Tensor]], Tensor], count: int = 2) -> None:
        super().__init__()
        self.members = nn.ModuleList(plain() for _ in range(count))
        self.join = join

    def forward(self, x: Tensor) -> Tensor:
        return self.join([member(x) for member in self.members])


def summed_in_place(net: Any, f: Tensor) -> Tensor:
    y = net.head(f)
    y += up(net.coarse(half(f)))
    return y


members = {"kernels": ("members.0.head members.1.head",)}

ZOO |= {
    "FCN skip": branched(lambda net, f: net.head(f) + up(net.coarse(half(f)))),
    "FCN skip with corners": branched(lambda net, f: net.head(f) + up(net.coarse(half(f)), align_corners=True)),
    "FCN skip in place": branched(summed_in_place),
    "FCN skips, resized": branched(
        lambda net, f: up(net.head(f) + up(net.coarse(half(f)), (12, 20))), stride=2, norms="unchecked"
    ),
    "FCN skip, cropped as published": branched(
        lambda net, f: net.head(f) + up(net.coarse(half(f)), (32, 48))[..., 4:28, 5:45]
    ),
    "LR-ASPP": branched(
        lambda net, f: torch.add(net.head(f), up(net.coarse(half(f) * half(f).mean((2, 3), keepdim=True).sigmoid())))
    ),
    "three branches": branched(
        lambda net, f: net.head(f) + net.coarse(f.square()) + up(net.third(half(half(f)))),
        "head coarse third",
        third=conv,
    ),
    "sum()": branched(lambda net, f: sum([net.head(f), net.coarse(f.cos())])),
    "stack, sum": branched(lambda net, f: torch.stack([net.head(f), net.coarse(f.cos())]).sum(0)),
    "weighted sum": branched(lambda net, f: 0.4 * net.head(f) + 0.6 * up(net.coarse(half(f)))),
    "add with alpha": branched(lambda net, f: torch.add(net.head(f), net.coarse(f.cos()), alpha=0.4)),
    "lerp": branched(lambda net, f: torch.lerp(net.head(f), net.coarse(f.cos()), 0.25), refusal="lerp"),
    "difference": branched(lambda net, f: net.head(f) - net.coarse(f.cos())),
    "sum over a temperature": branched(lambda net, f: (net.head(f) + up(net.coarse(half(f)))) / 2.5),
    "log-softmax of a sum": branched(lambda net, f: (net.head(f) + up(net.coarse(half(f)))).log_softmax(1), warns=True),
    "softmax of a sum": branched(lambda net, f: (net.head(f) + net.coarse(f.cos())).softmax(1), **probabilities),
    "k x k beside 1 x 1": branched(
        lambda net, f: net.head(f) + net.coarse(f), coarse=partial(conv, kernel=3, padding=1)
    ),
    # a resize does not commute with a k x k convolution
    "k x k, resized, beside 1 x 1": branched(
        lambda net, f: net.head(f) + up(net.coarse(half(f))),
        coarse=partial(conv, kernel=3, padding=1),
        norms="unchecked",
        refusal="commute|k x k|3 ?x ?3|kernel|resize",
    ),
    "one branch, named": branched(
        lambda net, f: net.head(f) + up(net.coarse(half(f))), "head", options={"head": "head"}, warns=True
    ),
    "coarse branch, named": branched(
        lambda net, f: net.head(f) + up(net.coarse(half(f)), mode="nearest"),
        "coarse",
        options={"head": "coarse"},
        warns=True,
    ),
    "one branch, named, over a temperature": branched(
        lambda net, f: (net.head(f) + net.coarse(f.cos())) / 2, "head", options={"head": "head"}, warns=True
    ),
    "ensemble of heads": branched(lambda net, f: (net.head(f) + net.coarse(f)) / 2),
    "ensemble of networks": Specimen("branches", partial(Ensemble, lambda ys: torch.stack(ys).mean(0)), **members),
    "ensemble of probabilities": Specimen(
        "branches",
        partial(Ensemble, lambda ys: torch.stack([y.softmax(1) for y in ys]).mean(0)),
        **members,
        **probabilities,
        refusal="softmax|mean|stack",
    ),
    "ensemble of log-probabilities": Specimen(
        "branches",
        partial(Ensemble, lambda ys: sum(y.log_softmax(1) for y in ys) / 2),
        **members,
        warns=True,
        refusal="log_softmax|add",
    ),
    "ensemble of three, voting": Specimen(
        "refused",
        partial(
            Ensemble,
            lambda ys: torch.stack([F.one_hot(y.argmax(1), CLASSES).movedim(3, 1).float() for y in ys]).mean(0),
            3,
        ),
        refusal="argmax|one_hot",
    ),
    "attention map": branched(
        lambda net, f: net.head(f) * net.gate(f).sigmoid(), "head", gate=partial(conv, 1), refusal="mul"
    ),
    "gated blend": branched(
        lambda net, f: (g := net.gate(f).sigmoid()) * net.head(f) + (1 - g) * net.coarse(f.cos()),
        gate=partial(conv, 1),
        refusal=r"mul|\badd\b|sigmoid",
    ),
    "largest of two": branched(lambda net, f: torch.maximum(net.head(f), net.coarse(f.cos())), refusal="max"),
    "classes in halves": branched(
        lambda net, f: torch.cat([net.head(f), net.coarse(f.cos())], 1),
        coarse=partial(conv, 2),
        refusal=r"\bcat\b|concat",
    ),
    # the same kernel twice: its gradient is one sum, not two parts side by side
    "one head at two scales": branched(
        lambda net, f: (net.head(f) + up(net.head(half(f)))) / 2,
        "head",
        refusal=r"add|twice|2 times|same (kernel|layer)",
    ),
    "mean over a flip": branched(
        lambda net, f: (net.head(f) + net.head(f.flip(3).cos()).flip(3)) / 2,
        "head",
        refusal=r"add|twice|2 times|same (kernel|layer)",
    ),
    "mean over a flip in the batch": branched(
        lambda net, f: (
            torch.stack([*net.head(torch.cat([f, f.flip(3).cos()]))[:, None]])[:, 0].unflatten(0, (2, -1)).mean(0)
        ),
        "head",
        refusal="mean|stack",
    ),
    "refined": branched(
        lambda net, f: (y := net.head(f)) + net.coarse(y),
        coarse=partial(conv, features=CLASSES, kernel=3, padding=1),
        norms="unchecked",
        refusal=r"add|coarse|spatial|convolution|conv2d",
    ),
    "features added": branched(lambda net, f: net.head(f) + f[:, :CLASSES], "head", refusal=r"add|tanh|getitem"),
    "a branch that is a constant": branched(lambda net, f: net.head(f) + net.coarse.bias.view(1, -1, 1, 1), "head"),
    "a branch of zeros": branched(lambda net, f: net.head(f) + torch.zeros_like(f[:, :1]), "head"),
}


# --- outputs: which of several maps

Named = namedtuple("Named", ["aux", "logits"])
Unnamed = namedtuple("Unnamed", ["first", "second"])


@dataclasses.dataclass
class Output:
    """As in transformers, attributes and no mapping."""

    loss: Tensor | None
    logits: Tensor
    hidden: Tensor


class ModelOutput(OrderedDict):
    """As in transformers, a mapping with attributes."""

    def __getattr__(self, name: str) -> Any:
        if name in self:
            return self[name]
        raise AttributeError(name)


def returned(pack: Callable[[Tensor, Tensor], Any], pick: Callable[[Any], Tensor] = same, **rest: Any) -> Specimen:
    """`pack` of the logits and those of an auxiliary head."""
    make = partial(Net, lambda net, f: pack(net.head(f), net.aux(f)), aux=conv)
    return Specimen(rest.pop("kind", "outputs"), make, logits=pick, **rest)


def chosen(
    pack: Callable[[Tensor, Tensor], Any], output: str | int, pick: Callable[[Any], Tensor], **rest: Any
) -> Specimen:
    return returned(pack, pick, options={"output": output}, **rest)


not_one = partial(returned, kind="refused")


ZOO |= {
    "list of one": returned(lambda y, a: [y], lambda out: out[0]),
    "logits and a loss": returned(lambda y, a: (y.mean(), y), lambda out: out[1]),
    "logits and none": returned(lambda y, a: (y, None), lambda out: out[0]),
    "dict of logits and aux": returned(lambda y, a: {"aux": a, "logits": y}, lambda out: out["logits"]),
    "dict of out and aux": returned(lambda y, a: OrderedDict(out=y, aux=a), lambda out: out["out"]),
    "dict of main and aux": returned(lambda y, a: {"aux": a, "main": y}, lambda out: out["main"]),
    "dict of one map": returned(lambda y, a: {"loss": a.mean(), "sem_seg": y}, lambda out: out["sem_seg"]),
    "dataclass": returned(lambda y, a: Output(None, y, a), lambda out: out.logits),
    "model output": returned(lambda y, a: ModelOutput(hidden=a, logits=y), lambda out: out["logits"]),
    "namedtuple": returned(lambda y, a: Named(a, y), lambda out: out.logits),
    "nested": returned(
        lambda y, a: {"out": {"aux": a, "logits": y}}, lambda out: out["out"]["logits"], refusal="'?out'?|nested|dict"
    ),
    "tuple of main and aux": not_one(lambda y, a: (y, a), refusal=r"output=|--output"),
    "tuple of aux and main": not_one(lambda y, a: (a, y), refusal=r"output=|--output"),
    "deep supervision": not_one(lambda y, a: [y, a, half(a)], refusal=r"output=|--output"),
    "logits and probabilities": not_one(lambda y, a: (y, y.softmax(1)), refusal=r"output=|--output"),
    "dict without a known name": not_one(
        lambda y, a: {"seg": y, "depth": a}, refusal=r"(?s)seg.*depth.*output|output.*seg.*depth"
    ),
    "namedtuple without a known name": not_one(
        lambda y, a: Unnamed(y, a), refusal=r"(?s)first.*second.*output|output.*first.*second"
    ),
    "tuple, first chosen": chosen(lambda y, a: (y, a), 0, lambda out: out[0]),
    "tuple, second chosen": chosen(lambda y, a: (a, y), 1, lambda out: out[1]),
    "tuple, chosen by text": chosen(lambda y, a: (a, y), "1", lambda out: out[1]),
    "list, last chosen": chosen(lambda y, a: [half(a), a, y], -1, lambda out: out[-1]),
    "dict, chosen": chosen(lambda y, a: {"depth": a, "seg": y}, "seg", lambda out: out["seg"]),
    "dict, aux chosen": chosen(lambda y, a: {"out": y, "aux": a}, "aux", lambda out: out["aux"], kernels=("aux",)),
    "namedtuple, chosen": chosen(lambda y, a: Unnamed(a, y), "second", lambda out: out.second),
    "dataclass, chosen": chosen(lambda y, a: Output(None, a, y), "hidden", lambda out: out.hidden),
    "dict, chosen and temperature": chosen(lambda y, a: {"seg": y / 2, "aux": a}, "seg", lambda out: out["seg"]),
    "chosen, and not there": not_one(
        lambda y, a: {"seg": y, "aux": a}, options={"output": "mask"}, refusal=r"(?s)mask.*seg.*aux|seg.*aux.*mask"
    ),
    "chosen, and too far": not_one(lambda y, a: (y, a), options={"output": 5}, refusal="5"),
}


# --- sigmoid: one channel, two classes


def two(z: Tensor) -> Tensor:
    """Logits of the two classes of a sigmoid."""
    return torch.cat([torch.zeros_like(z), z], 1)


def two_of_sigmoid(p: Tensor) -> Tensor:
    return torch.cat([1 - p, p], 1).log()


def binary(end: Callable[[Any, Tensor], Any], logits: Callable[[Any], Tensor] = two, **rest: Any) -> Specimen:
    layers = {key: rest.pop(key) for key in ("head", "stride", "coarse") if key in rest}
    return Specimen("sigmoid", partial(Net, end, **({"head": partial(conv, 1)} | layers)), logits=logits, **rest)


of_sigmoid = {"logits": two_of_sigmoid, "warns": True}

ZOO |= {
    "sigmoid head, logit": binary(lambda net, f: net.head(f)),
    "sigmoid head": binary(lambda net, f: net.head(f).sigmoid(), **of_sigmoid),
    "sigmoid function": binary(lambda net, f: torch.sigmoid(net.head(f) / 2), **of_sigmoid),
    "sigmoid layer, resized before": binary(
        lambda net, f: nn.Sigmoid()(up(net.head(f))), **of_sigmoid, stride=2, norms="replayed", moves=up
    ),
    "sigmoid head, resized": binary(lambda net, f: up(net.head(f)), stride=2, norms="replayed", moves=up),
    "sigmoid head, prior": binary(lambda net, f: net.head(f) - 1.5),
    "sigmoid head, temperature": binary(lambda net, f: net.head(f) / 3),
    "sigmoid head of 3 x 3": binary(lambda net, f: net.head(f), head=partial(conv, 1, kernel=3, padding=1)),
    "sigmoid head, flipped": binary(lambda net, f: net.head(f).flip(3)),
    "sigmoid head, linear": binary(lambda net, f: net.head(f.movedim(1, 3)).movedim(3, 1), head=partial(linear, 1)),
    "sigmoid of two branches": binary(
        lambda net, f: (net.head(f) + up(net.coarse(half(f)))).sigmoid(),
        **of_sigmoid,
        coarse=partial(conv, 1),
        kernels=("head coarse",),
    ),
    "sigmoid in a dict": binary(lambda net, f: {"out": net.head(f)}, lambda out: two(out["out"])),
    "both sides of a sigmoid": binary(
        lambda net, f: torch.cat([1 - (p := net.head(f).sigmoid()), p], 1),
        torch.log,
        warns=True,
        refusal=r"\bcat\b|sigmoid",
    ),
    "mean of two sigmoids": binary(
        lambda net, f: (net.head(f).sigmoid() + net.coarse(f.cos()).sigmoid()) / 2,
        **of_sigmoid,
        coarse=partial(conv, 1),
        kernels=("head coarse",),
        refusal="sigmoid|add",
    ),
    "sigmoid head, softmax behind both sides": binary(
        lambda net, f: torch.cat([-(y := net.head(f)), y], 1).softmax(1), torch.log, warns=True, refusal=r"\bcat\b"
    ),
    "sigmoid maps of many layers, first chosen": binary(
        lambda net, f: (net.head(f).sigmoid(), net.coarse(f.cos()).sigmoid()),
        lambda out: two_of_sigmoid(out[0]),
        warns=True,
        options={"output": 0},
        coarse=partial(conv, 1),
    ),
    "sigmoid maps of many layers": Specimen(
        "refused",
        partial(
            Net,
            lambda net, f: (net.head(f).sigmoid(), net.coarse(f.cos()).sigmoid()),
            head=partial(conv, 1),
            coarse=partial(conv, 1),
        ),
        refusal="output=|--output",
    ),
    # probabilities that do not sum to one: no softmax network
    "sigmoid of every class": Specimen(
        "refused", partial(Net, lambda net, f: net.head(f).sigmoid()), refusal="sigmoid"
    ),
}


# --- layers: is it the layer we think it is


class Cosine(nn.Conv2d):
    def forward(self, x: Tensor) -> Tensor:
        return 8 * F.conv2d(F.normalize(x, dim=1), F.normalize(self.weight, dim=1))


class Standardised(nn.Conv2d):
    def forward(self, x: Tensor) -> Tensor:
        mean, std = self.weight.mean((1, 2, 3), keepdim=True), self.weight.std((1, 2, 3), keepdim=True)
        return self._conv_forward(x, (self.weight - mean) / std, self.bias)


class Gated(nn.Conv2d):
    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x) * x.mean(1, keepdim=True).sigmoid()


class Scaled(nn.Conv2d):
    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x) * 0.3 + 0.1


class EqualisedRate(nn.Conv2d):
    def forward(self, x: Tensor) -> Tensor:
        return self._conv_forward(x, self.weight * (2 / self.in_channels) ** 0.5, self.bias)


class Quantised(nn.Conv2d):
    def forward(self, x: Tensor) -> Tensor:
        return self._conv_forward(x, (self.weight * 4).round() / 4, self.bias)


class Activated(nn.Conv2d):
    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x.square())


class SamePadded(nn.Conv2d):
    """As TensorFlow pads."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(F.pad(x, (0, 2, 0, 2)))


class LowRank(nn.Conv2d):
    """LoRA as a subclass."""

    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        self.down, self.up = nn.Parameter(torch.randn(2, FEATURES)), nn.Parameter(torch.randn(CLASSES, 2))
        self.weight.requires_grad_(False)

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x) + 0.5 * F.conv2d(x, (self.up @ self.down)[..., None, None])


class WithTemperature(nn.Module):
    """Guo et al. (2017), as published: a network around a network."""

    def __init__(self) -> None:
        super().__init__()
        self.model, self.temperature = plain(), nn.Parameter(torch.tensor(1.5))

    def forward(self, x: Tensor) -> Tensor:
        logits = self.model(x)
        return logits / self.temperature.expand(logits.shape)


class Renamed(nn.Conv2d):
    """A subclass that does what its parent does."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x)


class Sharpened(nn.Linear):
    def forward(self, x: Tensor) -> Tensor:
        return 2 * super().forward(F.normalize(x, dim=-1))


class Adapter(nn.Module):
    """LoRA around a frozen convolution."""

    def __init__(self) -> None:
        super().__init__()
        self.base, self.down, self.up = conv().requires_grad_(False), conv(2, bias=False), conv(CLASSES, 2, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return self.base(x) + 0.5 * self.up(self.down(x))


class Functional(nn.Module):
    """No layer of torch's, but a parameter."""

    def __init__(self, apply: Callable[[Tensor, Tensor], Tensor]) -> None:
        super().__init__()
        self.weight, self.apply_to = nn.Parameter(torch.randn(CLASSES, FEATURES)), apply

    def forward(self, x: Tensor) -> Tensor:
        return self.apply_to(x, self.weight)


def layered(head: Callable[[], nn.Module], refusal: str = "", *, stride: int = 1, **rest: Any) -> Specimen:
    return Specimen(
        "layers", partial(Net, lambda net, f: net.head(f), head=head, stride=stride), refusal=refusal, **rest
    )


def replaced(layer: nn.Module) -> nn.Module:
    """A layer whose forward was overwritten on the object."""
    forward = layer.forward
    layer.forward = lambda x: forward(x) / 2
    return layer


def warmed(net: nn.Module) -> nn.Module:
    """A network after its first forward pass."""
    net(torch.rand(1, 3, *SIZE))
    return net


def pruned() -> nn.Module:
    return prune.l1_unstructured(conv(), "weight", 0.4)


class Doubling(nn.Module):
    def forward(self, weight: Tensor) -> Tensor:
        return 2 * weight


def parametrized() -> nn.Module:
    layer = conv()
    parametrize.register_parametrization(layer, "weight", Doubling())
    return layer


def bilinear_by_groups() -> nn.Module:
    """FCN's upsampling as a layer: the last layer of a kind that has norms, so it is the head."""
    layer = nn.ConvTranspose2d(CLASSES, CLASSES, 4, 2, 1, groups=CLASSES, bias=False)
    ramp = torch.tensor([0.25, 0.75, 0.75, 0.25])
    layer.weight.data = (ramp[:, None] * ramp).expand_as(layer.weight).clone()
    return layer


odd = partial(conv, of=nn.ConvTranspose2d)

# With no layer of torch's at the end, the last one may be taken for the head, and all that follows for a map of values.
or_the_body = {"kernels": ("head", "body")}

ZOO |= {
    "3 x 3": layered(partial(conv, kernel=3, padding=1)),
    "dilated": layered(partial(conv, kernel=3, padding=4, dilation=4)),
    "dilated unevenly": layered(partial(conv, kernel=3, padding=(2, 3), dilation=(2, 3))),
    "padding same, even kernel": layered(partial(conv, kernel=4, padding="same"), warns=True),
    "reflecting": layered(partial(conv, kernel=3, padding=1, padding_mode="reflect")),
    "circular": layered(partial(conv, kernel=5, padding=2, padding_mode="circular")),
    "replicating": layered(partial(conv, kernel=3, padding=1, padding_mode="replicate")),
    "grouped": layered(partial(conv, kernel=3, padding=1, groups=2)),
    "3 x 3, flipped, over a temperature": Specimen(
        "layers", partial(Net, lambda net, f: net.head(f).flip(3) / 2, head=partial(conv, kernel=3, padding=1))
    ),
    "3 x 3 with stride, nearest": Specimen(
        "layers",
        partial(
            Net,
            lambda net, f: net.head(f).repeat_interleave(2, 3).repeat_interleave(2, 2),
            head=partial(conv, kernel=3, stride=2, padding=1),
        ),
    ),
    "grouped, over a temperature": Specimen(
        "layers", partial(Net, lambda net, f: net.head(f) / 2, head=partial(conv, groups=2))
    ),
    "grouped, classes reordered": Specimen(
        "layers", partial(Net, lambda net, f: net.head(f)[:, [3, 0, 2, 1]], head=partial(conv, groups=2))
    ),
    "grouped, classes mixed": Specimen(
        "layers", partial(Net, lambda net, f: (y := net.head(f)) - 0.5 * y.roll(1, 1), head=partial(conv, groups=2))
    ),
    "transposed, cropped as published": Specimen(
        "layers",
        partial(Net, lambda net, f: net.head(f)[..., 1:25, 1:41], stride=2, head=lambda: odd(kernel=4, stride=2)),
    ),
    "two layers fused by a third": Specimen(
        "layers",
        partial(
            Net,
            lambda net, f: net.fuse(torch.cat([net.head(f), up(net.coarse(half(f)))], 1)),
            coarse=conv,
            fuse=partial(conv, features=2 * CLASSES),
        ),
        kernels=("fuse",),
    ),
    "without bias": layered(partial(conv, bias=False)),
    "transposed": layered(partial(odd, kernel=2, stride=2), stride=2),
    "transposed with overlap": layered(partial(odd, kernel=4, stride=2, padding=1), stride=2),
    "transposed, odd": layered(partial(odd, kernel=5, stride=4, padding=1, output_padding=1), stride=4),
    "transposed, kernel smaller than stride": layered(partial(odd, kernel=1, stride=2, output_padding=1), stride=2),
    "transposed, dilated, grouped": layered(
        partial(odd, kernel=2, dilation=3, padding=1, stride=2, groups=2), stride=2
    ),
    "bilinear as a layer": Specimen(
        "layers", partial(Net, lambda net, f: net.up(net.head(f)), up=bilinear_by_groups, stride=2), kernels=("up",)
    ),
    "in a sequence": Specimen(
        "layers",
        partial(
            Net,
            lambda net, f: net.end_of(f),
            end_of=lambda: nn.Sequential(nn.Identity(), nn.Dropout2d(), conv(), nn.Identity()),
        ),
        kernels=("end_of.2",),
    ),
    "network in a network with a temperature": Specimen("layers", WithTemperature, kernels=("model.head",)),
    "network before a softmax": Specimen(
        "layers", lambda: nn.Sequential(plain(), nn.Softmax(1)), kernels=("0.head",), **probabilities
    ),
    "network before an upsampling": Specimen(
        "layers",
        lambda: nn.Sequential(Net(lambda net, f: net.head(f), stride=2), nn.Upsample(SIZE, mode="nearest")),
        kernels=("0.head",),
        norms="replayed",
        moves=partial(up, mode="nearest"),
    ),
    "separable": Specimen(
        "layers",
        partial(
            Net,
            lambda net, f: net.head(net.depth(f)),
            depth=partial(nn.Conv2d, FEATURES, FEATURES, 3, 1, 1, groups=FEATURES),
        ),
    ),
    "subclass that is plain": layered(partial(conv, of=Renamed)),
    "cosine": layered(partial(conv, of=Cosine), "Cosine|head"),
    "standardised": layered(partial(conv, of=Standardised), "Standardised|head"),
    "gated": layered(partial(conv, of=Gated), "Gated|head"),
    "scaled": layered(partial(conv, of=Scaled), "Scaled|head"),
    "equalised rate": layered(partial(conv, of=EqualisedRate), "EqualisedRate|head"),
    # rounding has no gradient: autograd would say zero, and a straight-through estimate is not ours to make
    "quantised": layered(partial(conv, of=Quantised), "Quantised|head", norms="unchecked"),
    "squared features": layered(partial(conv, of=Activated), "Activated|head"),
    "padded by itself": layered(partial(conv, of=SamePadded, kernel=3), "SamePadded|head"),
    "LoRA subclass": layered(lambda: conv(of=LowRank), "LowRank|head"),
    "LoRA wrapper": layered(Adapter, kernels=("head.base head.up", "head.base", "head.up"), refusal="add|head.base"),
    "linear subclass": Specimen(
        "layers",
        partial(
            Net, lambda net, f: net.head(f.permute(0, 2, 3, 1)).permute(0, 3, 1, 2), head=partial(linear, of=Sharpened)
        ),
        refusal="Sharpened|head",
    ),
    "overwritten forward": layered(
        lambda: replaced(conv()), "head|forward", reference=lambda: Net(lambda net, f: net.head(f) / 2)
    ),
    "spectral norm": layered(lambda: parametrizations.spectral_norm(conv())),
    "weight norm": layered(lambda: parametrizations.weight_norm(conv())),
    "parametrized": layered(parametrized),
    "spectral norm by hooks": layered(lambda: nn.utils.spectral_norm(conv())),
    "pruned": layered(pruned),
    "lazy": Specimen(
        "layers", lambda: warmed(Net(lambda net, f: net.head(f), head=partial(nn.LazyConv2d, CLASSES, 1)))
    ),
    "traced by fx": Specimen("layers", lambda: torch.fx.symbolic_trace(Plainest())),
    "scripted": Specimen(
        "layers",
        lambda: torch.jit.trace(Plainest(), torch.rand(1, 3, *SIZE)),
        reference=lambda: Plainest(),
        refusal="script|trace|convolution or linear",
    ),
    "functional convolution": layered(
        lambda: Functional(lambda x, k: F.conv2d(x, k[..., None, None])),
        "conv2d|traced|Functional",
        **or_the_body,
    ),
    "einsum": layered(
        lambda: Functional(lambda x, k: torch.einsum("cd,ndyx->ncyx", k, x)), "einsum|traced|Functional", **or_the_body
    ),
    "prototypes": layered(
        lambda: Functional(lambda x, k: -torch.cdist(x.flatten(2).mT, k[None]).mT.unflatten(2, SIZE)),
        "cdist|traced|Functional",
        **or_the_body,
    ),
    "layer of one dimension": Specimen(
        "layers",
        partial(Net, lambda net, f: net.head(f.flatten(2)).unflatten(2, SIZE), head=partial(conv, of=nn.Conv1d)),
        refusal="Conv1d|conv1d|traced",
        **or_the_body,
    ),
    "layer called past its hooks": Specimen(
        "layers", partial(Net, lambda net, f: net.head.forward(f)), refusal="head|ran|traced", **or_the_body
    ),
}


# --- hooks: what is registered, and in which mode the head runs


class Plainest(nn.Module):
    """Nothing in it that a tracer could stumble on."""

    def __init__(self) -> None:
        super().__init__()
        self.body, self.head = nn.Conv2d(3, FEATURES, 3, padding=1), conv()
        nn.init.normal_(self.body.weight)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(torch.tanh(self.body(x - 0.5)))


class Tripled(torch.autograd.Function):
    """An operation that torch sees nothing of but its end."""

    @staticmethod
    def forward(ctx: Any, y: Tensor) -> Tensor:
        return torch.from_numpy(3 * y.detach().numpy())

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        return 3 * gradient


class FlippedByFunction(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, y: Tensor) -> Tensor:
        return torch.from_numpy(y.detach().numpy()[..., ::-1].copy())

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        return gradient.flip(3)


def hooked(register: Callable[[Any], Any], **rest: Any) -> Specimen:
    def make() -> nn.Module:
        net = plain()
        register(net)
        return net

    return Specimen("hooks", make, **rest)


def run(end: Callable[[Any, Tensor], Any], **rest: Any) -> Specimen:
    """An end that differs from `reference` in how it is computed."""
    return Specimen("hooks", partial(Net, end), **({"reference": plain} | rest))


def unreachable(net: Any, f: Tensor) -> Tensor:
    with torch.no_grad():
        return net.head(f)


def in_inference(net: Any, f: Tensor) -> Tensor:
    with torch.inference_mode():
        return net.head(f)


def autocast(net: Any, f: Tensor) -> Tensor:
    with torch.autocast("cpu", torch.bfloat16):
        return net.head(f)


def overwritten(net: Any, f: Tensor) -> Tensor:
    y = net.head(f)
    f.mul_(0)
    return y


def numpied(net: Any, f: Tensor) -> Tensor:
    return torch.from_numpy(net.head(f).detach().cpu().numpy())


def flipped_by_numpy(net: Any, f: Tensor) -> Tensor:
    return torch.from_numpy(net.head(f).detach().cpu().numpy()[..., ::-1].copy())


def listed(net: Any, f: Tensor) -> Tensor:
    return torch.tensor(net.head(f).tolist()) / 2


untraced = r"traced|numpy|detach|from_numpy|differ|pixels|apply|Function"

ZOO |= {
    "hook on the head": hooked(lambda net: net.head.register_forward_hook(lambda layer, args, y: y / 2)),
    "hook on the head, flips": hooked(lambda net: net.head.register_forward_hook(lambda layer, args, y: y.flip(3))),
    "hook on the network": hooked(lambda net: net.register_forward_hook(lambda layer, args, y: y - y[:, :1])),
    "hook on the network, crops": hooked(
        lambda net: net.register_forward_hook(lambda layer, args, y: y[..., 1:-1, 2:-2]),
        norms="replayed",
        moves=lambda y: y[..., 1:-1, 2:-2],
    ),
    "hook that looks only": hooked(lambda net: net.head.register_forward_hook(lambda layer, args, y: None)),
    "hook in place": hooked(lambda net: net.head.register_forward_hook(lambda layer, args, y: y.mul_(2))),
    "hook before the head": hooked(lambda net: net.head.register_forward_pre_hook(lambda layer, args: (args[0] * 2,))),
    "hook before the head, with keywords": hooked(
        lambda net: net.head.register_forward_pre_hook(
            lambda layer, args, kwargs: ((), {"input": args[0].square()}), with_kwargs=True
        )
    ),
    "hook before the network": hooked(
        lambda net: net.register_forward_pre_hook(lambda layer, args: (args[0].flip(3),))
    ),
    "hook on the body": hooked(lambda net: net.body.register_forward_hook(lambda layer, args, y: y + 1)),
    "no_grad": run(unreachable),
    "inference mode": run(in_inference),
    "bfloat16 by autocast": run(autocast, tolerance=0.15),
    "checkpoint": run(lambda net, f: checkpoint(net.head, f, use_reentrant=False)),
    "checkpoint of old": run(lambda net, f: checkpoint(net.head, f, use_reentrant=True), warns=True),
    "checkpoint of head and tail": run(
        lambda net, f: checkpoint(lambda g: net.head(g) / 2, f, use_reentrant=False),
        reference=lambda: Net(lambda net, f: net.head(f) / 2),
    ),
    "channels-last memory": Specimen("hooks", lambda: plain().to(memory_format=torch.channels_last)),
    "double precision": Specimen("hooks", lambda: plain().double()),
    "half precision": Specimen("hooks", lambda: plain().half(), tolerance=0.05),
    "bfloat16": Specimen("hooks", lambda: plain().bfloat16(), tolerance=0.15),
    "features overwritten": run(overwritten, refusal="mul"),
    "requires_grad off": Specimen("hooks", lambda: plain().requires_grad_(False)),
    "detached": run(lambda net, f: net.head(f).detach().clone()),
    "function of one's own": run(
        lambda net, f: Tripled.apply(net.head(f)),
        reference=lambda: Net(lambda net, f: 3 * net.head(f)),
        refusal=untraced + "|Tripled",
    ),
    "function of one's own, flips": run(
        lambda net, f: FlippedByFunction.apply(net.head(f)),
        refusal=untraced,
        reference=lambda: Net(lambda net, f: net.head(f).flip(3)),
    ),
    "numpy and back": run(numpied, refusal=untraced),
    "flipped by numpy": run(
        flipped_by_numpy, refusal=untraced, reference=lambda: Net(lambda net, f: net.head(f).flip(3))
    ),
    "lists and back": run(listed, refusal=untraced + "|tolist", reference=lambda: Net(lambda net, f: net.head(f) / 2)),
}


# --- refused: there is no gradient of the kernel, or no map of logits


def ending(end: Callable[[Any, Tensor], Any], refusal: str, **layers: Any) -> Specimen:
    return Specimen("refused", partial(Net, end, **layers), refusal=refusal)


def mean_field(net: Any, f: Tensor) -> Tensor:
    """Two steps of a conditional random field with a box for a kernel."""
    unary = y = net.head(f)
    for _ in range(2):
        y = unary + 2 * F.avg_pool2d(y.softmax(1), 5, 1, 2)
    return y


def mixing_space(end: Callable[[Any, Tensor], Tensor], refusal: str, **layers: Any) -> Specimen:
    """What mixes places, and not linearly as a resize does: refused, or exact in what the network says of classes."""
    return Specimen("moves", partial(Net, end, **layers), norms="unchecked", refusal=refusal)


ZOO |= {
    "one-hot of argmax": ending(
        lambda net, f: F.one_hot(net.head(f).argmax(1), CLASSES).movedim(3, 1).float(), "one_hot|argmax"
    ),
    "class ids": ending(lambda net, f: net.head(f).argmax(1, keepdim=True), "int64"),
    "largest value only": ending(lambda net, f: net.head(f).amax((2, 3), keepdim=True), r"amax|\(1, 4, 1, 1\)"),
    "rows instead of a map": ending(lambda net, f: net.head(f).flatten(2), r"\(1, 4, 960\)"),
    "classes last": ending(lambda net, f: net.head(f).permute(0, 2, 3, 1), "axis 1|N, C, h, w"),
    "one batch axis too many": ending(lambda net, f: net.head(f)[:, None], r"\(1, 1, 4, 24, 40\)"),
    "nothing": ending(lambda net, f: None, "None"),
    "text": ending(lambda net, f: "logits", "str"),
    "bytes": ending(lambda net, f: (255 * net.head(f).softmax(1)).to(torch.uint8), "uint8"),
    "no layer": Specimen("refused", lambda: nn.Upsample(scale_factor=1), refusal="no convolution|logits"),
    "random field": mixing_space(mean_field, "softmax|avg_pool2d|add"),
    "max pooling": mixing_space(lambda net, f: F.max_pool2d(net.head(f), 3, 1, 1), "max_pool2d"),
    "median of neighbours": mixing_space(
        lambda net, f: (
            F.unfold(net.head(f), 3, padding=1).unflatten(1, (CLASSES, 9)).median(2).values.unflatten(2, SIZE)
        ),
        "median|unfold",
    ),
    "box filter": mixing_space(lambda net, f: F.avg_pool2d(net.head(f), 3, 1, 1), "avg_pool2d"),
    "blurred by a fixed kernel": mixing_space(
        lambda net, f: F.conv2d(
            net.head(f), torch.full((CLASSES, 1, 3, 3), 1 / 9, dtype=f.dtype), padding=1, groups=CLASSES
        ),
        "conv2d",
    ),
    "instance norm": mixing_space(
        lambda net, f: net.norm(net.head(f)), "instance_norm", norm=partial(nn.InstanceNorm2d, CLASSES)
    ),
    "group norm": mixing_space(
        lambda net, f: net.norm(net.head(f)), "group_norm", norm=partial(nn.GroupNorm, 2, CLASSES)
    ),
    "less its mean over places": mixing_space(
        lambda net, f: (y := net.head(f)) - y.mean((2, 3), keepdim=True), "mean|sub"
    ),
    "softmax over places": mixing_space(lambda net, f: 100 * net.head(f).softmax(3), "softmax"),
    "cumulated": mixing_space(lambda net, f: net.head(f).cumsum(3) / 10, "cumsum"),
    "transformed by Fourier": mixing_space(lambda net, f: torch.fft.ifft2(torch.fft.fft2(net.head(f)) * 2).real, "fft"),
    "attention over places": mixing_space(
        lambda net, f: (
            F.scaled_dot_product_attention(*[f.flatten(2).mT.contiguous()] * 2, net.head(f).flatten(2).mT)
        ).mT.unflatten(2, SIZE),
        "scaled_dot_product_attention",
    ),
    "scaled to the range of the image": mixing_space(
        lambda net, f: 4 * ((y := net.head(f)) - y.min()) / (y.max() - y.min()), "min|max|sub|div"
    ),
}
