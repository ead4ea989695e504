"""Texts of the page as HTML, which templates make: what comes from data is escaped by them."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import PurePath

from ..metrics.operating_point import ThresholdCounts
from ..schema.entries.passes import KINDS, PassesScore
from ..schema.scores import BUILT_IN, SCORES, GradientNorm, GradientScore, Score, lookup
from ..schema.tasks import TASKS
from ..style.palette import ANOMALY, FALSE_ALARM, GREY, MISSED, THRESHOLD, text_color
from ..style.scores import by_family, units_text
from .markup import Markup, render
from .state.frame_store import FrameData
from .state.pane import Pane

__all__ = [
    "annotation_note",
    "bar_title",
    "class_legend",
    "difference_note",
    "empty_cache",
    "error_note",
    "fact_cells",
    "frame_caption",
    "help_text",
    "label",
    "left_out",
    "listing",
    "message",
    "no_labels",
    "note",
    "number_units",
    "overlay_note",
    "page_header",
    "pane_note",
    "percent",
    "plain_note",
    "problem_lines",
    "readout",
    "score_axis",
    "score_groups",
    "score_help",
    "score_note",
    "spinner",
    "strong",
    "threshold_title",
    "title",
    "working",
]

_LABELS = {"oh": "one-hot", "uni": "uniform", "exp": "expected"}
_AGAINST = {"oh": "the prediction", "uni": "the uniform label", "exp": "a label drawn from the prediction"}


def score_groups(names: Sequence[str]) -> dict[str, dict[str, str]]:
    """Options of the score selector by family: name by a title that tells units and kind."""
    return {family: {_option(name): name for name in own} for family, own in by_family(names).items()}


def _option(name: str) -> str:
    entry = lookup(name)
    if isinstance(entry, GradientNorm):
        kind = f"{_LABELS[entry.label]} gradient norm, p = {entry.p}"
        kind += ", paper's formula" if entry.variant == "paper" else ""
    else:
        kind = "" if entry.family in ("combined", "external") else _about(entry)
    return f"{name} [{units_text(name)}] {kind}".rstrip()


def score_help(name: str) -> Markup:
    """Describe formula, units and orientation of a score."""
    entry = lookup(name)
    return render(
        "<div class='note'>{% if formula %}<code>{{ formula }}</code><br>{% endif %}Units: {{ units }}. "
        "Larger = more uncertain.{{ turned }}</div>",
        formula=entry.formula,
        units=units_text(name),
        turned="" if entry.orientation > 0 else " Shown with its sign turned.",
    )


def page_header(title: str, names: Sequence[str], network: str, frames: int) -> Markup:
    """Title, caches, network and number of frames."""
    # of FILE.py:FUNCTION the folder says little; an ensemble names each of its members
    members = [PurePath(member).name if ".py:" in member else member for member in network.split(" + ")]
    network = " + ".join(members)
    return render(
        "<div class='header'><h1>{{ title }}</h1><span><b>{{ names | join(', ') }}</b></span>"
        "<span>network <b>{{ network }}</b></span><span>{{ count }}</span></div>",
        title=title,
        names=names,
        network=network,
        count=f"{frames:,} frame" + ("" if frames == 1 else "s"),
    )


def frame_caption(frame: FrameData | None, place: str = "") -> Markup:
    """Id, size and place in the list of the shown frame."""
    return render(
        "<div class='caption'>{% if frame %}<b>{{ frame.id }}</b> "
        "<span>{{ frame.size[1] }} × {{ frame.size[0] }} px {{ place }}</span>"
        "{% else %}No frame shown{% endif %}</div>",
        frame=frame,
        place=place,
    )


def class_legend(classes: Sequence[str], colors: Sequence[tuple[int, int, int]], present: Sequence[int]) -> Markup:
    """Names of all classes on their colours; those that are not in the frame are faded."""
    chips = [
        {"name": name, "absent": number not in present, "back": f"rgb{tuple(color)}", "ink": text_color(color)}
        for number, (name, color) in enumerate(zip(classes, colors, strict=True))
    ]
    return render(
        "<div class='legend'><span class='muted'>Classes (faded: not predicted here)</span>"
        "{% for chip in chips %}<span class='chip{{ ' absent' if chip.absent }}' "
        "style='background:{{ chip.back }};color:{{ chip.ink }}'>{{ chip.name }}</span>{% endfor %}</div>",
        chips=chips,
    )


# --------------------------------------------------------------------------------------------------------------------
# panes


def _swatch(color: str, words: str) -> Markup:
    return render("<span class='swatch' style='background:{{ color }}'></span>{{ words }}", color=color, words=words)


_IGNORED = Markup("<span class='swatch hatched'></span>ignored")


def _note(*parts: str, full: str = "") -> Markup:
    return render(
        "<div class='pane-note'{% if full %} title='{{ full }}'{% endif %}>{{ parts | join(' ') }}</div>",
        parts=parts,
        full=full,
    )


def plain_note(words: str) -> Markup:
    """What a pane shows, in words."""
    return _note(words, full=words)


def pane_note(problem: str) -> Markup:
    """Why a pane shows nothing, or not all."""
    return _note(strong(problem), full=problem) if problem else _note()


def overlay_note(overlay: str, score: str, task: str) -> Markup:
    """Explain the mask over an image."""
    truth = TASKS[task].choice
    if overlay == "found":
        return _note(_swatch(THRESHOLD, f"{score} at or above the threshold"))
    if overlay == "outcomes":
        parts = (THRESHOLD, f"{truth} found"), (FALSE_ALARM, "false alarms"), (MISSED, f"{truth} missed")
        return _note(*(_swatch(color, words) for color, words in parts))
    return plain_note("the frame as the network saw it")


def annotation_note(tasks: Sequence[str]) -> Markup:
    """Explain what the annotation pane shows of a frame with labels for `tasks`."""
    parts = ["true classes" if "error" in tasks else _swatch(GREY, "known")]
    if "anomaly" in tasks:
        parts.append(_swatch(ANOMALY, TASKS["anomaly"].one))
    return _note(*parts, _IGNORED)


def error_note() -> Markup:
    """Explain the error map."""
    return _note(_swatch(GREY, "predicted right"), _swatch(ANOMALY, "wrong"), _IGNORED)


_ABOUT = {
    "msp": "1 − largest class probability",
    "entropy": "entropy of the class probabilities",
    "margin": "1 − gap between the two largest probabilities",
    "energy": "free energy of the logits",
    "max_logit": "largest logit",
    "gen": "generalised entropy",
    "kl_uniform": "divergence of the uniform distribution from the softmax",
    "void": "probability of the channels that are no class",
    "knn": "distance to a near neighbour",
    "mahalanobis": "Mahalanobis distance to the nearest class",
    "neco": "share of the features in the principal subspace, negated",
    "sml": "standardised largest logit, negated",
    "sml_bs": "standardised largest logit, negated, boundaries suppressed",
    "sml_ds": "standardised largest logit, negated, smoothed",
    "sml_bs_ds": "standardised largest logit, negated, boundaries suppressed, smoothed",
    "vim": "ViM, residual of the features and energy",
    "gradorth": "GradOrth, gradient norm in the principal subspace",
    "max_mask": "1 − largest class score of the queries",
    "rba": "RbA, rejected by all queries",
    "neg_sum": "sum of the class scores of the queries, negated",
    "mask_energy": "free energy of the class scores of the queries",
    "eam": "EAM, 1 − sum of the surest masks",
}

_OF_LAYERS: Mapping[int | str, str] = {
    2: "second-to-last layer's gradient norm",
    "embedding": "mask embedding's gradient norm",
    "decoder": "pixel decoder's gradient norm",
}

_FORMULA = re.compile(r"\$[^$]*\$")


def _about(entry: Score) -> str:
    """What a score is, in a few words."""
    turned = ", negated" if entry.orientation < 0 else ""
    if isinstance(entry, GradientNorm):
        return f"gradient norm against {_AGAINST[entry.label]}{turned}"
    if isinstance(entry, GradientScore) and entry.name not in SCORES:
        against = f"against {_AGAINST[entry.request.label]}" if entry.request.label else "of gradient norms"
        part = "gradient norm" if entry.request.part == "norm" else f"{entry.request.part} part"
        what = _OF_LAYERS.get(entry.request.layer, part)
        return f"{what} {against}{turned}"
    if isinstance(entry, PassesScore):
        return f"{entry.statistic.replace('_', ' ')} of {KINDS[entry.kind]}"
    if entry.family == "external":
        return "imported map"
    if entry.name not in SCORES and entry.parameters:  # of a known one
        parameters = ", ".join(f"{name} = {value}" for name, value in entry.parameters.items())
        known = lookup(entry.name.partition("_")[0])
        return f"{_about(known).removesuffix(turned)}, {parameters}{turned}"
    # a title with a formula in it is for figures
    words = _FORMULA.sub("", entry.title).strip()
    found = _ABOUT.get(entry.name) if entry.name in BUILT_IN else ""
    return f"{found or words or entry.formula or entry.name}{turned}"


def score_note(name: str) -> Markup:
    """Say in a few words what a score is."""
    entry = lookup(name)
    # first what has to be seen where the pane is narrow
    return _note(f"bright = uncertain: {_about(entry)}", full=f"{entry.formula or name}; larger = more uncertain")


def difference_note(pane: Pane, several: bool) -> Markup:
    """Explain a difference map."""
    assert pane.minus is not None
    where = "the first is higher in its frame's ranking" if pane.by_rank else "the first is larger"
    return _note(f"orange: {where}, violet: the second", full=f"{pane.title(several)}; orange: {where}")


def no_labels(task: str) -> str:
    """Say that a frame cannot be judged."""
    return f"this frame has no {TASKS[task].needs}"


_BAR_LETTERS = 29
"""Characters that are as wide as a colour bar."""


def shortened(words: str, letters: int) -> str:
    """Words that end in dots where they are longer than that."""
    return words if len(words) <= letters else words[: letters - 1] + "…"


def bar_title(name: str, norms: str) -> str:
    """Title of the colour bar of a score."""
    entry = lookup(name)
    if entry.is_log2 and norms == "linear":
        return f"{'−' if entry.orientation < 0 else ''}norm, linear"
    units = f" [{units_text(name)}]"
    # the chooser above the map tells the whole name
    return f"{shortened(name, max(_BAR_LETTERS - len(units), 8))}{units}"


def threshold_title(name: str) -> str:
    """Title of the slider that thresholds a score."""
    return f"Threshold on {name} [{units_text(name)}]"


_AXIS_LETTERS = 30
"""Characters of a score that leave room for more on an axis of a narrow chart."""


def score_axis(name: str) -> str:
    """Label of an axis along a score."""
    what = f"{name} [{units_text(name)}],"
    return f"{what}{chr(10) if len(what) > _AXIS_LETTERS else ' '}larger = more uncertain"


# --------------------------------------------------------------------------------------------------------------------
# numbers


def percent(share: float) -> str:
    """A share in percent, a dash where there is none."""
    return "–" if share != share else f"{share:.1%}"


_READOUT = """
{%- macro cell(value, key, meaning) -%}
<div class='cell'><div class='big'>{{ value }}</div>
<div>{% if key %}<b>{{ key }}</b> {% endif %}{{ meaning }}</div></div>
{%- endmacro -%}
<div class='readout'>
<div class='cell'><div class='big'>{{ threshold }} <small>{{ units }}</small></div><div>threshold</div></div>
{%- if above %}{{ cell(above, "", "of pixels at or above") }}{% endif %}
{%- if remark %}<div class='cell muted'>{{ remark }}</div>{% endif %}
{%- for key, value, meaning in cells %}{{ cell(value, key, meaning) }}{% endfor -%}
</div>"""


def number_units(name: str) -> str:
    """Units behind a number; a plain one needs none."""
    return "" if lookup(name).units == "1" else units_text(name)


def readout(
    name: str, threshold: float, share: float | None, task: str, counts: ThresholdCounts | None, where: str = "frame"
) -> Markup:
    """Show the threshold in the score's units, the share of pixels above it and how they agree with the labels."""
    truth, remark = TASKS[task].choice, ""
    cells: list[tuple[str, str, str]] = []
    if counts is None:
        remark = f"This {where} has no {TASKS[task].needs}: nothing to compare with."
    elif not counts.tp + counts.fn:
        remark = f"This {where} has no {truth}: nothing to find."
        cells = [("FP", f"{counts.fp:,}", "false alarms"), ("TN", f"{counts.tn:,}", "left out")]
    else:
        cells = [
            ("Precision", percent(counts.precision), f"{truth} among those"),
            ("Recall", percent(counts.recall), f"{truth} found"),
            ("FPR", percent(counts.fpr), "of the rest"),
            ("TP", f"{counts.tp:,}", "found"),
            ("FP", f"{counts.fp:,}", "false alarms"),
            ("FN", f"{counts.fn:,}", "missed"),
            ("TN", f"{counts.tn:,}", "left out"),
        ]
    return render(
        _READOUT,
        threshold=f"{threshold:.4g}",
        units=number_units(name),
        above="" if share is None else f"{share:.2%}",
        remark=remark,
        cells=cells,
    )


def fact_cells(facts: Mapping[str, str]) -> Markup:
    """Numbers of a set, each above what it tells."""
    return render(
        "<div class='cells'>{% for name, value in facts %}<div><b>{{ value }}</b>{{ name }}</div>{% endfor %}</div>",
        facts=list(facts.items()),
    )


# --------------------------------------------------------------------------------------------------------------------
# messages


def note(words: str) -> Markup:
    """A remark."""
    return render("<div class='note'>{{ words }}</div>", words=words)


def strong(words: str) -> Markup:
    """Words that stand out."""
    return render("<b>{{ words }}</b>", words=words)


def label(words: str) -> Markup:
    """A few words above a widget."""
    return render("<div class='label'>{{ words }}</div>", words=words)


def title(words: str) -> Markup:
    """A heading within a tab."""
    return render("<h2>{{ words }}</h2>", words=words)


def listing(code: str) -> Markup:
    """Code to be copied."""
    return render("<pre>{{ code }}</pre>", code=code)


def help_text(words: str) -> Markup:
    """What a tab is for: its first sentence, and more of it on demand."""
    first, _, rest = words.partition(". ")
    if not rest:
        return note(words)
    return render("<details class='note'><summary>{{ first }}.</summary>{{ rest }}</details>", first=first, rest=rest)


def working(done: int = 0, total: int = 0, busy: bool = True) -> Markup:
    """A line that tells that something is computed, and how far it is."""
    return render(
        "<div class='working'>{% if total %}<progress value='{{ done }}' max='{{ total }}'></progress> "
        "{% endif %}{% if busy %}Computing …{% endif %}{% if total %} {{ far }}{% endif %}</div>",
        done=done,
        total=total,
        busy=busy,
        far=f"{done:,} of {total:,} frames",
    )


def spinner(busy: bool) -> Markup:
    """Something that turns while anything is under way."""
    return render("<div class='spin{{ ' on' if busy }}' title='{{ 'computing' if busy }}'></div>", busy=busy)


def message(problem: str) -> Markup:
    """Show an error as the reader of the page sees it."""
    return render("<b>This cannot be shown.</b> {{ problem }}", problem=problem)


def problem_lines(problems: Sequence[str]) -> Markup:
    """What of a link is not used, a line each."""
    return Markup("<br>").join(problems)


def left_out(problems: Mapping[str, str]) -> Markup:
    """Say which frames are not counted because they cannot be read; empty if there is none."""
    names = list(problems)
    return render(
        "{% if names %}<b>Left out, as {{ 'it' if names | length == 1 else 'they' }} cannot be read:</b> "
        "{{ names[:5] | join(', ') }}{{ more }}. {{ reason }}{% endif %}",
        names=names,
        more=f" and {len(names) - 5} more" if len(names) > 5 else "",
        reason=problems[names[0]] if names else "",
    )


def empty_cache(path: str) -> Markup:
    """Say what stands in place of the panes of a cache without frames."""
    return render(
        "<div class='empty'><b>This cache holds no frames yet.</b><br><code>{{ path }}</code><br>"
        "Compute some with <code>gradunc compute</code>, then reload the page.</div>",
        path=path,
    )
