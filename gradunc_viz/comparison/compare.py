"""One call from a network and a set of frames to the table of all scores: values, intervals and cost."""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Unpack

import numpy as np
import xarray as xr

from ..counts.pool import Bootstrap
from ..datasets.frames import Frame, Frames
from ..metrics.arrays.components import TRACKS
from ..metrics.calibration import score_calibration
from ..metrics.evaluation import evaluate
from ..metrics.metric import METRICS
from ..metrics.objects import with_components
from ..networks.load import load_model
from ..networks.network import Network
from ..run.compute import Model, compute, score_image
from ..run.fit import fit
from ..run.pipeline import chosen_frames
from ..run.settings import PASS_SETTINGS, PassChanges, Settings, changed
from ..schema.entries.passes import KINDS, WORDS
from ..schema.errors import FitError, FrameError, GraduncError
from ..schema.scores import lookup, resolve_scores
from ..scores.fit import Fit
from ..store.cache import Cache
from ..store.cost import cost as cost_of
from ..tables.cost import cost_columns
from ..tables.evaluation import caption
from ..tables.table import Column, Table
from .candidates import candidates, every_score

__all__ = ["Comparison", "compare"]

_SUFFIXES = {"txt": Table.to_text, "md": Table.to_markdown, "tex": Table.to_latex, "html": Table.to_html}
"""Forms of the table, by the endings of their files."""


@dataclass(frozen=True, eq=False)
class Comparison:
    """All scores of a network on a set of frames.

    Attributes
    ----------
    table : Table
    caches : dict of str to Cache
        Of each run: ``"one pass"``, and those of several passes.
    left_out : dict of str to list of str
        Why scores were left out, and which.
    """

    table: Table
    caches: Mapping[str, Cache]
    left_out: Mapping[str, Sequence[str]]

    def __repr__(self) -> str:
        return repr(self.table)

    def _repr_html_(self) -> str:
        return self.table._repr_html_()

    def write(self, folder: Path) -> list[Path]:
        """Write the table as text, Markdown, LaTeX, HTML and CSV."""
        files = []
        for suffix, form in {**_SUFFIXES, "csv": Table.to_csv}.items():
            file = folder / f"comparison.{suffix}"
            file.write_text(form(self.table), encoding="utf-8", errors="backslashreplace")
            files.append(file)
        return files


def compare(
    model: Model | Sequence[Model],
    frames: Frames | Iterable[Frame] | Frame,
    out: str | Path,
    scores: str | Sequence[str] | None = None,
    *,
    settings: Settings | None = None,
    fit_on: Frames | Iterable[Frame] | Frame | None = None,
    pixels: int = 100_000,
    task: str | None = None,
    track: str = "anomaly",
    bootstrap: int = 200,
    cost: bool = True,
    progress: bool = True,
    **changes: Unpack[PassChanges],
) -> Comparison:
    """Compute every score that a network allows on a set of frames, and tell what each finds and what it costs.

    Parameters
    ----------
    model : str, nn.Module or Network, or a list of these
        See `load_model`. Of several, scores of one pass are of the first, and there are those of the ensemble.
    frames : Frames, iterable of Frame, or Frame
    out : path
        Folder of the caches, one for each run, which are resumed, and of the table.
    scores : str or sequence of str, optional
        Names, or words that stand for several; by default every one that the network allows.
    settings : Settings, optional
        Whatever else is asked for; its scores make no difference.
    fit_on : Frames, iterable of Frame, or Frame, optional
        In-distribution frames, others than `frames`, that scores are fitted on which need it; or a fit as ``fit=``.
    pixels : int
        Drawn of these.
    task : "error" or "anomaly"
        By default ``anomaly`` where there are anomaly labels.
    track : str
        Whose size limits of objects hold.
    bootstrap : int
        Samples of frames for intervals.
    cost : bool
        Whether the time of every score is measured, on the first frame: best of three, each score alone.
    progress : bool
        Whether progress bars are shown.
    **changes
        Fields of `Settings`.

    Returns
    -------
    Comparison
        The files ``comparison.txt``, ``.md``, ``.tex``, ``.html`` and ``.csv`` of `out` hold its table.

    Raises
    ------
    GraduncError
        If no score can be computed, or frames have no labels of the task.
    """
    settings = changed(settings or Settings(), changes)
    Bootstrap(bootstrap)  # checked before the work
    if track not in TRACKS:
        raise GraduncError(f"unknown track {track!r}, expected one of {', '.join(TRACKS)}")
    networks = [one if isinstance(one, Network) else load_model(one) for one in _listed(model)]
    chosen = chosen_frames(frames, settings.limit)
    if not chosen:
        raise FrameError("no frames to compare scores on; expected at least one")
    unfitted: dict[str, list[str]] = {}
    if fit_on is not None:
        asked = None if scores is None else [name for name in resolve_scores(scores) if "fit" in lookup(name).needs]
        made = _fitted(networks[0], fit_on, settings, asked, pixels, progress, unfitted)
        settings = replace(settings, fit=made)
        Path(out).mkdir(parents=True, exist_ok=True)
        if made is not None:
            made.save(Path(out) / "fit.safetensors")

    def members(run: str) -> Network | list[Network]:
        return networks if run == "members" else networks[0]

    def attempt(run: str, some: tuple[str, ...]) -> object:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # the run itself will say it
            return score_image(members(run), chosen[0].image_path, _of_run(settings, some))

    known = {name for names in unfitted.values() for name in names}
    wanted = every_score() if scores is None else resolve_scores(scores)
    found = candidates([name for name in wanted if name not in known], attempt, of_mean=scores is None)
    left_out = {**unfitted, **found.left_out}
    if not found.runs:
        raise GraduncError(f"no score can be computed: {'; '.join(left_out)}")
    caches: dict[str, Cache] = {}
    parts: list[_Part] = []
    for run, some in found.runs.items():
        folder = Path(out) / run.replace(" ", "_")
        caches[run] = compute(members(run), chosen, folder, _of_run(settings, some, profile=cost), progress=progress)
        result = evaluate({Path(out).name: caches[run]}, task, scores=some, bootstrap=bootstrap)
        if result.attrs["task"] == "anomaly":
            result = with_components(result, {Path(out).name: caches[run]}, track, progress=progress)
        parts.append(_Part(run, caches[run], result))
    comparison = Comparison(_table(parts, left_out, Path(out).name), caches, left_out)
    comparison.write(Path(out))
    return comparison


def _listed(model: Model | Sequence[Model]) -> Sequence[Model]:
    return model if isinstance(model, (list, tuple)) else [model]  # type: ignore[list-item]


def _fitted(
    network: Network,
    frames: Frames | Iterable[Frame] | Frame,
    settings: Settings,
    asked: Sequence[str] | None,
    pixels: int,
    progress: bool,
    left_out: dict[str, list[str]],
) -> Fit | None:
    """A fit of the scores that are asked for, by default all, as far as they can be fitted; the others are told."""

    def made(names: Sequence[str]) -> Fit:
        some = replace(settings, scores=tuple(names), fit=None, limit=None)
        return fit(network, frames, some, pixels=pixels, progress=progress)

    names = resolve_scores("fitted") if asked is None else asked
    if not names:
        return None
    try:
        return made(names)
    except FitError:
        pass
    good = []
    for name in names:
        try:
            made([name])
            good.append(name)
        except FitError as error:
            left_out.setdefault(str(error), []).append(name)
    return made(good) if good else None


def _of_run(settings: Settings, scores: tuple[str, ...], **changes: Any) -> Settings:
    """Settings of some scores; what makes no difference to them is left out."""
    needs_fit = any("fit" in lookup(name).needs for name in scores)
    asked = replace(settings, scores=scores, fit=settings.fit if needs_fit else None, **changes)
    idle = {name: default for name, (kind, default) in PASS_SETTINGS.items() if kind != asked.passes_kind}
    return replace(asked, **idle)


@dataclass(frozen=True)
class _Part:
    """What one run has found."""

    run: str
    cache: Cache
    result: xr.Dataset

    def row(self, score: str) -> str:
        """Name of a score among those of all runs."""
        if self.run not in KINDS or lookup(score).family == "passes":
            return score
        return f"{score} ({next(word for word, kind in WORDS.items() if kind == self.run)})"


def _table(parts: Sequence[_Part], left_out: Mapping[str, Sequence[str]], group: str) -> Table:
    """One table of all runs, the best AuPRC first."""
    rows: list[str] = []
    titles: list[str] = []
    values: list[dict[str, float]] = []
    ends: list[dict[str, tuple[float, float]]] = []
    wrong: list[bool] = []
    columns: dict[str, Column] = {}
    for part in parts:
        one = part.result.sel(pooling="pixels", cache=group)
        metrics = {name: metric for name, metric in METRICS.items() if name in one}
        more = _more_columns(part, group)
        columns |= {name: Column(group, metric.short, metric.orientation) for name, metric in metrics.items()}
        columns |= {name: column for name, (column, _) in more.items()}
        for score in map(str, one["score"].values):
            own = one.sel(score=score)
            rows.append(part.row(score))
            titles.append(part.row(score).replace(score, lookup(score).title, 1))
            values.append(
                {name: float(own[name]) for name in metrics}
                | {name: of.get(score, np.nan) for name, (_, of) in more.items()}
            )
            ends.append(
                {
                    name: (float(own[f"{name}_low"]), float(own[f"{name}_high"]))
                    for name, metric in metrics.items()
                    if metric.of_pixels
                }
            )
            wrong.append(bool(own["wrong_side"]))
    table = Table(
        f"Task {parts[0].result.attrs['task']}",
        tuple(rows),
        tuple(columns.values()),
        np.array([[row.get(name, np.nan) for name in columns] for row in values]),
        tuple(titles),
        notes=_notes(parts, left_out),
        units="in %",
        wrong_side=np.array(wrong)[:, None],
        intervals=np.array([[row.get(name, (np.nan, np.nan)) for name in columns] for row in ends]),
    )
    return table.best_first(METRICS["auprc"].short)


def _more_columns(part: _Part, group: str) -> dict[str, tuple[Column, dict[str, float]]]:
    """Columns that are no metrics of the task, with the values of the scores: calibration, and cost."""
    found: dict[str, tuple[Column, dict[str, float]]] = {}
    if part.cache.summary["has_label"].values.any():
        ece = score_calibration({group: part.cache})["ece"].sel(cache=group)
        found["ece"] = Column(group, "ECE", -1), dict(zip(map(str, ece["score"].values), ece.values, strict=True))
    scores = [str(name) for name in part.result["score"].values]
    for column, values in cost_columns(part.result, group, scores):
        found[column.name] = column, dict(zip(scores, values, strict=True))
    return found


def _notes(parts: Sequence[_Part], left_out: Mapping[str, Sequence[str]]) -> tuple[str, ...]:
    notes = list(caption(parts[0].result))
    for part in parts:
        if part.run in KINDS:
            text = f"{KINDS[part.run]}: a run with a prediction of its own, the mean of several passes"
            if part.result.attrs["task"] == "error":
                text += f", which is wrong at {100 * float(part.result['positive_rate'][0]):.2f} % of the pixels"
            notes.append(text)
    if any(part.cache.summary["has_label"].values.any() for part in parts):
        notes.append("ECE: 1 - normalised score as confidence, 15 bins")
    for part in parts:
        told = cost_of(part.cache).attrs
        if np.isfinite(told["forward_ms"]):
            notes.append(
                f"ms of a frame, {part.run}: the network takes {told['forward_ms']:.0f}, all scores together "
                f"{told['together_ms']:.0f}, each alone as in the table ({told['device']})"
            )
    return (*notes, *(f"left out: {', '.join(names)}: {why}" for why, names in left_out.items()))
