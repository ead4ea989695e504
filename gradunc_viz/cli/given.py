"""What options of several commands say, as the library takes it."""

from __future__ import annotations

import argparse
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from ..schema.errors import SettingsError
from .values import class_options, normalization

__all__ = ["network", "networks", "passes", "run_settings", "running"]


def network(arguments: argparse.Namespace) -> Any:
    """The network, where there is to be one."""
    every = networks(arguments)
    if len(every) > 1:
        names = ", ".join(one.name for one in every)
        raise SettingsError(f"{len(every)} networks were given, {names}; expected one")
    return every[0]


def networks(arguments: argparse.Namespace) -> list[Any]:
    """Every model with its weights; one model with several weights is several networks. Or saved logits."""
    from ..networks.load import load_model

    if getattr(arguments, "logits", None) is not None:
        return [_saved_logits(arguments)]
    folder = ("features",) if isinstance(getattr(arguments, "features", None), Path) else ()
    given = (*folder, *_LAST_LAYER, "probabilities")
    _refuse(arguments, given, "is said of saved logits: expected --logits DIR beside it")
    models, weights = arguments.model, arguments.weights
    if len(models) == 1:
        models = models * max(1, len(weights))
    elif weights and len(weights) != len(models):
        raise SettingsError(
            f"{len(models)} times --model and {len(weights)} times --weights; expected as many, or one model"
        )
    loaded = []
    for model, file in zip(models, weights or [None] * len(models), strict=True):
        network = load_model(
            model,
            file,
            drop_channels=arguments.drop_channels,
            normalize=normalization(arguments),
            channels=arguments.channels,
            head=arguments.head,
            output=arguments.output,
            threshold=arguments.threshold,
        )
        if len(models) > 1 and file is not None:
            network.name = f"{network.name} ({file.name})"
        loaded.append(network)
    return loaded


_LAST_LAYER = ("kernel", "stride", "padding", "dilation", "groups", "transposed")
_OF_NETWORK = ("weights", "normalize", "mean", "std", "scale", "channels", "head", "output")


def _saved_logits(arguments: argparse.Namespace) -> Any:
    """What was saved in place of a network."""
    from ..networks.saved import SavedLogits

    _refuse(arguments, _OF_NETWORK, "is said of a network that runs on images: expected none beside --logits")
    given = {name: value for name in _LAST_LAYER if (value := getattr(arguments, name))}
    if "kernel" in given:
        given["kernel_size"] = given.pop("kernel")
    features = getattr(arguments, "features", None)
    return SavedLogits(
        arguments.logits,
        features if features != "head" else None,
        head=given or None,
        probabilities=arguments.probabilities,
        drop_channels=arguments.drop_channels,
        threshold=arguments.threshold,
    )


def _refuse(arguments: argparse.Namespace, names: Iterable[str], why: str) -> None:
    """Refuse options that were given and say nothing here."""
    for name in names:
        value = getattr(arguments, name, None)
        if value not in (None, False, []):
            raise SettingsError(f"--{name.replace('_', '-')} {why}")


def run_settings(arguments: argparse.Namespace) -> dict[str, Any]:
    """What every run over frames is asked for."""
    return {"on_error": arguments.on_error, "limit": arguments.limit, **class_options(arguments.classes)}


def running(arguments: argparse.Namespace) -> dict[str, Any]:
    """The same of a network."""
    how = {name: getattr(arguments, name) for name in ("input_size", "device", "autocast")}
    if getattr(arguments, "align_corners", False):
        how["align_corners"] = True
    return {**how, **run_settings(arguments)}


def passes(arguments: argparse.Namespace) -> dict[str, Any]:
    """What of several passes was asked for."""
    given = {
        "passes": arguments.passes,
        "dropout": arguments.dropout_layers,
        "seed": arguments.seed,
        "scales": arguments.scales,
        "flips": False if arguments.no_flips else None,
    }
    return {name: value for name, value in given.items() if value is not None}
