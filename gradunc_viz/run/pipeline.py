"""The stages of a run, side by side: read, give maps, count and write.

Threads read the next frames, the calling thread runs the network and scores, and further threads count, compress and
write. Between them stand short queues, so memory does not grow with the set. Where the network itself takes every core,
counting beside it costs more than it saves (its threads wait for each other at every layer), and the calling thread
counts too.

Where the maps of a frame come from is the business of a `MapSource`: a network (`gradunc_viz.run.network_maps`), or
files (`gradunc_viz.exchange.map_source`).
"""

from __future__ import annotations

import os
import time
import warnings
from collections import deque
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from itertools import islice
from typing import Any, Protocol, TypeVar

import torch
import xarray as xr
from torch import Tensor

from ..datasets.frames import Frame, Frames
from ..networks.runner import out_of_memory
from ..schema.errors import CacheError, CacheMismatchError, FrameError, GraduncError
from ..scores.maps import ScoredImage, ScoreOptions
from ..store.progress import counted
from ..store.writer import CacheWriter
from .assemble import frame_dataset
from .decode import DecodedFrame
from .report import Report
from .stages import Stages
from .striped import StripedImage

__all__ = ["LeftOut", "MapSource", "Pipeline", "Scored", "chosen_frames", "ids_of_set"]


@dataclass
class LeftOut:
    """A frame that stays out of the cache, and why."""

    id: str
    error: GraduncError


@dataclass
class Scored:
    """A frame and its maps, still on the device; `edges` as for `gradunc_viz.counts.frame.count_frame`."""

    frame: DecodedFrame
    maps: ScoredImage | StripedImage
    options: ScoreOptions
    attrs: dict[str, Any]
    edges: Mapping[str, Tensor] | None = None

    @property
    def large(self) -> bool:
        """Whether it is not to be in memory beside others."""
        return isinstance(self.maps, StripedImage) and self.maps.on_disk


@dataclass
class _Written:
    """A frame of the cache; not new where another writer was faster."""

    id: str
    new: bool


_R = TypeVar("_R")


class MapSource(Protocol[_R]):
    """Gives frames their maps.

    Attributes
    ----------
    device : torch.device
        Where the maps lie.
    classes : tuple of str
    ahead : int
        Frames that are to be read before they are asked for.
    what : str
        What goes on, for the progress bar.
    """

    @property
    def device(self) -> torch.device: ...  # noqa: D102

    @property
    def classes(self) -> tuple[str, ...]: ...  # noqa: D102

    @property
    def ahead(self) -> int: ...  # noqa: D102

    @property
    def what(self) -> str: ...  # noqa: D102

    def digest(self, frame: Frame) -> str:
        """Content hash of all that the frame's maps are made of."""
        ...

    def files(self, frame: Frame) -> str:
        """Name what that is, for errors."""
        ...

    def read(self, frame: Frame) -> _R | LeftOut:
        """Read a frame's files; called by several threads."""
        ...

    def scored(self, ready: Iterator[_R | LeftOut]) -> Iterator[Scored | LeftOut]:
        """Maps of frames that were read, in order; called by one thread."""
        ...


def chosen_frames(frames: Frames | Iterable[Frame] | Frame, limit: int | None = None) -> tuple[Frame, ...]:
    """The first frames of whatever holds them.

    Raises
    ------
    FrameError
        If it holds anything else.
    """
    if isinstance(frames, Frame):
        return (frames,)
    if isinstance(frames, (str, os.PathLike)):
        raise FrameError(f"frames are the path {os.fspath(frames)!r}; expected gv.open_frames({os.fspath(frames)!r})")
    kind, way = type(frames).__name__, "expected frames of gv.open_frames(path) or gv.frames_from(data)"
    try:
        items = islice(frames, limit)
    except TypeError:
        raise FrameError(f"frames are of type {kind}; {way}") from None
    chosen = []
    for item in items:
        if not isinstance(item, Frame):
            raise FrameError(f"frames are a {kind} of {type(item).__name__}; {way}")
        chosen.append(item)
    return tuple(chosen)


def ids_of_set(frames: Frames | Iterable[Frame] | Frame, chosen: Iterable[Frame], limit: int | None) -> set[str] | None:
    """Ids of the whole set that chosen frames are of; None where nobody knows what else is in it."""
    if isinstance(frames, Frames):
        return set(frames.whole.ids)
    return None if isinstance(frames, Frame) or limit is not None else {frame.id for frame in chosen}


@dataclass
class Pipeline:
    """One run over a set of frames.

    Parameters
    ----------
    source : MapSource
    report : Report
        Filled in.
    on_error : "stop" or "skip"
    """

    source: MapSource[Any]
    report: Report
    on_error: str = "stop"

    @property
    def stages(self) -> Stages:
        """The clocks."""
        return self.report.stages

    def run(self, frames: Sequence[Frame], writer: CacheWriter, progress: bool) -> None:
        """Compute every frame that the cache does not hold.

        Raises
        ------
        GraduncError
            Under ``on_error="stop"`` for the first frame that fails, and where the cache cannot be written.
        """
        missing = self._missing(frames, writer)
        torch_threads = torch.get_num_threads()
        free_cores = _cores() - (torch_threads if self.source.device.type == "cpu" else 1)
        finishers = min(4, max(1, free_cores))
        started = time.perf_counter()
        try:
            with (
                counted(len(missing), self.source.what, shown=progress) as scored_more,
                ThreadPoolExecutor(finishers, "finish", _one_thread) as finishing,
                ThreadPoolExecutor(2, "read", _one_thread) as reading,
            ):
                pending: deque[Future[_Written | LeftOut]] = deque()
                try:
                    for scored in self.source.scored(self.prefetched(missing, reading)):
                        if isinstance(scored, LeftOut):
                            self._failed(scored)
                        else:
                            large = scored.large
                            while len(pending) > (0 if large else finishers):  # a slow disk holds the network back
                                with self.stages("wait for writing"):
                                    self._finished(pending.popleft())
                            if free_cores > 0:
                                pending.append(finishing.submit(self._finish, writer, scored))
                            else:
                                pending.append(finishing.submit(self._commit, writer, self._assembled(scored)))
                            if large:
                                with self.stages("wait for writing"):
                                    self._finished(pending.popleft())
                        del scored  # not to be held while the next one is made
                        scored_more()
                    with self.stages("wait for writing"):
                        while pending:
                            self._finished(pending.popleft())
                finally:
                    reading.shutdown(wait=False, cancel_futures=True)
        finally:
            torch.set_num_threads(torch_threads)  # what threads to come will use
        self.report.seconds = time.perf_counter() - started

    def _missing(self, frames: Sequence[Frame], writer: CacheWriter) -> list[Frame]:
        """Frames still to be computed; those in the cache must have been computed from the same content."""
        missing = []
        for frame in frames:
            if frame.id not in writer.existing:
                missing.append(frame)
                continue
            try:
                digest = self.source.digest(frame)
            except FrameError as error:
                self._failed(LeftOut(frame.id, error))
                continue
            try:
                cached = writer.frame_digest(frame.id)
            except CacheError as error:  # a damaged frame is a missing one
                warnings.warn(f"frame {frame.id!r} is computed again: {error}", stacklevel=2)
                writer.renew([frame.id])
                missing.append(frame)
                continue
            if digest != cached:
                raise CacheMismatchError(
                    f"{writer.path}: frame {frame.id!r} was computed from other content than "
                    f"{self.source.files(frame)} have now; choose another folder for the cache, or remove this frame's"
                )
            self.report.existing.append(frame.id)
        return missing

    def prefetched(self, frames: Sequence[Frame], pool: ThreadPoolExecutor) -> Iterator[Any]:
        """Read ahead, in order, never more than the source asks for."""
        ahead: deque[Future[Any]] = deque()
        for frame in frames:
            ahead.append(pool.submit(self.source.read, frame))
            if len(ahead) > self.source.ahead:
                yield self._awaited(ahead.popleft())
        while ahead:
            yield self._awaited(ahead.popleft())

    def _awaited(self, future: Future[Any]) -> Any:
        with self.stages("wait for frames"):
            return future.result()

    def _assembled(self, scored: Scored) -> xr.Dataset | LeftOut:
        """Put a frame together; an error of the frame is returned."""
        frame = scored.frame
        try:
            with (
                self.stages("count"),
                torch.inference_mode(),
                out_of_memory(f"the counts of frame {frame.id!r} at {frame.size}", self.source.device),
            ):
                return frame_dataset(
                    frame, scored.maps, scored.options, self.source.classes, scored.attrs, scored.edges
                )
        except GraduncError as error:
            return LeftOut(frame.id, error)

    def _commit(self, writer: CacheWriter, assembled: xr.Dataset | LeftOut) -> _Written | LeftOut:
        """Put a frame into the cache; an error of the cache is raised."""
        if isinstance(assembled, LeftOut):
            return assembled
        return _Written(assembled.attrs["frame_id"], writer.commit(assembled, self.stages))

    def _finish(self, writer: CacheWriter, scored: Scored) -> _Written | LeftOut:
        assembled = self._assembled(scored)
        del scored  # its maps are not needed while the frame is written
        return self._commit(writer, assembled)

    def _finished(self, future: Future[_Written | LeftOut]) -> None:
        written = future.result()
        if isinstance(written, LeftOut):
            self._failed(written)
        else:  # not new: another writer was faster
            (self.report.computed if written.new else self.report.existing).append(written.id)

    def _failed(self, failure: LeftOut) -> None:
        if self.on_error == "stop":
            raise failure.error
        self.report.skipped.append((failure.id, str(failure.error)))


def _cores() -> int:
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _one_thread() -> None:
    """Keep torch from starting threads of its own beside those that run the network."""
    torch.set_num_threads(1)
