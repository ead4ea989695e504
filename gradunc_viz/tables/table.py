"""A table of numbers that prints itself: text, HTML, LaTeX, Markdown, CSV, and a data frame."""

from __future__ import annotations

import csv
import io
import math
import re
import textwrap
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from html import escape
from itertools import groupby
from typing import TYPE_CHECKING, Literal

import numpy as np

from ..schema.errors import GraduncError

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["WRONG_SIDE", "Column", "Table", "best", "latex_text", "second"]

WRONG_SIDE = "†"
"""Mark of a score whose small values find more than its large ones."""

_LONG = 32
"""Characters of a name that stand in one line of text."""

_TEXT_WIDTH = 100
"""Characters of a line of text, beyond which caches stand below each other."""

_MATH = re.compile(r"(?<!\\)\$.*?(?<!\\)\$", re.DOTALL)

_LATEX = {"\\": r"\textbackslash{}", "{": r"\{", "}": r"\}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}"}
_LATEX |= {c: "\\" + c for c in "&#_%$"} | {"²": "$^2$", "Δ": r"$\Delta$"}


def latex_text(text: str) -> str:
    """Escape what LaTeX would take as a command; formulas in ``$...$`` stay."""
    parts, end = [], 0
    for match in _MATH.finditer(text):
        parts += [_escaped(text[end : match.start()]), match[0]]
        end = match.end()
    return "".join([*parts, _escaped(text[end:])])


def _escaped(text: str) -> str:
    return "".join(_LATEX.get(c, c) for c in text.replace(r"\$", "$"))


def best(values: np.ndarray, orientation: int) -> np.ndarray:
    """Where the best of several values stands; all of them where values tie."""
    signed = np.asarray(values, "f8") * orientation
    if not np.isfinite(signed).any():
        return np.zeros(signed.shape, bool)
    return signed == np.nanmax(signed)


def second(values: np.ndarray, orientation: int) -> np.ndarray:
    """Where the best of the values stands that are not the best; none where fewer than two differ."""
    rest = np.where(best(values, orientation), np.nan, np.asarray(values, "f8"))
    return best(rest, orientation)


@dataclass(frozen=True)
class Column:
    """One column of a `Table`.

    Attributes
    ----------
    group : str
        Heading above several columns: the cache.
    name : str
        Short title of the metric.
    orientation : int
        +1: larger is better; -1: smaller is better; 0: not compared.
    digits : int
        Digits after the decimal point, of what is shown.
    scale : float
        What values are multiplied with to be shown; 100 for percent.
    """

    group: str
    name: str
    orientation: int = +1
    digits: int = 2
    scale: float = 100.0

    @property
    def arrow(self) -> str:
        """Where better values lie."""
        return {+1: "↑", -1: "↓"}.get(self.orientation, "")


@dataclass(frozen=True)
class Table:
    """Numbers by row and column, the best of a column in bold, the second underlined.

    Attributes
    ----------
    title : str
    rows : tuple of str
        Names of the rows as plain text.
    columns : tuple of Column
    values : array (rows, columns)
        Not scaled; NaN where there is nothing.
    row_titles : tuple of str
        The same as `rows` with math in ``$...$``, for LaTeX.
    spread : array (rows, columns), optional
        Standard deviations shown behind the values, NaN for none.
    notes : tuple of str
        What the numbers were taken from, one line each.
    row_name : str
        Heading of the rows.
    units : str
        What stands in brackets behind the title.
    wrong_side : bool array (rows, groups), optional
        Whether a row's score stands on the wrong side in a cache, see `gradunc_viz.metrics.wrong_side`.
    intervals : array (rows, columns, 2), optional
        Ends of the interval of each value, not scaled, shown as ``[low, high]``; NaN for none.
    place : "beside" or "beneath"
        Where intervals are shown.
    """

    title: str
    rows: tuple[str, ...]
    columns: tuple[Column, ...]
    values: np.ndarray
    row_titles: tuple[str, ...] = ()
    spread: np.ndarray | None = None
    notes: tuple[str, ...] = ()
    row_name: str = "score"
    units: str = "in %"
    wrong_side: np.ndarray | None = None
    intervals: np.ndarray | None = None
    place: Literal["beside", "beneath"] = "beside"
    _marks: dict[str, np.ndarray] = field(init=False, repr=False, compare=False, default_factory=dict)

    def __post_init__(self) -> None:
        values = np.asarray(self.values, "f8").reshape(len(self.rows), len(self.columns))
        object.__setattr__(self, "values", values)
        if self.intervals is not None:
            object.__setattr__(self, "intervals", np.asarray(self.intervals, "f8").reshape(*values.shape, 2))
        if self.place not in ("beside", "beneath"):
            raise GraduncError(f"place of intervals is {self.place!r}; expected 'beside' or 'beneath'")
        # compared as shown: two values that read the same are equally good
        for name, function in (("best", best), ("second", second)):
            marks = np.zeros(values.shape, bool)
            for i, column in enumerate(self.columns):
                if column.orientation and len(self.rows) > 1:
                    own = np.array([float(self._number(v, column) or "nan") for v in values[:, i]])
                    marks[:, i] = function(own, column.orientation)
            self._marks[name] = marks

    @property
    def groups(self) -> tuple[str, ...]:
        """Headings above columns, in order."""
        return tuple(dict.fromkeys(column.group for column in self.columns))

    def best_first(self, name: str) -> Table:
        """The same with rows in the order of a metric in the first cache, those without it last.

        Raises
        ------
        GraduncError
            If there is no such column.
        """
        names = [column.name for column in self.columns]
        if name not in names:
            raise GraduncError(f"no column {name!r} to sort by; expected one of {', '.join(dict.fromkeys(names))}")
        at = names.index(name)
        signed = self.values[:, at] * (self.columns[at].orientation or 1)
        order = np.argsort(-np.where(np.isfinite(signed), signed, -np.inf), kind="stable")

        def moved(array: np.ndarray | None) -> np.ndarray | None:
            return None if array is None else array[order]

        return replace(
            self,
            rows=tuple(self.rows[i] for i in order),
            row_titles=tuple(self.row_titles[i] for i in order) if self.row_titles else (),
            values=self.values[order],
            spread=moved(self.spread),
            wrong_side=moved(self.wrong_side),
            intervals=moved(self.intervals),
        )

    def is_marked(self, row: int) -> bool:
        """Whether the score of a row stands on the wrong side in any cache."""
        return self.wrong_side is not None and bool(self.wrong_side[row].any())

    def best(self) -> np.ndarray:
        """Where the best value of each column stands, (rows, columns) bool; values that are shown alike tie."""
        return self._marks["best"]

    def second(self) -> np.ndarray:
        """Where the second best value of each column stands, (rows, columns) bool."""
        return self._marks["second"]

    # ----------------------------------------------------------------------------------------------------------------
    # cells

    @staticmethod
    def _number(value: float, column: Column) -> str:
        return f"{column.scale * value:.{column.digits}f}" if math.isfinite(value) else ""

    def _cell(self, row: int, at: int) -> str:
        """Number as plain text, with its spread."""
        column = self.columns[at]
        text = self._number(self.values[row, at], column)
        spread = self._spread(row, at)
        return (f"{text} ± {spread}" if spread else text) or "–"

    def _spread(self, row: int, at: int) -> str:
        return "" if self.spread is None else self._number(self.spread[row, at], self.columns[at])

    def _interval(self, row: int, at: int) -> str:
        if self.intervals is None:
            return ""
        ends = [self._number(end, self.columns[at]) for end in self.intervals[row, at]]
        return f"[{', '.join(ends)}]" if all(ends) else ""

    def _has_intervals(self, at: int) -> bool:
        return any(self._interval(r, at) for r in range(len(self.rows)))

    def _heads(self) -> list[str]:
        several = len(self.groups) > 1
        return [f"{c.group}: {c.name}" if several else c.name for c in self.columns]

    def _caption(self) -> str:
        return f"{self.title} ({self.units})" if self.units else self.title

    # ----------------------------------------------------------------------------------------------------------------
    # forms

    def to_dataframe(self) -> pd.DataFrame:
        """Values, not scaled, with rows by name and columns by (cache, metric).

        ``attrs["wrong side"]`` lists for each cache the scores that stand on the wrong side.
        """
        import pandas as pd

        columns = pd.MultiIndex.from_tuples([(c.group, c.name) for c in self.columns], names=["cache", "metric"])
        frame = pd.DataFrame(self.values, index=pd.Index(self.rows, name=self.row_name), columns=columns)
        frame.attrs["wrong side"] = {
            group: [row for row, is_wrong in zip(self.rows, wrong, strict=True) if is_wrong]
            for group, wrong in self._wrong_by_group()
        }
        return frame

    def _wrong_by_group(self) -> list[tuple[str, np.ndarray]]:
        return [] if self.wrong_side is None else list(zip(self.groups, self.wrong_side.T, strict=True))

    def to_csv(self) -> str:
        """Comma-separated values, not scaled, one line per row; nothing where a value is missing.

        Whether a score stands on the wrong side is a column of its own, ``true`` or ``false``.
        """
        buffer = io.StringIO()
        writer = csv.writer(buffer, lineterminator="\n")
        heads = self._heads()
        more = [] if self.spread is None else [f"{head} (std)" for head in heads]
        if self.intervals is not None:
            with_ends = [c for c in range(len(heads)) if self._has_intervals(c)]
            more += [f"{heads[c]} ({end})" for c in with_ends for end in ("low", "high")]
        wrong = self._wrong_by_group()
        more += [f"{group}: wrong side" if len(wrong) > 1 else "wrong side" for group, _ in wrong]
        writer.writerow([self.row_name, *heads, *more])
        for r, row in enumerate(self.rows):
            own = [*self.values[r], *(() if self.spread is None else self.spread[r])]
            own += [] if self.intervals is None else [*self.intervals[r, with_ends].ravel()]
            flags = [str(bool(is_wrong[r])).lower() for _, is_wrong in wrong]
            writer.writerow([row, *(repr(float(v)) if math.isfinite(v) else "" for v in own), *flags])
        return buffer.getvalue()

    def to_markdown(self) -> str:
        """Return a pipe table; best in bold, second in italics, as Markdown cannot underline."""

        def safe(text: str) -> str:
            return text.replace("\\", "\\\\").replace("|", "\\|").replace("\n", " ")

        heads = [f"{safe(head)} {c.arrow}".strip() for head, c in zip(self._heads(), self.columns, strict=True)]
        lines = [
            "| " + " | ".join([self.row_name, *heads]) + " |",
            "|" + "|".join([" :-- ", *[" --: "] * len(heads)]) + "|",
        ]
        for r, row in enumerate(self.rows):
            cells = []
            for c in range(len(self.columns)):
                mark = "**" if self.best()[r, c] else "*" if self.second()[r, c] else ""
                between = "<br>" if self.place == "beneath" else " "
                cells.append(between.join(filter(None, (mark + self._cell(r, c) + mark, self._interval(r, c)))))
            title = f"{safe(row)} {WRONG_SIDE}" if self.is_marked(r) else safe(row)
            lines.append("| " + " | ".join([title, *cells]) + " |")
        notes = "".join(
            f"\n{safe(note)}  " for note in (f"{self._caption()}; bold: best, italics: second", *self.notes)
        )
        return "\n".join(lines) + "\n" + notes + "\n"

    def to_latex(self) -> str:
        r"""Return a booktabs table whose numbers siunitx aligns at the decimal point.

        Needs ``\usepackage{booktabs,siunitx}``. A standard deviation is a column of its own behind a plus-minus sign.
        """
        spread = [self._more_columns(c) for c in range(len(self.columns))]
        kinds = [(kind, len(list(same))) for kind, same in groupby(map(self._siunitx, range(len(self.columns))))]
        titles = self.row_titles or self.rows
        long = [len(title) > _LONG and "$" not in title for title in titles]
        # names of others know no hyphen: they are broken where their words end
        spec = (r"p{0.3\linewidth}" if any(long) else "l") + "".join(
            kind if n == 1 else f"*{{{n}}}{{{kind}}}" for kind, n in kinds
        )
        lines = [rf"\begin{{tabular}}{{{spec}}}", r"\toprule"]
        heads, rules, first = [], [], 2
        for group in self.groups:
            n = sum(1 + own for c, own in zip(self.columns, spread, strict=True) if c.group == group)
            heads.append(rf"\multicolumn{{{n}}}{{c}}{{{latex_text(group)}}}")
            rules.append(rf"\cmidrule(lr){{{first}-{first + n - 1}}}")
            first += n
        lines += [" & " + " & ".join(heads) + r" \\", "".join(rules)]
        arrows = {+1: r" $\uparrow$", -1: r" $\downarrow$", 0: ""}
        names = [
            (rf"\multicolumn{{{1 + own}}}{{c}}" if own else "") + f"{{{latex_text(c.name)}{arrows[c.orientation]}}}"
            for c, own in zip(self.columns, spread, strict=True)
        ]
        lines += [" & ".join([self.row_name, *names]) + r" \\", r"\midrule"]
        for r, row in enumerate(titles):
            cells = [self._latex_cell(r, c) for c in range(len(self.columns))]
            text = latex_text(row)
            if long[r]:
                text = r"\raggedright " + re.sub(r"(\\_|[-+.])(?=\w)", r"\1\\allowbreak{}", text)
            if self.is_marked(r):
                text += r"$^\dagger$"
            lines.append(" & ".join([text, *cells]) + r" \\")
            if self.place == "beneath" and any(map(self._has_intervals, range(len(self.columns)))):
                beneath = [self._latex_below(r, c) for c in range(len(self.columns))]
                lines.append(" & ".join(["", *beneath]) + r" \\")
        comment = "".join(
            f"% {' '.join(line.split())}\n"
            for line in (r"needs \usepackage{booktabs,siunitx}", self._caption(), *self.notes)
        )
        lines.append(r"\bottomrule")
        if any(self.is_marked(r) for r in range(len(titles))):
            across = 1 + len(self.columns) + sum(spread)
            told = [note.removeprefix(WRONG_SIDE).strip() for note in self.notes if note.startswith(WRONG_SIDE)]
            for text in told or ["AuROC below 50 %: negated, it finds more"]:
                below = rf"\footnotesize\raggedright $^\dagger$ {latex_text(text)}"
                lines.append(rf"\multicolumn{{{across}}}{{p{{0.9\linewidth}}}}{{{below}}} \\")
        return comment + "\n".join([*lines, r"\end{tabular}", ""])

    def _width(self, at: int) -> int:
        """Characters before the decimal point of the widest number of a column, a sign included."""
        texts = [self._number(v, self.columns[at]) for v in self.values[:, at]]
        return max((len(text.partition(".")[0]) for text in texts if text), default=1)

    def _has_spread(self, at: int) -> bool:
        return self.spread is not None and bool(np.isfinite(self.spread[:, at]).any())

    def _more_columns(self, at: int) -> int:
        """Columns of LaTeX behind that of the number."""
        return self._has_spread(at) + (self.place == "beside" and self._has_intervals(at))

    def _latex_below(self, row: int, at: int) -> str:
        text = self._interval(row, at).replace("-", "$-$")
        return (
            rf"\multicolumn{{{1 + self._more_columns(at)}}}{{c}}{{\footnotesize {text}}}"
            if text
            else (" & " * self._more_columns(at))
        )

    def _siunitx(self, at: int) -> str:
        column = self.columns[at]
        width, sign = self._width(at), "-" if (self.values[:, at] < 0).any() else ""
        kind = f"S[table-format={sign}{max(width - len(sign), 1)}.{column.digits}, detect-weight, mode=text]"
        if self._has_spread(at):
            widest = max(len(self._spread(r, at).partition(".")[0]) for r in range(len(self.rows)))
            kind += rf"@{{$\,\pm\,$}}S[table-format={widest}.{column.digits}]"
        return kind + (r"@{\,}l" if self.place == "beside" and self._has_intervals(at) else "")

    def _latex_cell(self, row: int, at: int) -> str:
        text = self._number(self.values[row, at], self.columns[at])
        spread = f" & {self._spread(row, at) or '{--}'}" if self._has_spread(at) else ""
        if self.place == "beside" and self._has_intervals(at):
            spread += rf" & {{\footnotesize {self._interval(row, at).replace('-', '$-$')}}}"
        if not text:
            return "{--}" + spread
        if self.best()[row, at]:
            return rf"\bfseries {text}{spread}"
        if self.second()[row, at]:
            # siunitx takes no underline: text as wide as the widest number stands where the number would
            missing = "0" * (self._width(at) - len(text.partition(".")[0]))
            pad = rf"\phantom{{{missing}}}" if missing else ""
            number = text.replace("-", "$-$")
            return rf"{{{pad}\underline{{{number}}}}}{spread}"
        return text + spread

    def __repr__(self) -> str:
        names = [textwrap.wrap(self._marked(r), _LONG) or [""] for r in range(len(self.rows))]
        first = max(len(self.row_name), *(len(part) for name in names for part in name), 1)
        beside = self.place == "beside"
        cells = [
            [
                self._cell(r, c) + self._mark(r, c) + (self._padded_interval(r, c) if beside else "")
                for c in range(len(self.columns))
            ]
            for r in range(len(self.rows))
        ]
        blocks: list[Sequence[int]] = [range(len(self.columns))]
        if len(self.groups) > 1 and len(self._header(blocks[0], cells, first)) > _TEXT_WIDTH:
            blocks = [[c for c, column in enumerate(self.columns) if column.group == group] for group in self.groups]
        lines = [self._caption() + (", * best, _ second" if self.best().any() else "")]
        for block in blocks:
            lines.append(self._header(block, cells, first))
            for r, (name, row) in enumerate(zip(names, cells, strict=True)):
                lines.append(name[0].ljust(first) + self._padded([row[c] for c in block], block, cells))
                below = ["" if beside else self._interval(r, c) for c in block]
                if any(below):
                    name = [name[0], *(name[1:] or [""])]
                    name[1] = name[1].ljust(first) + self._padded(below, block, cells)
                lines += name[1:]
        return "\n".join([*(line.rstrip() for line in lines), *self.notes])

    def _mark(self, row: int, at: int) -> str:
        return "*" if self.best()[row, at] else "_" if self.second()[row, at] else " "

    def _padded_interval(self, row: int, at: int) -> str:
        longest = max(len(self._interval(r, at)) for r in range(len(self.rows)))
        return f" {self._interval(row, at):>{longest}}" if longest else ""

    def _marked(self, row: int) -> str:
        return f"{self.rows[row]} {WRONG_SIDE}" if self.is_marked(row) else self.rows[row]

    def _text_heads(self) -> list[str]:
        return [f"{head} {c.arrow}".strip() for head, c in zip(self._heads(), self.columns, strict=True)]

    def _header(self, block: Sequence[int], cells: Sequence[Sequence[str]], first: int) -> str:
        heads = self._text_heads()
        return " " * first + self._padded([heads[c] for c in block], block, cells)

    def _padded(self, texts: Sequence[str], block: Sequence[int], cells: Sequence[Sequence[str]]) -> str:
        heads = self._text_heads()
        beneath = range(len(cells) if self.place == "beneath" else 0)
        widths = [
            max(len(heads[c]), *(len(line[c]) for line in cells), *(len(self._interval(r, c)) for r in beneath), 1)
            for c in block
        ]
        return "".join("  " + text.rjust(width) for text, width in zip(texts, widths, strict=True))

    def to_text(self) -> str:
        """Return plain text, best marked by a star, second by an underscore."""
        return repr(self)

    def to_html(self) -> str:
        """Return a page's ``<table>``, as a notebook shows it: best in bold, second underlined."""
        return self._repr_html_()

    def _repr_html_(self) -> str:
        """Table with a bar behind each number, as long as it is large; reads well on light and on dark pages."""
        style = "text-align:right;padding:2px 8px;font-variant-numeric:tabular-nums;white-space:nowrap"
        parts = [f"<table style='border-collapse:collapse'><caption style='text-align:left'>{escape(self._caption())}"]
        parts.append("; <b>best</b>, <u>second</u></caption>")
        if len(self.groups) > 1:
            spans = "".join(
                f"<th colspan='{sum(c.group == g for c in self.columns)}' style='text-align:center'>{escape(g)}</th>"
                for g in self.groups
            )
            parts.append(f"<tr><th></th>{spans}</tr>")
        heads = "".join(f"<th style='{style}'>{escape(c.name)} {c.arrow}</th>" for c in self.columns)
        parts.append(f"<tr><th style='text-align:left'>{escape(self.row_name)}</th>{heads}</tr>")
        for r in range(len(self.rows)):
            cells = []
            for c in range(len(self.columns)):
                text = escape(self._cell(r, c))
                tag = "b" if self.best()[r, c] else "u" if self.second()[r, c] else ""
                text = f"<{tag}>{text}</{tag}>" if tag else text
                if interval := self._interval(r, c):
                    text += f"{' ' if self.place == 'beside' else '<br>'}<small>{interval}</small>"
                cells.append(f"<td style='{style};{self._bar(r, c)}'>{text}</td>")
            parts.append(
                f"<tr><td style='text-align:left;padding:2px 8px'>{escape(self._marked(r))}</td>{''.join(cells)}</tr>"
            )
        notes = "".join(f"<div>{escape(note)}</div>" for note in self.notes)
        return "".join(parts) + f"</table><div style='opacity:.7;font-size:90%'>{notes}</div>"

    def _bar(self, row: int, at: int) -> str:
        value = self.values[row, at]
        if not math.isfinite(value):
            return ""
        share = 100 * min(max(float(value), 0.0), 1.0) if self.columns[at].scale == 100 else 0.0
        color = "rgba(100,143,255,.28)"
        return f"background:linear-gradient(90deg,{color} {share:.1f}%,transparent {share:.1f}%)"
