"""Where networks come from: each source registers a loader under the word that begins its name.

Loading this module loads no PyTorch: the command line's help lists the sources.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable
from dataclasses import dataclass
from operator import attrgetter
from typing import Any

from ..schema.errors import ModelError
from ..schema.registry import Registry

__all__ = ["LOADERS", "Loader", "find_loader", "register_loader", "sources"]


@dataclass(frozen=True)
class Loader:
    """A source of networks.

    Attributes
    ----------
    prefix
        What a model's name begins with, before the colon.
    load
        The function, or ``module:function``, resolved when first used. It takes what comes after the colon and, if it
        has a second parameter, the path of the weights or ``None``; it returns a `torch.nn.Module`, or a
        `gradunc_viz.networks.network.Network` that knows its classes and its input. Without a second parameter, weights
        are loaded into the result. Parameters called ``head`` and ``output`` get what the user says of them.
    argument
        What comes after the colon, for help: ``"NAME"``; empty where there is nothing.
    help
        One line on what is loaded.
    """

    prefix: str
    load: str | Callable[..., Any]
    argument: str = ""
    help: str = ""

    @property
    def form(self) -> str:
        """How a model of this source is named: ``"hf:DIR_OR_ID"``."""
        prefix = "FILE.py" if self.prefix == _FILE else self.prefix
        return f"{prefix}:{self.argument}" if self.argument else prefix

    @property
    def function(self) -> Callable[..., Any]:
        """What loads it."""
        if not isinstance(self.load, str):
            return self.load
        module, _, name = self.load.partition(":")
        function: Callable[..., Any] = getattr(importlib.import_module(module), name)
        return function


_FILE = ".py"
_HOME = "gradunc_viz.networks.load"
_SOURCES = "gradunc_viz.networks.sources"

LOADERS: Registry[Loader] = Registry(
    Loader,
    attrgetter("prefix"),
    "loader",
    "gradunc_viz.loaders",
    (
        Loader("demo", f"{_HOME}:demo_network", "", "the embedded demo network"),
        Loader("demo-queries", f"{_HOME}:demo_query_network", "", "the embedded demo network of queries"),
        Loader(
            "hf", f"{_HOME}:transformers_network", "DIR_OR_ID",
            "a semantic-segmentation or query model of transformers, safetensors only, no remote code",
        ),
        Loader(
            "torchvision", f"{_SOURCES}.torchvision:torchvision_network", "NAME",
            "an architecture of torchvision.models.segmentation, of use only with weights",
        ),
        Loader(
            "smp", f"{_SOURCES}.smp:smp_network", "ARCH/ENCODER_OR_DIR",
            "an architecture of segmentation_models_pytorch, of use only with weights, or a folder of save_pretrained",
        ),
        Loader(
            "timm", f"{_SOURCES}.timm:timm_network", "BACKBONE",
            "a linear head on the last features of a backbone of timm, both from weights",
        ),
        Loader(
            "onnx", "gradunc_viz.networks.onnx_runner:onnx_network", "FILE.onnx", "an ONNX model, run by onnxruntime"
        ),
        Loader("torchscript", f"{_SOURCES}.torchscript:torchscript_network", "FILE", "what torch.jit.save wrote"),
        Loader("export", f"{_SOURCES}.exported:exported_network", "FILE", "what torch.export.save wrote"),
        Loader(_FILE, f"{_HOME}:network_of_file", "FUNCTION", "what a function of one's own file returns"),
    ),
    ModelError,
)  # fmt: skip
"""Every loader by prefix, registered ones too."""


def register_loader(loader: Loader) -> Loader:
    """Add a source of networks: `load_model` and the command line know it by its prefix from then on.

    Packages bring theirs through the entry point group ``gradunc_viz.loaders``.

    Raises
    ------
    ModelError
        If the prefix is taken.
    """
    return LOADERS.register(loader)


def sources() -> str:
    """How models can be named, for help and errors: ``"demo, hf:DIR_OR_ID ... or FILE.py:FUNCTION"``."""
    *first, last = sorted((loader.form for loader in LOADERS.values()), key="FILE.py:FUNCTION".__eq__)
    return f"{', '.join(first)} or {last}"


def find_loader(spec: str) -> tuple[Loader, str]:
    """Find the loader of a model's name, and what of the name it is to load.

    Raises
    ------
    ModelError
        If there is none; the message lists how models can be named.
    """
    if not isinstance(spec, str):
        raise ModelError(f"model {spec!r} is of type {type(spec).__name__}: expected a torch.nn.Module, {sources()}")
    prefix, colon, rest = spec.partition(":")
    if f"{_FILE}:" in spec:
        return LOADERS[_FILE], spec
    if prefix == _FILE or prefix not in LOADERS:
        raise ModelError(f"unknown model {spec!r}: expected {sources()}")
    loader = LOADERS[prefix]
    if bool(rest) != bool(loader.argument) or (colon and not loader.argument):
        raise ModelError(f"unknown model {spec!r}: expected {loader.form}")
    return loader, rest
