"""How often is a called homolog one?  The engine and its calibration on features of known truth.

    python benchmarks/planted_truth.py [--tokens N] [--features N] [--seeds N] [--exchanges N]
    [--out FOLDER]

Features are planted by `homolog.matching.planted`: shared latents with noise, latents of one side
alone, superposition on both sides, topics, and latents that both sides have without having learned
them (functions of the current token, latents of untrained stand-ins, mixtures). They are matched by
`max_pearson`, calibrated against exchanged documents, measured against their controls by
`beyond_controls`, classified by `classify`, and held against the truth by several criteria: what a
user would do without a null (r > 0.7 as in the paper, r > 0.1), what the null allows, r above each
control singly, and the verdict of a study. Controls of a feature are the current token and the
untrained stand-ins of its partner's model and of its own. Prints, over both directions and all
seeds,

* false matches: of the features called, the share without a partner, or whose best is not the
  partner;
* the share of features called minus the share that has a partner, in points;
* of each kind of latent, the share that is called;
* recall by the number of tokens a feature fires on and the noise of its copy.

Writes planted-truth.svg and planted-truth.csv into FOLDER.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Iterable
from dataclasses import replace
from itertools import pairwise, product
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import scipy.sparse
import torch
from planted_truth_figure import BEFORE, FIRINGS, NO_CONTROLS, NOISES, VERDICT, save
from planted_truth_found import CREDITS, MARGINS, RIVALS, Found, How, find

from homolog.matching.homologs import FDR, LEAST_R, RIVAL_RATIO
from homolog.matching.planted import PlantedMatches, plant_matches
from homolog.matching.planting import KINDS, Planting

ONE_STAND_IN = f"{VERDICT}, the partner's stand-in alone"
SHARES = (0.0, 0.25, 0.5, 0.75, 1.0)
FLOORS = (0.1, 0.2, 0.25, 0.3, 0.4)
FREQUENT = 30  # firings
ALL = {"by_token": 0.25, "in_untrained": 0.25, "mixed": 0.25}
CONDITIONS: dict[str, dict[str, Any]] = {
    "as planted": {},
    "no superposition": {"leak": 0.0},
    "leaks of 0.5": {"leak": 0.5},
    "20 topics for all, bursty": {"n_topics": 20, "topic_shape": 0.3},
    "noise up to 0.8": {"noise": (0.0, 0.8)},
    "a quarter of the tokens": {"tokens": 0.25},
    "A has each feature in 3 layers": {"layers": 3},
    "exponential values, rarer": {"values": "exponential", "frequency": (3e-5, 3e-2)},
    "untrained models have half of the rest": {"in_untrained": 0.5},
    "half of the rest by token": {"by_token": 0.5},
    "half of the rest mixtures": {"mixed": 0.5},
    "all three, a quarter of the rest each": ALL,
    "all three, a quarter of the tokens": ALL | {"tokens": 0.25},
    "all three, exponential values, rarer": ALL
    | {"values": "exponential", "frequency": (3e-5, 3e-2)},
    "all three, no superposition": ALL | {"leak": 0.0},
    "all three, stand-ins noisier by 0.2": ALL | {"untrained_noise": 0.2},
    "leaks from any frequency": {"leak_reach": None},
}


Row = dict[str, Any]
Rule = Callable[[Found], np.ndarray]


def significant(found: Found) -> np.ndarray:
    """q <= FDR, in the form that the verdict uses."""
    return found.r >= found.threshold


def at_least(floor: float, *others: Rule) -> Rule:
    """Significant, r at least `floor`, and all others."""
    return lambda found: np.logical_and.reduce(
        [found.r >= floor, *(rule(found) for rule in (significant, *others))]
    )


def unrivalled(ratio: float) -> Rule:
    """No other feature of the own model is much closer to the partner: r >= `ratio` its best r."""
    return lambda found: found.relative >= ratio


def homolog(**how: Any) -> Rule:
    """The verdict of a study."""
    return lambda found: found.homolog[How(**how)]


CRITERIA: dict[str, Rule] = {
    "r > 0.7 (paper)": lambda found: found.r > 0.7,
    "r > 0.1": lambda found: found.r > 0.1,
    "q": significant,
    "q, r >= 0.3": at_least(0.3),
    "q, mutual best": at_least(0.0, lambda found: found.mutual),
    "q, one-to-one": at_least(0.0, lambda found: found.assigned),
    NO_CONTROLS: at_least(LEAST_R, unrivalled(RIVAL_RATIO)),
    BEFORE: at_least(LEAST_R, unrivalled(RIVAL_RATIO), lambda found: ~(found.r <= found.control)),
    VERDICT: homolog(),
    ONE_STAND_IN: homolog(both=False),
}
FLOOR_ALONE = "q, r >= 0.3"
CONTROLS_COMPARED = (NO_CONTROLS, BEFORE, VERDICT, ONE_STAND_IN)


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
        kind_a=np.tile(planted.kind_a, layers),
        a=scipy.sparse.hstack(copies, format="csr"),
        partner_a=np.tile(planted.partner_a, layers),
        noise_a=np.tile(planted.noise_a, layers),
        frequency_a=np.tile(planted.frequency_a, layers),
    )


def score(founds: Iterable[Found], criterion: Rule, least: int = 1) -> Row:
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
    parser.add_argument("--seeds", type=int, default=2, help="draws of the table of shares")
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

    rows = []
    for name, how in (("shares", {}), ("shares, all three", ALL)):
        shares = {
            share: [f for s in range(options.seeds) for f in run(s, shared=share, **how)]
            for share in SHARES
        }
        rows += share_rows(name, shares)
    conditions = {name: run(100, shared=0.5, **how) for name, how in CONDITIONS.items()}
    rows += condition_rows(conditions) + kind_rows(conditions)
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
    **dict.fromkeys(("table", "condition", "criterion", "kind"), pl.String),
    **dict.fromkeys(("shared", "firings", "noise"), pl.Float64),
    "n": pl.Int64,
    **dict.fromkeys(("false", "error", "worst", "recall"), pl.Float64),
}


def share_rows(table: str, shares: dict[float, list[Found]]) -> list[Row]:
    rows = []
    for name, rule in CRITERIA.items():
        told = {"table": table, "criterion": name}
        for share, founds in shares.items():
            n = sum(int((f.n_active > 0).sum()) for f in founds)
            rows.append(told | {"shared": share, "n": n} | score(founds, rule))
        every = [f for founds in shares.values() for f in founds]
        rows.append(told | {"n": len(every)} | score(every, rule))
    return rows


def condition_rows(conditions: dict[str, tuple[Found, Found]]) -> list[Row]:
    more: dict[str, Rule] = {f"q, r >= {floor:g}": at_least(floor) for floor in FLOORS}
    more |= {"q, unrivalled": at_least(0.0, unrivalled(RIVAL_RATIO))}
    more |= {f"verdict, margin {margin:g}": homolog(margin=margin) for margin in MARGINS}
    more |= {f"verdict, rivals {ratio:g}": homolog(ratio=ratio) for ratio in RIVALS}
    more |= {f"verdict, credit {credit:g}": homolog(credit=credit) for credit in CREDITS}
    rules = [(name, 1, rule) for name, rule in (CRITERIA | more).items()]
    rules += [
        (f"{name}, {FREQUENT}+ firings", FREQUENT, CRITERIA[name])
        for name in (FLOOR_ALONE, BEFORE, VERDICT)
    ]
    told = {"table": "conditions", "shared": 0.5}
    return [
        told
        | {"condition": condition, "criterion": name}
        | {"n": sum(int((f.n_active >= least).sum()) for f in founds)}
        | score(founds, rule, least)
        for condition, founds in conditions.items()
        for name, least, rule in rules
    ]


def kind_rows(conditions: dict[str, tuple[Found, Found]]) -> list[Row]:
    """Share of each kind of latent that is called: in `recall`, though but one kind has partners.

    Directions apart: `shared` is 0 from A to B, 1 from B to A.
    """
    rows = []
    for (condition, founds), name in product(conditions.items(), CONTROLS_COMPARED):
        for (way, f), kind in product(enumerate(founds), KINDS):
            here = (f.kind == kind) & (f.n_active > 0)
            if here.any():
                told = {"table": "kinds", "condition": condition, "criterion": name, "kind": kind}
                called = float((here & CRITERIA[name](f)).sum() / here.sum())
                rows.append(told | {"shared": way, "n": int(here.sum()), "recall": called})
    return rows


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
    for name in ("shares", "shares, all three"):
        report_shares(name, table.filter(table=name))
    report_conditions(table.filter(table="conditions"))
    report_kinds(table.filter(table="kinds"))
    for name in (FLOOR_ALONE, VERDICT):
        report_recall(name, table.filter(table="recall", criterion=name))


def report_shares(name: str, shares: pl.DataFrame) -> None:
    print(
        f"\n{name}: features called, minus the share that has a partner, in points (mean; last: "
        "largest);"
    )
    print("false matches of those called, and recall, over all shares")
    heads = "".join(f"{f'{share:.0%}':>8}" for share in SHARES)
    print(f"{'criterion':45}{heads}   worst   false  recall")
    for criterion in CRITERIA:
        part = shares.filter(criterion=criterion)
        errors = "".join(f"{100 * error:+8.1f}" for error in part["error"][: len(SHARES)])
        last = part.row(-1, named=True)
        worst, false, recall = (100 * last[key] for key in ("worst", "false", "recall"))
        print(f"{criterion:45}{errors}{worst:+8.1f}{false:7.2f}%{recall:7.1f}%")


def report_conditions(conditions: pl.DataFrame) -> None:
    print(
        "\nhalf of the features shared, by condition: false matches of those called | error of "
        "the share, points"
    )
    for number, name in enumerate(CONDITIONS):
        print(f"  ({number + 1}) {name}")
    heads = "".join(f"{f'({number + 1})':>13}" for number in range(len(CONDITIONS)))
    print(f"{'criterion':45}{heads}")
    for criterion in conditions["criterion"].unique(maintain_order=True):
        cells = conditions.filter(criterion=criterion).iter_rows(named=True)
        text = "".join(f"{100 * c['false']:5.1f}% {100 * c['worst']:+6.1f}" for c in cells)
        print(f"{criterion:45}{text}")


def report_kinds(kinds: pl.DataFrame) -> None:
    print("\ncalled of each kind, percent, from A to B | from B to A")
    print(f"{'condition':40}{'criterion':45}" + "".join(f"{kind:>14}" for kind in KINDS))
    for (condition, criterion), part in kinds.group_by(
        "condition", "criterion", maintain_order=True
    ):
        cells = []
        for kind in KINDS:
            called = part.filter(kind=kind).sort("shared")["recall"]
            cells.append(" | ".join(f"{100 * share:.1f}" for share in called))
        print(f"{condition:40}{criterion:45}" + "".join(f"{cell:>14}" for cell in cells))


def report_recall(name: str, recall: pl.DataFrame) -> None:
    print(f"\nrecall by firings (from) and noise (from): {name}")
    print(f"{'':12}" + "".join(f"{noise:8.2f}" for noise in NOISES[:-1]))
    for low in FIRINGS[:-1]:
        cells = recall.filter(firings=low)["recall"]
        print(f"{low:12}" + "".join("       -" if r is None else f"{100 * r:7.0f}%" for r in cells))


if __name__ == "__main__":
    main()
