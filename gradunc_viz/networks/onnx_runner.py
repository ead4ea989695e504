"""ONNX models: what stands before the last layer runs in onnxruntime, what stands behind it is repeated in torch.

Input and output of the last layer are made outputs of the graph, in memory. In torch they pass through a
`gradunc_viz.networks.replayed.ReplayedLayer`, and then through the few operations that stand behind it; so the model is
a module whose head is found, and whose logits are resized, like any other's. That both do the same is looked at in the
first pass on every size of input. Whatever else a graph does behind its last layer ends the search for it: there are
logits then, and no features.
"""

from __future__ import annotations

import hashlib
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from ..schema.errors import HeadError, ModelError, brief
from .network import Network
from .onnx_graph import Ending, ending_of, output_of
from .preprocessing import Preprocessing
from .replayed import ReplayedLayer, are_probabilities

__all__ = ["OnnxModule", "onnx_network"]

_MOST_BYTES = 2**31 - 1
"""What a graph in memory may hold, weights included."""


def onnx_network(
    source: str, weights: str | None = None, *, head: str | None = None, output: str | int | None = None
) -> Network:
    """A model in an ONNX file, see `gradunc_viz.load_model`; no code of its own is loaded.

    Raises
    ------
    ModelError
        If the file is damaged, is no model of images, or onnxruntime cannot run it.
    """
    if weights is not None:
        raise ModelError(f"onnx:{source} holds its weights itself: expected no weights beside it, such as {weights}")
    module = OnnxModule(Path(source).expanduser(), head, output)
    return Network(module, preprocessing=Preprocessing(size=module.size))


class OnnxModule(nn.Module):
    """An ONNX model as a module of torch.

    Parameters
    ----------
    path : Path
    head : str, optional
        Node of the last layer, or the tensor that leaves it.
    output : str or int, optional
        Which of the graph's outputs holds the logits.

    Attributes
    ----------
    size : (height, width) or None
        Of its input, where it takes only one.
    featureless : str
        Why it is not known what enters its last layer; empty where it is.
    """

    runtime = "onnxruntime"
    """What runs it, in place of torch."""

    def __init__(self, path: Path, head: str | None = None, output: str | int | None = None) -> None:
        super().__init__()
        onnx, runtime = _imported()
        model, self._digest = _read(onnx, path)
        graph = model.graph
        held = {one.name for one in graph.initializer}
        images = [one for one in graph.input if one.name not in held]
        if len(images) != 1:
            raise ModelError(f"{path}: the graph takes {', '.join(one.name for one in images)}; expected one image")
        self._input, self._dtype, shape = _image_input(onnx, path, images[0])
        self._channels_last = not isinstance(shape[1], int) or shape[1] > 4
        self._channels_last &= isinstance(shape[3], int) and shape[3] <= 4
        down, across, channels = (1, 2, 3) if self._channels_last else (2, 3, 1)
        height, width = shape[down], shape[across]
        self.size = (height, width) if isinstance(height, int) and isinstance(width, int) else None
        self._one_by_one = shape[0] == 1
        self.config = SimpleNamespace(num_channels=shape[channels])
        opset = max((one.version for one in model.opset_import if one.domain in ("", "ai.onnx")), default=1)
        self._ending = ending_of(graph, output_of(graph, output), head, opset, self._channels_last)
        self.featureless = ""
        if not self._ending.features:
            self.featureless = f"its last layer is not known: {self._ending.why}"
        self.head = ReplayedLayer(self._ending.geometry, self._ending.weight, self._ending.bias)
        self._session = _session(runtime, _with_outputs(onnx, model, self._ending), path)
        self._seen: dict[tuple[int, ...], list[tuple[int, int]]] = {}

    def extra_repr(self) -> str:
        """What tells one model from another."""
        return f"content {self._digest}"

    @torch.compiler.disable
    def forward(self, x: Tensor) -> Tensor:
        """What the graph returns of a batch (N, channels, h, w), as far as it is logits, (N, C, h, w)."""
        if self.size is not None and tuple(x.shape[2:]) != self.size:
            raise ModelError(
                f"the ONNX model takes images of {self.size[0]} x {self.size[1]} alone, not {x.shape[2]} x {x.shape[3]}"
            )
        ending = self._ending
        shape = tuple(x.shape[1:])
        names = [ending.features, ending.logits]
        if shape not in self._seen:
            names += [*(step.made for step in ending.steps), ending.output]
        found = dict(zip(names, self._run(x, names), strict=True))
        logits = _first(found[ending.logits], ending.rows)
        if logits.ndim != 4:
            raise ModelError(f"the graph's {ending.logits!r} has shape {tuple(logits.shape)}; expected (N, C, h, w)")
        if not ending.features and are_probabilities(logits):
            raise ModelError(
                f"the graph's {ending.logits!r} are probabilities, and it is not known of what logits ({ending.why}); "
                "expected a graph that returns logits"
            )
        features = _first(found[ending.features], ending.rows) if ending.features else logits[:, :0]
        if not ending.features:  # then only a run tells how many classes there are
            self.head.geometry = replace(self.head.geometry, outputs=logits.shape[1])
        made = self.head(features, logits)
        sizes = self._seen.get(shape)
        if sizes is None:
            sizes = [_size(_first(found[step.made], step.channels_last)) for step in ending.steps]
        for step, size in zip(ending.steps, sizes, strict=True):
            made = step.repeat(made, size)
        if shape not in self._seen:
            self._compare(made, _first(found[ending.output], ending.channels_last))
            self._seen[shape] = sizes
        return made

    def _run(self, x: Tensor, names: list[str]) -> list[Tensor]:
        """Tensors of the graph, for every image of a batch; half precision becomes float32."""
        images = x.detach().cpu().numpy().astype(self._dtype)
        if self._channels_last:
            images = np.moveaxis(images, 1, 3)
        asked = [name for name in dict.fromkeys(names) if name not in ("", self._input)]
        batches = [images[i : i + 1] for i in range(len(images))] if self._one_by_one else [images]
        parts = [self._session.run(asked, {self._input: np.ascontiguousarray(one)}) for one in batches]
        found = {name: np.concatenate(arrays) for name, arrays in zip(asked, zip(*parts, strict=True), strict=True)}
        tensors = {name: torch.from_numpy(array) for name, array in (found | {self._input: images}).items()}
        wide = {name: one if one.dtype == torch.float64 else one.float() for name, one in tensors.items()}
        return [wide[name].to(x.device) if name else x[:, :0] for name in names]

    def _compare(self, made: Tensor, own: Tensor) -> None:
        """Check that torch does what the graph does behind its last layer."""
        rough = 1e-3 if self._dtype != np.float16 else 3e-2
        if made.shape != own.shape or bool(((made - own).abs() > rough * (own.abs().amax() + 1e-6)).any()):
            raise HeadError(
                f"what the graph does to {self._ending.logits!r} is repeated with another result than its "
                f"{self._ending.output!r}: scores of it would not be its own"
            )


def _size(values: Tensor) -> tuple[int, int]:
    return values.shape[2], values.shape[3]


def _first(values: Tensor, channels_last: bool) -> Tensor:
    return values.permute(0, 3, 1, 2) if channels_last and values.ndim == 4 else values


def _imported() -> tuple[Any, Any]:
    try:
        import onnx
        import onnx.checker
        import onnx.helper
        import onnx.inliner
        import onnxruntime
    except ImportError as error:
        raise ModelError(f"ONNX models need onnx and onnxruntime: pip install 'gradunc-viz[onnx]' ({error})") from error
    return onnx, onnxruntime


def _read(onnx: Any, path: Path) -> tuple[Any, str]:
    """The model with its weights, wherever these lie, and a hash of it."""
    if not path.is_file():
        raise ModelError(f"{path}: no such file; expected an ONNX model")
    try:
        model = onnx.load(path)
        if model.ByteSize() > _MOST_BYTES:
            raise ModelError(f"{path}: is larger than 2 GB, which an ONNX graph in memory cannot be")
        onnx.checker.check_model(model)
        if model.functions:
            model = onnx.inliner.inline_local_functions(model)
    except ModelError:
        raise
    except Exception as error:  # protobuf, checker and files each have their own
        raise ModelError(f"{path}: is no valid ONNX model ({brief(error)})") from error
    return model, hashlib.blake2b(model.SerializeToString(deterministic=True), digest_size=20).hexdigest()


def _image_input(onnx: Any, path: Path, value: Any) -> tuple[str, np.dtype[Any], list[int | None]]:
    """Name, type and shape of the input, None where a length is free."""
    kind = value.type.tensor_type
    shape = [dim.dim_value if dim.HasField("dim_value") and dim.dim_value > 0 else None for dim in kind.shape.dim]
    dtype = onnx.helper.tensor_dtype_to_np_dtype(kind.elem_type) if kind.elem_type else np.dtype("f4")
    if len(shape) != 4 or dtype.kind != "f":
        raise ModelError(
            f"{path}: its input {value.name!r} is {dtype.name} of {len(shape)} dimensions; expected floating point, "
            "images (N, channels, h, w)"
        )
    if shape[0] is not None and shape[0] > 1:
        raise ModelError(f"{path}: takes batches of {shape[0]} images alone; expected a batch of 1, or any")
    return value.name, dtype, shape


def _with_outputs(onnx: Any, model: Any, ending: Ending) -> bytes:
    """The model with further tensors of it as outputs."""
    there = {one.name for one in (*model.graph.output, *model.graph.input)}
    for name in dict.fromkeys((ending.features, ending.logits, *(step.made for step in ending.steps), ending.output)):
        if name and name not in there:
            model.graph.output.append(onnx.ValueInfoProto(name=name))
    content: bytes = model.SerializeToString()
    return content


def _session(runtime: Any, content: bytes, path: Path) -> Any:
    options = runtime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    options.log_severity_level = 3
    there = runtime.get_available_providers()
    providers = [one for one in ("CUDAExecutionProvider", "CPUExecutionProvider") if one in there]
    try:
        return runtime.InferenceSession(content, options, providers=providers)
    except Exception as error:
        raise ModelError(f"{path}: onnxruntime cannot run it ({brief(error)})") from error
