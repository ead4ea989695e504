"""Load a segmentation network from any of its usual homes, and run it with its head captured.

Nothing that is loaded as data is ever executed: weights are read from safetensors, or by `torch.load` with
``weights_only=True``; a pickle that needs more is refused. ``FILE.py:FUNCTION`` runs the user's own file.
"""

from __future__ import annotations

import hashlib
import importlib.util
import inspect
import itertools
import json
import pickle
import re
import sys
import warnings
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
from torch import Tensor, nn

from .heads import Head, Plan, Wrapper, capture, find_layer, follow, logits_of
from .schema.errors import ModelError, NonFiniteError

__all__ = ["IMAGENET", "Network", "capture", "check_finite", "load_model", "load_weights", "logits_of"]

IMAGENET = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
"""Mean and standard deviation of RGB in [0, 1] that most backbones were trained with."""

Normalization = tuple[tuple[float, ...], tuple[float, ...]]


class Network(Wrapper):
    """A network ready for inference, with what has to be known about its input and its classes.

    The wrapped module stays as it is: it is put into evaluation mode for the time of a forward pass only, and
    its parameters are not touched (`to` moves them, as it does for any module).

    Parameters
    ----------
    net
        Any module that returns logits in one of the forms that `logits_of` knows.
    name
        What to call it; by default the class of `net`.
    classes, colors
        Names and (red, green, blue) of the classes, or ``None``.
    drop_channels
        Output channels that are no class (void, background): their logits are left out before the softmax.
    normalize
        ``None`` or ``"none"``, ``"imagenet"``, or ``(mean, std)`` of RGB in [0, 1].
    head
        Dotted name of the layer that produces the logits, or the layer itself, where it cannot be found.

    Raises
    ------
    ModelError
        If an argument makes no sense; `HeadError` if `head` does not.
    """

    def __init__(
        self,
        net: nn.Module,
        *,
        name: str | None = None,
        classes: Sequence[str] | None = None,
        colors: Sequence[tuple[int, int, int]] | None = None,
        drop_channels: Iterable[int] = (),
        normalize: str | Sequence[Sequence[float]] | None = None,
        head: str | nn.Module | None = None,
    ) -> None:
        super().__init__()
        self.net = net
        self.name = name or type(net).__name__
        self.classes = None if classes is None else tuple(map(str, classes))
        self.colors = None if colors is None else tuple(colors)
        self.drop_channels = tuple(sorted(set(drop_channels)))
        self.normalize = _normalization(normalize)
        self.head = None if head is None else find_layer(net, head)[0]
        self._plans: dict[torch.Size, Plan] = {}

    def __repr__(self) -> str:
        parameters = sum(parameter.numel() for parameter in self.parameters())
        classes = f"{len(self.classes)} classes" if self.classes else "classes not named"
        return f"<Network {self.name}: {classes}, {parameters:,} parameters, head {self.head or 'found when it runs'}>"

    def _repr_html_(self) -> str:
        from .schema.display import card, chips, code
        from .style.palette import class_colors

        parameters = list(self.parameters())
        size = sum(p.numel() for p in parameters)
        devices = ", ".join(sorted({str(p.device) for p in parameters})) or "no parameters"
        names = self.classes or ()
        colors = self.colors if self.colors and len(self.colors) == len(names) else class_colors(len(names))
        rows = {
            "module": code(type(self.net).__name__),
            "parameters": f"{size:,} on {devices}",
            "head": code(self.head) if self.head else "found when it runs",
            "input": "RGB in [0, 1]"
            if self.normalize is None
            else f"normalised, mean and std {code(str(self.normalize))}",
            "left out": f"channels {', '.join(map(str, self.drop_channels))}" if self.drop_channels else "",
            "classes": chips(self.classes, colors)
            if self.classes and len(colors) == len(self.classes)
            else "not named",
        }
        return card(f"Network {self.name}", rows)

    def prepare(self, rgb: Tensor) -> Tensor:
        """Normalise images, (N, 3, h, w) with RGB in [0, 1], as the network expects them."""
        if self.normalize is None:
            return rgb
        mean, std = (rgb.new_tensor(numbers).view(1, -1, 1, 1) for numbers in self.normalize)
        return (rgb - mean) / std

    def forward(self, x: Tensor) -> Tensor:
        """Logits, (N, C, h, w), all channels, as the network returns them for its own (normalised) input."""
        with torch.no_grad(), _evaluating(self.net):
            return logits_of(self.net(x))

    def infer(self, x: Tensor) -> Head:
        """Run the network once, in inference mode, and return logits and features of its head.

        The head is searched in the first forward pass on each shape of input; later ones hook only that
        layer.

        Parameters
        ----------
        x
            Input as the network expects it (see `prepare`).

        Returns
        -------
        Head
            Logits and features with all channels; `class_channels` tells which of them are classes.

        Raises
        ------
        ModelError
            If the network returns no logits; `HeadError` if they cannot be traced to one layer.
        """
        plan = self._plans.get(x.shape)
        with (
            torch.inference_mode(),
            _evaluating(self.net),
            capture(self) if plan is None else follow(plan) as head,
        ):
            self.net(x)
        self._plans[x.shape] = head.plan
        return head

    def class_channels(self, n_channels: int) -> Tensor | None:
        """Output channels that are classes, or ``None`` if all are.

        Dropping channel k means that its logit is left out before the softmax and its kernel rows are left
        out of the gradient. Pick the logits with it, ``logits[:, keep]``; a grouped layer needs it too, as
        the group of a channel follows from its place among all channels.

        Raises
        ------
        ModelError
            If a channel to drop does not exist, or fewer than two classes are left.
        """
        for channel in self.drop_channels:
            if not 0 <= channel < n_channels:
                raise ModelError(
                    f"cannot drop channel {channel}: {self.name} has {n_channels} channels, 0 to {n_channels - 1}"
                )
        if not self.drop_channels:
            return None
        keep = [channel for channel in range(n_channels) if channel not in self.drop_channels]
        if len(keep) < 2:
            raise ModelError(
                f"dropping {len(self.drop_channels)} of {n_channels} channels of {self.name} leaves "
                f"{len(keep)}: expected at least two classes"
            )
        return torch.tensor(keep)

    def class_names(self, n_channels: int) -> tuple[str, ...]:
        """Names of the classes that `class_channels` keeps; ``"class 0"`` and so on where none are known.

        Raises
        ------
        ModelError
            If there are neither as many names as channels nor as many as classes.
        """
        keep = self.class_channels(n_channels)
        kept = range(n_channels) if keep is None else keep.tolist()
        if self.classes is None:
            return tuple(f"class {channel}" for channel in kept)
        if len(self.classes) == n_channels:
            return tuple(self.classes[channel] for channel in kept)
        if len(self.classes) == len(kept):
            return self.classes
        raise ModelError(f"{len(self.classes)} class names for {self.name}: expected {len(kept)}, one per class")

    def weights_digest(self) -> str:
        """Hash of all weights and of the module tree; equal digests mean the same network.

        Covers names, types, shapes and bytes of the state dict and the printed structure, not the code of
        ``forward``.
        """
        digest = hashlib.blake2b(digest_size=20)
        # Some modules print the address of a function they hold, which differs from run to run.
        digest.update(re.sub(r" at 0x[0-9a-fA-F]+", "", repr(self.net)).encode())
        for name, value in self.net.state_dict().items():
            if not isinstance(value, Tensor):
                digest.update(f"\n{name} {value!r}".encode())
                continue
            digest.update(f"\n{name} {value.dtype} {tuple(value.shape)}\n".encode())
            digest.update(value.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data)
        return digest.hexdigest()


@contextmanager
def _evaluating(net: nn.Module) -> Iterator[None]:
    """Evaluate for the time being; every module gets its own mode back."""
    training = [module for module in net.modules() if module.training]
    if training:
        net.eval()
    try:
        yield
    finally:
        for module in training:
            module.training = True


def _normalization(given: str | Sequence[Sequence[float]] | None) -> Normalization | None:
    if given is None or given == "none":
        return None
    if given == "imagenet":
        return IMAGENET
    try:
        mean, std = (tuple(map(float, numbers)) for numbers in given)
    except (TypeError, ValueError):
        mean, std = (), ()
    if not mean or len(mean) != len(std) or min(std) <= 0:
        raise ModelError(f"normalize={given!r}: expected 'none', 'imagenet' or (mean, std) with std > 0")
    return mean, std


def check_finite(tensor: Tensor, what: str, frame: str) -> Tensor:
    """Return `tensor` if all its values are finite.

    Parameters
    ----------
    tensor
        Logits or features.
    what, frame
        What it is and which frame it belongs to, for the error.

    Raises
    ------
    NonFiniteError
        Naming the frame and how many values are NaN or infinite.
    """
    # The extremes are NaN if any value is, and need no memory; counting is left for where something is wrong.
    if tensor.numel() and not all(bool(torch.isfinite(extreme)) for extreme in torch.aminmax(tensor)):
        bad = tensor.numel() - int(torch.isfinite(tensor).sum())
        raise NonFiniteError(f"frame {frame!r}: {bad} of {tensor.numel()} values of the {what} are NaN or infinite")
    return tensor


# --------------------------------------------------------------------------------------------------
# weights


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
    state = _unwrapped(_read(_existing(path)), path)
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


def _existing(path: str | Path) -> Path:
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
        raise ModelError(_refusal(path)) from error
    except Exception as error:
        raise ModelError(f"{path} cannot be read as weights: {_brief(error)}") from error


def _refusal(path: str | Path) -> str:
    return (
        f"{path} holds more than tensors, or is damaged, and unpickling it could run code: refused; load it "
        "where you trust it and save its state dict with "
        "safetensors.torch.save_file(net.state_dict(), 'weights.safetensors')"
    )


def _unwrapped(state: Any, path: str | Path) -> dict[str, Any]:
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


def _brief(error: BaseException) -> str:
    """Type and first line of an error: ours are one line, whatever caused them."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return f"{type(error).__name__}: {lines[0]}" if lines else type(error).__name__


# --------------------------------------------------------------------------------------------------
# loading


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
    from .demo import CLASSES
    from .demo.network import load_demo_network

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
