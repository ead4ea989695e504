"""Which runner a run has: of one pass, of several of one network, or of several networks."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ..datasets.frames import Frame
from ..networks.augmentation import AugmentedPasses
from ..networks.dropout import DropoutPasses
from ..networks.ensemble import Ensemble
from ..networks.head import Head
from ..networks.network import Network
from ..networks.own_logits import own_logits
from ..networks.runner import Inference, Runner
from ..networks.saved import SavedLogits, SavedRunner
from ..networks.tiled import OVERLAP, TiledInference
from ..schema.entries.passes import KINDS, kind_needed
from ..schema.errors import FitError, GraduncError, HeadError, ModelError, NonFiniteError, SettingsError
from ..schema.scores import lookup
from ..scores.needs import NEEDS, HeadOutput, refuse_for_queries
from .settings import PASS_SETTINGS, Settings

__all__ = ["ChangedInput", "check_saved", "queries_first", "runner_of"]


def runner_of(networks: Sequence[Network], device: torch.device, settings: Settings) -> Runner[Any]:
    """What runs the networks as the settings ask.

    Raises
    ------
    SettingsError
        If scores of one kind of passes are asked for in a run of another.
    ModelError
        If a network has not what such passes need; the text names score and network.

    Warns
    -----
    UserWarning
        Where a setting of passes makes no difference.
    """
    saved = [network for network in networks if isinstance(network, SavedLogits)]
    if saved:
        return _saved_runner(saved[0], networks, device, settings)
    kind = settings.passes_kind
    score = next((name for name in settings.scores if kind_needed(lookup(name)) == kind), "")
    names = ", ".join(network.name for network in networks)
    if len(networks) > 1 and kind not in (None, "members"):
        raise SettingsError(
            f"score {score!r} needs passes of {KINDS[kind or '']}, and {len(networks)} networks were given ({names}), "
            "which make an ensemble: expected one network"
        )
    if len(networks) == 1 and kind == "members":
        raise SettingsError(f"score {score!r} needs an ensemble, two networks or more; there is one: {names}")
    if settings.tile is not None and (len(networks) > 1 or kind is not None):
        several = f"{len(networks)} networks make" if len(networks) > 1 else f"score {score!r} needs"
        raise SettingsError(f"tile is {settings.tile!r}, and {several} several passes: expected one or the other")
    _warn_of_idle(settings)
    how: dict[str, Any] = {name: getattr(settings, name) for name in _HOW}
    if settings.tile is not None:
        return TiledInference(networks[0], device, **how, tile=settings.tile, overlap=settings.overlap)
    members = [Inference(network, device, **how) for network in networks]
    if len(members) > 1:
        return Ensemble(members)
    try:
        if kind == "dropout":
            return DropoutPasses(members[0], settings.passes, settings.dropout, settings.seed)
        if kind == "augmented":
            return AugmentedPasses(members[0], settings.flips, settings.scales)
    except GraduncError as error:
        raise type(error)(f"score {score!r}: {error}") from error
    return members[0]


_OF_SAVED = frozenset({"logits", "features", "void", "fit"})
"""What of a forward pass is saved, or follows from it."""

_HOW = ("compile", "channels_last", "autocast", "input_size")
"""Settings that say how a network runs."""


def _saved_runner(
    saved: SavedLogits, networks: Sequence[Network], device: torch.device, settings: Settings
) -> SavedRunner:
    """What reads saved logits.

    Raises
    ------
    SettingsError
        If something is asked for that a network has to run for; the text names it.
    """
    if len(networks) > 1:
        names = ", ".join(network.name for network in networks)
        raise SettingsError(f"saved logits of {saved.name!r} in an ensemble ({names}): expected them alone")
    for name in settings.scores:
        lacking = lookup(name).needs - _OF_SAVED
        if lacking:
            what = "; ".join(NEEDS.get(need, "the output of a layer") for need in sorted(lacking))
            raise SettingsError(f"score {name!r} needs a network that can be run, not saved logits: {what}")
    for name in (*_HOW, "tile"):
        value = getattr(settings, name, None)
        if value not in (None, False):
            raise SettingsError(f"{name}={value!r} is said of a network's input; saved logits have none")
    _warn_of_idle(settings)
    return SavedRunner(saved, device, _with_features(settings))


def _with_features(settings: Settings) -> bool:
    return any("features" in lookup(name).needs for name in settings.scores)


def check_saved(
    networks: Sequence[Network], frames: Sequence[Frame], settings: Settings, known: Collection[str] | None
) -> None:
    """Check before any work that frames have what was saved of them, where anything is.

    Parameters
    ----------
    networks : sequence of Network
    frames : sequence of Frame
    settings : Settings
    known : collection of str, optional
        Ids of the whole set, see `gradunc_viz.run.pipeline.ids_of_set`.

    Raises
    ------
    FrameError
        See `gradunc_viz.networks.saved.SavedLogits.check_frames`.
    """
    for one in networks:
        if isinstance(one, SavedLogits):
            one.check_frames(
                frames,
                settings.classes,
                with_features=_with_features(settings),
                skip=settings.on_error == "skip",
                others=known or (),
                some=known is None,
            )


@contextmanager
def queries_first(
    networks: Sequence[Network], frames: Sequence[Frame], device: torch.device, settings: Settings
) -> Iterator[None]:
    """Where something is lacking for scores, say so only if scores of query models could be computed with it.

    Raises
    ------
    UnknownScoreError
        See `gradunc_viz.scores.needs.refuse_for_queries`.
    """
    try:
        yield
    except (FitError, ModelError) as error:
        kind, entries = settings.passes_kind, [lookup(name) for name in settings.scores]
        network = networks[0]
        if (kind or any("fit" in entry.needs for entry in entries)) and not isinstance(network, SavedLogits):
            with suppress(GraduncError):  # which is not what went wrong first
                if not network.returns_queries and frames:
                    inference = Inference(network, device, autocast=settings.autocast, input_size=settings.input_size)
                    inference(inference.prepare(frames[0].image, frames[0].id), frames[0].id)
            if network.returns_queries:
                try:
                    refuse_for_queries(entries, kind)
                except GraduncError as refusal:
                    raise refusal from error
        raise


def _warn_of_idle(settings: Settings) -> None:
    """Say which settings were changed though there is nothing that they are of."""
    if settings.tile is None and settings.overlap != OVERLAP:
        warnings.warn(
            f"overlap={settings.overlap!r} makes no difference: no windows (tile) were asked for", stacklevel=4
        )
    for name, (kind, default) in PASS_SETTINGS.items():
        value = getattr(settings, name)
        if value != default and settings.passes_kind != kind:
            warnings.warn(
                f"{name}={value!r} makes no difference: no score of {KINDS[kind]} was asked for", stacklevel=4
            )


@dataclass
class ChangedInput:
    """Lets scores of one frame run the network on a changed input; a `gradunc_viz.scores.needs.Rerun`.

    Parameters
    ----------
    runner : Inference
    input : Tensor (1, channels, h, w)
        What the network was given, on the device.
    head : HeadOutput
        What came of it, all channels.
    made : callable
        From a head to what scores are handed, the classes alone.
    what : str
        The frame, for errors.
    """

    runner: Inference
    input: Tensor
    head: HeadOutput
    made: Callable[[Head], HeadOutput]
    what: str

    def output(self, x: Tensor) -> HeadOutput:
        """What enters and leaves the head for another input."""
        with torch.inference_mode(False):
            return self.made(self.runner(x.clone(), self.what))

    def gradient(self, loss: Callable[[Tensor], Tensor]) -> Tensor:
        """Derivative by the input of a number that is made of the network's own logits, of the classes.

        Raises
        ------
        ModelError
            If there is none: the network returns no logits, or hinders derivatives.
        NonFiniteError
            If it is NaN or infinite.
        """
        network = self.runner.network
        with torch.inference_mode(False), torch.enable_grad():
            x = self.input.clone().requires_grad_()
            logits = own_logits(self.runner.returned(x, self.what), self.head.logits, self.head.align_corners)
            if logits is None:
                raise HeadError(
                    f"{self.what}: what {network.name} returns are not the logits that its prediction is made of, or "
                    "their softmax: a derivative by its input cannot be taken of them"
                )
            channels = network.class_channels(logits.shape[1])
            value = loss(logits if channels is None else logits[:, channels.to(logits.device)])
            found = torch.autograd.grad(value, x, allow_unused=True)[0] if value.requires_grad else None
        if found is None:
            raise ModelError(f"{self.what}: the output of {network.name} has no derivative by its input")
        if not bool(torch.isfinite(found).all()):
            raise NonFiniteError(f"{self.what}: the derivative by the input of {network.name} is NaN or infinite")
        return found
