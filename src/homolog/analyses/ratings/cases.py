"""Which features are rated, across all heights of r, and with which of their texts.

A feature is explained from `SHOWN` of its texts and tested on up to `2 * TESTED` others, half of
them with the feature active at the marked token, half without.  Held-out active texts come from all
quantiles; silent ones are texts of other features of the same layer, in which this one is 0
throughout.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import polars as pl

from homolog.analyses.material import Material
from homolog.analyses.ratings import prompts
from homolog.analyses.ratings.asking import Question
from homolog.analyses.ratings.prompts import Excerpt
from homolog.analyses.stream import entries_of
from homolog.corpus import TokenText, joined
from homolog.features import SparseFeatures
from homolog.record.comparisons import MAIN
from homolog.record.tables import CONTEXTS, MATCHES

SHOWN = 10
TESTED = 5
BINS = np.linspace(0, 1, 11)  # of r, from which features are drawn alike
EXPLANATION_TOKENS, DETECTION_TOKENS = 300, 100


@dataclass(frozen=True)
class Case:
    """A feature with the texts to explain, and those to test the explanation on.

    active: of each text of the test, whether the feature is.
    """

    model: str
    layer: int
    feature: int
    shown: tuple[Excerpt, ...]
    tested: tuple[Excerpt, ...]
    active: tuple[bool, ...]

    def explain(self) -> Question:
        """What asks for an explanation."""
        highest = max(value for excerpt in self.shown for value in excerpt.values)
        return Question(prompts.explain(self.shown, highest), EXPLANATION_TOKENS)

    def detect(self, explanation: str) -> Question:
        """What tests an explanation."""
        return Question(prompts.detect(explanation, self.tested), DETECTION_TOKENS)


def chosen_cases(material: Material, n_features: int, seed: int) -> list[Case]:
    """Cases of up to `n_features` of each compared model, drawn alike from all heights of r."""
    run, main = material.run, material.table(MATCHES).filter(comparison=MAIN.name)
    chosen: list[Case] = []
    for model in material.compared:
        vocabulary = run.token_texts(run.text_of(model.name))
        own = main.filter(model=model.name).group_by("layer", "feature", maintain_order=True)
        best = own.agg(pl.col("r").max()).filter(pl.col("r").is_finite())
        spread = _spread(best, n_features, seed)
        for (layer,), part in spread.group_by("layer", maintain_order=True):
            layer = int(layer)  # type: ignore[call-overload]
            contexts = CONTEXTS.read(run.table(CONTEXTS, model.name, layer))
            features = material.features(model.name, layer)
            chosen += cases(features, contexts, vocabulary, part["feature"].to_list(), seed)
    return chosen


def _spread(rows: pl.DataFrame, n: int, seed: int) -> pl.DataFrame:
    """About `n` features, alike from all bins of r, in the order of layer and feature."""
    order = np.random.default_rng(seed).permutation(rows.height)
    bins = np.clip(np.digitize(rows["r"].to_numpy()[order], BINS), 1, len(BINS) - 1)
    shuffled = rows[order].with_columns(bin=pl.Series(bins))
    turn = shuffled.with_columns(turn=pl.int_range(pl.len()).over("bin"))
    return turn.sort("turn", "bin").head(n).sort("layer", "feature")


def cases(
    features: SparseFeatures,
    contexts: pl.DataFrame,
    vocabulary: Sequence[TokenText],
    wanted: Iterable[int],
    seed: int,
) -> Iterator[Case]:
    """A case for each wanted feature of a layer with texts enough: half of `SHOWN` + `TESTED`.

    features: of the layer.  contexts: its examples (`CONTEXTS`).  vocabulary: what each token id
    stands for (`corpus.token_texts`).  Deterministic: the same seed, layer and feature give the
    same case.
    """
    strong = contexts.filter(pl.col("quantile") == 1.0, pl.col("rank") < 4)
    columns = features.matrix.tocsc()
    columns.sort_indices()
    groups = contexts.partition_by("feature", as_dict=True)
    for feature in wanted:
        own = groups.get((feature,))
        if own is None or own.height < (SHOWN + TESTED) // 2:
            continue
        rng = np.random.default_rng([seed, features.layer, feature])
        shown, held = _split(own, rng)
        rows, _ = entries_of(columns, feature)
        others = strong.filter(pl.col("feature") != feature)
        quiet = _silent(others, rows, len(held), rng)
        if not len(quiet):
            continue
        tested = [(excerpt, True) for excerpt in _excerpts(held, vocabulary)]
        tested += [(excerpt, False) for excerpt in _excerpts(quiet, vocabulary)]
        mixed = [tested[place] for place in rng.permutation(len(tested))]
        texts, active = zip(*mixed, strict=True)
        explained = _excerpts(shown, vocabulary)
        yield Case(features.name, features.layer, feature, explained, texts, active)


def _split(own: pl.DataFrame, rng: np.random.Generator) -> tuple[pl.DataFrame, pl.DataFrame]:
    """(texts to explain, texts held out in random order): every third is, from all quantiles."""
    order = own.sort("quantile", "rank", descending=[True, False]).with_row_index("_at")
    held = order.filter(pl.col("_at") % 3 == 2)
    shown = order.filter(pl.col("_at") % 3 != 2)
    pick = np.sort(rng.permutation(held.height)[:TESTED])
    return shown.head(SHOWN).drop("_at"), held[pick].drop("_at")


def _silent(
    others: pl.DataFrame, rows: np.ndarray, n: int, rng: np.random.Generator
) -> pl.DataFrame:
    """Up to `n` texts, in random order, in which a feature is 0.

    rows: those at which it is not, ascending.
    """
    order = others[rng.permutation(others.height)[: 20 * n]]
    before = order["position"].to_numpy().astype(np.int64) - order["start"].to_numpy()
    length = order["tokens"].list.len().to_numpy().astype(np.int64)
    # masked tokens have no row: this spans the rows of the text and a few more
    first = order["row"].to_numpy() - before
    quiet = np.searchsorted(rows, first) == np.searchsorted(rows, first + length)
    zeros = pl.lit(0.0).repeat_by(pl.col("tokens").list.len()).cast(pl.List(pl.Float32))
    return order.filter(quiet).head(n).with_columns(values=zeros)


def _excerpts(rows: pl.DataFrame, vocabulary: Sequence[TokenText]) -> tuple[Excerpt, ...]:
    return tuple(_excerpt(row, vocabulary) for row in rows.iter_rows(named=True))


def _excerpt(row: dict[str, Any], vocabulary: Sequence[TokenText]) -> Excerpt:
    """The tokens of an example; those that spell one character are one, with the highest value."""
    tokens = [vocabulary[token] for token in row["tokens"]]
    texts, values, at, highest = [], [], 0, 0.0
    spelt = zip(tokens, joined(tokens), row["values"], strict=True)
    for place, (token, shown, value) in enumerate(spelt):
        highest = max(highest, value)
        if place == row["position"] - row["start"]:
            at = len(texts)
        if shown or isinstance(token, str):  # else the character ends at a later token
            texts.append(shown)
            values.append(highest)
            highest = 0.0
    return Excerpt(tuple(texts), tuple(values), at)
