"""The deployable form: a network that returns logits and uncertainty in one forward pass."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from ..kernels.dispatch import Kernels, is_traced
from ..kernels.traceable import traceable_norms, traceable_softmax
from ..networks.head import Head, agrees, geometry_of
from ..networks.load import load_model
from ..networks.network import Network
from ..networks.outputs import ReturnsQueries, logits_of
from ..networks.tail import moved
from ..networks.tapped import TappedNetwork
from ..networks.tracing import capture
from ..schema.errors import FitError, GraduncError, HeadError, ModelError, telling_line
from ..schema.scores import GradientScore, SoftmaxScore, lookup, resolve_scores
from ..scores.behind_head import PullBack, moved_log2, norms_behind_head, recorded_pull_back
from ..scores.gradients import check_requests, norms_and_softmax
from ..scores.needs import ForwardPass, HeadOutput, check_channels, check_passes, needs_of
from ..scores.resized_logits import resized_pixel_scores
from ..scores.resizing import resize_log2_norms, resize_logits

__all__ = ["ScoredModel", "ScoredOutput"]


class ScoredOutput(NamedTuple):
    """What a `ScoredModel` returns.

    Attributes
    ----------
    logits : Tensor (N, C, h, w)
        Of the classes, as the head returns them.
    scores : Tensor (N, S, y, x), float32
        Oriented maps, larger is more uncertain, in the order of `ScoredModel.scores`.
    """

    logits: Tensor
    scores: Tensor


class ScoredModel(nn.Module):
    """A network and its uncertainty in one forward pass, for `torch.compile`, `torch.export` and ONNX.

    >>> model = gv.ScoredModel(net, ("pgn_oh_p0.5", "entropy"))                              # doctest: +SKIP
    >>> logits, scores = model(x)                                                            # doctest: +SKIP
    >>> torch.onnx.export(model, (x,), "net.onnx", dynamo=True,
    ...                   input_names=["image"], output_names=["logits", "scores"])          # doctest: +SKIP

    Parameters
    ----------
    net : nn.Module or str
        See `gradunc_viz.load_model`. Its parameters are shared, its layers put into evaluation mode, and channels
        that are no class are left out if it is a `Network` that knows of any.
    scores : optional
        See `gradunc_viz.schema.scores.resolve_scores`; by default `DEFAULT_SCORES`.
    resolution : "image" or "head"
        Whether maps have the size of the input (norms resized as norms, other scores of resized logits, as `compute`
        caches them), or that of the logits, which spares the work of resizing.
    example : Tensor (N, 3, h, w), optional
        Input on which the head is searched, by default an empty image of 256 x 256. Networks that end in a linear layer
        take inputs of the example's shape only, batch included; so do, compiled or exported, those that do more to the
        output of their head than resize it. The scores of the latter carry no gradient.

    Attributes
    ----------
    scores : tuple of str
        Names of the maps.

    Raises
    ------
    ModelError
        If the network cannot take the example; `HeadError` if its head cannot be found.

    Notes
    -----
    The input is what the network expects, normalised if it wants that (`Network.prepare`). Scores are accumulated in
    float32 whatever the network's precision, norms are log2: p = 0.1 is finite in half precision too. In plain PyTorch
    the kernels of `compute` run, while compiling and exporting expressions that say the same
    (`gradunc_viz.kernels.traceable`). Norms with p < 1 are ill-conditioned where a feature is almost zero, as after a
    ReLU: there, runtimes whose features differ in their last digits differ in the fourth digit of the norm.
    """

    grid: Tensor | None
    channels: Tensor | None

    def __init__(
        self,
        net: nn.Module | str,
        scores: str | Sequence[str] | None = None,
        *,
        resolution: str = "image",
        example: Tensor | None = None,
    ) -> None:
        super().__init__()
        if resolution not in ("image", "head"):
            raise ValueError(f"resolution is {resolution!r}; expected 'image' or 'head'")
        network = net if isinstance(net, Network) else load_model(net)
        self.scores = resolve_scores(scores)
        # looked up here: a compiler would follow the parsing of names
        entries = [lookup(name) for name in self.scores]
        self.needs = needs_of(entries)
        check_channels(entries, network)
        check_passes(entries, None)
        fitted = [entry.name for entry in entries if "fit" in entry.needs]
        if fitted:
            raise FitError(f"score {', '.join(map(repr, fitted))} needs a fit, which a ScoredModel takes none of")
        for entry in entries:
            if "hidden" in entry.needs:
                raise ModelError(
                    f"score {entry.name!r} needs the second-to-last convolution, of which a ScoredModel keeps nothing; "
                    "'compute' and 'score_image' do"
                )
        norms = [entry for entry in entries if isinstance(entry, GradientScore)]
        self._norms, self._wanted = [norm.name for norm in norms], [norm.request for norm in norms]
        softmax = [entry for entry in entries if isinstance(entry, SoftmaxScore)]
        self._softmax, self._softmax_wanted = [one.name for one in softmax], [one.request for one in softmax]
        self._own = [entry for entry in entries if not Kernels.know(entry)]
        self._functions: Any = [entry.function for entry in self._own]
        self._orientation = [entry.orientation for entry in entries]
        self.resolution = resolution
        network.net.eval()
        example = _example(network) if example is None else example
        head = _head(network, example)
        if head.logits.shape[1] < 2:
            raise ModelError(f"{network.name} has {head.logits.shape[1]} class; expected two or more")
        self.network = TappedNetwork(network.net, head.plan)
        self.layer_name, self.align_corners = head.name, head.align_corners
        self._head, self._output, self._plan = network.head, network.output, head.plan
        self.threshold = network.threshold
        self._tail, self._shape = head.tail, tuple(example.shape)
        self._geometry = geometry_of(head.layer)
        check_requests(self._wanted, self._geometry)
        device = head.logits.device
        channels = network.class_channels(head.logits.shape[1])
        self.register_buffer("channels", None if channels is None else channels.to(device), persistent=False)
        grid = head.plan.grid
        self.register_buffer("grid", None if grid is None else grid.clone().to(device), persistent=False)
        self.eval()
        self._pull_back: PullBack | None = None
        if self._tail is not None:
            with torch.no_grad():
                self._pull_back = recorded_pull_back(self._tail if channels is None else self._tail.only(channels))
        self._varying = self._tail is not None and self._varies(example)

    def forward(self, x: Tensor) -> ScoredOutput:
        """Logits and oriented score maps of a batch (N, 3, h, w)."""
        head = replace(self._passed(x), threshold=self.threshold)
        if self.channels is not None:
            head = head.only(self.channels)
        logits = head.logits
        size = x.shape[2:] if self.resolution == "image" else logits.shape[2:]
        maps: dict[str, Tensor] = {}
        fast = not is_traced() and not (torch.is_grad_enabled() and logits.requires_grad)
        if self._norms:
            if fast:
                norms = norms_and_softmax(head, self._wanted)[0]
            elif head.tail is not None:
                dtype = torch.float64 if any(request.p > 2 for request in self._wanted) else torch.float32
                norms = norms_behind_head(
                    head.tail, self._wanted, dtype, predict=head.predicted, pull_back=self._pull_back
                ).float()
            else:
                assert head.features is not None
                norms = traceable_norms(logits, head.features, self._geometry, self._wanted, self.channels)
            norms = resize_log2_norms(norms, size, self.align_corners)
            maps |= {name: norms[:, i] for i, name in enumerate(self._norms)}
        if self._softmax:
            if fast:
                found = resized_pixel_scores(
                    logits, (size[0], size[1]), self._softmax, align_corners=self.align_corners
                ).scores
            else:
                found = traceable_softmax(resize_logits(logits, size, self.align_corners), self._softmax_wanted)
            maps |= {name: found[:, i] for i, name in enumerate(self._softmax)}
        run = ForwardPass(head, (size[0], size[1]))
        for score, function in zip(self._own, self._functions, strict=True):
            if score.at_head:
                resize = resize_log2_norms if score.is_log2 else resize_logits
                values = function(run)[:, None]
                if head.tail is not None:
                    values = (moved_log2 if score.is_log2 else moved)(values, head.tail.steps)
                maps[score.name] = resize(values, size, self.align_corners)[:, 0]
            else:
                maps[score.name] = function(run.resized if score.of_logits else run).float()
        signs = zip(self.scores, self._orientation, strict=True)
        oriented = [maps[name] if sign > 0 else -maps[name] for name, sign in signs]
        return ScoredOutput(logits, torch.stack(oriented, 1))

    def _passed(self, x: Tensor) -> HeadOutput:
        """What the heads say of a batch, and what stands behind them."""
        if self._tail is None:
            result, calls = self.network(x)
            features, logits, layer = calls[self._plan.name, self._plan.index]
            logits = self._arranged(logits)
            if is_traced() or agrees(logits, logits_of(result, self._output, tuple(x.shape[2:])), self.align_corners):
                return HeadOutput(logits, self._arranged(features), layer, align_corners=self.align_corners)
        if not is_traced():
            net: nn.Module = self.network.net  # type: ignore[assignment]
            with torch.no_grad(), capture(net, self._head, output=self._output, likely=self._plan) as head:
                net(x)
            return HeadOutput(head.logits, head.features, head.layer, align_corners=head.align_corners, tail=head.tail)
        assert self._tail is not None
        if tuple(x.shape) != self._shape or self._varying:
            raise HeadError(
                f"what stands behind {self.layer_name!r} cannot be exported: it is recorded for inputs of "
                f"{self._shape}{', and depends on more than the output of the head' if self._varying else ''}"
            )
        result, calls = self.network(x)
        tail = self._tail.in_another_pass(calls)
        # probabilities, whose logits are not among what the network returns, are made of the head's output again
        logits = tail.moved_logits() if tail.replayable else logits_of(result, self._output)
        source = tail.sources[0]
        return HeadOutput(logits, source.features, source.layer, align_corners=self.align_corners, tail=tail)

    def _varies(self, x: Tensor) -> bool:
        """Whether what stands behind the heads is another on another input."""
        assert self._tail is not None
        with torch.no_grad():
            another = torch.rand_like(x) + x.mean()
            other, again = self._passed(another), self._tail.in_another_pass(self.network(another)[1])
        return other.tail is None or not torch.allclose(again.logits(), other.tail.logits(), rtol=1e-3, atol=1e-5)

    def _arranged(self, tensor: Tensor) -> Tensor:
        """Bring what entered or left the head to (N, channels, h, w)."""
        if self.grid is None:
            return tensor if tensor.ndim == 4 else tensor.unsqueeze(0)
        rows = tensor.reshape(-1, tensor.shape[-1])
        return rows[self.grid].permute(0, 3, 1, 2)


def _example(network: Network) -> Tensor:
    first = next(nn.Module.parameters(network.net), torch.empty(0))
    return torch.zeros(1, network.in_channels, 256, 256, device=first.device, dtype=first.dtype)


def _head(network: Network, example: Tensor) -> Head:
    try:
        with torch.no_grad(), capture(network) as head:
            network.net(example)
    except ReturnsQueries as error:
        raise ModelError(
            f"{network.name} returns classes and masks of queries, which a ScoredModel, and what is exported or "
            "streamed of one, knows nothing of; 'compute' and 'score_image' do"
        ) from error
    except GraduncError:
        raise
    except Exception as error:  # a network may raise anything
        text = telling_line(error)
        raise ModelError(
            f"{network.name} cannot take an input of {tuple(example.shape)} ({text}); give one that it can as example"
        ) from error
    return head
