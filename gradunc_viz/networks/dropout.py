"""MC dropout: passes of one network with its dropout layers, and nothing else, switched on.

Every module stays in evaluation mode. Where a dropout layer hands on what it was given, a hook multiplies it by the
mask that the layer would have drawn, from a generator of its own: seeded by the frame, the pass, the layer and which of
its calls it is. So the values of a frame depend on nothing but these, not on frames before it, a run that was ended and
resumed, or how many passes run at once.

Source: Gal and Ghahramani, "Dropout as a Bayesian Approximation" (arXiv:1506.02142).
"""

from __future__ import annotations

import hashlib
import math
import warnings
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.modules.dropout import _DropoutNd
from torch.overrides import TorchFunctionMode

from ..schema.errors import DeviceError, GraduncError, ModelError
from .head import Head
from .network import Network
from .passes import Inputs, JointHead, Pass
from .runner import Inference

__all__ = ["DropoutPasses", "dropout_layers"]

_ELEMENTS = (nn.Dropout, nn.AlphaDropout)
_CHANNELS = (nn.Dropout1d, nn.Dropout2d, nn.Dropout3d, nn.FeatureAlphaDropout)
_ALPHA = (nn.AlphaDropout, nn.FeatureAlphaDropout)
_SELU_FLOOR = 1.7580993408473766  # scale times alpha of SELU, what alpha dropout sets its inputs to, negated

_FUNCTIONS = (F.dropout, F.dropout1d, F.dropout2d, F.dropout3d, F.alpha_dropout, F.feature_alpha_dropout)


def dropout_layers(network: Network, chosen: Sequence[str] | None = None) -> dict[str, _DropoutNd]:
    """Layers of a network that dropout passes switch on, by their dotted names.

    Parameters
    ----------
    network : Network
    chosen : sequence of str, optional
        Names of layers or of modules that hold some, or else how such names begin; all by default.

    Raises
    ------
    ModelError
        If there is none, or none of a name that was chosen; the text says what there is.
    """
    modules = dict(nn.Module.named_modules(network.net))
    layers = {name: one for name, one in modules.items() if _drops(one)}
    if not layers:
        silent = [name for name, one in modules.items() if isinstance(one, _DropoutNd)]
        seen = f"those it has drop nothing or are classes of their own ({_some(silent)}); " if silent else ""
        others = _other_dropout(modules)
        seen += f"it has {_some(others)}; " if others else ""
        raise ModelError(
            f"{network.name} has no dropout layer to switch on: {seen}expected nn.Dropout, Dropout2d or one like them "
            "with p > 0; dropout that code calls as a function, in attention or on whole paths has to be made such "
            "layers first"
        )
    if chosen is None:
        return layers
    found: dict[str, _DropoutNd] = {}
    for given in chosen:
        begins = (given, f"{given}.") if given in modules else (given,)
        some = {
            name: one
            for name, one in layers.items()
            if name == given or name.startswith(begins[-1])
        }  # fmt: skip
        if not some:
            raise ModelError(f"{network.name} has no dropout layer {given!r}; it has {_some(list(layers))}")
        found |= some
    return {name: one for name, one in layers.items() if name in found}


def _drops(module: Any) -> bool:
    """Whether a module is a dropout layer of torch's own kinds that drops something."""
    known = next((kind for kind in (*_ELEMENTS, *_CHANNELS) if isinstance(module, kind)), None)
    return known is not None and type(module).forward is known.forward and module.p > 0


def _other_dropout(modules: dict[str, nn.Module]) -> list[str]:
    """Modules that drop something in training and are no dropout layers: paths, blocks, attention weights."""
    found = []
    for name, module in modules.items():
        kind = type(module).__name__
        if isinstance(module, _DropoutNd):
            own = not _drops(module) and module.p > 0
        elif isinstance(module, (nn.MultiheadAttention, nn.RNNBase)):
            own = module.dropout > 0
        else:
            dropping = "drop" in kind.lower() or "stochasticdepth" in kind.lower()
            shares = (getattr(module, key, None) for key in ("drop_prob", "p", "drop_rate", "drop_path", "prob"))
            own = dropping and any(isinstance(share, float) and share > 0 for share in shares)
        if own:
            found.append(f"{kind} {name!r}")
    return found


def _some(names: Sequence[str], most: int = 6) -> str:
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(names[:most]) + more


class _Unalike(GraduncError):
    """A layer's tensors do not hold one sample after the other: samples cannot have masks of their own."""


class DropoutPasses:
    """Runs a network several times with its dropout layers on; a `gradunc_viz.networks.runner.Runner`.

    Parameters
    ----------
    inference : Inference
    passes : int
        How many.
    layers : sequence of str, optional
        See `dropout_layers`.
    seed : int

    Attributes
    ----------
    at_once : int
        Passes that run as one batch: on a CPU one, whose activations are then closest to its caches; elsewhere all,
        halved where memory runs out.

    Raises
    ------
    ModelError
        If there is no such layer.
    """

    kind = "dropout"
    largest_batch = 1
    """Frames in one call: passes fill the batch."""

    def __init__(
        self, inference: Inference, passes: int = 8, layers: Sequence[str] | None = None, seed: int = 0
    ) -> None:
        self.inference, self.passes, self.seed = inference, passes, seed
        self.network, self.device = inference.network, inference.device
        self.layers = dropout_layers(self.network, layers)
        if inference.compile:
            warnings.warn("dropout passes run without torch.compile: masks are drawn outside of it", stacklevel=3)
            inference.compile = False
        self.at_once = 1 if self.device.type == "cpu" else passes
        self._shapes: dict[tuple[str, int], tuple[int, ...]] = {}
        self._known = False

    def prepare(self, image: np.ndarray, frame_id: str) -> Inputs:
        """Input of the network, and the frame's id, which the masks depend on."""
        return Inputs((self.inference.prepare(image, frame_id),), (frame_id,))

    def __call__(self, x: Inputs, what: str) -> JointHead:
        """Heads of all passes over one frame; errors are those of `Inference`.

        Raises
        ------
        ModelError
            If none of the layers runs.
        """
        (image,), (frame_id,) = x.images, x.ids
        heads: list[Head] = []
        # the first alone: how large the tensors of one sample are tells whether several can share a batch
        while len(heads) < self.passes:
            count = min(self.at_once if heads else 1, self.passes - len(heads))
            numbers = range(len(heads), len(heads) + count)
            try:
                with self._masked(frame_id, numbers):
                    head = self.inference(image.expand(count, *image.shape[1:]), what)
            except (DeviceError, _Unalike) as error:
                if count == 1:
                    raise
                self.at_once = 1 if isinstance(error, _Unalike) else count // 2
                if self.device.type == "cuda":
                    torch.cuda.empty_cache()
                continue
            if count > 1 and head.tail is not None:
                self.at_once = 1  # what stands behind the head is replayed for one image at a time
                continue
            heads += [head] if count == 1 else [_sample(head, place) for place in range(count)]
        if not self._known:
            self._look_at(heads)
            self._known = True
        return JointHead(self.kind, [Pass(head, self.network) for head in heads])

    def _look_at(self, heads: Sequence[Head]) -> None:
        """Say once what dropout passes of this network leave out."""
        idle = [name for name in self.layers if (name, 0) not in self._shapes]
        if len(idle) == len(self.layers):
            raise ModelError(
                f"none of the dropout layers of {self.network.name} ran ({_some(idle)}): expected ones that run in "
                "evaluation mode too"
            )
        out = [*(f"layer {name!r}, which did not run" for name in idle), *self._others]
        if out:
            warnings.warn(f"{self.network.name}: dropout passes do not switch on {_some(out)}", stacklevel=3)
        if all(torch.equal(head.logits, heads[0].logits) for head in heads[1:]):
            warnings.warn(
                f"{self.network.name}: all dropout passes are alike, as no dropout layer is in the way of the logits",
                stacklevel=3,
            )

    @contextmanager
    def _masked(self, frame_id: str, numbers: range) -> Iterator[None]:
        """Let the layers drop what they would in training, in passes of these numbers."""
        calls: Counter[str] = Counter()
        functions = None if self._known else _DropoutFunctions()

        def begin(root: nn.Module, args: Any) -> None:
            calls.clear()  # a head is searched by running the network twice

        def hook_of(name: str) -> Any:
            def drop(layer: _DropoutNd, args: Any, output: Tensor) -> Tensor:
                call = calls[name]
                calls[name] += 1
                seeds = [_digest(self.seed, frame_id, number, name, call) for number in numbers]
                if len(seeds) == 1:
                    self._shapes[name, call] = tuple(output.shape)
                elif (len(seeds) * self._shapes[name, call][0], *self._shapes[name, call][1:]) != tuple(output.shape):
                    raise _Unalike
                return _dropped(layer, output, seeds)

            return drop

        hooks = [self.network.net.register_forward_pre_hook(begin)]
        hooks += [layer.register_forward_hook(hook_of(name)) for name, layer in self.layers.items()]
        try:
            if functions is None:
                yield
            else:
                with functions.inside(self.network.net), functions:
                    yield
                modules = dict(nn.Module.named_modules(self.network.net))
                self._others = [*_other_dropout(modules), *functions.seen]
        finally:
            for hook in hooks:
                hook.remove()


class _DropoutFunctions(TorchFunctionMode):
    """Sees dropout that a network's code calls as a function."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: dict[str, None] = {}
        self._in_layer = 0

    @contextmanager
    def inside(self, net: nn.Module) -> Iterator[None]:
        """Leave out calls by layers."""

        def enter(layer: nn.Module, args: Any) -> None:
            self._in_layer += 1

        def leave(layer: nn.Module, args: Any, output: Any) -> None:
            self._in_layer -= 1

        layers = [one for one in nn.Module.modules(net) if isinstance(one, _DropoutNd)]
        hooks = [layer.register_forward_pre_hook(enter) for layer in layers]
        hooks += [layer.register_forward_hook(leave, prepend=True, always_call=True) for layer in layers]
        try:
            yield
        finally:
            for hook in hooks:
                hook.remove()

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if func in _FUNCTIONS and not self._in_layer and (kwargs.get("p", args[1] if len(args) > 1 else 0.5)) > 0:
            self.seen[f"the function {func.__name__}"] = None
        return func(*args, **kwargs)


def _digest(*parts: object) -> int:
    return int.from_bytes(hashlib.blake2b(repr(parts).encode(), digest_size=8).digest(), "big")


def _sample(head: Head, place: int) -> Head:
    """The head of one sample of a batch."""
    one = Head()
    one.__dict__.update(vars(head))
    one.logits, one.features = head.logits[place : place + 1], head.features[place : place + 1]
    return one


def _dropped(layer: _DropoutNd, x: Tensor, seeds: Sequence[int]) -> Tensor:
    """What a layer makes of its input in training, with masks of these seeds for the samples."""
    rest, share = 1 - layer.p, x.shape[0] // len(seeds) if x.ndim else 1
    shape = _mask_shape(layer, (share, *x.shape[1:]) if x.ndim else ())
    parts = []
    for seed in seeds:
        generator = torch.Generator(x.device).manual_seed(seed)
        parts.append(torch.empty(shape, dtype=x.dtype, device=x.device).bernoulli_(rest, generator=generator))
    mask = parts[0] if len(parts) == 1 else torch.cat(parts)
    shift: Tensor | None = None
    if rest == 0:
        mask.zero_()
    elif isinstance(layer, _ALPHA):  # what is dropped becomes the floor of SELU; mean and variance are kept
        scale = 1 / math.sqrt((_SELU_FLOOR**2 * layer.p + 1) * rest)
        shift = (mask - 1).mul_(_SELU_FLOOR * scale).add_(_SELU_FLOOR * scale * layer.p)
        mask.mul_(scale)
    else:
        mask.div_(rest)
    if layer.inplace:  # others may hold the input
        x.mul_(mask)
        return x if shift is None else x.add_(shift)
    return x * mask if shift is None else x * mask + shift


def _mask_shape(layer: _DropoutNd, shape: Sequence[int]) -> tuple[int, ...]:
    """Shape of a mask: of every element, or of every channel."""
    if not isinstance(layer, _CHANNELS):
        return tuple(shape)
    batched = {nn.Dropout1d: 3, nn.Dropout3d: 5}  # dims of a batch; Dropout2d takes the first two for it in any case
    dims = next((dims for kind, dims in batched.items() if isinstance(layer, kind)), len(shape))
    kept = 2 if len(shape) == dims else 1
    return (*shape[:kept], *(1 for _ in shape[kept:]))
