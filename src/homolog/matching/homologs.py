"""Which features have a homolog in the other model: matches classified against their controls.

A feature i of A has a *homolog* in B when its best partner, of correlation r,

    chance      is significant: Benjamini-Hochberg q <= fdr against the null of the maximum, that
                is, r >= threshold;
    controls    explains at least `margin`, 0.04 by default, more of i's variance than all controls
                are credited with: r^2 >= (1 + credit) control_r^2 + margin, credit 0.1 by default,
                control_r^2 what they explain of it together.  The controls stand in B's place, or
                in A's, and cannot have learned the same; in a study, the current token, untrained
                twins of B and of A, and B's dictionaries turned at random (`beyond` has the
                equations);
    documents   does so beyond what another draw of documents would move: Benjamini-Hochberg q of
                r^2 <= control_r^2, from documents, at most fdr.  It is asked where the controls
                explain more than half of what the partner does; below that, chance alone would
                have to double what they explain, and rare features would be lost for nothing;
    rare        fires together with it in `least_documents` documents, 3 by default, at least;
    rival       resembles no other feature of A much more: r is at least `rival_ratio`, 0.7 by
                default, of the partner's highest r with any feature of A.

Chance, controls and rival are one number, r >= bar with bar = max(threshold,
sqrt((1 + credit) control_r^2 + margin), rival_ratio * rival_r).

Why a margin: r^2 is the share of i's variance that the best line through the partner explains, and
so is the margin, an effect size.  0.04 asks for r = 0.2 where the controls explain nothing, 0.73
where they explain half without the credit, and is more than another seed of an untrained twin or
another rotation moves what they explain; docs/controls.md measures that.  Where B splits i into m
equal parts that fire in turn, each has r = 1 / sqrt(m): one part of at most 25 passes.

Why a credit: a control is a copy with noise and leaks of its own, and what it misses by them grows
with what it explains.

Why documents are counted: two features that fire on one token of the text, the same, have r = 1,
and nothing is known of either elsewhere (`together`).

Why rivals: at a million tokens r = 0.05 is significant, and superposition leaks that much and more
from anything active on the same tokens.  A leak is a true correlation, but the feature that leaks
resembles its source much more.  The ratio leaves room for what a residual stream carries through
several layers and for a feature of B that A splits in parts of about one size, which a mutual best
match would not.  docs/methods-planted-truth.md measures all of it against known partners.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import polars as pl

from homolog.matching.null import benjamini_hochberg, rounded_up
from homolog.matching.tables import BEYOND, FEATURE, HOMOLOGS, MATCHES, PARTNER, TOGETHER
from homolog.record.sides import MAIN_LABEL
from homolog.record.table import completed

MARGIN = 0.04
CREDIT = 0.1
EXPLAINED = 0.5
"""Of what the partner explains: where controls explain more, "documents" is asked."""
RIVAL_RATIO = 0.7
LEAST_DOCUMENTS = 3
FDR = 0.01
LEAST_R = MARGIN**0.5
"""r of a homolog where the controls explain nothing, at least."""
CONDITIONS = ("chance", "controls", "documents", "rare", "rival")


@dataclass(frozen=True)
class Baseline:
    """A comparison in which something that cannot have learned the same takes a partner's place.

    name: of the comparison.  words: what was compared, for people; {} is the name of the model that
    it stands for.  stand_ins: for each model by name, the (best_model, best_label) that takes its
    place; None: whatever was compared takes the place of every partner.  stands_for: "best_model",
    the partner, or "model", the feature's own, which need not have learned it either.  by_token: it
    is the current token, which explains what its means do rather than the best of its features.
    """

    name: str
    words: str
    stand_ins: Mapping[str, tuple[str, str]] | None = None
    stands_for: Literal["model", "best_model"] = "best_model"
    by_token: bool = False

    def partners(self, matches: pl.DataFrame, rows: pl.DataFrame) -> pl.DataFrame:
        """The best partner in this comparison of every row of the result, and its r: columns
        `PARTNER` and control_r, null where there is none.
        """
        own = matches.filter((pl.col("comparison") == self.name) & pl.col("r").is_not_nan())
        place = own.select(*FEATURE, *PARTNER, control_r="r")
        if self.stand_ins is None:
            place = place.sort("control_r", descending=True, maintain_order=True)
            place = place.unique(FEATURE, keep="first", maintain_order=True)
            return _joined(rows, place, FEATURE)
        of = [(partner, *stand_in) for partner, stand_in in self.stand_ins.items()]
        schema: dict[str, Any] = dict.fromkeys(("of", "best_model", "best_label"), pl.String)
        stand_ins = pl.DataFrame(of, schema=schema, orient="row")
        place = place.join(stand_ins, on=["best_model", "best_label"])
        return _joined(rows.with_columns(of=self.stands_for), place, [*FEATURE, "of"])

    def replaced(self, model: str, partner: str) -> str:
        """The name of the model that it stands for, of the two."""
        return partner if self.stands_for == "best_model" else model

    def was_run(self, matches: pl.DataFrame, model: str, partner: str) -> bool:
        """Whether `matches` hold `model`'s main features against what takes a place of the two."""
        run = matches.filter(comparison=self.name, model=model, label=MAIN_LABEL)
        if self.stand_ins is None:
            return not run.is_empty()
        return self.stand_ins.get(self.replaced(model, partner)) in set(
            run.select("best_model", "best_label").rows()
        )


def _joined(rows: pl.DataFrame, place: pl.DataFrame, keys: list[str]) -> pl.DataFrame:
    joined = rows.select(keys).join(place, on=keys, how="left", maintain_order="left")
    assert len(joined) == len(rows), f"several partners of a feature in a control: {keys}"
    return joined.select(*PARTNER, "control_r")


@dataclass(frozen=True)
class Criterion:
    """What makes a match a homolog: see the module's opening.

    result: name of the comparison whose matches are classified.  margin: least share of variance
    beyond what controls are credited with.  control_credit: what that is beyond what they explain,
    a share of it.  rival_ratio: least share of the partner's highest r.  fdr: at which what is
    beyond the controls has to stand over documents.  least_documents: in which it fires together
    with its partner, where they were counted.
    """

    result: str
    baselines: Sequence[Baseline] = ()
    margin: float = MARGIN
    control_credit: float = CREDIT
    rival_ratio: float = RIVAL_RATIO
    fdr: float = FDR
    least_documents: int = LEAST_DOCUMENTS

    @classmethod
    def of(cls, result: str, baselines: Sequence[Baseline], settings: Any) -> Criterion:
        """With the numbers of settings: of `homolog.match`, or of [matching] in a recipe."""
        names = ("margin", "control_credit", "rival_ratio", "fdr", "least_documents")
        return cls(result, baselines, **{name: getattr(settings, name) for name in names})

    def least(self, rows: pl.DataFrame) -> dict[str, np.ndarray]:
        """Least r by condition, float32 (rows,); NaN or infinite where there is no threshold.

        rows: with `threshold`, and `rival_r` and `control_r`, null where there is none.
        """
        control = np.nan_to_num(rows["control_r"].to_numpy().astype(np.float64))
        rival = np.nan_to_num(rows["rival_r"].to_numpy().astype(np.float64))
        return {
            "chance": rows["threshold"].to_numpy().astype(np.float32),
            "controls": rounded_up(np.sqrt((1 + self.control_credit) * control**2 + self.margin)),
            "rival": rounded_up(self.rival_ratio * rival),
        }

    def bar(self, rows: pl.DataFrame) -> np.ndarray:
        """The highest of `least`; NaN where there is no threshold."""
        return np.maximum.reduce(list(self.least(rows).values()))

    def is_rare(self, rows: pl.DataFrame) -> np.ndarray:
        """bool (rows,): fires together with its partner in too few documents, of those counted."""
        counted = completed(rows, TOGETHER)["documents"]
        return (counted < self.least_documents).fill_null(False).to_numpy()


def classify(
    matches: pl.DataFrame, criterion: Criterion, beyond: pl.DataFrame | None = None
) -> pl.DataFrame:
    """`matches` with `rival_r`, and for the result the other columns of `HOMOLOGS`.

    matches: of all comparisons, both directions, with r and `threshold` (`Calibration.threshold`),
    NaN or left out where no null was run; rows keep their order.  beyond: for each row of the
    result, in order, what `beyond.beyond_controls` says; control_r is never less than the highest r
    in any one control, and just that without it.  `documents` of matches is null, or left out,
    where they were not counted.
    rival_r: highest r of the best partner with any feature of the own model, the feature itself
    among them; null where r is NaN or the other direction is missing.  bar: least r of a homolog.
    All but rival_r are null in other comparisons, bar and homolog without a null and where r is
    NaN.
    """
    plain = matches.drop(HOMOLOGS, strict=False).with_row_index("_row")
    plain = _with_rivals(completed(plain, {"threshold": MATCHES["threshold"]}))
    result = plain.filter(pl.col("comparison") == criterion.result)
    singly = _singly(result, plain, criterion.baselines)
    beyond = singly if beyond is None else _at_least(beyond, singly)
    known = result.hstack(beyond.with_columns(pl.col(pl.Float32, pl.Float64).fill_nan(None)))
    q = _q_within(known)
    least, r = criterion.least(known), known["r"].to_numpy()
    bar = np.maximum.reduce(list(least.values()))
    bar[np.isnan(r)] = np.nan
    failed = {name: ~(r >= highest) for name, highest in least.items()}
    failed["documents"] = _asked(known) & (q > criterion.fdr)  # False where it was not tested
    failed["rare"] = criterion.is_rare(known)
    fails = [", ".join(n for n in CONDITIONS if failed[n][row]) for row in range(len(known))]
    classified = known.select(
        "_row",
        *(name for name in BEYOND if name in HOMOLOGS),
        beyond_q=pl.Series(q).fill_nan(None),
        bar=pl.Series(bar).fill_nan(None),
        fails=pl.Series(fails, dtype=pl.String),
    )
    undefined = pl.col("bar").is_null()
    classified = classified.with_columns(
        homolog=pl.when(~undefined).then(pl.col("fails") == ""),
        fails=pl.when(~undefined).then("fails"),
    )
    joined = plain.join(classified, on="_row", how="left", maintain_order="left").drop("_row")
    return joined.select(pl.exclude(*HOMOLOGS), *HOMOLOGS)


def _singly(
    result: pl.DataFrame, matches: pl.DataFrame, baselines: Sequence[Baseline]
) -> pl.DataFrame:
    """`BEYOND` as far as tables tell: of the best control by itself."""
    partners = {b.name: b.partners(matches, result)["control_r"] for b in baselines}
    known = pl.DataFrame({"r": result["r"], **partners})
    highest = pl.max_horizontal(pl.lit(None, pl.Float32), *partners)
    known = known.select("r", control_r=highest)
    beyond = pl.col("r") ** 2 - pl.col("control_r").fill_null(0) ** 2
    return (
        completed(known.with_columns(beyond=beyond), BEYOND).select(*BEYOND).cast(pl.Schema(BEYOND))
    )


def _at_least(beyond: pl.DataFrame, singly: pl.DataFrame) -> pl.DataFrame:
    """Controls explain together at least what the best of them does, whose means by token are not
    taken in other documents.
    """
    return beyond.with_columns(
        control_r=pl.max_horizontal(beyond["control_r"].fill_nan(None), singly["control_r"]),
        beyond=pl.min_horizontal(beyond["beyond"].fill_nan(None), singly["beyond"]),
    )


def _asked(rows: pl.DataFrame) -> np.ndarray:
    """Where "documents" is: controls explain more than `EXPLAINED` of what the partner does."""
    control = rows["control_r"].fill_null(0).to_numpy().astype(np.float64)
    return control**2 > EXPLAINED * rows["r"].to_numpy().astype(np.float64) ** 2


def _q_within(rows: pl.DataFrame) -> np.ndarray:
    """Benjamini-Hochberg q of `beyond_p` within each direction; NaN where it was not tested."""
    q = np.full(len(rows), np.nan)
    numbered = rows.select("model", "label", "best_model", "best_label", "beyond_p")
    numbered = numbered.with_row_index("_at").filter(pl.col("beyond_p").is_not_null())
    for _, part in numbered.group_by("model", "label", "best_model", "best_label"):
        q[part["_at"].to_numpy()] = benjamini_hochberg(part["beyond_p"].to_numpy())
    return q


def _with_rivals(matches: pl.DataFrame) -> pl.DataFrame:
    """The rows with `rival_r`: r of the partner's own row in the other direction."""
    partner = {f"best_{name}": name for name in FEATURE}
    partner |= {"model": "best_model", "label": "best_label"}
    back = matches.select(
        "comparison", *(pl.col(own).alias(name) for name, own in partner.items()), rival_r="r"
    )
    rows = matches.join(
        back, on=["comparison", *partner], how="left", maintain_order="left", validate="m:1"
    )
    return rows.with_columns(pl.col("rival_r").fill_nan(None))
