"""Which features are rated, across all heights of r, and with which of their texts.

A feature is explained from `SHOWN` of its texts and tested on up to `2 * TESTED` others, half of
them with the feature active at the marked token, half without.  Held-out active texts come from all
quantiles; silent ones are texts of other features of the same layer, in which this one is 0
throughout.

The same explanation is tested on its best partner, in texts of the partner that were not shown: a
match can be said in words where it tells them too.  As a control it is tested on another feature
of the partner's layer, drawn at random.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np
import polars as pl
import scipy.sparse

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


OWN, PARTNER, OTHER = "", "partner_", "other_"
"""Whose texts a test has; begins the names of its columns."""


@dataclass(frozen=True)
class Test:
    """Texts to test an explanation on, and of each whether the feature is active in it."""

    texts: tuple[Excerpt, ...]
    active: tuple[bool, ...]


@dataclass(frozen=True)
class Case:
    """A feature with the texts to explain, and tests of the explanation by whose texts they have.

    rows: of the tokens at which the shown texts are marked.  partner: model, layer and number.
    """

    model: str
    layer: int
    feature: int
    shown: tuple[Excerpt, ...]
    rows: tuple[int, ...]
    tests: Mapping[str, Test]
    partner: tuple[str, int, int] | None = None

    def explain(self) -> Question:
        """What asks for an explanation."""
        highest = max(value for excerpt in self.shown for value in excerpt.values)
        return Question(prompts.explain(self.shown, highest), EXPLANATION_TOKENS)

    def detect(self, explanation: str, whose: str) -> Question:
        """What tests an explanation on some texts."""
        return Question(prompts.detect(explanation, self.tests[whose].texts), DETECTION_TOKENS)


@dataclass(frozen=True)
class LayerTexts:
    """The features of a layer with their examples, and what its token ids stand for."""

    features: SparseFeatures
    contexts: pl.DataFrame
    vocabulary: Sequence[TokenText]

    @classmethod
    def read(cls, material: Material, model: str, layer: int) -> LayerTexts:
        """Those of a run."""
        run = material.run
        contexts = CONTEXTS.read(run.table(CONTEXTS, model, layer))
        vocabulary = run.token_texts(run.text_of(model))
        return cls(material.features(model, layer), contexts, vocabulary)

    @cached_property
    def columns(self) -> scipy.sparse.csc_array:
        """The features by column, tokens ascending."""
        columns = self.features.matrix.tocsc()
        columns.sort_indices()
        return columns

    @cached_property
    def by_feature(self) -> dict[Any, pl.DataFrame]:
        """The examples of each feature."""
        groups = self.contexts.partition_by("feature", as_dict=True, maintain_order=True)
        return {feature: rows for (feature,), rows in groups.items()}

    @cached_property
    def strong(self) -> pl.DataFrame:
        """The first examples of every feature."""
        return self.contexts.filter(pl.col("quantile") == 1.0, pl.col("rank") < 4)

    def test(self, feature: int, held: pl.DataFrame, rng: np.random.Generator) -> Test | None:
        """Texts in which the feature is active and as many in which it is silent, mixed."""
        rows, _ = entries_of(self.columns, feature)
        others = self.strong.filter(pl.col("feature") != feature)
        quiet = _silent(others, rows, len(held), rng)
        if not len(held) or not len(quiet):
            return None
        tested = [(excerpt, True) for excerpt in self.excerpts(held)]
        tested += [(excerpt, False) for excerpt in self.excerpts(quiet)]
        texts, active = zip(*(tested[at] for at in rng.permutation(len(tested))), strict=True)
        return Test(texts, active)

    def excerpts(self, rows: pl.DataFrame) -> tuple[Excerpt, ...]:
        """Examples as texts."""
        return tuple(_excerpt(row, self.vocabulary) for row in rows.iter_rows(named=True))


def chosen_cases(material: Material, n_features: int, seed: int) -> list[Case]:
    """Cases of up to `n_features` of each compared model, drawn alike from all heights of r."""
    main = material.table(MATCHES).filter(comparison=MAIN.name)
    chosen: list[Case] = []
    for model in material.compared:
        own = main.filter(model=model.name).sort("r", descending=True, nulls_last=True)
        own = own.filter(pl.col("r").is_finite())
        best = own.group_by("layer", "feature", maintain_order=True).first()
        spread = _spread(best, n_features, seed)
        for (layer,), part in spread.group_by("layer", maintain_order=True):
            texts = LayerTexts.read(material, model.name, int(layer))  # type: ignore[call-overload]
            columns = part.select("feature", "best_model", "best_layer", "best_feature")
            partners = {feature: tuple(place) for feature, *place in columns.iter_rows()}
            chosen += [
                replace(case, partner=partners[case.feature])
                for case in cases(texts, partners, seed)
            ]
    return _with_partners(material, chosen, seed)


def _with_partners(material: Material, chosen: list[Case], seed: int) -> list[Case]:
    """The cases with tests on their partners; each layer with partners is read once."""
    tested = list(chosen)
    where: dict[tuple[str, int], list[int]] = {}
    for number, case in enumerate(chosen):
        if case.partner is not None:
            where.setdefault(case.partner[:2], []).append(number)
    text_of = material.run.text_of
    for (model, layer), numbers in where.items():
        texts = LayerTexts.read(material, model, layer)
        for number in numbers:
            same = text_of(chosen[number].model) == text_of(model)
            tested[number] = with_partner(chosen[number], texts, seed, same_text=same)
    return tested


def cases(texts: LayerTexts, wanted: Iterable[int], seed: int) -> Iterator[Case]:
    """A case for each wanted feature of a layer with texts enough: half of `SHOWN` + `TESTED`.

    Deterministic: the same seed, layer and feature give the same case.
    """
    for feature in wanted:
        own = texts.by_feature.get(feature)
        if own is None or own.height < (SHOWN + TESTED) // 2:
            continue
        layer = texts.features.layer
        rng = np.random.default_rng([seed, layer, feature])
        shown, held = _split(own, rng)
        if (test := texts.test(feature, held, rng)) is not None:
            rows = tuple(shown["row"].to_list())
            explained = texts.excerpts(shown)
            yield Case(texts.features.name, layer, feature, explained, rows, {OWN: test})


def with_partner(case: Case, texts: LayerTexts, seed: int, *, same_text: bool = True) -> Case:
    """The case with tests on its partner, and on another feature of the partner's layer.

    texts: of that layer.  same_text: of the tokens that the case was explained on, so that texts
    shown for it can be left out.
    """
    assert case.partner is not None
    *_, partner = case.partner
    rng = np.random.default_rng([seed, case.layer, case.feature, *map(ord, PARTNER)])
    with_texts = [feature for feature in texts.by_feature if feature != partner]
    other = int(rng.choice(with_texts)) if with_texts else None
    tests = dict(case.tests)
    for whose, feature in ((PARTNER, partner), (OTHER, other)):
        examples = None if feature is None else texts.by_feature.get(feature)
        if feature is None or examples is None:
            continue
        if same_text:
            examples = examples.filter(~pl.col("row").is_in(case.rows))
        held = examples[np.sort(rng.permutation(examples.height)[:TESTED])]
        if (test := texts.test(feature, held, rng)) is not None:
            tests[whose] = test
    return replace(case, tests=tests)


def _spread(rows: pl.DataFrame, n: int, seed: int) -> pl.DataFrame:
    """About `n` features, alike from all bins of r, in the order of layer and feature."""
    order = np.random.default_rng(seed).permutation(rows.height)
    bins = np.clip(np.digitize(rows["r"].to_numpy()[order], BINS), 1, len(BINS) - 1)
    shuffled = rows[order].with_columns(bin=pl.Series(bins))
    turn = shuffled.with_columns(turn=pl.int_range(pl.len()).over("bin"))
    return turn.sort("turn", "bin").head(n).sort("layer", "feature")


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
