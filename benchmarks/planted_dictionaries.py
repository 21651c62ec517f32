"""Is the verdict right when features come from dictionaries?  Planted residuals, trained, matched.

    python benchmarks/planted_dictionaries.py [--quick] [--workers N] [--out FOLDER]

Two models whose residuals are sums of known latents and an untrained one
(`homolog.matching.planted_residuals`), dictionaries of every kind trained on each by
`dictionaries.train`, and the whole chain to the verdict on held-out tokens: for every kind, two
sparsities, two widths and two budgets of training, and at one setting other shares planted,
latents without families and groups, and more superposition.  Where the training is long and sparse,
the share is taken once more among the features that come back in a second seed (r >= 0.7).  Every
setting prints two lines, A in B and B in A: the share planted, true and called, and whose the error
is.

Writes planted-dictionaries.csv, as it goes, and planted-dictionaries.svg into FOLDER; prints the
tables of docs/planted-dictionaries.md.  Nine minutes of CPU over two cores; `--quick` one.
"""

from __future__ import annotations

import argparse
import itertools
import os
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import asdict, dataclass
from functools import lru_cache
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import torch
from planted_dictionaries_figure import save, tables

from homolog.dictionaries import (
    KINDS,
    Place,
    ResidualArrays,
    SparseAutoencoder,
    TrainingConfig,
    explained_variance,
    parse_config,
    rotated,
    train,
)
from homolog.matching import max_pearson
from homolog.matching.planted_residuals import (
    LEAST_R,
    Encoded,
    Followed,
    PlantedModel,
    PlantedText,
    ResidualPlanting,
    Truth,
    World,
    account,
    called,
)

SPARSITY: dict[str, dict[str, float]] = {
    "relu": {"sparse": 4.0, "dense": 2.0},
    "topk": {"sparse": 6, "dense": 12},
    "batchtopk": {"sparse": 6, "dense": 12},
    "jumprelu": {"sparse": 3.0, "dense": 1.0},
    "gated": {"sparse": 4.0, "dense": 2.0},
}
"""About the latents that fire on a token, and about twice as many."""
WIDTHS, BUDGETS = (256, 512), (131_072, 524_288)
LATENTS = 176  # of A and of B, beside those of tokens
WORLDS: dict[str, ResidualPlanting] = {
    "as planted": ResidualPlanting(),
    "nothing shared": ResidualPlanting(shared=0, private=LATENTS),
    "most shared": ResidualPlanting(shared=144, private=LATENTS - 144),
    "all alone": ResidualPlanting(in_families=0, in_groups=0),
    "more superposition": ResidualPlanting(
        models=(
            PlantedModel("A", 64, 0.08),
            PlantedModel("B", 48, 0.1),
            PlantedModel("untrained", 56, 0.08),
        )
    ),
}
TRAIN_DOCUMENTS, HELD_OUT_DOCUMENTS, RATE_TOKENS = 1024, 256, 20_000


@dataclass(frozen=True)
class Setting:
    """One training of all models, and what is planted."""

    world: str
    kind: str
    sparsity: str
    d_sae: int
    tokens: int
    seeds: bool = False
    """Train a second dictionary of A and of B, to see which features come back in it."""

    @property
    def config(self) -> Any:
        value = SPARSITY[self.kind][self.sparsity]
        return parse_config(
            {"kind": self.kind, KINDS[self.kind].sparsity: value, "d_sae": self.d_sae}
        )


def settings(quick: bool) -> Iterator[Setting]:
    """World by world, so that each is drawn once."""
    if quick:
        for kind in SPARSITY:
            yield Setting("as planted", kind, "sparse", WIDTHS[0], BUDGETS[0])
        return
    grid = itertools.product(BUDGETS[::-1], SPARSITY, ("sparse", "dense"), WIDTHS)
    for tokens, kind, sparsity, width in grid:
        seeds = tokens == BUDGETS[1] and sparsity == "sparse"
        yield Setting("as planted", kind, sparsity, width, tokens, seeds)
    for world in list(WORLDS)[1:]:
        for kind in SPARSITY:
            yield Setting(world, kind, "sparse", WIDTHS[0], BUDGETS[1])


@dataclass(frozen=True)
class Drawn:
    """Residuals of a world's models by name, to train on and held out."""

    world: World
    held_out: PlantedText
    train: dict[str, torch.Tensor]
    measure: dict[str, torch.Tensor]


@lru_cache(maxsize=1)
def drawn(world_name: str) -> Drawn:
    world = World(WORLDS[world_name])
    text, held_out = (
        world.text("train", TRAIN_DOCUMENTS),
        world.text("held-out", HELD_OUT_DOCUMENTS),
    )
    models = world.planting.models
    residuals = [{m.name: world.residuals(m, t) for m in models} for t in (text, held_out)]
    return Drawn(world, held_out, *residuals)


def trained(
    setting: Setting, of: Drawn, model: PlantedModel, labels: Sequence[str]
) -> Sequence[Any]:
    """A dictionary for each of the labels."""
    training = TrainingConfig(n_tokens=setting.tokens, batch=256, dead_after=50_000)
    source = ResidualArrays([of.train[model.name]], seed=0, name=model.name)
    place = Place(workers=1)
    made = train(source, setting.config, training, model=model.name, labels=labels, on=place)
    return [made[label][0] for label in labels]


def encoded(sae: SparseAutoencoder, of: Drawn, model: PlantedModel, label: str) -> Encoded:
    x = of.measure[model.name]
    explained = explained_variance(x, sae.reconstruct(x))
    return Encoded(model.name, label, sae.encode_sparse(x), explained)


def run(setting: Setting) -> list[dict[str, Any]]:
    """Both directions of a setting."""
    torch.set_num_threads(1)
    started, of = time.process_time(), drawn(setting.world)
    world, models = of.world, of.world.planting.models
    labels = ("sae", "seed1") if setting.seeds else ("sae",)
    saes = {m: trained(setting, of, m, labels if m in models[:2] else ("sae",)) for m in models}
    a, b, untrained = (encoded(saes[m][0], of, m, "sae") for m in models)
    turned = []
    for m in models[:2]:
        sae = rotated(saes[m][0], 1, of.measure[m.name][:RATE_TOKENS])
        turned.append(encoded(sae, of, m, "rotated"))
    matches = called((a, b), (turned[0], turned[1]), untrained, of.held_out, threads=1)
    seconds = time.process_time() - started
    carried = [world.carried(m, of.held_out) for m in models[:2]]
    sides = [
        Followed.of(side.features, own, world.families)
        for side, own in zip((a, b), carried, strict=True)
    ]
    rows = []
    for i, side in enumerate((a, b)):
        private = (world.latents["owner"] == side.model).to_numpy()
        truth = Truth(sides[i], sides[1 - i], world.shared, private, world.units)
        facts = {
            "model": side.model,
            "alive": float((side.facts.n_active > 0).mean()),
            "l0": side.features.nnz / len(of.held_out.token),
            "explained": side.explained_variance,
            "untrained_explained": untrained.explained_variance,
            "seconds": seconds,
        }
        own = matches.filter(model=side.model)
        row = asdict(setting) | facts | account(own, truth)
        again = np.full(len(own), False)
        if setting.seeds:
            m = models[i]
            second = encoded(saes[m][1], of, m, "seed1").columns
            again = max_pearson(side.columns, second, 1, threads=1).a_to_b.r[:, 0] >= LEAST_R
        of_again = account(own, truth, again)
        row["again"] = float(again.mean()) / facts["alive"] if setting.seeds else float("nan")
        rows.append(
            row | {f"{name}_again": of_again[name] for name in ("true", "called", "follow")}
        )
    return rows


SHOWN = ("planted", "true", "called", "dictionary_part", "matching_part", "missed")


def printed(row: dict[str, Any]) -> str:
    names = f"{row['world']:<19}{row['kind']:<10}{row['sparsity']:<7}{row['d_sae']:>4}"
    shares = "  ".join(f"{name} {row[name]:+.3f}" for name in SHOWN)
    return f"{names}{row['tokens']:>8}  {row['model']}  L0 {row['l0']:5.1f}  {shares}"


def all_rows(chosen: Sequence[Setting], workers: int, csv: Path) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = []
    with ProcessPoolExecutor(workers, get_context("spawn")) as pool:
        for done in as_completed([pool.submit(run, setting) for setting in chosen]):
            rows += done.result()
            print(*map(printed, done.result()), sep="\n", flush=True)
            pl.DataFrame(rows).write_csv(csv, float_precision=4)
    order = {setting: i for i, setting in enumerate(chosen)}
    names = Setting.__dataclass_fields__
    rows.sort(key=lambda row: order[Setting(**{name: row[name] for name in names})])
    pl.DataFrame(rows).write_csv(csv, float_precision=4)
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--quick", action="store_true", help="one setting of each kind")
    parser.add_argument("--workers", type=int, default=min(2, os.cpu_count() or 1))
    parser.add_argument("--out", type=Path, default=Path("docs/images"))
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    started = time.time()
    csv = options.out / "planted-dictionaries.csv"
    rows = pl.DataFrame(all_rows(list(settings(options.quick)), options.workers, csv))
    save(rows, options.out / "planted-dictionaries.svg")
    print(tables(rows))
    cpu = rows.filter(model="A")["seconds"].sum()
    print(f"{time.time() - started:.0f} s, {cpu:.0f} s of CPU")


if __name__ == "__main__":
    main()
