"""What a run is asked for, and the key under which a cache keeps it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from ..datasets.catalog import known_classes
from ..datasets.frames import Frame, Frames
from ..networks.network import Network
from ..networks.runner import Inference
from ..schema.errors import DeviceError, GraduncError, ModelError
from ..schema.frame import SCHEMA_VERSION
from ..scores.maps import ScoreOptions
from ..style.palette import class_colors

__all__ = ["resolve_device"]


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
    known = dict(known_classes("cityscapes")) | dict(zip(frame_classes, frame_colors, strict=False))
    return named, tuple(known.get(name, color) for name, color in zip(named, class_colors(n), strict=True))


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
