"""What is being looked at: the dashboard's state, without any drawing."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, TypedDict, Unpack

import numpy as np
import param

from ...metrics.operating_point import ThresholdCounts, reaches, threshold_counts
from ...metrics.regions import FAILURES
from ...metrics.worst import WORST, usual_threshold
from ...schema.errors import GraduncError
from ...schema.scores import DEFAULT_SCORES
from ...schema.tasks import TASKS
from ...store.cache import Cache
from ...store.choice import Selection
from . import frame_table
from .frame_store import FrameData, FrameStore
from .pane import Pane, default_panes, letter_of, parse_pane
from .ranges import frame_range, set_range, shown_values
from .tabs import find_tab, tabs

__all__ = ["READ_ERRORS", "STORE", "ExplorerState", "choices"]

_log = logging.getLogger(__name__)

STORE = FrameStore()
"""Frames that were looked at last, by whomever."""

READ_ERRORS = (GraduncError, OSError, ValueError, KeyError, RuntimeError)
"""What a damaged frame raises, depending on which of its bytes are damaged."""


class StateValues(TypedDict, total=False):
    """What may be chosen, as the parameters of `ExplorerState` say; whatever is left out is as usual."""

    tab: str
    frame_id: str
    score: str
    task: str
    threshold: float
    panes: list[str]
    layout: str
    overlay: str
    scope: str
    fixed: dict[str, tuple[float, float]]
    norms: str
    hide_ignored: bool
    classes: list[str]
    selection: list[str]
    pixel: tuple[int, int] | None
    view: tuple[float, float, float, float] | None
    curve: str
    curve_scores: list[str]
    curve_frames: str
    log_fpr: bool
    failure: str
    worst: str


class TabName(param.String):
    """Name of a tab that is registered, whenever it was."""

    def _validate(self, val: Any) -> None:
        super()._validate(val)
        find_tab(val)


class ExplorerState(param.Parameterized):
    """What is being looked at, without any drawing.

    One cache is the main one: its frames are listed, its curves are drawn, its score is thresholded. Panes may show any
    of the caches, matched by frame id.

    Parameters
    ----------
    caches : Cache or sequence of Cache
        Named A, B, ... in panes.
    main : int
        Which of them is the main one.
    """

    tab: Any = TabName(default="frames", doc="Tab in front, one of `gradunc_viz.explorer.state.tabs`.")
    frame_id = param.String(default="", doc="Id of the frame shown.")
    score = param.Selector(doc="Name of the score that is thresholded.")
    task = param.Selector(default="error", objects=list(TASKS), doc="What the score should find.")
    threshold = param.Number(default=0.0, doc="In the units of the oriented score.")
    panes = param.List(
        default=["A:image", "A:prediction"], item_type=str, bounds=(2, 6), doc="What each pane shows, see `Pane`."
    )
    layout = param.Selector(default="grid", objects=["grid", "swipe", "flip"], doc="How panes are arranged.")
    overlay = param.Selector(default="found", objects=["found", "outcomes", "none"], doc="Mask over images.")
    scope = param.Selector(default="frame", objects=["frame", "set", "fixed"], doc="What sets the colour range.")
    fixed = param.Dict(default={}, doc="Colour range by score, in shown units, for the scope 'fixed'.")
    norms = param.Selector(default="log2", objects=["log2", "linear"], doc="Scale of gradient norms.")
    hide_ignored = param.Boolean(default=False, doc="Leave pixels that the task ignores out of score maps.")
    classes = param.List(default=[], item_type=str, doc="Classes looked at; all of them if empty.")
    selection = param.List(default=[], item_type=str, doc="Frames selected, by id.")
    pixel = param.Tuple(default=None, length=2, allow_None=True, doc="Pinned pixel (y, x).")
    view = param.Tuple(default=None, length=4, allow_None=True, doc="Part in view: left, right, top, bottom.")
    curve = param.Selector(default="roc", objects=["roc", "pr", "sparsification", "reliability"], doc="Kind of curve.")
    curve_scores = param.List(default=[], item_type=str, doc="Scores whose curves are drawn.")
    curve_frames = param.Selector(default="all", objects=["all", "selected"], doc="Frames that curves are made of.")
    log_fpr = param.Boolean(default=False, doc="Logarithmic false-positive axis.")
    failure = param.Selector(default="confident_mistakes", objects=list(FAILURES), doc="Kind of failure listed.")
    worst = param.Selector(default="error_rate", objects=list(WORST), doc="What makes a frame one of the worst.")
    frame = param.Parameter(default=None, constant=True, doc="`FrameData` of the frame, None if unreadable.")
    values = param.Parameter(default=None, constant=True, doc="Oriented score (y, x), None if unreadable.")
    message = param.String(default="", constant=True, doc="Why there is nothing to show; empty if there is.")

    def __init__(self, caches: Cache | Sequence[Cache], main: int = 0, **params: Unpack[StateValues]) -> None:
        self.caches = (caches,) if isinstance(caches, Cache) else tuple(caches)
        self.main = main
        self.cache = cache = self.caches[main]
        self._thresholds: dict[str, float] = {}
        self.unreadable: dict[int, str] = {}  # other networks that cannot show the frame, and why
        usual = [name for name in DEFAULT_SCORES if name in cache.scores] or list(cache.scores)
        first: dict[str, Any] = {"score": usual[0]} if usual else {}
        try:
            self.rows = frame_table.frame_rows(cache.summary) if len(cache) else frame_table.ids_only(())
            problem = ""
        except GraduncError as error:
            self.rows, problem = frame_table.ids_only(cache.ids), str(error)
        first["task"] = self._usual_task()
        first["worst"] = "error_rate" if first["task"] == "error" else "lowest_auprc"
        first["panes"] = default_panes(self.caches, main, params.get("score"))
        baselines = [name for name in ("msp", "entropy") if name in usual]  # what gradient scores are held against
        first["curve_scores"] = [*[name for name in usual if name not in baselines][: 4 - len(baselines)], *baselines]
        first |= params
        score = first.pop("score", None)
        super().__init__(**first)
        if score is not None:  # once the parameter is this state's own: its choices are not those of others
            Selection.of(cache, self.task, scores=score)
            self.param.score.objects, self.param.score.check_on_set = list(cache.scores), True
            with param.parameterized.discard_events(self):
                self.score = score
        self._score_before = self.score
        self._range = "frame" if self.scope == "fixed" else self.scope
        if "threshold" not in params:
            self.threshold = self._usual_threshold()
        if len(cache):
            self.frame_id = self.frame_id or cache.ids[0]
            self._read_frame(keep_task="task" in params)
        if problem and not self.message:
            self._publish({"message": problem})

    # ---- what follows from it

    @property
    def several(self) -> bool:
        """Whether there is more than one cache."""
        return len(self.caches) > 1

    @property
    def tasks(self) -> tuple[str, ...]:
        """Tasks that the frame has labels for."""
        return self.frame.tasks if self.frame is not None else ()

    @property
    def chosen_frames(self) -> list[str] | None:
        """Frames that curves are made of; None for all."""
        return list(self.selection) if self.curve_frames == "selected" and self.selection else None

    @property
    def chosen_classes(self) -> list[str] | None:
        """Classes looked at; None for all."""
        return list(self.classes) or None

    def chosen(self, *scores: str) -> Selection:
        """What charts are made of: scores, by default that of the state, over the chosen frames and classes.

        Raises
        ------
        GraduncError
            For a score, frame or class that the cache has not.
        """
        return Selection.of(
            self.cache,
            self.task,
            scores=scores or ((self.score,) if self.score else ()),
            frames=self.chosen_frames,
            classes=self.chosen_classes,
        )

    def parsed_panes(self) -> list[Pane]:
        """Return what each pane shows."""
        return [parse_pane(pane, self.caches) for pane in self.panes]

    def frames(self) -> dict[int, FrameData]:
        """The frame as each network saw it, as far as it can be read."""
        found: dict[int, FrameData] = {} if self.frame is None else {self.main: self.frame}
        self.unreadable = {}
        for number, cache in enumerate(self.caches):
            if number == self.main or self.frame_id not in cache:
                continue
            try:
                found[number] = STORE.get(cache, self.frame_id)
            except READ_ERRORS as error:
                _log.warning("frame %r of %s cannot be shown", self.frame_id, cache.path, exc_info=error)
                self.unreadable[number] = f"{letter_of(number)}: {error}"
        return found

    def limits(self, name: str) -> tuple[float, float]:
        """Colour range of a score in shown values, the same in every pane that shows it."""
        if self.scope == "fixed" and name in self.fixed:
            low, high = self.fixed[name]
            return float(low), float(high)
        shown = {pane.network for pane in self.parsed_panes() if pane.is_score and pane.what == name} | {self.main}
        networks = sorted(number for number in shown if name in self.caches[number].scores)
        found = [self._shown_range(number, name) for number in networks]
        ranges = [limits for limits in found if limits is not None]
        if not ranges:
            return 0.0, 1.0
        return min(low for low, _ in ranges), max(high for _, high in ranges)

    def _shown_range(self, number: int, name: str) -> tuple[float, float] | None:
        if self._range == "set" and len(self.caches[number]):
            try:
                low, high = set_range(self.caches[number].summary, name)
            except GraduncError:
                return None
            pair = shown_values(np.array([low, high]), name, self.norms)
            return float(pair[0]), float(pair[1])
        frame = self.frames().get(number)
        if frame is None:
            return None
        try:
            return frame_range(shown_values(frame.score(name), name, self.norms))
        except GraduncError:
            return None

    @param.depends("scope", watch=True)
    def _on_scope(self) -> None:
        """Keep the colour ranges as they were for the scope 'fixed', for this and every other frame."""
        if self.scope != "fixed":
            self._range = self.scope
            self.fixed = {}
        elif not self.fixed:
            names = {pane.what for pane in self.parsed_panes() if pane.is_score}
            self.fixed = {name: self.limits(name) for name in sorted(names)}

    def counts(self) -> ThresholdCounts | None:
        """Count the evaluated pixels of the frame at the threshold; None without labels for the task."""
        return self.counts_at(self.threshold)

    def counts_at(self, threshold: float) -> ThresholdCounts | None:
        """Count them at another threshold."""
        target = None if self.frame is None else self.frame.target(self.task)
        if target is None or self.values is None:
            return None
        return threshold_counts(self.values, target, threshold)

    def share_above(self, threshold: float | None = None) -> float | None:
        """Return the share of all pixels of the frame at or above the threshold."""
        if self.values is None:
            return None
        limit = self.threshold if threshold is None else threshold
        return float(np.count_nonzero(reaches(self.values, limit)) / self.values.size)

    def threshold_of(self, score: str) -> float:
        """Threshold of a score: each keeps its own."""
        return self.threshold if score == self.score else self._thresholds.get(score, self._usual_threshold(score))

    # ---- what a user does

    def set_threshold(self, score: str, threshold: float) -> None:
        """Threshold another score, at once where it should be."""
        self._thresholds[score] = threshold
        self.score = score
        self.threshold = threshold

    def step(self, by: int, order: Iterable[str]) -> None:
        """Go to the next or previous frame in `order`, stopping at its ends."""
        ids = list(order)
        if ids:
            at = ids.index(self.frame_id) + by if self.frame_id in ids else 0
            self.frame_id = ids[min(max(at, 0), len(ids) - 1)]

    def set_pane(self, place: int, text: str) -> None:
        """Let one pane show something else."""
        self.panes = [text if i == place else pane for i, pane in enumerate(self.panes)]

    def set_pane_count(self, count: int) -> None:
        """Show more or fewer panes; new ones show what is not shown yet."""
        letter = letter_of(self.main)
        names = ["image", "prediction", "label", "error", *self.cache.scores]
        spare = [f"{letter}:{name}" for name in names if f"{letter}:{name}" not in self.panes]
        self.panes = [*self.panes, *spare, *self.panes * 3][:count]

    def look_at(self, frame_id: str, box: tuple[float, float, float, float] | None = None) -> None:
        """Open a frame, zoomed onto a box of (top, bottom, left, right) pixels with some room around it."""
        view = None
        if box is not None:
            top, bottom, left, right = (float(value) for value in box)
            across = max(right - left, 2 * (bottom - top), 60.0) * 1.8
            x, y = (left + right) / 2, (top + bottom) / 2
            view = (x - across / 2, x + across / 2, y - across / 4, y + across / 4)
        # the frame first: a frame of another size puts the view back
        self.frame_id = frame_id
        self.param.update(view=view, tab="frames")

    def restore(self, **params: Unpack[StateValues]) -> None:
        """Look at what a new state with these parameters would."""
        new = ExplorerState(self.caches, self.main, **params)
        # the frame and the score first: others follow them
        self.frame_id = new.frame_id
        self.score = new.score
        self._thresholds = dict(new._thresholds)
        self._range = new._range
        self.param.update(
            **{name: getattr(new, name) for name in self.param if name != "name" and not self.param[name].constant}
        )

    # ---- reading

    def _usual_task(self) -> str:
        """The task that frames have labels for; errors where both are known."""
        return next((name for name, task in TASKS.items() if task.rate in self.rows), next(iter(TASKS)))

    def _usual_threshold(self, name: str = "") -> float:
        name = name or self.score
        return usual_threshold(self.cache, name) if name in self.rows else 0.0

    def _publish(self, changed: Mapping[str, Any]) -> None:
        with param.edit_constant(self):
            self.param.update(**changed)

    @param.depends("frame_id", watch=True)
    def _on_frame(self) -> None:
        self._read_frame()

    def _read_frame(self, keep_task: bool = False) -> None:
        try:
            frame = STORE.get(self.cache, self.frame_id)
            values = frame.score(self.score)
            frame.prediction  # noqa: B018 - what every frame has: its damage is told at once
        except READ_ERRORS as error:
            self._fail(error)
            return
        before = self.frame
        task = self.task if keep_task or self.task in frame.tasks or not frame.tasks else frame.tasks[0]
        changed: dict[str, Any] = {"frame": frame, "values": values, "task": task, "message": ""}
        if before is not None and before.id != frame.id:
            changed["pixel"] = None
            if before.size != frame.size:
                changed["view"] = None
        self._publish(changed)

    @param.depends("score", watch=True)
    def _read_score(self) -> None:
        # the pane beside the image follows the score if it showed the one before
        letter, before, self._score_before = letter_of(self.main), self._score_before, self.score
        if self.panes[1] == f"{letter}:{before}":
            self.set_pane(1, f"{letter}:{self.score}")
        threshold = self._thresholds.get(self.score, self._usual_threshold())
        if self.frame is None:  # it may be another score that could not be read
            self.threshold = threshold
            if self.frame_id:
                self._read_frame()
            return
        try:
            values = self.frame.score(self.score)
        except READ_ERRORS as error:
            self._fail(error)
            return
        self._publish({"values": values, "threshold": threshold})

    @param.depends("threshold", watch=True)
    def _keep_threshold(self) -> None:
        self._thresholds[self.score] = self.threshold

    def _fail(self, error: Exception) -> None:
        _log.warning("frame %r cannot be shown", self.frame_id, exc_info=error)
        reason = str(error) if isinstance(error, GraduncError) else f"{type(error).__name__}: {error}"
        self._publish({"frame": None, "values": None, "message": f"Frame {self.frame_id!r} cannot be read: {reason}"})


def choices(name: str) -> list[str]:
    """Words that a parameter of the state may be, those of any cache."""
    return list(tabs()) if name == "tab" else list(ExplorerState.param[name].objects)
