"""Which witness is right about which features?  Planted residuals, each witness beside the truth.

    python -m benchmarks witnesses [--draws 3] [--kind batchtopk] [--out FILE]

Two models whose residuals are sums of known latents and an untrained one, drawn anew a few times
(`homolog.matching.planted_residuals`), and once with nothing shared.  BatchTopK dictionaries of 256
features (k 6; or another kind) in two seeds, a crosscoder of 384 latents (k 8), and of every
feature what the witnesses of a study say (`homolog.analyses.witnesses`): all but a language model,
which has no text here.  The truth is the latent that a feature follows.  Prints, for each witness,
what it calls shared by kind of feature, and its errors; what the features are of which two say this
or that; and the agreement of every two.  Numbers of docs/witnesses.md; two minutes of one core.
"""

from __future__ import annotations

import argparse
import itertools
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import polars as pl
import torch
from planted_dictionaries import (
    HELD_OUT_DOCUMENTS,
    LATENTS,
    RATE_TOKENS,
    SPARSITY,
    TRAIN_DOCUMENTS,
    Drawn,
    Setting,
    encoded,
    trained,
)

from homolog.analyses.crosscoder.measure import followed, latent_rows
from homolog.analyses.exclusive.lists import lists
from homolog.analyses.exclusive.regression import exclusive_r2
from homolog.analyses.flow import FITTED_TOKENS
from homolog.analyses.flow.weights import Matched, null_cosines, weight_rows
from homolog.analyses.witnesses.agreement import agreement
from homolog.analyses.witnesses.rules import NAMES, asked
from homolog.dictionaries import (
    CrosscoderSettings,
    Place,
    SparseAutoencoder,
    TrainingConfig,
    latent_scaling,
    rotated,
    train_crosscoder,
)
from homolog.features import SparseFeatures
from homolog.matching import match_by_weights, max_pearson, procrustes
from homolog.matching.by_weights import Folding
from homolog.matching.planted_residuals import (
    Encoded,
    Followed,
    PlantedModel,
    ResidualPlanting,
    World,
    called,
)
from homolog.record.comparisons import SAE_SEED
from homolog.record.sides import MAIN_LABEL
from homolog.record.tables import (
    BY_WEIGHTS,
    CROSSCODER_FEATURES,
    LISTS,
    MATCHES,
    SAES,
)
from homolog.record.tables.describing import MATCH_KEY

CROSSCODER = CrosscoderSettings(d_sae=384, k=8)
TRAINING = TrainingConfig(n_tokens=1_048_576, batch=256, dead_after=50_000)
KINDS = {
    "both": "shared, and the other dictionary has it",
    "unlearnt": "shared, but the other dictionary has not learnt it",
    "related": "private, but its family or group is in the other model too",
    "private": "private",
    "token": "of one token, in all models, untrained ones too",
    "nothing": "follows no latent",
}
FOLDINGS: tuple[Folding, ...] = ("direction", "norm")
RULES = ("cosine alone", "mutual alone", *(f"by {folding}" for folding in FOLDINGS))
"""Other rules of weights: its halves by themselves, and nearest both ways by other foldings."""
SHARED, ALONE = ("both", "unlearnt"), ("related", "private")


@dataclass(frozen=True)
class Planted:
    """A draw: residuals, and of A and B the dictionary, its features, those of the second seed."""

    setting: Setting
    of: Drawn
    models: Sequence[PlantedModel]
    saes: Sequence[SparseAutoencoder]
    sides: Sequence[Encoded]
    seconds: Sequence[Encoded]
    untrained: Encoded

    @property
    def directions(self) -> Iterator[tuple[int, int]]:
        """Places of whose features, and of where they are looked for."""
        yield from ((0, 1), (1, 0))

    def features(self, place: int) -> SparseFeatures:
        side, document = self.sides[place], self.of.held_out.document
        return SparseFeatures(side.features, "planted", document, side.model, 0)


def planted(world: World, setting: Setting) -> Planted:
    """Dictionaries of a world's models, trained, and what they encode of the held-out text."""
    text = world.text("train", TRAIN_DOCUMENTS)
    held_out = world.text("held-out", HELD_OUT_DOCUMENTS)
    models = world.planting.models
    streams = [{m.name: world.residuals(m, t) for m in models} for t in (text, held_out)]
    of = Drawn(world, held_out, *streams)
    saes = [trained(setting, of, m, (MAIN_LABEL, "seed1")) for m in models[:2]]
    base = trained(setting, of, models[2], (MAIN_LABEL,))[0]
    main, second = (
        [encoded(pair[i], of, m, label) for pair, m in zip(saes, models[:2], strict=True)]
        for i, label in enumerate((MAIN_LABEL, "seed1"))
    )
    untrained = encoded(base, of, models[2], MAIN_LABEL)
    return Planted(setting, of, models[:2], [pair[0] for pair in saes], main, second, untrained)


def matches_of(drawn: Planted) -> pl.DataFrame:
    """`MATCHES`: the main comparison judged, and each feature in its own model's second seed."""
    turned = [
        encoded(rotated(sae, 1, drawn.of.measure[m.name][:RATE_TOKENS]), drawn.of, m, "rotated")
        for sae, m in zip(drawn.saes, drawn.models, strict=True)
    ]
    pair, controls = tuple(drawn.sides), tuple(turned)
    main = called(pair, controls, drawn.untrained, drawn.of.held_out, threads=1)  # pyright: ignore[reportArgumentType]
    parts = [MATCHES.frame(main)]
    for side, second in zip(drawn.sides, drawn.seconds, strict=True):
        r = max_pearson(side.columns, second.columns, 1, threads=1).a_to_b.r[:, 0]
        about = {"comparison": SAE_SEED.name, "label": MAIN_LABEL, "best_label": "seed1"}
        about |= {"model": side.model, "best_model": side.model, "layer": 0}
        rows = pl.DataFrame({"feature": range(len(r)), "r": r})
        parts.append(MATCHES.frame(rows.with_columns(pl.lit(v).alias(n) for n, v in about.items())))
    return pl.concat(parts)


def listed(drawn: Planted, matches: pl.DataFrame) -> pl.DataFrame:
    """`LISTS`: the exclusive features of both, regressed on the other's."""
    names = [side.model for side in drawn.sides]
    saes = SAES.frame(
        [{"model": m, "label": MAIN_LABEL, "layer": 0, "passed": True} for m in names]
    )
    both = lists(matches, saes, most=drawn.setting.d_sae).filter(list="exclusive")
    parts = []
    for own, other in drawn.directions:
        alone = both.filter(model=names[own])
        parts.append(exclusive_r2(alone, [drawn.features(own)], [drawn.features(other)]))
    return LISTS.frame(pl.concat(parts))


def by_weights(drawn: Planted, folding: Folding | None = None) -> pl.DataFrame:
    """`BY_WEIGHTS`, both ways; folding: as a study has it, by default."""
    a, b = (m.name for m in drawn.models)
    x, y = (drawn.of.train[name][:FITTED_TOKENS].numpy() for name in (a, b))
    turn = procrustes(x, y)
    match = match_by_weights(*drawn.saes, turn=turn, folding=folding, threads=1)
    chance = null_cosines(*drawn.saes, turn, seed=0)
    found = Matched((a, 0), (b, 0), match, chance)
    of_a, of_b = (side.features for side in drawn.sides)
    return pl.concat([weight_rows(found, of_a, of_b), weight_rows(found.reversed, of_b, of_a)])


def of_crosscoder(drawn: Planted) -> pl.DataFrame:
    """`CROSSCODER_FEATURES`, both ways."""
    names = [m.name for m in drawn.models]
    streams = {name: drawn.of.train[name] for name in names}
    crosscoder = train_crosscoder(streams, CROSSCODER, TRAINING, on=Place(workers=1))
    held_out = [drawn.of.measure[name] for name in names]
    latents = crosscoder.encode(*held_out)
    owners = latent_rows(crosscoder, latent_scaling(crosscoder, *held_out))["owner"]
    parts = [
        followed(
            drawn.sides[own].features,
            latents,
            owners,
            model=names[own],
            layer=0,
            best_model=names[other],
        )
        for own, other in drawn.directions
    ]
    return pl.concat(parts)


def kinds_of(drawn: Planted) -> pl.DataFrame:
    """The truth: `MATCH_KEY` and the kind of each feature that fires, one of `KINDS`."""
    world, text = drawn.of.world, drawn.of.held_out
    owner, unit = world.latents["owner"].to_numpy(), world.units
    follows = [
        Followed.of(side.features, world.carried(m, text), world.families)
        for side, m in zip(drawn.sides, drawn.models, strict=True)
    ]
    parts = []
    for own, other in drawn.directions:
        latent, name = follows[own].latent, drawn.models[own].name
        there = world.carries(drawn.models[other]) & (unit >= 0)
        related = (unit >= 0) & np.isin(unit, unit[there])
        of_latent = np.where(owner == name, np.where(related, "related", "private"), "token")
        of_latent = np.where(owner == "shared", "unlearnt", of_latent).astype("U16")
        learnt = (owner == "shared") & np.isin(np.arange(len(owner)), follows[other].latent)
        of_latent[learnt] = "both"
        kind = np.where(latent >= 0, of_latent[latent], "nothing")
        rows = pl.DataFrame({"feature": range(len(kind)), "kind": kind})
        about = {"model": name, "best_model": drawn.models[other].name}
        rows = rows.with_columns(pl.lit(value).alias(key) for key, value in about.items())
        fires = drawn.sides[own].facts.n_active > 0
        parts.append(rows.filter(pl.Series(fires)))
    keys = pl.col("layer", "feature").cast(pl.Int32)
    return pl.concat(parts).with_columns(layer=0).with_columns(keys)


def heard(world: World, setting: Setting) -> pl.DataFrame:
    """What the witnesses say of both models' features that fire, and `kind`."""
    drawn = planted(world, setting)
    matches = matches_of(drawn)
    weights = by_weights(drawn)
    tables = {
        MATCHES: matches,
        BY_WEIGHTS: weights,
        CROSSCODER_FEATURES: of_crosscoder(drawn),
        LISTS: listed(drawn, matches),
    }
    said = asked(lambda table: tables[table].lazy() if table in tables else None)
    above, mutual = pl.col("cosine") > pl.col("null_cosine"), pl.col("mutual")
    known = weights.filter(pl.col("best_feature") >= 0)
    rules = [known.select(*MATCH_KEY, **dict(zip(RULES[:2], (above, mutual), strict=True)))]
    for folding, name in zip(FOLDINGS, RULES[2:], strict=True):
        rules.append(by_weights(drawn, folding).select(*MATCH_KEY, mutual.alias(name)))
    for columns in rules:
        said = said.join(columns, on=MATCH_KEY, how="left", maintain_order="left")
    return said.join(kinds_of(drawn), on=MATCH_KEY, how="inner", maintain_order="left")


def by_kind(rows: pl.DataFrame, columns: Sequence[str] = NAMES) -> None:
    """Prints what each of these columns calls shared of each kind, and its errors."""
    names = [name for name in columns if rows[name].is_not_null().any()]
    print(f"{'called shared of':64}" + "".join(f"{name:>14}" for name in names))
    for kind, words in KINDS.items():
        part = rows.filter(kind=kind)
        cells = [_share(part[name]) for name in names]
        print(f"{f'{words} ({len(part)})':64}" + "".join(f"{cell:>14}" for cell in cells))
    for title, kinds, wrong in (("false shared", ALONE, True), ("false exclusive", SHARED, False)):
        part = rows.filter(pl.col("kind").is_in(kinds))
        cells = [_share(part[name] == wrong) for name in names]
        print(f"{f'{title}: of all that are not so':64}" + "".join(f"{cell:>14}" for cell in cells))


def _share(answers: pl.Series) -> str:
    known = answers.drop_nulls()
    mean = known.cast(pl.Float64).mean()
    return f"{100 * mean:.0f}% of {len(known)}" if isinstance(mean, float) else "-"


def by_answers(rows: pl.DataFrame) -> None:
    """Prints what the features are of which two witnesses say this or that."""
    for one, other in itertools.combinations(NAMES, 2):
        known = rows.drop_nulls([one, other])
        if known.is_empty():
            continue
        print(f"\n{f'{one}, {other}':24}{'features':>10}" + "".join(f"{k:>10}" for k in KINDS))
        for answers in itertools.product((True, False), repeat=2):
            part = known.filter(**dict(zip((one, other), answers, strict=True)))
            name = ", ".join("yes" if answer else "no" for answer in answers)
            shares = [len(part.filter(kind=kind)) / max(1, len(part)) for kind in KINDS]
            print(f"{name:24}{len(part):>10}" + "".join(f"{100 * s:9.0f}%" for s in shares))


def kappas(draws: Sequence[pl.DataFrame]) -> None:
    """Prints kappa of every two witnesses over draws and directions."""
    parts = [agreement(rows.select(*MATCH_KEY, *NAMES), seed=0) for rows in draws]
    means = pl.concat(parts).group_by("witness", "other", maintain_order=True)
    print("\nkappa of two witnesses: mean, least and most of draws and directions")
    kappa = pl.col("kappa").fill_nan(None)
    for row in means.agg(m=kappa.mean(), lo=kappa.min(), hi=kappa.max()).iter_rows(named=True):
        if row["m"] is not None:
            numbers = "".join(f"{row[name]:7.2f}" for name in ("m", "lo", "hi"))
            print(f"{row['witness']:>12}, {row['other']:12}{numbers}")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--draws", type=int, default=3, help="worlds as planted")
    parser.add_argument("--out", type=Path, help="Parquet of every feature")
    parser.add_argument("--kind", choices=SPARSITY, default="batchtopk", help="of dictionaries")
    options = parser.parse_args()
    setting = Setting("as planted", options.kind, "sparse", 256, 524_288, seeds=True)
    torch.set_num_threads(1)
    started = time.process_time()
    draws = [heard(World(seed=seed), setting) for seed in range(options.draws)]
    rows = pl.concat(draws)
    print(f"{options.draws} worlds as planted, {time.process_time() - started:.0f} s of CPU")
    by_kind(rows)
    by_answers(rows)
    kappas(draws)
    print("\nother rules of weights")
    by_kind(rows, RULES)
    nothing = heard(World(ResidualPlanting(shared=0, private=LATENTS)), setting)
    print("\nnothing shared")
    by_kind(nothing)
    if options.out:
        worlds = {"as planted": rows, "nothing shared": nothing}
        named = [part.with_columns(world=pl.lit(name)) for name, part in worlds.items()]
        pl.concat(named).write_parquet(options.out)


if __name__ == "__main__":
    main()
