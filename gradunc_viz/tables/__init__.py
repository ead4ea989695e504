"""Tables: in the terminal, in a notebook, in a paper."""

from .evaluation import evaluation_table
from .paired import paired_table
from .table import Table

__all__ = ["Table", "evaluation_table", "paired_table"]
