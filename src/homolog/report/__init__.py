"""From the tables of a run folder to one self-contained page: records, findings, charts, page.

    homolog.report.write_report(Path("runs/demo"))      # -> runs/demo/report/index.html

Nothing here imports a model: the report can be built again, years later, from the folder alone.
"""

from homolog.analyses.records import PairRecords, StudyRecords, read_pair, read_study
from homolog.report.charts import Figure, pair_figures, run_figures
from homolog.report.page import write_report

__all__ = [
    "Figure",
    "PairRecords",
    "StudyRecords",
    "pair_figures",
    "read_pair",
    "read_study",
    "run_figures",
    "write_report",
]
