"""The stages of a run, side by side: decode, forward and score, count and write.

Threads read the next frames, the calling thread runs the network and scores, and further threads count, compress and
write. Between them stand short queues, so memory does not grow with the set. Where the network itself takes every core,
counting beside it costs more than it saves (its threads wait for each other at every layer), and the calling thread
counts too.
"""

from __future__ import annotations

import os
import time
from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace
from itertools import groupby
from typing import Any

import torch
import xarray as xr
from torch import Tensor

from ..datasets.frames import Frame, Frames
from ..networks.head import Head
from ..networks.network import Network, network_input
from ..networks.runner import Inference, out_of_memory
from ..schema.errors import CacheMismatchError, DeviceError, FrameError, GraduncError
from ..scores.maps import ScoredImage, ScoreOptions, score_maps
from ..store.progress import counted
from ..store.writer import CacheWriter
from .assemble import frame_dataset
from .decode import DecodedFrame, decode
from .report import Report
from .stages import Stages

__all__ = ["Pipeline"]


@dataclass
class _Ready:
    """A decoded frame with the network's input; or the error that reading it gave."""

    id: str
    frame: DecodedFrame | None = None
    tensor: Tensor | None = None
    error: GraduncError | None = None


@dataclass
class _Scored:
    """The maps of a frame, still on the device."""

    frame: DecodedFrame
    maps: ScoredImage
    options: ScoreOptions
    attrs: dict[str, Any]


@dataclass
class _Written:
    """A frame of the cache; or the error that keeps it out."""

    id: str
    new: bool = False
    error: GraduncError | None = None


@dataclass
class Pipeline:
    """One run over a set of frames.

    Parameters
    ----------
    inference : Inference
    options : ScoreOptions
    input_size : (height, width) or None
    classes : tuple of str
    images : bool
        Whether encoded images go into the cache.
    on_error : "stop" or "skip"
    report : Report
        Filled in.
    batch : int
        Frames per forward pass; halved when memory runs out.
    """

    inference: Inference
    options: ScoreOptions
    input_size: tuple[int, int] | None
    classes: tuple[str, ...]
    images: bool
    on_error: str
    report: Report
    batch: int = 1

    @property
    def network(self) -> Network:
        """The network."""
        return self.inference.network

    @property
    def device(self) -> torch.device:
        """Where it runs."""
        return self.inference.device

    @property
    def stages(self) -> Stages:
        """The clocks."""
        return self.report.stages

    def run(self, frames: Frames | Sequence[Frame], writer: CacheWriter, progress: bool) -> None:
        """Compute every frame that the cache does not hold.

        Raises
        ------
        GraduncError
            Under ``on_error="stop"`` for the first frame that fails, and where the cache cannot be written.
        """
        missing = self._missing(frames, writer)
        torch_threads = torch.get_num_threads()
        free_cores = _cores() - (torch_threads if self.device.type == "cpu" else 1)
        finishers = min(4, max(1, free_cores))
        started = time.perf_counter()
        try:
            with (
                counted(len(missing), f"scoring on {self.device}", shown=progress) as scored_more,
                ThreadPoolExecutor(finishers, "finish", _one_thread) as finishing,
                ThreadPoolExecutor(2, "read", _one_thread) as reading,
            ):
                pending: deque[Future[_Written]] = deque()
                try:
                    for group in self._batches(self._prefetch(missing, reading)):
                        for scored in self._scored(group):
                            while len(pending) > finishers:  # a slow disk holds the network back
                                with self.stages("wait for writing"):
                                    self._finished(pending.popleft())
                            if free_cores > 0:
                                pending.append(finishing.submit(self._finish, writer, scored))
                            else:
                                pending.append(finishing.submit(self._commit, writer, self._assembled(scored)))
                            del scored
                        scored_more(len(group))
                    with self.stages("wait for writing"):
                        while pending:
                            self._finished(pending.popleft())
                finally:
                    reading.shutdown(wait=False, cancel_futures=True)
        finally:
            torch.set_num_threads(torch_threads)  # what threads to come will use
        self.report.seconds = time.perf_counter() - started

    def _missing(self, frames: Frames | Sequence[Frame], writer: CacheWriter) -> list[Frame]:
        """Frames still to be computed; those in the cache must have been computed from the same content."""
        missing = []
        for frame in frames:
            if frame.id not in writer.existing:
                missing.append(frame)
                continue
            try:
                digest = frame.digest()
            except FrameError as error:
                self._failed(frame.id, error)
                continue
            if digest != writer.frame_digest(frame.id):
                raise CacheMismatchError(
                    f"{writer.path}: frame {frame.id!r} was computed from other content than "
                    f"{frame.image_path} and its labels have now; choose another --out, or remove this "
                    "frame's folder"
                )
            self.report.existing.append(frame.id)
        return missing

    def _prefetch(self, frames: list[Frame], pool: ThreadPoolExecutor) -> Iterator[_Ready]:
        """Decode ahead of the network, in order, never more than a batch and a bit."""
        ahead: deque[Future[_Ready]] = deque()
        for frame in frames:
            ahead.append(pool.submit(self._read, frame))
            if len(ahead) > self.batch + 1:
                yield self._awaited(ahead.popleft())
        while ahead:
            yield self._awaited(ahead.popleft())

    def _awaited(self, future: Future[_Ready]) -> _Ready:
        with self.stages("wait for frames"):
            return future.result()

    def _read(self, frame: Frame) -> _Ready:
        try:
            with self.stages("decode"):
                decoded = decode(frame, len(self.classes), self.images)
            with self.stages("prepare"):
                tensor = network_input(decoded.image, self.network, self.input_size)
                if self.device.type == "cuda":
                    tensor = tensor.pin_memory()
            return _Ready(frame.id, decoded, tensor)
        except GraduncError as error:
            return _Ready(frame.id, error=error)

    def _batches(self, ready: Iterator[_Ready]) -> Iterator[list[_Ready]]:
        """Group frames of one input size, in order, `batch` at most."""
        for _, same in groupby(ready, key=lambda r: None if r.tensor is None else tuple(r.tensor.shape)):
            group: list[_Ready] = []
            for item in same:
                group.append(item)
                if len(group) >= self.batch:
                    yield group
                    group = []
            if group:
                yield group

    def _scored(self, group: list[_Ready]) -> Iterator[_Scored]:
        """Run the network on a group and score each of its frames."""
        good = [item for item in group if item.error is None]
        for item in group:
            if item.error is not None:
                self._failed(item.id, item.error)
        if not good:
            return
        try:
            parts = self._infer(good)
        except GraduncError as error:
            if len(good) > 1:  # find out which frame it is, so that the others are kept
                for item in good:
                    yield from self._scored([item])
                return
            self._failed(good[0].id, error)
            return
        for n, item in enumerate(good):
            head, index = parts[n]
            try:
                yield self._score(item, head, index)
            except DeviceError as error:
                if len(good) == 1:
                    self._failed(item.id, error)
                    continue
                # logits of the whole batch stand beside one frame's maps: let go of them and take one at a time
                self.batch = max(1, len(good) // 2)
                del parts, head
                if self.device.type == "cuda":
                    torch.cuda.empty_cache()
                for rest in good[n:]:
                    yield from self._scored([rest])
                return
            except GraduncError as error:
                self._failed(item.id, error)

    def _infer(self, group: list[_Ready]) -> list[tuple[Head, int]]:
        """Forward a group, in smaller parts where memory runs out: per frame, head and place in it."""
        if len(group) <= self.batch:
            try:
                x = torch.cat([item.tensor for item in group if item.tensor is not None])
                with self.stages("forward"):
                    head = self.inference(x, f"frame {group[0].id!r}")
                return [(head, index) for index in range(len(group))]
            except DeviceError:
                if len(group) == 1:
                    raise
            if self.device.type == "cuda":
                torch.cuda.empty_cache()
            self.batch = len(group) // 2  # for the groups to come as well
        half = len(group) // 2
        return self._infer(group[:half]) + self._infer(group[half:])

    def _score(self, item: _Ready, head: Head, index: int) -> _Scored:
        assert item.frame is not None
        assert item.tensor is not None
        align = head.align_corners if self.options.align_corners is None else self.options.align_corners
        options = replace(self.options, align_corners=align)
        with (
            self.stages("score"),
            torch.inference_mode(),
            out_of_memory(f"the scores of frame {item.id!r} at {item.frame.size}", self.device),
        ):
            maps = score_maps(
                head.logits[index : index + 1],
                head.features[index : index + 1],
                head.layer,
                item.frame.size,
                options,
                channels=self.network.class_channels(head.logits.shape[1]),
                label=item.frame.label,
                frame_id=item.id,
            )
            if maps.logits is not None and len(head.logits) > 1:
                maps.logits = maps.logits.clone()  # a view would keep those of the whole batch
        attrs = {"head": head.name, "network": self.network.name, "input_size": list(item.tensor.shape[-2:])}
        return _Scored(item.frame, maps, options, attrs)

    def _assembled(self, scored: _Scored) -> xr.Dataset | _Written:
        """Put a frame together; an error of the frame is returned."""
        frame_id = scored.frame.id
        try:
            with (
                self.stages("count"),
                torch.inference_mode(),
                out_of_memory(f"the counts of frame {frame_id!r} at {scored.frame.size}", self.device),
            ):
                return frame_dataset(scored.frame, scored.maps, scored.options, self.classes, scored.attrs)
        except GraduncError as error:
            return _Written(frame_id, error=error)

    def _commit(self, writer: CacheWriter, assembled: xr.Dataset | _Written) -> _Written:
        """Put a frame into the cache; an error of the cache is raised."""
        if isinstance(assembled, _Written):
            return assembled
        return _Written(assembled.attrs["frame_id"], new=writer.commit(assembled, self.stages))

    def _finish(self, writer: CacheWriter, scored: _Scored) -> _Written:
        assembled = self._assembled(scored)
        del scored  # its maps are not needed while the frame is written
        return self._commit(writer, assembled)

    def _finished(self, future: Future[_Written]) -> None:
        written = future.result()
        if written.error is not None:
            self._failed(written.id, written.error)
        else:  # not new: another writer was faster
            (self.report.computed if written.new else self.report.existing).append(written.id)

    def _failed(self, frame_id: str, error: GraduncError) -> None:
        if self.on_error == "stop":
            raise error
        self.report.skipped.append((frame_id, str(error)))


def _cores() -> int:
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _one_thread() -> None:
    """Keep torch from starting threads of its own beside those that run the network."""
    torch.set_num_threads(1)
