"""Image panes: frames and scores as Bokeh figures."""
