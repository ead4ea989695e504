"""Commands that run over frames: demo, compute, stream, import, submit."""

from __future__ import annotations

import argparse
import sys
import time
from functools import partial
from pathlib import Path
from typing import Any

from ..schema.errors import SettingsError
from ..schema.tasks import TASKS
from . import options
from .command import command
from .data import opened_frames, part_of
from .given import network, networks, passes, run_settings, running
from .values import DONE, SKIPPED, console, overlap, size_on_disk, tile


def _demo_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--out",
        type=Path,
        metavar="DIR",
        help="cache of the convolutional network; that of the query network lies beside it, DIR-queries "
        "(default: runs/demo-VERSION, runs/demo-queries-VERSION)",
    )


@command(
    "demo", "compute the embedded demo with two networks and show them in the dashboard", _demo_options, options.serving
)
def _demo(arguments: argparse.Namespace) -> int:
    from ..datasets.catalog import data_path
    from ..datasets.frames import open_frames
    from ..explorer.origins import origin_hosts, path_prefix, usable_port
    from ..networks.load import load_model
    from ..run.compute import compute_report
    from ..run.settings import Settings
    from ..schema.frame import SCHEMA_VERSION
    from .look import explore

    # told before minutes of work
    usable_port(arguments.port), origin_hosts(arguments.allow_origin), path_prefix(arguments.prefix)
    frames = open_frames(data_path("demo"), "folder")
    arguments.cache = {}
    for name, scores in (("demo", "default"), ("demo-queries", "queries")):
        started = time.perf_counter()
        network = load_model(name)
        # a cache of an earlier version's network or layout is left alone rather than refused
        out = Path(f"runs/{name}-{SCHEMA_VERSION}-{network.weights_digest()[:8]}")
        if arguments.out is not None:
            out = Path(f"{arguments.out}{name.removeprefix('demo')}")
        report = compute_report(network, frames, out, Settings(scores=scores))
        print(f"{name}: {len(report.computed)} frames computed, {len(report.existing)} taken from {out}", end="; ")
        print(f"{time.perf_counter() - started:.1f} s", flush=True)
        arguments.cache[name] = out
    return explore(arguments)


def _compute_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--tile",
        type=tile,
        metavar="auto|HxW|N",
        help="show the network windows of this size, which overlap, --batch at a time, and merge what it says of them; "
        "auto: of images beyond 8 megapixels alone, at their own scale, while smaller ones are resized to what the "
        "network asks for",
    )
    parser.add_argument(
        "--overlap",
        type=overlap,
        default=0.25,
        metavar="SHARE|N",
        help="how far windows overlap: a share of their size, or pixels (default: %(default)s)",
    )
    parser.add_argument("--bias", action="store_true", help="include the head's bias in gradient norms")
    parser.add_argument("--compile", action="store_true", help="compile the network (torch.compile)")
    parser.add_argument("--channels-last", action="store_true", help="lay out images and weights channels last")
    parser.add_argument("--profile", action="store_true", help="say where the time went, and what each score costs")
    parser.add_argument("--fit", type=Path, metavar="FIT", help="what 'gradunc fit' wrote, for scores that need it")


@command(
    "compute",
    "score a folder of frames with a network and cache the result",
    options.network_or_logits,
    options.saved_features,
    options.frames,
    options.scores_to_compute,
    options.running,
    options.passes,
    options.batch,
    _compute_options,
    partial(options.film, name="--film"),
    options.quiet,
)
def _compute(arguments: argparse.Namespace) -> int:
    from ..datasets.layouts import EVERY, LAYOUTS
    from ..deploy.film import check_film
    from ..run.compute import compute_report
    from ..run.settings import Settings

    shown = _checked_film(arguments)
    frames = opened_frames(arguments)
    if arguments.film is not None:
        check_film(arguments.film, (arguments.data, *(file for frame in frames.whole for file in frame.sources)))
    settings = Settings(
        scores=arguments.scores,
        batch=arguments.batch,
        tile=arguments.tile,
        overlap=arguments.overlap,
        bias=arguments.bias,
        compile=arguments.compile,
        channels_last=arguments.channels_last,
        profile=arguments.profile,
        fit=arguments.fit,
        images=not arguments.no_images,
        **passes(arguments),
        **running(arguments),
    )
    report = compute_report(networks(arguments), frames, arguments.out, settings, progress=not arguments.quiet)
    if arguments.profile and report.computed:
        _print_stages(report)
        _print_cost(arguments.out)
    code = _print_report(report, arguments.out)
    if arguments.images is None and LAYOUTS.find(arguments.layout).split == EVERY:
        _print_sets(arguments.out)
    if arguments.film is not None:
        _write_film(arguments, frames, shown)
    return code


def _checked_film(arguments: argparse.Namespace) -> str | None:
    """The score to be shown in a film, before anything is computed for it."""
    from ..deploy.film import check_film
    from ..schema.scores import lookup, resolve_scores

    if arguments.film is None:
        for name in ("show", "range", "fps"):
            if getattr(arguments, name) is not None:
                raise SettingsError(f"--{name} is of a film, but none is to be written")
        return None
    check_film(arguments.film)
    scores = resolve_scores(arguments.scores)
    shown = scores[0] if arguments.show is None else lookup(arguments.show).name
    if shown not in scores:
        raise SettingsError(f"--show {arguments.show}: not among the scores to be computed, {', '.join(scores)}")
    return shown


def _rate(arguments: argparse.Namespace, of_source: float | None) -> float:
    """Frames per second of a film."""
    return arguments.fps or (of_source / arguments.every if of_source else 10)


def _write_film(arguments: argparse.Namespace, frames: Any, score: str | None) -> None:
    from ..exchange.film import write_film
    from ..store.cache import open_cache

    video = getattr(frames[0].image_path, "video", None)
    film = write_film(
        open_cache(arguments.out),
        frames[: arguments.limit],
        arguments.film,
        score,
        rate=_rate(arguments, None if video is None else video.rate),
        limits=arguments.range,
        progress=not arguments.quiet,
    )
    _print_film(film, score)


def _print_film(film: Any, score: str | None) -> None:
    low, high = film.limits
    print(f"{film.path}: {film.count} frames with {score} from {low:.4g} (dark) to {high:.4g} (bright)")


def _print_sets(out: Path) -> None:
    """A table with a column for each set of a cache."""
    from ..metrics import evaluate
    from ..store.cache import open_cache
    from ..tables.evaluation import terminal_tables

    cache = open_cache(out)
    if len(cache.sets) > 1 and any(TASKS["anomaly"].counted(cache.summary)):
        terminal = console()
        (table, *_) = terminal_tables(evaluate(cache, "anomaly", by="set", bootstrap=0), width=0)
        terminal.print(table)
        print(f"other metrics, and intervals: gradunc evaluate {out} --by set")


def _print_stages(report: Any) -> None:
    from rich.table import Table

    from ..run.stages import STAGES

    title = f"{report.seconds:.1f} s for {len(report.computed)} frames; stages run side by side"
    table = Table(box=None, title=title, title_justify="left")
    for name in ("stage", "ms per frame", "share of the run", "what"):
        table.add_column(name, justify="left" if name in ("stage", "what") else "right", no_wrap=name != "what")
    for name, stage in report.stages.items():
        per_frame = 1e3 * stage.seconds / len(report.computed)
        table.add_row(name, f"{per_frame:.1f}", f"{stage.seconds / report.seconds:.0%}", STAGES[name])
    console().print(table)


def _print_cost(out: Path) -> None:
    from ..store.cost import cost
    from ..tables.cost import cost_table

    print(f"\n{cost_table(cost(out))}\n")


def _stream_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "source",
        type=Path,
        metavar="SOURCE",
        help="folder of images, pattern of their paths (frame_%%05d.png), GIF, TIFF or video",
    )
    options.part(parser)


@command(
    "stream",
    "time a video or an image sequence with and without scores, and show it",
    _stream_options,
    options.network,
    options.scores_to_compute,
    options.running,
    partial(options.film, name="--out"),
    options.quiet,
)
def _stream(arguments: argparse.Namespace) -> int:
    from contextlib import ExitStack

    from ..deploy.film import Film, check_film
    from ..deploy.stream import Stream, stream
    from ..networks.runner import Inference
    from ..run.classes import known_class_table
    from ..run.settings import Settings, resolve_device
    from ..schema.scores import resolve_scores
    from ..store.progress import counted

    shown = _checked_film(arguments)
    scores = resolve_scores(arguments.scores)
    source = Stream(arguments.source)
    if arguments.film is not None:
        check_film(arguments.film, source.files)
    chosen = part_of(arguments, source.count, source.seconds)[: arguments.limit]
    device = resolve_device(arguments.device)
    runner = Inference(network(arguments), device, autocast=arguments.autocast, input_size=arguments.input_size)

    def images(more: Any) -> Any:
        for image in source.images(chosen):
            yield image
            more()

    with ExitStack() as stack:
        film = None
        if arguments.film is not None:
            colors = known_class_table(runner, (), Settings(input_size=arguments.input_size)).colors
            film = Film(arguments.film, _rate(arguments, source.rate), colors, shown or "", arguments.range)
            stack.enter_context(film)
        with counted(len(chosen), f"streaming on {device}", shown=not arguments.quiet) as more:
            report = stream(runner, images(more), scores, film=film, shown=shown, numbers=chosen)
        scored, bare = report.rates()
        count, of = len(report.with_scores), f"with {len(scores)} scores"
        # before the film ends, which may fail
        print(f"{count} frames: {scored:.2f} frames/s {of}, {bare:.2f} without ({scored / bare:.0%})")
    if film is not None and film.written:
        _print_film(film, shown)
    if report.stopped is not None:
        raise report.stopped
    return DONE


def _print_report(report: Any, out: Path) -> int:
    from ..run.report import cautions, contents
    from ..store.cache import open_cache

    done = len(report.computed)
    rate = f" in {report.seconds:.1f} s ({done / report.seconds:.2f} frames/s)" if done and report.seconds else ""
    already = f", {len(report.existing)} were there already" if report.existing else ""
    summary = open_cache(out).summary
    print(f"{out}: computed {done} frames on {report.device}{rate}{already}; {size_on_disk(out)}")
    print("; ".join([contents(summary), *report.remarks]))
    for caution in cautions(summary):
        print(f"gradunc: warning: {caution}", file=sys.stderr)
    for frame_id, message in report.skipped:
        print(f"skipped {frame_id}: {' '.join(message.split())}", file=sys.stderr)
    if report.skipped:
        print(f"{len(report.skipped)} frames were skipped", file=sys.stderr)
        return SKIPPED
    print(f"look at it with: gradunc explore {out}")
    return DONE


def _import_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "maps",
        type=Path,
        nargs="+",
        metavar="MAPS",
        help="folder of FRAME_ID.npy, .npz, .hdf5, .h5, .tif or .tiff; each is a score of the cache, beside those that "
        "are there already",
    )
    parser.add_argument(
        "--name",
        type=lambda text: text.split(","),
        metavar="NAME,..",
        help="the score is called ext:NAME, one for each folder (default: the folder's name)",
    )
    parser.add_argument(
        "--smaller-is-uncertain", action="store_true", help="small values mean uncertain; turns the sign"
    )
    parser.add_argument(
        "--predictions", type=Path, metavar="DIR", help="folder of FRAME_ID.png with class ids, for the task error"
    )


@command(
    "import",
    "make a cache of score maps that others computed",
    _import_options,
    options.frames,
    options.limit,
    options.quiet,
)
def _import(arguments: argparse.Namespace) -> int:
    from ..exchange.imports import ImportSettings, import_maps_report

    frames = opened_frames(arguments)
    maps = arguments.maps
    if arguments.name is not None:
        if len(set(arguments.name)) != len(maps):
            given = ",".join(arguments.name)
            raise SettingsError(f"--name is {given!r}; expected a name for each of the folders, {len(maps)} in all")
        maps = dict(zip(arguments.name, maps, strict=True))
    settings = ImportSettings(
        orientation=-1 if arguments.smaller_is_uncertain else +1,
        predictions=arguments.predictions,
        images=not arguments.no_images,
        **run_settings(arguments),
    )
    report = import_maps_report(maps, frames, arguments.out, settings, progress=not arguments.quiet)
    if report.resized:
        print(f"{len(report.resized)} maps were resized to their image (bilinear), such as {report.resized[0]}")
    if report.unused:
        print(f"{len(report.unused)} maps belong to no frame, such as {report.unused[0]}", file=sys.stderr)
    return _print_report(report, arguments.out)


def _submit_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--score", required=True, metavar="NAME", help="see 'gradunc scores'")
    parser.add_argument(
        "--out", required=True, type=Path, metavar="DIR", help="such as outputs/anomaly_p/METHOD/AnomalyTrack-all"
    )


@command(
    "submit",
    "write a score in the form of a SegmentMeIfYouCan submission",
    options.cache,
    _submit_options,
    options.score_files,
    options.quiet,
)
def _submit(arguments: argparse.Namespace) -> int:
    from ..exchange.submission import write_submission

    files = write_submission(arguments.cache, arguments.score, arguments.out, progress=not arguments.quiet)
    print(f"{arguments.out}: wrote {arguments.score} of {len(files)} frames; {size_on_disk(arguments.out)}")
    return DONE
