"""frames -> network -> scores -> cache: one pass, overlapped, resumable.

Three stages run side by side: threads decode the next frames, the calling thread runs the network and scores,
and a thread writes. Between them stand short queues, so memory does not grow with the set.
"""

from __future__ import annotations

import os
import time
import warnings
from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from itertools import groupby
from pathlib import Path
from typing import Any

import numpy as np
import torch
import xarray as xr
from PIL import Image
from torch import Tensor, nn
from tqdm import tqdm

from .cache import Cache, CacheWriter, open_cache
from .frame_dataset import DecodedFrame, ScoreOptions, frame_dataset, score_maps
from .frames import Frame, Frames, check_classes, read_image
from .heads import Head
from .models import Network, load_model
from .resources import known_classes
from .schema import (
    SCHEMA_VERSION,
    CacheMismatchError,
    DeviceError,
    FrameError,
    GraduncError,
    ModelError,
    class_colors,
    resolve_scores,
    score_entry,
)

__all__ = ["Report", "compute", "compute_report", "resolve_device", "score_image"]


@dataclass
class Report:
    """What a run of `compute` did.

    Attributes
    ----------
    computed, existing : list of str
        Ids of the frames computed now, and of those found in the cache.
    skipped : list of (str, str)
        Id and error of each frame left out under ``on_error="skip"``.
    seconds : float
        Time for the frames computed now.
    device : str
    """

    computed: list[str] = field(default_factory=list)
    existing: list[str] = field(default_factory=list)
    skipped: list[tuple[str, str]] = field(default_factory=list)
    seconds: float = 0.0
    device: str = ""


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
        See `gradunc_viz.schema.resolve_scores`; by default `DEFAULT_SCORES`.
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
    network = (net if isinstance(net, Network) else load_model(net)).to(target)
    chosen = frames[:limit] if limit is not None else frames
    known, palette = _classes(network, _class_names(network, chosen, input_size, target), frames, classes, colors)
    options = ScoreOptions(names, align_corners, bias)
    key = _key(network, frames, options, input_size, known, images)
    report = Report(device=str(target))
    run = _Run(network, target, options, input_size, known, images, on_error, report)
    run.batch = batch or (4 if target.type == "cuda" else 1)
    with CacheWriter(out, key, known, palette) as writer:
        run.all(chosen, writer, progress)
    _ = open_cache(out).summary  # stored now, so that the first look is not the one that pays for it
    return report


def _class_names(
    network: Network,
    frames: Frames | Sequence[Frame],
    input_size: tuple[int, int] | None,
    device: torch.device,
) -> tuple[tuple[str, ...], bool]:
    """Name the classes and say whether the network knows them; a forward pass counts the channels."""
    if network.classes and not network.drop_channels:
        return network.classes, True
    size = input_size or _first_size(frames) or (256, 256)
    channels = _forward(network, torch.zeros(1, 3, *size), device, "an empty image").logits.shape[1]
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
        },
        "frames": {"layout": getattr(frames, "layout", None)},
    }


@dataclass
class _Ready:
    """A decoded frame with the network's input; or the error that reading it gave."""

    id: str
    frame: DecodedFrame | None = None
    tensor: Tensor | None = None
    error: GraduncError | None = None


@dataclass
class _Run:
    """The pipeline of one run."""

    network: Network
    device: torch.device
    options: ScoreOptions
    input_size: tuple[int, int] | None
    classes: tuple[str, ...]
    images: bool
    on_error: str
    report: Report
    batch: int = 1

    def all(self, frames: Frames | Sequence[Frame], writer: CacheWriter, progress: bool) -> None:
        missing = self._missing(frames, writer)
        started = time.perf_counter()
        bar = tqdm(
            total=len(missing),
            unit="frame",
            desc=f"scoring on {self.device}",
            disable=not progress or not missing,
        )
        with bar, ThreadPoolExecutor(1) as writing, ThreadPoolExecutor(2) as reading:
            pending: deque[Future[None]] = deque()
            try:
                for group in self._batches(self._prefetch(missing, reading)):
                    for dataset in self._datasets(group):
                        while len(pending) > 1:  # a slow disk holds the network back instead of filling memory
                            pending.popleft().result()
                        pending.append(writing.submit(self._write, writer, dataset))
                    bar.update(len(group))
                while pending:
                    pending.popleft().result()
            finally:
                reading.shutdown(wait=False, cancel_futures=True)
        self.report.seconds = time.perf_counter() - started

    def _missing(self, frames: Frames | Sequence[Frame], writer: CacheWriter) -> list[Frame]:
        """Frames still to be computed; those in the cache must have been computed from the same content."""
        missing = []
        for frame in frames:
            if frame.id not in writer.existing:
                missing.append(frame)
                continue
            try:
                digest = frame.digest()
            except FrameError as error:
                self._failed(frame.id, error)
                continue
            if digest != writer.frame_digest(frame.id):
                raise CacheMismatchError(
                    f"{writer.path}: frame {frame.id!r} was computed from other content than "
                    f"{frame.image_path} and its labels have now; choose another --out, or remove this "
                    "frame's folder"
                )
            self.report.existing.append(frame.id)
        return missing

    def _prefetch(self, frames: list[Frame], pool: ThreadPoolExecutor) -> Iterator[_Ready]:
        """Decode ahead of the network, in order, never more than a batch and a bit."""
        ahead: deque[Future[_Ready]] = deque()
        for frame in frames:
            ahead.append(pool.submit(self._read, frame))
            if len(ahead) > self.batch + 1:
                yield ahead.popleft().result()
        while ahead:
            yield ahead.popleft().result()

    def _read(self, frame: Frame) -> _Ready:
        try:
            decoded = decode(frame, len(self.classes), self.images)
            return _Ready(frame.id, decoded, network_input(decoded.image, self.network, self.input_size))
        except GraduncError as error:
            return _Ready(frame.id, error=error)

    def _batches(self, ready: Iterator[_Ready]) -> Iterator[list[_Ready]]:
        """Group frames of one input size, in order, `batch` at most."""
        for _, same in groupby(ready, key=lambda r: None if r.tensor is None else tuple(r.tensor.shape)):
            group: list[_Ready] = []
            for item in same:
                group.append(item)
                if len(group) >= self.batch:
                    yield group
                    group = []
            if group:
                yield group

    def _datasets(self, group: list[_Ready]) -> Iterator[xr.Dataset]:
        """Run the network on a group and score each of its frames."""
        good = [item for item in group if item.error is None]
        for item in group:
            if item.error is not None:
                self._failed(item.id, item.error)
        if not good:
            return
        try:
            parts = self._infer(good)
        except GraduncError as error:
            if len(good) > 1:  # find out which frame it is, so that the others are kept
                for item in good:
                    yield from self._datasets([item])
                return
            self._failed(good[0].id, error)
            return
        for n, item in enumerate(good):
            head, index = parts[n]
            try:
                yield self._score(item, head, index)
            except DeviceError as error:
                if len(good) == 1:
                    self._failed(item.id, error)
                    continue
                # logits of the whole batch stand beside one frame's maps: let go of them and take one at a time
                self.batch = max(1, len(good) // 2)
                del parts, head
                if self.device.type == "cuda":
                    torch.cuda.empty_cache()
                for rest in good[n:]:
                    yield from self._datasets([rest])
                return
            except GraduncError as error:
                self._failed(item.id, error)

    def _infer(self, group: list[_Ready]) -> list[tuple[Head, int]]:
        """Forward a group, in smaller parts where memory runs out: per frame, head and place in it."""
        if len(group) <= self.batch:
            try:
                x = torch.cat([item.tensor for item in group if item.tensor is not None])
                head = _forward(self.network, x, self.device, f"frame {group[0].id!r}")
                return [(head, index) for index in range(len(group))]
            except DeviceError:
                if len(group) == 1:
                    raise
            if self.device.type == "cuda":
                torch.cuda.empty_cache()
            self.batch = len(group) // 2  # for the groups to come as well
        half = len(group) // 2
        return self._infer(group[:half]) + self._infer(group[half:])

    def _score(self, item: _Ready, head: Head, index: int) -> xr.Dataset:
        assert item.frame is not None
        assert item.tensor is not None
        align = head.align_corners if self.options.align_corners is None else self.options.align_corners
        options = replace(self.options, align_corners=align)
        with (
            torch.inference_mode(),
            _memory(f"the scores of frame {item.id!r} at {item.frame.size}", self.device),
        ):
            maps = score_maps(
                head.logits[index : index + 1],
                head.features[index : index + 1],
                head.layer,
                item.frame.size,
                options,
                channels=self.network.class_channels(head.logits.shape[1]),
                label=item.frame.label,
                frame_id=item.id,
            )
            attrs = {
                "head": head.name,
                "network": self.network.name,
                "input_size": list(item.tensor.shape[-2:]),
            }
            return frame_dataset(item.frame, maps, options, self.classes, attrs)

    def _write(self, writer: CacheWriter, dataset: xr.Dataset) -> None:
        new = writer.commit(dataset)  # not new: another writer was faster
        (self.report.computed if new else self.report.existing).append(dataset.attrs["frame_id"])

    def _failed(self, frame_id: str, error: GraduncError) -> None:
        if self.on_error == "stop":
            raise error
        self.report.skipped.append((frame_id, str(error)))


def _forward(network: Network, x: Tensor, device: torch.device, what: str) -> Head:
    """Run the network; whatever it raises becomes one line that says on which input."""
    size = f"{x.shape[-2]}x{x.shape[-1]}"
    try:
        with _memory(f"{what}, an input of {x.shape[0]}x{size}", device):
            return network.infer(x.to(device, non_blocking=True))
    except GraduncError:
        raise
    except Exception as error:  # a network may raise anything
        text = next(iter(str(error).strip().splitlines()), "") or type(error).__name__
        raise ModelError(f"{what}: the network cannot take an input of {size} ({text}); see --input-size") from error


@contextmanager
def _memory(what: str, device: torch.device) -> Iterator[None]:
    """Turn the ways in which memory runs out into one."""
    try:
        yield
    except (MemoryError, RuntimeError) as error:
        text = str(error).lower()
        if not isinstance(error, (torch.OutOfMemoryError, MemoryError)) and not any(
            phrase in text for phrase in ("out of memory", "can't allocate memory", "defaultcpuallocator")
        ):
            raise
        raise DeviceError(
            f"out of memory on {device} for {what}; use a smaller --input-size or another --device"
        ) from error


def decode(frame: Frame, n_classes: int, images: bool = True) -> DecodedFrame:
    """Read all of a frame's files.

    Raises
    ------
    FrameError
        If a file is missing or damaged, sizes differ, or a label id is no class of the network.
    """
    image, label, anomaly = frame.image, frame.label, frame.anomaly
    if label is not None:
        check_classes(label, n_classes, frame)
    if image.ndim != 3 or image.shape[2] != 3:
        raise FrameError(f"{frame.image_path}: decoded to shape {image.shape}, expected (height, width, 3)")
    return DecodedFrame(
        id=frame.id,
        image=image,
        label=label,
        anomaly=anomaly,
        digest=frame.digest(),
        encoded=frame.image_bytes if images else None,
        image_format=frame.image_format,
        source=frame.image_path.name,
    )


def network_input(image: np.ndarray, network: Network, input_size: tuple[int, int] | None) -> Tensor:
    """(1, 3, H, W) float32 RGB, resized with Pillow's bilinear filter and normalised as the network wants."""
    if input_size is not None and image.shape[:2] != tuple(input_size):
        resized = Image.fromarray(image).resize((input_size[1], input_size[0]), Image.Resampling.BILINEAR)
        image = np.array(resized)
    return network.prepare(torch.from_numpy(image).permute(2, 0, 1)[None].float().div_(255))


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
    head = _forward(network, network_input(image, network, input_size), target, "the image")
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
