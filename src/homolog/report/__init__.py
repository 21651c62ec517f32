"""From the tables of a run folder to pages that open anywhere: the sections of all analyses.

    homolog.report.write_report(Path("runs/demo"))      # -> runs/demo/report/index.html

Nothing here imports a model: the report can be built again, years later, from the folder alone.
"""

from homolog.report.page import write_report

__all__ = ["write_report"]
