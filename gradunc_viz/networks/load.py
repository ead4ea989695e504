"""From what a user names to a network: one loader for each kind of source."""

from __future__ import annotations

import importlib.util
import inspect
import itertools
import json
import pickle
import re
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

from torch import nn

from ..schema.errors import ModelError
from .network import IMAGENET, Network, Normalization
from .weights import _brief, _existing, _read, _refusal, _unwrapped, load_weights

__all__ = ["load_model"]


def load_model(
    spec: str | nn.Module,
    weights: str | Path | None = None,
    *,
    drop_channels: Iterable[int] = (),
    normalize: str | Sequence[Sequence[float]] | None = None,
    classes: Sequence[str] | None = None,
    head: str | nn.Module | None = None,
) -> Network:
    """Load a network.

    Parameters
    ----------
    spec
        - a `torch.nn.Module`: taken as it is (a `Network` with its own settings where none are given);
        - ``"demo"``: the embedded demo network;
        - ``"hf:DIR_OR_ID"``: a semantic-segmentation model of transformers, safetensors only, no remote code;
        - ``"torchvision:NAME"``: an architecture of ``torchvision.models.segmentation``, of use only with
          `weights`;
        - ``"FILE.py:FUNCTION"``: what the function returns; the file is executed, with its folder importable.
          The function gets the path of the weights if it takes an argument, otherwise they are loaded into
          its result.
    weights
        A ``.safetensors`` file or a state dict written by `torch.save`.
    drop_channels, normalize, classes, head
        See `Network`. Left out, `normalize` is what the model's ``preprocessor_config.json`` says for ``hf:``
        (ImageNet's numbers if there is none), ImageNet's numbers for ``torchvision:`` and nothing otherwise;
        ``"none"`` switches it off. `classes` come from the model's configuration for ``hf:`` and ``demo``.

    Raises
    ------
    ModelError
        If there is no such network, or the weights cannot be read or do not fit.
    """
    if weights is not None:
        _existing(weights)
    known: dict[str, Any] = {}
    name = str(spec)
    if isinstance(spec, nn.Module):
        net, name = spec, type(spec).__name__
        if isinstance(spec, Network):
            net, name = spec.net, spec.name
            known = {key: getattr(spec, key) for key in ("classes", "colors", "normalize", "drop_channels", "head")}
        if weights is not None:
            load_weights(net, weights)
    elif spec == "demo":
        net, known = _from_demo(weights)
    elif spec.startswith("hf:"):
        net, known = _from_transformers(spec.removeprefix("hf:"), weights)
    elif spec.startswith("torchvision:"):
        net, known = _from_torchvision(spec.removeprefix("torchvision:"), weights)
    elif ".py:" in spec:
        net = _from_file(spec, weights)
    else:
        raise ModelError(
            f"unknown model {spec!r}: expected 'demo', 'hf:DIR_OR_ID', 'torchvision:NAME' or 'FILE.py:FUNCTION'"
        )
    if classes is not None:
        known.update(classes=classes, colors=None)
    if normalize is not None:
        known["normalize"] = normalize
    if drop_channels := tuple(drop_channels):
        known["drop_channels"] = drop_channels
    if head is not None:
        known["head"] = head
    return Network(net, name=name, **known)


def _from_demo(weights: str | Path | None) -> tuple[nn.Module, dict[str, Any]]:
    from ..demo import CLASSES
    from ..demo.network import load_demo_network

    net = load_demo_network() if weights is None else load_demo_network(weights)
    return net, {"classes": [name for name, _ in CLASSES], "colors": [rgb for _, rgb in CLASSES]}


def _from_transformers(source: str, weights: str | Path | None) -> tuple[nn.Module, dict[str, Any]]:
    try:
        from transformers import AutoConfig, AutoModelForSemanticSegmentation
        from transformers.utils import logging
    except (ImportError, RuntimeError) as error:
        raise ModelError(f"hf:{source} needs transformers: pip install 'gradunc-viz[hf]' ({_brief(error)})") from error

    # A path that does not exist must not be mistaken for a name on the hub.
    local = Path(source).expanduser()
    if local.is_dir():
        source = str(local)
    elif local.is_absolute() or source.startswith((".", "~")) or source.count("/") > 1:
        raise ModelError(f"model folder {source} does not exist")
    options: dict[str, Any] = {"trust_remote_code": False, "local_files_only": local.is_dir()}

    # What goes wrong is told in one line of our own, not in a table beside it.
    bar, verbosity = logging.is_progress_bar_enabled(), logging.get_verbosity()
    logging.disable_progress_bar()
    logging.set_verbosity_error()
    try:
        config = AutoConfig.from_pretrained(source, **options)
        if weights is None:
            net, report = AutoModelForSemanticSegmentation.from_pretrained(
                source, config=config, use_safetensors=True, output_loading_info=True, **options
            )
        else:
            # Not `load_weights`: a file may name weights otherwise than the module; transformers translates.
            state = _unwrapped(_read(Path(weights)), weights)
            blank = AutoModelForSemanticSegmentation.from_config(config, trust_remote_code=False)
            net, report = type(blank).from_pretrained(None, config=config, state_dict=state, output_loading_info=True)
        absent = sorted(map(str, [*report["missing_keys"], *report["mismatched_keys"]]))
        if absent:
            raise ModelError(
                f"hf:{source}: {len(absent)} weights are missing or of another shape ({', '.join(absent[:3])}) "
                f"in {weights or 'its files'}: expected a model trained for segmentation, not a backbone"
            )
        net.eval()
    except ModelError:
        raise
    except Exception as error:
        reason = _brief(error)
        if "Unrecognized configuration class" in reason:
            kind = re.search(r"configuration class <class '[\w.]*?(\w+)'>", reason)
            reason = (
                f"{kind[1] if kind else 'its configuration'} is no semantic-segmentation model with "
                "per-pixel logits (query models such as MaskFormer and Mask2Former are not)"
            )
        raise ModelError(f"hf:{source} cannot be loaded: {reason}") from error
    finally:
        logging.set_verbosity(verbosity)
        if bar:
            logging.enable_progress_bar()

    labels = {int(index): str(name) for index, name in (net.config.id2label or {}).items()}
    generic = all(name == f"LABEL_{index}" for index, name in labels.items())
    classes = None if generic else [labels[index] for index in sorted(labels)]
    return net, {"classes": classes, "normalize": _preprocessing(source)}


def _preprocessing(source: str) -> str | Normalization | None:
    """Mean and std, for RGB in [0, 1], that the preprocessor of a transformers model applies."""
    from transformers.image_processing_base import ImageProcessingMixin

    try:
        settings, _ = ImageProcessingMixin.get_image_processor_dict(source)
    except (OSError, json.JSONDecodeError):
        return "imagenet"
    # Rescaling maps 0..255 to 0..255 * factor, ours has mapped it to 0..1 before.
    top = 255.0 * settings.get("rescale_factor", 1 / 255) if settings.get("do_rescale", True) else 255.0
    if settings.get("do_normalize", True):
        mean, std = (
            settings.get(f"image_{key}", numbers) for key, numbers in zip(("mean", "std"), IMAGENET, strict=True)
        )
    else:
        mean, std = (0.0, 0.0, 0.0), (1.0, 1.0, 1.0)
    if abs(top - 1) > 1e-6:
        mean, std = [value / top for value in mean], [value / top for value in std]
    found = tuple(map(float, mean)), tuple(map(float, std))
    return None if found == ((0.0, 0.0, 0.0), (1.0, 1.0, 1.0)) else found


def _from_torchvision(architecture: str, weights: str | Path | None) -> tuple[nn.Module, dict[str, Any]]:
    try:
        from torchvision import models
    except (ImportError, RuntimeError) as error:
        raise ModelError(
            f"torchvision:{architecture} needs torchvision: pip install 'gradunc-viz[torchvision]' ({_brief(error)})"
        ) from error
    names = models.list_models(module=models.segmentation)
    if architecture not in names:
        raise ModelError(f"torchvision has no segmentation model {architecture!r}: expected one of {', '.join(names)}")
    options: dict[str, Any] = {"weights": None, "weights_backbone": None}
    if weights is not None:
        # The number of classes and the auxiliary head are not in the name: the weights tell.
        state = _unwrapped(_read(Path(weights)), weights)
        last = [value for name, value in state.items() if name.startswith("classifier.") and name.endswith(".weight")]
        if last:
            options["num_classes"] = last[-1].shape[0]
        if architecture != "lraspp_mobilenet_v3_large":
            options["aux_loss"] = any(name.startswith("aux_classifier.") for name in state)
    net = models.get_model(architecture, **options)
    if weights is not None:
        load_weights(net, weights)
    return net.eval(), {"normalize": "imagenet"}


_serial = itertools.count()


def _from_file(spec: str, weights: str | Path | None) -> nn.Module:
    file, _, function = spec.rpartition(":")
    path = Path(file).expanduser().resolve()
    if not path.is_file():
        raise ModelError(f"model file {file} does not exist")
    folder = str(path.parent)
    # Its own neighbours may be imported, as when the file is run as a script.
    sys.path.insert(0, folder)
    try:
        net = _call(_imported(path, spec), function, spec, weights)
    except pickle.UnpicklingError as error:
        raise ModelError(f"{spec}: {_refusal(weights if weights is not None else 'its weights file')}") from error
    except ModelError:
        raise
    except (Exception, SystemExit) as error:
        raise ModelError(f"{spec} failed: {_brief(error)}") from error
    finally:
        if folder in sys.path:
            sys.path.remove(folder)
    if not isinstance(net, nn.Module):
        raise ModelError(f"{spec} returned {type(net).__name__}: expected a torch.nn.Module")
    return net


def _imported(path: Path, spec: str) -> ModuleType:
    name = f"gradunc_user_model_{next(_serial)}_{path.stem}"
    found = importlib.util.spec_from_file_location(name, path)
    if found is None or found.loader is None:
        raise ModelError(f"{spec}: {path} cannot be imported")
    module = importlib.util.module_from_spec(found)
    # Dataclasses look their module up while they are being defined.
    sys.modules[name] = module
    try:
        found.loader.exec_module(module)
    except BaseException:
        del sys.modules[name]
        raise
    return module


def _call(module: ModuleType, function: str, spec: str, weights: str | Path | None) -> Any:
    make = getattr(module, function, None)
    if not callable(make):
        own = [
            name
            for name, value in vars(module).items()
            if callable(value) and getattr(value, "__module__", "") == module.__name__ and not name.startswith("_")
        ]
        raise ModelError(f"{spec}: no function {function!r} in the file; it has {', '.join(own) or 'none'}")
    signature = inspect.signature(make)
    arguments = []
    if weights is not None:
        try:
            signature.bind(str(weights))
            arguments = [str(weights)]
        except TypeError:
            pass
    try:
        signature.bind(*arguments)
    except TypeError as error:
        wanted = "no weights were given" if weights is None else "expected at most one argument, the weights' path"
        raise ModelError(f"{spec}: {function}{signature} cannot be called, {wanted}") from error
    net = make(*arguments)
    if weights is not None and not arguments and isinstance(net, nn.Module):
        load_weights(net, weights)
    return net
