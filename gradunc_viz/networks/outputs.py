"""Which of the maps that a network returns holds its logits, and what they are where it returns probabilities.

A query model returns class and mask logits of queries instead, and is known by the names of these.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor

from ..schema.errors import HeadError, ModelError
from .tail import logarithm, logit
from .trail import Trail

__all__ = ["QueryLogits", "ReturnsQueries", "as_logits", "logits_of", "query_logits"]

_NAMES = ("logits", "out", "main")
"""What libraries call the map that predictions are made of, beside auxiliary ones."""

_QUERY_NAMES = (
    ("class_queries_logits", "masks_queries_logits"),  # transformers
    ("pred_logits", "pred_masks"),  # DETR, MaskFormer, Mask2Former
    ("logits", "pred_masks"),  # DETR of transformers
)
"""What libraries call class logits and mask logits of queries."""


class ReturnsQueries(ModelError):
    """A network returned class and mask logits of queries where logits of pixels were expected."""


@dataclasses.dataclass(frozen=True, eq=False)
class QueryLogits:
    """What a query model returns.

    Attributes
    ----------
    classes : Tensor (N, Q, K + 1)
        Logits of the classes of each query, the last of them "no object".
    masks : Tensor (N, Q, h, w)
        Logits of the mask of each query.

    Raises
    ------
    ModelError
        If they are not of these shapes.
    """

    classes: Tensor
    masks: Tensor

    def __post_init__(self) -> None:
        classes, masks = self.classes, self.masks
        shapes = f"class logits {tuple(classes.shape)} and mask logits {tuple(masks.shape)}"
        if (
            classes.ndim != 3
            or masks.ndim != 4
            or classes.shape[:2] != masks.shape[:2]
            or not masks.numel()
            or not (classes.is_floating_point() and masks.is_floating_point())
        ):
            raise ModelError(
                f"the network returned {shapes} of queries: expected (N, Q, K + 1) and (N, Q, h, w), floating point"
            )
        if classes.shape[2] < 3:
            raise ModelError(
                f"the network returned {shapes} of queries: expected two classes or more, and 'no object' behind them"
            )


def query_logits(output: Any, which: str | int | None = None) -> QueryLogits | None:
    """Class and mask logits, where it is those of queries that a network returns.

    Parameters
    ----------
    output
        As of `logits_of`: the outermost object counts that has both, under the names of transformers or of DETR, so
        that auxiliary outputs beside them make no difference.
    which
        Key, attribute or place of that object; or of the class logits and of the mask logits, with a comma between:
        ``"cls,masks"``, ``"0,1"``.

    Returns
    -------
    QueryLogits or None
        None for a network that returns something else.

    Raises
    ------
    ModelError
        If one of the two is absent, or several objects have both, or they are of other shapes.
    """
    if isinstance(which, str) and "," in which:
        parts = [_member(output, part.strip()) for part in which.split(",")]
        if len(parts) != 2 or not all(isinstance(part, Tensor) for part in parts):
            raise ModelError(f"output {which!r}: expected class logits and mask logits of queries, two tensors")
        return QueryLogits(*parts)
    level = {"": output if which is None else _member(output, str(which))}
    while level:
        found = {path: pair for path, one in level.items() if (pair := _query_pair(path, one)) is not None}
        if len(found) > 1:
            raise ModelError(
                f"the network returned class and mask logits of queries at {len(found)} places: say which with "
                f"output=..., as in output={next(iter(found))!r} (--output {next(iter(found))})"
            )
        if found:
            return next(iter(found.values()))
        if any(_named_map(one) is not None for one in level.values()):
            return None
        level = dict(inner for path, one in level.items() for inner in _inside(path, one))
    return None


def _query_pair(path: str, output: Any) -> QueryLogits | None:
    members = _members(output)
    tensors = {name: value for name, value in members.items() if isinstance(value, Tensor)}
    for classes, masks in _QUERY_NAMES:
        if classes in tensors and masks in tensors and tensors[classes].ndim != 4:
            return QueryLogits(tensors[classes], tensors[masks])
    if _named_map(output) is not None:
        return None
    for pair in _QUERY_NAMES[:2]:
        for name, other in (pair, pair[::-1]):
            if name in tensors and other not in tensors and (name, tensors[name].ndim) != ("pred_logits", 4):
                at = f"{path}.{name}" if path else name
                hint = f"; output={at!r} if these are logits of the classes" if tensors[name].ndim == 4 else ""
                raise ModelError(
                    f"the network returned {name!r} {tuple(tensors[name].shape)} without {other!r}: expected both "
                    f"of a query model{hint}"
                )
    _check_not_unnamed(path, tensors)
    return None


def _unnamed_pairs(tensors: Mapping[str, Tensor]) -> list[tuple[str, str]]:
    """Names of what may be class and mask logits of queries, by their shapes alone."""
    return [
        (first, second)
        for first, classes in tensors.items()
        for second, masks in tensors.items()
        if (classes.ndim, masks.ndim) == (3, 4) and classes.is_floating_point() and classes.shape[:2] == masks.shape[:2]
    ]


def _check_not_unnamed(path: str, tensors: Mapping[str, Tensor]) -> None:
    """Refuse to take the mask logits of queries for logits of classes, where nobody says what they are."""
    if sum(one.ndim == 4 for one in tensors.values()) != 1:
        return
    for first, second in _unnamed_pairs(tensors):
        place = f"{path}.{second}" if path else second
        pair = f"{path}.{first},{place}" if path else f"{first},{place}"
        shapes = f"{tuple(tensors[first].shape)} and {tuple(tensors[second].shape)}"
        raise ModelError(
            f"the network returned {shapes}, which may be class and mask logits of queries: say so with "
            f"output={pair!r} (--output {pair}), or output={place!r} if the second are logits of the classes"
        )


def _named_map(output: Any) -> Tensor | None:
    """The map of logits in what a network returned, by its name."""
    members = _members(output)
    for key in _NAMES:
        value = members.get(key, getattr(output, key, None))
        if isinstance(value, Tensor) and value.ndim != 3:
            return value
    return None


def _inside(path: str, output: Any) -> Iterator[tuple[str, Any]]:
    for name, value in _members(output).items():
        if isinstance(value, Mapping | tuple | list) or dataclasses.is_dataclass(value):
            yield f"{path}.{name}" if path else name, value


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
        If there are none, or several and it is not said which; the text lists what there is. `ReturnsQueries` if there
        are class and mask logits of queries.
    """
    queries = query_logits(output, which)
    if queries is not None:
        raise ReturnsQueries(
            f"the network returned class logits {tuple(queries.classes.shape)} and mask logits "
            f"{tuple(queries.masks.shape)} of queries, as MaskFormer does: it has no logits of pixels; "
            "gv.load_model(net).infer(x) finds the queries and their class scores"
        )
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
    for key in _NAMES:
        value = members.get(key, getattr(output, key, None))
        if isinstance(value, Tensor):
            return value
    maps = _maps(output)
    if len({id(one) for one in maps.values()}) == 1:
        return next(iter(maps.values()))
    if maps:
        pairs = _unnamed_pairs({name: one for name, one in members.items() if isinstance(one, Tensor)})
        queries = f"; class and mask logits of queries: --output {','.join(pairs[0])}" if pairs else ""
        raise ModelError(
            f"the network returned {len(maps)} maps, {_described(output)}: say which are its logits with output=..., "
            f"as in output={next(iter(maps))!r} (--output {next(iter(maps))}){queries}"
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
