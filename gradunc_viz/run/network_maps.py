"""Maps that a network gives: batches of frames of one size, smaller ones where memory runs out."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from itertools import groupby

import torch
from torch import Tensor

from ..datasets.frames import Frame
from ..networks.head import Head
from ..networks.runner import Inference, Runner, out_of_memory
from ..networks.second_last import SecondLast
from ..schema.errors import DeviceError, GraduncError
from ..scores.maps import Scorer
from ..scores.needs import HeadOutput
from .decode import DecodedFrame, decode
from .pipeline import LeftOut, Scored
from .settings import Settings
from .stages import Stages

__all__ = ["NetworkMaps"]


@dataclass
class _Ready:
    """A decoded frame with the runner's input."""

    frame: DecodedFrame
    tensor: Tensor


@dataclass
class NetworkMaps:
    """Frames scored by a network; a `gradunc_viz.run.pipeline.MapSource`.

    Parameters
    ----------
    runner : Runner
    settings : Settings
    classes : tuple of str
    stages : Stages
        Told what takes how long.
    """

    runner: Runner
    settings: Settings
    classes: tuple[str, ...]
    stages: Stages
    batch: int = field(init=False)
    """Frames per forward pass; halved when memory runs out."""

    def __post_init__(self) -> None:
        self.batch = self.settings.batch or (4 if self.device.type == "cuda" else 1)
        self._scorer = Scorer(self.settings.scores, self.device)
        self._needs_features = "features" in self._scorer.needs
        self._second_last = None
        if "hidden" in self._scorer.needs:
            self._second_last = SecondLast(self.runner.network)
            if isinstance(self.runner, Inference) and self.runner.compile:
                self.runner.compile = False
                warnings.warn(
                    "the network runs without torch.compile: what it does before its last layer is recorded operation "
                    "by operation",
                    stacklevel=2,
                )

    @property
    def device(self) -> torch.device:
        """Where the runner's output lies."""
        return self.runner.device

    @property
    def ahead(self) -> int:
        """A batch and a bit."""
        return self.batch + 1

    @property
    def what(self) -> str:
        """For the progress bar."""
        return f"scoring on {self.device}"

    def digest(self, frame: Frame) -> str:
        """Content hash of the frame."""
        return frame.digest()

    def files(self, frame: Frame) -> str:
        """Name what the frame is made of."""
        return f"{frame.image_path} and its labels"

    def read(self, frame: Frame) -> _Ready | LeftOut:
        """Decode a frame and make the runner's input of it."""
        try:
            with self.stages("decode"):
                decoded = decode(frame, len(self.classes), self.settings.images, self.runner.network.in_channels)
            with self.stages("prepare"):
                pixels = decoded.image if decoded.pixels is None else decoded.pixels
                return _Ready(decoded, self.runner.prepare(pixels, frame.id))
        except GraduncError as error:
            return LeftOut(frame.id, error)

    def scored(self, ready: Iterator[_Ready | LeftOut]) -> Iterator[Scored | LeftOut]:
        """Run the network batch by batch and score each of the frames."""
        for group in self._batches(ready):
            yield from (item for item in group if isinstance(item, LeftOut))
            yield from self._of_group([item for item in group if isinstance(item, _Ready)])

    def _batches(self, ready: Iterator[_Ready | LeftOut]) -> Iterator[list[_Ready | LeftOut]]:
        """Group frames of one input size, in order, `batch` at most."""
        for _, same in groupby(ready, key=lambda one: None if isinstance(one, LeftOut) else tuple(one.tensor.shape)):
            group: list[_Ready | LeftOut] = []
            for item in same:
                group.append(item)
                if len(group) >= self.batch:
                    yield group
                    group = []
            if group:
                yield group

    def _of_group(self, group: list[_Ready]) -> Iterator[Scored | LeftOut]:
        if not group:
            return
        try:
            parts = self._infer(group)
        except GraduncError as error:
            if len(group) > 1:  # find out which frame it is, so that the others are kept
                for item in group:
                    yield from self._of_group([item])
            else:
                yield LeftOut(group[0].frame.id, error)
            return
        for n, item in enumerate(group):
            head, index = parts[n]
            try:
                yield self._score(item, head, index)
            except DeviceError as error:
                if len(group) == 1:
                    yield LeftOut(item.frame.id, error)
                    continue
                # logits of the whole batch stand beside one frame's maps: let go of them and take one at a time
                self.batch = max(1, len(group) // 2)
                del parts, head
                self._empty_cache()
                for rest in group[n:]:
                    yield from self._of_group([rest])
                return
            except GraduncError as error:
                yield LeftOut(item.frame.id, error)

    def forward(self, x: Tensor, what: str) -> Head:
        """What the runner returns for a batch, with all that the scores need.

        Raises
        ------
        GraduncError
            As of the runner; `HeadError` if a score's layer cannot be found.
        """
        if self._second_last is None:
            return self.runner(x, what)
        return self._second_last(lambda: self.runner(x, what))

    def _infer(self, group: list[_Ready]) -> list[tuple[Head, int]]:
        """Forward a group, in smaller parts where memory runs out: per frame, head and place in it."""
        if len(group) <= self.batch:
            try:
                x = torch.cat([item.tensor for item in group])
                with self.stages("forward"):
                    head = self.forward(x, f"frame {group[0].frame.id!r}")
                if head.tail is not None and len(group) > 1:
                    self.batch = 1  # what stands behind the head is replayed for one image at a time
                    return [part for item in group for part in self._infer([item])]
                if not self._needs_features:
                    del head.features  # which may be many times larger than the logits
                return [(head, index) for index in range(len(group))]
            except DeviceError:
                if len(group) == 1:
                    raise
            self._empty_cache()
            self.batch = len(group) // 2  # for the groups to come as well
        half = len(group) // 2
        return self._infer(group[:half]) + self._infer(group[half:])

    def _score(self, item: _Ready, head: Head, index: int) -> Scored:
        scored = self.score(item.frame, head, index)
        scored.attrs["input_size"] = list(item.tensor.shape[-2:])
        if scored.maps.logits is not None and len(head.logits) > 1:
            scored.maps.logits = scored.maps.logits.clone()  # a view would keep those of the whole batch
        return scored

    def score(self, frame: DecodedFrame, head: Head, index: int = 0) -> Scored:
        """Maps of a frame that is the `index`-th of the runner's batch.

        Raises
        ------
        GraduncError
            Naming the frame: `DeviceError` if memory runs out, `NonFiniteError` for NaN or infinity.
        """
        align = self.settings.align_corners
        options = replace(self.settings.options, align_corners=head.align_corners if align is None else align)
        output = HeadOutput(
            head.logits,
            head.features if self._needs_features else None,
            head.layer,
            align_corners=bool(options.align_corners),
            bias=options.bias,
            tail=head.tail,
            threshold=self.runner.network.threshold,
            hidden=head.hidden,
        )
        channels = self.runner.network.class_channels(head.logits.shape[1])
        with (
            self.stages("score"),
            torch.inference_mode(),
            out_of_memory(f"the scores of frame {frame.id!r} at {frame.size}", self.device),
        ):
            maps = self._scorer(output.image(index).only(channels), frame.size, frame.label, frame.id)
        layer = " ".join(str(head.layer).split())
        attrs = {"head": head.name, "head_layer": layer, "network": self.runner.network.name}
        return Scored(frame, maps, options, attrs)

    def _empty_cache(self) -> None:
        if self.device.type == "cuda":
            torch.cuda.empty_cache()
