"""The dashboard: state, layout, links. No maths, no drawing: those are in `gradunc_viz.views`."""

from ..views.state import ExplorerState
from .page import Explorer, explore
from .server import serve

__all__ = ["Explorer", "ExplorerState", "explore", "serve"]
