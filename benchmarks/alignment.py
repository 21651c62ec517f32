"""Are homologs found across tokenizers?  One planted stream, read through two tokenisations.

    python benchmarks/alignment.py [--steps N] [--features N] [--seeds N] [--by-token SHARE]

Two models' features are planted on one stream of steps (`homolog.matching.planted`), half of them
with a partner.  A tokenizer cuts the steps of each document at random into tokens; a model reads a
feature at a token in one of two ways,

    at the end   what the feature is at the token's last step
    within       the largest that it is over the token's steps

or every other feature in one way and the rest in the other.  Both sides are pooled to units
(`homolog.corpus.units`, `homolog.features.pooled`) by the last token or the largest, and the share
of features with a homolog is that of a study's verdict, with its controls pooled likewise; with
--by-token, a share of the features without a partner follow the current step in both models, which
is no homolog, and which the current token of A has to explain, at the unit's end.  Prints
the error of that share in points, against what the same features give where both models have the
tokenizer of A, and against the truth; and how many of the features called have no partner there.
"""

from __future__ import annotations

import argparse
from dataclasses import replace
from typing import Any

import numpy as np
import scipy.sparse
import torch
from planted_truth_found import How, find

from homolog.corpus.units import Units, units_of
from homolog.features.pooled import pool
from homolog.matching.planted import PlantedMatches, plant_matches
from homolog.matching.planting import Planting

SIDES = {"a": 0, "untrained_a": 0, "b": 1, "untrained_b": 1}
CUTS = {"1.1 and 1.3": (1.1, 1.3), "1.2 and 2": (1.2, 2.0), "1.5 and 3": (1.5, 3.0)}
"""Steps per token of A and of B, mean."""
READINGS = ("at the end", "within", "half and half")
ALIGNS = ("last", "max")


def cut(document: np.ndarray, steps: float, rng: np.random.Generator) -> np.ndarray:
    """The step after each token; documents end with a token."""
    ends = rng.random(len(document)) < 1 / steps
    ends[:-1] |= np.diff(document) > 0
    ends[-1] = True
    return np.flatnonzero(ends) + 1


def read(x: Any, end: np.ndarray, reading: str) -> Any:
    """Features by steps as a model with these tokens has them, (tokens, features)."""
    first, last = np.append(0, end[:-1]), end - 1
    at_end, within = (pool(x, first, last, align) for align in ALIGNS)
    if reading == "half and half":
        even = scipy.sparse.diags_array((np.arange(x.shape[1]) % 2 == 0).astype(np.float32))
        odd = scipy.sparse.eye_array(x.shape[1], dtype=np.float32) - even
        mixed = scipy.sparse.csr_array(at_end @ even + within @ odd)
        mixed.eliminate_zeros()
        return mixed
    return at_end if reading == "at the end" else within


def seen(
    planted: PlantedMatches, ends: tuple[np.ndarray, np.ndarray], reading: str, align: Any
) -> PlantedMatches:
    """What a study across the two tokenizers has: all sides by units."""
    bounds = [np.append(0, end)[None].astype(np.int64) for end in ends]
    units: Units = units_of(*bounds)
    rows = [(units.first_a, units.last_a), (units.first_b, units.last_b)]
    sides = {
        name: pool(read(getattr(planted, name), ends[k], reading), *rows[k], align)
        for name, k in SIDES.items()
    }
    document = planted.document[ends[0][units.last_a] - 1]
    token = ids(planted.token, ends[0])[units.last_a]
    return replace(planted, document=document, token=token, **sides)


def ids(step: np.ndarray, end: np.ndarray) -> np.ndarray:
    """An id for each token by what it is made of: number of steps, the first and the last."""
    first = np.append(0, end[:-1])
    made = np.stack([step[first], step[end - 1], end - first], axis=1)
    return np.unique(made, axis=0, return_inverse=True)[1].reshape(-1).astype(np.int32)


def shares(planted: PlantedMatches, seed: int) -> np.ndarray:
    """(share called, share with a partner, share of the called that is wrong), both directions."""
    found = find(planted, 2, seed)
    called, has, right = (
        np.concatenate([part(side) for side in found])
        for part in (lambda s: s.homolog[How()], lambda s: s.has, lambda s: s.right)
    )
    wrong = (called & ~right).sum() / max(1, called.sum())
    return 100 * np.array([called.mean(), has.mean(), wrong])


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--steps", type=int, default=100_000)
    parser.add_argument("--features", type=int, default=500)
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--by-token", type=float, default=0, help="of those without a partner")
    options = parser.parse_args()
    planting = Planting(by_token=options.by_token)
    torch.set_num_threads(1)
    print(f"{options.steps:,} steps, {options.features} features a side, {options.seeds} draws")
    print("error of the share in points: against one tokenizer / against the truth / wrong calls")
    print(f"{'steps per token':16} {'features are read':18} " + "".join(f"{a:>26}" for a in ALIGNS))
    draws = [
        plant_matches(options.steps, options.features, seed=seed, planting=planting)
        for seed in range(options.seeds)
    ]
    for title, steps in CUTS.items():
        for reading in READINGS:
            errors = np.mean([_errors(draw, steps, reading, n) for n, draw in enumerate(draws)], 0)
            cells = ("{:+8.1f} / {:+5.1f} / {:4.1f} %".format(*of_align) for of_align in errors)
            row = "".join(f"{cell:>26}" for cell in cells)
            print(f"{title:16} {reading:18} {row}", flush=True)


def _errors(
    planted: PlantedMatches, steps: tuple[float, float], reading: str, seed: int
) -> list[list[float]]:
    """For each way to pool: against one tokenizer, against the truth, wrong calls."""
    rng = np.random.default_rng(seed)
    a, b = (cut(planted.document, each, rng) for each in steps)
    one, _, _ = shares(seen(planted, (a, a), reading, "last"), seed)
    errors = []
    for align in ALIGNS:
        called, true, wrong = shares(seen(planted, (a, b), reading, align), seed)
        errors.append([called - one, called - true, wrong])
    return errors


if __name__ == "__main__":
    main()
