"""Which features have a homolog in the other model, and how large their share is.

A feature i of A, with best partner r_i in B, has a *homolog* in B when

    r_i >= bar_i = max(threshold_i, highest r_i under the controls, homolog_r)

* threshold_i: the least r that is significant at its firing frequency (`null.calibrate`: q <= fdr);
* controls: the same feature's own best r in the untrained twin of B, in the rotated dictionary of B, and with the
  current token, as far as they were run: what a match costs without a shared computation; r must be above these;
* homolog_r: at a million tokens a leak of r = 0.05 through superposition is significant, and is no homolog.

The share is over the features of A that are alive (active at least once).  Its interval is share +- 1.96 standard
errors, from documents resampled (bootstrap, Efron 1979): each replicate has its own r_i and, on the same documents, its
own r of the controls, partners held fixed.  (Quantiles of the replicates would be off centre: near a bar, resampling
adds noise to both sides, and more features lie below their bar than above.)  The ceiling is the same share where the
partner is a second dictionary of A itself.  A share is withheld when a dictionary of either model misses its quality
gates: what a bad dictionary does not find says nothing about the model.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import polars as pl
from jaxtyping import Float

FEATURE = ("model", "layer", "feature")
CONTROLS = {
    "random-model": "the untrained twin",
    "rotated": "the rotated dictionary",
    "tokens": "the current token",
}
SHARED_SCHEMA = {
    **dict.fromkeys(("model", "best_model"), pl.String),
    **dict.fromkeys(("n_features", "n_alive"), pl.Int64),
    **dict.fromkeys(("share", "lo", "hi", "ceiling", "mean_r", "mean_excess"), pl.Float64),
    **dict.fromkeys(("share_significant", "share_mutual", "share_one_to_one", "share_stable"), pl.Float64),
    "given": pl.Boolean,
    **dict.fromkeys(("reason", "words"), pl.String),
}


@dataclass(frozen=True)
class Direction:
    """Features of `model` looked for in `best_model`, as the table of matches names them.

    controls: (comparison, best_model) of each control that was run.  second: the model's own second dictionary
    ("mamba-s0@seed1"), None where there is none.
    """

    model: str
    best_model: str
    controls: Sequence[tuple[str, str]] = ()
    second: str | None = None


@dataclass(frozen=True)
class Verdict:
    """One direction of a study; the fields are the columns of the table `shared`, shares are of the alive features.

    share, lo, hi: with a homolog, and the 95 % interval.  given: whether the share may be read; `reason` says why not,
    or what was missing.
    """

    model: str
    best_model: str
    n_features: int
    n_alive: int
    share: float
    lo: float
    hi: float
    ceiling: float | None
    mean_r: float
    mean_excess: float
    share_significant: float
    share_mutual: float
    share_one_to_one: float
    share_stable: float | None
    given: bool
    reason: str

    @property
    def words(self) -> str:
        """What the command line, the report and run.json say."""
        if not self.given:
            return f"No verdict on {self.model} in {self.best_model}: {self.reason}."
        text = (
            f"{_percent(self.share)} ({_percent(self.lo)} to {_percent(self.hi)}) of the features of {self.model} "
            f"have a homolog in {self.best_model}"
        )
        if self.ceiling is not None:
            text += f"; with a second dictionary of its own it is {_percent(self.ceiling)}"
        return text + (f". {self.reason}." if self.reason else ".")

    def as_record(self) -> dict[str, Any]:
        """The row of the table `shared`, and the entry of `verdicts` in run.json."""
        row = asdict(self) | {"words": self.words}
        return {key: None if isinstance(value, float) and math.isnan(value) else value for key, value in row.items()}


def bars(
    matches: pl.DataFrame, direction: Direction, homolog_r: float, of: tuple[str, str] | None = None
) -> Float[np.ndarray, "features"]:
    """The least r of a homolog for each row of `rows_of(matches, direction, of)`, float64; NaN where r is undefined."""
    rows = rows_of(matches, direction, of)
    bar = np.maximum(rows["threshold"].to_numpy().astype(np.float64), homolog_r)
    for control in direction.controls:
        found = rows_of(matches, direction, control).select(*FEATURE, pl.col("r").alias("control_r"))
        r = rows.join(found, on=FEATURE, how="left", maintain_order="left")["control_r"].to_numpy()
        above = np.nextafter(r.astype(np.float32), np.float32(np.inf)).astype(np.float64)
        bar = np.where(np.isnan(above), bar, np.maximum(bar, above))
    return bar


def rows_of(matches: pl.DataFrame, direction: Direction, of: tuple[str, str] | None = None) -> pl.DataFrame:
    """The rows of a direction in the main comparison, or of its features in another (comparison, best_model)."""
    comparison, best_model = ("main", direction.best_model) if of is None else of
    chosen = (pl.col("comparison") == comparison) & (pl.col("model") == direction.model)
    return matches.filter(chosen & (pl.col("best_model") == best_model))


def verdict(
    matches: pl.DataFrame,
    direction: Direction,
    replicates: Float[np.ndarray, "features replicates"],
    control_replicates: Float[np.ndarray, "features replicates"],
    saes: pl.DataFrame,
    *,
    fdr: float,
    homolog_r: float,
) -> tuple[Verdict, np.ndarray]:
    """The verdict of a direction, and for each of its rows whether the feature has a homolog (bool).

    matches: the whole table, with the columns of null and stability.  replicates: r of the direction's rows on
    resampled documents.  control_replicates: on the same documents the highest r of these features under any control,
    NaN where there is none.  saes: that table, for the quality gates.
    """
    rows, bar = rows_of(matches, direction), bars(matches, direction, homolog_r)
    r = rows["r"].to_numpy().astype(np.float64)
    alive = rows["n_active"].to_numpy() > 0
    homolog = r >= bar  # False where r or bar is NaN
    fixed = np.maximum(rows["threshold"].to_numpy(), homolog_r)[alive, None]
    passed = (replicates[alive] >= fixed) & ~(replicates[alive] <= control_replicates[alive])
    share, error = _share(homolog, alive), passed.mean(axis=0).std(ddof=1) if alive.any() else np.nan
    ceiling = None
    if direction.second is not None:
        second = ("sae-seed", direction.second)
        own = rows_of(matches, direction, second)
        if len(own):
            found = own["r"].to_numpy() >= bars(matches, direction, homolog_r, second)
            ceiling = _share(found, own["n_active"].to_numpy() > 0)
    stable = rows["stable"]
    significant = rows["q"].to_numpy() <= fdr
    given, reason = _may_be_read(direction, saes, bool(np.isfinite(rows["q"].to_numpy()).any()))
    made = Verdict(
        model=direction.model,
        best_model=direction.best_model,
        n_features=len(rows),
        n_alive=int(alive.sum()),
        share=share,
        lo=float(max(0.0, share - 1.96 * error)),
        hi=float(min(1.0, share + 1.96 * error)),
        ceiling=ceiling,
        mean_r=_mean(r),
        mean_excess=_mean(rows["excess"].to_numpy().astype(np.float64)),
        share_significant=_share(significant, alive),
        share_mutual=_share(rows["mutual"].to_numpy(), alive),
        share_one_to_one=_share(rows["partner_layer"].to_numpy() >= 0, alive),
        share_stable=None if stable.null_count() == len(stable) else _share(stable.fill_null(False).to_numpy(), alive),
        given=given,
        reason=reason,
    )
    return made, homolog


def _may_be_read(direction: Direction, saes: pl.DataFrame, has_null: bool) -> tuple[bool, str]:
    """(whether the share is given, why not or what is missing)."""
    names = (direction.model, direction.best_model)
    failed = saes.filter(pl.col("model").is_in(names) & (pl.col("label") == "sae") & ~pl.col("passed"))
    if len(failed):
        first = failed.row(0, named=True)
        total = len(saes.filter(pl.col("model").is_in(names) & (pl.col("label") == "sae")))
        return False, (
            f"{len(failed)} of {total} dictionaries miss their quality gates, first {first['model']} layer "
            f"{first['layer']} ({first['reason']})"
        )
    if not has_null:
        return False, "no null of the maximum was run (matching.null_shifts is 0)"
    missing = [words for name, words in CONTROLS.items() if name not in {control for control, _ in direction.controls}]
    return True, f"Not held against {' and '.join(missing)}, which was not run" if missing else ""


def _share(found: np.ndarray, among: np.ndarray) -> float:
    return float(found[among].mean()) if among.any() else float("nan")


def _mean(values: np.ndarray) -> float:
    defined = values[~np.isnan(values)]
    return float(defined.mean()) if len(defined) else float("nan")


def _percent(share: float) -> str:
    return f"{100 * share:.0f} %"
