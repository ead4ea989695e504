"""Commands about sets of frames: data check, data list, data fetch."""

from __future__ import annotations

import argparse
import sys
import warnings
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ..schema.errors import GraduncError
from . import options
from .command import command
from .values import DONE, ERROR, console

__all__ = ["opened_frames", "part_of"]

_BAR = 40  # characters of the longest bar
_BROKEN = 10  # files that cannot be read which are named


def opened_frames(arguments: argparse.Namespace) -> Any:
    """The frames that the options of a command say."""
    from ..datasets.check import readable_fit
    from ..datasets.frames import open_frames
    from ..datasets.layouts import pattern_layout

    mapping, pattern = _mappings_and_patterns(arguments)
    layout: Any = arguments.layout
    if arguments.images is not None:
        if layout not in (None, "folder"):
            raise GraduncError(f"--layout {layout} beside --images: expected one or the other")
        layout = pattern_layout(arguments.images, **pattern, ignore=arguments.ignore_mask, region=arguments.region)
    said: dict[str, Any] = {"anomaly_ids": arguments.anomaly_ids, "reduce_zero_label": arguments.reduce_zero_label}
    said |= mapping
    if layout is None:
        fit = readable_fit(arguments.data, _fits(arguments.data), **said)
        layout, arguments.split = fit.layout, arguments.split or fit.split
    frames = open_frames(arguments.data, layout, **said, split=arguments.split)
    first = getattr(frames[0].image_path, "video", None) if len(frames) else None
    chosen = part_of(arguments, len(frames), None if first is None else first.seconds)
    return frames[chosen.start : chosen.stop : chosen.step]


def part_of(arguments: argparse.Namespace, count: int, seconds: Any = None) -> range:
    """Numbers of the frames that --start, --stop and --every leave of so many, of which a video says when each is."""
    ends: list[int] = []
    for name, default in (("start", 0), ("stop", count)):
        given = getattr(arguments, name)
        if isinstance(given, float):
            if seconds is None:
                raise GraduncError(
                    f"--{name} {given:g}s: only frames of a video have a time; expected a number of frames"
                )
            given = int((seconds < given).sum())
        ends.append(default if given is None else min(given, count))
    chosen = range(ends[0], ends[1], arguments.every)
    if count and not chosen:
        length = "" if seconds is None else f", {seconds[-1]:.2f} s"
        raise GraduncError(f"--start and --stop leave none of {count} frames (0 to {count - 1}{length})")
    return chosen


def _mappings_and_patterns(arguments: argparse.Namespace) -> tuple[dict[str, Path], dict[str, str]]:
    """What --labels and --anomalies hold of either kind."""
    mapping: dict[str, Path] = {}
    pattern: dict[str, str] = {}
    for name in ("labels", "anomalies"):
        for given in getattr(arguments, name):
            kind: dict[str, Any] = pattern if isinstance(given, str) else mapping
            if name in kind:
                raise GraduncError(f"--{name} {kind[name]} and {given}: expected one file of a mapping and one pattern")
            kind[name] = given
    if arguments.images is None:
        others = {**pattern, "ignore-mask": arguments.ignore_mask, "region": arguments.region}
        for name, text in others.items():
            if text is not None:
                raise GraduncError(f"--{name} {text}: a pattern of masks, expected --images with the pattern of images")
    return mapping, pattern


def _fits(folder: Path) -> Sequence[Any]:
    """Layouts that a folder is arranged like, or that a file is a set of."""
    from ..datasets.fits import Fit, fitting_layouts, misfit
    from ..datasets.layouts import LAYOUTS
    from ..datasets.layouts.layout import entries

    if not folder.is_dir():
        taking = [Fit(name, None, 0, 0) for name, layout in LAYOUTS.items() if layout.takes(folder)]
        if taking:
            return taking
        problem = "is a file" if folder.exists() else "does not exist"
        raise GraduncError(f"{folder}: {problem}, expected a folder of frames")
    fits = fitting_layouts(folder)
    if not any(fit.masks for fit in fits) and (error := misfit(folder)) is not None:
        raise error
    if fits:
        return fits
    for below in sorted(path for path in folder.iterdir() if path.is_dir()):
        if inside := fitting_layouts(below):
            raise GraduncError(
                f"{folder}: no layout finds frames here, but {inside[0].layout!r} in the folder in it: "
                f"gradunc data check {below}"
            )
    raise GraduncError(
        f"{folder}: no layout finds frames here; found {entries(folder)}; see 'gradunc layouts', or say where files "
        "are: --images 'a/*/x_{id}.tif' --labels ..."
    )


def _check_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("data", type=Path, metavar="DIR", help="folder of frames, video or table of paths")
    options.arrangement(parser)
    options.classes(parser)
    options.quiet(parser)


def _check(arguments: argparse.Namespace) -> int:
    from ..datasets.check import check_set
    from ..datasets.class_files import find_classes
    from ..datasets.fits import fitting_layouts
    from ..schema.frame import set_of
    from ..store.progress import followed, progress_bar

    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        frames = opened_frames(arguments)
    classes = frames.classes if arguments.classes is None else find_classes(arguments.classes).names
    colors = frames.colors if arguments.classes is None else find_classes(arguments.classes).colors
    said = [str(warning.message) for warning in caught]
    with progress_bar(not arguments.quiet):
        check = check_set(frames, said, None if classes is None else len(classes), followed)
    split = f", split {arguments.split}" if arguments.split else ""
    print(f"{frames.path}: layout {frames.layout}{split}; {len(frames)} frames, {frames.ids[0]} .. {frames.ids[-1]}")
    fits = fitting_layouts(frames.path) if frames.path.is_dir() else []
    others = [fit for fit in fits if fit.layout != frames.layout]
    if others and arguments.images is None:
        print("it may be read as " + ", or as ".join(f"{fit.options} ({fit.masks} masks)" for fit in others))
    sets = Counter(set_of(id) for id in frames.ids)
    if len(sets) > 1:
        print(f"sets: {', '.join(f'{name} ({count})' for name, count in sets.items())}")
    sizes = ", ".join(f"{height} x {width} ({count})" for (height, width), count in check.sizes.most_common(6))
    print(f"sizes: {sizes}{', ...' if len(check.sizes) > 6 else ''}")
    print(f"masks: {check.labelled} frames with labels, {check.with_anomalies} with anomalies")
    if check.labels:
        _print_histogram("class labels", check.labels, classes, colors)
    if check.anomalies:
        _print_histogram("anomaly masks", check.anomalies, ("known", "unknown object"), ((70, 130, 180), (214, 39, 40)))
    for finding in check.findings:
        print(f"! {finding.problem}\n    {finding.remedy}")
    for message in check.broken[:_BROKEN]:
        print(f"x {message}")
    if check.broken:
        more = f", of which {_BROKEN} are shown" if len(check.broken) > _BROKEN else ""
        print(
            f"{len(check.broken)} of {len(frames)} frames cannot be read{more}: mend them, map their ids (--labels, "
            "--anomalies FILE) or leave them out (--on-error skip)"
        )
        return ERROR
    if not check.findings:
        print("nothing odd found")
    return DONE


def _print_histogram(title: str, pixels: Counter[int | None], names: Any, colors: Any) -> None:
    """Pixels of each id as a bar in its colour."""
    from rich.table import Table
    from rich.text import Text

    from ..style.palette import class_colors

    ids = sorted(id for id in pixels if id is not None)
    shown = [*(colors or ()), *class_colors(max(ids, default=0) + 1)[len(colors or ()) :]]
    whole, most = pixels.total(), max(pixels.values())
    table = Table(box=None, title=f"{title}, {whole:,} pixels", title_justify="left")
    for column in ("id", "name", "%", ""):
        table.add_column(column, justify="right" if column in ("id", "%") else "left", no_wrap=True)
    for id in [*ids, *([None] if None in pixels else [])]:
        name = "ignored" if id is None else names[id] if names and id < len(names) else ""
        red, green, blue = (128, 128, 128) if id is None else shown[id]
        bar = Text("\u2588" * max(1, round(_BAR * pixels[id] / most)), style=f"rgb({red},{green},{blue})")
        table.add_row("" if id is None else str(id), Text(name), f"{100 * pixels[id] / whole:.2f}", bar)
    console().print(table)


def _list_options(parser: argparse.ArgumentParser) -> None:
    from ..datasets.catalog import catalog

    names = tuple(catalog()["datasets"])
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"of {', '.join(names)} (default: all)")


def _known(names: Sequence[str]) -> dict[str, Any]:
    """Entries of the catalogue, all of them where none is named."""
    from ..datasets.catalog import catalog

    known = catalog()["datasets"]
    for name in names:
        if name not in known:
            raise GraduncError(f"unknown data set {name!r}, expected one of {', '.join(known)}")
    return {name: known[name] for name in names or known}


def _list(arguments: argparse.Namespace) -> int:
    for name, entry in _known(arguments.names).items():
        _print_terms(name, entry)
        for number, step in enumerate(entry["steps"], 1):
            print(f"    {number}. {step}")
        print(f"    then: gradunc data check DIR --layout {entry['layout']}")
        if entry.get("archives"):
            print(f"    or:   gradunc data fetch {name}")
    return DONE


def _print_terms(name: str, entry: Any) -> None:
    print(f"{name}: {entry['name']}")
    for what in ("citation", "licence"):
        print(f"    {what}: {entry[what]}")
    print(f"    source: {entry['url']}")


def _fetch_options(parser: argparse.ArgumentParser) -> None:
    from ..datasets.catalog import catalog

    names = [name for name, entry in catalog()["datasets"].items() if entry.get("archives")]
    parser.add_argument("name", metavar="NAME", help=f"of {', '.join(names)}; others by hand, see 'gradunc data list'")
    parser.add_argument("--out", type=Path, metavar="DIR", help="folder of the set, a new one (default: NAME)")
    parser.add_argument("--accept-licence", action="store_true", help="say yes to its terms without being asked")
    options.quiet(parser)


def _fetch(arguments: argparse.Namespace) -> int:
    from ..datasets.fetch import archive_size, archives_of, fetch, found_in
    from ..store.progress import downloading

    name = arguments.name
    entry = _known([name])[name]
    archives = archives_of(name, entry)
    out = arguments.out or Path(name).absolute()
    _print_terms(name, entry)
    for archive in archives:
        print(f"    {archive.url} ({archive_size(archive.size)}, {archive.checksum or 'no checksum is published'})")
    print(f"    into: {out}", flush=True)
    if not arguments.accept_licence:
        if not sys.stdin.isatty():
            raise GraduncError(f"{name}: its terms ({entry['licence']}) are to be accepted: --accept-licence")
        if input("Do you accept these terms? [y/N] ").strip().lower() not in ("y", "yes"):
            raise GraduncError(f"{name}: its terms were not accepted; nothing was fetched")
    with downloading(not arguments.quiet) as told:
        found = fetch(archives, out, told)
    for file, checksum in found.items():
        print(f"{file}: SHA-256 {checksum}; nobody published one to hold it against")
    place = found_in(out, entry["layout"])
    if place is None:
        steps = "; ".join(entry["steps"])
        print(f"{out}: unpacked, but layout {entry['layout']} finds no frames yet: {steps}", file=sys.stderr)
        return ERROR
    folder, said = place
    print(f"{out}: unpacked; look at it with: gradunc data check {folder} {said}")
    print(f"then: gradunc compute --data {folder} {said} --model ... --out ...")
    return DONE


_ACTIONS = {
    "check": (
        "say what a folder of frames holds, in which layout, and what is odd about it",
        _check_options,
        _check,
    ),
    "list": ("say of every known data set where it is from, its licence, and how to get it", _list_options, _list),
    "fetch": ("download a known data set whose terms allow it, once they are accepted", _fetch_options, _fetch),
}


def _actions(parser: argparse.ArgumentParser) -> None:
    actions = parser.add_subparsers(metavar="ACTION", required=True, parser_class=argparse.ArgumentParser)
    for name, (text, add, act) in _ACTIONS.items():
        action = actions.add_parser(name, help=text, description=f"{text[0].upper()}{text[1:]}.")
        options.debug(action, default=argparse.SUPPRESS)
        add(action)
        action.set_defaults(act=act)


@command("data", "check a folder of frames; list data sets and how to get them; fetch one", _actions)
def _data(arguments: argparse.Namespace) -> int:
    return int(arguments.act(arguments))
