"""Why a feature is no homolog: the tests that its match fails, and of the controls which.

Of what all controls together explain of the feature, control_r^2, one alone can be nearly all:

    token       token_r2 > 0.8 control_r^2           it follows the current token
    untrained   untrained_r^2 > 0.8 control_r^2      an untrained model has it too

untrained_r is its highest r with an untrained twin: the partner's, or its own model's.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import polars as pl

from homolog.record.comparisons import OWN_RANDOM, RANDOM_MODEL
from homolog.record.table import completed
from homolog.record.tables import MATCHES
from homolog.record.tables.describing import FEATURE_KEY

HOMOLOG, NO_HOMOLOG = "yes", "no"
MOSTLY = 0.8
"""Of what all controls explain."""
CONTROLS, TOKEN, UNTRAINED = "controls", "token", "untrained"


def with_reasons(
    main: pl.DataFrame, matches: pl.LazyFrame, twins: Mapping[str, Sequence[str]]
) -> pl.DataFrame:
    """Rows of the comparison main with `untrained_r`, where any was compared, and `fails` by cause.

    matches: of all comparisons.  twins: of each model by name, its controls, the untrained one
    among them.  In `fails`, what mostly one control explains stands as `TOKEN` or `UNTRAINED` in
    place of `CONTROLS`.
    """
    known = _with_untrained(main, matches, twins)
    if "fails" not in known.columns:
        return known
    needed = {**MATCHES.only("token_r2", "control_r"), "untrained_r": pl.Float32}
    most = MOSTLY * pl.col("control_r") ** 2
    token, untrained = pl.col("token_r2") > most, pl.col("untrained_r") ** 2 > most
    fails = pl.when(token).then(_naming(TOKEN)).when(untrained).then(_naming(UNTRAINED))
    named = completed(known, needed).select(fails=fails.otherwise("fails"))
    return known.with_columns(named["fails"])


def verdicts_of(matches: pl.DataFrame) -> pl.Series:
    """`HOMOLOG`; the tests that a match fails, as "token, rival"; or "" where none was made."""
    fails = pl.col("fails") if "fails" in matches.columns else pl.lit(None, pl.String)
    verdict = pl.when("homolog").then(pl.lit(HOMOLOG))
    verdict = verdict.when(~pl.col("homolog")).then(fails.fill_null(NO_HOMOLOG))
    return matches.select(verdict=verdict.fill_null(""))["verdict"]


def _naming(cause: str) -> pl.Expr:
    return pl.col("fails").str.replace(CONTROLS, cause, literal=True)


def _with_untrained(
    main: pl.DataFrame, matches: pl.LazyFrame, twins: Mapping[str, Sequence[str]]
) -> pl.DataFrame:
    of = [(owner, twin) for owner, controls in twins.items() for twin in controls]
    owners = pl.DataFrame(of, schema={"of": pl.String, "best_model": pl.String}, orient="row")
    rows = matches.filter(pl.col("comparison").is_in([RANDOM_MODEL.name, OWN_RANDOM.name]))
    rows = rows.select("comparison", *FEATURE_KEY, "best_model", "r").collect()
    rows = rows.join(owners, on="best_model").with_columns(pl.col("r").fill_nan(None))
    if rows.is_empty():
        return main
    highest = pl.col("r").max()
    partner = rows.filter(comparison=RANDOM_MODEL.name).group_by(*FEATURE_KEY, "of")
    own = rows.filter(comparison=OWN_RANDOM.name).group_by(FEATURE_KEY)
    joined = main.join(
        partner.agg(_partner=highest),
        left_on=[*FEATURE_KEY, "best_model"],
        right_on=[*FEATURE_KEY, "of"],
        how="left",
        maintain_order="left",
    ).join(own.agg(_own=highest), on=FEATURE_KEY, how="left", maintain_order="left")
    untrained = pl.max_horizontal("_partner", "_own").alias("untrained_r")
    return joined.with_columns(untrained).drop("_partner", "_own")
