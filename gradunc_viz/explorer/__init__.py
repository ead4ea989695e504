"""The explorer: state, panes, charts, tabs, page; its parts are loaded when first used.

No maths: the page shows what rooms below it compute.
"""

from typing import TYPE_CHECKING

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach(
    __name__,
    submod_attrs={
        "page": ["Explorer"],
        "server": ["explore", "serve"],
        "state.state": ["ExplorerState"],
        "state.tabs": ["Tab", "register_tab"],
        "tabs.tab": ["AnalysisTab"],
    },
)

if TYPE_CHECKING:
    from .page import Explorer as Explorer
    from .server import explore as explore
    from .server import serve as serve
    from .state.state import ExplorerState as ExplorerState
    from .state.tabs import Tab as Tab
    from .state.tabs import register_tab as register_tab
    from .tabs.tab import AnalysisTab as AnalysisTab
