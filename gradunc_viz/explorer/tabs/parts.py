"""Small things that every tab is made of."""

from __future__ import annotations

import base64
import io
from collections.abc import Callable
from typing import Any

import panel as pn

from .. import css as style
from .. import text

__all__ = [
    "Gallery", "alert", "choice", "class_choice", "csv_download", "help_text", "html", "is_dark", "labelled",
    "score_choice", "table", "titled", "wrapped",
]  # fmt: skip


def html(content: str, **layout: Any) -> pn.pane.HTML:
    """A piece of HTML in the style of the page."""
    return pn.pane.HTML(
        content, stylesheets=[style.css(is_dark())], **({"margin": 0, "sizing_mode": "stretch_width"} | layout)
    )


def help_text(name: str) -> pn.pane.HTML:
    """What a tab is for: its first sentence, and more of it on demand."""
    first, _, rest = text.HELP[name].partition(". ")
    return html(
        f"<details class='note'><summary>{first}.</summary>{rest}</details>" if rest else text.note(first),
        margin=(0, 2),
    )


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


def score_choice(state: Any) -> pn.widgets.Select:
    """The score that is thresholded."""
    return pn.widgets.Select.from_param(
        state.param.score,
        label="",
        options=text.score_options(state.cache.scores),
        width=300,
        margin=(0, 6),
        stylesheets=[style.compact_css(is_dark())],
    )


def titled(words: str, widget: Any) -> pn.Column:
    """A widget as wide as the page under a few words."""
    return pn.Column(html(f"<div class='label'>{words}</div>", margin=(0, 6)), widget, sizing_mode="stretch_width")


class _Wrapped(pn.Row):
    """A row that asks for the room of its largest child, as it wraps, and not for that of all together."""

    _direction = None


def wrapped(*views: Any, gap: str = "0px", **layout: Any) -> pn.Row:
    """Things side by side, on the next line where the page is too narrow; takes a tenth of a `panel.FlexBox`'s time."""
    return _Wrapped(*views, sizing_mode="stretch_width", styles={"flex-wrap": "wrap", "gap": gap}, **layout)


def labelled(words: str, widget: Any, width: int) -> pn.Column:
    """A widget without a label of its own under a few words."""
    return pn.Column(html(f"<div class='label'>{words}</div>", margin=(0, 6)), widget, width=width, margin=(0, 2))


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


def alert() -> pn.pane.Alert:
    """A place for a message, hidden while there is none."""
    return pn.pane.Alert("", alert_type="warning", visible=False, sizing_mode="stretch_width", margin=4)


def table(rows: Any, **options: Any) -> pn.widgets.Tabulator:
    """A table to read, in the style of the page."""
    common = {"show_index": False, "disabled": True, "selectable": False, "layout": "fit_data"}
    return pn.widgets.Tabulator(rows, stylesheets=[style.table_css(is_dark())], **(common | options))


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
