"""What a run is asked for, and what of it decides whether cached frames may be reused."""

from __future__ import annotations

import hashlib
import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from typing import TYPE_CHECKING, Any, TypedDict, TypeVar, Unpack

import torch

from ..networks.network import Network
from ..networks.preprocessing import InputSize, Preprocessing
from ..networks.runner import check_autocast, check_input_size
from ..networks.tiled import OVERLAP, Overlap, Tile, check_overlap, check_tile
from ..schema.entries.passes import KINDS, kind_needed
from ..schema.errors import DeviceError, SettingsError, nearest
from ..schema.frame import SCHEMA_VERSION
from ..schema.scores import DEFAULT_SCORES, lookup, resolve_scores
from ..scores.fit import Fit
from ..scores.maps import ScoreOptions
from ..scores.own import fingerprints

__all__ = [
    "PASS_SETTINGS",
    "PassChanges",
    "RunChanges",
    "RunSettings",
    "Settings",
    "SettingsChanges",
    "cache_key",
    "changed",
    "check_count",
    "check_whole",
    "decisive",
    "resolve_device",
]

Color = tuple[int, int, int]

DECIDES = {"decides": True}
"""Metadata of a field on which the content of a cached frame depends: a cache is resumed only under the same value."""


PASS_SETTINGS: Mapping[str, tuple[str, Any]] = {
    "passes": ("dropout", 8),
    "dropout": ("dropout", None),
    "seed": ("dropout", 0),
    "flips": ("augmented", True),
    "scales": ("augmented", (1.0,)),
}
"""Fields that decide in runs of one kind of passes alone: which, and their defaults."""


class RunChanges(TypedDict, total=False):
    """Fields of `RunSettings` as keywords."""

    classes: Sequence[str] | None
    colors: Sequence[Color] | None
    on_error: str
    limit: int | None
    images: bool


class PassChanges(RunChanges, total=False):
    """Fields of `Settings` as keywords, all but the scores."""

    input_size: InputSize
    tile: Tile | int | None
    overlap: Overlap
    align_corners: bool | None
    bias: bool
    device: str | torch.device
    batch: int | None
    compile: bool
    channels_last: bool
    autocast: str | None
    profile: bool
    passes: int
    dropout: str | Sequence[str] | None
    seed: int
    flips: bool
    scales: Sequence[float]
    fit: Fit | str | os.PathLike[str] | None


class SettingsChanges(PassChanges, total=False):
    """Fields of `Settings` as keywords."""

    scores: str | Sequence[str] | None


@dataclass(frozen=True, kw_only=True)
class RunSettings:
    """What every run over frames is asked for, wherever its maps come from.

    Attributes
    ----------
    classes, colors : tuple, optional
        Names and RGB colours of the classes; by default those the network or the frames know.
    on_error : "stop" or "skip"
        Whether a frame that fails ends the run, or is left out and reported.
    limit : int, optional
        Only the first so many frames.
    images : bool
        Whether the encoded images are copied into the cache, which makes it self-contained.

    Raises
    ------
    SettingsError
        If a value makes no sense; the text names it and what was expected.
    """

    classes: tuple[str, ...] | None = None
    colors: tuple[Color, ...] | None = None
    on_error: str = "stop"
    limit: int | None = None
    images: bool = field(default=True, metadata=DECIDES)

    def __post_init__(self) -> None:
        if self.on_error not in ("stop", "skip"):
            raise SettingsError(f"on_error is {self.on_error!r}; expected 'stop' or 'skip'")
        if self.limit is not None:
            check_count("limit", self.limit)
        if isinstance(self.classes, str):
            raise SettingsError(f"classes is {self.classes!r}; expected a list of names")
        for color in self.colors or ():
            if (
                not isinstance(color, Sequence)
                or len(color) != 3
                or not all(isinstance(part, int) and 0 <= part <= 255 for part in color)
            ):
                raise SettingsError(f"colour {color!r} of a class; expected (red, green, blue) of 0 to 255")
        self._set(
            classes=None if self.classes is None else tuple(map(str, self.classes)),
            colors=None if self.colors is None else tuple((r, g, b) for r, g, b in self.colors),
        )

    def _set(self, **values: Any) -> None:
        """Put checked values, in the form that is declared, into the frozen object."""
        for name, value in values.items():
            object.__setattr__(self, name, value)


@dataclass(frozen=True, kw_only=True)
class Settings(RunSettings):
    """What a run of a network over frames is asked for.

    >>> settings = gv.Settings(scores="paper", input_size=(512, 1024))                       # doctest: +SKIP
    >>> cache = gv.compute(net, frames, "runs/ra21", settings)                               # doctest: +SKIP
    >>> cache = gv.compute(net, frames, "runs/few", settings, limit=20)                      # doctest: +SKIP

    Attributes
    ----------
    scores : tuple of str
        Given as `gradunc_viz.schema.scores.resolve_scores` takes them; by default `DEFAULT_SCORES`.
    input_size : (height, width) or "own", optional
        Size the image is resized to for the network: by default what the network asks for, else its own, as ``"own"``
        says for every network.
    tile : (height, width), int or "auto", optional
        The network sees windows of that size, which overlap, and their maps are merged (see
        `gradunc_viz.networks.tiled`). Images keep their own size then, unless `input_size` is given too; ``"auto"``:
        whole images as without it, resized where the network asks for a size, and beyond 8 megapixels windows of that
        size, or 1024 x 1024, of the image at its own scale.
    overlap : int or float
        Pixels that windows share with their neighbours at least, or their share of a window, below 1.
    align_corners : bool, optional
        How logits and norms are resized to the image; by default as the network itself resizes its logits.
    bias : bool
        Whether gradient norms include the bias of the head.
    device : str or torch.device
        ``"auto"``, ``"cpu"``, ``"cuda"`` ...
    batch : int, optional
        Frames per forward pass; by default 1 on a CPU, 4 on CUDA. Halved when memory runs out.
    compile : bool
        Whether `torch.compile` compiles the network. It takes a while at the start, for every size of input: give
        `input_size` where images differ. Where it cannot (no C++ compiler), a warning says so and the run goes on.
    channels_last : bool
        Whether images enter the network channels last, which suits convolutions on most processors and GPUs; the
        weights of the network's convolutions are laid out likewise for the time of the run.
    autocast : "bf16" or "fp16", optional
        Lets layers run in half precision (`torch.autocast`). It changes the numbers, and so decides whether cached
        frames may be reused; the other two change their rounding only, as another device does.
    profile : bool
        Whether the cost of every score is measured on the first frame that is computed, and kept beside the frames (see
        `gradunc_viz.cost`); and whether `Report.stages` is exact on a GPU too, which then waits for each stage.
    passes, dropout, seed
        Of MC dropout, which a run is that computes a score ``mcd_...``: how many passes; names of the dropout layers
        that are switched on, of modules that hold some, or how such names begin (all by default); what masks are drawn
        from, together with the frame.
    flips, scales
        Of test-time augmentation, which a run is that computes a score ``tta_...``: whether each copy of the image is
        seen mirrored too, and how large the copies are beside the network's usual input.
    fit : Fit or path-like, optional
        What scores that need it were fitted on: of `gradunc_viz.fit`, or a file of it. It decides as well.
    classes, colors, on_error, limit, images
        As in `RunSettings`.

    Raises
    ------
    SettingsError
        If a value makes no sense; the text names it and what was expected.
    UnknownScoreError
        If there is no such score.
    """

    scores: tuple[str, ...] = field(default=DEFAULT_SCORES, metadata=DECIDES)
    input_size: InputSize = field(default=None, metadata=DECIDES)
    tile: Tile | None = None
    overlap: Overlap = OVERLAP
    align_corners: bool | None = field(default=None, metadata=DECIDES)
    bias: bool = field(default=False, metadata=DECIDES)
    device: str | torch.device = "auto"
    batch: int | None = None
    compile: bool = False
    channels_last: bool = False
    autocast: str | None = field(default=None, metadata=DECIDES)
    profile: bool = False
    passes: int = PASS_SETTINGS["passes"][1]
    dropout: tuple[str, ...] | None = PASS_SETTINGS["dropout"][1]
    seed: int = PASS_SETTINGS["seed"][1]
    flips: bool = PASS_SETTINGS["flips"][1]
    scales: tuple[float, ...] = PASS_SETTINGS["scales"][1]
    fit: Fit | None = None

    if TYPE_CHECKING:  # what may be given is wider than what is kept

        def __init__(self, **values: Unpack[SettingsChanges]) -> None: ...

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.batch is not None:
            check_count("batch", self.batch)
        check_autocast(self.autocast)
        check_input_size(self.input_size)
        tile: Any = (self.tile, self.tile) if isinstance(self.tile, int) else self.tile
        check_tile(tile)
        check_overlap(self.overlap, tile)
        size = self.input_size if self.input_size is None or self.input_size == "own" else tuple(self.input_size)
        dropout = (self.dropout,) if isinstance(self.dropout, str) else self.dropout
        _check_passes(self.passes, dropout, self.seed, self.scales)
        self._set(
            scores=resolve_scores(self.scores),
            input_size=size,
            tile=tile if tile is None or tile == "auto" else tuple(tile),
            dropout=None if dropout is None else tuple(dropout),
            scales=tuple(map(float, self.scales)),
            fit=self.fit if self.fit is None or isinstance(self.fit, Fit) else Fit.load(self.fit),
        )
        _ = self.passes_kind

    @property
    def passes_kind(self) -> str | None:
        """The kind of passes that the scores ask for, see `KINDS`; None for one pass.

        Raises
        ------
        SettingsError
            If they ask for several kinds; the text names two such scores.
        """
        kinds = {kind: name for name in self.scores if (kind := kind_needed(lookup(name)))}
        if len(kinds) > 1:
            (kind, name), (other_kind, other), *_ = kinds.items()
            raise SettingsError(
                f"score {name!r} needs passes of {KINDS[kind]} and {other!r} of {KINDS[other_kind]}: expected one kind "
                "in a run"
            )
        return next(iter(kinds), None)

    @property
    def fit_of_scores(self) -> Fit | None:
        """The fit, if any of the scores needs one."""
        return self.fit if any("fit" in lookup(name).needs for name in self.scores) else None

    @property
    def options(self) -> ScoreOptions:
        """What is computed from logits and features, and how."""
        return ScoreOptions(self.scores, self.align_corners, self.bias)


_S = TypeVar("_S", bound=RunSettings)


def changed(settings: _S, changes: Mapping[str, Any]) -> _S:
    """The settings with other values for some fields, checked anew.

    Raises
    ------
    SettingsError
        If these are no settings, or have no such field.
    """
    if not isinstance(settings, RunSettings):
        raise SettingsError(f"settings are {settings!r}; expected a Settings, or its fields as keywords")
    known = [one.name for one in fields(settings)]
    for name in changes:
        if name not in known:
            raise SettingsError(f"no setting is called {name!r}{nearest(name, known)} ({', '.join(known)})")
    return replace(settings, **changes)


def decisive(settings: RunSettings) -> dict[str, Any]:
    """The fields on which the content of a cached frame depends, and their values."""
    found = {one.name: getattr(settings, one.name) for one in fields(settings) if one.metadata.get("decides")}
    if isinstance(settings, Settings):
        if settings.tile is not None:
            found |= {"tile": settings.tile, "overlap": settings.overlap}
        kind = settings.passes_kind
        found |= {name: getattr(settings, name) for name, (of, _) in PASS_SETTINGS.items() if of == kind}
    return found


def cache_key(network: Network | Sequence[Network], settings: Settings, classes: Sequence[str]) -> dict[str, Any]:
    """State what decides whether a cached frame may be reused; frames carry their content hash besides.

    Of several networks, the members of an ensemble, the order is that of `gradunc_viz.networks.ensemble.in_order`.
    """
    own, fit = fingerprints(settings.scores), settings.fit_of_scores
    networks = [network] if isinstance(network, Network) else list(network)
    members = [_described(one, classes) for one in networks]
    described = members[0]
    if len(members) > 1:
        for member, one in zip(members, networks, strict=True):  # each has its own, where none is asked for
            member["input_size"] = one.preprocessing.chosen_size(settings.input_size)
        weights = hashlib.blake2b("".join(one["weights"] for one in members).encode(), digest_size=20).hexdigest()
        name = " + ".join(one["name"] for one in members)
        described = {**members[0], "name": name, "weights": weights, "members": members}
    return {
        "schema_version": SCHEMA_VERSION,
        "network": described,
        "settings": decisive(settings),
        **({"own_scores": own} if own else {}),
        **({"fit": fit.summary} if fit else {}),
    }


def _described(network: Network, classes: Sequence[str]) -> dict[str, Any]:
    """What of a network decides."""
    return {
        "name": network.name,
        "weights": network.weights_digest(),
        "head": network.head or "auto",
        "drop_channels": list(network.drop_channels),
        "normalize": [list(part) for part in network.normalize] if network.normalize else None,
        "classes": list(classes),
        **{key: value for key in ("output", "threshold") if (value := getattr(network, key)) is not None},
    } | _unusual(network)


def _unusual(network: Network) -> dict[str, Any]:
    """How images are prepared, as far as it is another way than for most networks."""
    how, usual = network.preprocessing, Preprocessing()
    values = {"channels": how.channels, "resample": int(how.resample)}
    return {name: value for name, value in values.items() if value != getattr(usual, name)}


def resolve_device(device: str | torch.device = "auto") -> torch.device:
    """CUDA where there is one under ``"auto"``, else what was asked for.

    Raises
    ------
    DeviceError
        If the device is unknown, or CUDA was asked for and is absent.
    """
    if isinstance(device, str) and device == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        resolved = torch.device(device)
    except RuntimeError:
        raise DeviceError(f"device {device!r} is unknown; expected auto, cpu or cuda") from None
    if resolved.type == "cuda" and not torch.cuda.is_available():
        raise DeviceError(f"device {str(device)!r} was asked for, but no CUDA device is available; use cpu or auto")
    if resolved.type == "cuda" and (resolved.index or 0) >= torch.cuda.device_count():
        raise DeviceError(
            f"device {str(device)!r} was asked for, but there are {torch.cuda.device_count()} CUDA devices"
        )
    return resolved


def check_whole(settings: Settings, why: str) -> None:
    """Check that images are seen whole.

    Raises
    ------
    SettingsError
        If windows were asked for; the text tells of what they are no part.
    """
    if settings.tile is not None:
        raise SettingsError(f"tile is {settings.tile!r}; {why} whole images: leave it out, or give an input_size")


def check_count(name: str, count: object, least: int = 1) -> None:
    """Check that a value is a whole number, and large enough.

    Raises
    ------
    SettingsError
        Naming the value and what was expected.
    """
    if not isinstance(count, int) or isinstance(count, bool) or count < least:
        raise SettingsError(f"{name} is {count!r}; expected a whole number of {least} or more")


def _check_passes(passes: object, dropout: Sequence[str] | None, seed: object, scales: object) -> None:
    check_count("passes", passes, 2)
    if dropout is not None and (not dropout or not all(isinstance(name, str) and name for name in dropout)):
        raise SettingsError(f"dropout is {dropout!r}; expected names of layers, or None for all")
    check_count("seed", seed, 0)
    numbers = list(scales) if isinstance(scales, Sequence) and not isinstance(scales, str) else []
    fit = all(isinstance(one, (int, float)) and not isinstance(one, bool) for one in numbers)
    if not numbers or not fit or not all(0 < one < math.inf for one in numbers) or len({*numbers}) < len(numbers):
        raise SettingsError(f"scales is {scales!r}; expected different positive numbers such as (0.75, 1, 1.25)")
