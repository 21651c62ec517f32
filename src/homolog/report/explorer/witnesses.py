"""What the witnesses say of each feature, and on which two some of them stand against each other.

Of a feature "verdict yes, weights no": those that say anything, in the order of the table.
"""

from __future__ import annotations

import polars as pl

from homolog.analyses.witnesses.rules import NAMES
from homolog.record.tables.describing import MATCH_KEY

COLUMN = "witnesses"


def with_witnesses(matches: pl.DataFrame, said: pl.DataFrame | None) -> pl.DataFrame:
    """The matches with what is said of their features as a column `COLUMN`, null where nothing.

    said: rows of the table `witnesses`; None: the matches as they are.
    """
    if said is None:
        return matches
    words = said.select(
        *MATCH_KEY, pl.concat_str(_words(), separator=", ", ignore_nulls=True).alias(COLUMN)
    )
    typed = words.with_columns(pl.col(name).cast(matches.schema[name]) for name in MATCH_KEY)
    return matches.join(typed, on=MATCH_KEY, how="left", maintain_order="left", validate="m:1")


def against(words: list[str]) -> list[str]:
    """Two witnesses of which the first says yes and the second no of some feature: "first-second".

    words: what is said of features, each once.
    """
    found = set[tuple[str, str]]()
    for said in words:
        answers = dict(answer.split(" ") for answer in said.split(", ") if answer)
        yes, no = ([n for n, word in answers.items() if word == of] for of in ("yes", "no"))
        found |= {(one, other) for one in yes for other in no}
    ordered = sorted(found, key=lambda pair: tuple(NAMES.index(name) for name in pair))
    return ["-".join(pair) for pair in ordered]


def _words() -> list[pl.Expr]:
    return [
        pl.lit(f"{name} ")
        + pl.when(name).then(pl.lit("yes")).when(~pl.col(name)).then(pl.lit("no"))
        for name in NAMES
    ]
