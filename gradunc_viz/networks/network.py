"""Load a segmentation network from any of its usual homes, and run it with its head captured.

Nothing that is loaded as data is ever executed: weights are read from safetensors, or by `torch.load` with
``weights_only=True``; a pickle that needs more is refused. ``FILE.py:FUNCTION`` runs the user's own file.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Sequence
from functools import cached_property
from numbers import Integral, Real

import numpy as np
import torch
from cachetools import LRUCache
from PIL import Image
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from ..schema.errors import FrameError, HeadError, ModelError
from .head import Head, Plan, Wrapper, agrees, find_layer, follow
from .outputs import ReturnsQueries, logits_of
from .preprocessing import IMAGENET, Normalization, Preprocessing, unit_tensor
from .programs import program_digest, programs_of
from .queries import QueryHead, query_head
from .tracing import capture
from .traversal import evaluating, float_type, in_channels

__all__ = ["IMAGENET", "Network", "Preprocessing", "capture", "channel_numbers", "logits_of", "network_input"]

_PLANS = 8
"""Shapes of input whose head is remembered: for a linear layer a plan holds an integer for each of its rows."""


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
        ``"none"``, ``"imagenet"``, or ``(mean, std)`` of images in [0, 1], for each channel in the network's order of
        them; ``None`` is what `preprocessing` says, or none.
    head
        Dotted name of the layer that produces the logits, or the layer itself, where it cannot be found or one of
        several is meant: the gradient is then with respect to its kernel alone.
    output
        Which of the maps that `net` returns holds the logits: a key, an attribute or a place; of a query model that
        names them in its own way, which two hold class and mask logits, with a comma between.
    threshold
        Of a network of one output channel: the probability from which on the class is predicted, 1/2 by default.
    preprocessing
        How images are prepared for it; as they are, RGB in [0, 1], by default.

    Raises
    ------
    ModelError
        If an argument makes no sense; `HeadError` if `head` does not.

    Attributes
    ----------
    plans : LRUCache of torch.Size -> Plan
        Where the head was found, for the last few shapes of input.
    returns_queries : bool
        Whether it returned classes and masks of queries the last time that it ran.
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
        preprocessing: Preprocessing | None = None,
    ) -> None:
        super().__init__()
        if threshold is not None and not (isinstance(threshold, Real) and 0 < threshold < 1):
            raise ModelError(f"threshold is {threshold!r}; expected a probability between 0 and 1")
        self.net = net
        self.output, self.threshold = output, threshold
        self.name = name or type(net).__name__
        self.classes = None if classes is None else _names(classes)
        self.colors = None if colors is None else tuple(colors)
        self.drop_channels = channel_numbers(drop_channels)
        given = preprocessing or Preprocessing()
        self.preprocessing = given if normalize is None else given.normalized(normalize)
        self.head = None if head is None else find_layer(net, head)[0]
        self.plans: LRUCache[torch.Size, Plan] = LRUCache(_PLANS)
        self.returns_queries = False

    @property
    def normalize(self) -> Normalization | None:
        """Mean and standard deviation of each channel, of images in [0, 1]; `None` if they are not normalised."""
        return self.preprocessing.normalize

    @property
    def reduce_labels(self) -> bool:
        """Whether it was trained on ids that are one less than those in masks, with 0 ignored."""
        return self.preprocessing.reduce_labels

    @property
    def featureless(self) -> str:
        """Why nothing is known of what enters its head; empty where it is, as of any module of torch."""
        return getattr(self.net, "featureless", "")

    @cached_property
    def in_channels(self) -> int:
        """How many channels its images have: 3 are RGB, 1 is grey, others are what the image files hold."""
        if self.preprocessing.channels == "grey":
            return 1
        said = len(self.normalize[0]) if self.normalize else 1
        configured = getattr(getattr(self.net, "config", None), "num_channels", None)
        return in_channels(self.net, said if said > 1 else configured if isinstance(configured, int) else 3)

    def __repr__(self) -> str:
        parameters = sum(parameter.numel() for parameter in self.parameters() if not is_lazy(parameter))
        classes = f"{len(self.classes)} classes" if self.classes else "classes not named"
        return f"<Network {self.name}: {classes}, {parameters:,} parameters, head {self.head or 'found when it runs'}>"

    def _repr_html_(self) -> str:
        from ..schema.display import card, chips, code
        from ..style.palette import class_colors

        parameters = list(self.parameters())
        size = sum(p.numel() for p in parameters if not is_lazy(p))
        devices = ", ".join(sorted({str(p.device) for p in parameters})) or "no parameters"
        names = self.classes or ()
        colors = self.colors if self.colors and len(self.colors) == len(names) else class_colors(len(names))
        rows = {
            "module": code(type(self.net).__name__),
            "parameters": f"{size:,} on {devices}",
            "head": code(self.head) if self.head else "found when it runs",
            "input": self._input_text(),
            "left out": f"channels {', '.join(map(str, self.drop_channels))}" if self.drop_channels else "",
            "classes": chips(self.classes, colors)
            if self.classes and len(colors) == len(self.classes)
            else "not named",
        }
        return card(f"Network {self.name}", rows)

    def _input_text(self) -> str:
        from ..schema.display import code

        kinds = {1: "grey", 3: self.preprocessing.channels.upper()}
        size = f", {self.preprocessing.size[0]} x {self.preprocessing.size[1]}" if self.preprocessing.size else ""
        found = vars(self).get("in_channels", 3)  # the network does not run to be shown
        kind = kinds.get(found, f"{found} channels") + size
        if self.normalize is None:
            return f"{kind} in [0, 1]"
        return f"{kind}, normalised, mean and std {code(str(self.normalize))}"

    def prepare(self, images: Tensor) -> Tensor:
        """Bring images, (N, channels, h, w) with RGB in [0, 1], to the form and the type that the network expects.

        Raises
        ------
        ModelError
            If there is no mean for each channel, or nobody knows what the network expects.
        """
        if self.preprocessing.unknown:
            raise ModelError(self.preprocessing.unknown)
        dtype = float_type(self.net)
        return self.preprocessing(images.to(torch.promote_types(dtype, torch.float32))).to(dtype)

    def forward(self, x: Tensor) -> Tensor:
        """Logits, (N, C, h, w), all channels, as the network returns them for its own (normalised) input.

        Of a query model these are the class scores S, see `gradunc_viz.networks.queries`.
        """
        with torch.no_grad(), evaluating(self.net):
            if not self.returns_queries:
                try:
                    return logits_of(self.net(x), self.output)
                except ReturnsQueries:
                    self.returns_queries = True
            return self.infer(x).logits

    def infer(self, x: Tensor) -> Head:
        """Run the network once, without gradients, and return logits and features of its head.

        The head is searched in the first forward pass on each shape of input; later ones hook only that layer, or
        follow what is done to its output. The last few shapes are remembered. What a query model returns is known by
        its form.

        Parameters
        ----------
        x
            Input as the network expects it (see `prepare`).

        Returns
        -------
        Head
            Logits and features with all channels; `class_channels` tells which of them are classes. A `QueryHead` of a
            query model.

        Raises
        ------
        ModelError
            If the network returns no logits; `HeadError` if they cannot be traced to one layer.
        """
        plan = self.plans.get(x.shape)
        # no inference mode: what the network keeps for its next pass could not be trained with
        with torch.no_grad(), evaluating(self.net):
            head = self._of_queries(x) if self.returns_queries else None
            if head is None and plan is not None and plan.simple:
                head = self._followed(x, plan)
            if head is None:
                watched = None if plan is None or plan.simple else plan
                likely = next(iter(self.plans.values()), None)
                try:
                    with capture(self, plan=watched, likely=likely) as head:
                        self.net(x)
                except ReturnsQueries:
                    head = self._of_queries(x)
                    if head is None:
                        raise
        if not isinstance(head, QueryHead):
            self.plans[x.shape] = head.plan
        if self.threshold is not None and (head.tail is None or not head.tail.one_logit):
            raise ModelError(
                f"threshold={self.threshold} was given, but {self.name} returns {head.logits.shape[1]} channels: "
                "expected one"
            )
        return head

    def _of_queries(self, x: Tensor) -> Head | None:
        """The head of a query model; None where the network returns logits of pixels."""
        if self.head is not None:
            raise HeadError(
                f"head={self.head!r} was given, but {self.name} returns classes and masks of queries: the layers that "
                "gradients are taken of have scores of their own, such as pgn_oh_p2_embedding and pgn_oh_p2_decoder"
            )
        head = query_head(self.net, x, self.output)
        self.returns_queries = head is not None
        channels = 0 if head is None else head.logits.shape[1] + 1
        if self.classes is not None and len(self.classes) == channels:
            raise ModelError(
                f"{self.name} has {channels} classes and returned class logits of {channels} channels, the last of "
                f"which is 'no object': expected {channels + 1} channels, or the names of {channels - 1} classes"
            )
        return head

    def _followed(self, x: Tensor, plan: Plan) -> Head | None:
        """The head by a hook alone; None where the network does another thing on this image than on the last."""
        try:
            with follow(plan) as head:
                result = self.net(x)
        except HeadError:
            return None
        own = logits_of(result, self.output, tuple(x.shape[2:]))
        return head if agrees(head.logits, own, head.align_corners) else None

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

        Covers names, types, shapes and bytes of the state dict, the printed structure, and the graphs of programs, not
        the code of ``forward``.
        """
        digest = hashlib.blake2b(digest_size=20)
        # Some modules print the address of a function they hold, which differs from run to run.
        digest.update(re.sub(r" at 0x[0-9a-fA-F]+", "", repr(self.net)).encode())
        for name, program in programs_of(self.net):
            digest.update(f"\n{name} {program_digest(program)}".encode())
        for name, value in type(self.net).state_dict(self.net).items():
            if not isinstance(value, Tensor) or is_lazy(value):
                digest.update(f"\n{name} {value!r}".encode())
                continue
            digest.update(f"\n{name} {value.dtype} {tuple(value.shape)}\n".encode())
            digest.update(value.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data)
        return digest.hexdigest()


def _names(classes: Sequence[str]) -> tuple[str, ...]:
    """Names of classes, one by one."""
    if not isinstance(classes, Iterable):
        raise ModelError(f"classes is {classes!r}; expected a list of names")
    return tuple(map(str, classes))


def channel_numbers(given: Iterable[int]) -> tuple[int, ...]:
    """Numbers of channels, in order and each once.

    Raises
    ------
    ModelError
        If they are anything else.
    """
    listed = tuple(given) if isinstance(given, Iterable) and not isinstance(given, str) else (None,)
    if not all(isinstance(one, Integral) and not isinstance(one, bool) for one in listed):
        what = given if listed == (None,) else listed
        raise ModelError(f"drop_channels is {what!r}; expected whole numbers of channels, such as (19,)")
    return tuple(sorted({int(one) for one in listed if one is not None}))


def network_input(image: np.ndarray, network: Network, input_size: tuple[int, int] | None) -> Tensor:
    """Input of a network for an image, (1, channels, H, W).

    Parameters
    ----------
    image : array (y, x, channels)
        RGB, or what else the network takes: 8 or 16 bits, which become [0, 1], or floating point, which stays. RGB of 8
        bits becomes grey for a network of one channel.
    network : Network
    input_size : (height, width), optional
        Size that the image is resized to, with the network's filter; by default its own.

    Raises
    ------
    FrameError
        If the image has another number of channels.
    ModelError
        As for `Network.prepare`.
    """
    if network.in_channels == 1 and image.shape[2] == 3 and image.dtype == np.uint8:
        image = np.array(Image.fromarray(image).convert("L"))[:, :, None]
    if image.shape[2] != network.in_channels:
        raise FrameError(f"an image of {image.shape[2]} channels for {network.name}, which takes {network.in_channels}")
    how = network.preprocessing
    how.check_range(image)
    dtype = torch.promote_types(float_type(network.net), torch.float32)
    return network.prepare(unit_tensor(image, input_size, how.resample, dtype))
