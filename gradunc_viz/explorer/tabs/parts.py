"""Small things that every tab is made of."""

from __future__ import annotations

import base64
import io
from collections.abc import Callable
from typing import Any, TypedDict, Unpack

import panel as pn

from ...schema.tasks import TASKS
from .. import css as style
from .. import text
from ..markup import escape

__all__ = [
    "Gallery", "Html", "alert", "choice", "class_choice", "csv_download", "html", "is_dark", "labelled",
    "score_choice", "table", "task_choice", "titled", "wrapped",
]  # fmt: skip


class BoxLayout(TypedDict, total=False):
    """How a pane lies on the page, as every view of Panel takes it."""

    margin: int | tuple[int, ...]
    sizing_mode: str
    width: int
    height: int
    visible: bool


class Html(pn.pane.HTML):
    """A pane that shows what a template made, and any other text as the text it is."""

    def _transform_object(self, obj: Any) -> dict[str, Any]:
        shown: dict[str, Any] = super()._transform_object(str(escape("" if obj is None else obj)))
        return shown


def html(content: str = "", **layout: Unpack[BoxLayout]) -> Html:
    """A piece of HTML in the style of the page; text that no template made is escaped."""
    usual: BoxLayout = {"margin": 0, "sizing_mode": "stretch_width"}
    return Html(content, stylesheets=[style.css(is_dark())], **(usual | layout))


def task_choice(state: Any, width: int) -> pn.widgets.RadioButtonGroup:
    """Which pixels a score is to find."""
    return choice(state.param.task, {task.choice: name for name, task in TASKS.items()}, width)


def choice(parameter: Any, options: dict[str, Any], width: int) -> pn.widgets.RadioButtonGroup:
    """A row of small buttons, one of which is down."""
    return pn.widgets.RadioButtonGroup.from_param(
        parameter,
        options=options,
        width=width,
        margin=(0, 6, 2, 6),
        stylesheets=[style.compact_css(is_dark())],
        description=None,  # a tooltip would cover the next row of buttons
    )


def class_choice(state: Any) -> pn.widgets.CheckBoxGroup:
    """Classes looked at; names are shown as the text they are."""
    return pn.widgets.CheckBoxGroup.from_param(
        state.param.classes, label="", options=list(state.cache.classes), inline=True, margin=(0, 6),
        sizing_mode="stretch_width", stylesheets=[style.compact_css(is_dark())],
    )  # fmt: skip


def score_choice(state: Any, width: int = 300, margin: tuple[int, int] = (0, 6)) -> pn.widgets.Select:
    """The score that is thresholded, chosen among those of its family."""
    return pn.widgets.Select.from_param(
        state.param.score,
        label="",
        options=[],
        groups=text.score_groups(state.cache.scores),
        width=width,
        margin=margin,
        stylesheets=[style.compact_css(is_dark())],
    )


def titled(words: str, widget: Any) -> pn.Column:
    """A widget as wide as the page under a few words."""
    return pn.Column(html(text.label(words), margin=(0, 6)), widget, sizing_mode="stretch_width")


class _Wrapped(pn.Row):
    """A row that asks for the room of its largest child, as it wraps, and not for that of all together."""

    _direction = None


def wrapped(*views: Any, gap: str = "0px", margin: int | tuple[int, ...] = 0) -> pn.Row:
    """Things side by side, on the next line where the page is too narrow; takes a tenth of a `panel.FlexBox`'s time."""
    return _Wrapped(*views, sizing_mode="stretch_width", styles={"flex-wrap": "wrap", "gap": gap}, margin=margin)


def labelled(words: str, widget: Any, width: int) -> pn.Column:
    """A widget without a label of its own under a few words."""
    return pn.Column(html(text.label(words), margin=(0, 6)), widget, width=width, margin=(0, 2))


def is_dark() -> bool:
    """Whether the page is dark."""
    return bool(pn.config.theme == "dark")


def csv_download(name: str, table: Callable[[], Any], words: str = "CSV") -> pn.widgets.FileDownload:
    """A button that saves a pandas table as it then is."""

    def content() -> io.StringIO:
        buffer = io.StringIO()
        table().to_csv(buffer, index=False)
        buffer.seek(0)
        return buffer

    return pn.widgets.FileDownload(
        callback=content, filename=f"{name}.csv", label=words, embed=False, auto=True, width=80, margin=(4, 4)
    )


def alert(words: str = "") -> Html:
    """A place for a message, hidden while there is none; not `pn.pane.Alert`, which reads Markdown into it."""
    pane = html(words, margin=4, visible=bool(words))
    pane.css_classes = ["alert"]
    return pane


class TableOptions(TypedDict, total=False):
    """What differs between tables, as Tabulator takes it."""

    titles: dict[str, str]
    formatters: dict[str, Any]
    header_tooltips: dict[str, str]
    header_filters: dict[str, Any]
    text_align: dict[str, str]
    widths: dict[str, int]
    frozen_columns: list[str]
    sortable: dict[str, bool]
    configuration: dict[str, Any]
    page_size: int
    css_classes: list[str]
    pagination: str
    sizing_mode: str
    height: int


def table(rows: Any, **options: Unpack[TableOptions]) -> pn.widgets.Tabulator:
    """A table to read, in the style of the page."""
    common = {"show_index": False, "disabled": True, "selectable": False, "layout": "fit_data"}
    return pn.widgets.Tabulator(rows, stylesheets=[style.table_css(is_dark())], **common, **options)


class Gallery:
    """Pictures with captions that can be clicked.

    Parameters
    ----------
    on_click : callable
        Called with the item of the picture clicked.
    width, height : int
        Of a picture on the screen.
    """

    def __init__(self, on_click: Callable[[Any], None], width: int = 200, height: int = 112) -> None:
        self._on_click, self._size = on_click, (width, height)
        self.items: list[Any] = []
        self.view = wrapped(gap="8px", margin=(4, 4))

    def show(self, items: list[tuple[Any, bytes, str]]) -> None:
        """Show (item, JPEG, caption) in place of what was shown."""
        self.items = [item for item, _, _ in items]
        self.view[:] = [self._button(*parts) for parts in items]

    def _button(self, item: Any, jpeg: bytes, caption: str) -> pn.widgets.Button:
        url = "data:image/jpeg;base64," + base64.b64encode(jpeg).decode()
        width, height = self._size
        button = pn.widgets.Button(
            label=caption,
            width=width,
            height=height + 38,
            margin=0,
            stylesheets=[style.picture_css(url, width, height, is_dark())],
        )
        button.on_click(lambda _: self._on_click(item))
        return button
