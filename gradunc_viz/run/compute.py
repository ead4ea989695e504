"""frames -> network -> scores -> cache: one pass, overlapped, resumable."""

from __future__ import annotations

import os
import warnings
from collections.abc import Iterable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, Unpack

import numpy as np
import torch
import xarray as xr
from torch import nn

from ..datasets.bands import BANDS_SUFFIX, read_bands
from ..datasets.decoding import read_image
from ..datasets.frames import Frame, Frames
from ..networks.load import load_model
from ..networks.network import Network
from ..networks.runner import Inference, restored
from ..schema.errors import FrameError
from ..schema.scores import lookup
from ..store.backend import Place, backend_of
from ..store.cache import Cache, open_cache
from ..store.writer import CacheWriter
from .classes import known_class_table, numbered_alike
from .decode import DecodedFrame
from .network_maps import NetworkMaps
from .pipeline import Pipeline, chosen_frames
from .report import Report, cautions
from .settings import Settings, SettingsChanges, cache_key, changed, resolve_device
from .stages import Stages

__all__ = ["Report", "compute", "compute_report", "finished_cache", "score_image"]


def compute(
    model: str | nn.Module,
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
        See `load_model`. It is given back as it was: device, memory layout, mode.
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
    model: str | nn.Module,
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
    with restored(_network(model)) as network:
        runner = _inference(network, device, settings)
        settings = replace(settings, input_size=runner.size)  # what came of it decides
        known = known_class_table(runner, chosen, settings, place)
        chosen, remark = numbered_alike(chosen, known, getattr(network, "reduce_labels", False))
        classes, colors = known.names, known.colors
        settle = partial(torch.cuda.synchronize, device) if settings.profile and device.type == "cuda" else None
        report = Report(device=str(device), stages=Stages(settle), remarks=[remark] if remark else [])
        source = NetworkMaps(runner, settings, classes, report.stages)
        with CacheWriter(place, cache_key(network, settings, classes), classes, colors) as writer:
            Pipeline(source, report, settings.on_error).run(chosen, writer, progress)
    _ = open_cache(place).summary  # stored now, so that the first look is not the one that pays for it
    return report


def score_image(
    model: str | nn.Module,
    image: np.ndarray | str | os.PathLike[str],
    settings: Settings | None = None,
    **changes: Unpack[SettingsChanges],
) -> xr.Dataset:
    """Scores of one image, without a cache.

    Parameters
    ----------
    model : str, nn.Module or Network
        See `load_model`. It is given back as it was.
    image : array (y, x, 3) uint8 RGB, or the path of an image file
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
    with restored(_network(model)) as network:
        runner = _inference(network, resolve_device(settings.device), settings)
        frame = DecodedFrame("the image", _pixels(image, network.in_channels))
        source = NetworkMaps(runner, settings, (), Stages())
        head = source.forward(runner.prepare(frame.image, frame.id), frame.id)
        names = network.class_names(head.logits.shape[1])
        maps = source.score(frame, head).maps
    entries = [lookup(name) for name in settings.scores]
    variables: dict[str, Any] = {
        entry.name: (
            ("y", "x"),
            maps.oriented[i].cpu().numpy(),
            {"units": entry.units, "long_name": entry.title, "orientation": "larger = more uncertain"},
        )
        for i, entry in enumerate(entries)
    }
    variables["prediction"] = (("y", "x"), maps.prediction.cpu().numpy(), {"long_name": "predicted class id"})
    return xr.Dataset(variables, attrs={"network": network.name, "head": head.name, "classes": list(names)})


def _pixels(image: np.ndarray | str | os.PathLike[str], channels: int) -> np.ndarray:
    """An image as a network of so many channels takes it."""
    if isinstance(image, (str, os.PathLike)):
        path = Path(image)
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


def _network(model: str | nn.Module) -> Network:
    return model if isinstance(model, Network) else load_model(model)


def _inference(network: Network, device: torch.device, settings: Settings) -> Inference:
    return Inference(
        network,
        device,
        compile=settings.compile,
        channels_last=settings.channels_last,
        autocast=settings.autocast,
        input_size=settings.input_size,
    )
