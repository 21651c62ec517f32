"""Does the causal analysis of a finished run give the same with other pairs?

    python benchmarks/causal_seeds.py runs/demo [--seeds 0 1 2] [--pairs 320] [--every]

Draws the pairs, controls, tokens and windows of every direction anew with each seed, on the run's
own features and dictionaries; writes nothing.  Prints the headline numbers (r above 0.7) with their
95 % intervals, and whether each seed's estimate lies in every other seed's interval.  Seeds share
the pairs that both happen to draw; other dictionaries or models are another question.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Mapping
from itertools import permutations
from pathlib import Path
from typing import ClassVar

import polars as pl

from homolog.analyses.analysis import each_direction_with_homologs
from homolog.analyses.causal.measure import measure_pair
from homolog.analyses.material import Material
from homolog.corpus import TokenWindows
from homolog.models import load_tokenizer
from homolog.pipeline.models import models_of
from homolog.pipeline.recipes import parse_recipe
from homolog.pipeline.text import read_text
from homolog.progress import make_progress
from homolog.record.run_folder import RunFolder
from homolog.record.tables import CAUSAL_AUC, LOSS_RECOVERED
from homolog.threads import limit_process

Estimates = dict[str, tuple[float, float, float, int]]
"""By name: the estimate, the ends of its interval, and how many pairs."""


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("run", type=Path, help="folder of a finished run")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--pairs", type=int, help="instead of the recipe's causal_pairs")
    parser.add_argument("--every", action="store_true", help="all ranges of r, not above 0.7 alone")
    options = parser.parse_args()
    limit_process(1)
    material = _material(options.run, options.pairs)
    for model, best_model in each_direction_with_homologs(material):
        print(f"\n{model} in {best_model}")
        by_seed: list[Estimates] = []
        for seed in options.seeds:
            started = time.process_time()
            tables = measure_pair(material, model, best_model, seed=seed)
            seconds = time.process_time() - started
            by_seed.append(_estimates(tables, options.every))
            print(f"  seed {seed}: {seconds:.1f} s of processor time")
        for name in by_seed[0]:
            _report(name, [estimates[name] for estimates in by_seed])


def _material(path: Path, pairs: int | None) -> Material:
    values = RunFolder(path).record["recipe"]
    recipe = parse_recipe(values, str(path))
    if pairs is not None:
        recipe = recipe.changed(interpretation={"causal_pairs": pairs})
    models = models_of(recipe)
    tokenizer = load_tokenizer(models.all[0].ref, models.all[0].revision)
    text = read_text(recipe, tokenizer, make_progress(quiet=True))
    material = _Finished(path.absolute(), recipe, models)
    _Finished.text = text
    return material


class _Finished(Material):
    """A run whose text was read again: it keeps none when it is finished."""

    text: ClassVar[Mapping[str, TokenWindows]]

    def windows(self, use: str) -> TokenWindows:
        return self.text[use]


def _estimates(tables: dict[str, pl.DataFrame], every: bool) -> Estimates:
    """The numbers of one direction and seed."""
    estimates: Estimates = {}
    head = (pl.col("above_r") == 0.7) & (pl.col("to_r") == 1.0)
    measures = ("auc", "mean", "control_mean", "standardised")
    shares = ("kl_recovered", "kl_random", "recovered", "random")
    for table, names in ((CAUSAL_AUC, measures), (LOSS_RECOVERED, shares)):
        for row in tables[table.name].filter(head | every).iter_rows(named=True):
            of = f"{row.get('kind', 'replace')} {row.get('where', '')}".strip()
            for name in names:
                about = f"{name}, {of}, r {row['above_r']} to {row['to_r']}"
                ends = row[f"{name}_lo"], row[f"{name}_hi"]
                estimates[about] = row[name], *ends, row["n"]
    return estimates


def _report(name: str, found: list[tuple[float, float, float, int]]) -> None:
    numbers = "  ".join(f"{at:6.3f} ({lo:6.3f}, {hi:6.3f}) n={n}" for at, lo, hi, n in found)
    within = all(lo <= one[0] <= hi for one, (_, lo, hi, _) in permutations(found, 2))
    print(f"  {name:42s} {numbers}  {'all within' if within else 'NOT within'}")


if __name__ == "__main__":
    main()
