"""Commands that show: explore, figures, evaluate, info, upgrade, check, scores, layouts."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ..schema.errors import GraduncError
from ..schema.score import Score
from ..schema.scores import SCORES
from ..schema.tasks import TASKS
from . import options
from .command import command
from .values import DONE, ERROR, console, natural, positive, size_on_disk, width, write_forms


@command("explore", "show caches in the dashboard", options.caches, options.score_files, options.serving)
def explore(arguments: argparse.Namespace) -> int:
    """Serve the dashboard until it is interrupted."""
    from ..explorer import serve

    serve(
        arguments.cache,
        port=arguments.port,
        open_browser=not arguments.no_browser,
        allow_origin=arguments.allow_origin,
        prefix=arguments.prefix,
    )
    return DONE


def _figures_options(parser: argparse.ArgumentParser) -> None:
    from ..figures.save import FORMATS
    from ..figures.style import WIDTHS
    from ..metrics.arrays.components import TRACKS

    parser.add_argument("--out", required=True, type=Path, metavar="DIR", help="folder; index.html shows all of it")
    parser.add_argument("--format", choices=FORMATS, default="pdf", help="of the figures (default: %(default)s)")
    parser.add_argument("--width", type=width, metavar="NAME", help=f"{', '.join(WIDTHS)}, or inches")
    parser.add_argument("--style", type=Path, metavar="FILE", help="a .mplstyle file that replaces settings")
    parser.add_argument("--dpi", type=positive, default=300, metavar="N", help="of images (default: %(default)s)")
    parser.add_argument(
        "--track",
        default="anomaly",
        metavar="TRACK|CACHE=TRACK,..",
        help=f"size limits of unknown objects: {' or '.join(TRACKS)}, or one for each cache (default: %(default)s)",
    )


@command(
    "figures",
    "draw the figures and tables of caches for a paper, with a contact sheet",
    options.caches,
    options.scores_to_show,
    _figures_options,
    options.quiet,
)
def _figures(arguments: argparse.Namespace) -> int:
    from ..figures import figure_set, style

    track = arguments.track
    if "=" in track:
        track = dict(part.strip().partition("=")[::2] for part in track.split(","))
    with style(arguments.width, arguments.style):
        done = figure_set(
            arguments.cache,
            arguments.out,
            format=arguments.format,
            dpi=arguments.dpi,
            scores=arguments.scores,
            track=track,
            progress=not arguments.quiet,
        )
    for name, reason in done.skipped:
        print(f"left out {name}: {reason}", file=sys.stderr)
    print(f"{arguments.out}: {len(done.files)} files; look at {done.index}")
    return DONE


def _evaluate_options(parser: argparse.ArgumentParser) -> None:
    from ..metrics.arrays.components import TRACKS
    from ..metrics.metric import pixel_metrics
    from ..schema.tasks import TASKS

    parser.add_argument("--task", choices=tuple(TASKS), help="default: anomaly where there are anomaly labels")
    parser.add_argument(
        "--by",
        choices=("set", "class", "label", "frame"),
        help="one column per set that a cache holds (frames SET__NAME), or one row per class or frame",
    )
    parser.add_argument(
        "--metric",
        choices=tuple(pixel_metrics()),
        default="auprc",
        help="what --by shows, and which score comes first (default: %(default)s)",
    )
    parser.add_argument(
        "--pooling", choices=("pixels", "frames"), default="pixels", help="all pixels at once, or mean over frames"
    )
    parser.add_argument(
        "--bootstrap",
        type=natural,
        metavar="N",
        help="samples of frames for intervals (default: 200; 1000 with --against)",
    )
    parser.add_argument(
        "--components",
        choices=tuple(TRACKS),
        metavar="TRACK",
        help="also sIoU, PPV and F1 per object at the best-F1 threshold, with the size limits of that track "
        f"({' or '.join(TRACKS)}); reads the score maps",
    )
    parser.add_argument(
        "--against",
        metavar="SCORE|CACHE:SCORE",
        help="compare each score with this one, by a paired bootstrap over frames: difference, interval and p",
    )
    options.table_forms(parser)


@command(
    "evaluate",
    "say how well scores find mistakes or unknown objects",
    options.caches,
    options.scores_to_show,
    _evaluate_options,
    options.quiet,
)
def _evaluate(arguments: argparse.Namespace) -> int:
    from ..metrics import evaluate
    from ..store.choice import by_set, named_caches
    from ..store.progress import progress_bar

    of_sets = arguments.by == "set"
    caches = by_set(arguments.cache) if of_sets else named_caches(arguments.cache)
    by = None if of_sets else arguments.by
    if arguments.against is not None:
        return _against(arguments, caches)
    with progress_bar(not arguments.quiet):
        result = evaluate(
            caches,
            arguments.task,
            scores=arguments.scores,
            by=by,
            bootstrap=200 if arguments.bootstrap is None else arguments.bootstrap,
        )
    from ..tables import evaluation as tables

    if arguments.components:
        if by or result.attrs["task"] != "anomaly":
            raise GraduncError("--components is for unknown objects of whole sets; expected task anomaly and no --by")
        from ..metrics.objects import with_components

        result = with_components(result, caches, arguments.components, progress=not arguments.quiet)
    asked = [form for form in ("latex", "markdown", "html") if getattr(arguments, form) is not None]
    if asked and by:
        raise GraduncError(f"--{asked[0]} makes a table of scores; expected no --by, got --by {by}")
    made = tables.evaluation_table(result, pooling=arguments.pooling, sort=arguments.metric) if asked else None
    if write_forms(arguments, made, lambda: tables.records(result), lambda: tables.to_csv(result)):
        return DONE
    terminal = console()
    shown = tables.terminal_tables(result, metric=arguments.metric, pooling=arguments.pooling, width=terminal.width)
    for table in shown:
        terminal.print(table)
    pooling = by or arguments.pooling
    for line in [*tables.caption(result, pooling), *tables.comparison(result, pooling=arguments.pooling)]:
        terminal.print(line, markup=False, highlight=False, soft_wrap=True)
    return DONE


def _against(arguments: argparse.Namespace, caches: Mapping[str, Any]) -> int:
    """Compare all scores with one, by a paired bootstrap."""
    from ..metrics.paired import paired_difference
    from ..store.progress import progress_bar
    from ..tables.paired import paired_records, paired_table

    if arguments.by or arguments.components or arguments.pooling != "pixels":
        raise GraduncError("--against compares scores over all pixels; expected no --by, --components or --pooling")
    cache, _, score = arguments.against.partition(":")
    given = (cache, score) if cache in caches else arguments.against
    metrics = dict.fromkeys((arguments.metric, "auprc", "auroc", "fpr95"))
    with progress_bar(not arguments.quiet):
        result = paired_difference(
            caches,
            given,
            arguments.task,
            metrics=list(metrics),
            bootstrap=1000 if arguments.bootstrap is None else arguments.bootstrap,
            scores=arguments.scores,
        )
    table = paired_table(result)
    if not write_forms(arguments, table, lambda: paired_records(result)):
        print(table)
    return DONE


def _left_out(channels: Sequence[int]) -> str:
    from ..datasets.conventions import some

    return (
        f"{some('channel', channels)} of the network: no class, and ignored in masks that hold {some('id', channels)}"
    )


def _fitted_on(fit: Mapping[str, Any]) -> str:
    """What scores of a cache were fitted on."""
    return (
        f"{fit['pixels']} pixels of {fit['fitted_on']} frames, by {fit['by']}, features of {fit['features']}, seed "
        f"{fit['seed']} (fit {fit['digest'][:12]})"
    )


def _passes(key: Mapping[str, Any]) -> str:
    """What several passes a cache is of, in words; empty of one."""
    if members := key["network"].get("members"):
        return f"{len(members)}, members of an ensemble"
    told = ("passes", "dropout", "scales", "flips", "seed")
    found = {name: key["settings"][name] for name in told if key["settings"].get(name) is not None}
    return ", ".join(f"{name} {value}" for name, value in found.items())


@command("info", "say what a cache holds", options.cache, options.score_files)
def _info(arguments: argparse.Namespace) -> int:
    from rich.table import Table
    from rich.text import Text

    from ..run.report import cautions, frames_with
    from ..store.cache import open_cache
    from ..store.cost import cost, measured_cost
    from ..tables.cost import cost_table

    cache = open_cache(arguments.cache)
    summary, network, settings = cache.summary, cache.key["network"], cache.key["settings"]
    sizes = sorted({(int(h), int(w)) for h, w in zip(summary["height"].values, summary["width"].values, strict=True)})
    sets = cache.sets
    pixels = int((summary["height"].astype("i8") * summary["width"]).sum())
    table = Table(show_header=False, box=None, title=str(cache.path), title_justify="left")
    rows = {
        "frames": f"{len(cache)}, {pixels / 1e6:.1f} million pixels",
        **{task.needs: frames_with(summary, task) for task in TASKS.values()},
        **({"sets": ", ".join(f"{name} ({len(part)})" for name, part in sets.items())} if len(sets) > 1 else {}),
        "sizes": ", ".join(f"{h} x {w}" for h, w in sizes),
        "network": f"{network['name']} (weights {network['weights'][:12]})",
        "head": (cache.head or network["head"]) + (", as found" if cache.head and network["head"] == "auto" else ""),
        "classes": f"{len(cache.classes)}: {', '.join(cache.classes)}",
        **({"left out": _left_out(network["drop_channels"])} if network.get("drop_channels") else {}),
        "scores": f"{len(cache.scores)}: {', '.join(cache.scores)}",
        "input size": "x".join(map(str, settings["input_size"])) if settings["input_size"] else "each image's own",
        **({"several passes": passes} if (passes := _passes(cache.key)) else {}),
        **({"fitted on": _fitted_on(cache.key["fit"])} if "fit" in cache.key else {}),
        "on disk": size_on_disk(cache.path),
    }
    for name, value in rows.items():
        table.add_row(name, Text(value))
    console().print(table)
    if measured_cost(cache) is not None:
        print(f"\n{cost_table(cost(cache))}")
    for caution in cautions(summary):
        print(f"gradunc: warning: {caution}", file=sys.stderr)
    return DONE


@command("upgrade", "bring a cache up to today's layout without computing anew", options.cache)
def _upgrade(arguments: argparse.Namespace) -> int:
    from ..schema.frame import SCHEMA_VERSION
    from ..store.upgrade import upgrade_cache

    done = upgrade_cache(arguments.cache)
    for line in done:
        print(f"{arguments.cache}: {line}")
    if not done:
        print(f"{arguments.cache}: schema version {SCHEMA_VERSION}, which is today's; nothing to do")
    return DONE


def _repair(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--repair", action="store_true", help="take damaged frames out, so that 'gradunc compute' makes them again"
    )


@command("check", "compare every file of a cache with its checksum", options.cache, _repair, options.quiet)
def _check(arguments: argparse.Namespace) -> int:
    from ..store.check import check_cache
    from ..store.progress import progress_bar

    with progress_bar(not arguments.quiet, what="checking"):
        found = check_cache(arguments.cache, repair=arguments.repair)
    for message in found.damaged.values():
        print(message)
    unchecked = f", {len(found.unchecked)} of them by their size alone: they have no checksums" * bool(found.unchecked)
    print(f"{arguments.cache}: {len(found.whole)} frames are whole{unchecked}, {len(found.damaged)} damaged")
    if found.removed:
        print(f"{len(found.removed)} frames taken out; run 'gradunc compute' as before to make them again")
    return ERROR if len(found.damaged) > len(found.removed) else DONE


@command("scores", "list the scores", options.score_files)
def _scores(_: argparse.Namespace) -> int:
    from rich.table import Table
    from rich.text import Text

    from ..schema.scores import DEFAULT_SCORES, PAPER_SCORES, PATTERNS

    sets = {"default": DEFAULT_SCORES, "paper": PAPER_SCORES}
    by_cost: dict[str, list[Score]] = {}
    for entry in SCORES.values():
        by_cost.setdefault(entry.cost, []).append(entry)
    for cost, entries in by_cost.items():
        table = Table(box=None, title=f"cost: {cost}", title_justify="left")
        for title in ("name", "family", "units", "uncertain if", "in", "formula"):
            table.add_column(title, no_wrap=title not in ("uncertain if", "formula"))
        for entry in entries:
            table.add_row(
                entry.name,
                entry.family,
                Text(entry.units),
                "large" if entry.orientation > 0 else "small",
                ", ".join(name for name, held in sets.items() if entry.name in held),
                Text(entry.formula),
            )
        console().print(table, "")
    patterns = Table(box=None, title="with parameters in their names", title_justify="left")
    for title in ("name", "parameters"):
        patterns.add_column(title, no_wrap=title == "name")
    for pattern in PATTERNS:
        patterns.add_row(Text(pattern.text), Text(pattern.about))
    console().print(patterns)
    return DONE


@command("layouts", "list the layouts of frame folders")
def _layouts(_: argparse.Namespace) -> int:
    from rich.table import Table
    from rich.text import Text

    from ..datasets.layouts import LAYOUTS

    table = Table(box=None)
    for title in ("name", "what", "expected files"):
        table.add_column(title, no_wrap=title == "name")
    for name, layout in LAYOUTS.items():
        table.add_row(name, Text(layout.description), Text(layout.tree))
    console().print(table)
    return DONE
