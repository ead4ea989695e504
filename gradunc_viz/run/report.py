"""What a run did."""

from __future__ import annotations

from dataclasses import dataclass, field

from .stages import Stages

__all__ = ["Report"]


@dataclass
class Report:
    """What a run of `compute` did.

    Attributes
    ----------
    computed, existing : list of str
        Ids of the frames computed now, and of those found in the cache.
    skipped : list of (str, str)
        Id and error of each frame left out under ``on_error="skip"``.
    remarks : list of str
        What else there is to know of it, one line each.
    seconds : float
        Time for the frames computed now.
    device : str
    stages : Stages
        Seconds per stage of the run, see `gradunc_viz.run.stages.STAGES`.
    """

    computed: list[str] = field(default_factory=list)
    existing: list[str] = field(default_factory=list)
    skipped: list[tuple[str, str]] = field(default_factory=list)
    remarks: list[str] = field(default_factory=list)
    seconds: float = 0.0
    device: str = ""
    stages: Stages = field(default_factory=Stages)
