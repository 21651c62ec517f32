"""How often is a called homolog one?  The engine and its calibration on features of known truth.

    python benchmarks/planted_truth.py [--tokens N] [--features N] [--seeds N] [--exchanges N]
    [--out FOLDER]

Features are planted by `homolog.matching.planted`: shared latents with noise, latents of one side
alone, superposition on both sides, topics; matched by `max_pearson`, calibrated against exchanged
documents, and held against the truth by several criteria: what a user would do without a null (r
> 0.7 as in the paper, r > 0.1) and what the null allows. Prints, over both directions and all
seeds,

* false matches: of the features called, the share without a partner, or whose best is not the
  partner;
* the share of features called minus the share that has a partner, in points;
* recall by the number of tokens a feature fires on and the noise of its copy.

Writes planted-truth.svg and planted-truth.csv into FOLDER.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import scipy.sparse
import torch
from planted_truth_figure import FIRINGS, NOISES, VERDICT, save

from homolog.matching import Partners, prepare
from homolog.matching.assignment import mutual, one_to_one
from homolog.matching.homologs import HOMOLOG_R, RIVAL_RATIO
from homolog.matching.null import calibrate, document_exchanges
from homolog.matching.pairs import match_pair
from homolog.matching.planted import PlantedMatches, Planting, plant_matches

FDR = 0.01
CANDIDATES = 4  # partners of each feature that the assignment may choose from
SHARES = (0.0, 0.25, 0.5, 0.75, 1.0)
FLOORS = (0.1, 0.15, 0.2, 0.25, 0.3, 0.35, 0.4)
FREQUENT = 30  # firings
RIVALS = (0.5, 0.6, 0.8, 0.9)
CONDITIONS: dict[str, dict[str, Any]] = {
    "as planted": {},
    "no superposition": {"leak": 0.0},
    "leaks of 0.5": {"leak": 0.5},
    "20 topics for all, bursty": {"n_topics": 20, "topic_shape": 0.3},
    "noise up to 0.8": {"noise": (0.0, 0.8)},
    "a quarter of the tokens": {"tokens": 0.25},
    "A has each feature in 3 layers": {"layers": 3},
    "exponential values, rarer": {"values": "exponential", "frequency": (3e-5, 3e-2)},
}


@dataclass(frozen=True)
class Found:
    """One direction: what was measured of each feature, and the truth.  All (features,).

    r: best correlation; n_active: tokens; threshold: of the null; mutual: the best's best is this
    feature; assigned: the best is also the one-to-one partner; relative: r over the best r of the
    best; has: a partner exists; right: the best is it; noise: of the copy.
    """

    r: np.ndarray
    n_active: np.ndarray
    threshold: np.ndarray
    mutual: np.ndarray
    assigned: np.ndarray
    relative: np.ndarray
    has: np.ndarray
    right: np.ndarray
    noise: np.ndarray


Row = dict[str, Any]
Criterion = Callable[[Found], np.ndarray]


def significant(found: Found) -> np.ndarray:
    """q <= FDR, in the form that the verdict uses."""
    return found.r >= found.threshold


def at_least(floor: float, *others: Criterion) -> Criterion:
    """Significant, r at least `floor`, and all others."""
    return lambda found: np.logical_and.reduce(
        [found.r >= floor, *(rule(found) for rule in (significant, *others))]
    )


def unrivalled(ratio: float) -> Criterion:
    """No other feature of the own model is much closer to the partner: r >= `ratio` its best r."""
    return lambda found: found.relative >= ratio


CRITERIA: dict[str, Criterion] = {
    "r > 0.7 (paper)": lambda found: found.r > 0.7,
    "r > 0.1": lambda found: found.r > 0.1,
    "q": significant,
    "q, r >= 0.3": at_least(0.3),
    "q, mutual best": at_least(0.0, lambda found: found.mutual),
    "q, one-to-one": at_least(0.0, lambda found: found.assigned),
    # the verdict of a study, no controls
    VERDICT: at_least(HOMOLOG_R, unrivalled(RIVAL_RATIO)),
}
FLOOR_ALONE = "q, r >= 0.3"


def find(planted: PlantedMatches, n_exchanges: int, seed: int) -> tuple[Found, Found]:
    """Match and calibrate both directions.

    A column of A counts as the partner's modulo the number of columns of B.
    """
    exchanges = document_exchanges(planted.document, n_exchanges, seed)
    pair = match_pair(
        prepare(planted.a), prepare(planted.b), CANDIDATES, exchanges=exchanges, threads=1
    )
    own, back = pair.a_to_b, pair.b_to_a
    assigned = one_to_one(own.index, own.r, back.index, back.r)
    return (
        _held(planted.a, own, back, pair.null_a, assigned.a, planted.partner_a, planted.noise_a),
        _held(planted.b, back, own, pair.null_b, assigned.b, planted.partner_b, planted.noise_b),
    )


def _held(
    x: Any,
    own: Partners,
    back: Partners,
    null: np.ndarray,
    assigned: np.ndarray,
    partner: np.ndarray,
    noise: np.ndarray,
) -> Found:
    r, index = own.r[:, 0], own.index[:, 0]
    n_tokens, n_features = x.shape
    n_active = np.bincount(x.indices, minlength=n_features)
    threshold = calibrate(r, n_active, null, n_tokens=n_tokens, fdr=FDR).threshold
    return Found(
        r=r,
        n_active=n_active,
        threshold=threshold,
        mutual=mutual(index, back.index[:, 0]),
        assigned=(index >= 0) & (assigned == index),
        relative=np.where(index >= 0, r / back.r[index, 0], np.nan),
        has=partner >= 0,
        right=(partner >= 0) & (index % len(noise) == partner),
        noise=noise,
    )


def in_layers(planted: PlantedMatches, layers: int) -> PlantedMatches:
    """A's features in several layers, as a residual stream has them; each misses a tenth."""
    rng = np.random.default_rng(0)
    copies = []
    for _ in range(layers):
        copy = planted.a.copy()
        copy.data = copy.data * (rng.random(copy.nnz) > 0.1)
        copy.eliminate_zeros()
        copies.append(copy)
    return replace(
        planted,
        a=scipy.sparse.hstack(copies, format="csr"),
        partner_a=np.tile(planted.partner_a, layers),
        noise_a=np.tile(planted.noise_a, layers),
        frequency_a=np.tile(planted.frequency_a, layers),
    )


def score(founds: Iterable[Found], criterion: Criterion, least: int = 1) -> Row:
    """How good a criterion is, of the features that fire on `least` tokens or more.

    false: share of false matches; error: mean of (share called - true share), worst: the largest in
    size; recall.
    """
    called = wrong = with_partner = right = 0
    errors = []
    for found in founds:
        alive = found.n_active >= least
        calls = alive & criterion(found)
        called += calls.sum()
        wrong += (calls & ~found.right).sum()
        with_partner += (alive & found.has).sum()
        right += (calls & found.right).sum()
        errors.append((calls.sum() - (alive & found.has).sum()) / alive.sum())
    return {
        "false": float(wrong / called) if called else 0.0,
        "error": float(np.mean(errors)),
        "worst": float(max(errors, key=abs)),
        "recall": float(right / with_partner) if with_partner else None,
    }


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--tokens", type=int, default=200_000, help="tokens of the stream")
    parser.add_argument("--features", type=int, default=1000, help="features of each side")
    parser.add_argument("--seeds", type=int, default=3, help="draws of the table of shares")
    parser.add_argument(
        "--exchanges", type=int, default=2, help="exchanges of the null, as many as a study has"
    )
    parser.add_argument(
        "--out", type=Path, default=Path("docs/images"), help="where the figure and its numbers go"
    )
    options = parser.parse_args()
    torch.set_num_threads(1)
    started = time.perf_counter()

    def run(seed: int, **how: Any) -> tuple[Found, Found]:
        tokens, layers = int(options.tokens * how.pop("tokens", 1)), how.pop("layers", 1)
        features = how.pop("features", options.features)
        planted = plant_matches(tokens, features, seed=seed, planting=Planting(**how))
        return find(in_layers(planted, layers) if layers > 1 else planted, options.exchanges, seed)

    shares = {
        share: [f for s in range(options.seeds) for f in run(s, shared=share)] for share in SHARES
    }
    rows = share_rows(shares)
    conditions = {name: run(100, shared=0.5, **how) for name, how in CONDITIONS.items()}
    rows += condition_rows(conditions)
    wide = {
        "shared": 0.75,
        "frequency": (1e-5, 1e-1),
        "noise": (0.0, 0.9),
        "features": 2 * options.features,
    }
    rows += recall_rows([f for seed in range(2) for f in run(200 + seed, **wide)])
    table = pl.DataFrame(rows, schema=SCHEMA, orient="row")
    print(
        f"{options.tokens} tokens, {options.features} features a side, {options.exchanges} "
        f"exchanges, FDR {FDR:.0%}"
    )
    report(table)
    save(table, options.out)
    print(f"\n{time.perf_counter() - started:.0f} s, one thread")


SCHEMA = {
    **dict.fromkeys(("table", "condition", "criterion"), pl.String),
    **dict.fromkeys(("shared", "firings", "noise"), pl.Float64),
    "n": pl.Int64,
    **dict.fromkeys(("false", "error", "worst", "recall"), pl.Float64),
}


def share_rows(shares: dict[float, list[Found]]) -> list[Row]:
    rows = []
    for name, criterion in CRITERIA.items():
        for share, founds in shares.items():
            n = sum(int((f.n_active > 0).sum()) for f in founds)
            rows.append(
                {
                    "table": "shares",
                    "criterion": name,
                    "shared": share,
                    "n": n,
                    **score(founds, criterion),
                }
            )
        every = [f for founds in shares.values() for f in founds]
        rows.append(
            {"table": "shares", "criterion": name, "n": len(every), **score(every, criterion)}
        )
    return rows


def condition_rows(conditions: dict[str, tuple[Found, Found]]) -> list[Row]:
    floors: dict[str, Criterion] = {f"q, r >= {floor:g}": at_least(floor) for floor in FLOORS}
    floors |= {"q, unrivalled": at_least(0.0, unrivalled(RIVAL_RATIO))}
    floors |= {
        f"q, r >= {floor:g}, unrivalled": at_least(floor, unrivalled(RIVAL_RATIO))
        for floor in FLOORS
    }
    floors |= {
        f"q, r >= 0.2, relative >= {ratio}": at_least(0.2, unrivalled(ratio)) for ratio in RIVALS
    }
    rules = [(name, 1, rule) for name, rule in (CRITERIA | floors).items()]
    rules += [
        (f"{name}, {FREQUENT}+ firings", FREQUENT, CRITERIA[name])
        for name in (FLOOR_ALONE, VERDICT)
    ]
    return [
        {
            "table": "conditions",
            "condition": condition,
            "criterion": name,
            "shared": 0.5,
            "n": sum(int((f.n_active >= least).sum()) for f in founds),
            **score(founds, rule, least),
        }
        for condition, founds in conditions.items()
        for name, least, rule in rules
    ]


def recall_rows(founds: list[Found]) -> list[Row]:
    """Recall of the features with a partner by firings and noise; lower edges name a cell."""
    rows = []
    for name in (FLOOR_ALONE, VERDICT, "r > 0.7 (paper)"):
        for low, high in pairwise(FIRINGS):
            for quiet, loud in pairwise(NOISES):
                n = right = 0
                for f in founds:
                    cell = (
                        f.has
                        & (f.n_active >= low)
                        & (f.n_active < high)
                        & (f.noise >= quiet)
                        & (f.noise < loud)
                    )
                    n, right = (
                        n + int(cell.sum()),
                        right + int((cell & f.right & CRITERIA[name](f)).sum()),
                    )
                rows.append(
                    {
                        "table": "recall",
                        "criterion": name,
                        "firings": low,
                        "noise": quiet,
                        "n": n,
                        "recall": right / n if n else None,
                    }
                )
    return rows


def report(table: pl.DataFrame) -> None:
    """Print the tables; shares and errors in percent and points."""
    shares = table.filter(table="shares")
    print(
        "\nshare of features called, minus the share that has a partner, in points (mean; last: "
        "largest);"
    )
    print("false matches of those called, and recall, over all shares")
    print(
        f"{'criterion':40}"
        + "".join(f"{f'{share:.0%}':>8}" for share in SHARES)
        + "   worst   false  recall"
    )
    for name in CRITERIA:
        part = shares.filter(criterion=name)
        errors = "".join(f"{100 * error:+8.1f}" for error in part["error"][: len(SHARES)])
        last = part.row(-1, named=True)
        worst, false, recall = (100 * last[key] for key in ("worst", "false", "recall"))
        print(f"{name:40}{errors}{worst:+8.1f}{false:7.2f}%{recall:7.1f}%")
    print(
        "\nhalf of the features shared, by condition: false matches of those called | error of "
        "the share, points"
    )
    conditions = table.filter(table="conditions")
    names = list(CONDITIONS)
    for number, name in enumerate(names):
        print(f"  ({number + 1}) {name}")
    print(f"{'criterion':40}" + "".join(f"{f'({number + 1})':>15}" for number in range(len(names))))
    for criterion in dict.fromkeys(conditions["criterion"]):
        cells = conditions.filter(criterion=criterion).iter_rows(named=True)
        text = "".join(f"{100 * c['false']:7.1f}% {100 * c['worst']:+6.1f}" for c in cells)
        print(f"{criterion:40}{text}")
    for name in (FLOOR_ALONE, VERDICT):
        print(f"\nrecall by firings (from) and noise (from): {name}")
        print(f"{'':12}" + "".join(f"{noise:8.2f}" for noise in NOISES[:-1]))
        for low in FIRINGS[:-1]:
            cells = table.filter(table="recall", criterion=name, firings=low)
            print(
                f"{low:12}"
                + "".join("       -" if r is None else f"{100 * r:7.0f}%" for r in cells["recall"])
            )


if __name__ == "__main__":
    main()
