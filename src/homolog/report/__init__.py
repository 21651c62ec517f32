"""From the tables of a run folder to one self-contained page: records, findings, charts, page.

    homolog.report.write_report(Path("runs/demo"))      # -> runs/demo/report/index.html

Nothing here imports a model: the report can be built again, years later, from the folder alone.
"""

from homolog.report.charts import Figure, pair_figures, run_figures
from homolog.report.page import write_report
from homolog.report.records import ComparisonRecords, RunRecords, read_comparison, read_run

__all__ = [
    "ComparisonRecords",
    "Figure",
    "RunRecords",
    "pair_figures",
    "read_comparison",
    "read_run",
    "run_figures",
    "write_report",
]
