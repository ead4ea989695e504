"""frames -> network -> scores -> cache: one pass, overlapped, resumable."""

from __future__ import annotations

import os
import warnings
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
import xarray as xr
from torch import nn

from ..datasets.decoding import read_image
from ..datasets.frames import Frame, Frames
from ..networks.load import load_model
from ..networks.network import Network, network_input
from ..networks.runner import Inference
from ..schema.errors import FrameError
from ..schema.scores import lookup, resolve_scores
from ..scores.maps import ScoreOptions, score_maps
from ..scores.needs import HeadOutput
from ..store.cache import Cache, open_cache
from ..store.writer import CacheWriter
from .pipeline import Pipeline
from .report import Report
from .settings import _class_names, _classes, _key, resolve_device
from .stages import Stages

__all__ = ["Report", "compute", "compute_report", "score_image"]


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
    report = Report(
        device=str(target), stages=Stages(partial(torch.cuda.synchronize, target) if profile and on_cuda else None)
    )
    batch = batch or (4 if on_cuda else 1)
    pipeline = Pipeline(inference, options, input_size, known, images, on_error, report, batch)
    with CacheWriter(out, key, known, palette) as writer:
        pipeline.run(chosen, writer, progress)
    _ = open_cache(out).summary  # stored now, so that the first look is not the one that pays for it
    return report


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
        output = HeadOutput(head.logits, head.features, head.layer, align_corners=head.align_corners)
        output = output.only(network.class_channels(head.logits.shape[1]))
        maps = score_maps(output, (image.shape[0], image.shape[1]), names)
    entries = [lookup(name) for name in names]
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
