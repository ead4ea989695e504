"""What options of several commands say, as the library takes it."""

from __future__ import annotations

import argparse
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
    """Every model with its weights; one model with several weights is several networks."""
    from ..networks.load import load_model

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


def run_settings(arguments: argparse.Namespace) -> dict[str, Any]:
    """What every run over frames is asked for."""
    return {"on_error": arguments.on_error, "limit": arguments.limit, **class_options(arguments.classes)}


def running(arguments: argparse.Namespace) -> dict[str, Any]:
    """The same of a network."""
    how = {name: getattr(arguments, name) for name in ("input_size", "device", "autocast")}
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
