"""Logits, and features, that somebody saved: a network that is not at hand takes part by what it said of each frame."""

from __future__ import annotations

import os
import warnings
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from ..datasets.bands import frame_channels
from ..datasets.conventions import some as some_of
from ..datasets.files_by_id import combined_digest, content_digest
from ..datasets.frames import Frame
from ..kernels.geometry import Geometry
from ..schema.errors import FrameError, GraduncError, HeadError, ModelError
from .array_files import ArrayFiles
from .head import Head, geometry_of
from .network import Network
from .passes import Inputs
from .replayed import ReplayedLayer, are_probabilities, unknown_layer
from .runner import out_of_memory
from .tail import logarithm, logit

__all__ = ["SavedLogits", "SavedRunner"]

_KERNEL = (
    "kernel_size", "stride", "padding", "output_padding", "dilation", "groups", "bias", "padding_mode", "transposed"
)  # fmt: skip
"""Keywords of torch's convolutions that say how output is connected to input, and whether it is a transposed one."""


class SavedLogits(Network):
    """Logits of frames in files, in place of a network: of another framework, of an experiment of long ago.

    >>> saved = gv.SavedLogits("run7/logits", "run7/features", head={"kernel_size": 3, "padding": 1})  # doctest: +SKIP
    >>> cache = gv.compute(saved, frames, "runs/run7")                                       # doctest: +SKIP

    Parameters
    ----------
    logits : path-like
        Folder of arrays (C, h, w), or (1, C, h, w), of floating point, each called as the frame's id:
        ``<id>.npy``, ``.npz``, ``.safetensors`` or ``.zarr``, see `gradunc_viz.networks.array_files.ArrayFiles`.
    features : path-like, optional
        Folder of arrays (D, h', w'): what entered the last layer. By default those that lie beside the logits in the
        same file, called ``features``. Without any there are no gradient norms, and no other scores of features.
    head : mapping or nn.Module, optional
        The last layer, between features and logits: keywords of `torch.nn.Conv2d`, ``{"kernel_size": 3, "padding":
        1}``, with ``"transposed": True`` those of `torch.nn.ConvTranspose2d`; or such a layer, of whose weights
        ``vim`` is made, and nothing else. By default a convolution of 1 x 1, where logits and features are of one size.
    probabilities : bool
        Whether files hold probabilities instead of logits: their logarithm is taken (of 1.2e-38 at least), of one
        channel the logit. Scores of the softmax and norms are the same as of logits, ``energy`` and ``max_logit`` are
        not.
    name : str, optional
        What to call it; by default the name of the folder.
    classes, colors, drop_channels, threshold
        See `Network`.

    Attributes
    ----------
    n_channels : int
        How many channels the logits have, as the first file says; two of which one logit stands for both.

    Raises
    ------
    FrameError
        If a folder is missing or holds no arrays, or none that can be read.
    HeadError
        If the head makes no such logits of such features.
    ModelError
        If channels that are to be left out are not there, or names are not those of the classes.

    Warns
    -----
    UserWarning
        If a head of 1 x 1 is assumed.
    """

    def __init__(
        self,
        logits: str | os.PathLike[str],
        features: str | os.PathLike[str] | None = None,
        *,
        head: Mapping[str, Any] | nn.Module | None = None,
        probabilities: bool = False,
        name: str | None = None,
        classes: Sequence[str] | None = None,
        colors: Sequence[tuple[int, int, int]] | None = None,
        drop_channels: Iterable[int] = (),
        threshold: float | None = None,
    ) -> None:
        logits_files = ArrayFiles(logits, "logits", ("features",))
        first, shape = _first(logits_files)
        features_files = ArrayFiles(logits if features is None else features, "features", ("logits",))
        beside = features_files.path.resolve() == logits_files.path.resolve()
        known = not beside or features_files.holds(first)
        if known:
            geometry = _geometry(head, features_files, _first(features_files)[1][0], shape[0])
        elif features is not None or head is not None:
            raise ModelError(
                f"{logits_files.path}: holds no features, which enter the last layer that was described; expected "
                "arrays called so beside the logits, or a folder of them (--features DIR, features=DIR)"
            )
        else:
            geometry = unknown_layer(shape[0], "no features were saved")
        super().__init__(
            _Replay(geometry, probabilities, head if isinstance(head, nn.Module) else None),
            name=name or logits_files.path.name,
            classes=classes,
            colors=colors,
            drop_channels=drop_channels,
            threshold=threshold,
        )
        self.n_channels, self.probabilities, self.geometry = max(2, shape[0]), probabilities, geometry
        try:
            self.class_names(self.n_channels)
        except ModelError as error:
            raise ModelError(f"{first}: logits have shape {shape}, expected (C, h, w); {error}") from None
        self.logits_files, self.features_files = logits_files, features_files if known else None
        self._first_file, self._stored = first, shape[0]
        self._assumed, self._warned = known and head is None, False
        if self._assumed:
            warnings.warn(
                f"{features_files.path}: nobody said what layer makes logits of these features, and a convolution of "
                "1 x 1 is assumed; a larger kernel has other gradient norms, see --kernel (head=...)",
                stacklevel=2,
            )

    def __repr__(self) -> str:
        beside = "" if self.features_files is None else f" and features of {self.features_files.path}"
        return f"<SavedLogits {self.name}: {self._stored} channels of {len(self.logits_files.files)} frames{beside}>"

    def check_frames(
        self,
        frames: Sequence[Frame],
        names: Sequence[str] | None = None,
        *,
        with_features: bool = True,
        skip: bool = False,
        others: Iterable[str] = (),
        some: bool = False,
    ) -> None:
        """Check before any work that frames have their files, and that these are laid out as expected.

        Parameters
        ----------
        frames : sequence of Frame
        names : sequence of str, optional
            Of the classes.
        with_features : bool
            Whether anybody needs features.
        skip : bool
            Whether a frame without files may be left out.
        others : iterable of str
            Ids of further frames that files may belong to.
        some : bool
            Whether there may be more of these than are known.

        Raises
        ------
        FrameError
            If frames have no files, or the first file is of another shape than expected.

        Warns
        -----
        UserWarning
            Naming files that belong to no frame, and frames whose logits have another size than those of other images
            of its size.
        """
        for files in filter(None, (self.logits_files, self.features_files if with_features else None)):
            found = {frame.id: files.find(frame.id) for frame in frames}
            absent = [frame_id for frame_id, file in found.items() if file is None]
            if absent and (len(absent) == len(found) or not skip):
                also = "" if len(absent) == len(found) else "; --on-error skip (on_error='skip') leaves them out"
                raise FrameError(
                    f"{files.path}: {len(found) - len(absent)} of {len(found)} frames have {files.name}, but not "
                    f"{some_of('frame', map(repr, absent))}; expected {files.expected(absent[0])}; the first file is "
                    f"{next(iter(files.files.values())).name}{also}"
                )
            unused = [] if some else [str(file.relative_to(files.path)) for file in files.unused({*found, *others})]
            if unused:
                warnings.warn(
                    f"{files.path}: {len(unused)} of {len(files.files)} {files.name} files belong to no frame "
                    f"({some_of('file', unused)})",
                    stacklevel=3,
                )
        sizes: dict[tuple[int, int], dict[tuple[int, int], list[str]]] = {}  # of images, of logits
        for frame in frames:
            with suppress(GraduncError):  # told when its turn comes
                file, size = self.logits_files.file(frame.id), frame.size
                shape = _checked_shape(self.logits_files.shape(file), file, "logits")
                if not sizes:
                    self.in_channels = frame_channels(frame.image_path)  # no network says how many it takes
                    first = shape, file, size
                sizes.setdefault(size, {}).setdefault((shape[1], shape[2]), []).append(frame.id)
        if sizes:
            self._check_layout(*first, names)
        self._warn_of_sizes(sizes)

    def _warn_of_sizes(self, sizes: Mapping[tuple[int, int], Mapping[tuple[int, int], list[str]]]) -> None:
        """Warn of logits of another size than others of such images: frames by size of the image and of the logits.

        Another aspect ratio than the image's says nothing: networks resize their input.
        """
        uneven: dict[str, str] = {}
        for image, by_size in sizes.items():
            usual = max(by_size, key=lambda size: (len(by_size[size]), _alike(size, image)))
            for size, ids in by_size.items():
                if size != usual:
                    also = f"where others of an image of {_text(image)} have {_text(usual)}; expected one size"
                    uneven |= dict.fromkeys(ids, f"{_text(size)}, {also}")
        if uneven:
            text = f"{some_of('frame', uneven)} with logits of {next(iter(uneven.values()))}"
            warnings.warn(f"{self.logits_files.path}: {text}", stacklevel=5)

    def read(self, frame_id: str, image_size: tuple[int, int], with_features: bool) -> tuple[Tensor, ...]:
        """Logits (1, C, h, w), and features (1, D, h', w'), of a frame.

        Raises
        ------
        FrameError
            Naming the file: if it is missing or damaged, or of another shape or type than expected.
        """
        file = self.logits_files.file(frame_id)
        logits = _map(self.logits_files.read(file), file, "logits")
        shape = tuple(logits.shape[1:])
        self._check_layout(shape, file, image_size)
        if shape[0] != self._stored:
            raise FrameError(
                f"{file}: logits have {shape[0]} channels, shape {shape}, and those of {self._first_file} "
                f"{self._stored}: expected one number"
            )
        logits = self._of_file(logits, file)
        if not with_features or self.features_files is None:
            return (logits,)
        beside = self.features_files.file(frame_id)
        features = _map(self.features_files.read(beside), beside, "features")
        self._check_features(tuple(features.shape[1:]), beside, shape, file)
        return logits, features

    def _check_layout(
        self, shape: tuple[int, ...], file: Path, image: tuple[int, int], names: Sequence[str] | None = None
    ) -> None:
        """Check that axes are (C, h, w), as far as the classes and the image tell.

        Saved channels last, a map has classes where its width is; transposed, another side is the longer one.
        """
        channels, height, width = shape
        classes = len(names or self.classes or ())
        counts = (classes, classes + len(self.drop_channels)) if classes else (self._stored,)
        text = f"{file}: logits have shape {shape}, expected (C, h, w)"
        last = "channels seem to be last, which np.moveaxis(logits, -1, 0) mends"
        if channels not in counts and width in counts:
            raise FrameError(f"{text} of {width} classes: {last}")
        if _alike((height, width), image):
            return
        size = f"the image is {image[0]} x {image[1]}"
        if width < min(channels, height) and _alike((channels, height), image):
            raise FrameError(f"{text}, and {size}: {last}")
        if _alike((width, height), image):
            raise FrameError(f"{text}, and {size}: are they transposed?")

    def _check_features(
        self, features: tuple[int, ...], file: Path, logits: tuple[int, ...], logits_file: Path
    ) -> None:
        """Check that the last layer makes these logits of these features."""
        geometry = self.geometry
        if features[0] != geometry.inputs:
            raise FrameError(
                f"{file}: features have {features[0]} channels, shape {features}; expected {geometry.inputs}, as the "
                "first file has"
            )
        if geometry.makes(logits[1:], features[1:]):
            return
        height, width = geometry.output_size(features[1:])
        layer = "the 1 x 1 convolution that is assumed" if self._assumed else geometry.name
        hint = "; say what the layer is with --kernel, --stride ... (head=...)" if self._assumed else ""
        raise FrameError(
            f"{file}: features of {features[1]} x {features[2]} make logits of {height} x {width} by {layer}, but "
            f"those of {logits_file.name} are {logits[1]} x {logits[2]}{hint}"
        )

    def _of_file(self, values: Tensor, file: Path) -> Tensor:
        """Logits of what is stored as such, or as probabilities."""
        one, likely = values.shape[1] == 1, are_probabilities(values)
        if self.probabilities:
            if likely:
                return logit(values) if one else logarithm(values)
            low, high = (float(end) for end in torch.aminmax(values))
            least, most = (float(end) for end in torch.aminmax(values.sum(1)))
            sums = "" if one else f" and sums over the channels of {least:.4g} to {most:.4g}"
            raise FrameError(
                f"{file}: has values of {low:.4g} to {high:.4g}{sums}; expected probabilities, 0 to 1"
                + ("" if one else " with a sum of 1")
            )
        if likely and not one:
            raise FrameError(
                f"{file}: all values lie in [0, 1] and add up to 1 over the channels, as probabilities do; expected "
                "logits, or --probabilities (probabilities=True), which takes their logarithm"
            )
        if likely and not self._warned:
            self._warned = True
            warnings.warn(
                f"{file}: all values of its one channel lie in [0, 1], and are taken for logits; of probabilities, "
                "--probabilities (probabilities=True) takes the logit",
                stacklevel=2,
            )
        return values


class _Replay(nn.Module):
    """The network as far as it is at hand: logits and features pass through its last layer."""

    def __init__(self, geometry: Geometry, probabilities: bool, layer: nn.Module | None) -> None:
        super().__init__()
        self.head = ReplayedLayer(geometry, *(getattr(layer, name, None) for name in ("weight", "bias")))
        self.probabilities = probabilities
        self.featureless = "" if geometry.inputs else "no features were given: --features DIR (features=DIR) reads them"

    def forward(self, x: Inputs) -> Tensor:
        if not isinstance(x, Inputs):
            raise ModelError(
                "saved logits are no network that runs on images: expected 'compute', 'fit' or 'calibrate'"
            )
        logits, *features = x.images
        return self.head(features[0] if features else logits[:, :0], logits)

    def extra_repr(self) -> str:
        return "of probabilities" if self.probabilities else ""


class SavedRunner:
    """Finds what was saved of a frame by its id; a `gradunc_viz.networks.runner.Runner`.

    Parameters
    ----------
    network : SavedLogits
    device : torch.device
        Where scores are computed.
    with_features : bool
        Whether anybody needs features: they are not read otherwise.
    """

    def __init__(self, network: SavedLogits, device: torch.device, with_features: bool = True) -> None:
        self.network, self.device, self.with_features = network, device, with_features

    def files(self, frame_id: str) -> list[Path]:
        """Where that lies which was saved of a frame."""
        used = (self.network.logits_files, self.network.features_files if self.with_features else None)
        return [files.file(frame_id) for files in used if files is not None]

    def content(self, frame_id: str) -> str:
        """Hash of what was saved of a frame.

        Raises
        ------
        FrameError
            If it is absent, or cannot be read.
        """
        return combined_digest(map(content_digest, self.files(frame_id)))

    def prepare(self, image: np.ndarray, frame_id: str) -> Inputs:
        """What was saved of a frame."""
        return Inputs(self.network.read(frame_id, (image.shape[0], image.shape[1]), self.with_features), (frame_id,))

    def __call__(self, x: Inputs, what: str) -> Head:
        """Head of a batch.

        Raises
        ------
        DeviceError
            If memory runs out.
        """
        with out_of_memory(what, self.device):
            moved: Any = Inputs(tuple(one.to(self.device) for one in x.images), x.ids)
            return self.network.infer(moved)


def _first(files: ArrayFiles) -> tuple[Path, tuple[int, ...]]:
    """The first file that can be read, and the shape of what it holds, (channels, h, w)."""
    problem: GraduncError | None = None
    for file in files.files.values():
        try:
            return file, _checked_shape(files.shape(file), file, files.name)
        except GraduncError as error:
            problem = problem or error  # told again when the frame's turn comes, if another can be read
    assert problem is not None
    raise problem


def _checked_shape(shape: Sequence[int], file: Path, what: str) -> tuple[int, ...]:
    """(channels, h, w) of a stored map, which may have an axis of length 1 before these.

    Raises
    ------
    FrameError
        If it is anything else.
    """
    found = tuple(shape[1:]) if len(shape) == 4 and shape[0] == 1 else tuple(shape)
    if len(found) == 3 and all(found):
        return found
    hint = ", one frame in a file" if len(found) == 4 else ""
    if len(found) == 2 and what == "logits":
        hint = ", a channel for each class; maps of one score are taken by 'gradunc import'"
    raise FrameError(f"{file}: {what} have shape {tuple(shape)}; expected (C, h, w){hint}")


def _map(values: Tensor, file: Path, what: str) -> Tensor:
    return values.reshape(1, *_checked_shape(values.shape, file, what))


def _alike(size: tuple[int, int], other: tuple[int, int]) -> bool:
    """Whether one map may be the other in another size, rounded."""
    (height, width), (h, w) = size, other
    return abs(height * w - width * h) <= max(h, w, height, width)


def _text(size: tuple[int, int]) -> str:
    return f"{size[0]} x {size[1]}"


def _geometry(head: Mapping[str, Any] | nn.Module | None, features: ArrayFiles, inputs: int, outputs: int) -> Geometry:
    """The last layer between features and logits of so many channels."""
    if isinstance(head, nn.Module):
        geometry = geometry_of(head)
        if (geometry.inputs, geometry.outputs) != (inputs, outputs):
            raise HeadError(
                f"the head {geometry.name} takes {geometry.inputs} channels and makes {geometry.outputs}; expected "
                f"{inputs}, as features in {features.path} have, and {outputs}, as the logits have"
            )
        return geometry
    if head is None:
        return geometry_of(nn.Conv2d(inputs, outputs, 1, device="meta"))
    if not isinstance(head, Mapping):
        raise HeadError(
            f"head is {head!r}; expected a layer, or the arguments of torch.nn.Conv2d such as "
            "{'kernel_size': 3, 'padding': 1}"
        )
    unknown = [key for key in head if key not in _KERNEL]
    if unknown:
        raise HeadError(f"head has {', '.join(map(repr, unknown))}; expected some of {', '.join(_KERNEL)}")
    options = dict(head)
    kind = nn.ConvTranspose2d if options.pop("transposed", False) else nn.Conv2d
    for key in ("kernel_size", "stride", "padding", "output_padding", "dilation", "groups"):
        least = 0 if key.endswith("padding") else 1
        parts = options.get(key, least)
        pair = isinstance(parts, (tuple, list)) and key != "groups"
        if key == "padding" and isinstance(parts, str) and kind is nn.Conv2d:
            continue  # "same" or "valid", which a transposed convolution knows nothing of
        if not all(isinstance(one, int) and one >= least for one in (parts if pair else [parts])) or (
            pair and len(parts) != 2
        ):
            expected = f"a whole number of {least} or more" + ("" if key == "groups" else ", or two of them")
            of = "head, a transposed convolution," if kind is nn.ConvTranspose2d else "head"
            raise HeadError(f"{key} of the {of} is {parts!r}; expected {expected}")
    try:
        layer = kind(inputs, outputs, **{"kernel_size": 1, **options}, device="meta")
    except (TypeError, ValueError, RuntimeError) as error:
        raise HeadError(
            f"no head of {inputs} features and {outputs} logits has {dict(head)}: {' '.join(str(error).split())}"
        ) from error
    return geometry_of(layer)
