"""frames -> network -> labelled pixels -> the scaling of logits that calibrates them, judged on other frames."""

from __future__ import annotations

import warnings
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, fields, replace
from functools import partial
from typing import TypeVar, Unpack

import numpy as np
import torch
import xarray as xr
from torch import Tensor, nn

from ..datasets.conventions import some
from ..datasets.frames import Frame, Frames
from ..kernels.resize import neighbours
from ..metrics.arrays.reliability import ece, reliability
from ..metrics.arrays.scaling import fit_temperature, fit_vector_scaling
from ..networks.head import Head
from ..networks.runner import out_of_memory, restored
from ..schema.errors import FitError, FrameError
from ..schema.frame import CLASS_SCORES, id_type, ignored
from ..schema.scores import tempered_name
from ..scores.drawing import random_of
from ..scores.maps import check_finite
from ..scores.needs import HeadOutput
from ..scores.resized_logits import resized_pixel_scores
from ..scores.resizing import resize_logits
from ..store.progress import counted
from .classes import known_class_table, numbered_alike
from .compute import loaded_one
from .network_maps import NetworkMaps, Ready
from .pipeline import LeftOut, Pipeline, chosen_frames, ids_of_set
from .report import Report
from .runners import check_saved, runner_of
from .settings import Settings, SettingsChanges, changed, check_count, check_whole, resolve_device
from .stages import Stages

__all__ = ["SCALINGS", "calibrate"]

SCALINGS = ("none", "temperature", "vector")
"""What is done to logits before the softmax is taken."""

BINS = 15
"""Of confidence, for the expected calibration error."""

_T = TypeVar("_T")

_PIXELS_EACH = 10  # for each weight and each bias
_CALIBRATED = ("msp", "entropy", "margin")


def calibrate(
    model: str | nn.Module,
    frames: Frames | Iterable[Frame] | Frame,
    settings: Settings | None = None,
    *,
    pixels: int = 100_000,
    progress: bool = True,
    **changes: Unpack[SettingsChanges],
) -> xr.Dataset:
    """Fit a temperature, and a weight and a bias for each class, and say how calibrated the network is with them.

    Labelled frames are split in two by the seed. On pixels drawn from one half both are fitted: they minimise the
    negative log-likelihood. All labelled pixels of the other half tell what came of it. Logits are those resized to the
    image, as for every score of the softmax; the network sees every frame once.

    >>> found = gv.calibrate(net, frames)                                                    # doctest: +SKIP
    >>> gv.compute(net, others, out, scores=found.attrs["scores"])  # such as entropy_T1.37  # doctest: +SKIP

    Parameters
    ----------
    model : str, nn.Module or Network
        See `load_model`. It is given back as it was.
    frames : Frames, iterable of Frame, or Frame
        With class labels, two or more; of the kind that the network will see, and others than it was trained on.
    settings : Settings, optional
        As for `compute`; its scores make no difference.
    pixels : int
        How many labelled pixels are drawn to fit on, each as likely as any other. They are kept in memory, 4 bytes for
        each and class, and 50 more while the fit is made: 100 MB for 100,000 pixels of 19 classes. All else is bounded
        by one batch of frames.
    progress : bool
        Whether a progress bar is shown.
    **changes
        Fields of `Settings`: ``input_size=(512, 1024), limit=100``. ``seed`` tells which frames are fitted on and which
        of their pixels are drawn; the order of frames and the batch do not.

    Returns
    -------
    xarray.Dataset (part, scaling), (class)
        ``ece`` (15 bins of confidence), ``nll`` (nats) and ``accuracy`` of the drawn pixels (``"fitted"``) and of the
        other frames (``"held out"``), as the network is (``"none"``), with the temperature and with vector scaling,
        and how many ``pixels`` of how many ``frames``; ``temperature``; ``weight`` and ``bias`` of each class;
        ``drawn`` pixels of each. In the attribute ``scores`` stand those to ask for at that temperature; none takes
        weights and biases, which change the prediction as well.

    Raises
    ------
    FitError
        If there are fewer labelled frames than two, or too few labelled pixels, or no temperature is best.
    GraduncError
        One of its kinds, naming the file or value.

    Warns
    -----
    UserWarning
        Naming classes that no drawn pixel has, frames without labels, and frames left out under ``on_error="skip"``.

    Source: Guo et al., "On Calibration of Modern Neural Networks" (arXiv:1706.04599).
    """
    settings = changed(settings or Settings(), changes)
    check_whole(settings, "logits are calibrated on")
    check_count("pixels", pixels)
    seed = settings.seed
    chosen = chosen_frames(frames, settings.limit)
    labelled = _labelled(chosen)
    skipped: list[LeftOut] = []
    with restored(loaded_one(model, "which is calibrated")) as network:
        size = network.preprocessing.chosen_size(settings.input_size)
        settings = replace(settings, input_size=size, scores=("msp",), fit=None, images=False)
        runner = runner_of([network], resolve_device(settings.device), replace(settings, seed=Settings.seed))
        check_saved([network], labelled, settings, ids_of_set(frames, chosen, settings.limit))
        known = known_class_table(runner, labelled, settings)
        mapped, _ = numbered_alike(labelled, known, getattr(network, "reduce_labels", False))
        source = NetworkMaps(runner, settings, known.names, Stages())
        fitted, held_out = _halves(mapped, seed)
        with counted(len(mapped), f"calibrating on {source.device}", shown=progress) as more:
            drawn = _Drawn(pixels)
            for part in _each(source, fitted, partial(_drawn_pixels, source, pixels, seed), skipped, more):
                drawn.add(part)
            logits, label = drawn.logits, drawn.label
            scalings = _fit(logits, label, known.names, fitted, pixels)
            judged = dict.fromkeys(SCALINGS, _Judged())
            for parts in _each(source, held_out, partial(_judged_frame, source, scalings), skipped, more):
                judged = {method: judged[method] + parts[method] for method in SCALINGS}
        image = HeadOutput(logits.T[None, :, None], None, nn.Identity(), threshold=network.threshold)
        at_fit = _judged(image, label[None].numpy().astype(id_type(len(known.names))), scalings)
    if skipped:
        listed = "; ".join(str(one.error) for one in skipped[:5])
        warnings.warn(f"{len(skipped)} frames were skipped: {listed}", stacklevel=2)
    if not judged["none"].pixels:
        raise FitError(f"no pixel of {_named(held_out)}, which tell what came of it, is labelled; all are ignored")
    by_part = {"fitted": at_fit, "held out": judged}

    def table(value: Callable[[_Judged], float]) -> tuple[tuple[str, str], list[list[float]]]:
        return ("part", "scaling"), [[value(of[scaling]) for scaling in SCALINGS] for of in by_part.values()]

    weight, bias = scalings["vector"]
    temperature = 1 / float(scalings["temperature"][0][0])
    sizes = [len(part) - sum(one.id in {f.id for f in part} for one in skipped) for part in (fitted, held_out)]
    return xr.Dataset(
        {
            "ece": (*table(lambda one: one.ece), {"long_name": f"expected calibration error, {BINS} bins"}),
            "nll": (*table(lambda one: one.nll), {"long_name": "negative log-likelihood", "units": "nats"}),
            "accuracy": (*table(lambda one: one.accuracy), {"long_name": "share of pixels that are predicted right"}),
            "pixels": ("part", [of["none"].pixels for of in by_part.values()]),
            "frames": ("part", sizes),
            "temperature": ((), temperature, {"long_name": "temperature that minimises the NLL"}),
            "weight": ("class", weight, {"long_name": "weight of a class's logit, vector scaling"}),
            "bias": ("class", bias, {"long_name": "bias of a class's logit, vector scaling"}),
            "drawn": ("class", np.bincount(label, minlength=len(known.names)), {"long_name": "pixels fitted on"}),
        },
        coords={
            "part": np.array(list(by_part), object),
            "scaling": np.array(SCALINGS, object),
            "class": np.array(known.names, object),
        },
        attrs={
            "network": network.name,
            "scores": [tempered_name(name, float(f"{temperature:.4g}")) for name in _CALIBRATED],
            "fitted_on": [frame.id for frame in fitted],
            "held_out": [frame.id for frame in held_out],
            "seed": seed,
            **({"logits_are": CLASS_SCORES} if network.returns_queries else {}),
        },
    )


# --------------------------------------------------------------------------------------------------------------------
# frames


def _named(frames: Sequence[Frame]) -> str:
    return some("frame", [frame.id for frame in frames])


def _labelled(frames: Sequence[Frame]) -> tuple[Frame, ...]:
    """The frames that have class labels, in the order of their ids."""
    twice = [frame_id for frame_id, count in Counter(frame.id for frame in frames).items() if count > 1]
    if twice:
        raise FrameError(f"{some('frame', twice)} stand there more than once; expected each frame once")
    labelled = tuple(sorted((frame for frame in frames if frame.label_path is not None), key=lambda frame: frame.id))
    if len(labelled) < 2:
        have = f"only {labelled[0].id!r} has" if labelled else "none has"
        raise FitError(
            f"of {len(frames)} frames {have} class labels; expected two or more, as some are fitted on and the others "
            "tell what came of it"
        )
    if len(labelled) < len(frames):
        without = [frame for frame in frames if frame.label_path is None]
        warnings.warn(f"{len(without)} frames have no class labels and are left out: {_named(without)}", stacklevel=3)
    return labelled


def _halves(frames: Sequence[Frame], seed: int) -> tuple[list[Frame], list[Frame]]:
    """Frames to fit on, and the others."""
    order = np.random.default_rng(seed).permutation(len(frames))
    first = set(order[: len(frames) // 2].tolist())
    return (
        [frame for place, frame in enumerate(frames) if place in first],
        [frame for place, frame in enumerate(frames) if place not in first],
    )


def _each(
    source: NetworkMaps,
    frames: Sequence[Frame],
    function: Callable[[Ready, Head, int], _T],
    skipped: list[LeftOut],
    more: Callable[[], None],
) -> Iterator[_T]:
    """Run the network, and a function of each frame; a frame that fails is raised, or added to those left out."""
    with ThreadPoolExecutor(2, "read") as reading:
        ready = Pipeline(source, Report()).prefetched(frames, reading)
        try:
            for part in source.each(ready, function):
                if not isinstance(part, LeftOut):
                    yield part
                elif source.settings.on_error == "stop":
                    raise part.error
                else:
                    skipped.append(part)
                more()
        finally:
            reading.shutdown(wait=False, cancel_futures=True)


# --------------------------------------------------------------------------------------------------------------------
# pixels to fit on


@dataclass
class _Drawn:
    """Pixels with the smallest of the random numbers that all have: each is as likely among them as any other."""

    most: int
    keys: Tensor = field(default_factory=lambda: torch.empty(0, dtype=torch.float64))
    logits: Tensor = field(default_factory=lambda: torch.empty(0, 0))
    label: Tensor = field(default_factory=lambda: torch.empty(0, dtype=torch.long))

    def add(self, other: _Drawn) -> None:
        """Take those of another frame into account."""
        keys = torch.cat([self.keys, other.keys])
        kept = keys.argsort(stable=True)[: self.most]
        self.keys, self.label = keys[kept], torch.cat([self.label, other.label])[kept]
        self.logits = torch.cat([self.logits.reshape(-1, other.logits.shape[1]), other.logits])[kept]


def _drawn_pixels(source: NetworkMaps, most: int, seed: int, item: Ready, head: Head, index: int) -> _Drawn:
    """Some labelled pixels of a frame and their logits, by random numbers of the seed and the frame's id."""
    frame = item.frame
    assert frame.label is not None
    places = np.flatnonzero(~ignored(frame.label))
    keys = random_of(seed, frame.id).random(len(places))
    order = np.argsort(keys, kind="stable")[:most]
    places, keys = places[order], keys[order]
    output = source.output(head, index)
    check_finite(output.logits, "logits", frame.id)
    logits = _resized_at(output, frame.size, places)
    label = torch.from_numpy(frame.label.flat[places].astype("i8"))
    return _Drawn(most, torch.from_numpy(keys), logits, label)


def _resized_at(output: HeadOutput, size: tuple[int, int], places: np.ndarray) -> Tensor:
    """Logits at some places of the image, (pixels, C) on the CPU: of the resized ones no others are made."""
    logits, on = output.logits[0].float(), output.logits.device
    axes = zip(np.divmod(places, size[1]), logits.shape[1:], size, strict=True)
    (top, bottom, down), (left, right, across) = (
        [torch.from_numpy(part[index]).to(on) for part in neighbours(own, whole, output.align_corners)]
        for index, own, whole in axes
    )
    upper = logits[:, top, left] * (1 - across) + logits[:, top, right] * across
    lower = logits[:, bottom, left] * (1 - across) + logits[:, bottom, right] * across
    return (upper * (1 - down) + lower * down).T.cpu()


Scaling = tuple[Tensor, Tensor]
"""Weight and bias of each class."""


def _fit(
    logits: Tensor, label: Tensor, classes: Sequence[str], frames: Sequence[Frame], asked: int
) -> dict[str, Scaling]:
    """Weights and biases by each of `SCALINGS`."""
    least = 2 * _PIXELS_EACH * len(classes)
    if len(label) < least:
        raise FitError(
            f"{len(label)} labelled pixels of {_named(frames)} to fit on, of {asked} that were asked for; expected "
            f"{least} or more, {_PIXELS_EACH} for each weight and bias of {len(classes)} classes"
        )
    counts = torch.bincount(label, minlength=len(classes))
    missing = [name for name, count in zip(classes, counts, strict=True) if not count]
    if missing:
        warnings.warn(
            f"no pixel that is fitted on is of {some('class', missing)}: vector scaling leaves these as the "
            "temperature does",
            stacklevel=3,
        )
    given = logits.double().numpy(), label.numpy()
    try:
        temperature = fit_temperature(*given)
        weight, bias = fit_vector_scaling(*given, temperature)
    except ValueError as error:
        raise FitError(f"{len(label)} pixels of {_named(frames)}: {error}") from error
    one, none = torch.ones(len(classes), dtype=torch.float64), torch.zeros(len(classes), dtype=torch.float64)
    return {
        "none": (one, none),
        "temperature": (one / temperature, none),
        "vector": (torch.from_numpy(weight), torch.from_numpy(bias)),
    }


# --------------------------------------------------------------------------------------------------------------------
# how calibrated


@dataclass(frozen=True)
class _Judged:
    """How calibrated pixels are: what adds up over frames.

    Attributes
    ----------
    right, wrong : array (BINS,)
        Pixels in each bin of confidence, the largest probability.
    confidence : array (BINS,)
        Sum of their confidence.
    surprise : float
        Sum of -ln pi of the labels.
    """

    right: np.ndarray = field(default_factory=lambda: np.zeros(BINS))
    wrong: np.ndarray = field(default_factory=lambda: np.zeros(BINS))
    confidence: np.ndarray = field(default_factory=lambda: np.zeros(BINS))
    surprise: float = 0.0

    def __add__(self, other: _Judged) -> _Judged:
        return _Judged(*(getattr(self, one.name) + getattr(other, one.name) for one in fields(self)))

    @property
    def pixels(self) -> int:
        """How many there are."""
        return int(self.right.sum() + self.wrong.sum())

    @property
    def ece(self) -> float:
        """Expected calibration error."""
        return float(ece(*reliability(self.right, self.wrong, self.confidence, BINS)))

    @property
    def nll(self) -> float:
        """Mean negative log-likelihood."""
        return self.surprise / self.pixels

    @property
    def accuracy(self) -> float:
        """Share that is predicted right."""
        return float(self.right.sum()) / self.pixels


def _judged_frame(
    source: NetworkMaps, scalings: Mapping[str, Scaling], item: Ready, head: Head, index: int
) -> dict[str, _Judged]:
    frame = item.frame
    assert frame.label is not None
    output = source.output(head, index)
    check_finite(output.logits, "logits", frame.id)
    with out_of_memory(f"the softmax of frame {frame.id!r} at {frame.size}", source.device), torch.inference_mode():
        return _judged(output, frame.label, scalings)


def _judged(output: HeadOutput, label: np.ndarray, scalings: Mapping[str, Scaling]) -> dict[str, _Judged]:
    """How calibrated an image is by each of the scalings, as `compute` would count it."""
    target = torch.from_numpy(label.astype("i8")).to(output.logits.device)[None]
    known = torch.from_numpy(~ignored(label)).to(target.device)
    found = {}
    for method, scaling in scalings.items():
        weight, bias = (part.to(target.device)[:, None, None] for part in scaling)
        # what is linear may be done before the logits are resized
        logits = (output.logits * weight + bias).float()
        scores = resized_pixel_scores(logits, label.shape, ("msp",), target, output.align_corners)
        predicted = scores.prediction
        if output.threshold is not None:
            decided = output.predicted(resize_logits(logits, label.shape, output.align_corners))
            predicted = scores.prediction if decided is None else decided
        right = (predicted[0] == target[0])[known].double()
        confidence = 1 - scores.scores[0, 0][known].double()
        place = (confidence * BINS).long().clamp_max(BINS - 1)
        by_bin = [torch.bincount(place, part, BINS).cpu().numpy() for part in (right, 1 - right, confidence)]
        assert scores.nll is not None
        found[method] = _Judged(by_bin[0], by_bin[1], by_bin[2], float(scores.nll[0][known].double().sum()))
    return found
