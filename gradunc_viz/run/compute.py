"""frames -> network -> scores -> cache: one pass, overlapped, resumable."""

from __future__ import annotations

import os
import tempfile
import warnings
from collections.abc import Iterable, Sequence
from contextlib import ExitStack
from dataclasses import replace
from functools import partial
from math import prod
from pathlib import Path
from typing import Any, Unpack

import numpy as np
import torch
import xarray as xr
from torch import nn

from ..datasets.bands import BANDS_SUFFIX, read_bands
from ..datasets.conventions import some
from ..datasets.decoding import read_image
from ..datasets.frames import Frame, Frames
from ..datasets.image_source import ImageSource
from ..networks.ensemble import in_order
from ..networks.load import load_model
from ..networks.network import Network
from ..networks.runner import restored
from ..networks.saved import SavedLogits
from ..networks.tiled import LARGE, TiledImage
from ..schema.errors import FrameError, GraduncError, ModelError, SettingsError
from ..schema.scores import DEFAULT_SCORES, lookup
from ..store.backend import Backend, Place, backend_of
from ..store.cache import Cache, open_cache
from ..store.writer import CacheWriter
from .classes import known_class_table, numbered_alike
from .decode import DecodedFrame
from .network_maps import NetworkMaps
from .pipeline import Pipeline, chosen_frames, ids_of_set
from .report import Report, cautions
from .runners import check_saved, queries_first, runner_of
from .settings import Settings, SettingsChanges, cache_key, changed, resolve_device
from .stages import Stages
from .striped import StripedImage

__all__ = ["Report", "compute", "compute_report", "finished_cache", "loaded", "loaded_one", "score_image"]


Model = str | nn.Module
"""What `gradunc_viz.networks.load.load_model` takes."""


def compute(
    model: Model | Sequence[Model],
    frames: Frames | Iterable[Frame] | Frame,
    out: Place,
    settings: Settings | None = None,
    *,
    progress: bool = True,
    **changes: Unpack[SettingsChanges],
) -> Cache:
    """Score every frame with a network and cache the result; frames already in the cache are skipped.

    Parameters
    ----------
    model : str, nn.Module or Network
        See `load_model`. It is given back as it was: device, memory layout, mode. Or a list of such, the members of an
        ensemble: maps are those of their mean prediction.
    frames : Frames, iterable of Frame, or Frame
        See `open_frames`. Whatever holds the frames makes no difference.
    out : path-like
        Folder of the cache; absent, empty, or a cache of the same network and settings, which is resumed.
    settings : Settings, optional
        What is asked for; by default `DEFAULT_SCORES`, each image at its own size.
    progress : bool
        Whether a progress bar is shown.
    **changes
        Fields of `Settings`, in place of those of `settings`: ``scores="paper", input_size=(512, 1024)``.

    Returns
    -------
    Cache
        As from ``open_cache(out)``.

    Raises
    ------
    GraduncError
        One of its kinds, naming the file or value; frames finished before it stay in the cache.

    Warns
    -----
    UserWarning
        Listing the frames left out under ``on_error="skip"``, and where labels look as if they meant other classes than
        the network's: more than 80 % of the labelled pixels are wrong, or all are ignored.

    Notes
    -----
    In a cache a class id is a place in `Cache.classes`, in labels, predictions and every table. In a mask an id is an
    output channel of the network, counted with those that `drop_channels` leaves out, which are ignored there. Where
    the classes of masks have names, by their layout or by ``classes.json``, ids are led to the network's classes of
    these names; a mapping of `open_frames` leads to channels. A network whose files say that its labels were reduced
    was trained on masks that hold channels plus 1.
    """
    place = backend_of(out)  # before a model's own code runs, which may go to another folder
    report = compute_report(model, frames, place, settings, progress=progress, **changes)
    return finished_cache(report, place)


def finished_cache(report: Report, out: Place) -> Cache:
    """The cache of a run, a warning that lists the frames it left out, and one for whatever looks odd in its labels."""
    if report.skipped:
        listed = "; ".join(message for _, message in report.skipped[:5])
        warnings.warn(f"{len(report.skipped)} frames were skipped: {listed}", stacklevel=3)
    cache = open_cache(out)
    for caution in cautions(cache.summary):
        warnings.warn(f"{cache.path}: {caution}", stacklevel=3)
    return cache


def compute_report(
    model: Model | Sequence[Model],
    frames: Frames | Iterable[Frame] | Frame,
    out: Place,
    settings: Settings | None = None,
    *,
    progress: bool = True,
    **changes: Unpack[SettingsChanges],
) -> Report:
    """`compute`, returning what was done instead of the cache."""
    settings = changed(settings or Settings(), changes)
    device = resolve_device(settings.device)
    chosen = chosen_frames(frames, settings.limit)
    place = backend_of(out)
    with ExitStack() as stack:
        networks = loaded(model)
        for one in networks:
            stack.enter_context(restored(one))
        network = networks[0]
        settings = _possible(settings, networks)
        with queries_first(networks, chosen, device, settings):
            runner = runner_of(networks, device, settings)
        settings = _sized(settings, networks)
        check_saved(networks, chosen, settings, ids_of_set(frames, chosen, settings.limit))
        # one pass of one network tells its classes; members of an ensemble are to be compared
        known = known_class_table(getattr(runner, "inference", runner), chosen, settings, place)
        chosen, remark = numbered_alike(chosen, known, getattr(network, "reduce_labels", False))
        classes, colors = known.names, known.colors
        settle = partial(torch.cuda.synchronize, device) if settings.profile and device.type == "cuda" else None
        report = Report(device=str(device), stages=Stages(settle), remarks=[remark] if remark else [])
        with queries_first(networks, chosen, device, settings):
            source = NetworkMaps(
                runner, settings, classes, report.stages, folder=_folder(place), large=_is_large(settings, chosen)
            )
        _warn_of_fit(settings)
        with CacheWriter(place, cache_key(networks, settings, classes), classes, colors) as writer:
            Pipeline(source, report, settings.on_error).run(chosen, writer, progress)
            if source.cost is not None:
                writer.put_cost(source.cost)
        if network.returns_queries:
            report.remarks.append(
                "class scores S of queries stand for logits: confidence, ECE, Brier score and NLL are of softmax(S)"
            )
            turned = [name for name in settings.scores if "_uni_" in name and lookup(name).orientation < 0]
            if turned:
                right = [f"{name}_masks" for name in turned if name.startswith("pgn_uni_")]
                instead = f"; the right name is {', '.join(right)}" if right else ""
                report.remarks.append(
                    f"for query models a large uniform norm means uncertain, and {', '.join(turned)} assumes the "
                    f"opposite{instead}"
                )
        _warn_of_fitted(source.fitted_on)
    _ = open_cache(place).summary  # stored now, so that the first look is not the one that pays for it
    return report


def score_image(
    model: Model | Sequence[Model],
    image: np.ndarray | str | os.PathLike[str] | ImageSource,
    settings: Settings | None = None,
    **changes: Unpack[SettingsChanges],
) -> xr.Dataset:
    """Scores of one image, without a cache.

    Parameters
    ----------
    model : str, nn.Module or Network
        See `load_model`. It is given back as it was. Or a list of such, the members of an ensemble.
    image : array (y, x, 3) uint8 RGB, the path of an image file, or what else `Frame.image_path` is
        For a network of other than three channels, (y, x, channels) or (y, x): 8 or 16 bits, or floating point, which
        is taken as it is.
    settings, **changes
        As for `compute`; what concerns sets of frames and their cache makes no difference here.

    Returns
    -------
    xarray.Dataset (y, x)
        ``prediction``, whose ids are places in the attribute ``classes``, and one variable per score, oriented: larger
        is more uncertain.
    """
    settings = changed(settings or Settings(), changes)
    with ExitStack() as stack:
        networks = loaded(model)
        for one in networks:
            stack.enter_context(restored(one))
        network = networks[0]
        if isinstance(network, SavedLogits):
            raise SettingsError(f"{network.name}: saved logits belong to frames, by their ids; expected 'compute'")
        settings = _possible(settings, networks)
        runner = runner_of(networks, resolve_device(settings.device), settings)
        settings = _sized(settings, networks)
        frame = DecodedFrame("the image", _pixels(image, network.in_channels))
        source = NetworkMaps(runner, settings, (), Stages())
        _warn_of_fit(settings)
        x = runner.prepare(frame.image, frame.id)
        if isinstance(x, TiledImage):
            scored = source.score_windows(frame, x)
            assert isinstance(scored.maps, StripedImage)
            n_channels = scored.maps.logits.shape[0] + len(network.drop_channels)
        else:
            head = source.run(x, frame.id)
            n_channels = head.logits.shape[1]
            scored = source.score(frame, head, x=x)
        names, maps = network.class_names(n_channels), scored.maps
    if isinstance(maps, StripedImage):
        oriented, prediction = maps.whole()
    else:
        oriented, prediction = maps.oriented.cpu().numpy(), maps.prediction.cpu().numpy()
    _warn_of_fitted(source.fitted_on)
    entries = [lookup(name) for name in settings.scores]
    variables: dict[str, Any] = {
        entry.name: (
            ("y", "x"),
            oriented[i],
            {"units": entry.units, "long_name": entry.title, "orientation": "larger = more uncertain"},
        )
        for i, entry in enumerate(entries)
    }
    variables["prediction"] = (("y", "x"), prediction, {"long_name": "predicted class id"})
    return xr.Dataset(
        variables,
        attrs={
            "network": " + ".join(one.name for one in networks),
            "head": scored.attrs["head"],
            "classes": list(names),
        },
    )


def loaded_one(model: Model | Sequence[Model], why: str) -> Network:
    """The network, where there is to be one.

    Raises
    ------
    SettingsError
        If several are given; the text ends in `why`.
    """
    network, *others = loaded(model)
    if others:
        raise SettingsError(f"{1 + len(others)} networks were given; expected one, {why}")
    return network


def _possible(settings: Settings, networks: Sequence[Network]) -> Settings:
    """The settings without scores of features that nobody asked for by name, where features are unknown.

    Warns
    -----
    UserWarning
        Naming the scores.
    """
    reason = next((one.featureless for one in networks if one.featureless), "")
    if not reason or settings.scores != DEFAULT_SCORES:
        return settings
    left_out = [name for name in settings.scores if "features" in lookup(name).needs]
    warnings.warn(f"{some('score', left_out)}: left out of the default, as {reason}", stacklevel=4)
    return replace(settings, scores=tuple(name for name in settings.scores if name not in left_out))


def _sized(settings: Settings, networks: Sequence[Network]) -> Settings:
    """The settings with the size of the network's input that comes of them, which decides."""
    if settings.tile is not None and settings.tile != "auto":
        return settings if settings.input_size != "own" else replace(settings, input_size=None)
    sizes = {one.preprocessing.chosen_size(settings.input_size) for one in networks}
    return replace(settings, input_size=sizes.pop()) if len(sizes) == 1 else settings


def _warn_of_fit(settings: Settings) -> None:
    """Warn where a fit is of no use, or was made under other settings."""
    if settings.fit is not None and settings.fit_of_scores is None:
        warnings.warn(f"a fit of {', '.join(settings.fit.scores)} was given, but no score needs it", stacklevel=4)
    elif settings.fit is not None:
        seen = settings.fit.provenance["input_size"]
        size = settings.input_size if seen is None or settings.tile in (None, "auto") else settings.tile
        for name, value in (("input_size", size), ("autocast", settings.autocast)):
            then = settings.fit.provenance[name]
            if then != (list(value) if isinstance(value, tuple) else value):
                warnings.warn(
                    f"the fit was made with {name} {then}, and is used with {value}: features may differ", stacklevel=4
                )


def _warn_of_fitted(frame_ids: list[str]) -> None:
    if frame_ids:
        warnings.warn(
            f"scores were fitted on {len(frame_ids)} of the frames that they are computed of ("
            f"{some('frame', frame_ids)}): they look better there than on others",
            stacklevel=4,
        )


def _is_large(settings: Settings, frames: Sequence[Frame]) -> bool:
    """Whether the first frame is one of those of which a few rows are in memory at a time."""
    if settings.tile is None or not frames:
        return False
    try:
        return prod(frames[0].size) > LARGE
    except GraduncError:  # told when its turn comes
        return False


def _folder(place: Backend) -> Path:
    """Where large maps are kept until they are in the cache: on its disk, or where other temporary files are."""
    path = Path(place.where)
    near = (path.resolve(), *path.resolve().parents) if path.is_absolute() else ()
    open_to_us = (folder for folder in near if folder.is_dir() and os.access(folder, os.W_OK))
    return next(open_to_us, Path(tempfile.gettempdir()))


def _pixels(image: np.ndarray | str | os.PathLike[str] | ImageSource, channels: int) -> np.ndarray:
    """An image as a network of so many channels takes it."""
    if isinstance(image, (str, os.PathLike, ImageSource)):
        path = image if isinstance(image, ImageSource) else Path(image)
        return read_image(path) if channels == 3 and path.suffix != BANDS_SUFFIX else read_bands(path, channels)
    pixels = np.asarray(image)
    if channels == 1 and pixels.ndim == 2:
        pixels = pixels[:, :, None]
    known = pixels.dtype == np.uint8 or (channels != 3 and (pixels.dtype == np.uint16 or pixels.dtype.kind == "f"))
    grey = channels == 1 and pixels.dtype == np.uint8 and pixels.shape[2:] == (3,)
    if pixels.ndim != 3 or not (grey or pixels.shape[2] == channels) or not known:
        raise FrameError(
            f"image has shape {pixels.shape} and dtype {pixels.dtype}; expected (y, x, {channels}) of uint8"
            + ("" if channels == 3 else ", uint16 or floating point")
        )
    return pixels


def loaded(model: Model | Sequence[Model]) -> list[Network]:
    """The network, or the members of an ensemble in their order.

    Raises
    ------
    ModelError
        If there is none.
    """
    given: list[Any] = list(model) if isinstance(model, (list, tuple)) else [model]
    if not given:
        raise ModelError("an empty list of networks; expected one network, or the members of an ensemble")
    networks = [one if isinstance(one, Network) else load_model(one) for one in given]
    return in_order(networks) if len(networks) > 1 else networks
