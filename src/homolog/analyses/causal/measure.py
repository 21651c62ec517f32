"""The task of a direction: pairs, their effects and agreement, and partners in features' places."""

from __future__ import annotations

import math

import polars as pl

from homolog.analyses.analysis import Tables
from homolog.analyses.causal.agreement import agreement
from homolog.analyses.causal.auc import causal_auc
from homolog.analyses.causal.effects import measure_effects
from homolog.analyses.causal.forward import ProbedModel, vocabulary_of
from homolog.analyses.causal.pairs import choose_pairs
from homolog.analyses.causal.substitution import loss_recovered, substitute
from homolog.analyses.causal.two_tokenizers import (
    LEAST_SHARED,
    Stops,
    TwoTokenizers,
    tokens_in_common,
)
from homolog.analyses.material import Material
from homolog.analyses.stream import Matrices
from homolog.analyses.units import alignment, features_on, rows_of
from homolog.features.pooled import Rows
from homolog.matching.intervals import HIGH_MATCH
from homolog.record.tables import (
    CAUSAL,
    CAUSAL_AUC,
    LOSS_RECOVERED,
    MATCHES,
    SUBSTITUTIONS,
)

_DIRECTION = ["model", "best_model"]
_HEADLINE = {"above_r": HIGH_MATCH, "to_r": 1.0}


def measure_pair(
    material: Material, model: str, best_model: str, *, seed: int | None = None
) -> Tables:
    """Task: do features of `model` do the same as their matches in `best_model`.

    seed: of the choice of pairs and of everything after it; by default the run's.
    """
    seed = material.seed if seed is None else seed
    two = _two_tokenizers(material, model, best_model)
    matrices = _matrices(material, model, best_model)
    at_stops = matrices if two is None else _at_units(material, model, best_model)
    pairs, probes = choose_pairs(
        material.table(MATCHES),
        model,
        best_model,
        at_stops,
        ends=(material.n_layers(model) - 1, material.n_layers(best_model) - 1),
        n_pairs=material.interpretation.causal_pairs,
        seed=seed,
    )
    windows = material.windows("match", model)
    a, b = (
        _probed(material, name, pairs[column])
        for name, column in ((model, "layer"), (best_model, "best_layer"))
    )
    effects = measure_effects(pairs, probes, windows, a, b, two)
    agreements = agreement(pairs, effects, seed=seed)
    substitutions = substitute(pairs, windows, a, *matrices, seed=seed)
    direction = pl.lit(model).alias("model"), pl.lit(best_model).alias("best_model")
    summaries = {
        CAUSAL_AUC.name: causal_auc(agreements, seed=seed),
        LOSS_RECOVERED.name: loss_recovered(substitutions, seed=seed),
    }
    named = {name: table.select(*direction, pl.all()) for name, table in summaries.items()}
    return {CAUSAL.name: agreements, SUBSTITUTIONS.name: substitutions} | named


def _matrices(material: Material, model: str, best_model: str) -> tuple[Matrices, Matrices]:
    """Features of both, a row for each token of `model`."""
    return (
        lambda layer: material.features(model, layer).matrix,
        lambda layer: features_on(material, best_model, layer, model),
    )


def _at_units(material: Material, model: str, best_model: str) -> tuple[Matrices, Matrices]:
    """Features of both at the last tokens of units, however they are pooled for matching."""
    own, best = _unit_ends(material, model, best_model)
    return (
        lambda layer: material.features(model, layer).matrix[own],
        lambda layer: material.features(best_model, layer).matrix[best],
    )


def _unit_ends(material: Material, model: str, best_model: str) -> tuple[Rows, Rows]:
    """The row of each model's features at which each unit ends."""
    texts = material.texts_of(model, best_model)
    assert texts is not None
    aligned = alignment(material, texts)
    own, best = (
        rows_of(aligned, texts, material.run.text_of(name))[1] for name in (model, best_model)
    )
    return own, best


def _two_tokenizers(material: Material, model: str, best_model: str) -> TwoTokenizers | None:
    """How effects are compared across two tokenizers; None: the models have one."""
    if material.texts_of(model, best_model) is None:
        return None
    stops, texts = [], []
    for name, rows in zip(
        (model, best_model), _unit_ends(material, model, best_model), strict=True
    ):
        stops.append(Stops.at_rows(material.windows("match", name), rows))
        spelled = material.run.token_texts(material.run.text_of(name))
        texts.append(spelled[: vocabulary_of(material.model(name))])
    return TwoTokenizers((stops[0], stops[1]), tokens_in_common(*texts))


def _probed(material: Material, model: str, layers: pl.Series) -> ProbedModel:
    saes = {layer: material.sae(model, layer) for layer in layers.unique().sort()}
    return ProbedModel(material.model(model), saes)


def says(material: Material) -> list[dict[str, str]]:
    """The words of a run, for the command line and run.json."""
    tables = (CAUSAL_AUC, LOSS_RECOVERED, CAUSAL)
    return causal_words(*map(material.table, tables))


def causal_words(
    auc: pl.DataFrame, recovered: pl.DataFrame, pairs: pl.DataFrame | None = None
) -> list[dict[str, str]]:
    """For each ordered pair of models: do the closest matches do the same.

    auc: `CAUSAL_AUC`.  recovered: `LOSS_RECOVERED`.  pairs: `CAUSAL`, which says how much tokens
    in common hold where the tokenizers differ.  Entries have model, best_model and words.
    """
    effects = auc.filter(kind="ablate", **_HEADLINE)
    said = []
    for row in effects.filter(where="here").iter_rows(named=True):
        direction = {name: row[name] for name in _DIRECTION}
        later = effects.filter(pl.col("n") > 0, where="later", **direction).to_dicts()
        filled = recovered.filter(pl.col("n") > 0, **_HEADLINE, **direction).to_dicts()
        words = [_agreeing(row, later[0] if later else None)] if row["n"] else []
        filled = [each for each in filled if math.isfinite(each["kl_recovered"])]
        words += [_recovering(each, row["model"] if not words else "") for each in filled]
        if pairs is not None:
            words += _sharing(pairs.filter(**direction))
        if words:
            said.append(direction | {"words": " ".join(words)})
    return said


def _agreeing(here: dict, later: dict | None) -> str:
    """How often matched pairs agree more than their controls."""
    after = f"; on later tokens in {_share(later, 'auc')}, {later['n']} pairs" if later else ""
    return (
        f"Taken out, features of {here['model']} and their partners in {here['best_model']} above "
        f"r = {HIGH_MATCH} change the next token more alike than pairs that fire as often and do "
        f"not match in {_share(here, 'auc')} of comparisons, {here['n']} pairs{after}. Mean "
        f"agreement is {_number(here, 'mean')} against {_number(here, 'control_mean')}."
    )


def _sharing(pairs: pl.DataFrame) -> list[str]:
    """What tokens in common hold; nothing where there is one tokenizer."""
    shares = pairs.select("ablate_shared", "ablate_best_shared").drop_nulls().drop_nans()
    if shares.is_empty():
        return []
    own, best = (f"{_percent(value)}%" for value in shares.mean().row(0))
    few = int((shares.min_horizontal() < LEAST_SHARED).sum())
    below = f" Of {few} of {len(shares)} pairs and controls they hold less than half on a side: "
    return [
        "The tokenizers differ: effects are compared where units end, over the tokens that both "
        f"vocabularies have, which hold {own} of the model's predictions and {best} of the "
        f"partners'." + (f"{below}their agreement is undefined." if few else "")
    ]


def _recovering(row: dict, model: str = "") -> str:
    """How much of a feature's part in the predictions its partner takes; model: to be named."""
    random = ""
    if math.isfinite(row["kl_random"]):
        random = f", a random feature's {_share(row, 'kl_random')}"
    return (
        f"In the place of the feature{model and f' of {model}'}, the partner's activation undoes "
        f"{_share(row, 'kl_recovered')} of the change of the predictions (KL) that taking it out "
        f"makes{random}; of the loss it recovers {_share(row, 'recovered')}."
    )


def _share(row: dict, name: str) -> str:
    lo, hi = row[f"{name}_lo"], row[f"{name}_hi"]
    ends = f" ({_percent(lo)} to {_percent(hi)}%)" if math.isfinite(lo) else ""
    return f"{_percent(row[name])}%{ends}"


def _percent(value: float) -> int:
    """A whole number, never -0."""
    return round(100 * value)


def _number(row: dict, name: str) -> str:
    lo, hi = row[f"{name}_lo"], row[f"{name}_hi"]
    return f"{row[name]:.2f}" + (f" ({lo:.2f} to {hi:.2f})" if math.isfinite(lo) else "")
