"""What share of the features of a model has a homolog in another, and the words for it.

    share = features with a homolog / features alive (active on at least one token)

Which features have one: `homologs`.

Interval: documents are resampled, each partner and bar held fixed, and the share is counted in
every replicate, of the features that documents do not leave in doubt (`fails`).  A replicate adds
the noise of resampling to correlations that carry it already, and so carries features over the bar
one way more than the other; the 2.5 and 97.5 % quantiles [Efron & Tibshirani 1993, ch. 13] are
therefore taken about the mean of the replicates and laid around the share.  It covers other text of
this kind and length, for these models, dictionaries and controls.

Ceiling: the share whose match would reach the bar, above the same controls and significant in that
comparison, if the partner were A itself with dictionaries of another seed: no other model can be
expected to do better.

A verdict is withheld when a main dictionary of either model missed its quality gates or was not
measured, and when the null was not run.  Baselines that were not run, and those that are not as
well fitted as what they control, are named in the words.

Source: Efron & Tibshirani, "An Introduction to the Bootstrap", 1993.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import polars as pl
from jaxtyping import Float

from homolog.errors import InputError
from homolog.matching.homologs import Baseline, Criterion
from homolog.matching.intervals import INTERVAL
from homolog.matching.tables import FEATURE, MATCHES, RESAMPLED, SHARED, STABILITY
from homolog.record.names import listed
from homolog.record.sides import MAIN_LABEL
from homolog.record.table import completed

_ROWS_AT_ONCE = 1 << 16


def verdicts(
    classified: pl.DataFrame,
    saes: pl.DataFrame | None,
    criterion: Criterion,
    *,
    ceiling: str | None,
    unfit: Mapping[tuple[str, str], str] | None = None,
    withheld: Mapping[str, str] | None = None,
    resampled: Mapping[tuple[str, str], np.ndarray] | None = None,
) -> pl.DataFrame:
    """One row of `SHARED` for each ordered pair of main dictionaries of the result, in its order.

    classified: what `homologs.classify` made of the matches with the same criterion; columns of
    matches.parquet that other steps add may be missing.  saes: model, label, layer, passed, reason
    of every dictionary; None where the features are of no dictionaries that have gates.  ceiling:
    name of the comparison of a model with a second dictionary of its own; None where it is not
    asked.  unfit: why a baseline is not used (`control_fit.fitted`).  withheld: by model, why there
    is no verdict on its features that tables do not tell.  resampled: the
    shares on resampled documents (`resampled_shares`); no interval without.

    Shares are of alive features, in 0 ... 1; null where not measured or withheld.
    share_significant: q <= fdr.  share_mutual, share_stable: with a homolog that is the mutual best
    partner, or that comes back across SAE seeds.  share_one_to_one: whose one-to-one partner
    reaches the bar.  mean_r, mean_excess: over defined features.  given: False when withheld;
    `reason` then says why, and is "" otherwise.
    """
    classified = completed(classified, MATCHES | STABILITY)
    main = {"label": MAIN_LABEL, "best_label": MAIN_LABEL}
    result = classified.filter(comparison=criterion.result, **main)
    records: list[dict[str, Any]] = []
    for (model, other), rows in result.group_by("model", "best_model", maintain_order=True):
        alive = int((rows["n_active"] > 0).sum())
        reasons = [why for name in (model, other) for why in _failed_gates(saes, name)]
        if not alive:
            reasons.append(f"no feature of {model} is active on this text")
        elif withheld and model in withheld:
            reasons.append(withheld[model])
        elif not _calibrated(rows):
            reasons.append("the null of the maximum was not run")
        numbers = {"mean_r": _mean(rows["r"]), "mean_excess": _mean(rows["excess"])}
        notes = [f"No verdict on {model} in {other}: {'; '.join(reasons)}."]
        if not reasons:
            highest, no_ceiling = _ceiling(rows, classified, ceiling, saes, criterion)
            numbers |= _shares(rows, alive) | {"ceiling": highest}
            numbers |= _interval((resampled or {}).get((model, other), np.empty(0)))
            notes = [_headline(model, other, numbers)]
            notes += _without(criterion.baselines, unfit or {}, classified, (model, other))
            notes += [f"There is no ceiling: {no_ceiling}."] if no_ceiling else []
        records.append(
            {"model": model, "best_model": other, "n_features": len(rows), "n_alive": alive}
            | numbers
            | {"given": not reasons, "reason": "; ".join(reasons), "words": " ".join(notes)}
        )
    return pl.DataFrame(records, schema=SHARED)


def _calibrated(rows: pl.DataFrame) -> bool:
    """Whether the null of the maximum was run for these matches."""
    return bool((rows["threshold"].is_not_nan() & rows["threshold"].is_not_null()).any())


def _failed_gates(saes: pl.DataFrame | None, model: str, label: str = MAIN_LABEL) -> list[str]:
    """Why the dictionaries of a model and label give no verdict: at most one reason."""
    if saes is None:
        return []
    own = saes.filter(model=model, label=label).sort("layer")
    failed = own.filter(~pl.col("passed"))
    name = f"dictionaries of {model}" + (f" ({label})" if label != MAIN_LABEL else "")
    if own.is_empty():
        return [f"the {name} were not measured"]
    if failed.is_empty():
        return []
    first = f"block {failed['layer'][0]}: {failed['reason'][0] or 'no reason recorded'}"
    miss = "misses" if len(failed) == 1 else "miss"
    return [f"{len(failed)} of the {len(own)} {name} {miss} the quality gates ({first})"]


def _mean(values: pl.Series) -> float | None:
    """Mean of the defined values in float64; None where there are none."""
    defined = values.cast(pl.Float64).drop_nans().drop_nulls()
    return float(defined.mean()) if len(defined) else None  # type: ignore[arg-type]


def _shares(rows: pl.DataFrame, alive: int) -> dict[str, float | None]:
    """Shares of alive features; null where the column was not measured."""
    homolog = rows["homolog"].fill_null(False)
    rare = rows["fails"].str.contains("rare").fill_null(False)
    r, partner_r = rows["r"].fill_nan(None), rows["partner_r"].fill_nan(None)
    counts = {"share": homolog, "share_significant": r >= rows["threshold"]}
    for name, column in (("share_mutual", "mutual"), ("share_stable", "stable")):
        if rows[column].is_not_null().any():
            counts[name] = homolog & rows[column].fill_null(False)
    if partner_r.is_not_null().any():
        counts["share_one_to_one"] = (partner_r >= rows["bar"]) & ~rare
    return {name: int(count.sum()) / alive for name, count in counts.items()}


def _ceiling(
    rows: pl.DataFrame,
    classified: pl.DataFrame,
    ceiling: str | None,
    saes: pl.DataFrame | None,
    criterion: Criterion,
) -> tuple[float | None, str]:
    """(share with a second dictionary of the own model, "") or (None, why not, "" if not asked).

    rows: of the result; ceiling: the comparison with second dictionaries, of which the first
    counts; None where that is not asked for.
    """
    if ceiling is None:
        return None, ""
    model = rows["model"][0]
    seed = classified.filter(comparison=ceiling, model=model, label=MAIN_LABEL)
    seed = seed.filter(pl.col("best_label") == pl.col("best_label").min())
    if seed.is_empty():
        return None, f"{model} was not compared with another seed of its own dictionary"
    if not _calibrated(seed):
        return None, "the null of the maximum was not run for another seed of its own dictionary"
    if failed := _failed_gates(saes, model, seed["best_label"][0]):
        return None, failed[0]
    controls = rows.select(*FEATURE, "control_r")
    joined = seed.drop("control_r").join(controls, on=FEATURE, how="left", validate="1:1")
    reached = (joined["r"].to_numpy() >= criterion.bar(joined)) & ~criterion.is_rare(joined)
    return int(reached.sum()) / int((rows["n_active"] > 0).sum()), ""


def _interval(shares: Float[np.ndarray, " replicate"]) -> dict[str, float | None]:
    """lo and hi of the share: see the module's opening."""
    if not len(shares):
        return {"lo": None, "hi": None}
    lo, hi = np.clip(np.quantile(shares, INTERVAL), 0, 1)
    return {"lo": float(lo), "hi": float(hi)}


def resampled_shares(
    classified: pl.DataFrame, result: str, replicates: Mapping[tuple[str, str], np.ndarray]
) -> dict[tuple[str, str], Float[np.ndarray, " replicate"]]:
    """The shares of ordered pairs on resampled documents, each laid around that of all documents.

    classified: what `homologs.classify` made of the matches.  result: name of the comparison.
    replicates: for (model, best_model), float32 (rows, replicates), r of that pair's rows in their
    order on resampled documents, partners fixed (`replicates_of`).  A number of a resample is the
    same documents in all pairs.  A pair has none where nothing fires or was resampled.

    Raises InputError for another number of rows of replicates.
    """
    main = classified.filter(comparison=result, label=MAIN_LABEL, best_label=MAIN_LABEL)
    return {
        (model, other): _resampled(main.filter(model=model, best_model=other), own)
        for (model, other), own in replicates.items()
    }


def _resampled(rows: pl.DataFrame, replicates: np.ndarray) -> Float[np.ndarray, " replicate"]:
    """Of one pair."""
    if replicates.shape[:1] != (len(rows),):
        raise InputError(
            "replicates",
            replicates.shape,
            f"the pair has {len(rows)} rows, and needs one row of replicates for each",
            "Resample the same matches.",
        )
    alive = int((rows["n_active"] > 0).sum())
    if not alive or np.isnan(replicates).all():
        return np.empty(0)
    unsure = pl.col("fails").str.contains("documents|rare").fill_null(False)
    bar = rows.select(pl.when(~unsure).then("bar"))["bar"].to_numpy()  # NaN: never reached
    counts = np.zeros(replicates.shape[1], dtype=np.int64)
    for start in range(0, len(bar), _ROWS_AT_ONCE):
        here = slice(start, start + _ROWS_AT_ONCE)
        counts += (replicates[here] >= bar[here, None]).sum(axis=0)
    share, shares = int(rows["homolog"].sum()) / alive, counts / alive
    return share + shares - shares.mean()


def resampled_table(
    shared: pl.DataFrame, resampled: Mapping[tuple[str, str], np.ndarray]
) -> pl.DataFrame:
    """`RESAMPLED`: for each verdict of `shared` that is given, the share on every resample."""
    parts = [pl.DataFrame(schema=RESAMPLED)]
    for model, other in shared.filter("given").select("model", "best_model").iter_rows():
        if (model, other) not in resampled:
            continue
        shares = resampled[model, other]
        number = np.arange(len(shares), dtype=np.int32)
        pair = {"model": [model] * len(shares), "best_model": [other] * len(shares)}
        parts.append(pl.DataFrame({**pair, "resample": number, "share": shares}))
    return pl.concat(part.select(list(RESAMPLED)).cast(pl.Schema(RESAMPLED)) for part in parts)


def _without(
    baselines: Sequence[Baseline],
    unfit: Mapping[tuple[str, str], str],
    classified: pl.DataFrame,
    direction: tuple[str, str],
) -> list[str]:
    """In words, the controls that this direction goes without."""
    unused, missing = [], []
    for baseline in baselines:
        replaced = baseline.replaced(*direction)
        if why := unfit.get((baseline.name, replaced)):
            unused.append(why)
        elif not baseline.was_run(classified, *direction):
            missing.append(baseline.words.format(replaced))
    notes = [f"Controls that were not run: {listed(missing)}."] if missing else []
    # one model may stand for both
    return notes + [f"Not used as a control: {why}." for why in dict.fromkeys(unused)]


def _headline(model: str, other: str, numbers: Mapping[str, float | None]) -> str:
    share, lo, hi, ceiling = (numbers.get(name) for name in ("share", "lo", "hi", "ceiling"))
    between, digits = "", 0
    if lo is not None and hi is not None:
        digits = int(_percent(lo) == _percent(hi))  # a narrow interval needs the decimal
        between = f" ({_percent(lo, digits).removesuffix('%')} to {_percent(hi, digits)})"
    start = f"{_percent(share, digits)}{between} of the features of {model}"
    above = ""
    if ceiling is not None:
        above = f"; with another seed of its own dictionary it is {_percent(ceiling)}"
    return f"{start} have a homolog in {other}{above}."


def _percent(share: float | None, digits: int = 0) -> str:
    """Percents with `digits`, one below 10 %."""
    percent = 100 * (share or 0)
    digits = 1 if 0 < percent < 9.95 else digits
    return "<0.1%" if 0 < percent < 0.1 else f"{percent:.{digits}f}%"
