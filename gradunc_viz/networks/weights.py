"""Reading weights, never by unpickling code."""

from __future__ import annotations

import pickle
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ..schema.errors import ModelError, brief

__all__ = ["existing", "load_weights", "read_state", "refusal"]


def load_weights(net: nn.Module, path: str | Path) -> None:
    """Load a state dict into a network, all of it or nothing.

    Wrappers such as ``{"state_dict": ...}`` and prefixes such as ``module.`` are taken off.

    Parameters
    ----------
    net
        The network; unchanged if the weights do not fit.
    path
        A ``.safetensors`` file, or one written by `torch.save`.

    Raises
    ------
    ModelError
        If the file cannot be read, holds pickled objects, or does not fit the network.
    """
    state = read_state(path)
    own = net.state_dict()
    missing = [name for name in own if name not in state]
    unexpected = [name for name in state if name not in own]
    mismatched = [
        f"{name} {tuple(value.shape)} for {tuple(own[name].shape)}"
        for name, value in state.items()
        if isinstance(value, Tensor) and isinstance(own.get(name), Tensor) and value.shape != own[name].shape
    ]
    problems = [
        f"{len(names)} {kind} ({', '.join(names[:3])}{', ...' if len(names) > 3 else ''})"
        for kind, names in (
            ("missing", missing),
            ("unexpected", unexpected),
            ("of another shape", mismatched),
        )
        if names
    ]
    if problems:
        raise ModelError(f"{path} does not fit {type(net).__name__}: {'; '.join(problems)}")
    net.load_state_dict(state)


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
        with warnings.catch_warnings():
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


def read_state(path: str | Path) -> dict[str, Any]:
    """Read a state dict, with wrappers and prefixes taken off.

    Raises
    ------
    ModelError
        If the file cannot be read, holds pickled objects or no state dict.
    """
    state = _read(existing(path))
    while isinstance(state, Mapping):
        inner = [state[key] for key in ("state_dict", "model", "model_state_dict") if key in state]
        if not inner or not isinstance(inner[0], Mapping):
            break
        state = inner[0]
    if not isinstance(state, Mapping) or not any(isinstance(value, Tensor) for value in state.values()):
        raise ModelError(f"{path} holds no state dict: expected a mapping of names to tensors")
    state = {str(name): value for name, value in state.items()}
    for prefix in ("module.", "_orig_mod.", "module."):
        if all(name.startswith(prefix) for name in state):
            state = {name.removeprefix(prefix): value for name, value in state.items()}
    return state
