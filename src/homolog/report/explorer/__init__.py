"""The explorer: every feature of a run to search, filter and look at beside its partner."""

from homolog.charts.links import address
from homolog.report.explorer.pages import write_explorer

__all__ = ["address", "write_explorer"]
