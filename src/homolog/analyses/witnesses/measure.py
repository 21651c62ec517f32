"""Task of an ordered pair of models: what each witness says, and how far they agree."""

from __future__ import annotations

import polars as pl

from homolog.analyses.analysis import Tables
from homolog.analyses.material import Material
from homolog.analyses.witnesses.agreement import agreement
from homolog.analyses.witnesses.rules import asked
from homolog.dictionaries.seeds import derive_seed
from homolog.record.table import Table
from homolog.record.tables import FLOW, WITNESS_AGREEMENT, WITNESSES


def measure_pair(material: Material, model: str, best_model: str) -> Tables:
    """Task: the witnesses of the features of `model` looked for in `best_model`."""

    def of_pair(table: Table) -> pl.LazyFrame | None:
        if not material.has(table):
            return None
        rows = table.scan(material.run.table(table))
        return rows.filter(model=model, best_model=best_model)

    said = asked(of_pair)
    lines = material.table(FLOW).filter(model=model) if material.has(FLOW) else None
    seed = derive_seed(material.seed, "witnesses", model, best_model)
    return {WITNESSES.name: said, WITNESS_AGREEMENT.name: agreement(said, lines, seed=seed)}
