"""The whole set of figures and tables of some caches, and a contact sheet of it."""

from __future__ import annotations

import base64
import io
import logging
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from html import escape
from pathlib import Path
from typing import TypedDict, Unpack
from urllib.parse import quote

import matplotlib.figure
import numpy as np

from ..metrics import METRICS, evaluate
from ..metrics.arrays.components import TRACKS
from ..metrics.meta import meta_regression
from ..metrics.regions import FAILURES
from ..metrics.segment_table import segment_statistics
from ..schema.errors import CacheError, GraduncError, brief
from ..schema.scores import GradientNorm, lookup
from ..schema.tasks import TASKS, Task
from ..store.cache import Cache
from ..store.choice import Caches, named_caches, representative
from ..store.progress import tracked
from ..tables.paper import ood_table, pixel_table, segment_table
from ..tables.table import Table
from .bars import metric_bars, p_ablation
from .confusion import confusion
from .curves import pr, roc, sparsification
from .distributions import distributions
from .gallery import gallery
from .meta import meta_scatter
from .panel import panel
from .reliability import reliability
from .save import FORMATS, save

__all__ = ["FigureSet", "figure_set"]

_log = logging.getLogger(__name__)

_BARS = ("auprc", "auroc", "fpr95")
"""Metrics that are drawn as bars."""

_THUMBNAIL_DPI = 144

_WIDEST = 640
"""Pixels of the widest picture on the contact sheet, of which two stand side by side."""


@dataclass
class FigureSet:
    """What `figure_set` wrote.

    Attributes
    ----------
    index : pathlib.Path
        The contact sheet.
    files : list of pathlib.Path
        Figures and tables.
    skipped : list of (name, reason)
        What could not be made, and why.
    """

    index: Path
    files: list[Path] = field(default_factory=list)
    skipped: list[tuple[str, str]] = field(default_factory=list)


@dataclass(frozen=True)
class _Entry:
    name: str
    title: str
    make: Callable[[], matplotlib.figure.Figure | Table]


class FileOptions(TypedDict, total=False):
    """How figures are saved: one of `gradunc_viz.figures.FORMATS`, and the resolution of images and of PNG files."""

    format: str
    dpi: int


def _file_options(*, format: str = "pdf", dpi: int = 300) -> tuple[str, int]:
    if format not in FORMATS:
        raise GraduncError(f"unknown format {format!r}; expected one of {', '.join(FORMATS)}")
    return format, dpi


def figure_set(
    caches: Caches,
    out: str | os.PathLike[str],
    *,
    scores: Sequence[str] | None = None,
    track: str | Mapping[str, str] = "anomaly",
    progress: bool = True,
    **files: Unpack[FileOptions],
) -> FigureSet:
    """Make every figure and table that the caches hold enough for, and ``index.html``, a contact sheet.

    A cache that lacks what a figure needs, labels, class probabilities or the scores, is left out of it; what then
    cannot be made is left out, and so is a figure that fails. `FigureSet.skipped` and the contact sheet say which, and
    why.

    Parameters
    ----------
    caches : Cache, path, a sequence of these, or a mapping from names to these
    out : path-like
        Folder; made if it is missing, files of the same names are replaced.
    format : "pdf", "svg", "png" or "pgf"
    dpi : int
        Of images, and of PNG files.
    scores : optional
        Names; by default all in tables and bars, and those computed by default in curves.
    track : "anomaly", "obstacle", or a mapping from names of caches to these
        Size limits of unknown objects.
    progress : bool
        Whether a progress bar is shown.

    Returns
    -------
    FigureSet

    Raises
    ------
    GraduncError
        For an unknown format, score or track, a folder that cannot be written, a cache that cannot be read, or if
        nothing could be drawn.
    """
    ending, dpi = _file_options(**files)
    opened = named_caches(caches)
    folder = Path(out).absolute()  # the process may go to another folder
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise GraduncError(f"{folder}: cannot be made ({error.strerror})") from error
    done = FigureSet(folder / "index.html")
    entries = list(_entries(opened, scores, track, done.skipped))
    cards: list[str] = []
    for entry in tracked(entries, lambda entry: entry.name, unit="figure", shown=progress):
        try:
            try:
                made = entry.make()
            except CacheError:
                raise  # a cache that cannot be read is no figure to leave out
            except GraduncError as error:
                done.skipped.append((entry.name, " ".join(str(error).split())))
                continue
            if isinstance(made, Table):
                written = _write_table(made, folder / entry.name)
                content = made._repr_html_()
            else:
                written = [save(made, folder / f"{entry.name}.{ending}", dpi)]
                content = _thumbnail(made, entry.title)
        except GraduncError:
            raise
        except Exception as error:  # whatever one figure stumbles over, the others are drawn
            _log.info("%s cannot be drawn", entry.name, exc_info=error)
            done.skipped.append((entry.name, f"cannot be drawn ({brief(error)})"))
            continue
        done.files += written
        cards.append(_card(entry.title, content, written))
    if entries and not cards:
        raise GraduncError(f"{folder}: nothing could be drawn; {done.skipped[-1][0]}: {done.skipped[-1][1]}")
    _write(done.index, _page(opened, cards, done.skipped))
    return done


def _entries(
    opened: dict[str, Cache],
    scores: Sequence[str] | None,
    track: str | Mapping[str, str],
    skipped: list[tuple[str, str]],
) -> Iterator[_Entry]:
    """Name, title and maker of everything that the caches hold enough for; what they lack goes to `skipped`."""

    def holding(caches: dict[str, Cache], what: str, lack: Callable[[Cache], str]) -> dict[str, Cache]:
        lacking = {name: lack(cache) for name, cache in caches.items()}
        skipped.extend((f"{name}: {what}", reason) for name, reason in lacking.items() if reason)
        return {name: cache for name, cache in caches.items() if not lacking[name]}

    drawn = opened
    if scores is not None:
        wanted, some = tuple(scores), ", ".join(scores)
        drawn = holding(
            opened,
            f"scores {some}",
            lambda cache: "" if set(wanted) & set(cache.scores) else "the cache has none of them",
        )
    for task in TASKS.values():
        own = holding(drawn, f"task {task.name}", partial(_lack_of_labels, task))
        if own:
            yield from _task_entries(own, task, _held(own, scores))
        if own and task.name == "error":
            yield from _error_entries(own, _held(own, scores))
            certain = holding(own, "sparsification, reliability, table of pixels", _lack_of_probabilities)
            if certain:
                yield from _probability_entries(certain, _held(certain, scores))
        elif own:
            yield from _anomaly_entries(own, _held(own, scores), track)
    for name, cache in opened.items():
        if len(cache):
            yield _Entry(f"panel_{_slug(name)}", f"{name}: frames", partial(_panel, cache))


def _held(caches: dict[str, Cache], scores: Sequence[str] | None) -> Sequence[str] | None:
    """Those of the scores that any of the caches has."""
    if scores is None:
        return None
    return [name for name in scores if any(name in cache.scores for cache in caches.values())]


def _lack_of_labels(task: Task, cache: Cache) -> str:
    return task.lack(cache.summary)


def _lack_of_probabilities(cache: Cache) -> str:
    held = any("confidence_count" in cache[frame] for frame in cache.ids)
    return "" if held else "the cache holds imported maps without class probabilities"


def _task_entries(own: dict[str, Cache], task: Task, scores: Sequence[str] | None) -> Iterator[_Entry]:
    key, what = task.name, task.positives
    yield _Entry(f"roc_{key}", f"ROC, {what}", partial(roc, own, key, scores=scores))
    yield _Entry(f"roc_log_{key}", f"ROC, {what}, logarithmic", partial(roc, own, key, scores=scores, log_x=True))
    yield _Entry(f"pr_{key}", f"Precision-recall, {what}", partial(pr, own, key, scores=scores))
    for metric in _BARS:
        make = partial(metric_bars, own, metric, key, scores=scores)
        yield _Entry(f"bars_{metric}_{key}", f"{METRICS[metric].short}, {what}", make)
    yield _Entry(
        f"p_ablation_{key}", f"{METRICS['auprc'].short} against p, {what}", partial(p_ablation, own, "auprc", key)
    )
    for name, cache in own.items():
        two = None if scores is None else [score for score in scores if score in cache.scores][:2]
        title = f"{name}: distributions, {what}"
        yield _Entry(f"distributions_{key}_{_slug(name)}", title, partial(distributions, cache, key, scores=two))


def _probability_entries(own: dict[str, Cache], scores: Sequence[str] | None) -> Iterator[_Entry]:
    yield _Entry("sparsification", "Sparsification", partial(sparsification, own, scores=scores))
    yield _Entry("reliability", "Reliability", partial(reliability, own))
    yield _Entry("table_pixels", "Table: pixels", partial(pixel_table, own, scores=scores))


def _error_entries(own: dict[str, Cache], scores: Sequence[str] | None) -> Iterator[_Entry]:
    yield _Entry("table_segments", "Table: segments", partial(segment_table, own, scores=scores))
    for name, cache in own.items():
        slug = _slug(name)
        yield _Entry(f"confusion_{slug}", f"{name}: confusion matrix", partial(confusion, cache))
        yield _Entry(f"meta_scatter_{slug}", f"{name}: meta regression", partial(_scatter, cache, scores))
        yield _failures(cache, name, "confident_mistakes", "error")


def _anomaly_entries(
    own: dict[str, Cache], scores: Sequence[str] | None, track: str | Mapping[str, str]
) -> Iterator[_Entry]:
    yield _Entry("table_ood", "Table: unknown objects", partial(ood_table, own, track=track, scores=scores))
    for name, cache in own.items():
        smallest = TRACKS[track if isinstance(track, str) else track.get(name, "anomaly")].min_truth
        yield _failures(cache, name, "missed_objects", "anomaly", min_pixels=smallest)
        yield _failures(cache, name, "false_alarms", "anomaly")


def _failures(cache: Cache, name: str, kind: str, task: str, min_pixels: int = 1) -> _Entry:
    title = f"{name}: {FAILURES[kind].title.lower()}"
    return _Entry(f"{kind}_{_slug(name)}", title, partial(gallery, cache, kind, task=task, min_pixels=min_pixels))


def _panel(cache: Cache) -> matplotlib.figure.Figure:
    return panel(cache, _typical(cache), insets="auto")


def _scatter(cache: Cache, scores: Sequence[str] | None) -> matplotlib.figure.Figure:
    names = representative(cache) if scores is None else [score for score in scores if score in cache.scores]
    return meta_scatter(meta_regression(segment_statistics(cache, names)))


def _typical(cache: Cache, count: int = 3) -> list[str]:
    """Frames where scores do well, middling and badly, by the AuPRC of the first gradient score or of any."""
    names = sorted(representative(cache), key=lambda name: not isinstance(lookup(name), GradientNorm))
    try:
        found = evaluate(cache, scores=names[0], by="frame")["auprc"].isel(cache=0, score=0)
    except GraduncError:  # no labels at all
        return list(cache.ids[:count])
    ids, values = found["frame"].values, found.values
    ranked = ids[np.isfinite(values)][np.argsort(-values[np.isfinite(values)], kind="stable")]
    if len(ranked) <= count:
        return [str(frame) for frame in (ranked if len(ranked) else ids[:count])]
    return [str(ranked[round(share * (len(ranked) - 1))]) for share in np.linspace(0, 1, count)]


def _slug(name: str) -> str:
    """Name of a file from that of a cache."""
    return "".join(c if c.isalnum() or c in "-_." else "_" for c in name).strip("._") or "cache"


# --------------------------------------------------------------------------------------------------------------------
# files


def _write(path: Path, text: str) -> None:
    try:
        path.write_text(text, encoding="utf-8", errors="backslashreplace")  # names of files need not be text
    except OSError as error:
        raise GraduncError(f"{path}: cannot be written ({error.strerror or error})") from error


def _write_table(table: Table, stem: Path) -> list[Path]:
    files = []
    for ending, text in ((".tex", table.to_latex()), (".md", table.to_markdown()), (".csv", table.to_csv())):
        path = stem.with_name(stem.name + ending)
        _write(path, text)
        files.append(path)
    return files


def _thumbnail(figure: matplotlib.figure.Figure, title: str) -> str:
    """Picture of a figure inside the page: a PNG, or a JPEG where photographs make that smaller."""
    found = {}
    for kind in ("png", "jpeg"):
        buffer = io.BytesIO()
        figure.savefig(buffer, format=kind, dpi=_THUMBNAIL_DPI)
        found[kind] = buffer.getvalue()
    kind = min(found, key=lambda name: len(found[name]))
    data = base64.b64encode(found[kind]).decode()
    width = min(round(figure.get_figwidth() * _THUMBNAIL_DPI * 0.75), _WIDEST)
    return f"<img alt='{escape(title, quote=True)}' style='width:{width}px' src='data:image/{kind};base64,{data}'>"


def _card(title: str, content: str, files: Sequence[Path]) -> str:
    links = " ".join(f"<a href='{quote(file.name)}'>{escape(file.name)}</a>" for file in files)
    return f"<section><h2>{escape(title)}</h2>{content}<p>{links}</p></section>"


_CSS = """
body{font:15px/1.5 system-ui,sans-serif;margin:2rem;background:#f6f7f9;color:#1d2733}
main{display:flex;flex-wrap:wrap;gap:1rem;align-items:flex-start}
section{background:#fff;border:1px solid #dfe3e8;border-radius:6px;padding:.8rem 1rem;max-width:100%;overflow-x:auto;
box-sizing:border-box}
h1{font-size:1.3rem}h2{font-size:.95rem;margin:0 0 .5rem}img{max-width:100%;height:auto;display:block}
p{margin:.4rem 0 0;font-size:.8rem}table{font-size:.85rem}li{overflow-wrap:anywhere}
"""


def _page(opened: Mapping[str, Cache], cards: Sequence[str], skipped: Sequence[tuple[str, str]]) -> str:
    caches = "".join(
        f"<li><b>{escape(name)}</b>: {len(cache)} frames, network {escape(str(cache.key['network']['name']))}</li>"
        for name, cache in opened.items()
    )
    left_out = "".join(f"<li><b>{escape(name)}</b>: {escape(reason)}</li>" for name, reason in skipped)
    missing = f"<h2>Left out</h2><ul>{left_out}</ul>" if skipped else ""
    return (
        "<!doctype html><html lang='en'><head><meta charset='utf-8'>"
        "<meta name='viewport' content='width=device-width'>"
        f"<title>Figures of {escape(', '.join(opened))}</title><style>{_CSS}</style></head><body>"
        f"<h1>Figures of {escape(', '.join(opened))}</h1><ul>{caches}</ul><main>{''.join(cards)}</main>{missing}"
        "</body></html>\n"
    )
