"""Look of the page: one calm theme, light and dark."""

from __future__ import annotations

__all__ = ["CSS", "TABLE_CSS", "compact_css", "css", "page_css", "picture_css", "table_css", "tabs_css"]

_LIGHT = "--ink: #1d2733; --soft: #5a6675; --line: #dfe3e8; --card: #f6f7f9; --page: #ffffff; --accent: #2f5d9b;"
_DARK = "--ink: #e6eaef; --soft: #9aa7b5; --line: #36404c; --card: #232b34; --page: #1a2028; --accent: #8ab4f0;"

_RULES = """
:host { font-family: system-ui, "Segoe UI", Roboto, sans-serif; color: var(--ink); }
.header { display: flex; flex-wrap: wrap; gap: 2px 20px; align-items: baseline; color: var(--soft); font-size: 14px; }
.header h1 { margin: 0; font-size: 19px; color: var(--ink); font-weight: 650; }
.header b, .caption b { color: var(--ink); font-weight: 600; overflow-wrap: anywhere; }
.caption { margin: 0 6px; font-size: 14px; color: var(--soft); overflow-wrap: anywhere; line-height: 20px; }
.label { font-size: 11.5px; color: var(--soft); white-space: nowrap; }
.muted, .note { color: var(--soft); font-size: 12px; line-height: 1.45; }
.note code { font-size: 11.5px; background: none; padding: 0; overflow-wrap: anywhere; color: var(--ink); }
.note { margin: 2px 8px; }
.note summary { cursor: pointer; }
.note b { color: var(--ink); }
.pane-note { color: var(--soft); font-size: 11.5px; line-height: 17px; height: 17px; overflow: hidden;
  white-space: nowrap; text-overflow: ellipsis; }
.pane-note b { color: var(--ink); font-weight: 600; }
.legend { margin: 4px 6px; display: flex; flex-wrap: wrap; gap: 4px; }
.chip { font-size: 12px; line-height: 18px; padding: 0 8px; border-radius: 3px; }
.chip.absent { opacity: 0.35; }
.swatch { display: inline-block; width: 11px; height: 11px; border-radius: 2px; margin: 0 4px 0 6px;
  vertical-align: -1px; border: 1px solid #0003; }
.hatched { background: repeating-linear-gradient(45deg, var(--card) 0 3px, #8a929c 3px 4px); }
.readout { display: flex; flex-wrap: wrap; gap: 2px 14px; font-size: 12px; color: var(--soft);
  min-height: 38px; margin: 0 6px 2px; }
.readout .big { font-size: 15px; color: var(--ink); font-weight: 600; font-variant-numeric: tabular-nums; }
.readout small { font-size: 12px; font-weight: 400; }
.readout .cell { white-space: nowrap; }
.readout .cell.muted { white-space: normal; max-width: 360px; }
.card { border: 1px solid var(--line); background: var(--card); border-radius: 5px; padding: 6px 10px; margin: 3px 0;
  font-size: 12px; }
.card-title { font-weight: 600; font-size: 12.5px; color: var(--ink); margin-bottom: 2px; }
.card-title .muted { font-weight: 400; }
.facts { display: flex; flex-wrap: wrap; gap: 0 14px; color: var(--soft); }
.facts b, .numbers b, .sum b { color: var(--ink); font-variant-numeric: tabular-nums; overflow-wrap: anywhere; }
.numbers { display: grid; grid-template-columns: minmax(0, 1fr) auto minmax(0, 1fr) auto; gap: 0 8px;
  color: var(--soft); margin-top: 3px; }
.numbers span { overflow-wrap: anywhere; }
.numbers b { text-align: right; margin-right: 10px; overflow-wrap: normal; white-space: nowrap; }
.bars { display: grid; grid-template-columns: auto 1fr auto; gap: 1px 8px; align-items: center; color: var(--soft); }
.bars .track { height: 9px; background: #8883; border-radius: 2px; }
.bars .track i { display: block; height: 9px; min-width: 1px; border-radius: 2px; outline: 1px solid #8886; }
.bars b { font-variant-numeric: tabular-nums; color: var(--ink); }
.sum { display: flex; flex-wrap: wrap; gap: 0 10px; color: var(--soft); }
.cells { display: flex; flex-wrap: wrap; gap: 10px; }
.cells div { border: 1px solid var(--line); background: var(--card); border-radius: 5px; padding: 5px 12px;
  font-size: 12px; color: var(--soft); }
.cells b { display: block; font-size: 17px; color: var(--ink); font-weight: 600; overflow-wrap: anywhere; }
.empty { padding: 40px 20px; text-align: center; color: var(--soft); font-size: 15px; line-height: 1.9; }
:host(.alert) { border: 1px solid #ffb000; border-radius: 5px; padding: 8px 12px; font-size: 14px; line-height: 1.4;
  box-sizing: border-box; overflow-wrap: anywhere; background: color-mix(in srgb, #ffb000 16%, var(--page)); }
.spin { width: 16px; height: 16px; border: 3px solid var(--line); border-radius: 50%; box-sizing: border-box; }
.spin.on { border-top-color: var(--accent); animation: turn 1s linear infinite; }
@keyframes turn { to { transform: rotate(360deg); } }
.working { color: var(--soft); font-size: 12px; line-height: 16px; height: 16px; padding: 0 8px; }
.working progress { width: 160px; height: 8px; accent-color: var(--accent); }
h2 { font-size: 15px; margin: 8px 6px 2px; color: var(--ink); font-weight: 620; }
pre { margin: 0; padding: 8px 10px; font-size: 12px; line-height: 1.4; background: var(--card); color: var(--ink);
  border: 1px solid var(--line); border-radius: 5px; overflow: auto; max-height: 260px; user-select: all;
  white-space: pre-wrap; overflow-wrap: anywhere; }
"""

_TABLE = """
:host .tabulator { font-size: 12px; border: 1px solid var(--line); background: var(--page); color: var(--ink); }
:host .tabulator .tabulator-header .tabulator-col .tabulator-col-content { padding: 4px; }
:host .tabulator .tabulator-header .tabulator-col.tabulator-sortable .tabulator-col-title { padding-right: 13px; }
:host .tabulator .tabulator-header .tabulator-col .tabulator-col-content .tabulator-col-sorter { right: 2px; }
:host .tabulator .tabulator-header .tabulator-col .tabulator-col-sorter .tabulator-arrow {
  border-left-width: 4px; border-right-width: 4px; }
:host .tabulator .tabulator-header, :host .tabulator .tabulator-header .tabulator-col,
:host .tabulator .tabulator-footer, :host .tabulator .tabulator-footer .tabulator-page {
  background: var(--card); color: var(--ink); border-color: var(--line); }
:host .tabulator .tabulator-tableholder .tabulator-table { background: var(--page); color: var(--ink); }
:host .tabulator .tabulator-row, :host .tabulator .tabulator-row .tabulator-cell.tabulator-frozen {
  background: var(--page); color: var(--ink); border-color: var(--line); min-height: 24px; }
:host .tabulator .tabulator-row.tabulator-row-even,
:host .tabulator .tabulator-row-even .tabulator-cell.tabulator-frozen {
  background: var(--card); }
:host .tabulator .tabulator-row .tabulator-cell { padding: 3px 4px; height: 24px; border-color: var(--line); }
:host .tabulator .tabulator-row:hover, :host .tabulator .tabulator-row:hover .tabulator-cell {
  background: color-mix(in srgb, var(--accent) 20%, var(--page)); cursor: pointer; }
:host .tabulator .tabulator-header-filter input { background: var(--page); color: var(--ink);
  border: 1px solid var(--line); padding: 2px 4px !important; }
:host .unpicked { display: inline-block; width: 10px; height: 10px; border: 1px solid var(--soft); border-radius: 2px; }
"""


def css(dark: bool) -> str:
    """Style of HTML on the page."""
    return f":host {{ {_DARK if dark else _LIGHT} }}{_RULES}"


def table_css(dark: bool) -> str:
    """Style of tables."""
    return f":host {{ {_DARK if dark else _LIGHT} }}{_TABLE}"


def page_css(dark: bool) -> str:
    """Style of the page itself, where it is ours."""
    return f":root {{ {_DARK if dark else _LIGHT} }} html, body {{ background: var(--page); color: var(--ink); }}"


def tabs_css(dark: bool) -> str:
    """Style of the row of tabs."""
    return (
        f":host {{ {_DARK if dark else _LIGHT} }}"
        + """
.bk-tab { color: var(--soft); border: none !important; padding: 5px 12px; font-size: 14px; }
.bk-tab.bk-active { color: var(--ink) !important; font-weight: 600; background: none !important;
  border-bottom: 3px solid var(--accent) !important; }
"""
    )


def compact_css(dark: bool) -> str:
    """Style of small buttons and check boxes."""
    return (
        f":host {{ {_DARK if dark else _LIGHT} }}"
        + """
.bk-btn-group .bk-btn.bk-active, .bk-btn-group .bk-btn.bk-active:hover {
  background: var(--accent) !important; color: var(--page) !important; box-shadow: none; }
.bk-btn, .bk-btn-group .bk-btn { padding: 3px 9px; font-size: 12px; line-height: 18px; }
.bk-input-group label { font-size: 12px; margin-right: 10px; }
select.bk-input { padding-top: 2px; padding-bottom: 2px; font-size: 12.5px; }
"""
        + (_LIGHT_ARROW if dark else "")
    )


def picture_css(url: str, width: int, height: int, dark: bool) -> str:
    """Style of a button that is a picture with a caption; `url` has to be a data URL."""
    return f"""
:host {{ {_DARK if dark else _LIGHT} }}
.bk-btn, .bk-btn-default, .bk-btn:hover {{ width: {width}px; height: {height + 38}px; padding: {height}px 4px 0;
  overflow: hidden; border: 1px solid var(--line);
  background: var(--card) url({url}) center top / {width}px {height}px no-repeat;
  color: var(--ink); font-size: 11.5px; line-height: 17px; white-space: pre-line; text-align: left;
  align-items: flex-start; justify-content: flex-start; text-overflow: ellipsis; }}
.bk-btn:hover, .bk-btn:focus-visible {{ border-color: var(--accent); box-shadow: 0 0 0 2px var(--accent); }}
"""


# Bokeh's own is black whatever the theme
_LIGHT_ARROW = """
select:not([multiple]).bk-input { background-image: url("data:image/svg+xml;utf8,<svg viewBox='0 0 25 20' \
xmlns='http://www.w3.org/2000/svg'><path d='M 0,0 25,0 12.5,20 Z' fill='%239aa7b5' /></svg>"); }
"""

CSS = css(False)

TABLE_CSS = table_css(False)
