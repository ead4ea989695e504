"""Scores made of others, to tell whether gradients add anything to the entropy.

A combined map of a frame is made by what was fitted on other frames, so that evaluating it is fair. Everything comes
from the maps of a cache, and the result is a score of that cache like any other: each frame is written anew whole with
the one map more, and takes the place of the old one. The root names the score once all frames hold it, so that a run
that was killed is resumed by the same call.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from hashlib import blake2b
from zlib import crc32

import numpy as np
import xarray as xr
from scipy.special import expit, ndtri
from sklearn.linear_model import LogisticRegression

from ..counts.cell_sums import CellSum
from ..counts.ranks import Ranks, pixel_cells
from ..schema.entries.combined import HOW, combined_score
from ..schema.errors import CacheError, CacheMismatchError, GraduncError, SettingsError, UnknownScoreError
from ..schema.scores import Score, lookup, recall
from ..store.cache import Cache
from ..store.choice import Caches, Selection, opened
from ..store.frame import read_variable, score_values
from ..store.group import ids_digest
from ..store.progress import counted, tracked
from ..store.writer import CacheWriter
from .added_score import with_score
from .settings import check_count

__all__ = ["combine"]


def combine(
    cache: Caches,
    scores: Sequence[str] | str = ("entropy", "pgn_oh_p2"),
    how: str = "rank",
    *,
    folds: int = 5,
    seed: int = 0,
    task: str | None = None,
    pixels: int = 100_000,
    name: str | None = None,
    progress: bool = True,
) -> Cache:
    r"""Add a score to a cache that is made of scores that it holds.

    The frames are dealt into folds, and the map of a frame is made by what was fitted on the frames of the other folds.
    Every score is first turned into its rank among all pixels of those frames, so that only its order matters.

    Parameters
    ----------
    cache : Cache or path
        Of a network, or of imported maps.
    scores : sequence of str
        Two or more of its scores.
    how : "rank" or "logistic"
        ``"rank"``: the mean of the ranks; no label is needed. ``"logistic"``: the probability of being positive (wrong,
        or of an unknown object) by a logistic regression on the ranks u, as normal quantiles :math:`\Phi^{-1}(u)`,
        which are standardised by construction. Frames without labels get what was fitted on all that have some.
    folds : int
        Into how many parts frames are dealt; no more than there are frames.
    seed : int
        Of dealing and drawing.
    task : "error" or "anomaly"
        What a logistic regression is to find; by default ``anomaly`` where there are anomaly labels.
    pixels : int
        How many labelled pixels are drawn in all, as many positives as negatives of each frame as far as there are;
        weights make up for that, so that what comes out is a probability.
    name : str, optional
        Of the new score; by default ``rank:A+B`` or ``logistic:A+B``.
    progress : bool
        Whether a progress bar is shown.

    Returns
    -------
    Cache
        As it is now. ``Cache.key["combined"]`` says how its combined scores were made, and with what mean weights.

    Raises
    ------
    UnknownScoreError
        If the cache lacks a score, or a score cannot have that name.
    SettingsError
        If a value makes no sense.
    GraduncError
        If there are fewer than two frames, or frames without which none would be left with positives, or negatives.
    CacheMismatchError
        If the cache holds a score of that name that was made otherwise.
    CacheError
        If the cache cannot be written. A run that ends early is resumed by the same call.
    """
    own = opened(cache).reopened()  # which may have got a score meanwhile
    selection = Selection.of(own, task, scores=scores).require_frames()
    plan = _Plan(how, tuple(sorted(selection.scores)), folds, seed, selection.task.name, pixels, ids_digest(own.ids))
    entry = _entry(plan, name, own)
    if entry.name in own.scores:
        _check_same(own, entry, plan)
        return own
    if how == "rank":
        selection = Selection(own, selection.task, plan.scores, own.ids)
    fit = _Fit.of(plan, selection, progress)
    digest = plan.digest
    with CacheWriter(own.backend, own.key, own.classes, own.colors) as writer:
        lacking = [frame_id for frame_id in own.ids if _made_by(own, frame_id).get(entry.name) != digest]
        writer.renew(lacking)
        with counted(len(lacking), f"combining {', '.join(plan.scores)}", shown=progress) as more:
            for frame_id in lacking:
                dataset = own[frame_id]
                values = fit.combined(dataset).astype("f4")
                extended = with_score(_without(dataset, entry.name), entry, values)
                made_by = extended.attrs.get("combined", {}) | {entry.name: digest}
                writer.commit(extended.assign_attrs(combined=made_by))
                more()
        now = own.reopened()
        if now.key != own.key or any(_made_by(now, frame_id).get(entry.name) != digest for frame_id in now.ids):
            raise CacheError(f"{own.path}: is being changed by another run; combine again when that is done")
        record = asdict(plan) | ({"weights": fit.weights} if how == "logistic" else {})
        settings = {**own.key["settings"], "scores": [*own.scores, entry.name]}
        made = own.key.get("combined", {}) | {entry.name: record}
        writer.put_key({**own.key, "settings": settings, "combined": made})
    now = own.reopened()
    _ = now.summary  # stored now, so that the first look is not the one that pays for it
    return now


@dataclass(frozen=True)
class _Plan:
    """What decides a combined score."""

    how: str
    scores: tuple[str, ...]
    folds: int
    seed: int
    task: str
    pixels: int
    frames: str

    def __post_init__(self) -> None:
        if self.how not in HOW:
            raise SettingsError(f"how is {self.how!r}; expected one of {', '.join(HOW)}")
        if len(self.scores) < 2:
            raise SettingsError(f"scores are {', '.join(self.scores)}; expected two or more different ones to combine")
        for what, value, least in (("folds", self.folds, 2), ("pixels", self.pixels, 1), ("seed", self.seed, 0)):
            check_count(what, value, least)
        if self.how == "rank":  # labels and drawn pixels make no difference
            object.__setattr__(self, "task", "")
            object.__setattr__(self, "pixels", 0)

    @property
    def digest(self) -> str:
        return blake2b(repr(asdict(self)).encode(), digest_size=16).hexdigest()


def _entry(plan: _Plan, name: str | None, cache: Cache) -> Score:
    """The description of the new score, known from here on."""
    for part in plan.scores:
        if "+" in part or lookup(part).parts:
            raise UnknownScoreError(f"score {part!r} cannot be combined: expected one that is not made of others")
    entry = combined_score(plan.how, plan.scores, name or "")
    if name is None:
        return lookup(entry.name)
    try:
        known: Score | None = lookup(name)
    except UnknownScoreError:
        known = None
    if known is None:
        recall(vars(entry))
        try:
            known = lookup(name)
        except UnknownScoreError:
            raise UnknownScoreError(
                f"a combined score cannot be called {name!r}; expected 1 to 64 letters, digits, '_', '.', '+' and '-', "
                "the first a letter or a digit"
            ) from None
    if known.parts != plan.scores or known.formula != entry.formula:
        raise UnknownScoreError(f"a combined score cannot be called {name!r}: this is {known.formula or known.title}")
    return known


def _check_same(cache: Cache, entry: Score, plan: _Plan) -> None:
    record = cache.key.get("combined", {}).get(entry.name, {})
    wanted = {key: list(value) if isinstance(value, tuple) else value for key, value in asdict(plan).items()}
    other = [
        f"{key} was {record.get(key)!r}, now {value!r}" for key, value in wanted.items() if record.get(key) != value
    ]
    if other:
        raise CacheMismatchError(
            f"{cache.path}: score {entry.name!r} was combined differently: {'; '.join(other)}; give it another name"
        )


def _made_by(cache: Cache, frame_id: str) -> Mapping[str, str]:
    """Digests of the plans by which combined scores of a frame were made."""
    attrs = cache.frame_attrs(frame_id)
    made: Mapping[str, str] = attrs.get("combined", {})
    return made


def _without(dataset: xr.Dataset, name: str) -> xr.Dataset:
    """The frame without a score that an earlier run, under another plan, left in it."""
    for dim in ("score", "score_pixel"):
        if dim in dataset.coords and name in dataset[dim].values:
            dataset = dataset.isel({dim: np.flatnonzero(dataset[dim].values != name)})
    return dataset


# --------------------------------------------------------------------------------------------------------------------
# fitting


@dataclass
class _Drawn:
    """Labelled pixels: scores (n, S), whether they are positive, and for how many pixels each stands."""

    values: np.ndarray
    positive: np.ndarray
    weight: np.ndarray


def _drawn(maps: np.ndarray, found: np.ndarray, counted: np.ndarray, most: int, random: np.random.Generator) -> _Drawn:
    """Draw up to `most` positives and as many negatives of a frame."""
    places, weights = [], []
    for group in (found, counted & ~found):
        all_of_them = np.flatnonzero(group)
        some = random.choice(all_of_them, min(most, len(all_of_them)), replace=False)
        places.append(some)
        weights.append(np.full(len(some), len(all_of_them) / max(len(some), 1)))
    at = np.concatenate(places)
    return _Drawn(maps.reshape(len(maps), -1)[:, at].T, found.ravel()[at], np.concatenate(weights))


def _dealt(selection: Selection, frames: Sequence[str], folds: int, seed: int) -> dict[str, int]:
    """Fold of every frame: shuffled, and dealt such that those with positives are spread over the folds."""
    with_positives = np.asarray(selection.cache.summary[selection.task.rate].sel(frame=list(frames)).values) > 0
    order = np.random.default_rng(seed).permutation(len(frames))
    order = order[np.argsort(~with_positives[order], kind="stable")]
    return {frames[index]: place % min(folds, len(frames)) for place, index in enumerate(order)}


_ALL = -1
"""In place of a fold: what was fitted on all frames that could be fitted on."""


@dataclass
class _Fit:
    """What makes combined maps: ranks of every score, and models of these, by the fold whose frames they never saw."""

    plan: _Plan
    fold: dict[str, int]
    ranks: dict[int, list[Ranks]] = field(default_factory=dict)
    models: dict[int, LogisticRegression] = field(default_factory=dict)

    @classmethod
    def of(cls, plan: _Plan, selection: Selection, progress: bool) -> _Fit:
        """Read the maps of the frames to be fitted on, once; what is kept of them does not grow with their number."""
        cache, task = selection.cache, selection.task
        is_logistic = plan.how == "logistic"
        frames = selection.labelled if is_logistic else selection.frames
        if len(frames) < 2:
            what = f"frames with {task.needs}" if is_logistic else "frames"
            raise GraduncError(
                f"{cache.path}: holds {len(frames)} {what}; expected two or more, as the map of a frame is made by "
                "what was fitted on others"
            )
        fit = cls(plan, _dealt(selection, frames, plan.folds, plan.seed))
        folds = range(max(fit.fold.values()) + 1)
        sums = [[CellSum() for _ in plan.scores] for _ in folds]
        drawn: list[list[_Drawn]] = [[] for _ in folds]
        each = max(plan.pixels // (2 * len(frames)), 1)
        for frame_id in tracked(frames, f"looking at {', '.join(plan.scores)}", shown=progress):
            dataset, fold = cache[frame_id], fit.fold[frame_id]
            maps = np.stack([score_values(dataset, name) for name in plan.scores])
            for total, plane in zip(sums[fold], maps, strict=True):
                total.add(pixel_cells(plane))
            if is_logistic:
                names = {name for name in (task.mask, "prediction") if name in dataset}
                truth = task.truth({name: read_variable(dataset, name) for name in names})
                assert truth is not None  # the frame has labels
                drawn[fold].append(_drawn(maps, *truth, each, _random(plan.seed, frame_id)))
        for unseen in (*folds, _ALL):
            others = [fold for fold in folds if fold != unseen]
            totals = ([sums[fold][s].total for fold in others] for s in range(len(plan.scores)))
            fit.ranks[unseen] = [Ranks(total for total in some if total is not None) for some in totals]
            if is_logistic:
                fit.models[unseen] = fit._model(unseen, [one for fold in others for one in drawn[fold]], selection)
        return fit

    def _model(self, unseen: int, some: Sequence[_Drawn], selection: Selection) -> LogisticRegression:
        values, positive, weight = (
            np.concatenate([getattr(one, name) for one in some]) for name in ("values", "positive", "weight")
        )
        if positive.all() or not positive.any():
            what = selection.task.negative if positive.any() else selection.task.positive
            aside = [frame_id for frame_id, fold in self.fold.items() if fold == unseen]
            raise GraduncError(
                f"{selection.cache.path}: no pixel counts as {what!r} in the {len(some)} frames that are fitted on "
                f"for {', '.join(map(repr, aside[:3]))}; expected such pixels in two frames or more"
            )
        quantiles = self._quantiles(unseen, values.T).T
        return LogisticRegression(max_iter=1000).fit(quantiles, positive, weight / weight.mean())

    def _quantiles(self, unseen: int, values: np.ndarray) -> np.ndarray:
        """Normal quantiles of the ranks of scores (S, ...)."""
        found = []
        for ranks, plane in zip(self.ranks[unseen], values, strict=True):
            end = 0.5 / ranks.pixels  # what lies beyond all that were counted
            found.append(ndtri(ranks(plane).clip(end, 1 - end)))
        return np.stack(found)

    def combined(self, dataset: xr.Dataset) -> np.ndarray:
        """The map of a frame, (y, x) float64."""
        unseen = self.fold.get(str(dataset.attrs["frame_id"]), _ALL)
        maps = np.stack([score_values(dataset, name) for name in self.plan.scores])
        if self.plan.how == "rank":
            return np.mean([ranks(plane) for ranks, plane in zip(self.ranks[unseen], maps, strict=True)], axis=0)
        model = self.models[unseen]
        return np.asarray(expit(model.intercept_[0] + np.tensordot(model.coef_[0], self._quantiles(unseen, maps), 1)))

    @property
    def weights(self) -> dict[str, float]:
        """Weight of each score's normal quantile, the mean over the models of the folds."""
        by_fold = np.stack([model.coef_[0] for fold, model in self.models.items() if fold != _ALL])
        return dict(zip(self.plan.scores, map(float, by_fold.mean(0)), strict=True))


def _random(seed: int, frame_id: str) -> np.random.Generator:
    """Draws of one frame, the same whatever other frames there are."""
    return np.random.default_rng([seed, crc32(frame_id.encode())])
