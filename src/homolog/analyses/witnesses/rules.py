"""Who says of a feature that another model has it: each witness's rule, on its own table.

    verdict     the study: it has a homolog, with all tests against controls (`matching/homologs`)
    correlation on text: its best partner is close, r above 0.7, whatever controls have.  Where it
                says yes and the verdict no, both models have the feature, and so has a control
    weights     without data: it is the nearest of its nearest by weights, and their decoders'
                cosine lies above that of directions turned at random (`matching/by_weights`).
                The cosine alone says little: most features have a near one in a space turned onto
                theirs.  It looks in one layer, the most similar
    crosscoder  one dictionary over both models: it follows a latent (r >= 0.7), and that one is in
                the other model.  It looks in one block of each
    regression  features that the study lists as exclusive: all features of the other model
                together predict at least 0.49 of its variance on other documents, as much as a
                single partner of r = 0.7 does
    words       a language model's explanation that tells the feature's own texts: it tells its best
                partner's too, better than chance and than those of another feature

A witness answers yes, no, or nothing (null): where it does not look, and where what it goes by is
undefined.  No two ask quite the same; what each is right about, docs/witnesses.md measures.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import polars as pl

from homolog.analyses.crosscoder import FOLLOWS
from homolog.charts.words import CLOSE
from homolog.record.comparisons import MAIN
from homolog.record.table import Table
from homolog.record.tables import (
    BY_WEIGHTS,
    CROSSCODER_FEATURES,
    LISTS,
    MATCHES,
    RATINGS,
    WITNESSES,
)
from homolog.record.tables.describing import MATCH_KEY

PREDICTED = CLOSE**2
"""Share of a feature's variance from which the features of another model predict it."""
TELLS, CHANCE = 0.75, 0.5
"""Detection from which an explanation tells its own texts; detection by guessing."""
_MAIN = pl.col("comparison") == MAIN.name
_R, _R2 = (pl.col(name).fill_nan(None) for name in ("r", "exclusive_r2"))


@dataclass(frozen=True)
class Witness:
    """One of them.

    name: its column in `WITNESSES`.  label: for readers.  table: what it goes by.
    speaks: of which rows of that table it says anything.  shared: what it says of these.
    """

    name: str
    label: str
    table: Table
    speaks: pl.Expr
    shared: pl.Expr

    def says(self, rows: pl.DataFrame | pl.LazyFrame) -> pl.DataFrame:
        """Of rows of its table that say anything: `MATCH_KEY`, and a column of its name."""
        said = rows.lazy().filter(self.speaks).select(*MATCH_KEY, self.shared.alias(self.name))
        return said.drop_nulls().collect()


ALL = (
    Witness("verdict", "the verdict", MATCHES, _MAIN, pl.col("homolog")),
    Witness("correlation", "correlation", MATCHES, _MAIN, _R > CLOSE),
    Witness(
        "weights",
        "weights",
        BY_WEIGHTS,
        (pl.col("model") != pl.col("best_model")) & (pl.col("best_feature") >= 0),
        pl.col("mutual") & (pl.col("cosine") > pl.col("null_cosine")),
    ),
    Witness(
        "crosscoder",
        "the crosscoder",
        CROSSCODER_FEATURES,
        _R >= FOLLOWS,
        pl.col("owner") != pl.col("model"),
    ),
    Witness("regression", "regression", LISTS, pl.col("list") == "exclusive", _R2 >= PREDICTED),
    Witness(
        "words",
        "words",
        RATINGS,
        (pl.col("detection") >= TELLS)
        & pl.all_horizontal(pl.col("best_model", "other_detection").is_not_null()),
        pl.col("partner_detection") > pl.max_horizontal("other_detection", pl.lit(CHANCE)),
    ),
)
NAMES = tuple(witness.name for witness in ALL)


def witnesses(said: Mapping[str, pl.DataFrame]) -> pl.DataFrame:
    """`WITNESSES` of what they say, by name (`Witness.says`), in the order of `MATCH_KEY`."""
    joined = pl.DataFrame(schema=WITNESSES.only(*MATCH_KEY))
    for frame in said.values():
        typed = frame.with_columns(pl.col("layer", "feature").cast(pl.Int32))
        joined = joined.join(typed, on=MATCH_KEY, how="full", coalesce=True, validate="1:1")
    return WITNESSES.frame(joined.sort(MATCH_KEY))


Asked = Callable[[Table], pl.LazyFrame | None]
"""The rows of a table, None where there is none."""


def asked(table_of: Asked) -> pl.DataFrame:
    """`WITNESSES` of all that have their table."""
    tables = [(witness, table_of(witness.table)) for witness in ALL]
    return witnesses({w.name: w.says(rows) for w, rows in tables if rows is not None})
