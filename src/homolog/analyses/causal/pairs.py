"""Which pairs of features are tested causally, and at which tokens.

Each matched pair (i, j) has a control: the same i, with a feature of j's layer that fires as often
as j (within a factor of two where there is one) and together with i, but does not correlate with it
(r < 0.2).  It says what agreement there is without a match.  Where blocks follow both features it
has up to `CONTROLS`, drawn alike, and those beyond the first are ablated alone: agreement on later
tokens is so much nearer to that of controls that it hangs on which one is drawn, and pairs with
later effects are few.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import polars as pl
from scipy.sparse import csc_array, csr_array

from homolog.analyses.stream import Entries, Matrices, entries_of, shape_of
from homolog.dictionaries.seeds import generator
from homolog.errors import InputError
from homolog.matching.homologs import LEAST_R
from homolog.matching.intervals import HIGH_MATCH
from homolog.record.comparisons import MAIN
from homolog.record.tables import CAUSAL

CONTROLS = 5
POSITIONS = 8
LEAST_POSITIONS = 3
_KINDS = ("ablate", "steer")
PAIRS_SCHEMA = CAUSAL.only(*(name for name in CAUSAL.columns if not name.startswith(_KINDS)))
PROBES_SCHEMA = {
    "pair": pl.Int32,
    "control": pl.Int32,
    "kind": pl.String,
    "row": pl.Int64,
    "amount": pl.Float32,
    "best_amount": pl.Float32,
}
Rows = list[dict[str, Any]]


def choose_pairs(
    matches: pl.DataFrame,
    model: str,
    best_model: str,
    matrices: tuple[Matrices, Matrices],
    *,
    ends: tuple[int, int] | None = None,
    n_pairs: int = 100,
    positions: int = POSITIONS,
    seed: int = 0,
) -> tuple[pl.DataFrame, pl.DataFrame]:
    """Matched pairs with controls (`PAIRS_SCHEMA`), and where to intervene (`PROBES_SCHEMA`).

    matches: of a run. matrices: of both models. ends: the last block of each, after which nothing
    is left to change; by default the last one with matches. Drawn are features of `model` with a
    homolog in `best_model` that fires with it on `LEAST_POSITIONS` tokens: half of `n_pairs` from
    those with r > 0.7, the rest from the others, each at random, but no partner again before all
    have come as often; fewer where there are fewer. Controls have the number of their pair; there
    are fewer than `CONTROLS`, or none, where fewer features qualify.
    Probes: up to `positions` for ablation, half as many for steering.  Of the tokens where both
    fire, those half with the higher activations (the smaller of the two, each relative to its mean)
    are drawn from.  row: of the features; amount, best_amount: what is added along the direction in
    the model of the feature, of its partner.
    """
    random = generator(seed, "causal", model, best_model)
    main = matches.filter(comparison=MAIN.name, model=model, best_model=best_model)
    chosen = _draw(_homologs(main, model, best_model), n_pairs, random)
    last, best_last = ends or (main["layer"].max(), main["best_layer"].max())
    (matrix_of, best_matrix_of), number, pairs, probes = matrices, 0, [], []
    for (layer, best_layer), group in chosen.group_by("layer", "best_layer", maintain_order=True):
        own = _Columns(matrix_of(int(layer)), group["feature"].to_numpy())  # type: ignore[arg-type]
        partners = _PartnerLayer(best_matrix_of(int(best_layer)))  # type: ignore[arg-type]
        wanted = 1 if layer == last or best_layer == best_last else CONTROLS
        for place, match in enumerate(group.iter_rows(named=True)):
            x = own.column(place)
            controls = partners.controls(x, match["best_feature"], positions, random)[:wanted]
            of_match = _with_controls(x, partners, match, controls, positions, random)
            for pair, sites in of_match:
                pairs.append(pair | {"pair": number})
                key = {"pair": number, "control": pair["control"]}
                probes += [
                    site | key for site in sites if key["control"] <= 1 or site["kind"] == "ablate"
                ]
            number += bool(of_match)
    return pl.DataFrame(pairs, schema=PAIRS_SCHEMA), pl.DataFrame(probes, schema=PROBES_SCHEMA)


def _homologs(main: pl.DataFrame, model: str, best_model: str) -> pl.DataFrame:
    if main.is_empty() or main["homolog"].is_null().all():
        requirement = "pairs are drawn from features classified as homologs"
        remedy = "Run the study with its null and controls."
        raise InputError("matches", f"{model} with {best_model}", requirement, remedy)
    return main.filter("homolog")


def _draw(homologs: pl.DataFrame, n: int, random: np.random.Generator) -> pl.DataFrame:
    """About half of `n` from the high matches, as far as there are, by layers and feature."""
    high = homologs["r"].to_numpy() > HIGH_MATCH
    order = [_by_turns(homologs, np.flatnonzero(group), random) for group in (high, ~high)]
    n_high = min(len(order[0]), max(n - n // 2, n - len(order[1])))
    drawn = np.concatenate([order[0][:n_high], order[1][: n - n_high]])
    return homologs[drawn].sort("layer", "best_layer", "feature")


def _by_turns(homologs: pl.DataFrame, rows: np.ndarray, random: np.random.Generator) -> np.ndarray:
    """Rows at random, the first of every partner before the second of any."""
    order = random.permutation(rows)
    turn = pl.int_range(pl.len()).over("best_layer", "best_feature")
    return order[np.argsort(homologs[order].select(turn).to_series().to_numpy(), kind="stable")]


class _Columns:
    """Single columns of a layer, of which few are wanted."""

    def __init__(self, matrix: csr_array, features: np.ndarray) -> None:
        self.n_tokens, _ = shape_of(matrix)
        self.columns: csc_array = matrix[:, features].tocsc()

    def column(self, place: int) -> Entries:
        rows, values = entries_of(self.columns, place)
        return Entries(rows, values.astype(np.float64))


class _PartnerLayer(_Columns):
    """All columns of a layer of the partner's model, to find controls among."""

    def __init__(self, matrix: csr_array) -> None:
        n, width = shape_of(matrix)
        super().__init__(matrix, np.arange(width))
        self.matrix, self.n_active = matrix, np.diff(self.columns.indptr)
        self.mean = matrix.sum(axis=0, dtype=np.float64) / n
        squares = matrix.data.astype(np.float64) ** 2
        square = csr_array((squares, matrix.indices, matrix.indptr), shape=matrix.shape)
        self.sd = np.sqrt(np.maximum(square.sum(axis=0) / n - self.mean**2, 0))

    def controls(
        self, x: Entries, partner: int, positions: int, random: np.random.Generator
    ) -> list[tuple[int, float]]:
        """(feature, r with x) of some that fire as often as `partner` and with x, but r < 0.2.

        Up to `CONTROLS`, in random order, that fire with x on `positions` tokens and are within a
        factor of two of the frequency, if any; else the nearest that fires with x at all.
        """
        n, together = self.n_tokens, self.matrix[x.rows]
        n_both = np.bincount(together.indices, minlength=len(self.mean))
        mean = x.values.sum() / n
        sd = np.sqrt((x.values**2).sum() / n - mean**2)
        with np.errstate(invalid="ignore", divide="ignore"):
            r = (together.T @ x.values / n - mean * self.mean) / (sd * self.sd)
        others = np.flatnonzero((n_both >= LEAST_POSITIONS) & (r < LEAST_R))
        others = others[others != partner]
        if not len(others):
            return []
        apart = np.abs(np.log2(self.n_active[others] / self.n_active[partner]))
        near = others[(apart <= 1) & (n_both[others] >= positions)]
        drawn = random.permutation(near)[:CONTROLS] if len(near) else others[[np.argmin(apart)]]
        return [(int(feature), float(r[feature])) for feature in drawn]


def _with_controls(
    x: Entries,
    partners: _PartnerLayer,
    match: Mapping[str, Any],
    controls: list[tuple[int, float]],
    positions: int,
    random: np.random.Generator,
) -> list[tuple[dict[str, Any], Rows]]:
    """(pair, sites) of a match and of its controls; nothing where the match fires too rarely."""
    tested = [(match["best_feature"], match["r"]), *controls]
    columns = [partners.column(j) for j, _ in tested]
    of_all = [_sites(x, y, partners.n_tokens, positions, random) for y in columns]
    if of_all[0][1] < LEAST_POSITIONS:
        return []
    names = ("model", "layer", "feature", "best_model", "best_layer")
    same = {name: match[name] for name in names} | {"n_active": len(x.rows)}
    pairs = []
    for control, ((j, r), y, (sites, n_both)) in enumerate(
        zip(tested, columns, of_all, strict=True)
    ):
        own = {"control": control, "matched": control == 0, "best_feature": j, "r": r}
        counts = {"best_n_active": len(y.rows), "n_both": n_both}
        pairs.append((same | own | counts, sites))
    return pairs


def _sites(
    x: Entries, y: Entries, n_tokens: int, positions: int, random: np.random.Generator
) -> tuple[Rows, int]:
    """Probes of a pair, without its number, and on how many tokens both features fire."""
    rows, in_x, in_y = np.intersect1d(x.rows, y.rows, assume_unique=True, return_indices=True)
    a, b = x.values[in_x], y.values[in_y]
    typical_a, typical_b = x.values.mean(), y.values.mean()
    order = np.argsort(-np.minimum(a / typical_a, b / typical_b), kind="stable")
    strong = order[: max(-(-len(rows) // 2), min(len(rows), positions))]
    both = np.sort(random.permutation(strong)[:positions])
    ablated = [
        {"kind": "ablate", "row": int(rows[t]), "amount": -float(a[t]), "best_amount": -float(b[t])}
        for t in both
    ]
    silent = np.ones(n_tokens, dtype=bool)
    silent[x.rows] = silent[y.rows] = False
    neither = np.flatnonzero(silent)
    n_steered = min(-(-positions // 2), len(neither))
    steered = np.sort(random.choice(neither, n_steered, replace=False))
    amounts = {"amount": float(typical_a), "best_amount": float(typical_b)}
    return ablated + [{"kind": "steer", "row": int(t)} | amounts for t in steered], len(rows)
