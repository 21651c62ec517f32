"""The grammar of charts, the theme, and how a page writes numbers and tables; no torch."""

from homolog.charts.figure import Figure, finish
from homolog.charts.shown_table import ShownTable

__all__ = ["Figure", "ShownTable", "finish"]
