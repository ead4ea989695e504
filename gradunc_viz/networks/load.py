"""From what a user names to a network: one loader for each kind of source."""

from __future__ import annotations

import inspect
import itertools
import pickle
import re
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

import torch
import torch.fx
from torch import nn

from ..schema.errors import GraduncError, ModelError, brief
from ..schema.user_file import executed, neighbours_importable
from .head import kind_of
from .loaders import find_loader
from .network import Network, channel_numbers
from .preprocessing import Preprocessing
from .processor import processor_preprocessing
from .sources.torchvision import torchvision_network
from .traversal import modules_of
from .universal import told_its_task
from .weights import existing, load_weights, read_state, refusal

if TYPE_CHECKING:
    from torch.export import ExportedProgram

__all__ = [
    "demo_network",
    "demo_query_network",
    "load_model",
    "network_of_file",
    "torchvision_network",
    "transformers_network",
]


def load_model(
    spec: str | nn.Module | ExportedProgram,
    weights: str | Path | None = None,
    *,
    drop_channels: Iterable[int] = (),
    normalize: str | Sequence[Sequence[float]] | None = None,
    classes: Sequence[str] | None = None,
    channels: str | None = None,
    head: str | nn.Module | None = None,
    output: str | int | None = None,
    threshold: float | None = None,
) -> Network:
    """Load a network.

    Parameters
    ----------
    spec
        - a `torch.nn.Module`: taken as it is (a `Network` with its own settings where none are given); of TorchScript
          and of a `torch.export.ExportedProgram` layers are made again;
        - ``"demo"``: the embedded demo network, ``"demo-queries"``: its twin that makes masks and classes of queries;
        - ``"hf:DIR_OR_ID"``: a semantic-segmentation model of transformers, or a query model such as MaskFormer,
          Mask2Former, OneFormer or EoMT, safetensors only, no remote code;
        - ``"torchvision:NAME"``: an architecture of ``torchvision.models.segmentation``, of use only with
          `weights`;
        - ``"smp:ARCH/ENCODER_OR_DIR"``: an architecture of segmentation_models_pytorch on an encoder, as in
          ``smp:Unet/resnet34``, of use only with `weights`, or what its ``save_pretrained`` wrote;
        - ``"timm:BACKBONE"``: a linear head on the last features of a backbone of timm, both from `weights`;
        - ``"onnx:FILE.onnx"``: an ONNX model, run by onnxruntime; `head` is a node of it, or the tensor that leaves it;
        - ``"torchscript:FILE"``, ``"export:FILE"``: a program that `torch.jit.save` or `torch.export.save` wrote;
        - ``"FILE.py:FUNCTION"``: what the function returns; the file is executed, with its folder importable.
          The function gets the path of the weights if it takes an argument, otherwise they are loaded into
          its result;
        - ``"PREFIX:..."`` of a loader that was registered, see `gradunc_viz.networks.loaders.register_loader`.
    weights
        A ``.safetensors`` file or a state dict written by `torch.save`.
    drop_channels, normalize, classes, head, output, threshold
        See `Network`. Left out, images are prepared as the model's image processor does for ``hf:`` (as the one of its
        architecture does to RGB if there is none), with ImageNet's numbers for ``torchvision:`` and not at all
        otherwise; ``normalize="none"`` switches it off. `classes` come from the model's configuration for ``hf:``,
        ``demo`` and ``demo-queries``.
    channels
        ``"rgb"`` or ``"bgr"``, the order in which the network wants the colours, and in which mean and deviation are;
        or ``"grey"``. By default what the model says, or as many channels as its first convolution takes, RGB of three.

    Raises
    ------
    ModelError
        If there is no such network, the weights cannot be read or do not fit, or nobody knows how images are prepared
        for it.

    Warns
    -----
    UserWarning
        If the model's image processor resizes images in a way that is not followed, or the weights are a choice.
    """
    if weights is not None:
        existing(weights)
    if not isinstance(spec, str):
        net = _of_object(spec)
        if weights is not None:
            load_weights(net.net if isinstance(net, Network) else net, weights)
    else:
        loader, rest = find_loader(spec)
        try:
            told = _told(loader.function, head=head, output=output)
            head, output = None if "head" in told else head, None if "output" in told else output
            net = _made(partial(loader.function, **told) if told else loader.function, (rest,), weights, spec)
        except pickle.UnpicklingError as error:
            raise ModelError(f"{spec}: {refusal(weights if weights is not None else 'its weights file')}") from error
        except GraduncError:
            raise
        except (Exception, SystemExit) as error:  # loaders and users' files may raise anything
            raise ModelError(f"{spec} failed: {brief(error)}") from error
    settings: dict[str, Any] = {"name": spec if isinstance(spec, str) else type(net).__name__}
    if isinstance(net, Network):
        kept = ("classes", "colors", "preprocessing", "drop_channels", "head", "output", "threshold")
        settings |= {key: getattr(net, key) for key in kept}
        settings |= {} if isinstance(spec, str) else {"name": net.name}
        net = net.net
    if classes is not None:
        settings |= {"classes": classes, "colors": None}
    if channels is not None:
        settings["preprocessing"] = settings.get("preprocessing", Preprocessing()).in_order(channels)
    if normalize is not None:
        settings["normalize"] = normalize
    if drop_channels := channel_numbers(drop_channels):
        settings["drop_channels"] = drop_channels
    if head is not None:
        settings["head"] = head
    if output is not None:
        settings["output"] = output
    if threshold is not None:
        settings["threshold"] = threshold
    network = Network(told_its_task(net), **settings)
    if network.preprocessing.unknown:
        raise ModelError(network.preprocessing.unknown)
    return network


def _told(make: Callable[..., Any], **given: Any) -> dict[str, Any]:
    """What was given of that which a function takes by name."""
    taken = inspect.signature(make).parameters
    return {name: value for name, value in given.items() if value is not None and name in taken}


def _of_object(given: Any) -> nn.Module:
    """A network that was given as it is; of a program, which has no layers, a network that has."""
    if isinstance(given, torch.jit.ScriptModule):
        from .sources.torchscript import network_of_script

        return network_of_script(given)
    if isinstance(given, torch.fx.GraphModule) and not any(map(kind_of, modules_of(given))):
        from .sources.exported import network_of_graph

        return network_of_graph(given, type(given).__name__)
    if isinstance(given, nn.Module):
        return given
    # not imported where it is not used: torch.export takes a second
    if type(given).__name__ == "ExportedProgram" and type(given).__module__.startswith("torch.export"):
        from .sources.exported import network_of_program

        return network_of_program(given)
    find_loader(given)  # raises: it is no name
    raise AssertionError


def _made(make: Callable[..., Any], arguments: tuple[str, ...], weights: str | Path | None, spec: str) -> nn.Module:
    """Call what makes a network; it gets the weights' path if it takes one more argument, else its result gets them."""
    signature = inspect.signature(make)

    def takes(*values: str) -> bool:
        try:
            signature.bind(*values)
        except TypeError:
            return False
        return True

    taken = weights is not None and takes(*arguments, str(weights))
    if taken:
        arguments = (*arguments, str(weights))
    elif not takes(*arguments):
        wanted = "no weights were given" if weights is None else "expected at most one argument, the weights' path"
        name = getattr(make, "__name__", repr(make))
        raise ModelError(f"{spec}: {name}{signature} cannot be called, {wanted}")
    net = make(*arguments)
    if not isinstance(net, nn.Module):
        raise ModelError(f"{spec} returned {type(net).__name__}: expected a torch.nn.Module")
    if weights is not None and not taken:
        load_weights(net.net if isinstance(net, Network) else net, weights)
    return net


def demo_network(_: str) -> Network:
    """The embedded demo network, see `load_model`."""
    from ..demo import CLASSES
    from ..demo.network import load_demo_network

    names, colors = zip(*CLASSES, strict=True)
    return Network(load_demo_network(), classes=names, colors=colors)


def demo_query_network(_: str) -> Network:
    """The embedded demo network of queries, see `load_model`."""
    from ..demo import CLASSES
    from ..demo.query_network import load_demo_query_network

    names, colors = zip(*CLASSES, strict=True)
    return Network(load_demo_query_network(), classes=names, colors=colors)


def transformers_network(source: str, weights: str | Path | None = None) -> Network:
    """A semantic-segmentation model of transformers, by folder or name on the hub, see `load_model`."""
    try:
        import transformers
        from transformers.utils import logging
    except (ImportError, RuntimeError) as error:
        raise ModelError(f"hf:{source} needs transformers: pip install 'gradunc-viz[hf]' ({brief(error)})") from error

    # A path that does not exist must not be mistaken for a name on the hub.
    local = Path(source).expanduser()
    if local.is_dir():
        source = str(local)
    elif local.is_absolute() or source.startswith((".", "~")) or source.count("/") > 1:
        raise ModelError(f"model folder {source} does not exist")
    unreached = "" if local.is_dir() else _unreached_hub()
    # without a connection what was fetched before is found at once, and else looked for again and again
    options: dict[str, Any] = {"trust_remote_code": False, "local_files_only": local.is_dir() or bool(unreached)}

    # What goes wrong is told in one line of our own, not in a table beside it.
    bar, verbosity = logging.is_progress_bar_enabled(), logging.get_verbosity()
    logging.disable_progress_bar()
    logging.set_verbosity_error()
    try:
        config = transformers.AutoConfig.from_pretrained(source, **options)
        kinds: Any = transformers.AutoModelForSemanticSegmentation
        if type(config) in transformers.MODEL_FOR_UNIVERSAL_SEGMENTATION_MAPPING:
            kinds, config.is_training = transformers.AutoModelForUniversalSegmentation, False
        if weights is None:
            net, report = kinds.from_pretrained(
                source, config=config, use_safetensors=True, output_loading_info=True, **options
            )
        else:
            # Not `load_weights`: a file may name weights otherwise than the module; transformers translates.
            blank = kinds.from_config(config, trust_remote_code=False)
            state = read_state(weights, blank.state_dict())
            net, report = type(blank).from_pretrained(None, config=config, state_dict=state, output_loading_info=True)
        absent = sorted(map(str, [*report["missing_keys"], *report["mismatched_keys"]]))
        if absent:
            raise ModelError(
                f"hf:{source}: {len(absent)} weights are missing or of another shape ({', '.join(absent[:3])}) "
                f"in {weights or 'its files'}: expected a model trained for segmentation, not a backbone"
            )
        labels = {int(index): str(name) for index, name in (net.config.id2label or {}).items()}
        net = told_its_task(net.eval(), source, options)
        preprocessing = processor_preprocessing(source, config, Network(net).in_channels, options)
    except ModelError:
        raise
    except Exception as error:
        reason = brief(error)
        if "Unrecognized configuration class" in reason:
            kind = re.search(r"configuration class <class '[\w.]*?(\w+)'>", reason)
            reason = (
                f"{kind[1] if kind else 'its configuration'} is no semantic-segmentation model with "
                "per-pixel logits, nor one of queries such as MaskFormer and Mask2Former"
            )
        elif weights is None and (local / "config.json").is_file():
            _check_weights(local)
        elif unreached and isinstance(error, OSError):
            reason = (
                f"no such folder, and the hub cannot be reached ({unreached}), from which nothing was fetched before"
            )
        elif local.parent.is_dir() and local.parent != Path() and not local.exists():
            reason = f"no such folder, and of the hub's model of this name: {reason}"
        raise ModelError(f"hf:{source} cannot be loaded: {reason}") from error
    finally:
        logging.set_verbosity(verbosity)
        if bar:
            logging.enable_progress_bar()

    generic = all(name == f"LABEL_{index}" for index, name in labels.items())
    classes = None if generic else [labels[index] for index in sorted(labels)]
    return Network(net, classes=classes, preprocessing=preprocessing)


def _unreached_hub() -> str:
    """Why the hub of Hugging Face cannot be reached; empty if it can."""
    from huggingface_hub import constants
    from huggingface_hub.utils import get_session

    try:
        get_session().head(constants.ENDPOINT, timeout=10)
    except Exception as error:  # of whichever library it is asked by
        return brief(error)
    return ""


def _check_weights(folder: Path) -> None:
    """Check that a folder of transformers holds safetensors, whole."""
    from safetensors import safe_open

    files = sorted(folder.glob("*.safetensors"))
    if not files:
        found = ", ".join(sorted(path.name for path in folder.iterdir())[:5])
        raise ModelError(f"{folder}: holds {found}, but no weights; expected model.safetensors, of save_pretrained")
    for file in files:
        try:
            with safe_open(file, "pt"):
                pass
        except Exception as error:
            raise ModelError(
                f"{file}: cannot be read ({brief(error)}); expected whole weights in safetensors"
            ) from error


_serial = itertools.count()


def network_of_file(spec: str, weights: str | Path | None = None) -> nn.Module:
    """What a function of a user's file returns, see `load_model`."""
    file, _, function = spec.rpartition(":")
    path = Path(file).expanduser().resolve()
    if not path.is_file():
        raise ModelError(f"model file {file} does not exist")
    with neighbours_importable(path):
        module = executed(path, f"gradunc_user_model_{next(_serial)}_{path.stem}")
        return _made(_function(module, function, spec), (), weights, spec)


def _function(module: ModuleType, name: str, spec: str) -> Callable[..., Any]:
    function: Any = getattr(module, name, None)
    if callable(function):
        return function  # type: ignore[no-any-return]
    own = [
        name
        for name, value in vars(module).items()
        if callable(value) and getattr(value, "__module__", "") == module.__name__ and not name.startswith("_")
    ]
    raise ModelError(f"{spec}: no function {name!r} in the file; it has {', '.join(own) or 'none'}")
