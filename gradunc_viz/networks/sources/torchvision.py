"""Architectures of torchvision."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from ...schema.errors import ModelError, brief
from ..network import Network
from ..weights import load_weights, read_state

__all__ = ["torchvision_network"]


def torchvision_network(architecture: str, weights: str | Path | None = None) -> Network:
    """An architecture of ``torchvision.models.segmentation``, see `load_model`."""
    try:
        from torchvision import models
    except (ImportError, RuntimeError) as error:
        raise ModelError(
            f"torchvision:{architecture} needs torchvision: pip install 'gradunc-viz[torchvision]' ({brief(error)})"
        ) from error
    names = models.list_models(module=models.segmentation)
    if architecture not in names:
        raise ModelError(f"torchvision has no segmentation model {architecture!r}: expected one of {', '.join(names)}")
    options: dict[str, Any] = {"weights": None, "weights_backbone": None}
    if weights is not None:
        # The number of classes and the auxiliary head are not in the name: the weights tell.
        state = read_state(weights)
        last = [value for name, value in state.items() if re.fullmatch(r"(.*\.)?classifier\..*weight", name)]
        if last:
            options["num_classes"] = last[-1].shape[0]
        if architecture != "lraspp_mobilenet_v3_large":
            options["aux_loss"] = any("aux_classifier." in name for name in state)
    net = models.get_model(architecture, **options)
    if weights is not None:
        load_weights(net, weights)
    return Network(net.eval(), normalize="imagenet")
