"""The tasks of a score: what it is to find, which pixels count, and in which words."""

from __future__ import annotations

__all__ = ["NEEDS", "TASKS", "TASK_OUTCOMES", "TASK_TEXT"]


TASKS = {"error": ("wrong", "right"), "anomaly": ("anomaly", "normal")}
"""Outcome of the positives and of the negatives of each task."""


_BY_LABEL = {"error": ("missed", "right")}


TASK_OUTCOMES = {"error": ("right", "wrong"), "anomaly": ("normal", "anomaly")}
"""Outcomes that a task sets against each other: what should score low, what should score high."""


NEEDS = {"error": "class labels", "anomaly": "anomaly labels"}
"""Labels that a task needs, in words."""


TASK_TEXT = {"error": "wrong prediction", "anomaly": "unknown object"}
"""What is positive in each task."""


_TRUTH = {"error": ("errors", "class labels"), "anomaly": ("anomalies", "anomaly labels")}


_WHAT = {"error": "class labels", "anomaly": "anomaly labels"}
