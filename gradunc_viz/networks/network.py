"""Load a segmentation network from any of its usual homes, and run it with its head captured.

Nothing that is loaded as data is ever executed: weights are read from safetensors, or by `torch.load` with
``weights_only=True``; a pickle that needs more is refused. ``FILE.py:FUNCTION`` runs the user's own file.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager

import numpy as np
import torch
from cachetools import LRUCache
from PIL import Image
from torch import Tensor, nn

from ..schema.errors import ModelError
from .head import Head, Plan, Wrapper, find_layer, follow
from .outputs import logits_of
from .tracing import capture

__all__ = ["IMAGENET", "Network", "capture", "logits_of", "network_input"]

IMAGENET = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
"""Mean and standard deviation of RGB in [0, 1] that most backbones were trained with."""

_PLANS = 8
"""Shapes of input whose head is remembered: for a linear layer a plan holds an integer for each of its rows."""

Normalization = tuple[tuple[float, ...], tuple[float, ...]]


class Network(Wrapper):
    """A network ready for inference, with what has to be known about its input and its classes.

    The wrapped module stays as it is: it is put into evaluation mode for the time of a forward pass only, and
    its parameters are not touched (`to` moves them, as it does for any module).

    Parameters
    ----------
    net
        Any module that returns logits in one of the forms that `logits_of` knows.
    name
        What to call it; by default the class of `net`.
    classes, colors
        Names and (red, green, blue) of the classes, or ``None``.
    drop_channels
        Output channels that are no class (void, background): their logits are left out before the softmax.
    normalize
        ``None`` or ``"none"``, ``"imagenet"``, or ``(mean, std)`` of RGB in [0, 1].
    head
        Dotted name of the layer that produces the logits, or the layer itself, where it cannot be found or one of
        several is meant: the gradient is then with respect to its kernel alone.
    output
        Which of the maps that `net` returns holds the logits: a key, an attribute or a place.
    threshold
        Of a network of one output channel: the probability from which on the class is predicted, 1/2 by default.

    Raises
    ------
    ModelError
        If an argument makes no sense; `HeadError` if `head` does not.

    Attributes
    ----------
    plans : LRUCache of torch.Size -> Plan
        Where the head was found, for the last few shapes of input.
    """

    def __init__(
        self,
        net: nn.Module,
        *,
        name: str | None = None,
        classes: Sequence[str] | None = None,
        colors: Sequence[tuple[int, int, int]] | None = None,
        drop_channels: Iterable[int] = (),
        normalize: str | Sequence[Sequence[float]] | None = None,
        head: str | nn.Module | None = None,
        output: str | int | None = None,
        threshold: float | None = None,
    ) -> None:
        super().__init__()
        if threshold is not None and not 0 < threshold < 1:
            raise ModelError(f"threshold is {threshold}; expected a probability between 0 and 1")
        self.net = net
        self.output, self.threshold = output, threshold
        self.name = name or type(net).__name__
        self.classes = None if classes is None else tuple(map(str, classes))
        self.colors = None if colors is None else tuple(colors)
        self.drop_channels = tuple(sorted(set(drop_channels)))
        self.normalize = _normalization(normalize)
        self.head = None if head is None else find_layer(net, head)[0]
        self.plans: LRUCache[torch.Size, Plan] = LRUCache(_PLANS)

    def __repr__(self) -> str:
        parameters = sum(parameter.numel() for parameter in self.parameters())
        classes = f"{len(self.classes)} classes" if self.classes else "classes not named"
        return f"<Network {self.name}: {classes}, {parameters:,} parameters, head {self.head or 'found when it runs'}>"

    def _repr_html_(self) -> str:
        from ..schema.display import card, chips, code
        from ..style.palette import class_colors

        parameters = list(self.parameters())
        size = sum(p.numel() for p in parameters)
        devices = ", ".join(sorted({str(p.device) for p in parameters})) or "no parameters"
        names = self.classes or ()
        colors = self.colors if self.colors and len(self.colors) == len(names) else class_colors(len(names))
        rows = {
            "module": code(type(self.net).__name__),
            "parameters": f"{size:,} on {devices}",
            "head": code(self.head) if self.head else "found when it runs",
            "input": "RGB in [0, 1]"
            if self.normalize is None
            else f"normalised, mean and std {code(str(self.normalize))}",
            "left out": f"channels {', '.join(map(str, self.drop_channels))}" if self.drop_channels else "",
            "classes": chips(self.classes, colors)
            if self.classes and len(colors) == len(self.classes)
            else "not named",
        }
        return card(f"Network {self.name}", rows)

    def prepare(self, rgb: Tensor) -> Tensor:
        """Normalise images, (N, 3, h, w) with RGB in [0, 1], as the network expects them."""
        if self.normalize is None:
            return rgb
        mean, std = (rgb.new_tensor(numbers).view(1, -1, 1, 1) for numbers in self.normalize)
        return (rgb - mean) / std

    def forward(self, x: Tensor) -> Tensor:
        """Logits, (N, C, h, w), all channels, as the network returns them for its own (normalised) input."""
        with torch.no_grad(), _evaluating(self.net):
            return logits_of(self.net(x), self.output)

    def infer(self, x: Tensor) -> Head:
        """Run the network once, without gradients, and return logits and features of its head.

        The head is searched in the first forward pass on each shape of input; later ones hook only that layer, or
        follow what is done to its output. The last few shapes are remembered.

        Parameters
        ----------
        x
            Input as the network expects it (see `prepare`).

        Returns
        -------
        Head
            Logits and features with all channels; `class_channels` tells which of them are classes.

        Raises
        ------
        ModelError
            If the network returns no logits; `HeadError` if they cannot be traced to one layer.
        """
        plan = self.plans.get(x.shape)
        likely = next(iter(self.plans.values()), None)
        with (
            torch.no_grad(),
            _evaluating(self.net),
            follow(plan) if plan is not None and plan.simple else capture(self, plan=plan, likely=likely) as head,
        ):
            self.net(x)
        self.plans[x.shape] = head.plan
        if self.threshold is not None and (head.tail is None or not head.tail.one_logit):
            raise ModelError(
                f"threshold={self.threshold} was given, but {self.name} returns {head.logits.shape[1]} channels: "
                "expected one"
            )
        return head

    def class_channels(self, n_channels: int) -> Tensor | None:
        """Output channels that are classes, or ``None`` if all are.

        Dropping channel k means that its logit is left out before the softmax and its kernel rows are left
        out of the gradient. Pick the logits with it, ``logits[:, keep]``; a grouped layer needs it too, as
        the group of a channel follows from its place among all channels.

        Raises
        ------
        ModelError
            If a channel to drop does not exist, or fewer than two classes are left.
        """
        for channel in self.drop_channels:
            if not 0 <= channel < n_channels:
                raise ModelError(
                    f"cannot drop channel {channel}: {self.name} has {n_channels} channels, 0 to {n_channels - 1}"
                )
        if not self.drop_channels:
            return None
        keep = [channel for channel in range(n_channels) if channel not in self.drop_channels]
        if len(keep) < 2:
            raise ModelError(
                f"dropping {len(self.drop_channels)} of {n_channels} channels of {self.name} leaves "
                f"{len(keep)}: expected at least two classes"
            )
        return torch.tensor(keep)

    def class_names(self, n_channels: int) -> tuple[str, ...]:
        """Names of the classes that `class_channels` keeps; ``"class 0"`` and so on where none are known.

        Raises
        ------
        ModelError
            If there are neither as many names as channels nor as many as classes.
        """
        keep = self.class_channels(n_channels)
        kept = range(n_channels) if keep is None else keep.tolist()
        if self.classes is None:
            return tuple(f"class {channel}" for channel in kept)
        if len(self.classes) == n_channels:
            return tuple(self.classes[channel] for channel in kept)
        if len(self.classes) == len(kept):
            return self.classes
        raise ModelError(f"{len(self.classes)} class names for {self.name}: expected {len(kept)}, one per class")

    def weights_digest(self) -> str:
        """Hash of all weights and of the module tree; equal digests mean the same network.

        Covers names, types, shapes and bytes of the state dict and the printed structure, not the code of
        ``forward``.
        """
        digest = hashlib.blake2b(digest_size=20)
        # Some modules print the address of a function they hold, which differs from run to run.
        digest.update(re.sub(r" at 0x[0-9a-fA-F]+", "", repr(self.net)).encode())
        for name, value in self.net.state_dict().items():
            if not isinstance(value, Tensor):
                digest.update(f"\n{name} {value!r}".encode())
                continue
            digest.update(f"\n{name} {value.dtype} {tuple(value.shape)}\n".encode())
            digest.update(value.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data)
        return digest.hexdigest()


@contextmanager
def _evaluating(net: nn.Module) -> Iterator[None]:
    """Evaluate for the time being; every module gets its own mode back."""
    training = [module for module in net.modules() if module.training]
    if training:
        net.eval()
    try:
        yield
    finally:
        for module in training:
            module.training = True


def _normalization(given: str | Sequence[Sequence[float]] | None) -> Normalization | None:
    if given is None or given == "none":
        return None
    if given == "imagenet":
        return IMAGENET
    try:
        mean, std = (tuple(map(float, numbers)) for numbers in given)
    except (TypeError, ValueError):
        mean, std = (), ()
    if not mean or len(mean) != len(std) or min(std) <= 0:
        raise ModelError(f"normalize={given!r}: expected 'none', 'imagenet' or (mean, std) with std > 0")
    return mean, std


# --------------------------------------------------------------------------------------------------
# weights


# --------------------------------------------------------------------------------------------------
# loading


def network_input(image: np.ndarray, network: Network, input_size: tuple[int, int] | None) -> Tensor:
    """(1, 3, H, W) float32 RGB, resized with Pillow's bilinear filter and normalised as the network wants."""
    if input_size is not None and image.shape[:2] != tuple(input_size):
        resized = Image.fromarray(image).resize((input_size[1], input_size[0]), Image.Resampling.BILINEAR)
        image = np.array(resized)
    return network.prepare(torch.from_numpy(image).permute(2, 0, 1)[None].float().div_(255))
