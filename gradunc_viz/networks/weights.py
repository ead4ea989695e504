"""Reading weights, never by unpickling code."""

from __future__ import annotations

import argparse
import copy
import pickle
import warnings
from collections import Counter, OrderedDict
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from ..schema.errors import ModelError, brief

__all__ = ["existing", "load_weights", "read_state", "refusal"]

_PLAIN = ("state_dict", "model_state_dict", "model_state", "model", "module", "_orig_mod", "net", "network", "params")
"""What training code wraps a state dict in, or puts before the names in it; the first is taken first."""

_HARMLESS = (argparse.Namespace, type(Path()))
"""What training scripts keep beside weights, their arguments, and what to make of it runs no code of the file's."""

_SHOWN = 8


def load_weights(net: nn.Module, path: str | Path) -> None:
    """Load a state dict into a network, all of it or nothing.

    What ``net.load_state_dict(state)`` takes is taken. Whatever training code wraps it in is taken off, such as
    ``{"state_dict": ...}`` around it and ``"module."`` before each name; names beside those belong to something else.

    Parameters
    ----------
    net
        The network; unchanged if the weights do not fit.
    path
        A ``.safetensors`` file, or one written by `torch.save`.

    Raises
    ------
    ModelError
        If the file cannot be read, holds pickled objects, does not fit the network, or holds several sets of weights
        that do, none of them under a usual name.

    Warns
    -----
    UserWarning
        If other weights than those that were loaded fit as well.
    """
    kind = type(net)
    found = _found(path, kind.state_dict(net))
    state = dict(found.state)
    for name, other in _tied(net):
        if other in state:
            state.setdefault(name, state[other])
    before = copy.deepcopy(kind.state_dict(net))
    try:
        kind.load_state_dict(net, _with_metadata(state, found.metadata))
    except Exception as error:  # a network may have its own way to load
        problems = _problems(before, state, str(error)) or [brief(error)]
        kind.load_state_dict(net, before)
        where = f"; taken from its {found.text}" if found.place else ""
        raise ModelError(f"{path} does not fit {kind.__name__}: {'; '.join(problems)}{where}") from error


def read_state(path: str | Path, own: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """Read a state dict, with what it is wrapped in taken off.

    Parameters
    ----------
    path
    own
        State dict of the network that it is for, where that is known.

    Raises
    ------
    ModelError
        As for `load_weights`, but it need not fit.
    """
    return _found(path, own or {}).state


def existing(path: str | Path) -> Path:
    """The path of a weights file, or a `ModelError` if there is none."""
    path = Path(path)
    if not path.is_file():
        raise ModelError(f"weights file {path} {'is no file' if path.exists() else 'does not exist'}")
    return path


def _read(path: Path) -> Any:
    try:
        if path.suffix == ".safetensors":
            from safetensors.torch import load_file

            return load_file(path)
        with warnings.catch_warnings(), torch.serialization.safe_globals([*_HARMLESS]):
            warnings.simplefilter("ignore")  # on unusual pickles, which are then refused or read all the same
            return torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise ModelError(refusal(path)) from error
    except Exception as error:
        raise ModelError(f"{path} cannot be read as weights: {brief(error)}") from error


def refusal(path: str | Path) -> str:
    """What to tell of a file that is not unpickled."""
    return (
        f"{path} holds more than tensors, or is damaged, and unpickling it could run code: refused; load it "
        "where you trust it and save its state dict with "
        "safetensors.torch.save_file(net.state_dict(), 'weights.safetensors')"
    )


@dataclass(frozen=True)
class _Found:
    """A state dict in a file.

    Attributes
    ----------
    place
        Keys and parts of a prefix that lead to it.
    state
        Tensors by name, without the prefix.
    alike
        How many names of the network are in it.
    metadata
        Versions of the modules that it was made of, by their names; torch translates old ones.
    """

    place: tuple[str, ...]
    state: dict[str, Any]
    alike: int = 0
    metadata: dict[str, Any] = field(default_factory=dict)

    def fits(self, own: Mapping[str, Any]) -> bool:
        """Whether every tensor of a network is in it; torch does without the counts of earlier versions."""
        wanted = {name for name in own if not name.endswith("num_batches_tracked")}
        return wanted <= self.state.keys() and not _of_another_shape(own, self.state)

    @property
    def rank(self) -> tuple[int, ...]:
        """What is taken first: usual names before others, in their order."""
        return tuple(_PLAIN.index(key) if key in _PLAIN else len(_PLAIN) for key in self.place)

    @property
    def is_plain(self) -> bool:
        return all(key in _PLAIN for key in self.place)

    @property
    def text(self) -> str:
        return repr(".".join(self.place)) if self.place else "names without prefix"


def _found(path: str | Path, own: Mapping[str, Any]) -> _Found:
    """The state dict in a file that is for a network.

    Raises
    ------
    ModelError
        If there is none, or several fit.
    """
    content = _read(existing(path))
    states = [(place, state) for place, state in _states(content) if any(isinstance(v, Tensor) for v in state.values())]
    if not states:
        holds = f"keys {_some(content)}" if isinstance(content, Mapping) else f"a {type(content).__name__}"
        raise ModelError(f"{path} holds no state dict, but {holds}: expected a mapping of names to tensors")
    found = [one for place, state in states for one in _stripped(place, state, own)]
    fitting = sorted((one for one in found if own and one.fits(own)), key=lambda one: (not one.is_plain, one.rank))
    if not fitting:
        return max(found, key=lambda one: (one.alike, one.is_plain, len(one.state)))
    first, *others = fitting
    others = [one for one in others if not _equal(one.state, first.state, own)]
    if others and not first.is_plain:
        raise ModelError(
            f"{path} holds several sets of weights that fit, {', '.join(one.text for one in fitting)}: expected one; "
            "save the one you want in a file of its own"
        )
    if others:
        warnings.warn(
            f"{path}: {first.text} is loaded; {', '.join(one.text for one in others)} would fit as well", stacklevel=4
        )
    return first


def _states(content: Any, place: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], Mapping[Any, Any]]]:
    """Every mapping in a file's content and its keys, outer ones first."""
    if isinstance(content, Mapping) and len(place) < 4:
        yield place, content
        for key, value in content.items():
            yield from _states(value, (*place, str(key)))


def _stripped(place: tuple[str, ...], state: Mapping[Any, Any], own: Mapping[str, Any]) -> Iterator[_Found]:
    """A state dict without each of the prefixes behind which there are names of the network."""
    named = {str(name): value for name, value in state.items()}
    versions = dict(getattr(state, "_metadata", None) or {})
    prefixes: Counter[str] = Counter()
    for name in named:
        for start in (0, *(at + 1 for at, letter in enumerate(name) if letter == ".")):
            if name[start:] in own:
                prefixes[name[:start]] += 1
    if not prefixes:
        prefixes[_common(named)] = 0
    for prefix, alike in prefixes.items():
        without = {name.removeprefix(prefix): value for name, value in named.items() if name.startswith(prefix)}
        metadata = {
            f"{name}.".removeprefix(prefix).removesuffix("."): version
            for name, version in versions.items()
            if f"{name}.".startswith(prefix)
        }
        yield _Found((*place, *prefix.split(".")[:-1]), without, alike, metadata)


def _common(names: Iterable[str]) -> str:
    """Usual names that all others stand behind."""
    prefix = ""
    while True:
        following = {name.removeprefix(prefix).partition(".")[0] for name in names}
        if len(following) != 1 or not following <= set(_PLAIN):
            return prefix
        prefix += f"{following.pop()}."


def _tied(net: nn.Module) -> Iterator[tuple[str, str]]:
    """Pairs of names of one parameter: files need hold it once only."""
    names: dict[nn.Parameter, list[str]] = {}
    for name, parameter in nn.Module.named_parameters(net, remove_duplicate=False):
        names.setdefault(parameter, []).append(name)
    return ((one, other) for same in names.values() for one in same for other in same if one != other)


def _with_metadata(state: dict[str, Any], metadata: dict[str, Any]) -> dict[str, Any]:
    if not metadata:
        return state
    versioned: Any = OrderedDict(state)
    versioned._metadata = metadata
    return versioned  # type: ignore[no-any-return]


def _problems(own: Mapping[str, Any], state: Mapping[str, Any], text: str) -> list[str]:
    """What torch's text says of names, and which shapes differ."""
    missing = [name for name in own if name not in state and f'"{name}"' in text]
    unexpected = [name for name in state if name not in own and f'"{name}"' in text]
    return [
        f"{len(names)} {kind} ({', '.join(names[:3])}{', ...' if len(names) > 3 else ''})"
        for kind, names in (
            ("missing", missing),
            ("unexpected", unexpected),
            ("of another shape", _of_another_shape(own, state)),
        )
        if names
    ]


def _of_another_shape(own: Mapping[str, Any], state: Mapping[str, Any]) -> list[str]:
    return [
        f"{name} {tuple(value.shape)} for {tuple(own[name].shape)}"
        for name, value in state.items()
        if isinstance(value, Tensor)
        and isinstance(own.get(name), Tensor)
        and not is_lazy(own[name])
        and value.shape != own[name].shape
    ]


def _equal(one: Mapping[str, Any], other: Mapping[str, Any], names: Iterable[str]) -> bool:
    pairs = ((one[name], other[name]) for name in names)
    return all(torch.equal(a, b) for a, b in pairs if isinstance(a, Tensor) and isinstance(b, Tensor))


def _some(names: Iterable[Any]) -> str:
    listed = list(map(str, names))
    return f"{', '.join(listed[:_SHOWN])}{', ...' if len(listed) > _SHOWN else ''}" or "none"
