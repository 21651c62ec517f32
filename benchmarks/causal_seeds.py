"""Does the causal analysis give the same with other pairs?

    python benchmarks/causal_seeds.py [runs/demo] [--seeds 0 1 2] [--pairs 320] [--every] [--quick]

Draws the pairs, controls, tokens and windows of every direction anew with each seed, on a finished
run's own features and dictionaries, and writes nothing there.  Without a run, one is made first of
the demo's recipe without what the analysis does not read; `--quick`: on a quarter of its text.
Prints the headline numbers (r above 0.7; `--every`: all ranges of r) with their 95 % intervals, and
in how many of the other seeds' intervals each seed's estimate lies: of independent samples, in 83 %
of them, for both sides of the comparison vary.  Seeds share the pairs that both happen to draw;
other dictionaries or models are another question.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Mapping
from itertools import permutations
from pathlib import Path
from typing import ClassVar

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

PAIRS = 320  # as in the demo's recipe
Estimate = tuple[float, float, float, int]
"""A number, the ends of its interval, and how many pairs."""
Estimates = dict[str, Estimate]


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("run", type=Path, nargs="?", help="folder of a finished run")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--pairs", type=int, help=f"of each direction; {PAIRS} by default")
    parser.add_argument("--every", action="store_true", help="all ranges of r, not above 0.7 alone")
    parser.add_argument("--quick", action="store_true", help="without a run: make a smaller one")
    options = parser.parse_args()
    if options.run is not None:
        compare_seeds(options.run, options)
        return
    with tempfile.TemporaryDirectory() as folder:
        compare_seeds(make_run(Path(folder) / "run", options.quick), options)


def make_run(path: Path, quick: bool) -> Path:
    """A run of the demo's recipe, as far as pairs are made of it."""
    recipe = load_recipe("demo")
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
        sae={"seeds": [0]},
        controls={"neurons": False, "sae_seed": False, "stability": False},
        interpretation={"causal_pairs": 4, "context_tokens": 0, "listed": 0, "transplant": False},
        circuits=None,
    )
    run_study(cut, path, make_progress())
    return path


def compare_seeds(run: Path, options: argparse.Namespace) -> None:
    """Print every direction's numbers by seed."""
    limit_process(1)
    material = _material(run, options.pairs or PAIRS)
    for model, best_model in each_direction_with_homologs(material):
        print(f"\n{model} in {best_model}")
        by_seed: list[Estimates] = []
        for seed in options.seeds:
            started = time.process_time()
            tables = measure_pair(material, model, best_model, seed=seed)
            seconds = time.process_time() - started
            by_seed.append(_estimates(tables, options.every))
            print(f"  seed {seed}: {seconds:.1f} s of processor time")
        within: list[bool] = []
        for name in by_seed[0]:
            within += _report(name, [estimates[name] for estimates in by_seed])
        print(f"  within another seed's interval: {sum(within)} of {len(within)}")


def _material(path: Path, pairs: int) -> Material:
    recipe = parse_recipe(RunFolder(path).record["recipe"], str(path))
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
    print(f"  {name:42s} {numbers}  {sum(within)} of {len(within)} within")
    return within


if __name__ == "__main__":
    main()
