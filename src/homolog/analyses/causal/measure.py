"""Do matched features do the same?  Each is ablated and steered in its own model, and the effects
are compared.

At a position t, with h the residual stream after the block of the feature, d its decoder direction
(row of W_dec):

    ablate   h' = h - a(t) d            where both features of a pair fire; a(t): the feature's activation there
    steer    h' = h + m d               where neither fires; m: its mean activation over its active tokens
    delta(v) = log p'(v | t) - log p(v | t)                                  for every token v of the vocabulary

The rest of h stays, the dictionary's reconstruction error in it, and the later blocks run on h'.
The effect is taken at t itself, on the next token.  Agreement of a pair (i in A, j in B) is the
correlation of delta_A and delta_B,

    r = sum_t cov_w(delta_A, delta_B) / sqrt(sum_t var_w(delta_A)  sum_t var_w(delta_B)),
    w = (p_A + p'_A + p_B + p'_B) / 4

with cov_w and var_w over the vocabulary at one position, around that position's means.  Without
weights the many tokens that no one expects would decide, for they move most in log p and mean
least; w counts a token as far as either model expects it, before or after.  Sums over positions let
a position count as far as something happens there.

What agreement is there without a match?  Each matched pair has a control: the same i, with a
feature of j's layer that fires as often as j (within a factor of two where there is one) and
together with i, but does not correlate with it (r < 0.2).  A matched pair is causally alike when
its agreement is above the 95 % quantile of the controls.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import polars as pl
import torch
from jaxtyping import Float, Int
from scipy.sparse import csc_array, csr_array

from homolog.analyses.meaning.left_context import Matrices, place_of, shape_of
from homolog.corpus import TokenWindows
from homolog.dictionaries import SparseAutoencoder
from homolog.dictionaries.seeds import generator
from homolog.errors import InputError
from homolog.features.capture import FORWARD_TOKENS
from homolog.matching.homologs import HOMOLOG_R
from homolog.matching.intervals import HIGH_MATCH
from homolog.models import LanguageModel, Site
from homolog.models.edits import Transform

POSITIONS = 12
LEAST_POSITIONS = 3
BINS = (0.0, 0.5, 0.7, 0.8, 0.9, 1.0)
CONTROL_QUANTILE = 0.95
KINDS = ("ablate", "steer")

PAIRS_SCHEMA = {
    "pair": pl.Int32,
    "matched": pl.Boolean,
    "model": pl.String,
    "layer": pl.Int32,
    "feature": pl.Int32,
    "best_model": pl.String,
    "best_layer": pl.Int32,
    "best_feature": pl.Int32,
    "r": pl.Float32,
    "n_active": pl.Int64,
    "best_n_active": pl.Int64,
    "n_both": pl.Int64,
}
PROBES_SCHEMA = {
    "pair": pl.Int32,
    "matched": pl.Boolean,
    "kind": pl.String,
    "row": pl.Int64,
    "amount": pl.Float32,
    "best_amount": pl.Float32,
}
MOMENTS = ("var", "best_var", "cov", "kl", "best_kl")
SHARES_SCHEMA = {
    "kind": pl.String,
    **dict.fromkeys(("above_r", "to_r"), pl.Float64),
    "n": pl.Int64,
    **dict.fromkeys(("share", "lo", "hi", "median", "threshold", "control_median"), pl.Float64),
    "n_control": pl.Int64,
}


@dataclass(frozen=True)
class Subject:
    """A model with the decoder directions of its features."""

    model: LanguageModel
    dictionaries: Mapping[int, SparseAutoencoder]


def choose_pairs(
    matches: pl.DataFrame,
    model: str,
    best_model: str,
    matrix_of: Matrices,
    best_matrix_of: Matrices,
    *,
    n_pairs: int = 100,
    positions: int = POSITIONS,
    seed: int = 0,
) -> tuple[pl.DataFrame, pl.DataFrame]:
    """Matched pairs with their controls (`PAIRS_SCHEMA`), and where and by how much to intervene
    (`PROBES_SCHEMA`).

    matches: of a run.  Drawn are features of `model` with a homolog in `best_model` that fires with
    it on `LEAST_POSITIONS` tokens: half of `n_pairs` from those with r > 0.7, the rest from the
    others, each at random; fewer where there are fewer.  A control has the number of its pair, and
    is missing where no feature qualifies.
    Probes: up to `positions` of each kind.  Of the tokens where both fire, those half with the
    higher activations (the smaller of the two, each relative to its mean) are drawn from.  row: of
    the features; amount, best_amount: what is added along the direction in the model of the
    feature, of its partner.
    """
    main = matches.filter(
        (pl.col("comparison") == "main")
        & (pl.col("model") == model)
        & (pl.col("best_model") == best_model)
    )
    if main.is_empty() or main["homolog"].is_null().all():
        raise InputError(
            "matches",
            f"{model} with {best_model}",
            "pairs are drawn from features judged to be homologs",
            "Run the study with its null and controls.",
        )
    random = generator(seed, "causal", model, best_model)
    candidates = main.filter(pl.col("homolog"))
    high = candidates["r"].to_numpy() > HIGH_MATCH
    order = [random.permutation(np.flatnonzero(group)) for group in (high, ~high)]
    n_high = min(len(order[0]), max(n_pairs - n_pairs // 2, n_pairs - len(order[1])))
    taken = np.concatenate([order[0][:n_high], order[1][: n_pairs - n_high]])
    chosen = candidates[taken].sort("layer", "best_layer", "feature")
    pairs, probes = [], []
    for (layer, best_layer), group in chosen.group_by("layer", "best_layer", maintain_order=True):
        own = _Columns(matrix_of(int(layer)), group["feature"].to_numpy())  # type: ignore[arg-type]
        best = _Best(best_matrix_of(int(best_layer)))  # type: ignore[arg-type]
        for place, row in enumerate(group.iter_rows(named=True)):
            x = own.column(place)
            partners = [(True, row["best_feature"], row["r"])]
            if control := best.control(x, row["best_feature"], positions, random):
                partners.append((False, *control))
            found = [
                _probes(x, best.column(j), own.n_tokens, positions, random) for _, j, _ in partners
            ]
            if found[0][1] < LEAST_POSITIONS:
                continue
            number = sum(pair["matched"] for pair in pairs)
            for (matched, j, r), (sites, n_both) in zip(partners, found, strict=True):
                pairs.append(
                    {
                        "pair": number,
                        "matched": matched,
                        "model": model,
                        "layer": layer,
                        "feature": row["feature"],
                        "best_model": best_model,
                        "best_layer": best_layer,
                        "best_feature": j,
                        "r": r,
                        "n_active": len(x.rows),
                        "best_n_active": len(best.column(j).rows),
                        "n_both": n_both,
                    }
                )
                probes += [{"pair": number, "matched": matched, **site} for site in sites]
    return pl.DataFrame(pairs, schema=PAIRS_SCHEMA), pl.DataFrame(probes, schema=PROBES_SCHEMA)


@dataclass(frozen=True)
class _Fires:
    """Where a feature is active, ascending, and its values there."""

    rows: np.ndarray
    values: np.ndarray


class _Columns:
    """Single columns of a layer, of which few are wanted."""

    def __init__(self, matrix: csr_array, features: np.ndarray) -> None:
        self.n_tokens, _ = shape_of(matrix)
        self.columns: csc_array = matrix[:, features].tocsc()

    def column(self, place: int) -> _Fires:
        here = slice(self.columns.indptr[place], self.columns.indptr[place + 1])
        return _Fires(self.columns.indices[here], self.columns.data[here].astype(np.float64))


class _Best:
    """All columns of a layer of the partner's model."""

    def __init__(self, matrix: csr_array) -> None:
        n, width = shape_of(matrix)
        self.matrix, self.all = matrix, _Columns(matrix, np.arange(width))
        self.n_active = np.diff(self.all.columns.indptr)
        self.mean = matrix.sum(axis=0, dtype=np.float64) / n
        square = csr_array(
            (matrix.data.astype(np.float64) ** 2, matrix.indices, matrix.indptr), shape=matrix.shape
        )
        self.sd = np.sqrt(np.maximum(square.sum(axis=0) / n - self.mean**2, 0))

    def column(self, feature: int) -> _Fires:
        return self.all.column(feature)

    def control(
        self, x: _Fires, partner: int, positions: int, random: np.random.Generator
    ) -> tuple[int, float] | None:
        """(feature, r with x) of one that fires as often as `partner` and together with x, but with
        r < 0.2.

        On `positions` tokens together and within a factor of two of the frequency, if there is one;
        else it is the nearest in frequency among those that fire together with x at all.
        """
        (n, width), together = shape_of(self.matrix), self.matrix[x.rows]
        n_both = np.bincount(together.indices, minlength=width)
        mean = x.values.sum() / n
        sd = np.sqrt((x.values**2).sum() / n - mean**2)
        with np.errstate(invalid="ignore", divide="ignore"):
            r = (together.T @ x.values / n - mean * self.mean) / (sd * self.sd)
        found = np.flatnonzero((n_both >= LEAST_POSITIONS) & (r < HOMOLOG_R))
        found = found[found != partner]
        if not len(found):
            return None
        apart = np.abs(np.log2(self.n_active[found] / self.n_active[partner]))
        near = (apart <= 1) & (n_both[found] >= positions)
        feature = int(random.choice(found[near] if near.any() else found[[np.argmin(apart)]]))
        return feature, float(r[feature])


def _probes(
    x: _Fires, y: _Fires, n_tokens: int, positions: int, random: np.random.Generator
) -> tuple[list[dict[str, object]], int]:
    """Sites of a pair, as far as a row of `PROBES_SCHEMA` has them, and on how many tokens both
    fire.
    """
    rows, in_x, in_y = np.intersect1d(x.rows, y.rows, assume_unique=True, return_indices=True)
    a, b = x.values[in_x], y.values[in_y]
    typical_a, typical_b = x.values.mean(), y.values.mean()
    order = np.argsort(-np.minimum(a / typical_a, b / typical_b), kind="stable")
    strong = order[: max(-(-len(rows) // 2), min(len(rows), positions))]
    both = np.sort(random.permutation(strong)[:positions])
    sites: list[dict[str, object]] = [
        {"kind": "ablate", "row": int(rows[t]), "amount": -float(a[t]), "best_amount": -float(b[t])}
        for t in both
    ]
    silent = np.ones(n_tokens, dtype=bool)
    silent[x.rows] = silent[y.rows] = False
    neither = np.flatnonzero(silent)
    steered = np.sort(random.choice(neither, min(positions, len(neither)), replace=False))
    amounts = {"amount": float(typical_a), "best_amount": float(typical_b)}
    return sites + [{"kind": "steer", "row": int(t), **amounts} for t in steered], len(rows)


def measure_effects(
    pairs: pl.DataFrame,
    probes: pl.DataFrame,
    windows: TokenWindows,
    a: Subject,
    b: Subject,
    *,
    advance: Callable[[int], None] | None = None,
) -> pl.DataFrame:
    """`probes` with the moments of both effects at each: var, best_var, cov (nats^2), kl, best_kl
    (nats), Float64.

    a: the model of the features, b: that of their partners.  kl: sum_v p log(p / p'), the size of
    the effect. Of each model every window with a probe is run once, and its blocks after the
    feature's once for each probe.
    advance: called with probes done.
    """
    sites = probes.join(
        pairs, on=["pair", "matched"], how="left", maintain_order="left", validate="m:1"
    )
    window, position = place_of(windows, sites["row"].to_numpy())
    found = np.full((len(sites), len(MOMENTS)), np.nan)
    for here in _by_windows(window, max(1, FORWARD_TOKENS // windows.context)):
        part = sites[here]
        at = window[here], position[here]
        mine = _log_probabilities(
            a, windows, *at, *(part[name].to_numpy() for name in ("layer", "feature", "amount"))
        )
        names = ("best_layer", "best_feature", "best_amount")
        theirs = _log_probabilities(b, windows, *at, *(part[name].to_numpy() for name in names))
        found[here] = _moments(*mine, *theirs).numpy()
        if advance is not None:
            advance(len(here))
    return probes.with_columns(pl.Series(name, found[:, k]) for k, name in enumerate(MOMENTS))


def _by_windows(window: np.ndarray, at_once: int) -> list[np.ndarray]:
    """The probes in groups that lie in at most `at_once` windows."""
    rank = np.unique(window, return_inverse=True)[1] // at_once
    return [
        np.flatnonzero(rank == group) for group in range(int(rank.max()) + 1 if len(rank) else 0)
    ]


@torch.inference_mode()
def _log_probabilities(
    subject: Subject,
    windows: TokenWindows,
    window: np.ndarray,
    position: np.ndarray,
    layer: np.ndarray,
    feature: np.ndarray,
    amount: np.ndarray,
) -> tuple[Float[torch.Tensor, "probe vocabulary"], Float[torch.Tensor, "probe vocabulary"]]:
    """log p and log p' of the next token at each probe, float32."""
    model, last = subject.model, subject.model.n_layers - 1
    names, number = np.unique(window, return_inverse=True)
    tokens = torch.from_numpy(windows.tokens[names]).long()
    sites = {int(at): Site("resid", int(at)) for at in {*layer, last}}
    run = model.run(tokens, capture=list(sites.values()), stop_after=sites[last])
    at = torch.from_numpy(position).to(model.device)
    clean = model.logits(run[sites[last]][torch.from_numpy(number), at][:, None])[:, 0].log_softmax(
        -1
    )
    changed = torch.empty_like(clean)
    for one in np.unique(layer):
        directions = subject.dictionaries[int(one)].W_dec.to(model.device)
        mine = np.flatnonzero(layer == one)
        mine = mine[
            np.argsort(position[mine], kind="stable")
        ]  # blocks need not run past the last position of a batch
        for batch in np.split(
            mine, range(n := max(1, FORWARD_TOKENS // windows.context), len(mine), n)
        ):
            here = at[batch]
            h = run[sites[int(one)]][torch.from_numpy(number[batch]), : int(here.max()) + 1].clone()
            step = directions[torch.from_numpy(feature[batch]).long()]
            step = step * torch.from_numpy(amount[batch]).to(step)[:, None]
            h[torch.arange(len(batch)), here] += step.to(h.dtype)
            changed[torch.from_numpy(batch)] = _logits_at(model, int(one), h, here).log_softmax(-1)
    return clean, changed


def _logits_at(
    model: LanguageModel, layer: int, h: torch.Tensor, position: torch.Tensor
) -> torch.Tensor:
    """Logits (batch, vocabulary) at one position of each prompt, h being the residual stream after
    the block `layer`.

    The position is put last before the unembedding, so that no other is unembedded.
    """

    def to_the_end(value: torch.Tensor) -> torch.Tensor:
        value = value.clone()
        value[:, -1] = value[torch.arange(len(value)), position]
        return value

    if layer == model.n_layers - 1:
        return model.logits(to_the_end(h)[:, -1:])[:, 0]
    moved = Transform(Site("resid", model.n_layers - 1), function=to_the_end)
    return model.continue_from(layer, h, edits=[moved], last_only=True)[:, 0]


def _moments(clean_a, changed_a, clean_b, changed_b) -> torch.Tensor:
    """(probes, `MOMENTS`), float64, on the CPU."""
    logs = [t.double().cpu() for t in (clean_a, changed_a, clean_b, changed_b)]
    p = [t.exp() for t in logs]
    weight = sum(p) / 4
    x, y = logs[1] - logs[0], logs[3] - logs[2]
    kl = [-(p[0] * x).sum(-1), -(p[2] * y).sum(-1)]
    x, y = (t - (weight * t).sum(-1, keepdim=True) for t in (x, y))
    return torch.stack(
        [(weight * x * x).sum(-1), (weight * y * y).sum(-1), (weight * x * y).sum(-1), *kl], dim=-1
    )


def agreement(
    pairs: pl.DataFrame, effects: pl.DataFrame, *, n_replicates: int = 1000, seed: int = 0
) -> pl.DataFrame:
    """`pairs` with KIND_r, KIND_lo, KIND_hi (Float64), KIND_n (Int64), KIND_kl, KIND_best_kl for
    ablate and steer.

    r: the agreement, NaN where an effect is nil or there are no positions.  lo, hi: 95 % interval
    from the pair's positions resampled (percentile bootstrap), NaN for fewer than
    `LEAST_POSITIONS`.  kl: mean effect in nats.
    """
    random, rows = generator(seed, "agreement"), []
    by_pair = effects.partition_by("pair", "matched", "kind", as_dict=True)
    for pair, matched in pairs.select("pair", "matched").iter_rows():
        row: dict[str, float | int] = {}
        for kind in KINDS:
            own = by_pair.get((pair, matched, kind), effects.clear())
            moments = own.select("var", "best_var", "cov").to_numpy()
            n = len(moments)
            lo = hi = np.nan
            if n >= LEAST_POSITIONS:
                drawn = random.integers(n, size=(n_replicates, n))
                lo, hi = np.quantile(_correlation(moments[drawn].sum(axis=1)), [0.025, 0.975])
            row |= {
                f"{kind}_r": float(_correlation(moments.sum(axis=0)[None])[0]),
                f"{kind}_lo": float(lo),
                f"{kind}_hi": float(hi),
                f"{kind}_n": n,
            }
            row |= {
                f"{kind}_{name}": float(np.mean(own[name].to_numpy())) if n else np.nan
                for name in MOMENTS[3:]
            }
        rows.append(row)
    names = ("r", "lo", "hi", "n", *MOMENTS[3:])
    schema = {
        f"{kind}_{name}": pl.Int64 if name == "n" else pl.Float64
        for kind in KINDS
        for name in names
    }
    return pl.concat([pairs, pl.DataFrame(rows, schema=schema)], how="horizontal")


def _correlation(sums: np.ndarray) -> np.ndarray:
    """r of rows (var, best_var, cov); NaN where a variance is 0."""
    with np.errstate(invalid="ignore", divide="ignore"):
        return sums[:, 2] / np.sqrt(sums[:, 0] * sums[:, 1])


def causal_shares(
    agreements: pl.DataFrame, *, n_replicates: int = 1000, seed: int = 0
) -> pl.DataFrame:
    """The share of matched pairs that are causally alike (`SHARES_SCHEMA`), by kind and range of
    their MPPC.

    The first row of a kind, r above 0.7 up to 1, is the study's number: that of "ablate".
    threshold: the agreement that 95 % of the controls stay below.  lo, hi: 95 % interval; pairs are
    resampled with their controls, and the threshold is taken anew in each resample; NaN for fewer
    than two pairs.  Pairs whose agreement is NaN are left out.
    """
    rows = []
    ranges = [(HIGH_MATCH, 1.0), *pairwise(BINS)]
    for kind in KINDS:
        table = agreements.filter(pl.col("matched")).join(
            agreements.filter(~pl.col("matched")).select("pair", control=f"{kind}_r"),
            on="pair",
            how="left",
        )
        value, r = table[f"{kind}_r"].to_numpy(), table["r"].to_numpy().astype(np.float64)
        control = table["control"].fill_null(np.nan).to_numpy()
        drawn = generator(seed, "causal share", kind).integers(
            max(len(table), 1), size=(n_replicates, len(table))
        )
        for low, high in ranges:
            inside = (r > low) & (r <= high) & ~np.isnan(value)
            share, threshold = _share(value, inside, control)
            replicates = np.array([_share(value[d], inside[d], control[d])[0] for d in drawn])
            replicates = replicates[~np.isnan(replicates)]
            several = inside.sum() > 1 and len(replicates)  # one pair resampled is always itself
            lo, hi = np.quantile(replicates, [0.025, 0.975]) if several else (np.nan, np.nan)
            rows.append(
                {
                    "kind": kind,
                    "above_r": low,
                    "to_r": high,
                    "n": int(inside.sum()),
                    "share": share,
                    "lo": float(lo),
                    "hi": float(hi),
                    "median": _median(value[inside]),
                    "threshold": threshold,
                    "control_median": _median(control),
                    "n_control": int((~np.isnan(control)).sum()),
                }
            )
    return pl.DataFrame(rows, schema=SHARES_SCHEMA)


def causal_words(shares: pl.DataFrame) -> list[dict[str, str]]:
    """For each ordered pair of models (model, best_model, words): how many of the closest matches
    are causally alike.

    shares: `SHARES_SCHEMA` with model and best_model.
    """
    rows = shares.filter(
        pl.col("kind") == "ablate", pl.col("above_r") == HIGH_MATCH, pl.col("to_r") == 1.0
    )
    rows = rows.unique(["model", "best_model"], keep="first", maintain_order=True).filter(
        pl.col("n") > 0
    )
    found = []
    for row in rows.iter_rows(named=True):
        interval = "" if np.isnan(row["lo"]) else f" ({100 * row['lo']:.0f} to {row['hi']:.0%})"
        words = (
            f"{row['share']:.0%}{interval} of {row['n']} features of {row['model']} "
            f"with a partner in {row['best_model']} above r = {HIGH_MATCH} are causally alike: "
            "median agreement of "
            f"their effects {row['median']:.2f}, of pairs that do not match "
            f"{row['control_median']:.2f}."
        )
        found.append({"model": row["model"], "best_model": row["best_model"], "words": words})
    return found


def _share(value: np.ndarray, inside: np.ndarray, control: np.ndarray) -> tuple[float, float]:
    known = control[~np.isnan(control)]
    if not len(known) or not inside.any():
        return np.nan, float(np.quantile(known, CONTROL_QUANTILE)) if len(known) else np.nan
    threshold = float(np.quantile(known, CONTROL_QUANTILE))
    return float((value[inside] > threshold).mean()), threshold


def _median(values: Sequence[float] | Int[np.ndarray, " n"] | Float[np.ndarray, " n"]) -> float:
    known = np.asarray(values, dtype=np.float64)
    known = known[~np.isnan(known)]
    return float(np.median(known)) if len(known) else np.nan
