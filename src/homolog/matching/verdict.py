"""Which features have a homolog in the other model, what share of them, and the words for it.

A feature i of A has a *homolog* in B when its best partner's correlation r

    1. is significant: Benjamini-Hochberg q <= fdr against the null of the maximum, that is r >= threshold;
    2. is higher than i's own best r in every control run for it: an untrained twin of B ("random-model"), B's
       dictionaries turned at random ("rotated"), the current token ("tokens");
    3. has no rival: it is at least `rival_ratio`, 0.7 by default, of the partner's highest r with any feature of A;
    4. is at least `homolog_r`, 0.2 by default;

in one number, r >= bar with bar = max(threshold, next above the controls' r, rival_ratio * rival_r,
homolog_r).

Why rivals and a floor: at a million tokens r = 0.05 is significant, and superposition leaks that
much and more from anything active on the same tokens.  A leak is a true correlation, but the
feature that leaks resembles its source much more.  The ratio leaves room for what a residual stream
carries through several layers and for a feature of B that A splits in parts of about one size,
which a mutual best match would not.  r^2 is the share of i's variance that the best line through
the partner explains; where B splits i into m equal parts that fire in turn, each has r = 1 /
sqrt(m).  0.2 asks for 4 %, or for one part of at most 25.  docs/methods-planted-truth.md measures
both against known partners.

    share = features with a homolog / features alive (active on at least one token)

Interval: documents are resampled, each partner and bar held fixed, and the share is counted in
every replicate.  A replicate adds the noise of resampling to correlations that carry it already,
and so carries features over the bar one way more than the other; the 2.5 and 97.5 % quantiles
[Efron & Tibshirani 1993, ch. 13] are therefore taken about the mean of the replicates and laid
around the share.  It covers other text of this kind and length, for these models, dictionaries and
controls.

Ceiling: the share that would have a homolog, above the same controls and floor and significant in
that comparison, if the partner were A itself with dictionaries of another seed ("sae-seed"): no
other model can be expected to do better.

A verdict is withheld when a main dictionary of either model missed its quality gates or was not
judged, and when the null was not run.  Controls that were not run are named in the words.

Source: Efron & Tibshirani, "An Introduction to the Bootstrap", 1993.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import polars as pl

from homolog.errors import InputError

HOMOLOG_R = 0.2
RIVAL_RATIO = 0.7
CONTROLS = ("random-model", "rotated", "tokens")
SHARED_SCHEMA = {
    "model": pl.String,
    "best_model": pl.String,
    **dict.fromkeys(("n_features", "n_alive"), pl.Int64),
    **dict.fromkeys(("share", "lo", "hi", "ceiling", "mean_r", "mean_excess"), pl.Float64),
    **dict.fromkeys(
        ("share_significant", "share_mutual", "share_one_to_one", "share_stable"), pl.Float64
    ),
    "given": pl.Boolean,
    **dict.fromkeys(("reason", "words"), pl.String),
}
_FEATURE = ["model", "layer", "feature"]
_ROWS_AT_ONCE = 1 << 16


@dataclass(frozen=True)
class Verdict:
    """One ordered pair: what share of the features of `model` has a homolog in `best_model`; a row
    of shared.parquet.

    Shares are of alive features, in 0 ... 1; None where not measured or withheld.
    share_significant: q <= fdr.
    share_mutual, share_stable: with a homolog that is the mutual best partner, or that comes back
    across SAE seeds.
    share_one_to_one: whose one-to-one partner reaches the bar.  mean_r, mean_excess: over defined
    features.
    given: False when withheld; `reason` then says why, and is "" otherwise.
    """

    model: str
    best_model: str
    n_features: int
    n_alive: int
    share: float | None
    lo: float | None
    hi: float | None
    ceiling: float | None
    mean_r: float | None
    mean_excess: float | None
    share_significant: float | None
    share_mutual: float | None
    share_one_to_one: float | None
    share_stable: float | None
    given: bool
    reason: str
    words: str

    def as_record(self) -> dict[str, str | int | float | None]:
        """The row, plain values in the order of `SHARED_SCHEMA`."""
        return asdict(self)


def judge(
    matches: pl.DataFrame,
    untrained: Mapping[str, str],
    *,
    homolog_r: float = HOMOLOG_R,
    rival_ratio: float = RIVAL_RATIO,
) -> pl.DataFrame:
    """`matches` with `rival_r`, and for the comparison "main" `control_r`, `bar` (Float32) and
    `homolog` (Boolean).

    matches: of all comparisons, both directions, with r and `threshold` (`Calibration.threshold`),
    NaN or left out where no null was run; rows keep their order.  untrained: the untrained twin of
    each compared model that has one, by name.  rival_r: highest r of the best partner with any
    feature of the own model, the feature itself among them; null where r is NaN or the other
    direction is missing.  control_r: highest r of the controls, bar: least r of a homolog. The last
    three are null in other comparisons; control_r where no control was run, bar and homolog without
    a null and where r is NaN.
    """
    plain = matches.drop("rival_r", "control_r", "bar", "homolog", strict=False).with_row_index(
        "_row"
    )
    if "threshold" not in plain.columns:
        plain = plain.with_columns(threshold=pl.lit(float("nan"), pl.Float32))
    plain = _with_rivals(plain)
    main = plain.filter(pl.col("comparison") == "main")
    for name in CONTROLS:
        keys = _FEATURE if name == "tokens" else [*_FEATURE, "best_model"]
        main = main.join(
            _control(plain, name, untrained),
            on=keys,
            how="left",
            maintain_order="left",
            validate="m:1",
        )
    main = main.with_columns(control_r=pl.max_horizontal(CONTROLS))
    bar = _bar(main, homolog_r, rival_ratio)
    bar[np.isnan(main["r"].to_numpy())] = np.nan
    judged = main.select("_row", "control_r", bar=pl.Series(bar).fill_nan(None)).with_columns(
        homolog=main["r"] >= pl.col("bar")
    )
    return plain.join(judged, on="_row", how="left", maintain_order="left").drop("_row")


def _with_rivals(matches: pl.DataFrame) -> pl.DataFrame:
    """The rows with `rival_r`: the partner's own row in the other direction of the same comparison."""
    partner = {
        "best_model": "model",
        "best_layer": "layer",
        "best_feature": "feature",
        "model": "best_model",
    }
    back = matches.select(
        "comparison", *(pl.col(own).alias(name) for name, own in partner.items()), rival_r="r"
    )
    found = matches.join(
        back, on=["comparison", *partner], how="left", maintain_order="left", validate="m:1"
    )
    return found.with_columns(pl.col("rival_r").fill_nan(None))


def _bar(rows: pl.DataFrame, homolog_r: float, rival_ratio: float) -> np.ndarray:
    """Least r of a homolog, float32; NaN where there is no threshold."""
    above = np.nextafter(
        rows["control_r"].to_numpy().astype(np.float32), np.float32(np.inf)
    )  # NaN without controls
    floor = np.fmax(rival_ratio * rows["rival_r"].to_numpy().astype(np.float64), homolog_r)
    near = floor.astype(np.float32)
    least = np.where(near < floor, np.nextafter(near, np.float32(np.inf)), near)
    return np.maximum(rows["threshold"].to_numpy().astype(np.float32), np.fmax(above, least))


def _control(matches: pl.DataFrame, name: str, untrained: Mapping[str, str]) -> pl.DataFrame:
    """Best r of each feature in a control, as a column `name`, with the compared model that it is a
    control of.
    """
    rows = matches.filter((pl.col("comparison") == name) & pl.col("r").is_not_nan())
    keys = list(_FEATURE)
    if name != "tokens":
        of = [(twin, model) for model, twin in untrained.items()]
        of += [
            (turned, turned.removesuffix("@rotated"))
            for turned in rows["best_model"].unique()
            if "@" in turned
        ]
        partner = pl.DataFrame(of, schema={"best_model": pl.String, "of": pl.String}, orient="row")
        rows = rows.join(partner, on="best_model").drop("best_model").rename({"of": "best_model"})
        keys.append("best_model")
    return rows.group_by(keys).agg(pl.col("r").max().alias(name))


def verdicts(
    judged: pl.DataFrame,
    saes: pl.DataFrame,
    untrained: Mapping[str, str],
    replicates: Mapping[tuple[str, str], np.ndarray] | None = None,
    *,
    homolog_r: float = HOMOLOG_R,
    rival_ratio: float = RIVAL_RATIO,
) -> list[Verdict]:
    """One verdict for each ordered pair of the comparison "main", in the order of its rows.

    judged: what `judge` made of the matches, with the same `untrained`, homolog_r and rival_ratio;
    columns of matches.parquet that other steps add may be missing.  saes: model, label, layer,
    passed, reason of every dictionary.
    replicates: for (model, best_model), float32 (rows, replicates), r of that pair's rows in their
    order on resampled documents, partners fixed (`resampled_pairs`); no interval without.  Raises
    InputError for another number of rows.
    """
    main = judged.filter(pl.col("comparison") == "main")
    pairs = main.select("model", "best_model").unique(maintain_order=True).rows()
    found = []
    for model, other in pairs:
        rows = main.filter((pl.col("model") == model) & (pl.col("best_model") == other))
        seed = judged.filter((pl.col("comparison") == "sae-seed") & (pl.col("model") == model))
        alive = int((rows["n_active"] > 0).sum())
        reasons = [*_failed_gates(saes, model), *_failed_gates(saes, other)]
        if not alive:
            reasons.append(f"no feature of {model} is active on this text")
        elif rows["threshold"].is_nan().all():
            reasons.append("the null of the maximum was not run")
        measured = [name for name, kind in SHARED_SCHEMA.items() if kind == pl.Float64]
        numbers: dict[str, Any] = dict.fromkeys(measured)
        numbers |= {"mean_r": _mean(rows, "r"), "mean_excess": _mean(rows, "excess")}
        notes = [f"No verdict on {model} in {other}: {'; '.join(reasons)}."]
        if not reasons:
            missing = _missing_controls(judged, model, other, untrained)
            ceiling, no_ceiling = _ceiling(rows, seed, saes, alive, homolog_r, rival_ratio)
            numbers |= _shares(rows, alive) | {"ceiling": ceiling}
            if replicates is not None and (model, other) in replicates:
                numbers |= _interval(rows, replicates[model, other], alive)
            notes = [_headline(model, other, numbers)]
            notes += [f"Controls that were not run: {_listed(missing)}."] if missing else []
            notes += [f"There is no ceiling: {no_ceiling}."] if no_ceiling else []
        record = numbers | {
            "given": not reasons,
            "reason": "; ".join(reasons),
            "words": " ".join(notes),
        }
        found.append(
            Verdict(model=model, best_model=other, n_features=len(rows), n_alive=alive, **record)
        )
    return found


def shared_table(found: Sequence[Verdict]) -> pl.DataFrame:
    """The verdicts as rows of `SHARED_SCHEMA`."""
    return pl.DataFrame([verdict.as_record() for verdict in found], schema=SHARED_SCHEMA)


def _failed_gates(saes: pl.DataFrame, model: str, label: str = "sae") -> list[str]:
    """Why the dictionaries of a model and label give no verdict, if they do not: at most one
    reason.
    """
    own = saes.filter((pl.col("model") == model) & (pl.col("label") == label)).sort("layer")
    failed = own.filter(~pl.col("passed"))
    name = f"dictionaries of {model}" + (f" ({label})" if label != "sae" else "")
    if own.is_empty():
        return [f"the {name} were not judged"]
    if failed.is_empty():
        return []
    first = f"block {failed['layer'][0]}: {failed['reason'][0] or 'no reason recorded'}"
    return [
        f"{len(failed)} of the {len(own)} {name} {'misses' if len(failed) == 1 else 'miss'} the "
        f"quality gates ({first})"
    ]


def _missing_controls(
    judged: pl.DataFrame, model: str, other: str, untrained: Mapping[str, str]
) -> list[str]:
    """Controls that say nothing of this pair, in words."""
    run = judged.filter((pl.col("model") == model) & pl.col("comparison").is_in(CONTROLS))
    partners = set(run.select("comparison", "best_model").unique().rows())
    names = {
        "an untrained " + other: ("random-model", untrained.get(other)) in partners,
        f"{other} with rotated dictionaries": ("rotated", f"{other}@rotated") in partners,
        "the current token": any(comparison == "tokens" for comparison, _ in partners),
    }
    return [name for name, was_run in names.items() if not was_run]


def _mean(rows: pl.DataFrame, name: str) -> float | None:
    values = (
        rows[name].cast(pl.Float64).drop_nans().drop_nulls()
        if name in rows.columns
        else pl.Series([])
    )
    return float(values.mean()) if len(values) else None  # type: ignore[arg-type]


def _shares(rows: pl.DataFrame, alive: int) -> dict[str, float | None]:
    """Shares of alive features; None where the column was not measured."""
    homolog = rows["homolog"].fill_null(False)
    counts = {
        "share": homolog,
        "share_significant": (rows["r"] >= rows["threshold"]) & rows["r"].is_not_nan(),
    }
    for name, column in (("share_mutual", "mutual"), ("share_stable", "stable")):
        if column in rows.columns and rows[column].is_not_null().any():
            counts[name] = homolog & rows[column].fill_null(False)
    if "partner_r" in rows.columns and rows["partner_r"].is_not_nan().any():
        counts["share_one_to_one"] = (
            (rows["partner_r"] >= rows["bar"]) & rows["partner_r"].is_not_nan()
        ).fill_null(False)
    return {name: int(count.sum()) / alive for name, count in counts.items()}


def _ceiling(
    rows: pl.DataFrame,
    seed: pl.DataFrame,
    saes: pl.DataFrame,
    alive: int,
    homolog_r: float,
    rival_ratio: float,
) -> tuple[float | None, str]:
    """(share under the SAE-seed skyline, "") or (None, why not); of several second dictionaries the
    first counts.
    """
    model = rows["model"][0]
    seed = seed.filter(pl.col("best_model") == pl.col("best_model").min())
    if seed.is_empty():
        return None, f"{model} was not compared with another seed of its own dictionary"
    if seed["threshold"].is_nan().all():
        return None, "the null of the maximum was not run for another seed of its own dictionary"
    if failed := _failed_gates(saes, model, seed["best_model"][0].rsplit("@", 1)[-1]):
        return None, failed[0]
    controls = rows.select(*_FEATURE, "control_r")
    joined = seed.drop("control_r").join(controls, on=_FEATURE, how="left", validate="1:1")
    bar = _bar(joined, homolog_r, rival_ratio)
    return int((joined["r"].to_numpy() >= bar).sum()) / alive, ""


def _interval(rows: pl.DataFrame, replicates: np.ndarray, alive: int) -> dict[str, float | None]:
    """lo and hi of the share: see the module's opening."""
    if replicates.shape[:1] != (len(rows),):
        raise InputError(
            "replicates",
            replicates.shape,
            f"the pair has {len(rows)} rows, and needs one row of replicates for each",
            "Resample the same matches.",
        )
    if np.isnan(replicates).all():
        return {"lo": None, "hi": None}
    bar = rows["bar"].to_numpy()
    counts = np.zeros(replicates.shape[1], dtype=np.int64)
    for start in range(0, len(bar), _ROWS_AT_ONCE):
        here = slice(start, start + _ROWS_AT_ONCE)
        counts += (replicates[here] >= bar[here, None]).sum(axis=0)
    share = int(rows["homolog"].sum()) / alive
    lo, hi = np.clip(
        share + np.quantile(counts / alive, [0.025, 0.975]) - (counts / alive).mean(), 0, 1
    )
    return {"lo": float(lo), "hi": float(hi)}


def _headline(model: str, other: str, numbers: Mapping[str, float | None]) -> str:
    share, lo, hi, ceiling = (numbers[name] for name in ("share", "lo", "hi", "ceiling"))
    between, digits = "", 0
    if lo is not None and hi is not None:
        digits = int(_percent(lo) == _percent(hi))  # a narrow interval needs the decimal
        between = f" ({_percent(lo, digits).removesuffix('%')} to {_percent(hi, digits)})"
    text = (
        f"{_percent(share, digits)}{between} of the features of {model} have a homolog in {other}"
    )
    return text + (
        f"; with another seed of its own dictionary it is {_percent(ceiling)}."
        if ceiling is not None
        else "."
    )


def _percent(share: float | None, digits: int = 0) -> str:
    """Percents with `digits`, one below 10 %."""
    percent = 100 * (share or 0)
    return "<0.1%" if 0 < percent < 0.1 else f"{percent:.{1 if 0 < percent < 9.95 else digits}f}%"


def _listed(names: Sequence[str]) -> str:
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"
