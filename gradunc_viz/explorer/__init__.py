"""The dashboard: state, layout, links. No maths, no drawing: those are in `gradunc_viz.explorer.charts`."""

from .page import Explorer
from .server import explore, serve
from .state.state import ExplorerState

__all__ = ["Explorer", "ExplorerState", "explore", "serve"]
