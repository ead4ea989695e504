"""Look of the page: one calm light theme."""

from __future__ import annotations

__all__ = ["CSS", "TABLE_CSS"]

CSS = """
:host { --ink: #1d2733; --soft: #5a6675; --line: #dfe3e8; font-family: system-ui, "Segoe UI", Roboto, sans-serif; }
.header { display: flex; flex-wrap: wrap; gap: 4px 22px; align-items: baseline; color: var(--soft); font-size: 14px; }
.header h1 { margin: 0; font-size: 20px; color: var(--ink); font-weight: 650; }
.header b, .caption b { color: var(--ink); font-weight: 600; overflow-wrap: anywhere; }
.caption { margin: 0 6px; font-size: 14px; color: var(--soft); overflow-wrap: anywhere; line-height: 20px; }
.pane-title { font-size: 13px; font-weight: 600; color: var(--ink); display: flex; gap: 10px; align-items: baseline; }
.pane-title .muted { font-weight: 400; }
.muted, .note { color: var(--soft); font-size: 12px; line-height: 1.45; }
.note code { font-size: 11.5px; background: none; padding: 0; overflow-wrap: anywhere; color: var(--ink); }
.note { margin: 2px 10px; }
.legend { margin: 6px; display: flex; flex-wrap: wrap; gap: 4px; }
.chip { font-size: 12px; line-height: 18px; padding: 0 8px; border-radius: 3px; }
.chip.absent { opacity: 0.35; }
.swatch { display: inline-block; width: 11px; height: 11px; border-radius: 2px; margin: 0 4px 0 8px;
  vertical-align: -1px; border: 1px solid #0002; }
.hatched { background: repeating-linear-gradient(45deg, #f3f4f6 0 3px, #c3c8ce 3px 4px); }
.readout { display: flex; flex-wrap: wrap; gap: 4px 22px; font-size: 12px; color: var(--soft);
  min-height: 44px; margin: 2px 6px 4px; }
.readout .big { font-size: 17px; color: var(--ink); font-weight: 600; font-variant-numeric: tabular-nums; }
.readout small { font-size: 12px; font-weight: 400; }
.readout .cell { max-width: 190px; }
.empty { padding: 60px 20px; text-align: center; color: var(--soft); font-size: 15px; line-height: 1.9; }
"""

TABLE_CSS = """
:host .tabulator { font-size: 12px; border: 1px solid #dfe3e8; }
:host .tabulator .tabulator-header .tabulator-col .tabulator-col-content { padding: 4px; }
"""
