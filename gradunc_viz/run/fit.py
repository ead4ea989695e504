"""frames -> network -> drawn pixels -> what scores keep of them: one pass for all scores."""

from __future__ import annotations

import json
import warnings
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from itertools import pairwise
from typing import Any, Unpack

import torch
from torch import Tensor, nn

from .. import __version__
from ..datasets.conventions import some
from ..datasets.frames import Frame, Frames
from ..networks.head import Head
from ..networks.runner import restored
from ..schema.errors import FitError, FrameError, GraduncError, SettingsError, brief
from ..schema.scores import Score, lookup
from ..scores.drawing import FramePixels, draw_pixels
from ..scores.fit import Fit, identity
from ..scores.fitted import DrawnPixels
from ..scores.needs import LAYER, ForwardPass, check_features, check_queries
from ..scores.own import fingerprints
from ..store.progress import counted
from .classes import known_class_table, numbered_alike
from .compute import loaded_one
from .network_maps import NetworkMaps, Ready
from .pipeline import LeftOut, Pipeline, chosen_frames, ids_of_set
from .report import Report
from .runners import check_saved, runner_of
from .settings import Settings, SettingsChanges, changed, check_count, check_whole, resolve_device
from .stages import Stages

__all__ = ["fit", "fitted_state"]

_MOST_BYTES = 1 << 34


def fit(
    model: str | nn.Module,
    frames: Frames | Iterable[Frame] | Frame,
    settings: Settings | None = None,
    *,
    pixels: int = 100_000,
    by: str = "prediction",
    features: str = "head",
    progress: bool = True,
    **changes: Unpack[SettingsChanges],
) -> Fit:
    """Fit scores on in-distribution frames: pixels are drawn in one pass, and every score is fitted on these.

    >>> fit = gv.fit(net, frames, scores="vim,knn")                                          # doctest: +SKIP
    >>> cache = gv.compute(net, others, out, scores="vim,knn", fit=fit)                      # doctest: +SKIP

    Parameters
    ----------
    model : str, nn.Module or Network
        See `load_model`. It is given back as it was.
    frames : Frames, iterable of Frame, or Frame
        Of the kind that the network was trained on, and others than those that will be scored.
    settings : Settings, optional
        ``scores`` are the ones to fit, by default all of ``"fitted"``; the other fields are as for `compute`, where
        they are to be the same.
    pixels : int
        How many are drawn, as many from each frame. Ignored pixels are left out where there are labels, and all but
        known ones where there are anomaly masks. They are kept in memory, with 4 (D + C) bytes for D features and C
        classes: 110 MB for 100,000 pixels of 256 and 19.
    by : "prediction" or "label"
        What class a pixel counts to.
    features : str
        ``"head"``, or ``"layer:NAME"`` for the output of a layer, by its dotted name.
    progress : bool
        Whether a progress bar is shown.
    **changes
        Fields of `Settings`: ``scores="vim,knn", input_size=(512, 1024)``. With the id of a frame ``seed``
        tells which of its pixels are drawn; the order of frames and the batch do not.

    Returns
    -------
    Fit
        To be handed to `compute` as ``fit=``, or saved.

    Raises
    ------
    FitError
        If a score cannot be fitted on these pixels, or there are none.
    GraduncError
        One of its kinds, naming the file or value.

    Warns
    -----
    UserWarning
        For a singular covariance, classes that no pixel has, and frames left out under ``on_error="skip"``.
    """
    if settings is None and changes.get("scores") is None:
        changes = {**changes, "scores": "fitted"}
    settings = changed(settings or Settings(), changes)
    check_whole(settings, "scores are fitted on")
    entries = [lookup(name) for name in settings.scores]
    _check(entries, pixels, by, features)
    with_features = any("features" in entry.needs for entry in entries)
    chosen = sorted(chosen_frames(frames, settings.limit), key=lambda frame: frame.id)
    if not chosen:
        raise FrameError("no frames to fit on; expected at least one")
    twice = [one.id for one, other in pairwise(chosen) if one.id == other.id]
    if twice:
        raise FrameError(f"{some('frame', map(repr, twice))}: given more than once; expected each frame once")
    with restored(loaded_one(model, "whose features are fitted on")) as network:
        check_features(entries, network)
        runner = runner_of([network], resolve_device(settings.device), replace(settings, seed=Settings.seed))
        check_saved([network], chosen, settings, ids_of_set(frames, chosen, settings.limit))
        settings = replace(settings, input_size=network.preprocessing.chosen_size(settings.input_size))
        known = known_class_table(runner, chosen, settings)
        mapped, _ = numbered_alike(chosen, known, getattr(network, "reduce_labels", False))
        drawing = _Drawing(
            NetworkMaps(
                runner,
                replace(settings, scores=("msp",), fit=None, images=False),
                known.names,
                Stages(),
                frozenset({"features" if features == "head" else features}) if with_features else frozenset(),
            ),
            dict(zip((frame.id for frame in chosen), _shares(pixels, len(chosen)), strict=True)),
            settings.seed,
            by,
            features,
            with_features,
            entries,
        )
        drawn = drawing.run(mapped, settings.on_error, progress)
        provenance = {
            "network": identity(network),
            "head": drawing.head,
            "classes": list(known.names),
            "n_classes": drawn.logits.shape[1],
            "dimensions": drawn.features.shape[1],
            "features": features,
            "input_size": None if settings.input_size is None else list(settings.input_size),
            "autocast": settings.autocast,
            "frames": drawing.contents,
            "pixels": len(drawn),
            "asked_pixels": pixels,
            "seed": settings.seed,
            "by": by,
            "scores": list(settings.scores),
            "own_scores": fingerprints(settings.scores),
            "gradunc_viz": __version__,
        }
    with torch.no_grad():
        states = {entry.name: fitted_state(entry, drawn) for entry in entries}
    return Fit(states, json.loads(json.dumps(provenance)))


def _check(entries: Sequence[Score], pixels: int, by: str, features: str) -> None:
    check_count("pixels", pixels)
    if by not in ("prediction", "label"):
        raise SettingsError(f"by is {by!r}; expected 'prediction' or 'label'")
    if features != "head" and not (features.startswith(LAYER) and len(features) > len(LAYER)):
        raise SettingsError(f"features is {features!r}; expected 'head' or 'layer:NAME'")
    others = [entry.name for entry in entries if "fit" not in entry.needs]
    if others:
        raise SettingsError(f"score {', '.join(map(repr, others))} is not fitted; expected such as 'vim', or 'fitted'")


def _shares(pixels: int, frames: int) -> list[int]:
    """Pixels of each frame, which add up to all of them."""
    share, rest = divmod(pixels, frames)
    return [share + (place < rest) for place in range(frames)]


class _Drawing:
    """One pass over frames that keeps some pixels of each."""

    def __init__(
        self,
        source: NetworkMaps,
        shares: dict[str, int],
        seed: int,
        by: str,
        features: str,
        with_features: bool,
        entries: Sequence[Score],
    ) -> None:
        self.entries = entries
        self.source, self.shares, self.seed, self.by = source, shares, seed, by
        self.features, self.with_features = features, with_features
        self.head = ""
        self.contents: dict[str, str] = {}
        self._layer: nn.Module | None = None
        self._checked = False

    def run(self, frames: Sequence[Frame], on_error: str, progress: bool) -> DrawnPixels:
        """Draw the pixels, in the order of the frames' ids."""
        skipped: list[LeftOut] = []
        parts: list[FramePixels] = []
        what = f"drawing pixels on {self.source.device}"
        with counted(len(frames), what, shown=progress) as more, ThreadPoolExecutor(2, "read") as reading:
            ready = Pipeline(self.source, Report()).prefetched(frames, reading)
            try:
                for part in self.source.each(ready, self._drawn):
                    if isinstance(part, FramePixels):
                        parts.append(part)
                    elif on_error == "stop":
                        raise part.error
                    else:
                        skipped.append(part)
                    more()
            finally:
                reading.shutdown(wait=False, cancel_futures=True)
        if skipped:
            listed = "; ".join(str(one.error) for one in skipped[:5])
            warnings.warn(f"{len(skipped)} frames were skipped: {listed}", stacklevel=3)
        if not sum(len(part.prediction) for part in parts):
            raise FitError(
                f"no pixel can be drawn of {some('frame', [frame.id for frame in frames])}: all are ignored or left out"
            )
        parts.sort(key=lambda part: part.frame_id)
        features, logits, prediction, label = (
            torch.cat([getattr(part, name) for part in parts]) for name in ("features", "logits", "prediction", "label")
        )
        return DrawnPixels(
            features,
            logits,
            prediction,
            label,
            self.source.classes,
            self.by,
            self.features,
            self._layer,
            self.source.runner.network.class_channels(self._n_channels),
        )

    def _drawn(self, item: Ready, head: Head, index: int) -> FramePixels:
        frame = item.frame
        if self.by == "label" and frame.label is None:
            raise FrameError(f"frame {frame.id!r} has no label; expected one, as by is 'label'")
        output = self.source.output(head, index)
        check_queries(self.entries, output)
        with torch.inference_mode():
            run = ForwardPass(output, frame.size, self.features)
            if not self._checked:
                self._check_memory(run)
            drawn = draw_pixels(
                run,
                self.shares[frame.id],
                self.seed,
                frame.id,
                frame.label,
                frame.anomaly,
                with_features=self.with_features,
            )
        if self.head not in ("", head.name):
            raise FitError(f"frame {frame.id!r}: its head is {head.name!r}, that of frames before {self.head!r}")
        self.head, self._layer, self._n_channels = head.name, head.layer, head.logits.shape[1]
        self.contents[frame.id] = frame.content
        return drawn

    def _check_memory(self, run: ForwardPass) -> None:
        """Refuse to draw more than any memory holds."""
        logits, dimensions = run.output.logits, run.features.shape[1] if self.with_features else 0
        each = 4 * (dimensions + logits.shape[1])
        count = sum(min(share, logits[0, 0].numel()) for share in self.shares.values())
        if count * each > _MOST_BYTES:
            raise FitError(
                f"{count} pixels of {dimensions} features and {logits.shape[1]} classes take {count * each / 1e9:.0f} "
                f"GB; expected {_MOST_BYTES // each} pixels or fewer"
            )
        self._checked = True


def fitted_state(entry: Score, pixels: DrawnPixels) -> dict[str, Tensor]:
    """What a score keeps of the pixels, float32 where it is no whole number.

    Raises
    ------
    FitError
        Naming the score, if it fails or keeps something else than finite tensors.
    """
    fitted: Any = entry.function
    try:
        state = fitted.fit(pixels)
    except (GraduncError, Warning):
        raise
    except Exception as error:  # a user's function may raise anything
        raise FitError(f"score {entry.name!r} could not be fitted ({brief(error)})") from error
    if not isinstance(state, dict) or not state or not all(isinstance(part, Tensor) for part in state.values()):
        raise FitError(f"score {entry.name!r}: fit returned {type(state).__name__}; expected tensors by name")
    kept = {}
    for name, part in state.items():
        own = part.detach().cpu().float() if part.is_floating_point() else part.detach().cpu()
        if not bool(torch.isfinite(own).all()):
            raise FitError(f"score {entry.name!r}: {name!r} of its fit is not finite")
        kept[name] = own.contiguous().clone()
    return kept
