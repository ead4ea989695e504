"""What the image processor of a transformers model does to images and labels, found by asking it.

Processors have defaults in their classes, settings that some of them pass over, and keys that mean different things
from one to the other. So none of it is read: the processor is given images of one colour each, and two of noise, and
what it does follows from what comes out.
"""

from __future__ import annotations

import tempfile
import warnings
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from ..schema.errors import brief
from .preprocessing import IMAGENET, Preprocessing, unit_tensor

__all__ = ["processor_preprocessing"]

_SHAPES = ((90, 154), (154, 90))
"""Of the images of noise: a size that depends on the image's is another for each."""


def processor_preprocessing(source: str, config: Any, channels: int, options: Mapping[str, Any]) -> Preprocessing:
    """How the image processor of a model prepares images; without one, how that of its architecture treats colours.

    Parameters
    ----------
    source
        Folder or name on the hub.
    config
        The model's.
    channels
        How many the model takes.
    options
        Of ``from_pretrained``.

    Warns
    -----
    UserWarning
        If the processor gives images a size that is not followed here.
    """
    from transformers import AutoImageProcessor

    has_one = True
    # names of classes, which that of OneFormer would load from the hub
    without = {"class_info_file": None} if getattr(config, "model_type", None) == "oneformer" else {}
    try:
        processor = AutoImageProcessor.from_pretrained(source, config=config, **options, **without)
    except Exception as error:  # the files of a model may be anything
        if not isinstance(error, OSError) or "not a valid JSON" in str(error):
            return Preprocessing(unknown=_unknown(source, f"cannot be loaded ({brief(error)})"))
        has_one, processor = False, _default_processor(config)
    size = _only_size(config)
    if not has_one and channels != 3:
        return Preprocessing(size=size)
    if processor is None:
        return Preprocessing(IMAGENET, size=size)
    other_size = ""
    try:
        found = _colours(processor, source, channels)
        if has_one and not found.unknown:
            found, other_size = _sized(found, processor, channels)
    except Exception as error:
        found = Preprocessing(unknown=_unknown(source, f"fails ({brief(error)})"))
    if found.size is None and size is not None:
        found = replace(found, size=size)
    if other_size:
        enter = "enter at their own size"
        if found.size is not None:
            enter = f"are resized to {found.size[0]}x{found.size[1]}, the one size that the model takes"
        warnings.warn(
            f"hf:{source}: its image processor {other_size}, which is not followed: images {enter}; see --input-size",
            stacklevel=2,
        )
    return replace(found, reduce_labels=_reduces_labels(processor))


def _unknown(source: str, reason: str) -> str:
    return f"hf:{source}: its image processor {reason}; mend its preprocessor_config.json, or give mean and std"


def _only_size(config: Any) -> tuple[int, int] | None:
    """The one size of input that a model takes; None for one that takes many."""
    if not str(getattr(config, "model_type", "")).startswith("eomt"):
        return None
    size = config.image_size
    return (size, size) if isinstance(size, int) else (int(size[0]), int(size[1]))


def _default_processor(config: Any) -> Any:
    """The processor that models of this kind have, with the defaults of its class; None if there is none."""
    from transformers import AutoImageProcessor

    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "preprocessor_config.json").write_text("{}")
        try:
            return AutoImageProcessor.from_pretrained(folder, config=config, local_files_only=True)
        except Exception:  # a model of which transformers knows none
            return None


def _processed(processor: Any, pixels: np.ndarray, **how: Any) -> Tensor:
    """What the processor makes of (y, x, channels) uint8: (channels, h, w)."""
    image: Any = Image.fromarray(pixels) if pixels.shape[2] == 3 else pixels
    if pixels.shape[2] != 3:
        how = {**how, "input_data_format": "channels_last"}
    values = processor(image, return_tensors="pt", **how)["pixel_values"]
    return torch.as_tensor(values)[0].double()


def _colours(processor: Any, source: str, n: int) -> Preprocessing:
    """Order of the channels and normalisation: each channel that comes out is one that went in, scaled and shifted."""
    # Pillow, which resizes for many of them, takes a fourth channel for opacity
    how = {} if n == 3 else {"do_resize": False}

    def seen(color: np.ndarray) -> np.ndarray:
        out = _processed(processor, np.broadcast_to(color.astype(np.uint8), (64, 64, n)).copy(), **how)
        middle: np.ndarray = out[:, out.shape[1] // 2, out.shape[2] // 2].numpy()
        return middle

    shift = seen(np.zeros(n))
    mixing = np.stack([seen(color) - shift for color in 255 * np.eye(n)], axis=1)
    grey = np.linspace(40, 200, n)
    order = np.abs(mixing).argmax(1).tolist()
    scale = mixing[np.arange(len(mixing)), order] if mixing.shape == (n, n) else np.zeros(n)
    channels = {(0, 1, 2): "rgb", (2, 1, 0): "bgr"}.get(tuple(order[:3]), "rgb" if n != 3 else "")
    if (
        not channels
        or order[3:] != list(range(3, n))
        or not (scale > 0).all()
        or not np.allclose(seen(grey), mixing @ np.rint(grey).astype(int) / 255 + shift, atol=1e-2 * scale.max())
    ):
        return Preprocessing(unknown=_unknown(source, "does more to colours than to shift, scale and reorder channels"))
    std = tuple(_number(1 / one) for one in scale)
    mean = tuple(_number(-one / two) for one, two in zip(shift, scale, strict=True))
    unchanged = (mean, std) == ((0.0,) * n, (1.0,) * n)
    return Preprocessing(None if unchanged else (mean, std), channels)


def _sized(found: Preprocessing, processor: Any, n: int) -> tuple[Preprocessing, str]:
    """The same with the size that images are resized to, if it is one for all; else what is done instead."""
    images = [np.random.default_rng(0).integers(0, 256, (*shape, n), dtype=np.uint8) for shape in _SHAPES]
    outputs = [_processed(processor, image) for image in images]
    sizes = [(output.shape[-2], output.shape[-1]) for output in outputs]
    filters = dict.fromkeys((getattr(processor, "resample", None), Image.Resampling.BILINEAR, Image.Resampling.BICUBIC))
    for resample in (one for one in filters if one is not None):
        for size in dict.fromkeys((None, sizes[0])):
            ours = [found(unit_tensor(image, size, resample, torch.float64))[0] for image in images]
            top = max(1.0, *(float(output.abs().max()) for output in outputs))
            if all(
                one.shape == other.shape and float((one - other).abs().max()) < 0.02 * top
                for one, other in zip(ours, outputs, strict=True)
            ):
                return found if size is None else replace(found, size=size, resample=int(resample)), ""
    asked = {key: getattr(processor, key, None) for key in ("size", "crop_size", "pad_size", "size_divisor")}
    settings = ", ".join(f"{key} {_plain(value)}" for key, value in asked.items() if value)
    (height, width), (h, w) = _SHAPES[0], sizes[0]
    rules = settings or "by rules of its own"
    return found, f"resizes, crops or pads ({rules}; {height}x{width} pixels become {h}x{w})"


def _number(found: float) -> float:
    """The number that a processor was probably given, as its float32 arithmetic shows it."""
    short = float(f"{found:.6g}") + 0.0
    return short if abs(short - found) <= 2e-7 * abs(found) else float(found)


def _reduces_labels(processor: Any) -> bool:
    """Whether id 5 of a mask is id 4 for the network."""
    image, mask = Image.new("RGB", (64, 64)), Image.new("L", (64, 64), 5)
    try:
        made = processor(image, segmentation_maps=mask, return_tensors="np")
        labels = np.asarray(made["labels" if "labels" in made else "class_labels"][0])  # the latter of query models
    except Exception:  # one that takes no masks
        return bool(getattr(processor, "do_reduce_labels", False))
    return bool((labels == 4).any())


def _plain(size: Any) -> Any:
    """What of a size is set."""
    values = getattr(size, "__dict__", size)
    return {key: one for key, one in values.items() if one is not None} if isinstance(values, Mapping) else size
