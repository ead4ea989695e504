"""Networks of segmentation_models_pytorch."""

from __future__ import annotations

import ast
import difflib
import inspect
import json
import re
from collections.abc import Mapping
from pathlib import Path
from types import ModuleType
from typing import Any
from urllib.parse import parse_qsl

from ...schema.errors import ModelError, brief
from ..network import Network
from ..preprocessing import IMAGENET, Preprocessing
from ..weights import load_weights, read_state

__all__ = ["smp_network"]

_WEIGHTS = "model.safetensors"


def smp_network(source: str, weights: str | Path | None = None) -> Network:
    """An architecture on an encoder, or what ``save_pretrained`` wrote, see `gradunc_viz.networks.load.load_model`.

    Parameters
    ----------
    source
        ``ARCH/ENCODER``, with options of the architecture behind a question mark, as in
        ``Unet/resnet34?in_channels=4&decoder_attention_type=scse``; a folder; or a name on the hub.
    weights
        Tell the number of classes. A folder has its own.

    Raises
    ------
    ModelError
        If segmentation_models_pytorch is not there, or knows no such network.
    """
    try:
        import segmentation_models_pytorch as smp
    except (ImportError, RuntimeError) as error:
        raise ModelError(
            f"smp:{source} needs segmentation_models_pytorch: pip install 'gradunc-viz[smp]' ({brief(error)})"
        ) from error
    name, _, query = source.partition("?")
    folder = Path(name).expanduser()
    first, _, encoder = name.partition("/")
    if not folder.is_dir() and first.lower() in _architectures(smp):
        if not encoder:
            raise ModelError(f"smp:{source}: expected an encoder after the architecture, as in smp:{first}/resnet34")
        options = {key: _value(value) for key, value in parse_qsl(query, keep_blank_values=True)}
        return _made(smp, first, {"encoder_name": encoder} | options, weights, source)
    if query:
        raise ModelError(f"smp:{source}: options are those of an architecture; {name} has a config.json of its own")
    config, file = _saved(name, folder, smp)
    architecture = str(config.get("_model_class", ""))
    if architecture.lower() not in _architectures(smp):
        raise ModelError(
            f"smp:{source}: its config.json names the architecture {architecture!r}: expected one of "
            f"{', '.join(_architectures(smp).values())}"
        )
    options = {key: value for key, value in config.items() if not key.startswith("_")}
    if weights is None and not file.is_file():
        raise ModelError(f"smp:{source} holds no {_WEIGHTS}: expected what save_pretrained writes, or --weights")
    return _made(smp, architecture, options, weights or file, source)


def _architectures(smp: ModuleType) -> dict[str, str]:
    """Names of the classes, by themselves in small letters."""
    known: Mapping[str, type] = smp.MODEL_ARCHITECTURES_MAPPING
    return {name: one.__name__ for name, one in known.items()}


def _value(text: str) -> Any:
    """A number, a truth, None or a tuple as Python writes it; else the text."""
    try:
        return ast.literal_eval(text)
    except (SyntaxError, ValueError):
        return text


def _saved(name: str, folder: Path, smp: ModuleType) -> tuple[dict[str, Any], Path]:
    """Settings and weights in a folder, or on the hub; no other file of a model there is taken."""
    if not folder.is_dir():
        # A path that does not exist must not be mistaken for a name on the hub.
        if folder.is_absolute() or name.startswith((".", "~")) or name.count("/") != 1:
            raise ModelError(
                f"smp:{name} is neither a folder nor ARCH/ENCODER with one of {', '.join(_architectures(smp).values())}"
            )
        from huggingface_hub import snapshot_download

        try:
            folder = Path(snapshot_download(name, allow_patterns=["config.json", _WEIGHTS]))
        except Exception as error:  # without a network, too
            raise ModelError(
                f"smp:{name} is no folder, none of the architectures {', '.join(_architectures(smp).values())}, and "
                f"cannot be had from the hub: {brief(error)}"
            ) from error
    try:
        config = json.loads((folder / "config.json").read_text())
    except (OSError, ValueError) as error:
        raise ModelError(f"smp:{name} has no config.json that can be read ({brief(error)})") from error
    if not isinstance(config, dict):
        raise ModelError(f"smp:{name}: its config.json holds {type(config).__name__}: expected settings by name")
    return config, folder / _WEIGHTS


def _made(
    smp: ModuleType, architecture: str, options: dict[str, Any], weights: str | Path | None, source: str
) -> Network:
    _check(smp, architecture, options, source)
    if weights is not None and "classes" not in options:
        state = read_state(weights)
        heads = [value for name, value in state.items() if re.fullmatch(r"(.*\.)?segmentation_head\.0\.weight", name)]
        heads = heads or [value for name, value in state.items() if re.fullmatch(r"segmentation_head\..*weight", name)]
        if heads:
            options = options | {"classes": heads[-1].shape[0]}
    try:
        # never those of an encoder alone: they would be fetched, and weights come whole
        net = smp.create_model(architecture, **(options | {"encoder_weights": None}))
    except Exception as error:  # whatever an option is
        raise ModelError(f"smp:{source} cannot be made: {brief(error)}") from error
    if weights is not None:
        load_weights(net, weights)
    return Network(net.eval(), preprocessing=_preprocessing(options["encoder_name"]))


def _check(smp: ModuleType, architecture: str, options: dict[str, Any], source: str) -> None:
    """Check names: an architecture passes options that it does not know over in silence."""
    known = list(inspect.signature(smp.MODEL_ARCHITECTURES_MAPPING[architecture.lower()]).parameters)
    encoder = options.setdefault("encoder_name", "resnet34")
    names = smp.encoders.get_encoder_names()
    if not str(encoder).startswith("tu-") and encoder not in names:
        close = difflib.get_close_matches(str(encoder), names, 5) or names[:5]
        raise ModelError(
            f"smp:{source}: no encoder {encoder!r}: expected one of its {len(names)}, such as {', '.join(close)}, or "
            "tu-NAME of timm"
        )
    strange = [name for name in options if name not in known]
    if strange and not str(encoder).startswith("tu-"):
        raise ModelError(f"smp:{source}: no option {strange[0]!r}: expected {', '.join(known)}")


_HALF = ((0.5,) * 3, (0.5,) * 3)
_DPN = ((124 / 255, 117 / 255, 104 / 255), (1 / (0.0167 * 255),) * 3)
_OTHERS = {"dpn": _DPN, "inception": _HALF, "xception": _HALF, "timm-tf_efficientnet_lite": None}
"""Mean and deviation of encoders, by how their names begin, that were not trained with ImageNet's; None: unknown."""


def _preprocessing(encoder: str) -> Preprocessing:
    """How images are prepared for an encoder.

    Encoders of timm tell it. Of its own ones the package asks the hub, which is not done here: their numbers are those
    of ImageNet but for a few.
    """
    if encoder.startswith("tu-"):
        import timm

        name = encoder.removeprefix("tu-")
        trained = timm.models.get_pretrained_cfg(name) if timm.models.is_model_pretrained(name) else None
        numbers = None if trained is None else (tuple(trained.mean), tuple(trained.std))
    else:
        numbers = next((value for start, value in _OTHERS.items() if encoder.startswith(start)), IMAGENET)
    unknown = "" if numbers else f"nobody knows how images are prepared for the encoder {encoder}: give mean and std"
    return Preprocessing(numbers, unknown=unknown)
