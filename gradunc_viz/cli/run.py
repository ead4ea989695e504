"""Commands that compute: demo, compute, fit, calibrate, compare, stream, import, combine, submit."""

from __future__ import annotations

import argparse
import json
import sys
import time
from pathlib import Path
from typing import Any

from ..schema.errors import SettingsError
from ..schema.tasks import TASKS
from . import options
from .command import command
from .data import opened_frames as _frames
from .values import (
    DONE,
    SKIPPED,
    class_options,
    console,
    natural,
    normalization,
    positive,
    put,
    size_on_disk,
    write_forms,
)


def _network(arguments: argparse.Namespace) -> Any:
    networks = _networks(arguments)
    if len(networks) > 1:
        raise SettingsError(f"{len(networks)} networks were given, {_listed(networks)}; expected one")
    return networks[0]


def _networks(arguments: argparse.Namespace) -> list[Any]:
    """Every model with its weights; one model with several weights is several networks."""
    from ..networks.load import load_model

    models, weights = arguments.model, arguments.weights
    if len(models) == 1:
        models = models * max(1, len(weights))
    elif weights and len(weights) != len(models):
        raise SettingsError(
            f"{len(models)} times --model and {len(weights)} times --weights; expected as many, or one model"
        )
    networks = []
    for model, file in zip(models, weights or [None] * len(models), strict=True):
        network = load_model(
            model,
            file,
            drop_channels=arguments.drop_channels,
            normalize=normalization(arguments),
            channels=arguments.channels,
            head=arguments.head,
            output=arguments.output,
            threshold=arguments.threshold,
        )
        if len(models) > 1 and file is not None:
            network.name = f"{network.name} ({file.name})"
        networks.append(network)
    return networks


def _listed(networks: list[Any]) -> str:
    return ", ".join(network.name for network in networks)


def _run_settings(arguments: argparse.Namespace) -> dict[str, Any]:
    """What every run over frames is asked for."""
    return {
        "on_error": arguments.on_error,
        "limit": arguments.limit,
        "images": not arguments.no_images,
        **class_options(arguments.classes),
    }


def _passes(arguments: argparse.Namespace) -> dict[str, Any]:
    """What of several passes was asked for."""
    given = {
        "passes": arguments.passes,
        "dropout": arguments.dropout_layers,
        "seed": arguments.seed,
        "scales": arguments.scales,
        "flips": False if arguments.no_flips else None,
    }
    return {name: value for name, value in given.items() if value is not None}


def _demo_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--out", type=Path, metavar="DIR", help="cache (default: runs/demo-VERSION)")


@command("demo", "compute the embedded demo and show it in the dashboard", _demo_options, options.serving)
def _demo(arguments: argparse.Namespace) -> int:
    from ..datasets.catalog import data_path
    from ..datasets.frames import open_frames
    from ..networks.load import load_model
    from ..run.compute import compute_report
    from ..schema.frame import SCHEMA_VERSION
    from .look import explore

    started = time.perf_counter()
    network = load_model("demo")
    # a cache of an earlier version's network or layout is left alone rather than refused
    out = arguments.out or Path(f"runs/demo-{SCHEMA_VERSION}-{network.weights_digest()[:8]}")
    report = compute_report(network, open_frames(data_path("demo"), "folder"), out)
    print(f"{len(report.computed)} demo frames computed, {len(report.existing)} taken from {out}", end="; ")
    print(f"{time.perf_counter() - started:.1f} s", flush=True)
    arguments.cache = [out]
    return explore(arguments)


def _compute_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--batch", type=positive, metavar="N", help="frames per forward pass")
    parser.add_argument("--bias", action="store_true", help="include the head's bias in gradient norms")
    parser.add_argument("--compile", action="store_true", help="compile the network (torch.compile)")
    parser.add_argument("--channels-last", action="store_true", help="lay out images and weights channels last")
    parser.add_argument("--profile", action="store_true", help="say where the time went, and what each score costs")
    parser.add_argument("--fit", type=Path, metavar="FIT", help="what 'gradunc fit' wrote, for scores that need it")


@command(
    "compute",
    "score a folder of frames with a network and cache the result",
    options.network,
    options.frames,
    options.scores_to_compute,
    options.running,
    options.passes,
    _compute_options,
    options.quiet,
)
def _compute(arguments: argparse.Namespace) -> int:
    from ..datasets.layouts import EVERY, LAYOUTS
    from ..run.compute import compute_report
    from ..run.settings import Settings

    frames = _frames(arguments)
    settings = Settings(
        scores=arguments.scores,
        input_size=arguments.input_size,
        device=arguments.device,
        batch=arguments.batch,
        bias=arguments.bias,
        compile=arguments.compile,
        channels_last=arguments.channels_last,
        autocast=arguments.autocast,
        profile=arguments.profile,
        **_passes(arguments),
        fit=arguments.fit,
        **_run_settings(arguments),
    )
    report = compute_report(_networks(arguments), frames, arguments.out, settings, progress=not arguments.quiet)
    if arguments.profile and report.computed:
        _print_stages(report)
        _print_cost(arguments.out)
    code = _print_report(report, arguments.out)
    if arguments.images is None and LAYOUTS.find(arguments.layout).split == EVERY:
        _print_sets(arguments.out)
    return code


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


def _fit_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--scores",
        default="fitted",
        metavar="A,B",
        help="names, or 'fitted': all of them (default: %(default)s)",
    )
    parser.add_argument(
        "--out", required=True, type=Path, metavar="FIT", help="safetensors file; an earlier fit there is replaced"
    )
    parser.add_argument(
        "--by",
        choices=("prediction", "label"),
        default="prediction",
        help="what class a pixel counts to (default: %(default)s)",
    )
    parser.add_argument(
        "--features",
        default="head",
        metavar="SOURCE",
        help="'head', or 'layer:NAME' for the output of a layer by its dotted name (default: %(default)s)",
    )
    parser.add_argument("--batch", type=positive, metavar="N", help="frames per forward pass")
    parser.add_argument(
        "--on-error", choices=("stop", "skip"), default="stop", help="what a bad frame does (default: stop)"
    )


@command(
    "fit",
    "fit scores such as vim on in-distribution frames, for 'compute --fit'",
    options.network,
    options.data,
    options.classes,
    _fit_options,
    options.drawing,
    options.running,
    options.score_files,
    options.quiet,
)
def _fit(arguments: argparse.Namespace) -> int:
    from ..run.fit import fit
    from ..schema.errors import FitError
    from ..scores.fit import Fit

    if arguments.out.exists():
        Fit.load(arguments.out)  # anything else that lies there is not written over, which is said before the work
    if not arguments.out.parent.is_dir():
        raise FitError(f"{arguments.out}: there is no folder {arguments.out.parent}; expected one")
    done = fit(
        _network(arguments),
        _frames(arguments),
        pixels=arguments.pixels,
        seed=arguments.seed,
        by=arguments.by,
        features=arguments.features,
        progress=not arguments.quiet,
        scores=arguments.scores,
        input_size=arguments.input_size,
        device=arguments.device,
        autocast=arguments.autocast,
        batch=arguments.batch,
        limit=arguments.limit,
        on_error=arguments.on_error,
        **class_options(arguments.classes),
    )
    done.save(arguments.out)
    told = done.provenance
    print(
        f"{arguments.out}: fitted {', '.join(done.scores)} on {told['pixels']} pixels of {len(told['frames'])} frames, "
        f"by {told['by']}, features of {done.source} ({told['dimensions']})"
    )
    print(f"score other frames with: gradunc compute --fit {arguments.out} --scores {','.join(done.scores)} ...")
    return DONE


def _compare_options(parser: argparse.ArgumentParser) -> None:
    from ..datasets.layouts import LAYOUTS
    from ..metrics.arrays.components import TRACKS

    parser.add_argument("--scores", metavar="A,B", help="names (default: every score that the network allows)")
    parser.add_argument(
        "--out",
        required=True,
        type=Path,
        metavar="DIR",
        help="folder of the table and of a cache for each run, resumed",
    )
    parser.add_argument(
        "--fit-data", type=Path, metavar="DIR", help="in-distribution frames to fit scores such as vim on"
    )
    parser.add_argument(
        "--fit-layout", default="folder", metavar="NAME", help=f"{', '.join(LAYOUTS)} (default: %(default)s)"
    )
    parser.add_argument("--fit-split", metavar="NAME", help="split of these frames")
    parser.add_argument("--task", choices=tuple(TASKS), help="default: anomaly where there are anomaly labels")
    parser.add_argument("--track", choices=tuple(TRACKS), default="anomaly", help="size limits of unknown objects")
    parser.add_argument(
        "--on-error", choices=("stop", "skip"), default="stop", help="what a bad frame does (default: stop)"
    )


@command(
    "compare",
    "compute every score that a network allows, and the table of what they find and cost",
    options.network,
    options.data,
    options.classes,
    _compare_options,
    options.running,
    options.passes,
    options.score_files,
    options.quiet,
)
def _compare(arguments: argparse.Namespace) -> int:
    from ..comparison.compare import compare
    from ..datasets.frames import open_frames
    from ..run.settings import Settings

    fit_on = None
    if arguments.fit_data is not None:
        fit_on = open_frames(arguments.fit_data, arguments.fit_layout, split=arguments.fit_split)
    done = compare(
        _networks(arguments),
        _frames(arguments),
        arguments.out,
        arguments.scores,
        settings=Settings(
            input_size=arguments.input_size,
            device=arguments.device,
            autocast=arguments.autocast,
            on_error=arguments.on_error,
            limit=arguments.limit,
            **_passes(arguments),
            **class_options(arguments.classes),
        ),
        fit_on=fit_on,
        task=arguments.task,
        track=arguments.track,
        progress=not arguments.quiet,
    )
    print(done.table)
    print(f"{arguments.out}: comparison.txt, .md, .tex, .html and .csv")
    return DONE


def _calibrate_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--out", type=Path, metavar="FILE.json", help="write all numbers: xarray.Dataset.from_dict")
    parser.add_argument("--batch", type=positive, metavar="N", help="frames per forward pass")
    parser.add_argument(
        "--on-error", choices=("stop", "skip"), default="stop", help="what a bad frame does (default: stop)"
    )


@command(
    "calibrate",
    "fit a temperature on labelled frames, for scores such as entropy_T1.5",
    options.network,
    options.data,
    options.classes,
    _calibrate_options,
    options.drawing,
    options.running,
    options.quiet,
)
def _calibrate(arguments: argparse.Namespace) -> int:
    from ..run.calibrate import calibrate
    from ..schema.errors import GraduncError

    if arguments.out is not None and not arguments.out.parent.is_dir():  # said before the work
        raise GraduncError(f"{arguments.out}: there is no folder {arguments.out.parent}; expected one")
    found = calibrate(
        _network(arguments),
        _frames(arguments),
        pixels=arguments.pixels,
        seed=arguments.seed,
        progress=not arguments.quiet,
        input_size=arguments.input_size,
        device=arguments.device,
        autocast=arguments.autocast,
        batch=arguments.batch,
        limit=arguments.limit,
        on_error=arguments.on_error,
        **class_options(arguments.classes),
    )
    if arguments.out is not None:
        put(arguments.out, json.dumps(found.to_dict(), indent=1))
    _print_calibration(found)
    temperature, scores = float(found["temperature"]), ", ".join(found.attrs["scores"])
    print(f"temperature {temperature:.4g}: ask for {scores}")
    none, scaled = (float(found["ece"].sel(part="held out", scaling=name)) for name in ("none", "temperature"))
    if scaled > none:
        print(f"on the frames that it was not fitted on the ECE grows by it, from {none:.2%} to {scaled:.2%}")
    print("vector scaling is for comparison: it changes predictions too, and no score takes it")
    return DONE


def _print_calibration(found: Any) -> None:
    from rich.table import Table

    (drawn, judged), (fitted_on, held_out) = found["pixels"].values, found["frames"].values
    title = f"fitted on {drawn} pixels of {fitted_on} frames, judged on {judged} of {held_out} others"
    table = Table(box=None, title=title, title_justify="left")
    table.add_column("scaling")
    for part in found["part"].values:
        for name in ("NLL", "ECE, %", "accuracy, %"):
            table.add_column(f"{name}\n{part}", justify="right", no_wrap=True)
    for scaling in found["scaling"].values:
        cells = []
        for part in found["part"].values:
            one = found.sel(part=part, scaling=scaling)
            cells += [f"{float(one['nll']):.4f}", f"{float(one['ece']):.2%}"[:-1], f"{float(one['accuracy']):.2%}"[:-1]]
        table.add_row(str(scaling), *cells)
    console().print(table)


def _print_cost(out: Path) -> None:
    from ..store.cost import cost
    from ..tables.cost import cost_table

    print(f"\n{cost_table(cost(out))}\n")


def _stream_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("source", type=Path, metavar="SOURCE", help="folder of images, GIF, TIFF or video")


@command(
    "stream",
    "time a video or an image sequence with and without scores",
    _stream_options,
    options.network,
    options.scores_to_compute,
    options.running,
)
def _stream(arguments: argparse.Namespace) -> int:
    from itertools import islice

    from ..deploy.stream import read_stream, stream
    from ..networks.runner import Inference
    from ..run.settings import resolve_device
    from ..schema.scores import resolve_scores

    scores = resolve_scores(arguments.scores)
    device = resolve_device(arguments.device)
    runner = Inference(_network(arguments), device, autocast=arguments.autocast, input_size=arguments.input_size)
    report = stream(runner, islice(read_stream(arguments.source), arguments.limit), scores)
    scored, bare = report.rates()
    count = len(report.with_scores)
    print(f"{count} frames: {scored:.2f} frames/s with {len(scores)} scores, {bare:.2f} without ({scored / bare:.0%})")
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

    frames = _frames(arguments)
    maps = arguments.maps
    if arguments.name is not None:
        if len(set(arguments.name)) != len(maps):
            given = ",".join(arguments.name)
            raise SettingsError(f"--name is {given!r}; expected a name for each of the folders, {len(maps)} in all")
        maps = dict(zip(arguments.name, maps, strict=True))
    settings = ImportSettings(
        orientation=-1 if arguments.smaller_is_uncertain else +1,
        predictions=arguments.predictions,
        **_run_settings(arguments),
    )
    report = import_maps_report(maps, frames, arguments.out, settings, progress=not arguments.quiet)
    if report.resized:
        print(f"{len(report.resized)} maps were resized to their image (bilinear), such as {report.resized[0]}")
    if report.unused and arguments.limit is None:
        print(f"{len(report.unused)} maps belong to no frame, such as {report.unused[0]}", file=sys.stderr)
    return _print_report(report, arguments.out)


def _combine_options(parser: argparse.ArgumentParser) -> None:
    from ..schema.entries.combined import HOW
    from ..schema.tasks import TASKS

    parser.add_argument(
        "--scores",
        default="entropy,pgn_oh_p2",
        metavar="A,B",
        help="two or more scores of the cache; what is made of them is compared with the first (default: %(default)s)",
    )
    parser.add_argument("--how", choices=tuple(HOW), default="rank", help="mean of ranks, or logistic regression")
    parser.add_argument("--task", choices=tuple(TASKS), help="default: anomaly where there are anomaly labels")
    parser.add_argument(
        "--folds", type=positive, default=5, metavar="N", help="a frame is combined by what was fitted on other folds"
    )
    parser.add_argument("--seed", type=natural, default=0, metavar="N", help="of the folds and of drawing pixels")
    parser.add_argument(
        "--pixels", type=positive, default=100_000, metavar="N", help="that are drawn for a logistic regression"
    )
    parser.add_argument("--name", metavar="NAME", help="of the new score (default: such as rank:A+B)")
    options.table_forms(parser)


@command(
    "combine",
    "add a score to a cache that is made of others, and say whether that helps",
    options.cache,
    _combine_options,
    options.score_files,
    options.quiet,
)
def _combine(arguments: argparse.Namespace) -> int:
    from ..metrics.paired import paired_difference
    from ..run.combine import combine
    from ..schema.entries.combined import combined_score
    from ..schema.scores import split_names
    from ..store.choice import Selection
    from ..tables.paired import paired_records, paired_sentences, paired_table

    before = split_names(arguments.scores)
    cache = combine(
        arguments.cache,
        before,
        arguments.how,
        folds=arguments.folds,
        seed=arguments.seed,
        task=arguments.task,
        pixels=arguments.pixels,
        name=arguments.name,
        progress=not arguments.quiet,
    )
    made = arguments.name or combined_score(arguments.how, before).name
    print(f"{arguments.cache}: holds {made} of {len(cache)} frames", file=sys.stderr)
    if not Selection.of(cache, arguments.task).labelled:
        return DONE
    result = paired_difference(cache, before[0], arguments.task, scores=[made, *before])
    table = paired_table(result)
    if not write_forms(arguments, table, lambda: paired_records(result)):
        print(table)
        print("\n".join(paired_sentences(result, [made])))
    return DONE


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
