"""What the dashboard draws: pure functions from data to figures, tables and text; one file per subject.

Nothing here keeps state or computes a statistic that is not needed to draw; `gradunc_viz.explorer` links the parts.
"""
