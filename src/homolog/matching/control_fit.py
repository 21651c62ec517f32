"""Is a control as well fitted as what it controls?

A dictionary that misses half of what an untrained model holds finds less of it than that model has,
and a match is then above the control for want of a control.  So a control with dictionaries of its
own is used for a partner only where

    mean over layers of its explained variance  >=  that of the dictionaries it replaces - gap

and otherwise left out, and the verdict says so.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import polars as pl

from homolog.matching.homologs import Baseline
from homolog.record.sides import MAIN_LABEL

GAP = 0.1


@dataclass(frozen=True)
class FittedControls:
    """Controls as they may be used.

    baselines: each without the stand-ins that are not fitted.  left_out: by (name of the baseline,
    model that it stands for), why, in words.
    """

    baselines: list[Baseline]
    left_out: dict[tuple[str, str], str] = field(default_factory=dict)


def fitted(baselines: Sequence[Baseline], saes: pl.DataFrame, gap: float = GAP) -> FittedControls:
    """The controls that are as well fitted as what they control.

    saes: model, label, explained_variance of every dictionary; one that has no row has nothing to
    be fitted (it is derived from the partner's).
    """
    made = FittedControls([])
    for baseline in baselines:
        kept = {}
        for model, stand_in in (baseline.stand_ins or {}).items():
            own, other = _explained(saes, *stand_in), _explained(saes, model, MAIN_LABEL)
            if own is None or other is None or own >= other - gap:
                kept[model] = stand_in
            else:
                made.left_out[baseline.name, model] = (
                    f"{stand_in[0]}, whose dictionaries explain {own:.0%} of the variance, "
                    f"where those of {model} explain {other:.0%}"
                )
        fits = baseline.stand_ins is None
        made.baselines.append(baseline if fits else replace(baseline, stand_ins=kept))
    return made


def _explained(saes: pl.DataFrame, model: str, label: str) -> float | None:
    """Mean over layers; None where there are no dictionaries of that name."""
    own = saes.filter(model=model, label=label)["explained_variance"]
    return None if own.is_empty() else float(own.mean())  # type: ignore[arg-type]
