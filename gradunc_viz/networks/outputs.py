"""Which of the maps that a network returns holds its logits, and what they are where it returns probabilities."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from ..schema.errors import HeadError, ModelError
from .tail import logarithm, logit
from .trail import Trail

__all__ = ["as_logits", "logits_of"]

_NAMES = ("logits", "out", "main")
"""What libraries call the map that predictions are made of, beside auxiliary ones."""


def logits_of(output: Any, which: str | int | None = None, size: tuple[int, ...] | None = None) -> Tensor:
    """Pick the logits, (N, C, h, w), from whatever a network returns.

    Parameters
    ----------
    output
        A tensor; or a mapping, an object, a tuple or a list, one in another too, that holds one map, several with one
        named ``logits``, ``out`` or ``main``, or the one that is asked for.
    which
        Key, attribute or place of the map, with dots between those of nested outputs: ``"aux"``, ``1``,
        ``"decode.0"``.
    size
        Of the network's input: a map (N, h, w) of this size is one of single logits.

    Returns
    -------
    Tensor
        With one channel where the output is that of a sigmoid.

    Raises
    ------
    ModelError
        If there are none, or several and it is not said which; the text lists what there is.
    """
    found = output if which is None else _member(output, str(which))
    if not isinstance(found, Tensor):
        found = _pick(found)
    if found.ndim == 3 and found.is_floating_point() and tuple(found.shape[1:]) == size:
        found = found.unsqueeze(1)
    if found.ndim != 4 or not found.is_floating_point() or found.shape[1] < 1:
        raise ModelError(
            f"the network returned a tensor of shape {tuple(found.shape)} and type {found.dtype}: "
            "expected logits, floating point, (N, C, h, w)"
        )
    return found


def _members(output: Any) -> dict[str, Any]:
    """What a returned object holds, by the names that `which` may give."""
    if isinstance(output, Mapping):
        return {str(key): value for key, value in output.items()}
    if isinstance(output, tuple) and hasattr(output, "_fields"):
        return dict(zip(output._fields, output, strict=True))
    if isinstance(output, tuple | list):
        return {str(place): value for place, value in enumerate(output)}
    if dataclasses.is_dataclass(output) and not isinstance(output, type):
        return {field.name: getattr(output, field.name) for field in dataclasses.fields(output)}
    return dict(getattr(output, "__dict__", {}))


def _member(output: Any, which: str) -> Any:
    found = output
    for part in which.split("."):
        members = _members(found)
        places = list(members.values())
        if part in members:
            found = members[part]
        elif part.lstrip("-").isdigit() and -len(places) <= int(part) < len(places):
            found = places[int(part)]
        else:
            raise ModelError(f"output {which!r} is not among what the network returned: {_described(output)}")
    return found


def _maps(output: Any, name: str = "") -> dict[str, Tensor]:
    found: dict[str, Tensor] = {}
    for key, value in _members(output).items():
        path = f"{name}.{key}" if name else key
        if isinstance(value, Tensor):
            if value.ndim == 4 and value.is_floating_point():
                found[path] = value
        elif isinstance(value, Mapping | tuple | list):
            found |= _maps(value, path)
    return found


def _described(output: Any) -> str:
    maps = _maps(output)
    if maps:
        return ", ".join(f"{name!r} {tuple(value.shape)}" for name, value in maps.items())
    members = _members(output)
    return f"{type(output).__name__} with {list(members)}" if members else type(output).__name__


def _pick(output: Any) -> Tensor:
    members = _members(output)
    if "masks_queries_logits" in members or hasattr(output, "masks_queries_logits"):
        kind = type(output).__name__
        raise ModelError(f"the network returned {kind}: query models such as MaskFormer do not end in per-pixel logits")
    for key in _NAMES:
        value = members.get(key, getattr(output, key, None))
        if isinstance(value, Tensor):
            return value
    maps = _maps(output)
    if len({id(one) for one in maps.values()}) == 1:
        return next(iter(maps.values()))
    if maps:
        raise ModelError(
            f"the network returned {len(maps)} maps, {_described(output)}: say which are its logits with output=..., "
            f"as in output={next(iter(maps))!r} (--output {next(iter(maps))})"
        )
    raise ModelError(
        f"the network returned {_described(output)}: expected a tensor (N, C, h, w), or 'logits' or 'out' holding one"
    )


def as_logits(output: Tensor, trail: Trail) -> tuple[Tensor, Trail]:
    """Logits, and the trail of them, where the network returns probabilities or their logarithms.

    A softmax that the network ends in is left out; of other probabilities, as the mean of several networks', the
    logarithm is taken: their softmax gives them again.

    Raises
    ------
    HeadError
        If each class has a probability of its own, or the output is classes already.
    """
    one = output.shape[1] == 1
    if trail.entered is not None and (one or "sigmoid" not in trail.last):
        before, entered = trail.entered
        if entered.shape == output.shape:
            return entered.detach(), before
    if not one and trail.last in ("sigmoid", "logsigmoid"):
        raise HeadError(
            f"the network's output is {trail.last} of {output.shape[1]} channels, each class for itself: expected "
            f"logits of a softmax, those that enter {trail.last}, or one channel"
        )
    if trail.affine:
        return output, trail
    low, high = (float(end) for end in torch.aminmax(output))
    if low < 0 or high > 1 + 1e-3:
        return output, trail
    total = output.sum(1)
    if one and "sigmoid" in trail.through:
        return logit(output), trail.mapped(logit)
    if one or not bool(((total - 1).abs() < 1e-2).all()):
        return output, trail
    if bool(((output == 0) | (output == 1)).all()):
        raise HeadError(
            "the network's output is 0 or 1, a class at each pixel, after "
            f"{', '.join(sorted(trail.through))}: expected logits or probabilities"
        )
    return logarithm(output), trail.mapped(logarithm)
