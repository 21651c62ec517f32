"""A study's calibrated table and verdict for any two feature matrices, without models.

All is done as in a study (`pairs`, `null`, `beyond`, `homologs`, `intervals`, `verdict`), with a
matrix in the place of all layers of a model.  What a study knows of its text, the user says here:
which rows belong together, and what else could explain that two features fire alike.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np
import polars as pl
import scipy.sparse

from homolog.matching.columns import ArrayLike, Columns, as_matrix, one_hot, prepare
from homolog.matching.given_rows import (
    Documents,
    documents_of,
    require_names,
    require_rows,
    require_side,
    tokens_of,
)
from homolog.matching.homologs import Baseline, Criterion, classify
from homolog.matching.layers import CANDIDATES, LayerFacts, tables_of
from homolog.matching.match_settings import MatchSettings
from homolog.matching.matched_features import MatchedFeatures
from homolog.matching.matrix_matches import MatrixMatches, with_intervals
from homolog.matching.null import POOL_DRAWS, document_exchanges, least_p
from homolog.matching.pairs import match_pair
from homolog.matching.verdict import resampled_shares, verdicts
from homolog.record.comparisons import MAIN, TOKENS
from homolog.record.recipe import Matching
from homolog.record.sides import CURRENT_TOKEN, MAIN_LABEL

KIND = "matrix"
"""Kind of the features in the table."""
EXCHANGES = int(Matching.model_fields["null_exchanges"].default)
"""Exchanges of the null, at least, where there are documents for them."""
FEW = 0.05
"""Share of a side's features that may have to match, lest none can be significant, unsaid."""
MORE = "give more documents or features, or ask for more exchanges"
RESERVED = (MAIN.name, TOKENS.name, CURRENT_TOKEN.name)
"""Names that the table has already."""


@dataclass(frozen=True, eq=False)
class StandIn:
    """A control that takes the place of one side, and is met by the features of the other alone.

    matrix: (rows, features).  of: the name of the side; None: it may stand for either.  A rotated
    dictionary of b is one of b: features of b themselves would match it well, for it is made of
    what b has learned.
    """

    matrix: Any
    of: str | None = None

    def baseline(self, name: str) -> Baseline:
        """What it is to the criterion."""
        place = None if self.of is None else {self.of: (name, MAIN_LABEL)}
        return Baseline(name, name, place)


def match(
    a: ArrayLike,
    b: ArrayLike,
    *,
    documents: ArrayLike | Sequence[int] | None = None,
    controls: Mapping[str, ArrayLike | StandIn] | None = None,
    tokens: ArrayLike | Sequence[int] | None = None,
    names: tuple[str, str] = ("a", "b"),
    **settings: Any,
) -> MatrixMatches:
    """The best partner of every feature of `a` in `b` and the reverse, and which are homologs.

    a, b: (rows, features_a), (rows, features_b); scipy.sparse matrices, numpy arrays or torch
    tensors, sparse or dense, of any real dtype, in any mix.  Row t of both must be the same token,
    image, stimulus or whatever was shown to both.
    documents: (rows,) integers, the document (image, session, subject) of each row, or the first
    row of each document, ascending from 0.  Rows of one document are not independent: the null
    exchanges whole documents, and intervals resample them.  None: blocks of consecutive rows, which
    the result says.
    controls: by name, matrices over the same rows that cannot have learned the same, such as the
    features of an untrained model; each is met by the features of both sides, a `StandIn` by those
    of one.
    tokens: (rows,) integers, the token, stimulus or condition of each row; what it alone explains
    of a feature is a control.
    names: of the two sides, for tables and words.
    settings: of `MatchSettings`, by name, as fdr=0.01, seed=0, device="cuda".

    Returns `MatrixMatches`.  Features that are constant have r NaN and best_feature -1.
    Raises InputError for matrices that are not two-dimensional, have no features, other numbers of
    rows, or NaN or infinity; for fewer than two documents; for unknown settings and names taken
    twice.
    """
    chosen = MatchSettings.parse(settings, "match")
    stand_ins = {
        name: control if isinstance(control, StandIn) else StandIn(control)
        for name, control in require_names(names, controls, RESERVED).items()
    }
    for name, stand_in in stand_ins.items():
        require_side(stand_in.of, names, name)
    given = {names[0]: a, names[1]: b} | {name: each.matrix for name, each in stand_ins.items()}
    matrices = {name: as_matrix(matrix, name) for name, matrix in given.items()}
    n_rows = require_rows(matrices)
    rows = documents_of(documents, n_rows)
    token = None if tokens is None else tokens_of(tokens, n_rows)
    features = {name: _Features.of(matrix, name) for name, matrix in matrices.items()}
    matching = _Matching(names, features, stand_ins, rows, token, chosen)
    return matching.result()


@dataclass(frozen=True, eq=False)
class _Features:
    """A matrix prepared, and what tables say of it."""

    facts: LayerFacts
    columns: Columns

    @classmethod
    def of(cls, matrix: Any, name: str) -> _Features:
        if scipy.sparse.issparse(matrix):
            matrix = scipy.sparse.csr_array(matrix)
            if not matrix.has_canonical_format:
                matrix = matrix.copy()
                matrix.sum_duplicates()
        n_active = np.asarray((matrix != 0).sum(axis=0), dtype=np.int64).reshape(-1)
        facts = LayerFacts(KIND, name, MAIN_LABEL, 0, matrix.shape[0], n_active)
        return cls(facts, prepare(matrix, name))


@dataclass(frozen=True, eq=False)
class _Matching:
    """Both sides and all controls, on the same rows."""

    names: tuple[str, str]
    features: Mapping[str, _Features]
    controls: Mapping[str, StandIn]
    rows: Documents
    token: np.ndarray | None
    settings: MatchSettings

    @cached_property
    def n_exchanges(self) -> int:
        """As many as were asked for, or as the null needs; a document meets another in each."""
        asked = self.settings.null_exchanges
        if asked is None:
            fewest = min(self._n_defined(side) for side in self.names) or POOL_DRAWS
            asked = max(EXCHANGES, math.ceil(POOL_DRAWS / fewest))
        return min(asked, self.rows.n_documents - 1)

    def _n_defined(self, side: str) -> int:
        """Features of a side that are not constant."""
        return len(self.features[side].columns.order)

    def _least_called(self, side: str) -> int:
        """How many features of a side have to match, at least, lest none can be significant.

        By Benjamini and Hochberg, k of m features of the least p are when p m / k <= fdr.
        """
        n_defined = self._n_defined(side)
        draws = min(n_defined * self.n_exchanges, POOL_DRAWS)
        return math.ceil(least_p(draws) * n_defined / self.settings.fdr)

    @cached_property
    def criterion(self) -> Criterion:
        baselines = [control.baseline(name) for name, control in self.controls.items()]
        if self.token is not None:
            baselines.append(Baseline(TOKENS.name, TOKENS.in_sentence(), by_token=True))
        return Criterion.of(MAIN.name, baselines, self.settings)

    def result(self) -> MatrixMatches:
        criterion, chosen = self.criterion, self.settings
        known = MatchedFeatures(self.rows.document, self.token, self._layers, self._columns)
        main = self._main()
        main = main.with_columns(known.together(main, threads=chosen.threads))
        matches = pl.concat([main, *self._controls(), *self._tokens()], how="diagonal")
        beyond = known.beyond(matches, criterion, threads=chosen.threads)
        table = classify(matches, criterion, beyond)
        main = table.filter(comparison=MAIN.name)
        replicates = known.replicates(main, chosen.resamples, chosen.seed)
        shared = verdicts(
            table,
            None,
            criterion,
            ceiling=None,
            unfit=self._one_sided(),
            withheld=self.withheld,
            resampled=resampled_shares(table, criterion.result, replicates),
        )
        return MatrixMatches(
            matches=with_intervals(table, replicates),
            verdicts=shared,
            names=self.names,
            n_rows=len(self.rows.document),
            documents=self.rows.words,
            notes=tuple(self._notes()),
            settings=chosen.values(),
            criterion=criterion,
            beyond=beyond,
        )

    def _main(self) -> pl.DataFrame:
        """The sides against each other; no threshold where the null is too coarse for one."""
        n, seed = self.n_exchanges, self.settings.seed
        exchanges = document_exchanges(self.rows.document, n, seed) if n else ()
        table = self._compared(MAIN.name, *self.names, CANDIDATES, exchanges)
        coarse = pl.col("model").is_in(list(self.withheld))
        return table.with_columns(threshold=pl.when(~coarse).then("threshold").otherwise(np.nan))

    def _draws(self, side: str) -> str:
        return f"the null of {side} has {self._n_defined(side) * self.n_exchanges} draws"

    @cached_property
    def withheld(self) -> dict[str, str]:
        """Why there is no verdict on a side, though it was matched.

        Its null may be too coarse to show what `fdr` asks, even where all of its features match.
        """
        reasons = {}
        for side, other in (self.names, self.names[::-1]):
            if not self._n_defined(other):
                reasons[side] = f"no feature of {other} varies"
            elif self.n_exchanges and self._least_called(side) > self._n_defined(side):
                few = f"too few for an fdr of {self.settings.fdr:g}"
                reasons[side] = f"{self._draws(side)}, {few}: {MORE}"
        return reasons

    def _controls(self) -> list[pl.DataFrame]:
        """Both sides against each control, but not a side against its own stand-in."""
        return [
            self._compared(name, side, name).filter(model=side)
            for name, control in self.controls.items()
            for side in self.names
            if side != control.of
        ]

    def _tokens(self) -> list[pl.DataFrame]:
        """Both sides against the current token, one feature for each that there is."""
        if self.token is None:
            return []
        ids, number = np.unique(self.token, return_inverse=True)
        current = _Features.of(one_hot(number, len(ids)), CURRENT_TOKEN.name)
        against = replace(self, features=dict(self.features) | {CURRENT_TOKEN.name: current})
        tables = [against._compared(TOKENS.name, side, CURRENT_TOKEN.name) for side in self.names]
        return [
            _with_ids(table.filter(model=side), ids)
            for side, table in zip(self.names, tables, strict=True)
        ]

    def _compared(
        self, comparison: str, side: str, other: str, k: int = 2, exchanges: Any = ()
    ) -> pl.DataFrame:
        """Matches of a side and another matrix, both directions; k: partners of each feature."""
        own, partner, chosen = self.features[side], self.features[other], self.settings
        pair = match_pair(
            own.columns,
            partner.columns,
            k,
            exchanges=exchanges,
            threads=chosen.threads,
            device=chosen.device,
        )
        sides = [own.facts], [partner.facts], [[pair]]
        return tables_of(*sides, comparison=comparison, fdr=chosen.fdr).matches

    def _layers(self, name: str, label: str) -> list[LayerFacts]:
        return [self.features[name].facts]

    def _columns(self, facts: LayerFacts) -> Columns:
        return self.features[facts.model].columns

    def _one_sided(self) -> dict[tuple[str, str], str]:
        """Why a control is not used where another side is replaced."""
        return {
            (name, side): f"{name}, which takes the place of {control.of} alone"
            for name, control in self.controls.items()
            for side in self.names
            if control.of not in (None, side)
        }

    def _notes(self) -> list[str]:
        notes = [self.rows.caution] if self.rows.caution else []
        asked = self.settings.null_exchanges or EXCHANGES
        if 0 < self.n_exchanges < asked:
            notes.append(f"the null has {self.n_exchanges} of {asked} exchanges: few documents")
        for side in self.names if self.n_exchanges else ():
            least, n_defined = self._least_called(side), self._n_defined(side)
            if max(1, FEW * n_defined) < least <= n_defined:
                alone = f"fewer than {least} of its {n_defined} features cannot be significant"
                notes.append(f"{self._draws(side)}, so that {alone}: {MORE}")
        if not self.criterion.baselines:
            notes.append(
                "nothing was given as a control, so that what both sides have from the rows alone "
                "(the current token, the stimulus) counts as shared"
            )
        return notes


def _with_ids(table: pl.DataFrame, ids: np.ndarray) -> pl.DataFrame:
    """Partners by their number among the distinct tokens, as tokens."""
    for name in ("best_feature", "runner_up_feature"):
        number = table[name].to_numpy()
        known = np.where(number >= 0, ids[number], number).astype(np.int32)
        table = table.with_columns(pl.Series(name, known))
    return table
