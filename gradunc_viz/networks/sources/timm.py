"""Backbones of timm under a linear head: what is trained to see how good the features of a backbone are."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from ...schema.errors import ModelError, brief
from ..network import Network
from ..preprocessing import IMAGENET
from ..weights import load_weights, read_state

__all__ = ["LinearProbe", "timm_network"]


class LinearProbe(nn.Module):
    """A 1x1 convolution on the last map of a backbone.

    Parameters
    ----------
    backbone
        Returns a list of maps, the last one being the coarsest: (N, D, h, w), or (N, h, w, D) where its ``output_fmt``
        says NHWC.
    features, classes
        Channels of that map, and of the logits.
    """

    def __init__(self, backbone: nn.Module, features: int, classes: int) -> None:
        super().__init__()
        self.backbone = backbone
        self.channels_last = str(getattr(backbone, "output_fmt", "")).upper().endswith("NHWC")
        self.head = nn.Conv2d(features, classes, 1)

    def forward(self, x: Tensor) -> Tensor:
        """Logits (N, classes, h, w) at the backbone's own resolution."""
        features = self.backbone(x)[-1]
        logits: Tensor = self.head(features.permute(0, 3, 1, 2) if self.channels_last else features)
        return logits


def timm_network(name: str, weights: str | Path | None = None) -> Network:
    """A linear head on a backbone, see `gradunc_viz.networks.load.load_model`.

    timm has backbones and no segmentation heads: the head is the simplest there is, the one by which features are
    judged. Its kernel stands in the weights as ``head.weight``, a convolution's or a linear layer's, those of the
    backbone behind ``backbone.``, named as ``timm.create_model(NAME, features_only=True)`` names them.

    Parameters
    ----------
    name
        As ``timm.create_model`` takes it.
    weights
        Tell the number of classes.

    Raises
    ------
    ModelError
        If timm is not there or knows no such backbone, or without weights.
    """
    try:
        import timm
    except (ImportError, RuntimeError) as error:
        raise ModelError(f"timm:{name} needs timm: pip install 'gradunc-viz[timm]' ({brief(error)})") from error
    if not timm.is_model(name):
        close = ", ".join(timm.list_models(f"*{name.partition('.')[0][:6]}*")[:8])
        raise ModelError(f"timm has no model {name!r}{f': there are {close}, ...' if close else ''}")
    if weights is None:
        raise ModelError(
            f"timm:{name} is a backbone, which has no classes: expected the weights of a linear head on it, --weights "
            "FILE with head.weight; other heads come from a file of one's own, FILE.py:FUNCTION"
        )
    kernels = {key: value for key, value in read_state(weights).items() if re.fullmatch(r"(.*\.)?head\.weight", key)}
    if not kernels:
        raise ModelError(f"{weights} holds no head.weight: expected the kernel of a linear head on timm:{name}")
    classes = next(iter(kernels.values())).shape[0]
    try:
        backbone = _backbone(timm, name)
        features = backbone.feature_info.channels()[-1]
    except Exception as error:  # one without maps of features
        raise ModelError(f"timm:{name} gives no maps of features: {brief(error)}") from error
    net = LinearProbe(backbone, features, classes)
    net._register_load_state_dict_pre_hook(_as_convolution)
    load_weights(net, weights)
    trained = getattr(backbone, "pretrained_cfg", None) or {}
    mean, std = trained.get("mean", IMAGENET[0]), trained.get("std", IMAGENET[1])
    return Network(net.eval(), normalize=(mean, std))


def _backbone(timm: Any, name: str) -> Any:
    options: dict[str, Any] = {"pretrained": False, "features_only": True}
    try:
        return timm.create_model(name, dynamic_img_size=True, **options)  # transformers: images of any size
    except TypeError:
        return timm.create_model(name, **options)


def _as_convolution(state: dict[str, Any], prefix: str, *_: Any) -> None:
    """The kernel of a linear layer as that of a convolution."""
    key = f"{prefix}head.weight"
    if key in state and state[key].ndim == 2:
        state[key] = state[key][:, :, None, None]
