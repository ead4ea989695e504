"""The current view as Python that anybody can run."""

from __future__ import annotations

from ...schema.tasks import TASKS
from .pane import Pane
from .permalink import to_query
from .state import ExplorerState

__all__ = ["python_code", "selection_code"]

_PERCENTILE = [
    "from scipy.stats import rankdata",
    "",
    "",
    "def percentile(values):  # of every pixel within its frame",
    "    return values.copy(data=100 * rankdata(values).reshape(values.shape) / values.size)",
    "",
    "",
]

_PLAIN = {
    "image": "decode_image({ds})",
    "label": '{ds}["label" if "label" in {ds} else "anomaly"]',
    "prediction": '{ds}["prediction"]',
    "error": '({ds}["prediction"] != {ds}["label"]).where({ds}["label"] != {ds}.attrs["ignore"])',
}


def python_code(state: ExplorerState) -> str:
    """Code that opens the caches, reads what every pane shows, applies the threshold, and opens this very view.

    What comes from data stands in it as a Python literal.
    """
    several = state.several
    lines = ["import gradunc_viz as gv"]
    if any(pane.what == "image" for pane in state.parsed_panes()):
        lines.append("from gradunc_viz.store.frame import decode_image")
    lines.append("")
    if any(pane.by_rank for pane in state.parsed_panes()):
        lines += _PERCENTILE
    names = ["cache"] if not several else [f"cache_{i}" for i in range(len(state.caches))]
    lines += [f"{name} = gv.open_cache({str(c.path)!r})" for name, c in zip(names, state.caches, strict=True)]
    used = sorted({state.main} | {n for pane in state.parsed_panes() for n in pane.networks})
    used = [n for n in used if state.frame_id in state.caches[n]]
    datasets = {n: "frame" if not several else f"frame_{n}" for n in used}
    lines += [f"{datasets[n]} = {names[n]}[{state.frame_id!r}]" for n in used]
    if state.main in datasets:
        lines += ["", f"threshold = {float(state.threshold)!r}"]
        lines += [f"found = gv.score({datasets[state.main]}, {state.score!r}) >= threshold  # (y, x)"]
    lines += ["", "panes = ["]
    for pane in state.parsed_panes():
        if all(n in datasets for n in pane.networks):
            lines.append(f"    {_expression(pane, datasets)},")
    lines += ["]", ""]
    lines += _evaluation(state, names[state.main])
    argument = names[0] if not several else f"[{', '.join(names)}]"
    return "\n".join([*lines, f"gv.explore({argument}, view={to_query(state)!r})", ""])


def _expression(pane: Pane, datasets: dict[int, str]) -> str:
    if pane.what in _PLAIN:
        return _PLAIN[pane.what].format(ds=datasets[pane.network])
    first = f"gv.score({datasets[pane.network]}, {pane.what!r})"
    if pane.minus is None:
        return first
    other = f"gv.score({datasets[pane.minus[0]]}, {pane.minus[1]!r})"
    if pane.by_rank:
        return f"percentile({first}) - percentile({other})"
    return f"{first} - {other}"


def _evaluation(state: ExplorerState, cache: str) -> list[str]:
    try:
        if TASKS[state.task].lack(state.cache.summary):
            return []
    except Exception:  # a damaged cache has no evaluation
        return []
    arguments = [f"task={state.task!r}", f"scores={list(state.curve_scores) or [state.score]!r}"]
    if state.chosen_frames is not None:
        arguments.append("frames=frames")
    if state.chosen_classes is not None:
        arguments.append(f"classes={state.chosen_classes!r}")
    lines = [selection_code(state).rstrip()] if state.selection else []
    return [*lines, f"table = gv.evaluate({cache}, {', '.join(arguments)}).to_dataframe()", ""]


def selection_code(state: ExplorerState) -> str:
    """Return the selected frames as a Python list."""
    return f"frames = {list(state.selection)!r}\n"
