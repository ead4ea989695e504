"""Maps that a network gives: batches of frames of one size, smaller ones where memory runs out."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from itertools import groupby
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import Tensor

from ..datasets.files_by_id import combined_digest
from ..datasets.frames import Frame
from ..networks.head import Head
from ..networks.layers import captured_layers, check_layers
from ..networks.network import Network
from ..networks.passes import Inputs, JointHead, heads_of, image_of, joined
from ..networks.queries import QueryHead
from ..networks.runner import Inference, Runner, out_of_memory
from ..networks.second_last import SecondLast
from ..networks.tiled import TiledImage, TiledInference
from ..schema.entries.passes import KINDS
from ..schema.errors import DeviceError, GraduncError
from ..schema.frame import CLASS_SCORES
from ..scores.maps import ScoredImage, Scorer
from ..scores.needs import LAYER, HeadOutput, Rerun, check_channels, check_features, check_passes
from .cost import measured
from .decode import DecodedFrame, decode
from .pipeline import LeftOut, Scored
from .runners import ChangedInput
from .settings import Settings
from .stages import Stages
from .striped import StripedImage
from .windows import check_scores, scored_windows

__all__ = ["NetworkMaps", "Ready"]

_T = TypeVar("_T")


@dataclass
class Ready:
    """A decoded frame with the runner's input."""

    frame: DecodedFrame
    x: Any


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
    needs : frozenset of str
        What is asked of a forward pass besides what the scores need.
    folder : Path, optional
        Where maps of images that are too large for memory are kept until they are stored.
    large : bool
        Whether frames are expected to be so large that none is read while another is scored; of those that are read it
        is known.

    Attributes
    ----------
    fitted_on : list of str
        Ids of scored frames that are among those which the scores were fitted on.
    """

    runner: Runner[Any]
    settings: Settings
    classes: tuple[str, ...]
    stages: Stages
    needs: frozenset[str] = frozenset()
    folder: Path | None = None
    large: bool = False
    fitted_on: list[str] = field(init=False, default_factory=list)
    batch: int = field(init=False)
    """Frames per forward pass; halved when memory runs out."""
    cost: dict[str, Any] | None = field(init=False, default=None)
    """What forward pass and scores took on the first frame, as `gradunc_viz.store.cost` reads it; under `profile`."""

    def __post_init__(self) -> None:
        self.batch = self.settings.batch or (4 if self.device.type == "cuda" else 1)
        self.batch = min(self.batch, getattr(self.runner, "largest_batch", None) or self.batch)
        self._fit = self.settings.fit_of_scores
        if self._fit is not None:
            self._fit.check_network(self.runner.network)
        self._scorer = Scorer(self.settings.scores, self.device, self._fit)
        for network in (member.network for member in getattr(self.runner, "members", (self.runner,))):
            check_channels(self._scorer.scores, network)
            check_features(self._scorer.scores, network)
        needs = self.needs | self._scorer.needs
        self._needs_features, self._needs_input = "features" in needs, "input_grad" in needs
        kind, changeable = getattr(self.runner, "kind", None), isinstance(self.runner, Inference)
        check_passes(self._scorer.scores, kind, input_grad=changeable)
        if isinstance(self.runner, TiledInference) and self.runner.tile != "auto":
            check_scores(self._scorer.scores)
        self._layers = sorted(need.removeprefix(LAYER) for need in needs if need.startswith(LAYER))
        check_layers(self.runner.network.net, self._layers)
        self._second_last = None
        if "hidden" in needs:
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
        """A batch and a bit; of large frames none."""
        return 0 if self.large else self.batch + 1

    @property
    def what(self) -> str:
        """For the progress bar."""
        return f"scoring on {self.device}"

    def digest(self, frame: Frame) -> str:
        """Content hash of the frame, and of what was saved of it."""
        return self._digest(frame.digest(), frame.id)

    def _digest(self, own: str, frame_id: str) -> str:
        saved = getattr(self.runner, "content", None)
        return own if saved is None else combined_digest((own, saved(frame_id)))

    def files(self, frame: Frame) -> str:
        """Name what the frame is made of."""
        saved = getattr(self.runner, "files", lambda _: ())
        return f"{', '.join(map(str, (frame.image_path, *saved(frame.id))))} and its labels"

    def read(self, frame: Frame) -> Ready | LeftOut:
        """Decode a frame and make the runner's input of it."""
        try:
            with self.stages("decode"):
                decoded = decode(frame, len(self.classes), self.settings.images, self.runner.network.in_channels)
                decoded.digest = self._digest(decoded.digest, frame.id)
            with self.stages("prepare"):
                pixels = decoded.image if decoded.pixels is None else decoded.pixels
                x = self.runner.prepare(pixels, frame.id)
                self.large = isinstance(x, TiledImage) and x.large
                return Ready(decoded, x)
        except GraduncError as error:
            return LeftOut(frame.id, error)

    def scored(self, ready: Iterator[Ready | LeftOut]) -> Iterator[Scored | LeftOut]:
        """Run the network batch by batch and score each of the frames."""
        for tiled, some in groupby(ready, key=lambda one: isinstance(one, Ready) and isinstance(one.x, TiledImage)):
            if tiled:
                yield from (self._in_windows(item) for item in some if isinstance(item, Ready))
            else:
                yield from self.each(some, self._score)

    def _in_windows(self, item: Ready) -> Scored | LeftOut:
        assert isinstance(item.x, TiledImage)
        try:
            return self.score_windows(item.frame, item.x)
        except GraduncError as error:
            return LeftOut(item.frame.id, error)
        finally:  # the image that is shown alone is kept with the maps
            item.frame.pixels, item.x.image = None, item.x.image[:0]

    def score_windows(self, frame: DecodedFrame, image: TiledImage) -> Scored:
        """Maps of a frame that the network sees in windows.

        Raises
        ------
        GraduncError
            As of `score`.
        """

        def run(inputs: Sequence[Tensor], function: Callable[[Head, HeadOutput], _T]) -> Iterator[_T]:
            def of_window(item: Ready, head: Head, index: int) -> _T:
                output = self.output(head, index)
                if self._fit is not None:
                    self._fit.check_pass(head.name, output)
                if self.settings.profile and self.cost is None:
                    height, width = image.window
                    shown = DecodedFrame(frame.id, frame.image[:height, :width])
                    self.cost = self._measured(replace(item, frame=shown), head, index)
                with (
                    self.stages("score"),
                    torch.inference_mode(),
                    out_of_memory(f"the scores of frame {frame.id!r} in windows of {image.window}", self.device),
                ):
                    return function(head, output)

            for found in self._of_group([Ready(frame, x) for x in inputs], of_window):
                if isinstance(found, LeftOut):
                    raise found.error
                yield found

        maps, head, windows = scored_windows(
            image, frame.size, frame.label, self._scorer, run, lambda: self.batch, self.folder, self.stages
        )
        return self._scored(frame, head, maps, {"input_size": list(image.window), "windows": windows})

    def each(
        self, ready: Iterator[Ready | LeftOut], function: Callable[[Ready, Head, int], _T]
    ) -> Iterator[_T | LeftOut]:
        """Run the network batch by batch, and a function of each frame, its head and its place in the batch."""
        for group in self._batches(ready):
            yield from (item for item in group if isinstance(item, LeftOut))
            yield from self._of_group([item for item in group if isinstance(item, Ready)], function)

    def _batches(self, ready: Iterator[Ready | LeftOut]) -> Iterator[list[Ready | LeftOut]]:
        """Group frames of one input size, in order, `batch` at most."""
        for _, same in groupby(ready, key=lambda one: None if isinstance(one, LeftOut) else tuple(one.x.shape)):
            group: list[Ready | LeftOut] = []
            for item in same:
                group.append(item)
                if len(group) >= self.batch:
                    yield group
                    group = []
            if group:
                yield group

    def _of_group(self, group: list[Ready], function: Callable[[Ready, Head, int], _T]) -> Iterator[_T | LeftOut]:
        if not group:
            return
        try:
            parts = self._infer(group)
        except GraduncError as error:
            if len(group) > 1:  # find out which frame it is, so that the others are kept
                for item in group:
                    yield from self._of_group([item], function)
            else:
                yield LeftOut(group[0].frame.id, error)
            return
        for n, item in enumerate(group):
            head, index = parts[n]
            try:
                yield function(item, head, index)
            except DeviceError as error:
                if len(group) == 1:
                    yield LeftOut(item.frame.id, error)
                    continue
                # logits of the whole batch stand beside one frame's maps: let go of them and take one at a time
                self.batch = max(1, len(group) // 2)
                del parts, head
                self._empty_cache()
                for rest in group[n:]:
                    yield from self._of_group([rest], function)
                return
            except GraduncError as error:
                yield LeftOut(item.frame.id, error)

    def _infer(self, group: list[Ready]) -> list[tuple[Head, int]]:
        """Forward a group, in smaller parts where memory runs out: per frame, head and place in it."""
        if len(group) <= self.batch:
            try:
                x = joined([item.x for item in group])
                with self.stages("forward"):
                    head = self.run(x, f"frame {group[0].frame.id!r}")
                if head.tail is not None and len(group) > 1:
                    self.batch = 1  # what stands behind the head is replayed for one image at a time
                    return [part for item in group for part in self._infer([item])]
                if not self._needs_features:
                    for one in heads_of(head):
                        one.__dict__.pop("features", None)  # which may be many times larger than the logits
                return [(head, index) for index in range(len(group))]
            except DeviceError:
                if len(group) == 1:
                    raise
            self._empty_cache()
            self.batch = len(group) // 2  # for the groups to come as well
        half = len(group) // 2
        return self._infer(group[:half]) + self._infer(group[half:])

    def run(self, x: Any, what: str) -> Head:
        """Head of a batch of the runner's inputs, with what the scores need of other layers.

        Raises
        ------
        GraduncError
            As of the runner; `HeadError` if a score's layer cannot be found.
        """
        with captured_layers(self.runner.network.net, self._layers) as layers:
            if self._second_last is None:
                head = self.runner(x, what)
            else:
                head = self._second_last(lambda: self.runner(x, what))
        head.layers = layers
        return head

    def _score(self, item: Ready, head: Head, index: int) -> Scored:
        scored = self.score(item.frame, head, index, item.x)
        if self.settings.profile and self.cost is None:
            self.cost = self._measured(item, head, index)
        if not hasattr(self.runner, "content"):  # saved is what came of an input that nobody knows
            scored.attrs["input_size"] = list(image_of(item.x).shape[-2:])
        if isinstance(scored.maps, ScoredImage) and scored.maps.logits is not None and len(head.logits) > 1:
            scored.maps.logits = scored.maps.logits.clone()  # a view would keep those of the whole batch
        return scored

    def output(self, head: Head, index: int = 0, network: Network | None = None) -> HeadOutput:
        """What scores are handed of the `index`-th image of a batch: the classes alone."""
        network = network or self.runner.network
        align = self.settings.align_corners
        queries = head.queries if isinstance(head, QueryHead) else None
        features = None
        if self._needs_features:  # a query model whose pixel embeddings were not found has none
            features = head.features if queries is None else queries.pixels
        output = HeadOutput(
            head.logits,
            features,
            head.layer,
            align_corners=head.align_corners if align is None else align,
            bias=self.settings.bias,
            tail=head.tail,
            threshold=network.threshold,
            layers=head.layers,
            hidden=head.hidden,
            queries=queries,
        )
        return output.image(index).only(network.class_channels(head.logits.shape[1]))

    def _measured(self, item: Ready, head: Head, index: int) -> dict[str, Any]:
        """What forward pass and scores cost on a frame."""

        def scored(names: tuple[str, ...]) -> Callable[[], object]:
            some = replace(self, settings=replace(self.settings, scores=names, profile=False), stages=Stages())
            return lambda: some.score(item.frame, head, index, item.x)

        def forward() -> object:
            return self.run(item.x, f"frame {item.frame.id!r}")

        found = measured(forward, scored, self.settings.scores, self.device)
        return found | {"frame": item.frame.id, "size": list(item.frame.size)}

    def score(self, frame: DecodedFrame, head: Head, index: int = 0, x: Tensor | Inputs | None = None) -> Scored:
        """Maps of a frame that is the `index`-th of the runner's batch; `x` is the runner's input of it alone.

        Raises
        ------
        GraduncError
            Naming the frame: `DeviceError` if memory runs out, `NonFiniteError` for NaN or infinity.
        """
        attrs: dict[str, Any] = {}
        if isinstance(head, JointHead):
            passes = tuple(
                replace(self.output(one.head, index, one.network), mirrored=one.mirrored) for one in head.passes
            )
            output = replace(passes[0], passes=passes, kind=head.kind)
            attrs["network"] = " + ".join(dict.fromkeys(one.network.name for one in head.passes))
            attrs["passes"] = f"{len(passes)} of {KINDS[head.kind]}"
        else:
            output = self.output(head, index)
            if self._needs_input and x is not None:
                output = replace(output, rerun=self._rerun(frame, head, index, image_of(x)))
        with (
            self.stages("score"),
            out_of_memory(f"the scores of frame {frame.id!r} at {frame.size}", self.device),
        ):
            if self._fit is not None:
                self._fit.check_pass(head.name, output)
            with torch.inference_mode():
                maps = self._scorer(output, frame.size, frame.label, frame.id)
        return self._scored(frame, head, maps, attrs)

    def _scored(
        self, frame: DecodedFrame, head: Head, maps: ScoredImage | StripedImage, attrs: dict[str, Any]
    ) -> Scored:
        """Maps of a frame with what is known of how they were computed."""
        if self._fit is not None and self._fit.holds(frame.content):
            self.fitted_on.append(frame.id)
        align = self.settings.align_corners
        options = replace(self.settings.options, align_corners=head.align_corners if align is None else align)
        known = {"head": head.name, "head_layer": " ".join(str(head.layer).split())}
        if self.runner.network.returns_queries:
            known["logits_are"] = CLASS_SCORES
        return Scored(frame, maps, options, known | {"network": self.runner.network.name} | attrs)

    def _rerun(self, frame: DecodedFrame, head: Head, index: int, x: Tensor) -> Rerun:
        """What lets scores run the network on a changed input."""
        runner = self.runner
        assert isinstance(runner, Inference)
        output = HeadOutput(head.logits, None, head.layer, align_corners=head.align_corners, tail=head.tail)
        made = self.output
        return ChangedInput(runner, x.to(self.device), output.image(index), made, f"frame {frame.id!r}")

    def _empty_cache(self) -> None:
        if self.device.type == "cuda":
            torch.cuda.empty_cache()
