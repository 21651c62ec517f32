"""Does the causal analysis give the same with other pairs, and with other dictionaries?

    python benchmarks/causal_seeds.py [RUN] [--seeds 0 1 2] [--pairs 400] [--every] [--quick]
    python benchmarks/causal_seeds.py [FOLDER] --retrain [...]

Draws the pairs, controls, tokens and windows of every direction anew with each seed, on a finished
run's own features and dictionaries, and writes nothing there.  Without a run, one is made first of
the recipe small-pair without what the analysis does not read; `--quick`: on a quarter of its text.
`--retrain`: each seed has a run of its own, FOLDER/seed0, ..., all of whose dictionaries, matches
and draws are of that seed; models and text stay.  Runs that FOLDER has are not made again.

Prints the headline numbers (r above 0.7; `--every`: all ranges of r) with their 95 % intervals, in
how many of the other seeds' intervals each seed's estimate lies, and how far the seeds lie apart:
the standard deviation of their estimates in standard errors, a quarter of an interval.  Of
independent samples that only the interval's cause sets apart these are 83 %, for both sides of the
comparison vary, and 1.  Without `--retrain` seeds share the pairs that both happen to draw.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Mapping
from itertools import permutations
from pathlib import Path
from typing import ClassVar

import numpy as np
import polars as pl

from homolog.analyses.analysis import Tables, each_direction_with_homologs
from homolog.analyses.causal.measure import measure_pair
from homolog.analyses.material import Material
from homolog.corpus import TokenWindows
from homolog.models import load_tokenizer
from homolog.pipeline.models import models_of
from homolog.pipeline.recipes import load_recipe, parse_recipe
from homolog.pipeline.run_study import run_study
from homolog.pipeline.text import read_text
from homolog.progress import make_progress
from homolog.record.run_folder import RunFolder
from homolog.record.tables import CAUSAL_AUC, LOSS_RECOVERED
from homolog.threads import limit_process

Estimate = tuple[float, float, float, int]
"""A number, the ends of its interval, and how many pairs."""
Estimates = dict[str, Estimate]


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("run", type=Path, nargs="?", help="folder of a finished run, or of several")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--pairs", type=int, help="of each direction; as in the recipe by default")
    parser.add_argument("--every", action="store_true", help="all ranges of r, not above 0.7 alone")
    parser.add_argument("--quick", action="store_true", help="without a run: make a smaller one")
    parser.add_argument("--retrain", action="store_true", help="other dictionaries for each seed")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        root = options.run or Path(folder)
        if options.retrain:
            runs = {n: make_run(root / f"seed{n}", options.quick, n) for n in options.seeds}
        else:
            run = options.run or make_run(root / "run", options.quick, 0)
            runs = dict.fromkeys(options.seeds, run)
        limit_process(1)
        materials = {seed: _material(run, options.pairs) for seed, run in runs.items()}
        compare_seeds(materials, options.every)


def make_run(path: Path, quick: bool, seed: int) -> Path:
    """The recipe small-pair with dictionaries of a seed, as far as pairs are made of it."""
    recipe = load_recipe("small-pair")
    size = 4 if quick else 1
    corpus = recipe.corpus
    models = [model.values() | {"other_seed": None} for model in recipe.models]
    cut = recipe.changed(
        name="causal-seeds",
        models=models,
        corpus={
            "train_tokens": corpus.train_tokens // size,
            "match_tokens": corpus.match_tokens // size,
        },
        sae={"seeds": [seed]},
        run={"seed": seed},
        controls={"neurons": False, "sae_seed": False, "stability": False},
        interpretation={"causal_pairs": 4, "context_tokens": 0, "listed": 0, "transplant": False},
        circuits=None,
    )
    run_study(cut, path, make_progress())
    return path


def compare_seeds(materials: Mapping[int, Material], every: bool) -> None:
    """Print every direction's numbers by seed."""
    directions = [each_direction_with_homologs(material) for material in materials.values()]
    for model, best_model in directions[0]:
        print(f"\n{model} in {best_model}")
        by_seed: list[Estimates] = []
        for seed, material in materials.items():
            started = time.process_time()
            tables = measure_pair(material, model, best_model, seed=seed)
            seconds = time.process_time() - started
            by_seed.append(_estimates(tables, every))
            print(f"  seed {seed}: {seconds:.1f} s of processor time", flush=True)
        within: list[bool] = []
        for name in by_seed[0]:
            within += _report(name, [estimates[name] for estimates in by_seed])
        print(f"  within another seed's interval: {sum(within)} of {len(within)}")


def _material(path: Path, pairs: int | None) -> Material:
    recipe = parse_recipe(RunFolder(path).record["recipe"], str(path))
    usual = load_recipe("small-pair").interpretation
    assert usual is not None
    recipe = recipe.changed(interpretation={"causal_pairs": pairs or usual.causal_pairs})
    models = models_of(recipe)
    tokenizer = load_tokenizer(models.all[0].ref, models.all[0].revision)
    text = read_text(recipe, tokenizer, make_progress(quiet=True))
    material = _Finished(path.absolute(), recipe, models)
    _Finished.text = text
    return material


class _Finished(Material):
    """A run whose text was read again: it keeps none when it is finished.  All have the same."""

    text: ClassVar[Mapping[str, TokenWindows]]

    def windows_of(self, use: str, text: str) -> TokenWindows:
        return self.text[use]


def _estimates(tables: Tables, every: bool) -> Estimates:
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


def _report(name: str, estimates: list[Estimate]) -> list[bool]:
    """Print a number of all seeds; whether each seed's lies in each other one's interval."""
    numbers = "  ".join(f"{at:6.3f} ({lo:6.3f}, {hi:6.3f}) n={n}" for at, lo, hi, n in estimates)
    within = [lo <= one[0] <= hi for one, (_, lo, hi, _) in permutations(estimates, 2)]
    errors = [(hi - lo) / 4 for _, lo, hi, _ in estimates]
    apart = np.std([one[0] for one in estimates], ddof=1) / np.mean(errors) if within else np.nan
    print(f"  {name:42s} {numbers}  {sum(within)} of {len(within)} within, apart {apart:.1f}")
    return within


if __name__ == "__main__":
    main()
