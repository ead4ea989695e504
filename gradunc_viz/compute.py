"""frames -> network -> scores -> cache: one pass, overlapped, resumable."""

from __future__ import annotations

import os
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
import xarray as xr
from torch import nn

from .datasets.catalog import known_classes
from .datasets.decoding import read_image
from .datasets.frames import Frame, Frames
from .networks.load import load_model
from .networks.network import Network, network_input
from .networks.runner import Inference
from .pipeline import Pipeline, Report
from .schema.errors import DeviceError, FrameError, GraduncError, ModelError
from .schema.frame import SCHEMA_VERSION
from .schema.scores import resolve_scores, score_entry
from .scores.maps import ScoreOptions, score_maps
from .stages import Stages
from .store.cache import Cache, open_cache
from .store.writer import CacheWriter
from .style.palette import class_colors

__all__ = ["Report", "compute", "compute_report", "resolve_device", "score_image"]


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
        found = torch.device(device)
    except RuntimeError:
        raise DeviceError(f"device {device!r} is unknown; expected auto, cpu or cuda") from None
    if found.type == "cuda" and not torch.cuda.is_available():
        raise DeviceError(f"device {str(device)!r} was asked for, but no CUDA device is available; use cpu or auto")
    if found.type == "cuda" and (found.index or 0) >= torch.cuda.device_count():
        raise DeviceError(
            f"device {str(device)!r} was asked for, but there are {torch.cuda.device_count()} CUDA devices"
        )
    return found


def compute(
    net: str | nn.Module,
    frames: Frames | Sequence[Frame],
    out: str | os.PathLike[str],
    *,
    scores: str | Sequence[str] | None = None,
    **options: Any,
) -> Cache:
    """Score every frame with a network and cache the result; frames already in the cache are skipped.

    Parameters
    ----------
    net : str, nn.Module or Network
        See `load_model`.
    frames : Frames
        See `open_frames`.
    out : path-like
        Folder of the cache; absent, empty, or a cache of the same network and settings, which is resumed.
    scores : optional
        See `gradunc_viz.schema.scores.resolve_scores`; by default `DEFAULT_SCORES`.
    **options
        See `compute_report`.

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
        Listing the frames left out under ``on_error="skip"``.
    """
    report = compute_report(net, frames, out, scores=scores, **options)
    if report.skipped:
        listed = "; ".join(message for _, message in report.skipped[:5])
        warnings.warn(f"{len(report.skipped)} frames were skipped: {listed}", stacklevel=2)
    return open_cache(out)


def compute_report(
    net: str | nn.Module,
    frames: Frames | Sequence[Frame],
    out: str | os.PathLike[str],
    *,
    scores: str | Sequence[str] | None = None,
    input_size: tuple[int, int] | None = None,
    classes: Sequence[str] | None = None,
    colors: Sequence[tuple[int, int, int]] | None = None,
    device: str | torch.device = "auto",
    batch: int | None = None,
    on_error: str = "stop",
    limit: int | None = None,
    images: bool = True,
    bias: bool = False,
    align_corners: bool | None = None,
    compile: bool = False,
    channels_last: bool = False,
    autocast: str | None = None,
    profile: bool = False,
    progress: bool = True,
) -> Report:
    """`compute`, returning what was done instead of the cache.

    Parameters
    ----------
    input_size : (height, width), optional
        Size the image is resized to (bilinear) for the network; by default its own.
    classes, colors : optional
        Names and RGB colours of the classes; by default those the network or the frames know.
    device : str
        ``"auto"``, ``"cpu"``, ``"cuda"`` ...
    batch : int, optional
        Frames per forward pass; by default 1 on a CPU, 4 on CUDA. Halved when memory runs out.
    on_error : "stop" or "skip"
        Whether a frame that cannot be read or scored ends the run, or is left out and reported.
    limit : int, optional
        Only the first so many frames.
    images : bool
        Whether the encoded images are copied into the cache, which makes it self-contained.
    bias : bool
        Whether gradient norms include the bias of the head.
    align_corners : bool, optional
        How logits and norms are resized to the image; by default as the network itself resizes its logits.
    compile : bool
        Whether `torch.compile` compiles the network. It takes a while at the start, for every size of input: give
        `input_size` where images differ. Where it cannot (no C++ compiler), a warning says so and the run goes on.
    channels_last : bool
        Whether images enter the network channels last, which suits convolutions on most processors and GPUs; the
        weights of the network's convolutions are laid out likewise.
    autocast : "bf16" or "fp16", optional
        Lets layers run in half precision (`torch.autocast`). It changes the numbers, and so belongs to the cache's key;
        the other two change their rounding only, as another device does.
    profile : bool
        Whether `Report.stages` is exact on a GPU too, which then waits for each stage.
    progress : bool
        Whether a progress bar is shown.
    """
    if on_error not in ("stop", "skip"):
        raise ValueError(f"on_error is {on_error!r}; expected 'stop' or 'skip'")
    for name, number in (("batch", batch), ("limit", limit)):
        if number is not None and number < 1:
            raise ValueError(f"{name} is {number}; expected 1 or more")
    names = resolve_scores(scores)
    target = resolve_device(device)
    on_cuda = target.type == "cuda"
    network = (net if isinstance(net, Network) else load_model(net)).to(target)
    chosen = frames[:limit] if limit is not None else frames
    inference = Inference(network, target, compile, channels_last, autocast)
    known, palette = _classes(network, _class_names(inference, chosen, input_size), frames, classes, colors)
    options = ScoreOptions(names, align_corners, bias)
    key = _key(network, frames, options, input_size, known, images, autocast)
    report = Report(device=str(target), stages=Stages(torch.cuda.synchronize if profile and on_cuda else None))
    batch = batch or (4 if on_cuda else 1)
    pipeline = Pipeline(inference, options, input_size, known, images, on_error, report, batch)
    with CacheWriter(out, key, known, palette) as writer:
        pipeline.run(chosen, writer, progress)
    _ = open_cache(out).summary  # stored now, so that the first look is not the one that pays for it
    return report


def _class_names(
    inference: Inference, frames: Frames | Sequence[Frame], input_size: tuple[int, int] | None
) -> tuple[tuple[str, ...], bool]:
    """Name the classes and say whether the network knows them; a forward pass counts the channels."""
    network = inference.network
    if network.classes and not network.drop_channels:
        return network.classes, True
    size = input_size or _first_size(frames) or (256, 256)
    channels = inference(torch.zeros(1, 3, *size), "an empty image").logits.shape[1]
    return network.class_names(channels), network.classes is not None


def _first_size(frames: Frames | Sequence[Frame]) -> tuple[int, int] | None:
    for frame in frames:
        try:
            return frame.size
        except GraduncError:
            continue  # reported when its turn comes
    return None


def _classes(
    network: Network,
    found: tuple[tuple[str, ...], bool],
    frames: Frames | Sequence[Frame],
    classes: Sequence[str] | None,
    colors: Sequence[tuple[int, int, int]] | None,
) -> tuple[tuple[str, ...], tuple[tuple[int, int, int], ...]]:
    """Names and colours: what was said, what the network knows, what the frames know; else plain numbers."""
    named, certain = found
    n = len(named)
    frame_classes: tuple[str, ...] = getattr(frames, "classes", None) or ()
    frame_colors = getattr(frames, "colors", None) or ()
    if classes is not None:
        if len(classes) != n:
            raise ModelError(f"{len(classes)} class names were given, but the network tells {n} classes apart")
        named = tuple(classes)
    elif not certain and len(frame_classes) == n:
        named = frame_classes
    elif not certain and n == len(known_classes("cityscapes")):
        # nearly every public 19-class network of street scenes is in the order of the Cityscapes train ids
        named = tuple(name for name, _ in known_classes("cityscapes"))
    for color in colors or ():
        if len(color) != 3 or not all(isinstance(part, int) and 0 <= part <= 255 for part in color):
            raise GraduncError(f"colour {color!r} of a class; expected (red, green, blue) of 0 to 255")
    given = colors or (network.colors if certain and classes is None else None)
    if given and len(given) == n:
        return named, tuple(given)
    lookup = dict(known_classes("cityscapes")) | dict(zip(frame_classes, frame_colors, strict=False))
    return named, tuple(lookup.get(name, color) for name, color in zip(named, class_colors(n), strict=True))


def _key(
    network: Network,
    frames: Frames | Sequence[Frame],
    options: ScoreOptions,
    input_size: tuple[int, int] | None,
    classes: Sequence[str],
    images: bool,
    autocast: str | None,
) -> dict[str, Any]:
    """State what decides whether a cached frame may be reused; frames carry their content hash besides."""
    return {
        "schema_version": SCHEMA_VERSION,
        "network": {
            "name": network.name,
            "weights": network.weights_digest(),
            "head": network.head or "auto",
            "drop_channels": list(network.drop_channels),
            "normalize": [list(part) for part in network.normalize] if network.normalize else None,
            "classes": list(classes),
        },
        "settings": {
            "scores": list(options.scores),
            "input_size": list(input_size) if input_size else None,
            "align_corners": options.align_corners,
            "bias": options.bias,
            "images": images,
            "autocast": autocast,
        },
        "frames": {"layout": getattr(frames, "layout", None)},
    }


def score_image(
    net: str | nn.Module,
    image: np.ndarray | str | os.PathLike[str],
    *,
    scores: str | Sequence[str] | None = None,
    input_size: tuple[int, int] | None = None,
    device: str | torch.device = "auto",
) -> xr.Dataset:
    """Scores of one image, without a cache.

    Parameters
    ----------
    net : str, nn.Module or Network
    image : array (y, x, 3) uint8 RGB, or the path of an image file
    scores, input_size, device
        As for `compute`.

    Returns
    -------
    xarray.Dataset (y, x)
        ``prediction``, and one variable per score, oriented: larger is more uncertain.
    """
    if isinstance(image, (str, os.PathLike)):
        image = read_image(Path(image))
    image = np.asarray(image)
    if image.ndim != 3 or image.shape[2] != 3 or image.dtype != np.uint8:
        raise FrameError(f"image has shape {image.shape} and dtype {image.dtype}; expected (y, x, 3) of uint8")
    target = resolve_device(device)
    network = (net if isinstance(net, Network) else load_model(net)).to(target)
    names = resolve_scores(scores)
    head = Inference(network, target)(network_input(image, network, input_size), "the image")
    with torch.inference_mode():
        maps = score_maps(
            head.logits,
            head.features,
            head.layer,
            (image.shape[0], image.shape[1]),
            ScoreOptions(names, head.align_corners),
            channels=network.class_channels(head.logits.shape[1]),
        )
    entries = [score_entry(name) for name in names]
    variables: dict[str, Any] = {
        entry.name: (
            ("y", "x"),
            maps.oriented[i].cpu().numpy(),
            {"units": entry.units, "long_name": entry.title, "orientation": "larger = more uncertain"},
        )
        for i, entry in enumerate(entries)
    }
    variables["prediction"] = (("y", "x"), maps.prediction.cpu().numpy(), {"long_name": "predicted class id"})
    return xr.Dataset(variables, attrs={"network": network.name, "head": head.name})
